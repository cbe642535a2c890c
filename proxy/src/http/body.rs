//! Bodies: what follows a head, read frame by frame.
//!
//! A body is polled by whoever writes it on to the next hop. It belongs to one thread and may
//! hold a connection: dropping it before its end closes or resets what it came from. Nothing is
//! read ahead of the poll beyond one buffer, so a slow reader slows the sender down.

use super::h2_body::H2Body;
use super::headers::Headers;
use super::replay::Reading;
use crate::h1::Incoming;
use crate::stream::Stream;
use bytes::{Bytes, BytesMut};
use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use weft_model::reason::Reason;

/// A body in any of its forms.
#[derive(Default)]
pub enum Body {
    /// No body.
    #[default]
    Empty,
    /// All of it, at hand.
    Full(Bytes),
    /// Arriving on an HTTP/1 connection.
    H1(Incoming),
    /// Arriving on an HTTP/2 stream.
    H2(H2Body),
    /// Kept while it passes, or what was kept.
    Replay(Reading),
    /// Wrapped by something that counts or limits.
    Boxed(Box<dyn LocalBody>),
    /// What an answered upgrade goes on with; no frames.
    Tunnel(Box<Tunnel>),
}

/// The other end of an upgraded connection.
pub struct Tunnel {
    /// The connection, past the head of the answer.
    pub stream: Stream,
    /// What was already read of it.
    pub buffered: Bytes,
    /// Says when it must end although both sides would go on.
    pub revocable: Option<Rc<dyn Revocable>>,
    /// What is to be given back when it ends.
    pub held: Vec<Box<dyn Any>>,
}

/// Something that was let through and may have to end.
pub trait Revocable {
    /// Ready when it must end.
    fn poll_revoked(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// One piece of a body.
#[derive(Debug)]
pub enum Frame {
    /// Bytes, never empty.
    Data(Bytes),
    /// The trailer section; nothing follows it.
    Trailers(Headers),
}

/// Why a body ended before its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the body ended early: {reason}")]
pub struct BodyError {
    /// What is said about it.
    pub reason: Reason,
    /// Whether the peer that sends this body went away, so that nobody waits for an answer.
    pub aborted: bool,
}

/// A body of another make, for wrappers off the common path.
pub trait LocalBody {
    /// As [`Body::poll_frame`].
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>>;

    /// As [`Body::exact_length`].
    fn exact_length(&self) -> Option<u64> {
        None
    }

    /// As [`Body::is_end`].
    fn is_end(&self) -> bool {
        false
    }

    /// As [`Body::poll_progress`].
    fn poll_progress(&mut self, _cx: &mut Context<'_>) {}

    /// As [`Body::poll_broken`].
    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<BodyError> {
        Poll::Pending
    }

    /// As [`Body::poll_finish`].
    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

struct Inspected<F> {
    body: Body,
    look: F,
}

// === impl Body ===

impl Body {
    /// Whether all of it is here, so that it can be sent again.
    pub fn is_at_hand(&self) -> bool {
        matches!(self, Self::Empty | Self::Full(_))
    }

    /// The same, with `look` at each frame as it passes: to count it, or to edit it.
    pub fn inspected(self, look: impl FnMut(&mut Frame) + 'static) -> Self {
        Self::Boxed(Box::new(Inspected { body: self, look }))
    }

    /// The next frame. `None` is the end, after which it stays `None`.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                if bytes.is_empty() { Poll::Ready(None) } else { Poll::Ready(Some(Ok(Frame::Data(bytes)))) }
            }
            Self::H1(body) => body.poll_frame(cx),
            Self::H2(body) => body.poll_frame(cx),
            Self::Replay(body) => body.poll_frame(cx),
            Self::Boxed(body) => body.poll_frame(cx),
        }
    }

    /// Lets a writer that is blocked on its own socket keep driving what this body needs itself:
    /// the answer's body holds the request's upload, which must go on for the answer to go on.
    pub fn poll_progress(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Empty | Self::Full(_) | Self::Tunnel(_) => {}
            Self::H1(body) => body.poll_progress(cx),
            Self::H2(body) => body.poll_progress(cx),
            Self::Replay(body) => body.poll_progress(cx),
            Self::Boxed(body) => body.poll_progress(cx),
        }
    }

    /// Ready when the body must end, asked by a writer that is blocked on its own socket: a client that
    /// takes nothing must not keep open what it may not have any more.
    pub fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        match self {
            Self::Boxed(body) => body.poll_broken(cx),
            _ => Poll::Pending,
        }
    }

    /// Lets what this body holds come to its end, once its last frame was written: a server that
    /// answers in full before it has read the request still gets the rest of it. Dropping the
    /// body instead cuts that short.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Empty | Self::Full(_) | Self::Tunnel(_) | Self::H2(_) => Poll::Ready(()),
            Self::H1(body) => body.poll_finish(cx),
            Self::Replay(body) => body.poll_finish(cx),
            Self::Boxed(body) => body.poll_finish(cx),
        }
    }

    /// How many bytes are still to come, if that is certain.
    pub fn exact_length(&self) -> Option<u64> {
        match self {
            Self::Empty | Self::Tunnel(_) => Some(0),
            Self::Full(bytes) => Some(bytes.len() as u64),
            Self::H1(body) => body.exact_length(),
            Self::H2(body) => body.exact_length(),
            Self::Replay(body) => body.exact_length(),
            Self::Boxed(body) => body.exact_length(),
        }
    }

    /// Whether it is certain that no frame follows, trailers included.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::H1(body) => body.is_end(),
            Self::H2(body) => body.is_end(),
            Self::Replay(body) => body.is_end(),
            Self::Boxed(body) => body.is_end(),
        }
    }

    /// Waits for the next frame.
    pub async fn frame(&mut self) -> Option<Result<Frame, BodyError>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Reads all data and the trailers, up to `max` bytes; more than that is an error.
    pub async fn collect(&mut self, max: usize) -> Result<(Bytes, Option<Headers>), BodyError> {
        let mut all = BytesMut::new();
        let mut trailers = None;
        while let Some(frame) = self.frame().await {
            match frame? {
                Frame::Data(data) if all.len() + data.len() > max => {
                    return Err(BodyError::new(Reason::Overloaded));
                }
                Frame::Data(data) => all.extend_from_slice(&data),
                Frame::Trailers(fields) => trailers = Some(fields),
            }
        }
        Ok((all.freeze(), trailers))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::H1(_) => "H1",
            Self::H2(_) => "H2",
            Self::Replay(_) => "Replay",
            Self::Boxed(_) => "Boxed",
            Self::Tunnel(_) => "Tunnel",
        };
        f.debug_struct(kind).field("exact_length", &self.exact_length()).finish_non_exhaustive()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

// === impl BodyError ===

impl BodyError {
    /// An error that is not the sender's leaving.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, aborted: false }
    }

    /// The sender went away.
    pub const fn aborted(reason: Reason) -> Self {
        Self { reason, aborted: true }
    }
}
// === impl Inspected ===

impl<F: FnMut(&mut Frame)> LocalBody for Inspected<F> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut frame = self.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut frame {
            (self.look)(frame);
        }
        frame
    }

    fn exact_length(&self) -> Option<u64> {
        self.body.exact_length()
    }

    fn is_end(&self) -> bool {
        self.body.is_end()
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) {
        self.body.poll_progress(cx);
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        self.body.poll_broken(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.body.poll_finish(cx)
    }
}
