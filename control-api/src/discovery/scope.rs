//! What a proxy may see. Its identity is proven by its certificate; the workload it says it is must
//! have that identity. It sees its own Workload with the policies that bind it, and what concerns the
//! destinations it asked for. Any workload of the mesh may ask for any Service (as names in DNS are
//! everybody's); another's Workload or policies it cannot even ask for.

use crate::snapshot::Snapshot;
use crate::tls::PeerCertificate;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use weft_model::names::{ResourceName, WorkloadUid};
use weft_model::service::{Service, ServiceTarget};
use weft_model::wire::Kind;

/// Why a stream is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScopeError {
    /// The node's id is no workload's name.
    #[error("the node's id is not a workload (NAMESPACE/NAME)")]
    Malformed,
    /// The mesh holds no such workload, or the caller is not it: one answer, so that nobody learns
    /// from it what the mesh holds.
    #[error("{presented} is not workload {workload}, or that workload is not in the mesh")]
    NotTheWorkload {
        /// Who it says it is.
        workload: WorkloadUid,
        /// Who it is.
        presented: String,
    },
}

/// What one proxy is to hold.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The names of resources, by kind.
    pub names: [BTreeSet<ResourceName>; Kind::ALL.len()],
    /// The names by which Services were asked for, where these are not their own.
    pub aliases: BTreeMap<ResourceName, BTreeSet<Box<str>>>,
    /// What was asked for and is not there.
    pub absent: BTreeSet<Box<str>>,
}

/// Who the node is, if the certificate says so too.
pub fn admit(
    node_id: &str,
    presented: &PeerCertificate,
    snapshot: &Snapshot,
) -> Result<WorkloadUid, ScopeError> {
    let workload: WorkloadUid = node_id.parse().map_err(|_| ScopeError::Malformed)?;
    match snapshot.mesh().workloads.get(&workload) {
        Some(held) if presented.may_be(held) => Ok(workload),
        _ => Err(ScopeError::NotTheWorkload { workload, presented: presented.to_string() }),
    }
}

/// The destination that a name leads to: `NAMESPACE/NAME`, `workload/UID`, or `@IP:PORT`.
pub fn resolve<'a>(name: &str, snapshot: &'a Snapshot) -> Option<&'a ResourceName> {
    match name.strip_prefix('@') {
        Some(address) => snapshot.resolve_address(address.parse::<SocketAddr>().ok()?),
        None => snapshot.mesh().services.get_key_value(name).map(|(name, _)| name),
    }
}

/// What the workload's proxy is to hold, having asked for these Services.
pub fn wanted<'a>(
    workload: &WorkloadUid,
    asked: impl IntoIterator<Item = &'a Box<str>>,
    snapshot: &Snapshot,
) -> Wanted {
    let mut wanted = Wanted::default();
    for kind in [Kind::TrustBundle, Kind::MeshConfig, Kind::Generation] {
        wanted.names[kind as usize].extend(snapshot.of_kind(kind).keys().cloned());
    }
    let held = snapshot.mesh().workloads.get(workload);
    if let Some(held) = held {
        wanted.add(Kind::Workload, &held.uid.to_string(), snapshot);
        held.authorizations.iter().for_each(|name| wanted.add(Kind::Authorization, name.as_str(), snapshot));
        held.peer_authentications
            .iter()
            .for_each(|name| wanted.add(Kind::PeerAuthentication, name.as_str(), snapshot));
        held.request_authentications
            .iter()
            .for_each(|name| wanted.add(Kind::RequestAuthentication, name.as_str(), snapshot));
        held.ports
            .iter()
            .flat_map(|port| &port.traffic_policies)
            .for_each(|name| wanted.add(Kind::TrafficPolicy, name.as_str(), snapshot));
    }
    // A workload that is no more has no namespace whose routes would apply.
    let namespace = held.map_or("", |held| held.namespace.as_str());
    for name in asked {
        let Some(canonical) = resolve(name, snapshot) else {
            wanted.absent.insert(name.clone());
            continue;
        };
        if canonical.as_str() != &**name {
            wanted.aliases.entry(canonical.clone()).or_default().insert(name.clone());
        }
        wanted.add_destination(canonical, snapshot);
        if let Some(service) = snapshot.mesh().services.get(canonical) {
            wanted.add_routes(service, namespace, snapshot);
        }
    }
    wanted
}

impl Wanted {
    /// What is named and not there stays out: the proxy notices that it does not hold it.
    fn add(&mut self, kind: Kind, name: &str, snapshot: &Snapshot) {
        if let Some((name, _)) = snapshot.of_kind(kind).get_key_value(name) {
            self.names[kind as usize].insert(name.clone());
        }
    }

    fn add_destination(&mut self, name: &ResourceName, snapshot: &Snapshot) {
        if self.names[Kind::Service as usize].insert(name.clone()) {
            self.names[Kind::Endpoints as usize].extend(snapshot.endpoints_of(name).cloned());
            let service = snapshot.mesh().services.get(name);
            for policy in service.into_iter().flat_map(|service| &service.traffic_policies) {
                self.add(Kind::TrafficPolicy, policy.as_str(), snapshot);
            }
        }
    }

    /// The routes that hold for a client of the namespace, and where they lead. The routes of a backend
    /// do not apply to what a route sends there, so they are not followed.
    fn add_routes(&mut self, service: &Service, namespace: &str, snapshot: &Snapshot) {
        let ServiceTarget::Service(own) = &service.target else { return };
        for port in &service.ports {
            for name in port.routes_for(namespace, own.namespace.as_str()) {
                let Some(route) = snapshot.mesh().routes.get(name) else { continue };
                self.names[Kind::Route as usize].insert(name.clone());
                for (backend, _) in route.targets() {
                    let backend = backend.resource_name();
                    if snapshot.mesh().services.contains_key(&backend) {
                        self.add_destination(&backend, snapshot);
                    }
                }
            }
        }
    }
}
