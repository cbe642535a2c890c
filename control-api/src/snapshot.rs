//! One compiled state of the mesh, encoded: immutable, shared by all discovery streams. Each resource
//! is encoded once, its bytes are sent to all, and what did not change is taken over from the snapshot
//! before. Built by the index alone; nothing here knows who may see what.

pub mod diff;
pub mod generation;
pub mod version;

use self::generation::GenerationCounter;
use self::version::Version;
use crate::state::StateError;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use weft_config::SourceFile;
use weft_model::mesh::{Generation, Mesh};
use weft_model::names::ResourceName;
use weft_model::service::direct_name;
use weft_model::trust::TrustBundle;
use weft_model::wire::{Kind, Resource};

/// One resource, ready to be sent.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Of its content.
    pub version: Version,
    /// The message.
    pub bytes: Bytes,
    // What it was made from: tells whether the next mesh holds the same.
    resource: Resource,
}

/// Everything at one moment.
#[derive(Debug)]
pub struct Snapshot {
    mesh: Mesh,
    generation: Generation,
    resources: [BTreeMap<ResourceName, Arc<Encoded>>; Kind::ALL.len()],
    addresses: HashMap<SocketAddr, ResourceName>,
    files: Arc<[SourceFile]>,
}

impl Snapshot {
    /// Encodes a mesh, and gives it its generation.
    pub fn build(
        mesh: Mesh,
        trust: &Arc<TrustBundle>,
        counter: &mut GenerationCounter,
        previous: Option<&Self>,
    ) -> Result<Self, StateError> {
        let mut resources: [BTreeMap<ResourceName, Arc<Encoded>>; Kind::ALL.len()] = Default::default();
        let mut add = |resource: Resource| {
            let (kind, name) = (resource.kind(), resource.name());
            let held = previous.and_then(|snapshot| snapshot.get(kind, name.as_str()));
            let encoded = match held {
                Some(held) if held.resource == resource => held.clone(),
                _ => Arc::new(Encoded::new(resource)),
            };
            resources[kind as usize].insert(name, encoded);
        };
        add(Resource::TrustBundle(trust.clone()));
        add(Resource::MeshConfig(mesh.config.clone()));
        mesh.authorizations.values().for_each(|held| add(Resource::Authorization(held.clone())));
        mesh.peer_authentications.values().for_each(|held| add(Resource::PeerAuthentication(held.clone())));
        mesh.request_authentications
            .values()
            .for_each(|held| add(Resource::RequestAuthentication(held.clone())));
        mesh.workloads.values().for_each(|held| add(Resource::Workload(held.clone())));
        mesh.routes.values().for_each(|held| add(Resource::Route(held.clone())));
        mesh.traffic_policies.values().for_each(|held| add(Resource::TrafficPolicy(held.clone())));
        mesh.endpoints.values().for_each(|held| add(Resource::Endpoints(held.clone())));
        mesh.services.values().for_each(|held| add(Resource::Service(held.clone())));

        let content = Kind::ALL
            .into_iter()
            .filter(|kind| *kind != Kind::Endpoints)
            .flat_map(|kind| &resources[kind as usize])
            .map(|(name, encoded)| (name.as_str(), encoded.version));
        let generation = counter.of(Version::of_all(content))?;
        let resource = Resource::Generation(Arc::new(generation.clone()));
        let name = resource.name();
        resources[Kind::Generation as usize].insert(name, Arc::new(Encoded::new(resource)));
        let addresses = index_addresses(&mesh);
        Ok(Self { mesh, generation, resources, addresses, files: Arc::default() })
    }

    /// The same, with the files that the mesh was compiled from.
    pub fn with_files(self, files: Arc<[SourceFile]>) -> Self {
        Self { files, ..self }
    }

    /// The files that are in force, as they were written.
    pub fn files(&self) -> &Arc<[SourceFile]> {
        &self.files
    }

    /// The mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Its generation.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// A resource by name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Encoded>> {
        self.resources[kind as usize].get(name)
    }

    /// All resources of a kind.
    pub fn of_kind(&self, kind: Kind) -> &BTreeMap<ResourceName, Arc<Encoded>> {
        &self.resources[kind as usize]
    }

    /// The slices of a destination's endpoints, by name.
    pub fn endpoints_of<'a>(&'a self, service: &ResourceName) -> impl Iterator<Item = &'a ResourceName> {
        let prefix = format!("{service}:");
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        self.resources[Kind::Endpoints as usize]
            .range::<str, _>(from)
            .map(|(name, _)| name)
            .take_while(move |name| name.as_str().starts_with(&prefix))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// The destination that an address and port lead to.
    pub fn resolve_address(&self, dialled: SocketAddr) -> Option<&ResourceName> {
        self.addresses.get(&SocketAddr::new(dialled.ip().to_canonical(), dialled.port()))
    }
}

impl Encoded {
    fn new(resource: Resource) -> Self {
        let bytes = Bytes::from(resource.encode());
        Self { version: Version::of(&bytes), bytes, resource }
    }
}

/// [`Mesh::resolve_address`] for all addresses at once: a Service's virtual address goes before a
/// workload's own.
fn index_addresses(mesh: &Mesh) -> HashMap<SocketAddr, ResourceName> {
    let mut addresses = HashMap::new();
    for (name, service) in &mesh.services {
        for ip in &service.addresses {
            for port in &service.ports {
                let address = SocketAddr::new(ip.to_canonical(), port.port);
                addresses.entry(address).or_insert_with(|| name.clone());
            }
        }
    }
    for workload in mesh.workloads.values() {
        for ip in &workload.addresses {
            for port in &workload.ports {
                let address = SocketAddr::new(ip.to_canonical(), port.port);
                addresses.entry(address).or_insert_with(|| direct_name(&workload.uid));
            }
        }
    }
    addresses
}
