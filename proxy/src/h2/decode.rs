//! Heads and trailers on their way in: from the `h2` crate's types to ours.
//!
//! This judges what the protocol library lets pass: one authority, a path of RFC 3986, one
//! Content-Length, no spaces around values, the number and size of fields. Pseudo fields and Host
//! are one thing afterwards: the authority, which is the Host field as on HTTP/1. The internal
//! fields of the mesh end here. (The library cuts a `#fragment` off the path before we see it.)

use super::case::{CASE, PHRASE, Spelling};
use crate::h1::parse::{TRAILERS_FORBIDDEN, valid_target};
use crate::h1::valid_authority;
use crate::http::respond::is_internal;
use crate::http::{
    Field, Headers, Known, KnownSet, Limits, Method, RequestHead, ResponseHead, Scheme, Span, Version,
};
use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use weft_model::reason::Reason;

/// As in HTTP/1.
const METHOD_BYTES_MAX: usize = 32;

/// Room for what is added to a head on its way, as on HTTP/1: without it each would be copied to grow.
const ROOM_BYTES: usize = 192;
const ROOM_FIELDS: usize = 4;

/// Who is at the other end of a connection, and what may come from there.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) limits: Limits,
    /// Another proxy.
    pub(crate) mesh: bool,
}

/// What the mesh says about an answer. It may come in a trailer section, when the answer broke
/// after its head, but only from another proxy.
const OURS: KnownSet = KnownSet::EMPTY
    .with(Known::XWeftReason)
    .with(Known::XWeftUndelivered)
    .with(Known::XWeftAttempt)
    .with(Known::XWeftDeadline)
    .with(Known::XWeftRetry);

/// The request as it came in.
pub(crate) fn request_from_h2(parts: http::request::Parts, peer: &Peer) -> Result<RequestHead, Reason> {
    let limits = &peer.limits;
    let map = &parts.headers;
    if parts.method == Method::CONNECT {
        return Err(Reason::MethodUnsupported);
    }
    if parts.method.as_str().len() > METHOD_BYTES_MAX {
        return Err(Reason::RequestMalformed);
    }
    let scheme = match parts.uri.scheme_str() {
        None | Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        Some(_) => return Err(Reason::RequestMalformed),
    };
    let authority = authority_of(&parts.uri, map)?;
    let target = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if target.len() > limits.target_bytes_max {
        return Err(Reason::TargetTooLong);
    }
    if !valid_target(target.as_bytes(), &parts.method) {
        return Err(Reason::RequestMalformed);
    }
    let size = check(map, limits, target.len() + authority.len()).map_err(|problem| match problem {
        Problem::TooLarge => Reason::HeaderTooLarge,
        Problem::Length => Reason::RequestFramingAmbiguous,
        Problem::Value => Reason::RequestMalformed,
    })?;

    let spelling = spelling_of(map, peer.mesh);
    let mut writer = Writer::new(size, map.len() + 1, spelling);
    let target = writer.push(target.as_bytes());
    let host = writer.field(Known::Host, "host", authority);
    writer.fields_of(map);
    let headers = Headers::from_parts(writer.text, writer.fields, writer.present);
    Ok(RequestHead::from_parts(parts.method, Version::Http2, scheme, headers, host, target))
}

/// The response as it came in.
pub(crate) fn response_from_h2(parts: &http::response::Parts, peer: &Peer) -> Result<ResponseHead, Reason> {
    let map = &parts.headers;
    let size = check(map, &peer.limits, 0).map_err(|problem| match problem {
        Problem::TooLarge => Reason::ResponseHeaderTooLarge,
        Problem::Length | Problem::Value => Reason::ResponseMalformed,
    })?;
    let mut writer = Writer::new(size, map.len(), spelling_of(map, peer.mesh));
    let phrase = map.get(PHRASE).filter(|_| peer.mesh).map(|phrase| writer.push(phrase.as_bytes()));
    writer.fields_of(map);
    let headers = Headers::from_parts(writer.text, writer.fields, writer.present);
    Ok(match phrase {
        Some(phrase) => ResponseHead::from_parts(parts.status, Version::Http2, headers, phrase),
        None => {
            let mut head = ResponseHead::new(parts.status, headers);
            head.version = Version::Http2;
            head
        }
    })
}

/// Trailers as they came in.
pub(crate) fn trailers_from_map(map: &HeaderMap, peer: &Peer) -> Result<Headers, Reason> {
    let size = check(map, &peer.limits, 0).map_err(|problem| match problem {
        Problem::TooLarge => Reason::HeaderTooLarge,
        Problem::Length | Problem::Value => Reason::BodyMalformed,
    })?;
    let mut writer = Writer::new(size, map.len(), Spelling::default());
    for (name, value) in map {
        let known = Known::of(name.as_str().as_bytes());
        let ours = OURS.contains(known) || name == CASE || name == PHRASE;
        if !ours && (TRAILERS_FORBIDDEN.contains(known) || is_internal(name.as_str().as_bytes())) {
            return Err(Reason::BodyMalformed);
        }
        if !ours || (peer.mesh && known == Known::XWeftReason) {
            writer.field(known, name.as_str(), value.as_bytes());
        }
    }
    Ok(Headers::from_parts(writer.text, writer.fields, writer.present))
}

/// Exactly one authority: `:authority`, or Host in its place, or both alike.
fn authority_of<'a>(uri: &'a http::Uri, map: &'a HeaderMap) -> Result<&'a [u8], Reason> {
    let mut hosts = map.get_all(HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err(Reason::HostInvalid);
    }
    let authority = match (uri.authority(), host) {
        (Some(authority), None) => authority.as_str().as_bytes(),
        (Some(authority), Some(host)) if authority.as_str().as_bytes().eq_ignore_ascii_case(host) => host,
        (Some(_), Some(_)) => return Err(Reason::AuthorityMismatch),
        (None, Some(host)) => host,
        (None, None) => return Err(Reason::HostInvalid),
    };
    if valid_authority(authority) { Ok(authority) } else { Err(Reason::HostInvalid) }
}

enum Problem {
    TooLarge,
    Length,
    Value,
}

/// Judges a block; gives the bytes its text will take.
fn check(map: &HeaderMap, limits: &Limits, more: usize) -> Result<usize, Problem> {
    // As many lines as HTTP/1 would have; cookie crumbs count each.
    if map.len() > limits.fields_max {
        return Err(Problem::TooLarge);
    }
    let mut size = more + 8;
    for (name, value) in map {
        let value = value.as_bytes();
        if matches!(value.first(), Some(b' ' | b'\t')) || matches!(value.last(), Some(b' ' | b'\t')) {
            return Err(Problem::Value);
        }
        size += name.as_str().len() + value.len() + 4;
    }
    if size > limits.head_bytes_max {
        return Err(Problem::TooLarge);
    }
    // Equal ones are refused too, as in HTTP/1: whoever writes two has two minds.
    if map.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Problem::Length);
    }
    if map.get(CONTENT_LENGTH).is_some_and(|value| value.is_empty()) {
        return Err(Problem::Length);
    }
    Ok(size)
}

fn spelling_of(map: &HeaderMap, mesh: bool) -> Spelling<'_> {
    match map.get(CASE) {
        Some(value) if mesh => Spelling::parse(value.as_bytes()),
        _ => Spelling::default(),
    }
}

/// Writes a block in the form that `Headers` keeps.
struct Writer<'a> {
    text: Vec<u8>,
    fields: Vec<Field>,
    present: KnownSet,
    spelling: Spelling<'a>,
}

impl<'a> Writer<'a> {
    fn new(text: usize, fields: usize, spelling: Spelling<'a>) -> Self {
        Self {
            text: Vec::with_capacity(text + ROOM_BYTES),
            fields: Vec::with_capacity(fields + ROOM_FIELDS),
            present: KnownSet::EMPTY,
            spelling,
        }
    }

    fn push(&mut self, text: &[u8]) -> Span {
        let span = Span { start: self.text.len() as u32, length: text.len() as u32 };
        self.text.extend_from_slice(text);
        span
    }

    /// Begins a line: `name: `.
    fn begin(&mut self, name: &str) -> (u32, u16) {
        let start = self.text.len() as u32;
        self.spelling.write(name, &mut self.text);
        self.text.extend_from_slice(b": ");
        (start, name.len() as u16)
    }

    /// Ends a line: its value is what was written since it began.
    fn end(&mut self, known: Known, (name_start, name_length): (u32, u16)) -> Span {
        let start = name_start + u32::from(name_length) + 2;
        let value = Span { start, length: self.text.len() as u32 - start };
        self.text.extend_from_slice(b"\r\n");
        self.fields.push(Field { name_start, name_length, known, verbatim: true, value });
        self.present.insert(known);
        value
    }

    fn field(&mut self, known: Known, name: &str, value: &[u8]) -> Span {
        let line = self.begin(name);
        self.text.extend_from_slice(value);
        self.end(known, line)
    }

    /// Every field but Host and the internal ones; cookie crumbs as one field (RFC 9113, 8.2.3).
    fn fields_of(&mut self, map: &HeaderMap) {
        let mut cookies_written = false;
        for (name, value) in map {
            let known = Known::of(name.as_str().as_bytes());
            match known {
                Known::Host => {}
                Known::Cookie if cookies_written => {}
                Known::Cookie => {
                    cookies_written = true;
                    let line = self.begin("cookie");
                    for (index, crumb) in map.get_all(COOKIE).iter().enumerate() {
                        if index > 0 {
                            self.text.extend_from_slice(b"; ");
                        }
                        self.text.extend_from_slice(crumb.as_bytes());
                    }
                    self.end(known, line);
                }
                Known::Other if name == CASE || name == PHRASE => {}
                _ => {
                    self.field(known, name.as_str(), value.as_bytes());
                }
            }
        }
    }
}
