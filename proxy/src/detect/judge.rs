//! The judgement of a connection's first bytes, without I/O.
//!
//! It says which parser a connection is for, never what is allowed: HTTP that is malformed is still
//! HTTP where that was declared, so that it is refused as such and not carried unread.

use super::client_hello::{self, CLIENT_HELLO_MAX, ClientHello, Read};

/// The first bytes of an HTTP/2 connection with prior knowledge (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most that is ever looked at.
pub(super) const LOOK_MAX: usize = CLIENT_HELLO_MAX;

/// The longest method that is taken for one: registered ones have 17 letters at most.
const METHOD_MAX: usize = 20;

/// A request target this long, without an end in sight, is believed to be one.
const TARGET_SEEN_MAX: usize = 4096;

/// What is known beforehand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expect {
    /// HTTP was declared: what is neither TLS nor HTTP/2 is for the HTTP/1 parser, which refuses what
    /// is malformed.
    Http,
    /// Nothing.
    Any,
}

/// What the first bytes are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Spoken {
    /// TLS.
    Tls(ClientHello),
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/1, or what its parser refuses.
    Http1,
    /// Bytes of another protocol.
    Opaque,
    /// The client closed, or never spoke.
    Nothing,
}

impl Spoken {
    /// Whether an HTTP parser is to read it.
    pub fn is_http(&self) -> bool {
        matches!(self, Self::Http1 | Self::Http2)
    }
}

/// Judges what has come so far. `None`: more is needed.
pub fn judge(expect: Expect, bytes: &[u8]) -> Option<Spoken> {
    match bytes {
        [] => None,
        // TLS record type "handshake". No method and no preface begins with it.
        [0x16, ..] => match client_hello::read(bytes) {
            Read::More if bytes.len() < LOOK_MAX => None,
            Read::More | Read::Other => Some(Spoken::Tls(ClientHello::default())),
            Read::Whole(hello) => Some(Spoken::Tls(hello)),
        },
        _ if bytes.len() >= PREFACE.len() && bytes.starts_with(PREFACE) => Some(Spoken::Http2),
        _ if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) => None,
        _ if expect == Expect::Http => Some(Spoken::Http1),
        _ => request_line(bytes),
    }
}

/// What is left to say when no more comes, in time or at all.
pub fn conclude(expect: Expect, bytes: &[u8]) -> Spoken {
    match (expect, bytes) {
        (_, []) => Spoken::Nothing,
        (_, [0x16, ..]) => Spoken::Tls(ClientHello::default()),
        // A head that never ends is for the parser to refuse.
        (Expect::Http, _) => Spoken::Http1,
        (Expect::Any, _) => Spoken::Opaque,
    }
}

/// `METHOD SP target SP HTTP/1.`, told from everything else as early as can be.
fn request_line(bytes: &[u8]) -> Option<Spoken> {
    // Line ends before a request are to be ignored (RFC 9112, section 2.2); as many as a sloppy client
    // leaves behind a body.
    let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if line.is_empty() || line == b"\r" {
        return None;
    }
    let method = line.iter().position(|byte| !is_of_method(*byte));
    let Some(end) = method else { return (line.len() > METHOD_MAX).then_some(Spoken::Opaque) };
    if end == 0 || end > METHOD_MAX || line[end] != b' ' {
        return Some(Spoken::Opaque);
    }
    let target = &line[end + 1..];
    let Some(end) = target.iter().position(|byte| *byte <= b' ' || *byte == 0x7f) else {
        return (target.len() > TARGET_SEEN_MAX).then_some(Spoken::Http1);
    };
    if end == 0 || target[end] != b' ' {
        return Some(Spoken::Opaque);
    }
    let version = &target[end + 1..];
    let wanted = b"HTTP/1.";
    let length = version.len().min(wanted.len());
    match (version[..length] == wanted[..length], length == wanted.len()) {
        (false, _) => Some(Spoken::Opaque),
        (true, true) => Some(Spoken::Http1),
        (true, false) => None,
    }
}

/// Methods in use are upper case (`M-SEARCH` has a dash, some have an underscore), and words of other
/// protocols' lines often are not.
fn is_of_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::super::client_hello::tests::sent;
    use super::*;

    fn any(bytes: &[u8]) -> Option<Spoken> {
        judge(Expect::Any, bytes)
    }

    #[test]
    fn where_http_is_declared_only_tls_and_http2_are_told_apart() {
        let http = |bytes: &[u8]| judge(Expect::Http, bytes);
        assert_eq!(http(b""), None);
        assert_eq!(http(b"P"), None);
        assert_eq!(http(b"PO"), Some(Spoken::Http1));
        assert_eq!(http(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), None);
        assert_eq!(http(PREFACE), Some(Spoken::Http2));
        assert_eq!(http(b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n"), Some(Spoken::Http1));
        assert_eq!(http(b"GET / HTTP/1.1\r\n"), Some(Spoken::Http1));
        assert_eq!(http(b"\x00\xff"), Some(Spoken::Http1));
        assert_eq!(conclude(Expect::Http, b"PRI"), Spoken::Http1);
    }

    #[test]
    fn a_request_line_in_any_pieces_is_http() {
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(3000));
        let lines: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\n",
            b"\r\nPROPFIND /a?b=c%20d HTTP/1.0\r\n",
            b"M-SEARCH * HTTP/1.1\r\n",
            b"POST http://cart.shop/x HTTP/1.1\n",
            b"PUT /a HTTP/1.9",
            long.as_bytes(),
        ];
        for line in lines {
            assert_eq!(any(line), Some(Spoken::Http1), "{line:?}");
            let end = line.windows(7).position(|window| window == b"HTTP/1.").unwrap() + 7;
            for length in 0..end {
                assert_eq!(any(&line[..length]), None, "{:?}", &line[..length]);
            }
        }
        let endless = format!("GET /{}", "x".repeat(5000));
        assert_eq!(any(endless.as_bytes()), Some(Spoken::Http1));
    }

    #[test]
    fn other_protocols_are_opaque_from_the_byte_that_shows_it() {
        // PostgreSQL, Redis in both forms, memcached, SMTP, IRC, SSH, ZooKeeper, MongoDB, Kafka.
        let others: [(&[u8], usize); 11] = [
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", 1),
            (b"*1\r\n$4\r\nPING\r\n", 1),
            (b"PING\r\n", 5),
            (b"get key\r\n", 1),
            (b"EHLO a.example\r\n", 15),
            (b"NICK someone\r\n", 13),
            (b"SSH-2.0-OpenSSH_9.2\r\n", 5),
            (b"ruok", 1),
            (b"\x3a\x00\x00\x00", 1),
            (b"GET /  HTTP/1.1\r\n", 7),
            (b"GET / HTTP/0.9\r\n", 12),
        ];
        for (bytes, needed) in others {
            assert_eq!(any(bytes), Some(Spoken::Opaque), "{bytes:?}");
            assert_eq!(any(&bytes[..needed]), Some(Spoken::Opaque), "{bytes:?} at {needed}");
            assert_eq!(any(&bytes[..needed - 1]), None, "{bytes:?} before {needed}");
        }
        assert_eq!(any(&[b'A'; METHOD_MAX + 1]), Some(Spoken::Opaque));
    }

    #[test]
    fn what_never_becomes_clear_is_not_http() {
        assert_eq!(conclude(Expect::Any, b"GE"), Spoken::Opaque);
        assert_eq!(conclude(Expect::Any, b""), Spoken::Nothing);
        assert_eq!(conclude(Expect::Any, b"\x16\x03"), Spoken::Tls(ClientHello::default()));
    }

    #[test]
    fn tls_is_judged_by_its_whole_first_message() {
        let hello = sent("db.example.com", &[b"h2"]);
        assert_eq!(any(&hello[..100]), None);
        let Some(Spoken::Tls(found)) = any(&hello) else { panic!("it must be TLS") };
        assert_eq!((found.mesh, found.server_name.as_deref()), (false, Some("db.example.com")));
        // A handshake record that holds none is TLS of the application's, whatever it is.
        assert_eq!(any(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"), Some(Spoken::Tls(ClientHello::default())));
        assert_eq!(any(b"\x16\xff"), Some(Spoken::Tls(ClientHello::default())));
        assert_eq!(judge(Expect::Http, &hello[..5]), None);
    }
}
