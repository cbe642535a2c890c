//! Host and port as text: what is valid, and what is the same.
//!
//! A host is a registered name of letters, digits, `-`, `.`, `_` and `~`, or an IP literal in
//! brackets; a port is a number. User information, percent escapes and empty ports are refused:
//! two parsers could read them in two ways.

use crate::http::{Scheme, position};
use std::net::Ipv6Addr;

/// Longer than any DNS name with a port.
const AUTHORITY_BYTES_MAX: usize = 262;

/// Whether the text is a host with an optional port.
pub fn valid_authority(text: &[u8]) -> bool {
    if text.is_empty() || text.len() > AUTHORITY_BYTES_MAX {
        return false;
    }
    let (host, port) = split_port(text);
    valid_host(host) && port.is_none_or(valid_port)
}

/// Whether two valid authorities name the same host and port under this scheme.
pub(crate) fn same_authority(one: &[u8], other: &[u8], scheme: Scheme) -> bool {
    without_default(one, scheme).eq_ignore_ascii_case(without_default(other, scheme))
}

fn without_default(authority: &[u8], scheme: Scheme) -> &[u8] {
    let default: &[u8] = match scheme {
        Scheme::Http => b"80",
        Scheme::Https => b"443",
    };
    match split_port(authority) {
        (host, Some(port)) if port == default => host,
        _ => authority,
    }
}

fn split_port(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let host_end = match text {
        [b'[', ..] => text.iter().position(|byte| *byte == b']').map_or(text.len(), |end| end + 1),
        _ => position(text, b':').unwrap_or(text.len()),
    };
    match &text[host_end..] {
        [] => (text, None),
        [b':', port @ ..] => (&text[..host_end], Some(port)),
        // Something behind the bracket: no host at all.
        _ => (&[], None),
    }
}

fn valid_host(host: &[u8]) -> bool {
    match host {
        [] => false,
        [b'[', literal @ .., b']'] => {
            std::str::from_utf8(literal).is_ok_and(|literal| literal.parse::<Ipv6Addr>().is_ok())
        }
        name => {
            name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
        }
    }
}

fn valid_port(port: &[u8]) -> bool {
    let digits = (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit);
    digits && std::str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok())
}
