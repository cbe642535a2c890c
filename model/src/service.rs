//! A destination as clients name or dial it.

use crate::names::{ResourceName, ServiceName, WorkloadUid};
use std::net::IpAddr;

/// What is spoken on a port, as far as its owner declared it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// Nothing declared: detected.
    #[default]
    Undeclared,
    /// HTTP/1.1 (and HTTP/2 where the client speaks it first).
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// The application's own TLS: opaque, its server name noted.
    Tls,
}

impl Protocol {
    /// Whether requests can be seen.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Whether its owner declared that requests cannot be seen.
    pub fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// From `appProtocol` or the part of a port's name before its first `-`, as Istio reads them.
    /// `None`: not a protocol's name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" | "http1" | "kubernetes.io/ws" => Self::Http,
            "http2" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" | "grpc-web" => Self::Grpc,
            "tcp" | "mysql" | "mongo" | "redis" | "postgres" | "postgresql" => Self::Tcp,
            "tls" | "https" | "kubernetes.io/wss" => Self::Tls,
            _ => return None,
        })
    }
}

/// A Service, or one workload whose own address was dialled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// What it is.
    pub target: ServiceTarget,
    /// Virtual addresses; none for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// Its ports, each number once.
    pub ports: Vec<ServicePort>,
    /// The TrafficPolicies that bind it.
    pub traffic_policies: Vec<ResourceName>,
}

/// What a destination is.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ServiceTarget {
    /// A Kubernetes Service.
    Service(ServiceName),
    /// One workload: its own address was dialled, no routes apply.
    Workload(WorkloadUid),
}

/// One port of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// The number that clients dial.
    pub port: u16,
    /// What its owner declared.
    pub protocol: Protocol,
    /// Its name; may be empty.
    pub name: Box<str>,
    /// Routes attached to it, `HTTPRoute/NAMESPACE/NAME`.
    pub routes: Vec<ResourceName>,
}

impl Service {
    /// The port of that number.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|held| held.port == port)
    }

    /// Its name on the wire.
    pub fn resource_name(&self) -> ResourceName {
        match &self.target {
            ServiceTarget::Service(name) => name.resource_name(),
            ServiceTarget::Workload(uid) => direct_name(uid),
        }
    }
}

/// The name on the wire of the destination "this one workload".
pub fn direct_name(uid: &WorkloadUid) -> ResourceName {
    format!("workload/{uid}").parse().expect("a workload's UID must be part of a resource name")
}

impl ServicePort {
    /// The routes that hold for a client of the namespace: its own (consumer) routes replace the
    /// Service's (producer) ones (GEP-1294).
    pub fn routes_for<'a>(
        &'a self,
        client: &'a str,
        service: &'a str,
    ) -> impl Iterator<Item = &'a ResourceName> {
        let of = |namespace: &'a str| move |name: &&ResourceName| name.namespace() == Some(namespace);
        let scope = if self.routes.iter().any(|name| of(client)(&name)) { client } else { service };
        self.routes.iter().filter(of(scope))
    }
}
