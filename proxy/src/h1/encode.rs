//! Heads and trailer sections, from our types to bytes.
//!
//! Lines come out as they came in, in one copy per run of neighbours. Framing and Connection are
//! written by this hop alone: a framing field of the other hop is kept only where it says exactly
//! what we would say. Nothing is checked here; what can be made can be written.

use super::framing::{Framing, has_no_body, is_chunked, says_length};
use super::parse::TRAILERS_FORBIDDEN;
use crate::http::{Headers, Known, KnownSet, Method, RequestHead, ResponseHead, StatusCode, Version};

/// Fields that each hop writes for itself.
const CONNECTION: KnownSet =
    KnownSet::EMPTY.with(Known::Connection).with(Known::KeepAlive).with(Known::ProxyConnection);

/// What a response answers, as far as its encoding depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answering {
    /// The request was HEAD.
    pub(crate) head: bool,
    /// The client's version.
    pub(crate) version: Version,
    /// The connection ends after the answer.
    pub(crate) close: bool,
}

/// Writes a request head; returns how its body is to be framed.
pub(crate) fn request(head: &RequestHead, length: Option<u64>, text: &mut Vec<u8>) -> Framing {
    let headers = head.headers();
    let framing = length.map_or(Framing::Chunked, Framing::Length);
    text.extend_from_slice(head.method.as_str().as_bytes());
    text.push(b' ');
    text.extend_from_slice(head.path_and_query().as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\n");
    if !headers.contains(Known::Host) {
        field(b"Host", head.authority().as_bytes(), text);
    }
    let mut skip = CONNECTION;
    let upgrade = head.upgrade().is_some();
    if !upgrade {
        skip.insert(Known::Upgrade);
        skip.insert(Known::Http2Settings);
    }
    skip_framing(headers, framing, &mut skip);
    fields(headers, skip, text);
    match (upgrade, headers.contains(Known::Te)) {
        (true, _) => field(b"Connection", b"Upgrade", text),
        (false, true) => field(b"Connection", b"TE", text),
        (false, false) => {}
    }
    let expects_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    if framing != Framing::Length(0) || expects_body {
        write_framing(headers, framing, skip, text);
    }
    text.extend_from_slice(b"\r\n");
    framing
}

/// Writes a response head; returns how its body is to be framed.
pub(crate) fn response(
    head: &ResponseHead,
    length: Option<u64>,
    answering: Answering,
    text: &mut Vec<u8>,
) -> Framing {
    let headers = head.headers();
    let bodiless = answering.head || has_no_body(head.status);
    let framing = match length {
        Some(length) => Framing::Length(length),
        None if answering.version == Version::Http10 => Framing::Close,
        None => Framing::Chunked,
    };
    status_line(head, text);
    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let mut skip = CONNECTION;
    if !upgraded {
        skip.insert(Known::Upgrade);
    }
    if !bodiless {
        skip_framing(headers, framing, &mut skip);
    } else {
        // What a GET would get, as the server said it (RFC 9110, section 8.6); else nothing.
        skip.insert(Known::TransferEncoding);
        if !answering.head && head.status != StatusCode::NOT_MODIFIED {
            skip.insert(Known::ContentLength);
        }
    }
    fields(headers, skip, text);
    if upgraded {
        field(b"Connection", b"Upgrade", text);
    } else if answering.close || framing == Framing::Close {
        field(b"Connection", b"close", text);
    } else if answering.version == Version::Http10 {
        field(b"Connection", b"keep-alive", text);
    }
    let local_head = answering.head && !headers.contains(Known::ContentLength);
    if !bodiless || local_head && !matches!(framing, Framing::Length(0) | Framing::Chunked) {
        write_framing(headers, framing, skip, text);
    }
    text.extend_from_slice(b"\r\n");
    if bodiless { Framing::None } else { framing }
}

fn status_line(head: &ResponseHead, text: &mut Vec<u8>) {
    text.extend_from_slice(b"HTTP/1.1 ");
    text.extend_from_slice(head.status.as_str().as_bytes());
    text.push(b' ');
    text.extend_from_slice(head.phrase());
    text.extend_from_slice(b"\r\n");
}

/// Writes the line before a chunk of so many bytes.
pub(crate) fn chunk_size(size: usize, text: &mut Vec<u8>) {
    number(size as u64, 16, text);
    text.extend_from_slice(b"\r\n");
}

/// Writes the last chunk and the trailer section.
pub(crate) fn last_chunk(trailers: Option<&Headers>, text: &mut Vec<u8>) {
    text.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(trailers, TRAILERS_FORBIDDEN, text);
    }
    text.extend_from_slice(b"\r\n");
}

/// Adds to `skip` the framing fields that do not say what this framing says.
fn skip_framing(headers: &Headers, framing: Framing, skip: &mut KnownSet) {
    if !matches!(framing, Framing::Length(length) if says_length(headers, length)) {
        skip.insert(Known::ContentLength);
    }
    if framing != Framing::Chunked || !is_chunked(headers) {
        skip.insert(Known::TransferEncoding);
    }
}

/// Writes the framing field, unless a kept one says it.
fn write_framing(headers: &Headers, framing: Framing, skip: KnownSet, text: &mut Vec<u8>) {
    let kept = |known| headers.contains(known) && !skip.contains(known);
    match framing {
        Framing::Length(length) if !kept(Known::ContentLength) => {
            text.extend_from_slice(b"Content-Length: ");
            number(length, 10, text);
            text.extend_from_slice(b"\r\n");
        }
        Framing::Chunked if !kept(Known::TransferEncoding) => field(b"Transfer-Encoding", b"chunked", text),
        _ => {}
    }
}

fn field(name: &[u8], value: &[u8], text: &mut Vec<u8>) {
    text.extend_from_slice(name);
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

/// Writes the fields that are not in `skip`.
fn fields(headers: &Headers, skip: KnownSet, text: &mut Vec<u8>) {
    let arena = headers.text.as_slice();
    // A run of lines that lie one behind the other in the arena.
    let mut run = 0..0;
    for line in &headers.fields {
        if skip.contains(line.known) {
            continue;
        }
        let start = line.name_start as usize;
        if line.verbatim {
            let end = line.value.end() as usize + 2;
            if start == run.end {
                run.end = end;
            } else {
                text.extend_from_slice(arena.get(run).unwrap_or_default());
                run = start..end;
            }
        } else {
            text.extend_from_slice(arena.get(std::mem::take(&mut run)).unwrap_or_default());
            field(line.name(arena), line.value.of(arena), text);
        }
    }
    text.extend_from_slice(arena.get(run).unwrap_or_default());
}

/// Writes a number in base 10 or 16.
fn number(mut number: u64, base: u64, text: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[start..]);
}
