//! The read buffer of a connection, and the pools of buffers of this thread.
//!
//! A connection holds a buffer only while there are bytes in it: one is taken from the thread's
//! pool to read into and given back when the read has nothing. Ten thousand idle connections
//! hold none. Large pieces of a body leave the buffer without a copy.

use crate::stream::Stream;
use bytes::{Buf, Bytes, BytesMut};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::io::AsyncReadExt;

/// One read: more than nearly every head, and what a TLS record holds.
const BUFFER_BYTES: usize = 16 * 1024;

/// One read while a body keeps filling the buffer: four TLS records less the head of an HTTP/2 frame, so that what
/// was read at once leaves as one frame and one write.
pub(crate) const BUFFER_BYTES_LARGE: usize = 4 * 16 * 1024 - 9;

/// Buffers kept per thread and kind; a busy thread needs a few, a burst need not stay.
const POOL_MAX: usize = 32;

/// Pieces up to this size are copied out: cheaper than sharing the buffer with the piece.
const COPY_MAX: usize = 4 * 1024;

thread_local! {
    static READ_POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static WRITE_POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes read and not yet used.
#[derive(Default)]
pub(crate) struct ReadBuffer {
    bytes: BytesMut,
    /// The last read filled the buffer: the next one asks for more at once.
    eager: bool,
}

// === impl ReadBuffer ===

impl ReadBuffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether memory is held.
    #[cfg(test)]
    pub(crate) fn holds_memory(&self) -> bool {
        self.bytes.capacity() > 0
    }

    /// Drops bytes that were used.
    pub(crate) fn advance(&mut self, count: usize) {
        self.bytes.advance(count.min(self.bytes.len()));
    }

    /// Takes the first `count` bytes out.
    pub(crate) fn take(&mut self, count: usize) -> Bytes {
        let count = count.min(self.bytes.len());
        if count <= COPY_MAX {
            let taken = Bytes::copy_from_slice(&self.bytes[..count]);
            self.bytes.advance(count);
            taken
        } else {
            self.bytes.split_to(count).freeze()
        }
    }

    /// Takes everything out and gives the buffer up.
    pub(crate) fn take_all(&mut self) -> Bytes {
        let taken = self.take(self.len());
        self.release();
        taken
    }

    /// Reads once. `Ready(Ok(0))` is the end of the stream. Without bytes the buffer goes back.
    pub(crate) fn poll_fill(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        let room = self.bytes.capacity() - self.bytes.len();
        let read = pin!(stream.read_buf(&mut self.bytes)).poll(cx);
        match read {
            Poll::Ready(Ok(count)) if count > 0 => self.eager = count == room,
            _ => self.release(),
        }
        read
    }

    fn make_room(&mut self) {
        if self.bytes.capacity() == 0 {
            self.bytes = READ_POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        let wanted = if self.eager { BUFFER_BYTES_LARGE } else { BUFFER_BYTES };
        // Half of the wanted room will do: a reserve that moves bytes is dearer than a short read.
        if self.bytes.capacity() - self.bytes.len() < wanted / 2 {
            self.bytes.reserve(wanted);
        }
    }

    /// Gives the memory back to the pool, if nothing is in it.
    pub(crate) fn release(&mut self) {
        if !self.bytes.is_empty() || self.bytes.capacity() == 0 {
            return;
        }
        self.eager = false;
        let mut bytes = std::mem::take(&mut self.bytes);
        // Not reclaimed while a piece of it still lives elsewhere: then it goes with that piece.
        if bytes.try_reclaim(BUFFER_BYTES) && bytes.capacity() <= 2 * BUFFER_BYTES_LARGE {
            READ_POOL.with_borrow_mut(|pool| {
                if pool.len() < POOL_MAX {
                    pool.push(bytes);
                }
            });
        }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.bytes.clear();
        self.release();
    }
}

/// A buffer to write into, from the pool.
pub(crate) fn take_write_buffer() -> Vec<u8> {
    WRITE_POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(2048))
}

/// Gives a buffer back, unless a large head made it large.
pub(crate) fn give_write_buffer(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > 4 * BUFFER_BYTES {
        return;
    }
    buffer.clear();
    WRITE_POOL.with_borrow_mut(|pool| {
        if pool.len() < POOL_MAX {
            pool.push(buffer);
        }
    });
}
