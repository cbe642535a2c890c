//! Writes the answers of a server connection, and ends it.
//!
//! Head and first body bytes leave in one write. While the client does not take bytes, the body
//! is still driven, so that an upload that the answer depends on goes on.

use super::encode::{self, Answering};
use super::framing::Framing;
use super::output::Output;
use super::server::ConnectionError;
use super::wire::Wire;
use super::writer::BodyWriter;
use crate::http::{Body, Known, Response, Tunnel};
use crate::timer::Timer;
use socket2::SockRef;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWrite;

/// How long a refused client may go on sending before the connection is cut. Closing at once
/// would reset the connection and could destroy the answer before the client has read it.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How much it may send in that time.
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Writes answers.
pub(crate) struct Responder {
    wire: Rc<RefCell<Wire>>,
    output: Output,
    timer: Timer,
}

/// What comes after an answer.
pub(crate) enum Written {
    /// The next request.
    Keep,
    /// The end.
    Close,
    /// The end, while the client may still be sending.
    Linger,
    /// Another protocol.
    Upgraded(Box<Tunnel>),
}

// === impl Responder ===

impl Responder {
    pub(crate) fn new(wire: Rc<RefCell<Wire>>) -> Self {
        Self { wire, output: Output::default(), timer: Timer::default() }
    }

    /// Writes an answer. An error comes with whether a byte of it was sent.
    pub(crate) async fn write(
        &mut self,
        mut response: Response,
        mut answering: Answering,
    ) -> Result<Written, (ConnectionError, bool)> {
        let tunnel = match std::mem::take(&mut response.body) {
            Body::Tunnel(tunnel) => Some(tunnel),
            body => {
                response.body = body;
                None
            }
        };
        self.output = Output::default();
        self.finish_continue();
        answering.close |= self.must_close(&response).await;
        let length = response.body.exact_length();
        let framing = encode::response(&response.head, length, answering, self.output.text());
        if framing == Framing::None {
            response.body = Body::Empty;
        }
        let mut body = response.body;
        let mut writer = BodyWriter::new(framing);
        if let Err(error) = poll_fn(|cx| self.poll_write(&mut writer, &mut body, cx)).await {
            let started = self.output.started();
            if framing == Framing::Close && started {
                self.reset();
            }
            return Err((error, started));
        }
        self.timer.clear();
        poll_fn(|cx| self.poll_finish(&mut body, cx)).await;
        drop(body);
        if let Some(tunnel) = tunnel {
            return Ok(Written::Upgraded(tunnel));
        }
        let over = self.drain().await;
        self.wire.borrow_mut().end();
        // A client that half-closed may have sent more requests before.
        let ended = self.wire.borrow().ended && self.wire.borrow().input.is_empty();
        let close = answering.close || framing == Framing::Close || ended;
        Ok(match (over, close) {
            (true, false) => Written::Keep,
            (true, true) => Written::Close,
            (false, _) => Written::Linger,
        })
    }

    /// An interim answer that was begun must be finished before the final one.
    fn finish_continue(&mut self) {
        let rest = std::mem::take(&mut self.wire.borrow_mut().continuing);
        self.output.text().extend_from_slice(rest);
    }

    /// Whether the answer must announce the connection's end.
    async fn must_close(&self, response: &Response) -> bool {
        // A body that failed, or that nobody will read any more (only we and the loop hold the
        // wire) and that is not here to be dropped.
        let reading = self.wire.borrow().reader.is_open() && Rc::strong_count(&self.wire) > 2;
        let unread = !reading && !self.wire.borrow().reader.is_done();
        unread && !self.drain().await || response.head.headers().has_element(Known::Connection, "close")
    }

    async fn drain(&self) -> bool {
        if self.wire.borrow().reader.is_done() {
            return true;
        }
        poll_fn(|cx| Poll::Ready(self.wire.borrow_mut().drain(cx))).await
    }

    fn poll_write(
        &mut self,
        writer: &mut BodyWriter,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        loop {
            let mut starved = false;
            match writer.poll_gather(body, &mut self.output, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ConnectionError::Answer(error))),
                Poll::Pending => starved = true,
            }
            let waiting = self.output.waiting();
            let mut wire = self.wire.borrow_mut();
            match self.output.poll_write(&mut wire.stream, cx) {
                Poll::Ready(Ok(())) if writer.is_done() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {
                    self.timer.clear();
                    if starved {
                        let gone = wire.poll_gone(cx).is_ready() || wire.aborted();
                        return if gone { Poll::Ready(Err(ConnectionError::Aborted)) } else { Poll::Pending };
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ConnectionError::Write(error))),
                Poll::Pending => {
                    let timeout = wire.limits.stall_timeout;
                    drop(wire);
                    body.poll_progress(cx);
                    if let Poll::Ready(error) = body.poll_broken(cx) {
                        // What the client has not taken is not for it any more.
                        self.reset();
                        return Poll::Ready(Err(ConnectionError::Answer(error)));
                    }
                    if self.output.waiting() < waiting {
                        self.timer.set(timeout);
                    }
                    self.timer.start(timeout);
                    return self.timer.poll(cx).map(|()| Err(ConnectionError::Stalled));
                }
            }
        }
    }

    /// Lets what the body holds come to its end, unless the client goes or it takes too long.
    fn poll_finish(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<()> {
        if body.poll_finish(cx).is_ready() {
            self.timer.clear();
            return Poll::Ready(());
        }
        let wire = self.wire.borrow();
        self.timer.start(wire.limits.stall_timeout);
        if wire.aborted() { Poll::Ready(()) } else { self.timer.poll(cx) }
    }

    /// Ends the connection so that the client sees it fail: an end would look like a complete body.
    fn reset(&self) {
        if let Some(tcp) = self.wire.borrow().stream.tcp() {
            // If it cannot be set, the connection ends as it can.
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }

    /// Ends the connection in order; with `linger`, lets the client read the answer first.
    pub(crate) async fn close(&mut self, linger: bool) {
        let mut closed = false;
        let mut dropped = 0;
        self.timer.set(LINGER_TIMEOUT);
        poll_fn(|cx| {
            let wire = &mut *self.wire.borrow_mut();
            while !closed {
                match Pin::new(&mut wire.stream).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) if linger => closed = true,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.timer.poll(cx),
                }
            }
            loop {
                wire.input.advance(wire.input.len());
                match wire.poll_fill(cx) {
                    Poll::Ready(Ok(count)) if count > 0 && dropped < LINGER_BYTES_MAX => dropped += count,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.timer.poll(cx),
                }
            }
        })
        .await;
    }
}
