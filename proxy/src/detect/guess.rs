//! What was learned of a port that declares nothing: when to let the server speak, and a line of YAML
//! that would say so for good.
//!
//! A guess only moves the moment at which the server's side is connected. What the bytes are is judged
//! anew on each connection, so a wrong guess costs time, never a policy.

use super::{DEFAULT_SILENCE, Spoken};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use weft_model::names::ResourceName;

/// How long a client is waited for where others spoke HTTP: it will speak first too, only late. Where
/// that is wrong, a server that speaks first is heard after this.
pub const DEFAULT_HTTP_SILENCE: Duration = Duration::from_millis(500);

/// Ports whose guess is told in the log; what a pod calls without declaring is far less.
const TOLD_MAX: usize = 1024;

/// What a port's connections turned out to be.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS of the application's.
    Tls,
    /// Another protocol, whose client speaks first.
    ClientFirst,
    /// Another protocol, whose server speaks first.
    ServerFirst,
}

/// A worker's memory of one port.
#[derive(Debug, Default)]
pub struct Guess(Cell<Option<Kind>>);

/// The guesses that were told in the log, once per process.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashSet<(ResourceName, u16, Kind)>>);

// === impl Kind ===

impl Kind {
    /// What a client spoke. `None`: nothing.
    pub fn of(spoken: &Spoken) -> Option<Self> {
        Some(match spoken {
            Spoken::Http1 => Self::Http1,
            Spoken::Http2 => Self::Http2,
            Spoken::Tls(_) => Self::Tls,
            Spoken::Opaque => Self::ClientFirst,
            Spoken::Nothing => return None,
        })
    }

    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1",
            Self::Http2 => "HTTP/2",
            Self::Tls => "TLS of the application's own",
            Self::ClientFirst => "TCP, the client speaks first",
            Self::ServerFirst => "TCP, the server speaks first",
        }
    }

    /// What `appProtocol` would say, in view of the first bytes of the side that spoke first.
    pub fn declaration(self, first: &[u8]) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 => "kubernetes.io/h2c",
            Self::Tls => "tls",
            // The start of MySQL's greeting: length, number 0, version 10.
            Self::ServerFirst if matches!(first, [_, 0, 0, 0, 10, ..]) => "mysql",
            Self::ServerFirst => "tcp",
            Self::ClientFirst => match first {
                // PostgreSQL: a request for TLS, or a start-up of protocol 3.
                [0, 0, _, _, 4, 210, 22, 47, ..] | [0, 0, _, _, 0, 3, 0, 0..=2, ..] => "postgres",
                [b'*', b'1'..=b'9', ..] => "redis",
                _ => "tcp",
            },
        }
    }
}

// === impl Guess ===

impl Guess {
    /// What is remembered.
    pub fn kind(&self) -> Option<Kind> {
        self.0.get()
    }

    /// Remembers what a connection turned out to be; whether that is new.
    pub fn remember(&self, kind: Kind) -> bool {
        self.0.replace(Some(kind)) != Some(kind)
    }

    /// How long a client may be silent before the server may speak.
    pub fn silence(&self) -> Duration {
        match self.0.get() {
            Some(Kind::ServerFirst) => Duration::ZERO,
            Some(Kind::Http1 | Kind::Http2) => DEFAULT_HTTP_SILENCE,
            Some(Kind::Tls | Kind::ClientFirst) | None => DEFAULT_SILENCE,
        }
    }
}

// === impl Told ===

impl Told {
    /// Whether this is to be told now: it is not known, and there is room to remember that it is.
    /// Called when a worker learns something new, not for each connection.
    pub fn is_new(&self, name: &ResourceName, port: u16, kind: Kind) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < TOLD_MAX && told.insert((name.clone(), port, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_moves_only_the_wait() {
        let guess = Guess::default();
        assert_eq!(guess.silence(), DEFAULT_SILENCE);
        assert!(guess.remember(Kind::ServerFirst));
        assert!(!guess.remember(Kind::ServerFirst));
        assert_eq!(guess.silence(), Duration::ZERO);
        assert!(guess.remember(Kind::Http1));
        assert_eq!(guess.silence(), DEFAULT_HTTP_SILENCE);
    }

    #[test]
    fn a_declaration_names_the_protocol_where_its_first_bytes_do() {
        let mysql = b"\x4a\0\0\0\x0a5.5.5-10.11.6-MariaDB\0";
        assert_eq!(Kind::ServerFirst.declaration(mysql), "mysql");
        assert_eq!(Kind::ServerFirst.declaration(b"220 mail.example ESMTP\r\n"), "tcp");
        let ssl_request = [0, 0, 0, 8, 4, 210, 22, 47];
        assert_eq!(Kind::ClientFirst.declaration(&ssl_request), "postgres");
        assert_eq!(Kind::ClientFirst.declaration(b"\0\0\0\x29\0\x03\0\0user\0"), "postgres");
        assert_eq!(Kind::ClientFirst.declaration(b"*1\r\n$4\r\nPING\r\n"), "redis");
        assert_eq!(Kind::ClientFirst.declaration(b"\xff"), "tcp");
        assert_eq!(Kind::Http2.declaration(PREFACE), "kubernetes.io/h2c");
    }

    const PREFACE: &[u8] = super::super::judge::PREFACE;

    #[test]
    fn each_is_told_once_and_the_memory_is_bounded() {
        let told = Told::default();
        let name: ResourceName = "shop/db".parse().unwrap();
        assert!(told.is_new(&name, 3306, Kind::ServerFirst));
        assert!(!told.is_new(&name, 3306, Kind::ServerFirst));
        assert!(told.is_new(&name, 3306, Kind::Http1));
        let new = (0..=u16::MAX).filter(|port| told.is_new(&name, *port, Kind::Tls)).count();
        assert_eq!(new, TOLD_MAX - 2);
    }
}
