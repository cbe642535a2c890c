//! Heads and trailers between our types and those of the `h2` crate.
//!
//! Coming in, this judges what the protocol library lets pass: one authority, a path of RFC 3986,
//! one Content-Length, no spaces around values, the number and size of fields. Going out, it
//! leaves behind what belongs to one hop. A head of ordinary size goes out as one copy of its
//! text, of which the values are slices. Pseudo fields and Host are one thing here: the authority.

use super::case::{CASE, Description, PHRASE, Spelling, describe};

use super::names::name_of;
use crate::h1::parse::{TRAILERS_FORBIDDEN, valid_target};
use crate::h1::valid_authority;
use crate::http::{
    Field, FieldRef, Headers, Known, KnownSet, Limits, Method, RequestHead, ResponseHead, Scheme, Span,
    Version,
};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use weft_model::reason::Reason;

/// Heads up to this size go out as slices of one copy. The compression table of a connection can
/// keep some sixty values alive; with larger heads, slices would keep megabytes behind them.
const SHARED_TEXT_MAX: usize = 2048;

/// A longer phrase than any server writes is left out.
const PHRASE_BYTES_MAX: usize = 256;

/// As in HTTP/1.
const METHOD_BYTES_MAX: usize = 32;

/// Fields whose value is another one each time: indexing them would push the steady ones out of
/// the compression table, so they are sent as never indexed.
const UNSTEADY: KnownSet = KnownSet::EMPTY
    .with(Known::Traceparent)
    .with(Known::Tracestate)
    .with(Known::XRequestId)
    .with(Known::B3)
    .with(Known::Authorization)
    .with(Known::ProxyAuthorization)
    .with(Known::XWeftDeadline)
    .with(Known::GrpcTimeout)
    .with(Known::SecWebsocketKey);

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

/// Fields that this module writes itself or leaves to the hop they came by. An `Expect` was
/// answered where it came in.
const NOT_COPIED: KnownSet = KnownSet::EMPTY
    .with(Known::Host)
    .with(Known::ContentLength)
    .with(Known::Expect)
    .with(Known::TransferEncoding);

// === Out ===

/// The request as it goes out. `length` is the body's, if known. The head loses what belongs to
/// the hop it came by.
pub(crate) fn request_to_h2(
    head: &mut RequestHead,
    length: Option<u64>,
    mesh: bool,
) -> Result<http::Request<()>, Reason> {
    if head.method == Method::CONNECT {
        return Err(Reason::MethodUnsupported);
    }
    if head.authority().is_empty() {
        return Err(Reason::HostInvalid);
    }
    head.headers_mut().remove_hop_by_hop(false);
    let text = Text::of(head.headers());
    let authority = Authority::from_maybe_shared(text.bytes(head.authority().as_bytes()));
    let path = PathAndQuery::from_maybe_shared(text.bytes(head.path_and_query().as_bytes()));
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(match head.scheme {
        Scheme::Http => http::uri::Scheme::HTTP,
        Scheme::Https => http::uri::Scheme::HTTPS,
    });
    parts.authority = Some(authority.map_err(|_| Reason::HostInvalid)?);
    parts.path_and_query = Some(path.map_err(|_| Reason::RequestMalformed)?);

    let mut fields = map_of(head.headers(), &text);
    if let Some(value) = length_field(head.headers(), &text, length, false) {
        fields.append(CONTENT_LENGTH, value);
    }
    if mesh {
        describe_names(head.headers(), head.version, &mut fields);
    }
    let mut request = http::Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = http::Uri::from_parts(parts).map_err(|_| Reason::RequestMalformed)?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = fields;
    Ok(request)
}

/// The response as it goes out. With `bodiless` (an answer to HEAD, 304), Content-Length speaks
/// of a body that is not sent and stays as it is.
pub(crate) fn response_to_h2(
    head: &mut ResponseHead,
    length: Option<u64>,
    bodiless: bool,
    mesh: bool,
) -> http::Response<()> {
    head.headers_mut().remove_hop_by_hop(false);
    let text = Text::of(head.headers());
    let mut fields = map_of(head.headers(), &text);
    if let Some(value) = length_field(head.headers(), &text, length, bodiless) {
        fields.append(CONTENT_LENGTH, value);
    }
    if mesh {
        describe_names(head.headers(), head.version, &mut fields);
        let phrase = head.phrase();
        let usual = head.status.canonical_reason().unwrap_or_default();
        if phrase != usual.as_bytes()
            && phrase.len() <= PHRASE_BYTES_MAX
            && let Ok(value) = HeaderValue::from_bytes(phrase)
        {
            fields.append(HeaderName::from_static(PHRASE), value);
        }
    }
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = http::Version::HTTP_2;
    *response.headers_mut() = fields;
    response
}

/// Trailers as they go out, without what a trailer section must not hold.
pub(crate) fn trailers_to_map(trailers: &Headers) -> HeaderMap {
    let text = Text::of(trailers);
    let mut map = HeaderMap::with_capacity(trailers.len());
    for field in trailers.iter() {
        let ours = field.known == Known::XWeftReason;
        if (ours || !TRAILERS_FORBIDDEN.contains(field.known)) && !is_internal(&field) {
            append(&mut map, &field, &text);
        }
    }
    map
}

/// The text of a head, shared or not.
struct Text<'a> {
    own: &'a [u8],
    shared: Option<Bytes>,
}

impl<'a> Text<'a> {
    fn of(headers: &'a Headers) -> Self {
        let own = headers.text.as_slice();
        let shared = (own.len() <= SHARED_TEXT_MAX).then(|| Bytes::copy_from_slice(own));
        Self { own, shared }
    }

    /// `part`, which lies in the text, as bytes of its own.
    fn bytes(&self, part: &[u8]) -> Bytes {
        let offset = (part.as_ptr() as usize).wrapping_sub(self.own.as_ptr() as usize);
        match &self.shared {
            Some(shared) if offset.checked_add(part.len()).is_some_and(|end| end <= shared.len()) => {
                shared.slice(offset..offset + part.len())
            }
            _ => Bytes::copy_from_slice(part),
        }
    }
}

fn map_of(headers: &Headers, text: &Text<'_>) -> HeaderMap {
    // Room for the three fields that may be added.
    let mut map = HeaderMap::with_capacity(headers.len() + 3);
    for field in headers.iter() {
        if !NOT_COPIED.contains(field.known) && !is_internal(&field) {
            append(&mut map, &field, text);
        }
    }
    map
}

fn append(map: &mut HeaderMap, field: &FieldRef<'_>, text: &Text<'_>) {
    // Both were checked when the field was made; one that is not grammar cannot go out.
    let Some(name) = name_of(field) else { return };
    let Ok(mut value) = HeaderValue::from_maybe_shared(text.bytes(field.value)) else { return };
    if UNSTEADY.contains(field.known) {
        value.set_sensitive(true);
    }
    map.append(name, value);
}

/// Content-Length goes out if it came in, and says what the body says.
fn length_field(
    headers: &Headers,
    text: &Text<'_>,
    length: Option<u64>,
    bodiless: bool,
) -> Option<HeaderValue> {
    let written = headers.get(Known::ContentLength)?;
    let says = std::str::from_utf8(written).ok().and_then(|written| written.parse().ok());
    if bodiless || (length.is_some() && says == length) {
        HeaderValue::from_maybe_shared(text.bytes(written)).ok()
    } else {
        length.map(HeaderValue::from)
    }
}

fn describe_names(headers: &Headers, version: Version, fields: &mut HeaderMap) {
    if version == Version::Http2 {
        // They came in lower case.
        return;
    }
    let names = headers.fields.iter().map(|field| field.name(&headers.text)).filter(|name| !is_ours(name));
    let value = match describe(names) {
        Description::Lower => return,
        Description::Title => HeaderValue::from_static("t"),
        Description::List(list) => match HeaderValue::from_maybe_shared(Bytes::from(list)) {
            Ok(value) => value,
            Err(_) => return,
        },
    };
    fields.append(HeaderName::from_static(CASE), value);
}

/// A field of the mesh's own; those are always in lower case.
fn is_ours(name: &[u8]) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"x-weft-"))
}

/// A field that only this module may write.
fn is_internal(field: &FieldRef<'_>) -> bool {
    field.known == Known::Other
        && is_ours(field.name)
        && (field.name.eq_ignore_ascii_case(CASE.as_bytes())
            || field.name.eq_ignore_ascii_case(PHRASE.as_bytes()))
}

// === In ===

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
        if !ours && TRAILERS_FORBIDDEN.contains(known) {
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
            text: Vec::with_capacity(text),
            fields: Vec::with_capacity(fields),
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
