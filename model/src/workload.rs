//! A process with an identity, and what binds it.

use crate::names::{Name, Namespace, ResourceName, ServiceName, WorkloadUid};
use crate::probe::Probe;
use crate::service::Protocol;
use crate::sni::MeshServerName;
use crate::spiffe::{SpiffeId, TrustDomain};
use std::net::IpAddr;

/// What metrics call a workload: the mesh's own words, never a peer's. What is not known is
/// `unknown`, as in Istio.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Description {
    /// The workload's (Deployment's) name.
    pub workload: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its service account.
    pub service_account: Box<str>,
    /// Label `app`.
    pub app: Box<str>,
    /// Label `version`.
    pub version: Box<str>,
    /// Istio's canonical service.
    pub canonical_service: Box<str>,
    /// Istio's canonical revision.
    pub canonical_revision: Box<str>,
    /// The cluster.
    pub cluster: Box<str>,
}

/// The word for what is not known.
pub const UNKNOWN: &str = "unknown";

impl Default for Description {
    fn default() -> Self {
        let unknown = || Box::from(UNKNOWN);
        Self {
            workload: unknown(),
            namespace: unknown(),
            service_account: unknown(),
            app: unknown(),
            version: unknown(),
            canonical_service: unknown(),
            canonical_revision: unknown(),
            cluster: unknown(),
        }
    }
}

/// Where a pod's proxy tries whether connections are redirected to it: whoever connects there arrives
/// at the proxy, or finds nobody.
pub const PROBE_PORT: u16 = 15002;

/// How long the nonce is that a probe says.
pub const PROBE_NONCE_LENGTH: usize = 32;

/// One workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    /// Its UID.
    pub uid: WorkloadUid,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its service account.
    pub service_account: Name,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// What metrics call it.
    pub description: Description,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports, as the mesh advertises them.
    pub ports: Vec<WorkloadPort>,
    /// Every AuthorizationPolicy that binds it.
    pub authorizations: Vec<ResourceName>,
    /// Every PeerAuthentication that binds it.
    pub peer_authentications: Vec<ResourceName>,
    /// Every RequestAuthentication that binds it.
    pub request_authentications: Vec<ResourceName>,
    /// Its zone; may be empty.
    pub zone: Box<str>,
    /// What nodes may ask without a certificate.
    pub probes: Vec<Probe>,
}

/// One port of a workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkloadPort {
    /// The number.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The Services, each by its own port, that lead to it.
    pub services: Vec<(ServiceName, u16)>,
    /// The TrafficPolicies of those Services.
    pub traffic_policies: Vec<ResourceName>,
}

impl Workload {
    /// Its identity.
    pub fn identity(&self) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, &self.namespace, &self.service_account)
    }

    /// The port of that number.
    pub fn port(&self, port: u16) -> Option<&WorkloadPort> {
        self.ports.iter().find(|held| held.port == port)
    }

    /// Whether a connection with this server name to this port is meant for it.
    pub fn is_meant_by(&self, name: &MeshServerName, port: u16) -> bool {
        match name {
            MeshServerName::Workload { port: named, uid } => *uid == self.uid && *named == port,
            MeshServerName::Service { port: named, service } => self.port(port).is_some_and(|held| {
                held.services.iter().any(|(held, number)| held == service && number == named)
            }),
        }
    }
}
