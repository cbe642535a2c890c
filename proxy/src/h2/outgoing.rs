//! A body on its way out on a stream, under flow control.
//!
//! The server polls one of these behind the head of its answer; the client keeps one for the
//! upload of a request inside the body of the answer. Short bodies are queued at once; longer
//! ones take what the windows give, and while they wait the body's own needs are driven on. It
//! reports how it ended and leaves the reset to the caller, who knows what it means.

use super::encode::trailers_to_map;
use crate::http::{Body, BodyError, Frame};
use ::h2::{Reason as Code, SendStream};
use bytes::Bytes;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// What a stream may queue without asking for window first: most bodies fit, and that many bytes
/// on every stream of a connection are a few megabytes at worst.
const UNASKED_BYTES_MAX: usize = 16 * 1024;

/// A body and the stream it goes to.
pub(crate) struct Outgoing {
    body: Body,
    stream: SendStream<Bytes>,
    pending: Bytes,
    unasked: usize,
    untouched: bool,
    done: bool,
    stall: Stall,
}

/// Bounds how long the peer may take nothing while there is something for it. Touched only when
/// there is no room; the timer is kept from one such time to the next.
struct Stall {
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

/// Why a body was not sent to its end.
#[derive(Debug)]
pub(crate) enum OutgoingError {
    /// The peer takes no more of it, or is gone.
    Gone,
    /// The peer gave no room for too long.
    Stalled,
    /// It could not be read to its end.
    Body(BodyError),
}

// === impl Outgoing ===

impl Outgoing {
    pub(crate) fn new(body: Body, stream: SendStream<Bytes>, stall_timeout: Duration) -> Self {
        Self {
            body,
            stream,
            pending: Bytes::new(),
            unasked: UNASKED_BYTES_MAX,
            untouched: true,
            done: false,
            stall: Stall { timeout: stall_timeout, timer: None, waiting: false },
        }
    }

    /// Whether there is nothing left to do.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing was taken out of the body.
    pub(crate) fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// The body, if nothing was taken out of it.
    pub(crate) fn into_untouched(self) -> Option<Body> {
        self.untouched.then_some(self.body)
    }

    /// Resets the stream.
    pub(crate) fn reset(&mut self, code: Code) {
        self.stream.send_reset(code);
    }

    /// Ends the stream with trailers in place of the rest of the body.
    pub(crate) fn end_with(&mut self, trailers: http::HeaderMap) {
        if self.stream.send_trailers(trailers).is_err() {
            self.stream.send_reset(Code::INTERNAL_ERROR);
        }
    }

    /// Sends what can be sent. Ready when all of it is queued, or when it ended otherwise; after
    /// that it stays ready.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), OutgoingError>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        let polled = self.poll_frames(cx);
        self.done = polled.is_ready();
        polled
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), OutgoingError>> {
        loop {
            if !self.pending.is_empty() && ready!(self.poll_pending(cx))? {
                return Poll::Ready(Ok(()));
            }
            match self.body.poll_frame(cx) {
                Poll::Pending => return self.poll_reset(cx),
                Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                    self.untouched = false;
                    self.pending = data;
                }
                Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                    self.untouched = false;
                    let sent = self.stream.send_trailers(trailers_to_map(&trailers));
                    return Poll::Ready(sent.map_err(|_| OutgoingError::Gone));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(OutgoingError::Body(error))),
                Poll::Ready(None) => {
                    let sent = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(sent.map_err(|_| OutgoingError::Gone));
                }
            }
        }
    }

    /// Sends the frame at hand; says whether that was the end.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, OutgoingError>> {
        loop {
            let length = self.pending.len();
            let room = if length <= self.unasked {
                self.unasked -= length;
                length
            } else {
                ready!(self.poll_room(cx))?
            };
            let data =
                if room < length { self.pending.split_to(room) } else { std::mem::take(&mut self.pending) };
            let end = self.pending.is_empty() && self.body.is_end();
            if self.stream.send_data(data, end).is_err() {
                return self.poll_reset(cx).map_ok(|()| true);
            }
            if self.pending.is_empty() {
                return Poll::Ready(Ok(end));
            }
        }
    }

    /// Room for some of the frame at hand.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, OutgoingError>> {
        self.stream.reserve_capacity(self.pending.len());
        let room = self.stream.capacity();
        if room > 0 {
            self.stall.waiting = false;
            return Poll::Ready(Ok(room));
        }
        match self.stream.poll_capacity(cx) {
            Poll::Ready(Some(Ok(room))) => {
                self.stall.waiting = false;
                Poll::Ready(Ok(room))
            }
            Poll::Ready(Some(Err(_)) | None) => self.poll_reset(cx).map_ok(|()| 0),
            Poll::Pending => {
                self.body.poll_progress(cx);
                if let Poll::Ready(error) = self.body.poll_broken(cx) {
                    return Poll::Ready(Err(OutgoingError::Body(error)));
                }
                self.stall.poll(cx).map(|()| Err(OutgoingError::Stalled))
            }
        }
    }

    /// Ready with an error when the peer reset the stream or the connection ended.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), OutgoingError>> {
        match self.stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(Err(OutgoingError::Gone)),
            Poll::Pending => Poll::Pending,
        }
    }
}

// === impl Stall ===

impl Stall {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + self.timeout);
        }
        timer.as_mut().poll(cx)
    }
}
