//! The client side of an HTTP/1 connection: one exchange at a time, in the caller's task.
//!
//! `send` writes the request and reads the answer at once, so an early answer is seen while the
//! upload goes on; what is left of the upload rides in the answer's body. A connection comes back
//! to its pool when both are complete. Whoever drops the future or the body closes it. What is
//! unclear about an exchange (was it delivered?) is reported, never guessed: retrying is for the
//! caller to decide.

use super::framing::{self, Framing};
use super::reader::{BodyReader, ReadFault};
use super::upload::{Upload, UploadError};
use super::{Incoming, parse};
use crate::buffer::ReadBuffer;
use crate::http::{
    Body, BodyError, Frame, Known, Limits, Method, Request, Response, ResponseHead, StatusCode, Tunnel,
};
use crate::stream::Stream;
use std::any::Any;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;
use weft_model::reason::Reason;

/// Interim answers to one request; a server has no use for more.
const INTERIM_MAX: u8 = 16;

/// An answer whose body is this small and already here gets it in one piece.
const FULL_MAX: u64 = 16 * 1024;

/// Idle for less than this, the reactor has just looked at the connection.
const ASK_AFTER: Duration = Duration::from_millis(1);

/// A connection to a server, without an exchange in hand.
pub struct ClientConnection {
    inner: Box<Connection>,
}

/// Takes connections back.
pub trait Recycle {
    /// The exchange is complete and the connection can carry another.
    fn recycle(&self, connection: ClientConnection);
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("the exchange failed: {reason}")]
pub struct SendError {
    /// What is said about it.
    pub reason: Reason,
    /// Whether the server may have seen the request.
    pub delivered: Delivered,
    /// Whether the fault is the request's own body, whose sender went away.
    pub aborted: bool,
    /// Whether the request is whole still, its body too, so that it can be sent once more.
    pub intact: bool,
}

/// Whether the server may have seen a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivered {
    /// The application cannot have seen it.
    No,
    /// It may have.
    Maybe,
}

/// The body of an answer, with the connection it arrives on.
pub struct ResponseBody {
    connection: Option<Box<Connection>>,
    error: Option<BodyError>,
}

/// The state of a connection; moved as one pointer between pool, exchange and body.
struct Connection {
    stream: Stream,
    input: ReadBuffer,
    upload: Upload,
    reader: BodyReader,
    limits: Rc<Limits>,
    recycle: Option<Rc<dyn Recycle>>,
    /// What the answer and the request allow.
    reusable: bool,
    /// What is here of a head was parsed in vain: more is needed.
    partial: bool,
    interim: u8,
    /// The stream ended in order before a word of the answer.
    ended_unanswered: bool,
    idle_since: Instant,
    peer_idle_timeout: Option<Duration>,
    exchanges: u64,
    /// The server is another proxy, whose word on delivery counts.
    mesh: bool,
    /// What is to be given back when it is closed.
    held: Option<Box<dyn Any>>,
}

/// An answer's head, and how its body ends.
type Answer = (ResponseHead, Framing);

// === impl ClientConnection ===

impl ClientConnection {
    /// On a stream that is connected and, where it should be, secured.
    pub fn new(stream: Stream, limits: Rc<Limits>) -> Self {
        let inner = Connection {
            stream,
            input: ReadBuffer::default(),
            upload: Upload::default(),
            reader: BodyReader::new(Framing::None),
            limits,
            recycle: None,
            reusable: true,
            partial: false,
            interim: 0,
            ended_unanswered: false,
            idle_since: Instant::now(),
            peer_idle_timeout: None,
            exchanges: 0,
            mesh: false,
            held: None,
        };
        Self { inner: Box::new(inner) }
    }

    /// The server is another proxy: its word that nothing of a request was delivered is believed.
    #[must_use]
    pub fn to_mesh(mut self) -> Self {
        self.inner.mesh = true;
        self
    }

    /// Keeps something for as long as the connection is there, upgraded or not.
    #[must_use]
    pub fn holding(mut self, held: Option<Box<dyn Any>>) -> Self {
        self.inner.held = held;
        self
    }

    /// Whether the connection is still good: asked just before it is used again.
    pub fn is_open(&mut self) -> bool {
        let ask = self.idle_since().elapsed() >= ASK_AFTER;
        self.inner.input.is_empty() && self.inner.stream.is_quiet(ask)
    }

    /// The same by what the reactor has seen, for a request that can be sent once more: to ask the kernel for each
    /// is a system call.
    pub fn seems_open(&mut self) -> bool {
        self.inner.input.is_empty() && self.inner.stream.is_quiet(false)
    }

    /// Since when it has been idle.
    pub fn idle_since(&self) -> Instant {
        self.inner.idle_since
    }

    /// How many exchanges it has carried.
    pub fn exchanges(&self) -> u64 {
        self.inner.exchanges
    }

    /// How long the server said it keeps the connection (`Keep-Alive: timeout=`).
    pub fn peer_idle_timeout(&self) -> Option<Duration> {
        self.inner.peer_idle_timeout
    }

    /// The stream below.
    pub fn stream(&self) -> &Stream {
        &self.inner.stream
    }

    /// Sends a request and waits for the head of the final answer. What it came as stays with the caller: the
    /// head whatever comes of it, and a body that is at hand; one that arrives meanwhile is taken.
    pub async fn send(
        self,
        request: &mut Request,
        recycle: Option<Rc<dyn Recycle>>,
    ) -> Result<Response, SendError> {
        let mut connection = self.inner;
        if request.head.method == Method::CONNECT || matches!(request.body, Body::Tunnel(_)) {
            return Err(SendError::new(Reason::MethodUnsupported, Delivered::No, true));
        }
        connection.recycle = recycle;
        connection.begin(request);
        match poll_fn(|cx| connection.poll_exchange(request, cx)).await {
            Ok((head, framing)) => connection.answer(head, framing, request),
            Err(fault) => {
                let delivered = if connection.was_not_taken() { Delivered::No } else { Delivered::Maybe };
                let intact = !connection.upload.touched();
                let mut error = SendError::new(fault.reason, delivered, intact);
                error.aborted = fault.aborted;
                Err(error)
            }
        }
    }
}

// === impl SendError ===

impl SendError {
    pub(crate) const fn new(reason: Reason, delivered: Delivered, intact: bool) -> Self {
        Self { reason, delivered, aborted: false, intact }
    }
}

// === impl Connection ===

impl Connection {
    /// Whether the server cannot have seen the request. A proxy of the mesh answers every request that
    /// it takes, or breaks the connection off; only one that it closed between two requests ends in
    /// order, by TLS's own word, without an answer.
    fn was_not_taken(&self) -> bool {
        !self.upload.started() || self.mesh && self.ended_unanswered
    }

    fn begin(&mut self, request: &Request) {
        self.exchanges += 1;
        self.ended_unanswered = false;
        self.interim = 0;
        self.partial = false;
        self.reusable = true;
        self.upload.begin(request);
    }

    /// Drives upload and answer together until the final head is here.
    fn poll_exchange(
        &mut self,
        request: &mut Request,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Answer, BodyError>> {
        loop {
            match self.upload.poll(&mut self.stream, &mut request.body, cx) {
                Poll::Ready(Ok(())) | Poll::Pending => {}
                // The answer may be here although the server took no more.
                Poll::Ready(Err(UploadError::Io)) => self.reusable = false,
                Poll::Ready(Err(UploadError::Body(error))) => return Poll::Ready(Err(error)),
            }
            if let Some(answer) = ready!(self.poll_head(request, cx))? {
                return Poll::Ready(Ok(answer));
            }
        }
    }

    /// Reads until the final head is here, or, with `None`, until the server asked for the body.
    fn poll_head(
        &mut self,
        request: &Request,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Answer>, BodyError>> {
        loop {
            if !self.partial && !self.input.is_empty() {
                if let Some(answer) = self.parse(request)? {
                    return Poll::Ready(Ok(Some(answer)));
                }
                self.partial = true;
                if self.upload.resumes() {
                    return Poll::Ready(Ok(None));
                }
            }
            let before = self.input.len();
            match ready!(self.input.poll_fill(&mut self.stream, cx)) {
                Ok(count) if count > 0 && self.upload.started() => {
                    self.partial = !parse::worth_another_pass(self.input.bytes(), before, &self.limits);
                }
                // The end, in order, before a word of the answer.
                Ok(0) if before == 0 && self.interim == 0 => {
                    self.ended_unanswered = true;
                    return Poll::Ready(Err(BodyError::new(Reason::ConnectionReset)));
                }
                // Any other end, or an answer to nothing.
                _ => return Poll::Ready(Err(BodyError::new(Reason::ConnectionReset))),
            }
        }
    }

    /// The final head in the buffer, interim ones passed over.
    fn parse(&mut self, request: &Request) -> Result<Option<Answer>, BodyError> {
        let malformed = BodyError::new(Reason::ResponseMalformed);
        while let Some((end, head)) =
            parse::response_head(self.input.bytes(), &self.limits).map_err(BodyError::new)?
        {
            self.input.advance(end);
            if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
                self.interim += 1;
                if self.interim > INTERIM_MAX {
                    return Err(malformed);
                }
                if head.status == StatusCode::CONTINUE {
                    self.upload.resume();
                }
                continue;
            }
            let framing = framing::of_response(&head, &request.head.method).map_err(BodyError::new)?;
            return Ok(Some((head, framing)));
        }
        Ok(None)
    }

    /// The response, from the head that was read.
    fn answer(
        mut self: Box<Self>,
        head: ResponseHead,
        framing: Framing,
        request: &mut Request,
    ) -> Result<Response, SendError> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if request.head.upgrade().is_none() {
                return Err(SendError::new(Reason::ResponseMalformed, Delivered::Maybe, false));
            }
            // What follows would be read as the new protocol while it is still a body.
            if !self.upload.is_done() {
                return Err(SendError::new(Reason::UpgradeUnsupported, Delivered::Maybe, false));
            }
            let buffered = self.input.take_all();
            let held = self.held.into_iter().collect();
            let tunnel = Tunnel { stream: self.stream, buffered, revocable: None, held };
            return Ok(Response::new(head, Body::Tunnel(Box::new(tunnel))));
        }
        if self.mesh && head.headers().contains(Known::XWeftUndelivered) {
            let label = head.headers().get_str(Known::XWeftReason);
            let reason = label.and_then(Reason::from_label).unwrap_or(Reason::PeerRefused);
            let intact = !self.upload.touched();
            return Err(SendError::new(reason, Delivered::No, intact));
        }
        self.peer_idle_timeout = peer_idle_timeout(&head).or(self.peer_idle_timeout);
        self.reusable &= framing != Framing::Close && framing::keeps_alive(head.headers(), head.version);
        // A server that says a length where there is no body may send that body all the same.
        self.reusable &=
            head.status != StatusCode::NO_CONTENT || !head.headers().contains(Known::ContentLength);
        self.upload.keep(&mut request.body);
        let here = self.input.len() as u64;
        let full = match framing {
            Framing::None => Some(0),
            Framing::Length(length) if length <= FULL_MAX.min(here) => Some(length),
            _ => None,
        };
        let body = match full.filter(|_| self.upload.is_done()) {
            Some(length) => {
                let bytes = self.input.take(length as usize);
                self.finish();
                Body::from(bytes)
            }
            None => {
                self.reader = BodyReader::new(framing);
                Body::H1(Incoming::Response(ResponseBody { connection: Some(self), error: None }))
            }
        };
        Ok(Response::new(head, body))
    }

    /// The exchange is complete: the connection goes back, or ends.
    fn finish(mut self: Box<Self>) {
        // Bytes that nobody asked for: the next answer would be read from them.
        if !self.reusable || !self.upload.is_done() || !self.input.is_empty() {
            return;
        }
        self.input.release();
        if let Some(recycle) = self.recycle.take() {
            self.idle_since = Instant::now();
            recycle.recycle(ClientConnection { inner: self });
        }
    }

    /// Goes on with what is left of the upload.
    fn drive_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        if self.upload.is_done() {
            return Ok(());
        }
        match self.upload.poll_kept(&mut self.stream, cx) {
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
            Poll::Ready(Err(UploadError::Io)) => {
                self.reusable = false;
                Ok(())
            }
            Poll::Ready(Err(UploadError::Body(error))) => Err(error),
        }
    }
}

/// The `timeout` of a Keep-Alive field.
fn peer_idle_timeout(head: &ResponseHead) -> Option<Duration> {
    let value = head.headers().get_str(Known::KeepAlive)?;
    let timeout = value.split(',').find_map(|element| element.trim().strip_prefix("timeout="))?;
    timeout.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

// === impl ResponseBody ===

impl ResponseBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(self.error.map(Err));
        };
        if let Err(error) = connection.drive_upload(cx) {
            return self.fail(error);
        }
        let Connection { input, stream, limits, reader, .. } = &mut **connection;
        let frame = ready!(reader.poll_frame(input, stream, limits, cx));
        match frame {
            Some(Ok(frame)) => {
                self.finish();
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
            Some(Err(ReadFault::Malformed)) => self.fail(BodyError::new(Reason::ResponseMalformed)),
            Some(Err(ReadFault::Truncated | ReadFault::Io | ReadFault::Again)) => {
                self.fail(BodyError::aborted(Reason::ConnectionReset))
            }
        }
    }

    /// Lets go of the connection once the exchange is complete, or cannot become so.
    fn finish(&mut self) {
        let over = |connection: &mut Box<Connection>| {
            connection.reader.is_done() && (connection.upload.is_done() || !connection.reusable)
        };
        if let Some(connection) = self.connection.take_if(over) {
            connection.finish();
        }
    }

    /// Sends the rest of the upload behind a complete answer.
    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_progress(cx);
        self.finish();
        match &self.connection {
            Some(connection) if connection.reader.is_done() => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame, BodyError>>> {
        self.connection = None;
        self.error = Some(error);
        Poll::Ready(Some(Err(error)))
    }

    pub(crate) fn poll_progress(&mut self, cx: &mut Context<'_>) {
        if let Some(Err(error)) = self.connection.as_mut().map(|connection| connection.drive_upload(cx)) {
            self.connection = None;
            self.error = Some(error);
        }
    }

    pub(crate) fn exact_length(&self) -> Option<u64> {
        match &self.connection {
            Some(connection) => connection.reader.remaining(),
            None => self.error.is_none().then_some(0),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.error.is_none() && self.connection.as_ref().is_none_or(|connection| connection.reader.is_done())
    }
}
