//! What follows an upgrade: bytes, both ways, until both sides have ended.
//!
//! Each direction ends by itself (half-close is passed on), holds a buffer only while bytes wait
//! in it, and reads no faster than the other side writes.

use super::buffer::ReadBuffer;
use super::timer::Timer;
use crate::stream::Stream;
use bytes::{Buf, Bytes};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;

/// One way through the tunnel.
struct Direction {
    /// What was read before the tunnel was.
    first: Bytes,
    buffer: ReadBuffer,
    state: State,
    copied: u64,
    unflushed: bool,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Copying,
    Ending,
    Ended,
}

/// Copies both ways until both ends; returns how many bytes went each way. Once one side has
/// ended, the other may be silent for `half_closed_max` before the tunnel ends.
pub async fn copy(
    one: &mut Stream,
    one_first: Bytes,
    other: &mut Stream,
    other_first: Bytes,
    half_closed_max: Duration,
) -> io::Result<(u64, u64)> {
    let mut there = Direction::new(one_first);
    let mut back = Direction::new(other_first);
    let mut timer = Timer::default();
    poll_fn(|cx| {
        let before = (there.copied, back.copied);
        let ended = [there.poll(one, other, cx)?, back.poll(other, one, cx)?].map(|poll| poll.is_ready());
        match ended {
            [true, true] => return Poll::Ready(Ok((there.copied, back.copied))),
            [false, false] => return Poll::Pending,
            _ => {}
        }
        if (there.copied, back.copied) != before {
            timer.set(half_closed_max);
        }
        timer.start(half_closed_max);
        timer.poll(cx).map(|()| Ok((there.copied, back.copied)))
    })
    .await
}

// === impl Direction ===

impl Direction {
    fn new(first: Bytes) -> Self {
        Self { first, buffer: ReadBuffer::default(), state: State::Copying, copied: 0, unflushed: false }
    }

    fn poll(&mut self, from: &mut Stream, to: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.first.is_empty() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.first))?;
                self.first.advance(count);
                self.wrote(count)?;
            }
            while !self.buffer.is_empty() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, self.buffer.bytes()))?;
                self.buffer.advance(count);
                self.wrote(count)?;
            }
            match self.state {
                State::Copying => match self.buffer.poll_fill(from, cx)? {
                    Poll::Ready(0) => self.state = State::Ending,
                    Poll::Ready(_) => {}
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(Pin::new(&mut *to).poll_flush(cx))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
                State::Ending => {
                    // A peer that is gone already cannot be told, and need not.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    fn wrote(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.copied += count as u64;
        self.unflushed = true;
        Ok(())
    }
}
