//! The client: requests over a shared connection.
//!
//! A [`ClientConnection`] is a handle that the pool keeps and clones; its [`Driver`] moves the
//! frames in one task per connection. A request costs no task: `send` resolves with the head of
//! the answer, and what is left of the upload rides in the answer's body. It never queues behind
//! the peer's limit of streams: `has_room` says when another connection is due. Whether a failed
//! request can have reached the peer is told as far as it can be proved.

use super::decode::{Peer, response_from_h2};
use super::encode::request_to_h2;
use super::outgoing::{Outgoing, OutgoingError};
use super::server::length_of;
use super::settings::Settings;
use super::watch::{Meter, Metered, Verdict, Watch};
use crate::h1::{Delivered, SendError};
use crate::http::{Body, BodyError, H2Body, Request, Response};
use crate::stream::Stream;
use ::h2::client::{Connection, ResponseFuture, SendRequest};
use ::h2::{Error, Reason as Code, RecvStream};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use weft_model::reason::Reason;

/// Streams we open before the peer has said how many it takes: what RFC 9113 asks peers to take.
const STREAMS_UNTIL_TOLD: usize = 100;

/// A connection to a server. Clones share it; it closes when the last one is dropped and no
/// stream is open.
#[derive(Clone)]
pub struct ClientConnection {
    shared: Rc<Shared>,
}

/// Moves the connection's frames; spawn it. Ends with the connection.
#[must_use = "nothing moves until the driver is polled"]
pub struct Driver {
    connection: Connection<Metered, Bytes>,
    watch: Watch,
    status: Rc<Status>,
}

struct Shared {
    requests: RefCell<SendRequest<Bytes>>,
    status: Rc<Status>,
    meter: Rc<Meter>,
    peer: Rc<Peer>,
    streams_max: usize,
}

/// What handle, driver and streams share.
#[derive(Default)]
struct Status {
    in_flight: Cell<usize>,
    opened: Cell<u64>,
    closed: Cell<bool>,
    /// Told when a stream ends.
    freed: OnceCell<Rc<dyn Fn()>>,
}

/// One request in flight.
pub(crate) struct Ticket(Rc<Status>);

// === impl ClientConnection ===

impl ClientConnection {
    /// Begins a connection. The peer's settings are not waited for.
    pub async fn handshake(stream: Stream, settings: &Settings) -> Result<(Self, Driver), Reason> {
        let (stream, meter) = Metered::new(stream);
        let handshake = builder(settings).handshake::<_, Bytes>(stream);
        let Ok(done) = tokio::time::timeout(settings.handshake_timeout, handshake).await else {
            return Err(Reason::ConnectTimeout);
        };
        let (requests, mut connection) = done.map_err(|_| Reason::ConnectFailed)?;
        let status = Rc::new(Status::default());
        let watch = Watch::new(settings, Rc::clone(&meter), connection.ping_pong(), None);
        let shared = Rc::new(Shared {
            requests: RefCell::new(requests),
            status: Rc::clone(&status),
            meter,
            peer: Rc::new(Peer { limits: settings.limits.clone(), mesh: settings.mesh }),
            streams_max: settings.streams_max as usize,
        });
        Ok((Self { shared }, Driver { connection, watch, status }))
    }

    /// Whether a request may be sent: no error, no GOAWAY, stream numbers left.
    pub fn is_open(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // Pending only while an earlier request waits for the peer's limit.
        !self.shared.status.closed.get()
            && !matches!(self.shared.requests.borrow_mut().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Whether it takes no more requests because the peer asked its clients to go (GOAWAY without an error),
    /// not because it broke.
    pub fn was_asked_to_go(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = self.shared.requests.borrow_mut().poll_ready(&mut cx);
        let Poll::Ready(Err(error)) = ready else { return false };
        error.is_go_away() && error.is_remote() && error.reason() == Some(Code::NO_ERROR)
    }

    /// Has that called whenever there may be room for one more request. Once.
    pub fn tell_room(&self, freed: Rc<dyn Fn()>) {
        let _ = self.shared.status.freed.set(freed);
    }

    /// Requests whose answer has not been read to its end.
    pub fn in_flight(&self) -> usize {
        self.shared.status.in_flight.get()
    }

    /// How many the peer takes at once, and we send.
    pub fn capacity(&self) -> usize {
        self.shared.requests.borrow().current_max_send_streams().min(self.shared.streams_max)
    }

    /// Whether one more would go out at once.
    pub fn has_room(&self) -> bool {
        self.in_flight() < self.capacity()
    }

    /// Sends a request and waits for the head of its answer. Dropping the future, or later the
    /// answer's body, cancels the request. The head stays with the caller, without what belongs to one hop,
    /// and so does a body that is at hand; one that arrives meanwhile is taken.
    pub async fn send(&self, request: &mut Request) -> Result<Response, SendError> {
        let shared = &self.shared;
        let undelivered = |reason| SendError::new(reason, Delivered::No, true);
        if !self.has_room() {
            return Err(undelivered(Reason::Overloaded));
        }
        let end = request.body.is_end();
        let length = request.body.exact_length();
        let converted = request_to_h2(&mut request.head, length, shared.peer.mesh).map_err(undelivered)?;
        let written = shared.meter.written();
        let sent = shared.requests.borrow_mut().send_request(converted, end);
        let Ok((answer, stream)) = sent else { return Err(undelivered(Reason::ConnectionReset)) };
        let ticket = Ticket::new(&shared.status);
        let at_hand = end || request.body.is_at_hand();
        let mut upload = None;
        if !end {
            // A copy of a body at hand is a count.
            let body = match &request.body {
                Body::Full(bytes) => Body::Full(bytes.clone()),
                _ => std::mem::take(&mut request.body),
            };
            upload = Some(Outgoing::new(body, stream, shared.peer.limits.stall_timeout));
        }
        match wait(answer, &mut upload).await {
            Ok(answer) => self
                .receive(answer, upload, ticket)
                .map_err(|reason| SendError::new(reason, Delivered::Maybe, false)),
            Err(Failure::Source(BodyError { reason, aborted })) => {
                Err(SendError { reason, delivered: Delivered::Maybe, aborted, intact: false })
            }
            Err(Failure::Stream(error)) => {
                let unwritten = shared.meter.written() == written;
                let (reason, delivered) = judge(&error, unwritten);
                let untouched = if at_hand { None } else { upload.and_then(Outgoing::into_untouched) };
                // Whole whatever its delivery: whether it may go out again is the caller's to say.
                let intact = at_hand || untouched.is_some();
                if let Some(body) = untouched {
                    request.body = body;
                }
                Err(SendError { reason, delivered, aborted: false, intact })
            }
        }
    }

    fn receive(
        &self,
        answer: http::Response<RecvStream>,
        upload: Option<Outgoing>,
        ticket: Ticket,
    ) -> Result<Response, Reason> {
        let (parts, stream) = answer.into_parts();
        let head = response_from_h2(&parts, &self.shared.peer)?;
        if stream.is_end_stream() {
            return Ok(Response::new(head, Body::Empty));
        }
        let length = parts.headers.get(CONTENT_LENGTH).and_then(length_of);
        let peer = Rc::clone(&self.shared.peer);
        let upload = upload.filter(|upload| !upload.is_done()).map(Box::new);
        let body = H2Body::response(stream, length, peer, upload, ticket);
        Ok(Response::new(head, Body::H2(body)))
    }
}

fn builder(settings: &Settings) -> ::h2::client::Builder {
    let mut builder = ::h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(STREAMS_UNTIL_TOLD)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_frame_size(settings.frame_bytes_max)
        .max_header_list_size(settings.header_list_max())
        .max_send_buffer_size(settings.send_buffer_bytes_max)
        .max_concurrent_reset_streams(settings.reset_memory)
        .reset_stream_duration(Duration::from_secs(1))
        .max_local_error_reset_streams(settings.stream_errors_max);
    builder
}

enum Failure {
    /// The body of the request could not be read.
    Source(BodyError),
    /// The stream broke.
    Stream(Error),
}

/// Waits for the head of the answer, sending the body meanwhile.
async fn wait(
    mut answer: ResponseFuture,
    upload: &mut Option<Outgoing>,
) -> Result<http::Response<RecvStream>, Failure> {
    poll_fn(|cx| {
        if let Some(outgoing) = upload {
            match outgoing.poll(cx) {
                Poll::Pending => {}
                // The answer says what the peer made of it. An untouched body may be given back;
                // any other is let go of, and with it the window that it holds.
                Poll::Ready(Ok(()) | Err(OutgoingError::Gone)) => {
                    if !outgoing.is_untouched() {
                        *upload = None;
                    }
                }
                Poll::Ready(Err(OutgoingError::Body(error))) => {
                    outgoing.reset(Code::CANCEL);
                    return Poll::Ready(Err(Failure::Source(error)));
                }
                Poll::Ready(Err(OutgoingError::Stalled)) => {
                    outgoing.reset(Code::CANCEL);
                    return Poll::Ready(Err(Failure::Source(BodyError::new(Reason::RequestTimeout))));
                }
            }
        }
        Pin::new(&mut answer).poll(cx).map_err(Failure::Stream)
    })
    .await
}

/// What a broken stream says about its request.
fn judge(error: &Error, unwritten: bool) -> (Reason, Delivered) {
    if error.is_remote() {
        // REFUSED_STREAM says it outright. A GOAWAY reaches a stream as its error only if its
        // number is above the last one that the peer processed.
        if error.is_go_away() || error.reason() == Some(Code::REFUSED_STREAM) {
            return (Reason::PeerRefused, Delivered::No);
        }
        return (Reason::ConnectionReset, Delivered::Maybe);
    }
    // The connection ended before a byte was written that could have been of this request.
    if unwritten && !error.is_reset() {
        return (Reason::ConnectionReset, Delivered::No);
    }
    let reason = if error.is_library() { Reason::ResponseMalformed } else { Reason::ConnectionReset };
    (reason, Delivered::Maybe)
}

// === impl Driver ===

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let busy = this.status.in_flight.get() > 0;
        let dead = matches!(this.watch.poll(cx, this.status.opened.get(), busy), Poll::Ready(Verdict::Dead));
        if dead || Pin::new(&mut this.connection).poll(cx).is_ready() {
            this.status.closed.set(true);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.status.closed.set(true);
    }
}

// === impl Ticket ===

impl Ticket {
    fn new(status: &Rc<Status>) -> Self {
        status.in_flight.set(status.in_flight.get() + 1);
        status.opened.set(status.opened.get() + 1);
        Self(Rc::clone(status))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
        if let Some(freed) = self.0.freed.get() {
            freed();
        }
    }
}
