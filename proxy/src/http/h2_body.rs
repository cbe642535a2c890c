//! A body that arrives on an HTTP/2 stream: a request's at the server, an answer's at the client.
//!
//! Window is given back to the sender only when the reader comes for more, so that what a slow
//! reader has not written on stays charged to the sender. At the client the rest of the request's
//! upload rides in here, since the answer may depend on it. Dropping the body before its end
//! resets the stream.

use super::body::{BodyError, Frame};
use crate::h2::{Outgoing, OutgoingError, Peer, Ticket, trailers_from_map};
use ::h2::{Reason as Code, RecvStream};
use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use weft_model::reason::Reason;

/// Window is given back in pieces of this size, or when there is nothing to read: one message to
/// the connection instead of one per frame.
const RELEASE_BYTES: usize = 32 * 1024;

/// At the end of a body less than this is left to the end of the stream, which comes soon enough.
const RELEASE_LATE_BYTES: usize = 4 * 1024;

/// A body on an HTTP/2 stream.
pub struct H2Body {
    stream: RecvStream,
    peer: Rc<Peer>,
    /// Given to the reader, and not yet given back as window.
    handed: usize,
    remaining: Option<u64>,
    phase: Phase,
    side: Side,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Phase {
    Data,
    Trailers,
    /// Found while nobody was reading; told at the next poll.
    Failed(BodyError),
    End,
}

enum Side {
    /// At the server. The cell tells the exchange that the body was asked for (`Expect`).
    Request(Option<Rc<Cell<bool>>>),
    /// At the client.
    Response { upload: Option<Box<Outgoing>>, ticket: Option<Ticket> },
}

// === impl H2Body ===

impl H2Body {
    /// The body of a request that a server received.
    pub(crate) fn request(
        stream: RecvStream,
        remaining: Option<u64>,
        peer: Rc<Peer>,
        wanted: Option<Rc<Cell<bool>>>,
    ) -> Self {
        Self { stream, peer, handed: 0, remaining, phase: Phase::Data, side: Side::Request(wanted) }
    }

    /// The body of a response that a client received, and what is left of the request.
    pub(crate) fn response(
        stream: RecvStream,
        remaining: Option<u64>,
        peer: Rc<Peer>,
        upload: Option<Box<Outgoing>>,
        ticket: Ticket,
    ) -> Self {
        let side = Side::Response { upload, ticket: Some(ticket) };
        Self { stream, peer, handed: 0, remaining, phase: Phase::Data, side }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self.phase {
            Phase::End => return Poll::Ready(None),
            Phase::Failed(error) => return Poll::Ready(Some(Err(self.fail(error)))),
            Phase::Data | Phase::Trailers => {}
        }
        if let Err(error) = self.drive(cx) {
            return Poll::Ready(Some(Err(self.fail(error))));
        }
        if self.handed >= RELEASE_BYTES {
            self.release();
        }
        while self.phase == Phase::Data {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
                Poll::Ready(Some(Ok(data))) => {
                    self.handed += data.len();
                    self.remaining =
                        self.remaining.map(|remaining| remaining.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Poll::Ready(Some(Err(error))) => {
                    let error = self.lost(&error);
                    return Poll::Ready(Some(Err(self.fail(error))));
                }
                Poll::Ready(None) => self.phase = Phase::Trailers,
                Poll::Pending => {
                    self.release();
                    return Poll::Pending;
                }
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Ok(Some(map)) => {
                self.finish();
                Poll::Ready(Some(match trailers_from_map(&map, &self.peer) {
                    Ok(trailers) => Ok(Frame::Trailers(trailers)),
                    Err(reason) => Err(BodyError::new(self.trailer_reason(reason))),
                }))
            }
            Err(error) => {
                let error = self.lost(&error);
                Poll::Ready(Some(Err(self.fail(error))))
            }
        }
    }

    pub(crate) fn poll_progress(&mut self, cx: &mut Context<'_>) {
        if matches!(self.phase, Phase::Data | Phase::Trailers)
            && let Err(error) = self.drive(cx)
        {
            self.phase = Phase::Failed(error);
        }
    }

    pub(crate) fn exact_length(&self) -> Option<u64> {
        if matches!(self.phase, Phase::Data | Phase::Failed(_)) { self.remaining } else { Some(0) }
    }

    pub(crate) fn is_end(&self) -> bool {
        match self.phase {
            Phase::End => true,
            Phase::Failed(_) => false,
            Phase::Data | Phase::Trailers => self.stream.is_end_stream(),
        }
    }

    /// Drives the upload, or tells that the body is wanted.
    fn drive(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        match &mut self.side {
            Side::Request(wanted) => {
                if let Some(wanted) = wanted.take() {
                    wanted.set(true);
                }
            }
            Side::Response { upload: None, .. } => {}
            Side::Response { upload: upload @ Some(_), .. } => {
                let Some(outgoing) = upload else { return Ok(()) };
                match outgoing.poll(cx) {
                    Poll::Pending => {}
                    // Sent, or not wanted any more: the answer says what became of the request.
                    Poll::Ready(Ok(()) | Err(OutgoingError::Gone)) => *upload = None,
                    Poll::Ready(Err(OutgoingError::Body(error))) => {
                        outgoing.reset(Code::CANCEL);
                        *upload = None;
                        return Err(error);
                    }
                    Poll::Ready(Err(OutgoingError::Stalled)) => {
                        outgoing.reset(Code::CANCEL);
                        *upload = None;
                        return Err(BodyError::new(Reason::RequestTimeout));
                    }
                }
            }
        }
        Ok(())
    }

    fn release(&mut self) {
        if self.handed > 0 {
            // It fails only for more than was received.
            let _ = self.stream.flow_control().release_capacity(self.handed);
            self.handed = 0;
        }
    }

    fn finish(&mut self) {
        self.phase = Phase::End;
        if let Side::Response { upload, ticket } = &mut self.side {
            *upload = None;
            *ticket = None;
        }
    }

    fn fail(&mut self, error: BodyError) -> BodyError {
        self.finish();
        error
    }

    /// What a broken stream means on this side.
    fn lost(&self, error: &::h2::Error) -> BodyError {
        match self.side {
            // The protocol library found the body at odds with its length.
            Side::Request(_) if error.is_library() => BodyError::new(Reason::BodyMalformed),
            // As on HTTP/1: what came is not a whole body, and nobody waits for an answer.
            Side::Request(_) => BodyError::aborted(Reason::BodyMalformed),
            Side::Response { .. } if error.is_library() && error.is_reset() => {
                BodyError::new(Reason::ResponseMalformed)
            }
            Side::Response { .. } => BodyError::aborted(Reason::ConnectionReset),
        }
    }

    fn trailer_reason(&self, reason: Reason) -> Reason {
        match (&self.side, reason) {
            (Side::Request(_), reason) => reason,
            (Side::Response { .. }, Reason::HeaderTooLarge) => Reason::ResponseHeaderTooLarge,
            (Side::Response { .. }, _) => Reason::ResponseMalformed,
        }
    }
}

impl Drop for H2Body {
    fn drop(&mut self) {
        // The answer may take its time; what it waits on must not hold the other streams' window.
        if self.handed >= RELEASE_LATE_BYTES {
            self.release();
        }
    }
}
