//! The trailers of a request's body: a field that only the mesh writes comes no later than in the head. Who
//! merges trailers into the head (RFC 9110, section 6.5.1) would else take a client's word for the mesh's.

use super::authorizer::Edits;
use crate::http::{Body, BodyError, Frame, LocalBody};
use std::sync::Arc;
use std::task::{Context, Poll};
use weft_model::request_authentication::RequestAuthenticationSet;

struct Guarded {
    body: Body,
    tokens: Arc<RequestAuthenticationSet>,
    edited: Vec<Box<str>>,
}

/// Keeps fields that the workload's token rules write, or that an authorizer has decided about, out of the
/// trailers of a body that may have some.
pub fn guard(body: Body, tokens: &Arc<RequestAuthenticationSet>, edits: Option<&Edits>) -> Body {
    let edited: Vec<Box<str>> = edits.into_iter().flat_map(Edits::names).map(Into::into).collect();
    if body.is_at_hand() || (tokens.written_headers().is_empty() && edited.is_empty()) {
        return body;
    }
    Body::Boxed(Box::new(Guarded { body, tokens: tokens.clone(), edited }))
}

impl LocalBody for Guarded {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut frame = self.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) = &mut frame {
            for name in self.tokens.written_headers().iter().chain(&self.edited) {
                trailers.remove_spellings(name);
            }
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
