//! What stands before a body: request line and headers, status line and headers.
//!
//! A head is one canonical form for judging, routing, logging and forwarding. The authority and
//! the path lie in the arena of the headers, so a head costs no allocation beyond theirs. For
//! HTTP/1 the authority *is* the Host field: setting one sets the other.

use super::grammar::{is_value, position};
use super::headers::{HeaderError, Headers, Span};
use super::known::Known;
use http::{Method, StatusCode};
use std::borrow::Cow;
use weft_model::path::{Normalization, PathError};

/// The version spoken on the connection a head came by.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

/// The scheme of the request's target.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Scheme {
    /// Plain, and what a target without a scheme means here.
    #[default]
    Http,
    /// As an absolute target or `:scheme` said.
    Https,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method; extension methods are kept as they are.
    pub method: Method,
    /// The version of the hop it came by.
    pub version: Version,
    /// The scheme of the target.
    pub scheme: Scheme,
    headers: Headers,
    authority: Span,
    target: Span,
    path_length: u32,
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The version of the hop it came by.
    pub version: Version,
    headers: Headers,
    phrase: Option<Span>,
}

/// Why a path was not made canonical.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TargetError {
    /// It has no canonical form.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The block of fields, which holds it, is full.
    #[error(transparent)]
    Full(#[from] HeaderError),
}

// === impl Version ===

impl Version {
    /// As written in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

// === impl Scheme ===

impl Scheme {
    /// The scheme's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

// === impl RequestHead ===

impl RequestHead {
    /// A head from its parts. The path must be an absolute path with its query, or `*`; it is
    /// empty for CONNECT. A Host field in `headers` is brought in line with the authority.
    pub fn new(
        method: Method,
        version: Version,
        authority: &str,
        path_and_query: &str,
        headers: Headers,
    ) -> Result<Self, HeaderError> {
        let (authority_span, target) = (Span::default(), Span::default());
        let scheme = Scheme::Http;
        let mut head =
            Self { method, version, scheme, headers, authority: authority_span, target, path_length: 0 };
        head.set_path_and_query(path_and_query)?;
        head.set_authority(authority)?;
        Ok(head)
    }

    /// As a parser found it: the spans lie in the arena of `headers`.
    pub(crate) fn from_parts(
        method: Method,
        version: Version,
        scheme: Scheme,
        headers: Headers,
        authority: Span,
        target: Span,
    ) -> Self {
        let path_length = path_length(target.of(&headers.text));
        Self { method, version, scheme, headers, authority, target, path_length }
    }

    /// The header fields.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The header fields. The block also holds the target's text: change it by its own methods,
    /// never put another block in its place.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// Host and port as the client wrote them; empty for an HTTP/1.0 request that names none.
    pub fn authority(&self) -> &str {
        self.text(self.authority)
    }

    /// The path with its query; `*` for `OPTIONS *`, empty for CONNECT.
    pub fn path_and_query(&self) -> &str {
        self.text(self.target)
    }

    /// The path without its query.
    pub fn path(&self) -> &str {
        self.text(Span { length: self.path_length, ..self.target })
    }

    /// What follows the `?`, if there is one.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query().get(self.path_length as usize + 1..)
    }

    /// Sets host and port, and the Host field if there is one (it keeps its place).
    pub fn set_authority(&mut self, authority: &str) -> Result<(), HeaderError> {
        if !is_value(authority.as_bytes()) {
            return Err(HeaderError::Value);
        }
        self.authority = self.headers.push(authority.as_bytes())?;
        let host = self.headers.fields.iter().position(|field| field.known == Known::Host);
        match host {
            Some(index) => self.headers.replace_value(index, authority.as_bytes()),
            None => Ok(()),
        }
    }

    /// Sets path and query.
    pub fn set_path_and_query(&mut self, path_and_query: &str) -> Result<(), HeaderError> {
        if path_and_query.bytes().any(|byte| byte <= 0x20 || byte >= 0x7f) {
            return Err(HeaderError::Value);
        }
        self.target = self.headers.push(path_and_query.as_bytes())?;
        self.path_length = path_length(path_and_query.as_bytes());
        Ok(())
    }

    /// Puts the path into its canonical form, which is then what is judged, routed and forwarded. The query
    /// and `*` stay as they are. Allocates only where the path changes.
    pub fn make_path_canonical(&mut self, level: Normalization) -> Result<(), TargetError> {
        if self.path() == "*" {
            return Ok(());
        }
        let Cow::Owned(mut target) = level.canonical(self.path())? else { return Ok(()) };
        if let Some(query) = self.query() {
            target.push('?');
            target.push_str(query);
        }
        Ok(self.set_path_and_query(&target)?)
    }

    /// The protocols the client offers to upgrade to, if it does so on this hop. An offer of HTTP/2
    /// is none: requests within it would pass without being judged.
    pub fn upgrade(&self) -> Option<&str> {
        if self.version != Version::Http11 || !self.headers.contains(Known::Upgrade) {
            return None;
        }
        let offered = self.headers.has_element(Known::Connection, "upgrade");
        let http2 =
            ["h2c", "h2"].into_iter().any(|protocol| self.headers.has_element(Known::Upgrade, protocol));
        self.headers.get_str(Known::Upgrade).filter(|_| offered && !http2)
    }

    /// Whether the request says it is gRPC.
    pub fn is_grpc(&self) -> bool {
        let grpc = b"application/grpc";
        self.headers
            .get(Known::ContentType)
            .and_then(|value| value.strip_prefix(grpc))
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
    }

    fn text(&self, span: Span) -> &str {
        std::str::from_utf8(span.of(&self.headers.text)).unwrap_or_default()
    }
}

fn path_length(target: &[u8]) -> u32 {
    position(target, b'?').unwrap_or(target.len()) as u32
}

// === impl ResponseHead ===

impl ResponseHead {
    /// A head with the status's usual phrase.
    pub const fn new(status: StatusCode, headers: Headers) -> Self {
        Self { status, version: Version::Http11, headers, phrase: None }
    }

    /// As a parser found it: the phrase lies in the arena of `headers`.
    pub(crate) const fn from_parts(
        status: StatusCode,
        version: Version,
        headers: Headers,
        phrase: Span,
    ) -> Self {
        Self { status, version, headers, phrase: Some(phrase) }
    }

    /// The header fields.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The header fields. The block also holds the phrase: change it by its own methods.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The reason phrase as the server wrote it, else the usual one.
    pub fn phrase(&self) -> &[u8] {
        match self.phrase {
            Some(span) => span.of(&self.headers.text),
            None => self.status.canonical_reason().unwrap_or_default().as_bytes(),
        }
    }

    /// Sets the status and takes its usual phrase.
    pub fn set_status(&mut self, status: StatusCode) {
        self.status = status;
        self.phrase = None;
    }
}
