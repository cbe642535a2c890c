//! What decisions see of a request: borrowed facts, gathered once.

use crate::spiffe::SpiffeId;
use crate::token::VerifiedToken;
use std::net::{IpAddr, SocketAddr};

/// Header fields, looked up by lower-case name.
pub trait HeaderSource {
    /// Calls `visit` with each value of the field, in order, until it returns `false`.
    fn visit_values(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool);
}

/// No headers at all.
impl HeaderSource for () {
    fn visit_values(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) {}
}

/// Pairs of lower-case name and value: tests and tools.
impl HeaderSource for &[(String, String)] {
    fn visit_values(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (field, value) in *self {
            if field == name && !visit(value.as_bytes()) {
                return;
            }
        }
    }
}

/// What is known of a connection when it is judged.
#[derive(Clone, Copy)]
pub struct ConnectionFacts<'a> {
    /// The identity the client proved. `None`: plaintext.
    pub source: Option<&'a SpiffeId>,
    /// The address that the connection comes from.
    pub source_address: IpAddr,
    /// The original client's address, as far as the connection tells without HTTP: the same as
    /// `source_address`, or `None` where proxies in front may stand for others.
    pub original_address: Option<IpAddr>,
    /// The address and port that were dialled, as the mesh advertises them.
    pub destination: SocketAddr,
    /// The server name of the TLS handshake.
    pub sni: Option<&'a str>,
}

/// What is known of an HTTP request when it is judged.
#[derive(Clone, Copy)]
pub struct HttpFacts<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The authority, as sent; compared without port and case.
    pub authority: &'a str,
    /// The path without query; canonical where a path rule applies.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: &'a dyn HeaderSource,
    /// The original client's address behind trusted proxies; else the connection's.
    pub remote_address: IpAddr,
    /// The token that a RequestAuthentication accepted. `None`: the request is anonymous.
    pub token: Option<&'a VerifiedToken>,
}

impl<'a> HttpFacts<'a> {
    /// The authority without its port, and without the dot that makes a DNS name absolute: servers take the
    /// name with and without it for one.
    pub fn host(&self) -> &'a str {
        let host = host_of(self.authority);
        host.strip_suffix('.').filter(|host| !host.is_empty()).unwrap_or(host)
    }
}

/// An authority without its port; brackets of an IPv6 literal stay.
pub fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            // `::1` without brackets is not an authority; leave what is not understood alone.
            if host.contains(':') && !host.ends_with(']') { authority } else { host }
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn the_port_is_cut_from_an_authority() {
        assert_eq!(host_of("cart:80"), "cart");
        assert_eq!(host_of("cart"), "cart");
        assert_eq!(host_of("[::1]:80"), "[::1]");
        assert_eq!(host_of("[::1]"), "[::1]");
        assert_eq!(host_of("::1"), "::1");
    }
}
