//! HTTP/1.1, server and client: our own codec.
//!
//! `server::serve` turns a connection into calls of a handler; `client` sends requests on one.
//! Between them stand `parse` and `encode` (heads), `framing` (how long a body is), `chunked`,
//! `reader` and `writer` (bodies). Parsing is strict and does no I/O: what two parsers could read
//! in two ways is refused, and nothing is repaired. One connection is one task; nothing is boxed,
//! spawned or sent through a channel on the way of a request.

mod authority;
pub mod chunked;
mod client;
#[cfg(test)]
mod client_tests;
pub(crate) mod encode;
pub mod framing;
mod output;
pub mod parse;
mod reader;
mod responder;
mod server;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
mod upload;
mod wire;
mod writer;

pub use authority::valid_authority;
pub use client::{ClientConnection, Delivered, Recycle, ResponseBody, SendError};
pub use server::{ConnectionError, Drain, Handler, NoDrain, Outcome, serve};
pub use wire::RequestBody;

use crate::http::{BodyError, Frame};
use std::task::{Context, Poll};

/// A body that arrives on an HTTP/1 connection.
pub enum Incoming {
    /// A request's.
    Request(RequestBody),
    /// An answer's.
    Response(ResponseBody),
}

// === impl Incoming ===

impl Incoming {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Self::Request(body) => body.poll_frame(cx),
            Self::Response(body) => body.poll_frame(cx),
        }
    }

    pub(crate) fn poll_progress(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Request(_) => {}
            Self::Response(body) => body.poll_progress(cx),
        }
    }

    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Request(_) => Poll::Ready(()),
            Self::Response(body) => body.poll_finish(cx),
        }
    }

    pub(crate) fn exact_length(&self) -> Option<u64> {
        match self {
            Self::Request(body) => body.exact_length(),
            Self::Response(body) => body.exact_length(),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Request(body) => body.is_end(),
            Self::Response(body) => body.is_end(),
        }
    }
}
