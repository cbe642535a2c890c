//! The kubelet's probes that a workload's owner declared: what a node may ask without a certificate.
//!
//! A probe is let through because it is exactly what was declared, so everything here compares whole
//! values: path and query, host, the declared fields and no others, the bytes of the gRPC message. What
//! is not exactly that is judged as anybody's plaintext. Where it comes from is the caller's question.

use crate::path;
use http::HeaderName;

/// Probes of one workload. A pod has some three a container; each is compared on a probe's way.
pub const PROBES_MAX: usize = 64;
/// Fields that one probe declares.
pub const FIELDS_MAX: usize = 32;
/// The longest path with its query, and the longest value of a field.
pub const TEXT_BYTES_MAX: usize = 2048;
/// The longest name of a gRPC service: with it a message and its prefix have fixed bounds.
pub const SERVICE_BYTES_MAX: usize = 253;

/// The method that every gRPC probe calls.
pub const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";

/// Fields that the kubelet sends on its own account.
const OWN_FIELDS: [&str; 4] = ["user-agent", "accept", "accept-encoding", "connection"];
/// Those that it leaves out where they are declared as empty.
const OMITTED_WHEN_EMPTY: [&str; 2] = ["user-agent", "accept"];
/// The one that it adds when it follows a redirect.
const REDIRECT_FIELD: &str = "referer";
/// Fields of a gRPC client. Compression would make another message of the same one, and is not used.
const GRPC_FIELDS: [&str; 5] = ["content-type", "te", "user-agent", "grpc-timeout", "grpc-accept-encoding"];
/// Fields that say where a message ends or who is asked: a probe declares none of them.
const FRAMING: [&str; 8] = [
    "host",
    "content-length",
    "transfer-encoding",
    "trailer",
    "te",
    "upgrade",
    "connection",
    "proxy-connection",
];

/// One declared probe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// The workload's port that is asked.
    pub port: u16,
    /// What is asked.
    pub check: Check,
}

/// What a probe asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Check {
    /// A GET in plaintext.
    Http(HttpCheck),
    /// A GET within the application's own TLS: nobody but the application sees it.
    Https,
    /// The health protocol of gRPC, in plaintext.
    Grpc(GrpcCheck),
    /// A connection, and nothing more.
    Tcp,
}

/// A GET, whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpCheck {
    path: Box<str>,
    query: Option<Box<str>>,
    authority: Option<Box<str>>,
    fields: Vec<(HeaderName, Box<str>)>,
}

/// A question after a service's health.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GrpcCheck {
    service: Box<str>,
}

/// Why a probe cannot be one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidProbe {
    /// The path has another canonical form, or none.
    #[error("the path is not in its canonical form")]
    Path,
    /// The query has letters that a target must not have.
    #[error("the query has letters that a request must not have")]
    Query,
    /// A field's name is not one.
    #[error("{0:?} is not the name of a header")]
    FieldName(String),
    /// A field says how the message is framed.
    #[error("the header {0} is the client's own business")]
    Framing(HeaderName),
    /// A field's value has letters that a value must not have.
    #[error("the header {0} has letters that a value must not have")]
    FieldValue(HeaderName),
    /// The host is none.
    #[error("the host has letters that a host must not have")]
    Host,
    /// A service's name that the kubelet would not send.
    #[error("the service is not 1 to {SERVICE_BYTES_MAX} printable letters")]
    Service,
    /// More, or longer, than is kept.
    #[error("the probe is too large")]
    TooLarge,
}

/// A plaintext GET, as far as a probe looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Get<'a> {
    /// Host and port as sent.
    pub authority: &'a str,
    /// The path, canonical, without its query.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
}

// === impl HttpCheck ===

impl HttpCheck {
    /// Checks that the kubelet could send it so, and that this proxy would see it so.
    pub fn new(
        path_and_query: &str,
        authority: Option<&str>,
        fields: &[(&str, &str)],
    ) -> Result<Self, InvalidProbe> {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        if path_and_query.len() > TEXT_BYTES_MAX || fields.len() > FIELDS_MAX {
            return Err(InvalidProbe::TooLarge);
        }
        // `#` begins what a client keeps for itself.
        if path.contains('#') || !path::canonical(path).is_ok_and(|canonical| canonical == path) {
            return Err(InvalidProbe::Path);
        }
        let is_graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !query.is_none_or(|query| is_graphic(query) && !query.contains('#')) {
            return Err(InvalidProbe::Query);
        }
        if !authority.is_none_or(|host| (1..=255).contains(&host.len()) && is_graphic(host)) {
            return Err(InvalidProbe::Host);
        }
        let fields = fields.iter().map(|(name, value)| field(name, value)).collect::<Result<_, _>>()?;
        Ok(Self {
            path: path.into(),
            query: query.map(Into::into),
            authority: authority.map(Into::into),
            fields,
        })
    }

    /// The path, canonical.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The host that the kubelet is told to send; else it sends the address and port that it calls.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The declared fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), &**value))
    }

    /// Whether the request is this probe. `called`: address and port that were called, as text.
    pub fn is<'f>(
        &self,
        get: Get<'_>,
        called: &str,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])> + Clone,
    ) -> bool {
        get.path == &*self.path
            && get.query == self.query.as_deref()
            && get.authority.eq_ignore_ascii_case(self.authority.as_deref().unwrap_or(called))
            && self.has_fields(fields, false)
    }

    /// Whether the fields are the declared ones and, beside them, only what the kubelet adds. With
    /// `redirected`: what it adds when it follows a redirect, too.
    pub fn has_fields<'f>(
        &self,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])> + Clone,
        redirected: bool,
    ) -> bool {
        let is = |name: &[u8], other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let known = fields.clone().all(|(name, value)| {
            // The host was compared as the authority; a second one no parser lets through.
            if is(name, "host") {
                return true;
            }
            if is(name, "connection") {
                // It must not name fields that would vanish on the way.
                return value.eq_ignore_ascii_case(b"close") || value.eq_ignore_ascii_case(b"keep-alive");
            }
            self.fields.iter().any(|(declared, _)| is(name, declared.as_str()))
                || OWN_FIELDS.iter().any(|own| is(name, own))
                || (redirected && is(name, REDIRECT_FIELD))
        });
        known
            && self.fields.iter().all(|(name, _)| {
                let sent = fields.clone().filter(|(held, _)| is(held, name.as_str())).map(|(_, value)| value);
                let omitted = OMITTED_WHEN_EMPTY.contains(&name.as_str());
                let declared = self.fields.iter().filter(|(held, _)| held == name);
                let declared = declared
                    .map(|(_, value)| value.as_bytes())
                    .filter(|value| !(omitted && value.is_empty()));
                sent.eq(declared)
            })
    }
}

fn field(name: &str, value: &str) -> Result<(HeaderName, Box<str>), InvalidProbe> {
    let parsed: HeaderName = name.parse().map_err(|_| InvalidProbe::FieldName(name.to_owned()))?;
    if FRAMING.contains(&parsed.as_str()) || parsed.as_str().starts_with("x-weft-") {
        return Err(InvalidProbe::Framing(parsed));
    }
    // Blanks around a value are no part of it, so one declared with them would never be sent.
    let fits = value.len() <= TEXT_BYTES_MAX
        && value.trim_matches([' ', '\t']) == value
        && value.bytes().all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte));
    if fits { Ok((parsed, value.into())) } else { Err(InvalidProbe::FieldValue(parsed)) }
}

// === impl GrpcCheck ===

impl GrpcCheck {
    /// Asks after a service; after the server as a whole when it is empty.
    pub fn new(service: &str) -> Result<Self, InvalidProbe> {
        let fits = service.len() <= SERVICE_BYTES_MAX && service.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self { service: service.into() }) } else { Err(InvalidProbe::Service) }
    }

    /// The service; empty: the server as a whole.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The whole body of the request: five bytes of prefix and the message, which has one encoding.
    pub fn body(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.service.len() + 3);
        if !self.service.is_empty() {
            message.push(0x0a);
            // SERVICE_BYTES_MAX takes two bytes of a varint at most.
            let mut length = self.service.len();
            while length >= 0x80 {
                message.push(0x80 | (length & 0x7f) as u8);
                length >>= 7;
            }
            message.push(length as u8);
            message.extend_from_slice(self.service.as_bytes());
        }
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(&message);
        body
    }

    /// Whether the fields are those of a gRPC client without compression, and no others.
    pub fn has_fields<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> bool {
        let mut grpc = false;
        for (name, value) in fields {
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            if is("content-type") {
                grpc = value == b"application/grpc";
            } else if !is("host") && !GRPC_FIELDS.iter().any(|own| is(own)) {
                return false;
            }
        }
        grpc
    }
}

#[cfg(test)]
mod tests;
