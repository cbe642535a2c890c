//! What is to be written next on a connection: text, and at most one large piece within it.
//!
//! A head and a small body become one write; a large piece is written from where it lies,
//! together with what stands before and behind it. Memory is held only while something waits.

use crate::buffer::{give_write_buffer, take_write_buffer};
use crate::stream::Stream;
use bytes::{Buf, Bytes};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Pieces up to this size are copied behind the text.
const COPY_MAX: usize = 8 * 1024;

/// With so much text waiting, nothing more is gathered.
const TEXT_MAX: usize = 16 * 1024;

/// Bytes waiting to be written.
#[derive(Default)]
pub(crate) struct Output {
    text: Vec<u8>,
    /// How much of `text` is written.
    position: usize,
    /// A large piece, and where in `text` it belongs.
    large: Option<(usize, Bytes)>,
    /// Whether a byte was accepted since [`Output::restart`].
    started: bool,
    /// Whether the stream below still has to flush.
    unflushed: bool,
}

// === impl Output ===

impl Output {
    /// The text to append to.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        if self.text.capacity() == 0 {
            self.text = take_write_buffer();
        }
        &mut self.text
    }

    /// Appends a piece of a body. Only while not [`Output::is_full`].
    pub(crate) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY_MAX || self.large.is_some() {
            self.text().extend_from_slice(&data);
        } else {
            let position = self.text().len();
            self.large = Some((position, data));
        }
    }

    /// Whether to write before gathering more.
    pub(crate) fn is_full(&self) -> bool {
        self.large.is_some() || self.text.len() - self.position >= TEXT_MAX
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.position == self.text.len() && self.large.is_none() && !self.unflushed
    }

    /// Forgets whether something was written: a new exchange begins.
    pub(crate) fn restart(&mut self) {
        self.started = false;
    }

    /// Whether a byte was accepted since [`Output::restart`].
    pub(crate) const fn started(&self) -> bool {
        self.started
    }

    /// How many bytes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.text.len() - self.position + self.large.as_ref().map_or(0, |(_, data)| data.len())
    }

    /// Writes everything and flushes.
    pub(crate) fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.position < self.text.len() || self.large.is_some() {
            let count = ready!(self.poll_write_once(stream, cx))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.started = true;
            self.unflushed = true;
            self.advance(count);
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.position = 0;
        give_write_buffer(std::mem::take(&mut self.text));
        Poll::Ready(Ok(()))
    }

    fn poll_write_once(&self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(stream);
        match &self.large {
            None => stream.poll_write(cx, &self.text[self.position..]),
            Some((split, data)) => {
                let before = &self.text[self.position.min(*split)..*split];
                let slices = [IoSlice::new(before), IoSlice::new(data), IoSlice::new(&self.text[*split..])];
                let slices = if before.is_empty() { &slices[1..] } else { &slices[..] };
                stream.poll_write_vectored(cx, slices)
            }
        }
    }

    fn advance(&mut self, mut count: usize) {
        if let Some((split, data)) = &mut self.large {
            let before = (*split - self.position).min(count);
            self.position += before;
            count -= before;
            let within = data.len().min(count);
            data.advance(within);
            count -= within;
            if data.is_empty() {
                self.large = None;
            }
        }
        self.position += count;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        give_write_buffer(std::mem::take(&mut self.text));
    }
}
