//! Which hosts and addresses the control API may ask for keys: those that its settings name, and of
//! them only public addresses unless the settings say so too. Whoever may write a RequestAuthentication
//! could otherwise have the control API call anything that it can reach.

use super::JwksSettings;
use super::fetch::FetchError;
use http::Uri;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A key set's address, taken apart and allowed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Whether it is https.
    pub secure: bool,
    /// The host, without brackets, in lower case.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Host and port as HTTP has them.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// Whether it may have private addresses.
    pub private: bool,
}

impl Target {
    /// Takes a URI apart, and holds it against the settings.
    pub fn parse(uri: &str, settings: &JwksSettings) -> Result<Self, FetchError> {
        let parsed: Uri = uri.parse().map_err(|_| FetchError::Uri)?;
        let authority = parsed.authority().ok_or(FetchError::Uri)?;
        let secure = match parsed.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(FetchError::Uri),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(FetchError::Uri);
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        if settings.jwks_hosts.is_empty() {
            return Err(FetchError::NoHostAllowed);
        }
        let named = |list: &[String]| list.iter().any(|entry| is_named(entry, &host, port));
        if !named(&settings.jwks_hosts) {
            return Err(FetchError::HostNotAllowed(host));
        }
        if !secure && !settings.jwks_loopback_http {
            return Err(FetchError::Insecure);
        }
        let path = parsed.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let private = named(&settings.jwks_private_hosts);
        Ok(Self { secure, host, port, authority: authority.to_string(), path, private })
    }

    /// Whether this address of the host may be called.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if !self.secure {
            return address.is_loopback();
        }
        self.private || is_public(address)
    }
}

// An entry without a port allows the scheme's own.
fn is_named(entry: &str, host: &str, port: u16) -> bool {
    let entry = entry.trim();
    let (name, ports) = match entry.rsplit_once(':') {
        Some((name, number)) if !name.contains(':') || name.ends_with(']') => (name, number.parse().ok()),
        _ => (entry, Some(443)),
    };
    name.trim_start_matches('[').trim_end_matches(']').eq_ignore_ascii_case(host) && ports == Some(port)
}

/// Whether an address is of the public internet: none of a network that one is inside of.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocols = (a, b, c) == (192, 0, 0);
    let relays = (a, b, c) == (192, 88, 99);
    let benchmarks = a == 198 && (18..20).contains(&b);
    !(a == 0
        || a >= 240
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || shared
        || protocols
        || relays
        || benchmarks)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // NAT64 and 6to4 lead to the IPv4 address within.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo, ORCHID, documentation, discard and the like.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Of the rest only global unicast.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(hosts: &[&str], private: &[&str]) -> JwksSettings {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        JwksSettings {
            jwks_hosts: owned(hosts),
            jwks_private_hosts: owned(private),
            ..JwksSettings::default()
        }
    }

    #[test]
    fn only_hosts_of_the_list_are_asked_at_the_port_it_says() {
        let list = settings(&["id.example", "other.example:8443", "[2001:4860::1]:443"], &[]);
        let parse = |uri| Target::parse(uri, &list);
        assert!(parse("https://id.example/keys?a=b").is_ok_and(|target| target.path == "/keys?a=b"));
        assert!(parse("https://ID.Example:443/keys").is_ok());
        assert!(parse("https://other.example:8443/").is_ok());
        assert!(parse("https://[2001:4860::1]/").is_ok());
        for uri in [
            "https://id.example:8443/",
            "https://other.example/",
            "https://evil.example/",
            "https://id.example.evil.example/",
            "https://evil.example/id.example",
            "https://169.254.169.254/latest/meta-data",
        ] {
            assert!(matches!(parse(uri), Err(FetchError::HostNotAllowed(_))), "{uri}");
        }
        assert!(matches!(parse("https://id.example@evil.example/"), Err(FetchError::Uri)));
        assert!(matches!(parse("http://id.example:443/"), Err(FetchError::Insecure)));
        assert!(matches!(parse("ftp://id.example/"), Err(FetchError::Uri)));
        assert!(matches!(parse("/keys"), Err(FetchError::Uri)));
        let none = settings(&[], &["id.example"]);
        assert!(matches!(Target::parse("https://id.example/", &none), Err(FetchError::NoHostAllowed)));
    }

    #[test]
    fn private_and_special_addresses_are_refused_unless_the_host_may_have_them() {
        let public = Target::parse("https://id.example/", &settings(&["id.example"], &[])).unwrap();
        let private =
            Target::parse("https://id.example/", &settings(&["id.example"], &["id.example"])).unwrap();
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "2001:db8::1",
            "2001::1",
            "::10.0.0.1",
            "3fff::1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(!public.allows(address), "{address}");
            assert!(private.allows(address), "{address}");
        }
        for address in
            ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::808:808", "2002:808:808::1"]
        {
            assert!(public.allows(address.parse().unwrap()), "{address}");
        }
        // Plain http leads nowhere but here, whatever the name says.
        let here =
            JwksSettings { jwks_loopback_http: true, ..settings(&["localhost:80"], &["localhost:80"]) };
        let here = Target::parse("http://localhost/", &here).unwrap();
        assert!(here.allows("127.0.0.1".parse().unwrap()) && !here.allows("8.8.8.8".parse().unwrap()));
    }
}
