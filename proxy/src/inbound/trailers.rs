//! The trailers of a request's body: a field that only the mesh writes comes no later than in the head. Who
//! merges trailers into the head (RFC 9110, section 6.5.1) would else take a client's word for the mesh's.

use super::authorizer::Edits;
use crate::http::{Body, Frame};
use std::sync::Arc;
use weft_model::request_authentication::RequestAuthenticationSet;

/// Keeps fields that the workload's token rules write, or that an authorizer has decided about, out of the
/// trailers of a body that may have some.
pub fn guard(body: Body, tokens: &Arc<RequestAuthenticationSet>, edits: Option<&Edits>) -> Body {
    let edited: Vec<Box<str>> = edits.into_iter().flat_map(Edits::names).map(Into::into).collect();
    if body.is_at_hand() || (tokens.written_headers().is_empty() && edited.is_empty()) {
        return body;
    }
    let tokens = tokens.clone();
    body.inspected(move |frame| {
        if let Frame::Trailers(trailers) = frame {
            for name in tokens.written_headers().iter().chain(&edited) {
                trailers.remove_spellings(name);
            }
        }
    })
}
