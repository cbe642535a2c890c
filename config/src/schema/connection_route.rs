//! `TLSRoute` and `TCPRoute` (gateway.networking.k8s.io/v1) with Services as parents.
//!
//! The bounds and rules here are those of the upstream CRDs. A TLSRoute's `hostnames` are the servers
//! that clients name in TLS (SNI): it has nothing else to tell connections apart by.

use super::metadata::Metadata;
use super::route::{self, Around, Hostnames, Route, connection_rule};
use super::value::Object;

pub(crate) fn read_tls(spec: Option<&Object<'_>>, metadata: &Metadata<'_>) -> Route {
    let around = Around { hostnames: Hostnames::Servers, rules_required: true, rules_max: 1 };
    route::read(spec, metadata, around, connection_rule)
}

pub(crate) fn read_tcp(spec: Option<&Object<'_>>, metadata: &Metadata<'_>) -> Route {
    let around = Around { hostnames: Hostnames::None, rules_required: true, rules_max: 1 };
    route::read(spec, metadata, around, connection_rule)
}
