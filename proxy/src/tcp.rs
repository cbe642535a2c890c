//! Opaque bytes between two connections, both ways, until both sides have ended.
//!
//! Each direction ends by itself (an end is passed on, the other direction goes on), holds a buffer
//! only while bytes wait in it, and reads no faster than the other side writes. A connection that does
//! not end as both sides meant it to is *reset*, on both legs: an end that nobody said is never shown
//! to an application as one. Bytes are counted as they pass, so that what is cut was counted too.

use crate::buffer::{BUFFER_BYTES_LARGE, ReadBuffer};
use crate::stream::Stream;
use crate::timer::Timer;
use bytes::{Buf, Bytes};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use weft_runtime::registry::CounterCell;

/// How much one direction moves before the other one, and then other connections of the worker, have
/// their turn: about a tenth of a millisecond with encryption.
const BURST_BYTES: usize = 256 * 1024;

/// How often a connection that is not being read (its other leg takes nothing, or it has ended) is asked
/// whether it still is. Readiness does not say so for what has ended, and says nothing where bytes wait.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// How long bytes may not come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// When one side has ended.
    pub half_closed_max: Duration,
    /// When none has. `None`: for ever, as long as both peers answer the kernel's probes.
    pub idle_max: Option<Duration>,
}

/// What counts bytes, each way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter<'a> {
    /// From the one side to the other.
    pub there: Option<&'a CounterCell>,
    /// Back.
    pub back: Option<&'a CounterCell>,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// Both sides have ended, and were told so.
    Complete,
    /// One side had ended, and nothing came from the other for too long.
    HalfClosed,
    /// Nothing came from any side for too long.
    Idle,
    /// A side broke.
    Broken(io::Error),
}

/// Two connections that carry each other's bytes. Unless it is carried to its [`End::Complete`], both are
/// reset when it is dropped.
#[derive(Debug)]
pub struct Pair {
    one: Stream,
    other: Stream,
    complete: bool,
}

/// One way through the pair.
struct Direction {
    /// What was read before the pair was made.
    first: Bytes,
    buffer: ReadBuffer,
    state: State,
    unflushed: bool,
    /// Whether its last poll could not write.
    stalled: bool,
    moved: bool,
}

enum State {
    Copying,
    Ending,
    Ended,
    /// It cannot be written to any more. What it still says is passed on before both legs are reset.
    Broken(io::Error),
}

// === impl End ===

impl End {
    /// The word in logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::HalfClosed => "half closed too long",
            Self::Idle => "idle too long",
            Self::Broken(_) => "broken",
        }
    }
}

// === impl Pair ===

impl Pair {
    /// A pair of connections.
    pub fn new(one: Stream, other: Stream) -> Self {
        Self { one, other, complete: false }
    }

    /// Copies both ways until both sides have ended. `one_first` and `other_first` were read before.
    pub async fn carry(
        mut self,
        one_first: Bytes,
        other_first: Bytes,
        limits: Limits,
        meter: Meter<'_>,
    ) -> End {
        let mut there = Direction::new(one_first);
        let mut back = Direction::new(other_first);
        let (mut quiet, mut watch) = (Timer::default(), Timer::default());
        let mut was_half_closed = false;
        let Self { one, other, complete } = &mut self;
        poll_fn(|cx| {
            (there.moved, back.moved) = (false, false);
            let polled = there.poll(one, other, meter.there, cx);
            let polled = [polled, back.poll(other, one, meter.back, cx)];
            let mut ended = 0;
            for polled in polled {
                match polled {
                    Poll::Ready(Ok(())) => ended += 1,
                    Poll::Ready(Err(error)) => return Poll::Ready(End::Broken(error)),
                    Poll::Pending => {}
                }
            }
            if ended == 2 {
                for direction in [&mut there, &mut back] {
                    if let State::Broken(error) = std::mem::replace(&mut direction.state, State::Ended) {
                        return Poll::Ready(End::Broken(error));
                    }
                }
                *complete = true;
                return Poll::Ready(End::Complete);
            }
            let half_closed = ended == 1;
            let quiet_max = if half_closed { Some(limits.half_closed_max) } else { limits.idle_max };
            if let Some(quiet_max) = quiet_max {
                if there.moved || back.moved || half_closed != was_half_closed {
                    quiet.set(quiet_max);
                }
                quiet.start(quiet_max);
                was_half_closed = half_closed;
                if quiet.poll(cx).is_ready() {
                    return Poll::Ready(if half_closed { End::HalfClosed } else { End::Idle });
                }
            }
            if !half_closed && !there.stalled && !back.stalled {
                watch.clear();
                return Poll::Pending;
            }
            watch.start(WATCH_INTERVAL);
            while watch.poll(cx).is_ready() {
                if let Some(error) = one.take_error().or_else(|| other.take_error()) {
                    return Poll::Ready(End::Broken(error));
                }
                watch.set(WATCH_INTERVAL);
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if !self.complete {
            self.one.reset_on_close();
            self.other.reset_on_close();
        }
    }
}

// === impl Direction ===

impl Direction {
    fn new(first: Bytes) -> Self {
        Self {
            // An empty one may still hold the buffer it was made of.
            first: if first.is_empty() { Bytes::new() } else { first },
            buffer: ReadBuffer::default(),
            state: State::Copying,
            unflushed: false,
            stalled: false,
            moved: false,
        }
    }

    fn poll(
        &mut self,
        from: &mut Stream,
        to: &mut Stream,
        counter: Option<&CounterCell>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut burst = 0;
        loop {
            match self.poll_write(to, counter, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) => burst += count,
                Poll::Ready(Err(error)) => self.state = State::Broken(error),
            }
            match self.state {
                State::Copying if burst >= BURST_BYTES => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                State::Copying => match self.buffer.poll_fill(from, cx) {
                    Poll::Ready(Ok(0)) => self.state = State::Ending,
                    // What was read ahead joins it: fewer, larger writes.
                    Poll::Ready(Ok(_)) => self.fill(from, cx)?,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if self.unflushed => match Pin::new(&mut *to).poll_flush(cx) {
                        Poll::Ready(Ok(())) => {
                            self.unflushed = false;
                            return Poll::Pending;
                        }
                        Poll::Ready(Err(error)) => self.state = State::Broken(error),
                        Poll::Pending => return Poll::Pending,
                    },
                    Poll::Pending => return Poll::Pending,
                },
                State::Ending => {
                    // A peer that is gone already cannot be told, and need not.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Ended;
                }
                State::Ended | State::Broken(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Takes what needs no asking for, up to a full buffer.
    fn fill(&mut self, from: &mut Stream, cx: &mut Context<'_>) -> io::Result<()> {
        while self.buffer.len() < BUFFER_BYTES_LARGE / 4 * 3 && from.is_ahead() {
            match self.buffer.poll_fill(from, cx)? {
                Poll::Ready(0) => {
                    self.state = State::Ending;
                    break;
                }
                Poll::Ready(_) => {}
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Writes what is held: how many bytes that were.
    fn poll_write(
        &mut self,
        to: &mut Stream,
        counter: Option<&CounterCell>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if matches!(self.state, State::Broken(_)) {
            return Poll::Ready(Ok(0));
        }
        let mut written = 0;
        loop {
            let bytes = if self.first.is_empty() { self.buffer.bytes() } else { &self.first[..] };
            if bytes.is_empty() {
                self.stalled = false;
                return Poll::Ready(Ok(written));
            }
            let polled = Pin::new(&mut *to).poll_write(cx, bytes);
            self.stalled = polled.is_pending();
            let count = ready!(polled)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if self.first.is_empty() {
                self.buffer.advance(count);
            } else {
                self.first.advance(count);
                if self.first.is_empty() {
                    self.first = Bytes::new();
                }
            }
            if let Some(counter) = counter {
                counter.add(count as u64);
            }
            written += count;
            self.unflushed = true;
            self.moved = true;
        }
    }
}

#[cfg(test)]
mod tests;
