//! Functions of a request's way that nothing outside this crate calls, for `weft-bench micro` to measure.
//! Nothing here does more than call the function that the data path calls.

use crate::access_log::Entry;
use crate::h1::encode::{self, Answering};
use crate::h2::{self, Peer};
use crate::http::{Limits, RequestHead, ResponseHead, Version};

/// Writes a request's head as HTTP/1.1.
pub fn encode_request(head: &RequestHead, length: Option<u64>, text: &mut Vec<u8>) {
    encode::request(head, length, text);
}

/// Writes an answer's head as HTTP/1.1.
pub fn encode_response(head: &ResponseHead, length: Option<u64>, text: &mut Vec<u8>) {
    let answering = Answering { head: false, version: Version::Http11, close: false };
    encode::response(head, length, answering, text);
}

/// A request's head as it goes to another proxy over HTTP/2.
pub fn request_to_h2(head: &mut RequestHead, length: Option<u64>) -> Option<http::Request<()>> {
    h2::request_to_h2(head, length, true).ok()
}

/// A request's head as it came from another proxy over HTTP/2.
pub fn request_from_h2(parts: http::request::Parts) -> Option<RequestHead> {
    h2::request_from_h2(parts, &peer()).ok()
}

/// An answer's head as it goes to another proxy over HTTP/2.
pub fn response_to_h2(head: &mut ResponseHead, length: Option<u64>) -> http::Response<()> {
    h2::response_to_h2(head, length, false, true)
}

/// An answer's head as it came from another proxy over HTTP/2.
pub fn response_from_h2(parts: &http::response::Parts) -> Option<ResponseHead> {
    h2::response_from_h2(parts, &peer()).ok()
}

/// The bytes of a line of the access log.
pub fn access_log_line(entry: &Entry<'_>) -> usize {
    entry.line().len()
}

fn peer() -> Peer {
    Peer { limits: Limits::default(), mesh: true }
}
