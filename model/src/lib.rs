//! What proxies use and what goes over the wire.
//!
//! Users write YAML; `weft-config` compiles it into the types here; [`wire`] turns them into
//! messages and back. Nothing but those two makes a model value, so an invalid one cannot exist.
//! Values are immutable and shared; every decision (does this match, may this pass) is a pure
//! method of a value. No I/O, no clock, no runtime: the control API, the proxy and the command line
//! link this crate and so decide alike.

#![forbid(unsafe_code)]

pub mod authentication;
pub mod authorization;
pub mod certificate;
pub mod cors;
pub mod duration;
pub mod endpoints;
pub mod instant;
pub mod json;
pub mod jwks;
pub mod mesh;
pub mod names;
pub mod path;
pub mod probe;
pub mod reason;
pub mod request;
pub mod request_authentication;
pub mod route;
pub mod route_table;
pub mod service;
pub mod sni;
pub mod spiffe;
pub mod string_match;
pub mod token;
pub mod traffic;
pub mod trust;
pub mod wire;
pub mod workload;

/// The messages, as made from the .proto files.
pub mod proto {
    /// The incremental xDS protocol.
    #[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
    #[allow(clippy::unwrap_used, clippy::use_self)]
    pub mod discovery {
        include!(concat!(env!("OUT_DIR"), "/envoy.service.discovery.v3.rs"));
    }
    /// What external authorizers are asked.
    #[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
    #[allow(clippy::unwrap_used, clippy::use_self)]
    pub mod ext_authz {
        include!(concat!(env!("OUT_DIR"), "/envoy.service.auth.v3.rs"));
    }
    /// Our resources.
    #[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
    #[allow(clippy::unwrap_used, clippy::use_self)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/weft.v1.rs"));
    }
}

/// The newest level of the schema that this build understands (see `needs_level` in common.proto).
pub const LEVEL: u32 = 1;

/// ALPN of a mesh connection that carries HTTP of any version as HTTP/2 streams.
pub const ALPN_H2: &[u8] = b"weft1-h2";
/// ALPN of a mesh connection that carries one HTTP/1.1 exchange at a time.
pub const ALPN_HTTP1: &[u8] = b"weft1-http/1.1";
/// ALPN of a mesh connection that carries opaque bytes.
pub const ALPN_TCP: &[u8] = b"weft1-tcp";
