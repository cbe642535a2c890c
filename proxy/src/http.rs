//! Our own HTTP types: heads, header fields, bodies.
//!
//! Everything between the two codecs (`h1`, `h2`) speaks these types, so a message is parsed once
//! and judged, routed, logged and forwarded in one form. They belong to one thread: nothing here
//! is `Send`, nothing takes a lock.

mod body;
pub mod filter;
mod grammar;
mod h2_body;
mod head;
mod headers;
mod known;
pub mod limits;
pub mod replay;
pub mod respond;
mod source;
#[cfg(test)]
mod tests;

pub use body::{Body, BodyError, Frame, LocalBody, Revocable, Tunnel};
pub use grammar::{elements, is_token, is_value};
pub(crate) use grammar::{is_token_byte, is_value_byte, position, value_run};
pub use h2_body::H2Body;
pub use head::{RequestHead, ResponseHead, Scheme, TargetError, Version};
pub(crate) use headers::{Field, Span};
pub use headers::{FieldRef, HeaderError, Headers};
pub use http::{Method, StatusCode};
pub use known::{Known, KnownSet};
pub use limits::Limits;

use bytes::Bytes;
use weft_model::reason::Reason;

/// A request.
#[derive(Debug)]
pub struct Request {
    /// What stands before the body.
    pub head: RequestHead,
    /// The body.
    pub body: Body,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    /// What stands before the body.
    pub head: ResponseHead,
    /// The body.
    pub body: Body,
}

// === impl Request ===

impl Request {
    /// A request from its parts.
    pub const fn new(head: RequestHead, body: Body) -> Self {
        Self { head, body }
    }
}

// === impl Response ===

impl Response {
    /// A response from its parts.
    pub const fn new(head: ResponseHead, body: Body) -> Self {
        Self { head, body }
    }

    /// A response without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self::new(ResponseHead::new(status, Headers::new()), Body::Empty)
    }

    /// A response with a text for people.
    pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        let mut headers = Headers::with_capacity(4, 128);
        // A constant that follows the grammar.
        let _ = headers.append_known(Known::ContentType, b"text/plain; charset=utf-8");
        Self::new(ResponseHead::new(status, headers), Body::from(text.into()))
    }

    /// The answer the mesh gives itself: status, `x-weft-reason` and one sentence.
    pub fn local(reason: Reason) -> Self {
        let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Self::text(status, format!("weft: {}\n", reason.text()));
        // Labels are constants that follow the grammar.
        let _ = response.head.headers_mut().append_known(Known::XWeftReason, reason.label().as_bytes());
        response
    }
}
