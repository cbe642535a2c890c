//! Heads and trailers on their way out: from our types to those of the `h2` crate.
//!
//! What belongs to one hop is left behind, Host becomes the authority, and between two proxies the
//! spelling of names and an unusual phrase go along. A head of ordinary size goes out as one copy
//! of its text, of which the values are slices. Nothing is judged here: our types are valid.

use super::case::{CASE, Description, PHRASE, describe};
use super::names::name_of;
use crate::h1::parse::TRAILERS_FORBIDDEN;
use crate::http::{FieldRef, Headers, Known, KnownSet, Method, RequestHead, ResponseHead, Scheme, Version};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use weft_model::reason::Reason;

/// Heads up to this size go out as slices of one copy. The compression table of a connection can
/// keep some sixty values alive; with larger heads, slices would keep megabytes behind them.
const SHARED_TEXT_MAX: usize = 2048;

/// A longer phrase than any server writes is left out.
const PHRASE_BYTES_MAX: usize = 256;

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

/// Fields that this module writes itself or leaves to the hop they came by. An `Expect` was
/// answered where it came in.
const NOT_COPIED: KnownSet = KnownSet::EMPTY
    .with(Known::Host)
    .with(Known::ContentLength)
    .with(Known::Expect)
    .with(Known::TransferEncoding);

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
