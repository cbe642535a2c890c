//! The header names the proxy itself looks at.
//!
//! A name is resolved to a [`Known`] id once, when a field is read or made; every later question
//! ("is there a Connection?") is a bit test or a byte compare. A name that is not in the list is
//! `Known::Other` and is found by its text. The list only speeds look-ups up: adding to it never
//! changes what is accepted or forwarded.

/// The id of a header name; see [`Known::name`] for the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Known {
    /// Any name that is not in the list.
    Other = 0,
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Te,
    Trailer,
    Upgrade,
    Expect,
    KeepAlive,
    ProxyConnection,
    ProxyAuthenticate,
    ProxyAuthorization,
    Http2Settings,
    ContentType,
    ContentEncoding,
    ContentRange,
    Accept,
    AcceptEncoding,
    UserAgent,
    Authorization,
    Cookie,
    SetCookie,
    Date,
    Server,
    Location,
    CacheControl,
    Forwarded,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    XForwardedClientCert,
    XRequestId,
    Traceparent,
    Tracestate,
    B3,
    GrpcStatus,
    GrpcMessage,
    GrpcTimeout,
    GrpcEncoding,
    GrpcAcceptEncoding,
    RetryAfter,
    Origin,
    Range,
    MaxForwards,
    WwwAuthenticate,
    SecWebsocketKey,
    SecWebsocketAccept,
    XWeftReason,
    XWeftUndelivered,
    XWeftAttempt,
    XWeftDeadline,
    XWeftRetry,
    XWeftDraining,
    XEnvoyExpectedRqTimeoutMs,
}

const COUNT: usize = 55;

/// Lower-case names, in the order of the enum.
const NAMES: [&str; COUNT] = [
    "",
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "http2-settings",
    "content-type",
    "content-encoding",
    "content-range",
    "accept",
    "accept-encoding",
    "user-agent",
    "authorization",
    "cookie",
    "set-cookie",
    "date",
    "server",
    "location",
    "cache-control",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-client-cert",
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "grpc-status",
    "grpc-message",
    "grpc-timeout",
    "grpc-encoding",
    "grpc-accept-encoding",
    "retry-after",
    "origin",
    "range",
    "max-forwards",
    "www-authenticate",
    "sec-websocket-key",
    "sec-websocket-accept",
    "x-weft-reason",
    "x-weft-undelivered",
    "x-weft-attempt",
    "x-weft-deadline",
    "x-weft-retry",
    "x-weft-draining",
    "x-envoy-expected-rq-timeout-ms",
];

const ALL: [Known; COUNT] = [
    Known::Other,
    Known::Host,
    Known::Connection,
    Known::ContentLength,
    Known::TransferEncoding,
    Known::Te,
    Known::Trailer,
    Known::Upgrade,
    Known::Expect,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::ProxyAuthenticate,
    Known::ProxyAuthorization,
    Known::Http2Settings,
    Known::ContentType,
    Known::ContentEncoding,
    Known::ContentRange,
    Known::Accept,
    Known::AcceptEncoding,
    Known::UserAgent,
    Known::Authorization,
    Known::Cookie,
    Known::SetCookie,
    Known::Date,
    Known::Server,
    Known::Location,
    Known::CacheControl,
    Known::Forwarded,
    Known::XForwardedFor,
    Known::XForwardedProto,
    Known::XForwardedHost,
    Known::XForwardedClientCert,
    Known::XRequestId,
    Known::Traceparent,
    Known::Tracestate,
    Known::B3,
    Known::GrpcStatus,
    Known::GrpcMessage,
    Known::GrpcTimeout,
    Known::GrpcEncoding,
    Known::GrpcAcceptEncoding,
    Known::RetryAfter,
    Known::Origin,
    Known::Range,
    Known::MaxForwards,
    Known::WwwAuthenticate,
    Known::SecWebsocketKey,
    Known::SecWebsocketAccept,
    Known::XWeftReason,
    Known::XWeftUndelivered,
    Known::XWeftAttempt,
    Known::XWeftDeadline,
    Known::XWeftRetry,
    Known::XWeftDraining,
    Known::XEnvoyExpectedRqTimeoutMs,
];

const SLOTS: usize = 512;

/// Where a name's id would be: by its length and three of its letters, case folded.
/// The factors were searched for, so that no two names of the list meet; after adding a name that
/// does meet another, search again.
const fn slot(name: &[u8]) -> usize {
    let length = name.len();
    let first = (name[0] | 0x20) as usize;
    let last = (name[length - 1] | 0x20) as usize;
    let middle = (name[length / 2] | 0x20) as usize;
    (length * 378 + first * 468 + last * 43 + middle * 492) % SLOTS
}

/// Built at compile time; two names in one slot do not compile.
static TABLE: [Known; SLOTS] = {
    let mut table = [Known::Other; SLOTS];
    let mut index = 1;
    while index < COUNT {
        let slot = slot(NAMES[index].as_bytes());
        assert!(table[slot] as u8 == 0, "two known names must not share a slot");
        assert!(ALL[index] as usize == index, "names and ids must be in one order");
        table[slot] = ALL[index];
        index += 1;
    }
    table
};

impl Known {
    /// The id of a name in any case.
    pub fn of(name: &[u8]) -> Self {
        if name.is_empty() {
            return Self::Other;
        }
        let candidate = TABLE[slot(name)];
        if same_folded(candidate.name().as_bytes(), name) { candidate } else { Self::Other }
    }

    /// The name in lower case; empty for `Other`.
    pub const fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// This id's bit in a [`KnownSet`].
    const fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

/// Whether `name` is `known` in some case; eight letters at a time, for every field of every
/// message comes by here.
fn same_folded(known: &[u8], name: &[u8]) -> bool {
    if known.len() != name.len() {
        return false;
    }
    match (known.last_chunk::<8>(), name.last_chunk::<8>()) {
        // The last eight letters may overlap the words before them.
        (Some(known_last), Some(name_last)) => {
            let words = known.as_chunks::<8>().0.iter().zip(name.as_chunks::<8>().0);
            let differs = words.fold(0, |differs, (known, name)| differs | differs_folded(*known, *name));
            differs | differs_folded(*known_last, *name_last) == 0
        }
        _ => known.iter().zip(name).all(|(known, name)| *name >= 0x20 && *name | 0x20 == *known),
    }
}

/// Not zero if the words differ in more than case. The known one is made of lower-case letters,
/// digits and `-`, so folding by one bit confuses nothing but control characters, which have
/// neither that bit nor the next: they are told apart (the shift stays within its byte).
const fn differs_folded(known: [u8; 8], name: [u8; 8]) -> u64 {
    const FOLD: u64 = u64::from_ne_bytes([0x20; 8]);
    const LETTER: u64 = u64::from_ne_bytes([0x40; 8]);
    let (known, name) = (u64::from_ne_bytes(known), u64::from_ne_bytes(name));
    ((name | FOLD) ^ known) | (FOLD & !(name | ((name & LETTER) >> 1)))
}

/// A set of known names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KnownSet(u64);

impl KnownSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// This set and one name more.
    #[must_use]
    pub const fn with(self, known: Known) -> Self {
        Self(self.0 | known.bit())
    }

    /// Adds a name.
    pub const fn insert(&mut self, known: Known) {
        self.0 |= known.bit();
    }

    /// Takes a name out.
    pub const fn remove(&mut self, known: Known) {
        self.0 &= !known.bit();
    }

    /// Whether the name is in the set.
    pub const fn contains(self, known: Known) -> bool {
        self.0 & known.bit() != 0
    }

    /// Whether the sets have a name in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_no_other_is() {
        for known in ALL.into_iter().skip(1) {
            assert_eq!(Known::of(known.name().as_bytes()), known);
            assert_eq!(Known::of(known.name().to_ascii_uppercase().as_bytes()), known);
            let longer = format!("{}x", known.name());
            assert_eq!(Known::of(longer.as_bytes()), Known::Other);
        }
        assert_eq!(Known::of(b""), Known::Other);
        // `-` and `2` with one bit less.
        assert_eq!(Known::of(b"keep\x0dalive"), Known::Other);
        assert_eq!(Known::of(b"user\x0dagent"), Known::Other);
        assert_eq!(Known::of(b"http\x12-settings"), Known::Other);
        assert_eq!(Known::of(b"b\x13"), Known::Other);
        assert_eq!(Known::of(b"x-unknown"), Known::Other);
        const { assert!(COUNT <= 64, "a set is one word") };
    }
}
