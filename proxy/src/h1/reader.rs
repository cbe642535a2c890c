//! Reads a body's frames from a connection, by its framing.
//!
//! Used for requests and for answers alike. Small chunks that lie in the buffer together become
//! one frame, so a peer that sends a byte per chunk does not make a frame per byte.

use super::chunked::{Decoder, Event};
use super::framing::Framing;
use super::parse;
use crate::buffer::ReadBuffer;
use crate::http::{Frame, Limits};
use crate::stream::Stream;
use bytes::{BufMut, Bytes, BytesMut};
use std::task::{Context, Poll, ready};

/// Data from this size on leaves as a frame of its own, without a copy.
const LARGE: usize = 4 * 1024;

/// Small chunks are gathered up to this size.
const GATHER_MAX: usize = 16 * 1024;

/// A body on its way in.
pub(crate) struct BodyReader {
    state: State,
}

enum State {
    Length(u64),
    Chunked(Decoder),
    Trailers,
    Close,
    Done,
    Failed,
}

/// Why a body cannot be read on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReadFault {
    /// The framing is broken.
    Malformed,
    /// The connection ended first.
    Truncated,
    /// The connection failed.
    Io,
    /// It failed before.
    Again,
}

// === impl BodyReader ===

impl BodyReader {
    /// For a body in this framing.
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Decoder::default()),
            Framing::Close => State::Close,
        };
        Self { state }
    }

    /// Whether the end was reached.
    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether reading goes on.
    pub(crate) const fn is_open(&self) -> bool {
        !matches!(self.state, State::Done | State::Failed)
    }

    /// Ends it: nobody reads on.
    pub(crate) fn fail(&mut self) {
        self.state = State::Failed;
    }

    /// How many bytes are still to come, if that is certain.
    pub(crate) const fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(remaining) => Some(remaining),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// The next frame.
    pub(crate) fn poll_frame(
        &mut self,
        input: &mut ReadBuffer,
        stream: &mut Stream,
        limits: &Limits,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, ReadFault>>> {
        loop {
            match self.next(input, limits) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.is_done() => return Poll::Ready(None),
                Ok(None) => {}
                Err(fault) => {
                    self.fail();
                    return Poll::Ready(Some(Err(fault)));
                }
            }
            match ready!(input.poll_fill(stream, cx)) {
                Ok(0) if matches!(self.state, State::Close) => {
                    self.state = State::Done;
                    return Poll::Ready(None);
                }
                Ok(0) => {
                    self.fail();
                    return Poll::Ready(Some(Err(ReadFault::Truncated)));
                }
                Ok(_) => {}
                Err(_) => {
                    self.fail();
                    return Poll::Ready(Some(Err(ReadFault::Io)));
                }
            }
        }
    }

    /// The next frame of what is in the buffer. `None` asks for more, or is the end.
    fn next(&mut self, input: &mut ReadBuffer, limits: &Limits) -> Result<Option<Frame>, ReadFault> {
        match &mut self.state {
            State::Done => Ok(None),
            State::Failed => Err(ReadFault::Again),
            _ if input.is_empty() => Ok(None),
            State::Close => Ok(Some(Frame::Data(input.take(input.len())))),
            State::Length(remaining) => {
                let count = (*remaining).min(input.len() as u64);
                *remaining -= count;
                if *remaining == 0 {
                    self.state = State::Done;
                }
                Ok(Some(Frame::Data(input.take(count as usize))))
            }
            State::Chunked(_) => match self.chunks(input)? {
                Some(data) => Ok(Some(Frame::Data(data))),
                None => self.trailers(input, limits),
            },
            State::Trailers => self.trailers(input, limits),
        }
    }

    /// The data of the chunks in the buffer.
    fn chunks(&mut self, input: &mut ReadBuffer) -> Result<Option<Bytes>, ReadFault> {
        let State::Chunked(decoder) = &mut self.state else { return Ok(None) };
        let mut gathered = BytesMut::new();
        while gathered.len() < GATHER_MAX {
            // A large chunk is left for its own frame: look before the decoder takes it.
            let before = decoder.clone();
            let (skip, event) = decoder.advance(input.bytes()).map_err(|_| ReadFault::Malformed)?;
            match event {
                Event::Data(count) if count >= LARGE => {
                    if !gathered.is_empty() {
                        *decoder = before;
                        break;
                    }
                    input.advance(skip);
                    let data = input.take(count);
                    self.end_early(input);
                    return Ok(Some(data));
                }
                Event::Data(count) => {
                    input.advance(skip);
                    gathered.put_slice(&input.bytes()[..count]);
                    input.advance(count);
                }
                Event::More => {
                    input.advance(skip);
                    break;
                }
                Event::Trailers => {
                    input.advance(skip);
                    self.state = State::Trailers;
                    self.end_early(input);
                    break;
                }
            }
        }
        Ok(if gathered.is_empty() { None } else { Some(gathered.freeze()) })
    }

    /// If the rest of the body is in the buffer and says nothing more, it is over now, so that
    /// the writer can end in the same write.
    fn end_early(&mut self, input: &mut ReadBuffer) {
        if let State::Chunked(decoder) = &mut self.state {
            let mut ahead = decoder.clone();
            match ahead.advance(input.bytes()) {
                Ok((skip, Event::Trailers)) if input.bytes()[skip..].starts_with(b"\r\n") => {
                    input.advance(skip)
                }
                _ => return,
            }
        }
        if input.bytes().starts_with(b"\r\n") {
            input.advance(2);
            self.state = State::Done;
        }
    }

    fn trailers(&mut self, input: &mut ReadBuffer, limits: &Limits) -> Result<Option<Frame>, ReadFault> {
        if !matches!(self.state, State::Trailers) {
            return Ok(None);
        }
        let parsed = parse::trailers(input.bytes(), limits).map_err(|_| ReadFault::Malformed)?;
        let Some((end, trailers)) = parsed else { return Ok(None) };
        input.advance(end);
        self.state = State::Done;
        Ok(if trailers.is_empty() { None } else { Some(Frame::Trailers(trailers)) })
    }
}
