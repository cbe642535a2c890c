//! Moves a body's frames into the output, in the framing that the head announced.
//!
//! Used for uploads and for answers alike. What a body yields is held to what was announced: one
//! byte more or less is an error, and the connection ends.

use super::encode;
use super::framing::Framing;
use super::output::Output;
use crate::http::{Body, BodyError, Frame};
use std::task::{Context, Poll};
use weft_model::reason::Reason;

/// A body on its way out.
pub(crate) struct BodyWriter {
    framing: Framing,
    /// Bytes still owed, for `Framing::Length`.
    remaining: u64,
    done: bool,
}

// === impl BodyWriter ===

impl BodyWriter {
    /// For a body in this framing.
    pub(crate) fn new(framing: Framing) -> Self {
        let remaining = if let Framing::Length(length) = framing { length } else { 0 };
        let done = matches!(framing, Framing::None | Framing::Length(0));
        Self { framing, remaining, done }
    }

    /// Whether the end of the body is in the output.
    pub(crate) const fn is_done(&self) -> bool {
        self.done
    }

    /// Gathers frames until the body's end, until the output is full (`Ready`), or until there is
    /// no frame (`Pending`).
    pub(crate) fn poll_gather(
        &mut self,
        body: &mut Body,
        output: &mut Output,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BodyError>> {
        while !self.done && !output.is_full() {
            match std::task::ready!(body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => {
                    if data.is_empty() {
                        continue;
                    }
                    self.data(data, output)?;
                    if self.framing == Framing::Chunked && body.is_end() {
                        self.finish(None, output)?;
                    }
                }
                Some(Ok(Frame::Trailers(trailers))) => self.finish(Some(&trailers), output)?,
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => self.finish(None, output)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn data(&mut self, data: bytes::Bytes, output: &mut Output) -> Result<(), BodyError> {
        match self.framing {
            Framing::Chunked => {
                encode::chunk_size(data.len(), output.text());
                output.push(data);
                output.text().extend_from_slice(b"\r\n");
            }
            Framing::Length(_) => {
                let length = data.len() as u64;
                if length > self.remaining {
                    return Err(BodyError::new(Reason::Internal));
                }
                self.remaining -= length;
                self.done = self.remaining == 0;
                output.push(data);
            }
            Framing::Close | Framing::None => output.push(data),
        }
        Ok(())
    }

    fn finish(
        &mut self,
        trailers: Option<&crate::http::Headers>,
        output: &mut Output,
    ) -> Result<(), BodyError> {
        if self.remaining > 0 {
            return Err(BodyError::new(Reason::Internal));
        }
        if self.framing == Framing::Chunked {
            encode::last_chunk(trailers, output.text());
        }
        self.done = true;
        Ok(())
    }
}
