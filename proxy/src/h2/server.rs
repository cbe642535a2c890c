//! The server: requests off one connection, each to the handler in a task that has no other meanwhile.
//!
//! The connection's task only moves frames, watches the peer and begins the end: drain (GOAWAY,
//! what runs may finish), silence, idleness, a peer that keeps taking requests back. The stream's
//! task judges the head, runs the handler until it answers or the client takes the request back
//! (then the handler is dropped), and writes the answer. Dropping the future of [`serve`] ends
//! the connection and with it every stream.

use super::decode::{Peer, request_from_h2};
use super::encode::response_to_h2;
use super::outgoing::{Outgoing, OutgoingError};
use super::resets::Resets;
use super::settings::Settings;
use super::tasks::{Closing, Place, Tasks};
use super::watch::{Metered, Verdict, Watch};
use crate::h1::Handler;
use crate::http::{Body, H2Body, Known, Method, Request, Response, StatusCode};
use crate::stream::Stream;
use ::h2::server::SendResponse;
use ::h2::{Reason as Code, RecvStream};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue};
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use weft_model::reason::Reason;
use weft_runtime::drain;

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// By the client, or by the drain after its streams were done.
    Closed,
    /// The drain's deadline came first.
    Forced,
    /// The client did not begin with a valid preface in time.
    Handshake,
    /// The client did not answer a PING.
    Silent,
    /// The client broke the protocol or a limit, or the connection broke.
    Failed,
}

/// What the streams of a connection share.
struct Shared<H> {
    handler: Rc<H>,
    peer: Rc<Peer>,
    resets: Resets,
    tasks: Tasks<Asked>,
}

/// A request to be answered.
struct Asked {
    judged: Result<Judged, Reason>,
    to_head: bool,
    respond: SendResponse<Bytes>,
}

/// Serves a connection to its end. Must run on a thread that takes local tasks.
pub async fn serve<H: Handler + 'static>(
    stream: Stream,
    handler: Rc<H>,
    settings: &Settings,
    drain: &drain::Watch,
) -> Ended {
    let (stream, meter) = Metered::new(stream);
    let handshake = builder(settings).handshake::<_, Bytes>(stream);
    let Ok(Ok(mut connection)) = tokio::time::timeout(settings.handshake_timeout, handshake).await else {
        return Ended::Handshake;
    };
    let mut watch = Watch::new(settings, meter, connection.ping_pong(), Some(settings.limits.idle_timeout));
    let shared = Rc::new(Shared {
        handler,
        peer: Rc::new(Peer { limits: settings.limits.clone(), mesh: settings.mesh }),
        resets: Resets::new(settings.resets_burst, settings.resets_per_second),
        tasks: Tasks::new(),
    });
    let _closing = Closing(&shared.tasks);
    let mut draining = pin!(drain.draining());
    let mut forced = pin!(drain.forced());
    let mut asked_to_close = false;
    let mut streams: u64 = 0;
    let mut looks = watch.looks();
    poll_fn(|cx| {
        if forced.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ended::Forced);
        }
        if !asked_to_close && draining.as_mut().poll(cx).is_ready() {
            asked_to_close = true;
            connection.graceful_shutdown();
        }
        match watch.poll(cx, streams, connection.has_streams()) {
            Poll::Ready(Verdict::Dead) => return Poll::Ready(Ended::Silent),
            Poll::Ready(Verdict::Idle) if !asked_to_close => {
                asked_to_close = true;
                connection.graceful_shutdown();
            }
            Poll::Ready(Verdict::Idle) | Poll::Pending => {}
        }
        if looks != watch.looks() {
            looks = watch.looks();
            shared.tasks.look();
        }
        loop {
            match connection.poll_accept(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ended::Closed),
                // A client that was asked to go may be gone before our last frame.
                Poll::Ready(Some(Err(error))) if error.is_io() && asked_to_close => {
                    return Poll::Ready(Ended::Closed);
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Ended::Failed),
                Poll::Ready(Some(Ok((request, respond)))) => {
                    streams += 1;
                    if shared.resets.is_exhausted() {
                        connection.abrupt_shutdown(Code::ENHANCE_YOUR_CALM);
                        continue;
                    }
                    let to_head = request.method() == Method::HEAD;
                    let judged = judge(&shared, request);
                    if let Some(place) = shared.tasks.give(Asked { judged, to_head, respond }) {
                        drop(weft_runtime::spawn_local("http2 stream", answer(Rc::clone(&shared), place)));
                    }
                }
            }
        }
    })
    .await
}

fn builder(settings: &Settings) -> ::h2::server::Builder {
    let mut builder = ::h2::server::Builder::new();
    builder
        .max_concurrent_streams(settings.streams_max)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_frame_size(settings.frame_bytes_max)
        .max_header_list_size(settings.header_list_max())
        .max_send_buffer_size(settings.send_buffer_bytes_max)
        .max_concurrent_reset_streams(settings.reset_memory)
        .reset_stream_duration(Duration::from_secs(1))
        // Taken back before we looked at them: what comes in one read from a client that gives up.
        .max_pending_accept_reset_streams(settings.streams_max as usize)
        .max_local_error_reset_streams(settings.stream_errors_max);
    builder
}

/// A request that may be handled.
struct Judged {
    request: Request,
    /// Set by the body when it is asked for, if the client waits for that.
    wanted: Option<Rc<Cell<bool>>>,
}

/// Judges what came in. Not in the stream's task, so that its future holds only our own types.
fn judge<H>(shared: &Shared<H>, request: http::Request<RecvStream>) -> Result<Judged, Reason> {
    let (mut parts, stream) = request.into_parts();
    let length = parts.headers.get(CONTENT_LENGTH).and_then(length_of);
    let wanted = expectation(&mut parts.headers)?;
    let head = request_from_h2(parts, &shared.peer)?;
    let body = if stream.is_end_stream() {
        Body::Empty
    } else {
        Body::H2(H2Body::request(stream, length, Rc::clone(&shared.peer), wanted.clone()))
    };
    Ok(Judged { request: Request::new(head, body), wanted })
}

/// Answers requests, one after the other.
async fn answer<H: Handler>(shared: Rc<Shared<H>>, place: Rc<Place<Asked>>) {
    while let Some(asked) = shared.tasks.work(&place).await {
        exchange(&shared, asked).await;
    }
}

/// One request and its answer.
async fn exchange<H: Handler>(shared: &Shared<H>, asked: Asked) {
    let Asked { judged, to_head, mut respond } = asked;
    let answer = match judged {
        Err(reason) => Some(shared.handler.refuse(reason, None)),
        Ok(Judged { request, wanted }) => {
            let call = pin!(shared.handler.call(request));
            run(call, &mut respond, wanted).await
        }
    };
    match answer {
        None => shared.resets.taken_back(),
        Some(answer) => {
            shared.resets.answered();
            send(answer, respond, to_head, &shared.peer).await;
        }
    }
}

/// Runs the handler, until the client takes its request back.
async fn run(
    mut call: Pin<&mut impl Future<Output = Response>>,
    respond: &mut SendResponse<Bytes>,
    mut wanted: Option<Rc<Cell<bool>>>,
) -> Option<Response> {
    poll_fn(|cx| {
        if let Poll::Ready(answer) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        if wanted.as_ref().is_some_and(|wanted| wanted.get()) {
            wanted = None;
            let mut go_on = http::Response::new(());
            *go_on.status_mut() = StatusCode::CONTINUE;
            // If the stream is gone, the next line says so.
            let _ = respond.send_informational(go_on);
        }
        respond.poll_reset(cx).map(|_| None)
    })
    .await
}

/// Writes the answer.
async fn send(answer: Response, mut respond: SendResponse<Bytes>, to_head: bool, peer: &Peer) {
    let Response { mut head, body } = answer;
    if head.headers().contains(Known::XWeftUndelivered) {
        // Said by the protocol itself between proxies, and to nobody else.
        if peer.mesh {
            respond.send_reset(Code::REFUSED_STREAM);
            return;
        }
        head.headers_mut().remove(Known::XWeftUndelivered);
    }
    let bodiless = to_head || head.status == StatusCode::NOT_MODIFIED;
    let end = bodiless || head.status == StatusCode::NO_CONTENT || body.is_end();
    if head.status.is_informational() || matches!(body, Body::Tunnel(_)) {
        // An upgrade cannot be carried on a stream, and nobody asked for one.
        respond.send_reset(Code::INTERNAL_ERROR);
        return;
    }
    let response = response_to_h2(&mut head, body.exact_length(), bodiless, peer.mesh);
    let grpc = response.headers().get(CONTENT_TYPE).is_some_and(is_grpc);
    let Ok(stream) = respond.send_response(response, end) else {
        respond.send_reset(Code::INTERNAL_ERROR);
        return;
    };
    if end {
        return;
    }
    let mut outgoing = Outgoing::new(body, stream, peer.limits.stall_timeout);
    match poll_fn(|cx: &mut Context<'_>| outgoing.poll(cx)).await {
        // Sent; or nobody is there to tell.
        Ok(()) | Err(OutgoingError::Gone) => {}
        // A gRPC client is told in its own words why the call ended.
        Err(OutgoingError::Body(error)) if grpc => outgoing.end_with(grpc_trailers(error.reason)),
        Err(OutgoingError::Body(_)) => outgoing.reset(Code::INTERNAL_ERROR),
        Err(OutgoingError::Stalled) => outgoing.reset(Code::CANCEL),
    }
}

/// Whether the client waits to be told to send its body. `Expect` itself is answered here.
fn expectation(headers: &mut HeaderMap) -> Result<Option<Rc<Cell<bool>>>, Reason> {
    // Once: of two expectations one would pass unseen.
    if headers.get_all(EXPECT).iter().nth(1).is_some() {
        return Err(Reason::ExpectationUnsupported);
    }
    match headers.remove(EXPECT) {
        None => Ok(None),
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Ok(Some(Rc::new(Cell::new(false))))
        }
        Some(_) => Err(Reason::ExpectationUnsupported),
    }
}

/// The protocol library has checked it.
pub(super) fn length_of(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

fn is_grpc(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// What ends a gRPC call whose server was lost, or whose deadline passed. `UNAVAILABLE`: the call may be
/// tried again by whoever knows that it may.
fn grpc_trailers(reason: Reason) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    let status = if reason == Reason::RequestTimeout { "4" } else { "14" };
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(reason.text()));
    trailers.insert("x-weft-reason", HeaderValue::from_static(reason.label()));
    trailers
}
