//! The connection of a server, shared by its loop and by the body of the request in hand.
//!
//! Loop and body run on one thread, mostly in one task; each borrows the wire for one poll only.
//! A body knows which exchange it belongs to, so one that outlives its exchange reads nothing.

use super::framing::Framing;
use super::reader::{BodyReader, ReadFault};
use crate::buffer::ReadBuffer;
use crate::http::{BodyError, Frame, Limits};
use crate::stream::Stream;
use crate::timer::Timer;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;
use weft_model::reason::Reason;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// With so much of the next requests at hand, the client is not watched any more.
const AHEAD_MAX: usize = 16 * 1024;

/// So much of a body that nobody read is dropped to keep the connection.
const DRAIN_MAX: usize = 64 * 1024;

/// A server's connection.
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    pub(crate) input: ReadBuffer,
    pub(crate) limits: Limits,
    pub(crate) reader: BodyReader,
    /// What is still to be written of `100 Continue`, once it was begun.
    pub(crate) continuing: &'static [u8],
    /// The client waits for `100 Continue`.
    pub(crate) expected: bool,
    /// The client closed its side.
    pub(crate) ended: bool,
    /// Runs while a body is waited for.
    stall: Timer,
    exchange: u64,
}

/// The body of a request, read from its connection.
pub struct RequestBody {
    wire: Rc<RefCell<Wire>>,
    exchange: u64,
}

// === impl Wire ===

impl Wire {
    pub(crate) fn new(stream: Stream, limits: Limits) -> Self {
        Self {
            stream,
            input: ReadBuffer::default(),
            limits,
            reader: BodyReader::new(Framing::None),
            continuing: &[],
            expected: false,
            ended: false,
            stall: Timer::default(),
            exchange: 0,
        }
    }

    /// A new exchange, whose request has a body in this framing.
    pub(crate) fn begin(&mut self, framing: Framing, expected: bool) {
        self.exchange += 1;
        self.reader = BodyReader::new(framing);
        self.expected = expected && self.reader.is_open();
        self.continuing = &[];
        self.stall.clear();
    }

    /// The exchange is over: a body that is still around reads nothing more.
    pub(crate) fn end(&mut self) {
        self.exchange += 1;
    }

    /// Reads into the buffer.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.poll_fill(&mut self.stream, cx)
    }

    /// Ready when the client is gone, while its whole request is here and it waits.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.reader.is_done() && !self.ended && self.input.len() < AHEAD_MAX {
            match ready!(self.poll_fill(cx)) {
                Ok(0) => {
                    self.ended = true;
                    if !self.limits.half_close {
                        return Poll::Ready(());
                    }
                }
                Ok(_) => {}
                Err(_) => {
                    self.ended = true;
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    /// Reads and drops what is left of the request's body, as far as it is here and small. Says
    /// whether the body is over.
    pub(crate) fn drain(&mut self, cx: &mut Context<'_>) -> bool {
        let mut dropped = 0;
        while self.reader.is_open() && !self.expected && dropped < DRAIN_MAX {
            match self.reader.poll_frame(&mut self.input, &mut self.stream, &self.limits, cx) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => dropped += data.len(),
                Poll::Ready(Some(Ok(Frame::Trailers(_)))) => {}
                Poll::Ready(None | Some(Err(_))) | Poll::Pending => break,
            }
        }
        self.reader.is_done()
    }

    /// Whether the client left in the middle of its request.
    pub(crate) fn aborted(&self) -> bool {
        self.ended && !self.reader.is_done()
    }

    /// The connection, for another use.
    pub(crate) fn into_parts(self) -> (Stream, ReadBuffer) {
        (self.stream, self.input)
    }

    /// Tells the client to send its body.
    fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.expected) && self.input.is_empty() {
            self.continuing = CONTINUE;
        }
        if self.continuing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.continuing.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, self.continuing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.continuing = &self.continuing[count..];
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.reader.is_open() && ready!(self.poll_continue(cx)).is_err() {
            self.reader.fail();
        }
        let frame = self.reader.poll_frame(&mut self.input, &mut self.stream, &self.limits, cx);
        match frame {
            Poll::Pending => {
                self.stall.start(self.limits.stall_timeout);
                ready!(self.stall.poll(cx));
                self.reader.fail();
                Poll::Ready(Some(Err(BodyError::new(Reason::BodyTimeout))))
            }
            Poll::Ready(frame) => {
                self.stall.clear();
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|fault| match fault {
                        ReadFault::Malformed => BodyError::new(Reason::BodyMalformed),
                        ReadFault::Truncated | ReadFault::Io => {
                            self.ended = true;
                            BodyError::aborted(Reason::BodyMalformed)
                        }
                        ReadFault::Again => BodyError::new(Reason::BodyTimeout),
                    })
                }))
            }
        }
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// The body of the exchange that the wire is in.
    pub(crate) fn new(wire: &Rc<RefCell<Wire>>) -> Self {
        let exchange = wire.borrow().exchange;
        Self { wire: Rc::clone(wire), exchange }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut wire = self.wire.borrow_mut();
        if wire.exchange != self.exchange {
            return Poll::Ready(Some(Err(BodyError::aborted(Reason::BodyMalformed))));
        }
        wire.poll_frame(cx)
    }

    pub(crate) fn exact_length(&self) -> Option<u64> {
        let wire = self.wire.borrow();
        if wire.exchange == self.exchange { wire.reader.remaining() } else { None }
    }

    pub(crate) fn is_end(&self) -> bool {
        let wire = self.wire.borrow();
        wire.exchange == self.exchange && wire.reader.is_done()
    }
}
