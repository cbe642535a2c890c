//! The whole mesh, compiled: what the control API serves from and tools decide on.

use crate::authentication::{PeerAuthentication, TlsMode};
use crate::authorization::Authorization;
use crate::endpoints::Endpoints;
use crate::names::{Namespace, ResourceName, ServiceName, WorkloadUid};
use crate::path::Normalization;
use crate::request_authentication::RequestAuthentication;
use crate::route::Route;
use crate::service::{Service, direct_name};
use crate::spiffe::TrustDomain;
use crate::traffic::TrafficPolicy;
use crate::workload::Workload;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What becomes of connections to addresses that the mesh has nothing at.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum OutboundTraffic {
    /// They pass as they are.
    #[default]
    AllowAny,
    /// They are refused.
    RegistryOnly,
}

/// What holds for the whole mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshConfig {
    /// The trust domain of the mesh's identities.
    pub trust_domain: TrustDomain,
    /// Trust domains whose principals count as the mesh's own in policies.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// The namespace whose policies without a selector hold for all.
    pub root_namespace: Namespace,
    /// Addresses that are the mesh's own.
    pub cidrs: Vec<IpNet>,
    /// Addresses of nodes: from there the kubelets probe.
    pub node_cidrs: Vec<IpNet>,
    /// How many proxies in front append to `x-forwarded-for` and are believed.
    pub trusted_proxies: u32,
    /// What holds where no PeerAuthentication speaks.
    pub peer_authentication_default: TlsMode,
    /// The request timeout of rules that have none. `None`: no timeout.
    pub request_timeout_default: Option<Duration>,
    /// What becomes of connections that leave the mesh.
    pub outbound_traffic: OutboundTraffic,
    /// External authorizers, each name once.
    pub extension_providers: Vec<ExtensionProvider>,
    /// How far paths are put into one form where a path rule applies.
    pub path_normalization: Normalization,
}

/// An external authorizer: a Service of the mesh that speaks Envoy's `ext_authz` over gRPC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExtensionProvider {
    /// What policies call it.
    pub name: Box<str>,
    /// Where it is.
    pub service: ServiceName,
    /// The Service's port.
    pub port: u16,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether a request passes that it could not be asked about.
    pub fail_open: bool,
    /// The HTTP status of the denial where it could not be asked: 400 to 599.
    pub status_on_error: u16,
    /// How it is shown the bodies of requests. `None`: not at all.
    pub body: Option<BodyInCheck>,
}

/// How an external authorizer is shown the bodies of requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BodyInCheck {
    /// The most that is shown: 1 to [`Self::BYTES_MAX`].
    pub bytes_max: u32,
    /// Of a longer body the beginning is shown; else a longer one is refused.
    pub allow_partial: bool,
    /// As bytes; else as text, and what is no text is refused.
    pub as_bytes: bool,
}

impl BodyInCheck {
    /// The most that an authorizer may want to see: a proxy holds it for as long as it asks.
    pub const BYTES_MAX: u32 = 4 << 20;
}

impl ExtensionProvider {
    /// The status of a denial where the authorizer could not be asked and nothing else is said.
    pub const STATUS_ON_ERROR_DEFAULT: u16 = 403;

    /// Whether a denial may have this status.
    pub fn is_status_on_error(status: u16) -> bool {
        (400..600).contains(&status)
    }
}

/// The shortest prefix of a block of nodes: a mistyped mask must not turn half of the world into nodes, and
/// 10.0.0.0/8 is the widest that anybody gives to machines.
pub const NODE_PREFIX_MIN: u8 = 8;

impl MeshConfig {
    /// Whether an address is known not to be the mesh's. Where no block of addresses is named, any may
    /// be.
    pub fn is_outside(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        !self.cidrs.is_empty() && !self.cidrs.iter().any(|block| block.contains(&address))
    }
}

impl Default for MeshConfig {
    fn default() -> Self {
        let parsed = "cluster.local".parse().expect("the default trust domain must parse");
        Self {
            trust_domain: parsed,
            trust_domain_aliases: Vec::new(),
            root_namespace: "weft-system".parse().expect("the default root namespace must parse"),
            cidrs: Vec::new(),
            node_cidrs: Vec::new(),
            trusted_proxies: 0,
            peer_authentication_default: TlsMode::Strict,
            request_timeout_default: None,
            outbound_traffic: OutboundTraffic::default(),
            extension_providers: Vec::new(),
            path_normalization: Normalization::default(),
        }
    }
}

/// One state of the configuration. Ordered, so that two snapshots compare.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Generation {
    /// Changes when the control API's state is lost.
    pub epoch: Box<str>,
    /// Counts up within an epoch.
    pub number: u64,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

/// Everything, by resource name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mesh {
    /// What holds for the whole mesh.
    pub config: Arc<MeshConfig>,
    /// Workloads by UID.
    pub workloads: BTreeMap<WorkloadUid, Arc<Workload>>,
    /// The workloads without a proxy: nothing is judged at them, and they prove nothing.
    pub plain: BTreeSet<WorkloadUid>,
    /// Services, and one destination per workload (`workload/UID`), by resource name.
    pub services: BTreeMap<ResourceName, Arc<Service>>,
    /// Slices of endpoints by resource name.
    pub endpoints: BTreeMap<ResourceName, Arc<Endpoints>>,
    /// Routes by resource name.
    pub routes: BTreeMap<ResourceName, Arc<Route>>,
    /// TrafficPolicies by resource name.
    pub traffic_policies: BTreeMap<ResourceName, Arc<TrafficPolicy>>,
    /// AuthorizationPolicies by resource name.
    pub authorizations: BTreeMap<ResourceName, Arc<Authorization>>,
    /// PeerAuthentications by resource name.
    pub peer_authentications: BTreeMap<ResourceName, Arc<PeerAuthentication>>,
    /// RequestAuthentications by resource name.
    pub request_authentications: BTreeMap<ResourceName, Arc<RequestAuthentication>>,
}

impl Mesh {
    /// The destination that an address and port lead to: a Service's virtual address, else a
    /// workload that advertises the port at the address. Linear: callers that ask often keep an
    /// index of their own.
    pub fn resolve_address(&self, dialled: SocketAddr) -> Option<ResourceName> {
        let ip = dialled.ip().to_canonical();
        let service = self
            .services
            .iter()
            .find(|(_, service)| service.addresses.contains(&ip) && service.port(dialled.port()).is_some());
        if let Some((name, _)) = service {
            return Some(name.clone());
        }
        self.workloads
            .values()
            .find(|workload| workload.addresses.contains(&ip) && workload.port(dialled.port()).is_some())
            .map(|workload| direct_name(&workload.uid))
    }
}
