//! The server side of an HTTP/1 connection: one loop, one request at a time, in order.
//!
//! `serve` reads a head, judges its framing, calls the handler and writes the answer, all in the
//! connection's own task. It refuses whatever the grammar or the framing rules refuse, through
//! the handler, so that the refusal has a reason and is counted; the connection then ends.

use super::encode::Answering;
use super::framing::{self, Framing};
use super::responder::{Responder, Written};
use super::wire::{RequestBody, Wire};
use super::{Incoming, parse};
use crate::http::{
    Body, BodyError, Known, Limits, Method, Request, RequestHead, Response, StatusCode, Tunnel, Version,
};
use crate::stream::Stream;
use crate::tcp::{self, Meter, Pair};
use crate::timer::Timer;
use bytes::Bytes;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use weft_model::reason::Reason;

/// A request whose body is this small and already here gets it in one piece.
const FULL_MAX: u64 = 16 * 1024;

/// What answers requests.
pub trait Handler {
    /// Answers a request. Dropped when the client goes away.
    fn call(&self, request: Request) -> impl Future<Output = Response>;

    /// Makes the answer to what never became a request, or cannot be carried. The connection
    /// ends behind it.
    fn refuse(&self, reason: Reason, head: Option<&RequestHead>) -> Response {
        let _ = head;
        Response::local(reason)
    }
}

/// What the connection asks about the process's shutdown.
pub trait Drain {
    /// Whether answers now say `Connection: close` and end their connections.
    fn draining(&self) -> bool;

    /// Whether the client is a proxy of the mesh: it is told by a field of its own, since a connection may end
    /// for other reasons.
    fn is_told(&self) -> bool {
        false
    }

    /// Resolves when connections that wait for a request are to be closed. Asked for once per
    /// connection.
    fn quiet(&self) -> impl Future<Output = ()>;
}

/// A process that does not shut down.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDrain;

/// How a connection ended well.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing is left to do.
    Closed,
    /// The client asked for a tunnel: the caller answers on the stream.
    Connect {
        /// The request; its authority is where to.
        head: Box<RequestHead>,
        /// The connection behind the head.
        stream: Stream,
        /// What was already read of it.
        buffered: Bytes,
    },
}

/// How a connection ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The client's bytes were refused, and it was told so.
    #[error("the request was refused: {0}")]
    Refused(Reason),
    /// The client went away before its answer was complete.
    #[error("the client went away before its answer was complete")]
    Aborted,
    /// The client stopped taking its answer.
    #[error("the client stopped taking its answer")]
    Stalled,
    /// The answer's body failed after its head was sent.
    #[error("the answer could not be completed")]
    Answer(#[source] BodyError),
    /// Reading failed within a request.
    #[error("could not read the request")]
    Read(#[source] io::Error),
    /// Writing failed.
    #[error("could not write the answer")]
    Write(#[source] io::Error),
    /// The upgraded connection failed.
    #[error("the upgraded connection failed")]
    Tunnel(#[source] io::Error),
}

/// What waiting for a request came to.
enum Next {
    Head(RequestHead),
    Refuse(Reason),
    Closed,
}

/// What is remembered of a request while it is answered.
struct Asked {
    framing: Framing,
    expected: bool,
    head: bool,
    version: Version,
    keep_alive: bool,
    upgrade: bool,
}

/// Serves a connection to its end.
pub async fn serve<H: Handler, D: Drain>(
    stream: Stream,
    handler: &H,
    limits: &Limits,
    drain: &D,
) -> Result<Outcome, ConnectionError> {
    let wire = Rc::new(RefCell::new(Wire::new(stream, limits.clone())));
    let mut responder = Responder::new(Rc::clone(&wire));
    let mut timer = Timer::default();
    let mut quiet = pin!(drain.quiet());
    loop {
        let head = match next(&wire, &mut timer, quiet.as_mut()).await? {
            Next::Head(head) => head,
            Next::Closed => {
                responder.close(false).await;
                return Ok(Outcome::Closed);
            }
            Next::Refuse(reason) => return refuse(&mut responder, handler, reason, None).await,
        };
        let asked = match judge(&head, limits) {
            Ok(asked) => asked,
            Err(reason) => return refuse(&mut responder, handler, reason, Some(&head)).await,
        };
        if head.method == Method::CONNECT {
            drop(responder);
            let (stream, buffered) = take(wire)?;
            return Ok(Outcome::Connect { head: Box::new(head), stream, buffered });
        }
        let body = begin(&wire, &asked);
        let answered = {
            // Pinned here and only lent: handed over, its room would be in the connection twice.
            let call = pin!(handler.call(Request::new(head, body)));
            answer(&wire, call).await
        };
        let Some(mut response) = answered else { return Err(ConnectionError::Aborted) };
        if let Some(reason) = asked.misanswered(&response, &wire.borrow()) {
            response = handler.refuse(reason, None);
        }
        let draining = drain.draining();
        if draining && drain.is_told() {
            // A constant that follows the grammar.
            let _ = response.head.headers_mut().insert_known(Known::XWeftDraining, b"1");
        }
        let close = !asked.keep_alive || draining;
        let answering = Answering { head: asked.head, version: asked.version, close };
        let written = match responder.write(response, answering).await {
            // Nothing was sent yet, so the client can be told.
            Err((ConnectionError::Answer(error), false)) => {
                let answering = Answering { close: true, ..answering };
                responder.write(handler.refuse(error.reason, None), answering).await
            }
            written => written,
        };
        match written.map_err(|(error, _)| error)? {
            Written::Keep => {}
            Written::Close => {
                responder.close(false).await;
                return Ok(Outcome::Closed);
            }
            Written::Linger => {
                responder.close(true).await;
                return Ok(Outcome::Closed);
            }
            Written::Upgraded(tunnel) => {
                drop(responder);
                let (stream, first) = take(wire)?;
                let Tunnel { stream: other, buffered, mut revocable, held: _held } = *tunnel;
                let quiet = tcp::Limits { half_closed_max: limits.idle_timeout, idle_max: None };
                let pair = Pair::new(stream, other);
                let carried = pair.carry(first, buffered, quiet, Meter::default());
                let revoked = poll_fn(|cx| match &mut revocable {
                    Some(revocable) => revocable.poll_revoked(cx),
                    None => Poll::Pending,
                });
                tokio::select! {
                    biased;
                    () = revoked => {}
                    end = carried => if let tcp::End::Broken(error) = end {
                        return Err(ConnectionError::Tunnel(error));
                    }
                }
                return Ok(Outcome::Closed);
            }
        }
    }
}

/// Waits for the next head.
async fn next(
    wire: &RefCell<Wire>,
    timer: &mut Timer,
    mut quiet: Pin<&mut impl Future<Output = ()>>,
) -> Result<Next, ConnectionError> {
    let mut parse = true;
    let mut begun = false;
    let mut waited = false;
    poll_fn(|cx| {
        let wire = &mut *wire.borrow_mut();
        loop {
            if parse && !wire.input.is_empty() {
                match parse::request_head(wire.input.bytes(), &wire.limits) {
                    Ok(Some((end, head))) => {
                        wire.input.advance(end);
                        return Poll::Ready(Ok(Next::Head(head)));
                    }
                    Ok(None) => parse = false,
                    Err(reason) => return Poll::Ready(Ok(Next::Refuse(reason))),
                }
            }
            if wire.ended {
                return Poll::Ready(Ok(Next::Closed));
            }
            let before = wire.input.len();
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(0)) if before == 0 => return Poll::Ready(Ok(Next::Closed)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ConnectionError::Aborted)),
                Poll::Ready(Ok(_)) => {
                    parse = parse::worth_another_pass(wire.input.bytes(), before, &wire.limits);
                }
                // A client that resets an idle connection has closed it.
                Poll::Ready(Err(_)) if before == 0 => return Poll::Ready(Ok(Next::Closed)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ConnectionError::Read(error))),
                Poll::Pending => break,
            }
        }
        if wire.input.is_empty() {
            if !std::mem::replace(&mut waited, true) {
                timer.set(wire.limits.idle_timeout);
            }
            if quiet.as_mut().poll(cx).is_ready() || timer.poll(cx).is_ready() {
                return Poll::Ready(Ok(Next::Closed));
            }
        } else {
            if !std::mem::replace(&mut begun, true) {
                timer.set(wire.limits.head_timeout);
            }
            if timer.poll(cx).is_ready() {
                return Poll::Ready(Ok(Next::Refuse(Reason::HeaderTimeout)));
            }
        }
        Poll::Pending
    })
    .await
}

/// Judges what a head says about its body, its connection and its method.
fn judge(head: &RequestHead, limits: &Limits) -> Result<Asked, Reason> {
    let framing = framing::of_request(head)?;
    let headers = head.headers();
    if head.method == Method::CONNECT && (!limits.connect || framing != Framing::None) {
        return Err(if limits.connect { Reason::RequestMalformed } else { Reason::MethodUnsupported });
    }
    // Once: of two expectations one would pass unseen.
    let mut expectations = headers.get_all(Known::Expect);
    let expected = match (expectations.next(), expectations.next()) {
        (None, _) => false,
        (Some(_), _) if head.version == Version::Http10 => false,
        (Some(value), None) if value.eq_ignore_ascii_case(b"100-continue") => true,
        (Some(_), _) => return Err(Reason::ExpectationUnsupported),
    };
    Ok(Asked {
        framing,
        expected,
        head: head.method == Method::HEAD,
        version: head.version,
        keep_alive: framing::keeps_alive(headers, head.version),
        upgrade: head.upgrade().is_some(),
    })
}

/// Begins the exchange on the wire; the request's body.
fn begin(wire: &Rc<RefCell<Wire>>, asked: &Asked) -> Body {
    let mut borrowed = wire.borrow_mut();
    match asked.framing {
        Framing::Length(length) if length <= FULL_MAX && length <= borrowed.input.len() as u64 => {
            borrowed.begin(Framing::None, false);
            Body::from(borrowed.input.take(length as usize))
        }
        Framing::None | Framing::Close => {
            borrowed.begin(Framing::None, false);
            Body::Empty
        }
        framing => {
            borrowed.begin(framing, asked.expected);
            drop(borrowed);
            Body::H1(Incoming::Request(RequestBody::new(wire)))
        }
    }
}

/// Waits for the answer, and for the client to go away. `None` if it did.
async fn answer(
    wire: &RefCell<Wire>,
    mut call: Pin<&mut impl Future<Output = Response>>,
) -> Option<Response> {
    poll_fn(|cx| {
        if let Poll::Ready(response) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        let mut wire = wire.borrow_mut();
        let gone = wire.poll_gone(cx).is_ready() || wire.aborted();
        if gone { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

/// Writes a refusal and ends the connection.
async fn refuse<H: Handler>(
    responder: &mut Responder,
    handler: &H,
    reason: Reason,
    head: Option<&RequestHead>,
) -> Result<Outcome, ConnectionError> {
    let response = handler.refuse(reason, head);
    let version = head.map_or(Version::Http11, |head| head.version);
    let answering =
        Answering { head: head.is_some_and(|head| head.method == Method::HEAD), version, close: true };
    responder.write(response, answering).await.map_err(|(error, _)| error)?;
    responder.close(true).await;
    Err(ConnectionError::Refused(reason))
}

/// The connection and what was read of it, for another use.
fn take(wire: Rc<RefCell<Wire>>) -> Result<(Stream, Bytes), ConnectionError> {
    // Only a body that outlived its exchange could hold the wire still.
    let wire = Rc::into_inner(wire).ok_or(ConnectionError::Refused(Reason::Internal))?;
    let (stream, mut input) = wire.into_inner().into_parts();
    Ok((stream, input.take_all()))
}

// === impl NoDrain ===

impl Drain for NoDrain {
    fn draining(&self) -> bool {
        false
    }

    fn quiet(&self) -> impl Future<Output = ()> {
        std::future::pending()
    }
}

// === impl Asked ===

impl Asked {
    /// Why this response cannot answer the request, if it cannot.
    fn misanswered(&self, response: &Response, wire: &Wire) -> Option<Reason> {
        let upgraded = response.head.status == StatusCode::SWITCHING_PROTOCOLS;
        let tunnel = matches!(response.body, Body::Tunnel(_));
        if upgraded != tunnel || !upgraded && response.head.status.is_informational() {
            return Some(Reason::ResponseMalformed);
        }
        if !upgraded {
            None
        } else if !self.upgrade {
            // A 101 that nobody asked for.
            Some(Reason::ResponseMalformed)
        } else if !wire.reader.is_done() {
            // What follows would be read as the new protocol while it is still a body.
            Some(Reason::UpgradeUnsupported)
        } else {
            None
        }
    }
}
