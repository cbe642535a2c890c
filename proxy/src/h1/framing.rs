//! How long a message is: the one place that reads Content-Length and Transfer-Encoding.
//!
//! A length that can be read in two ways is refused (RFC 9112, section 6.3 leaves a choice; other
//! parsers choose otherwise, which is how requests are smuggled). It also says whether a
//! connection may be used again.

use crate::http::{Headers, Known, KnownSet, Method, RequestHead, ResponseHead, StatusCode, Version};
use weft_model::reason::Reason;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// The last chunk.
    Chunked,
    /// The end of the connection; responses only.
    Close,
}

const LENGTHS: KnownSet = KnownSet::EMPTY.with(Known::ContentLength).with(Known::TransferEncoding);

/// The framing of a request.
pub fn of_request(head: &RequestHead) -> Result<Framing, Reason> {
    let headers = head.headers();
    if !headers.contains_any(LENGTHS) {
        return Ok(Framing::None);
    }
    if headers.contains(Known::TransferEncoding) {
        if headers.contains(Known::ContentLength) || head.version == Version::Http10 {
            return Err(Reason::RequestFramingAmbiguous);
        }
        return if is_chunked(headers) {
            Ok(Framing::Chunked)
        } else {
            Err(Reason::TransferCodingUnsupported)
        };
    }
    let mut lengths = headers.get_all(Known::ContentLength);
    let length = lengths.next().unwrap_or_default();
    if lengths.next().is_some() || length.contains(&b',') {
        return Err(Reason::RequestFramingAmbiguous);
    }
    number(length).map(Framing::Length).ok_or(Reason::RequestMalformed)
}

/// The framing of the response to a request of this method.
pub fn of_response(head: &ResponseHead, method: &Method) -> Result<Framing, Reason> {
    let headers = head.headers();
    let bodiless = *method == Method::HEAD || has_no_body(head.status);
    if !headers.contains_any(LENGTHS) {
        return Ok(if bodiless { Framing::None } else { Framing::Close });
    }
    let framing = if headers.contains(Known::TransferEncoding) {
        let alone = !headers.contains(Known::ContentLength) && head.version != Version::Http10;
        if !alone || !is_chunked(headers) {
            return Err(Reason::ResponseMalformed);
        }
        Framing::Chunked
    } else {
        let mut lengths = headers.get_all(Known::ContentLength);
        let length = lengths.next().and_then(number).filter(|_| lengths.next().is_none());
        Framing::Length(length.ok_or(Reason::ResponseMalformed)?)
    };
    Ok(if bodiless { Framing::None } else { framing })
}

/// Whether a response of this status never has a body.
pub(crate) fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// Whether the message lets its connection be used again (RFC 9112, section 9.3).
pub(crate) fn keeps_alive(headers: &Headers, version: Version) -> bool {
    if !headers.contains(Known::Connection) {
        return version != Version::Http10;
    }
    let close = headers.has_element(Known::Connection, "close");
    !close && (version != Version::Http10 || headers.has_element(Known::Connection, "keep-alive"))
}

/// Whether Content-Length is there once and says exactly this.
pub(crate) fn says_length(headers: &Headers, length: u64) -> bool {
    let mut lengths = headers.get_all(Known::ContentLength);
    match (lengths.next(), lengths.next()) {
        // Without leading zeros, so that what is kept is what we would have written.
        (Some(value), None) => number(value) == Some(length) && (value.len() == 1 || value[0] != b'0'),
        _ => false,
    }
}

/// Whether Transfer-Encoding is there once and says exactly `chunked`.
pub(crate) fn is_chunked(headers: &Headers) -> bool {
    let mut codings = headers.get_all(Known::TransferEncoding);
    match (codings.next(), codings.next()) {
        (Some(coding), None) => coding.eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

/// Decimal digits and nothing else, within 63 bits.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    let mut number: u64 = 0;
    for byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    i64::try_from(number).is_ok().then_some(number)
}
