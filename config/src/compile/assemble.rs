//! The joined parts → the mesh, by resource name.

use super::population::{Entry, Population};
use super::services::Services;
use crate::report::Report;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use weft_model::authentication::{PeerAuthentication, TlsMode};
use weft_model::authorization::Authorization;
use weft_model::endpoints::{Endpoint, Endpoints, Health, SLICE_SIZE_MAX, Wire};
use weft_model::mesh::{Mesh, MeshConfig};
use weft_model::names::ResourceName;
use weft_model::request_authentication::RequestAuthentication;
use weft_model::route::Route;
use weft_model::service::{Service, ServicePort, ServiceTarget};
use weft_model::traffic::TrafficPolicy;
use weft_model::workload::Workload;

/// The resources that are compiled before everything is put together.
pub(crate) struct Held {
    pub(crate) peer_authentications: BTreeMap<ResourceName, Arc<PeerAuthentication>>,
    pub(crate) authorizations: BTreeMap<ResourceName, Arc<Authorization>>,
    pub(crate) request_authentications: BTreeMap<ResourceName, Arc<RequestAuthentication>>,
    pub(crate) routes: BTreeMap<ResourceName, Arc<Route>>,
    pub(crate) traffic_policies: BTreeMap<ResourceName, Arc<TrafficPolicy>>,
}

pub(crate) fn mesh(
    report: &Report<'_>,
    config: MeshConfig,
    population: &Population<'_>,
    services: &Services<'_>,
    held: Held,
) -> Mesh {
    let mut mesh = Mesh {
        peer_authentications: held.peer_authentications,
        authorizations: held.authorizations,
        request_authentications: held.request_authentications,
        routes: held.routes,
        traffic_policies: held.traffic_policies,
        ..Mesh::default()
    };
    let usable = |entry: &&Entry<'_>| !report.failed(entry.place);
    for entry in population.all.iter().filter(usable) {
        mesh.workloads.insert(entry.uid.clone(), Arc::new(workload(entry, &config)));
        if !entry.written.injected {
            mesh.plain.insert(entry.uid.clone());
        }
        direct(entry, &mut mesh);
    }
    for (name, entry) in &services.by_name {
        if report.failed(entry.place) {
            continue;
        }
        let target = ServiceTarget::Service(name.clone());
        for port in &entry.ports {
            let found = port.endpoints.iter().map(|(index, port)| (&population.all[*index], *port));
            let endpoints =
                found.filter(|(entry, _)| usable(entry)).filter_map(|(entry, port)| endpoint(entry, port));
            insert_endpoints(&mut mesh, &target, port.written.port, endpoints.collect());
        }
        let ports = entry.ports.iter().map(|port| ServicePort {
            port: port.written.port,
            protocol: port.written.protocol,
            name: port.written.name.into(),
            routes: port.routes.clone(),
        });
        let ports = ports.collect();
        let service = Service {
            target,
            addresses: entry.addresses(),
            ports,
            traffic_policies: entry.traffic_policies.clone(),
        };
        insert_service(&mut mesh, service);
    }
    mesh.config = Arc::new(config);
    mesh
}

fn workload(entry: &Entry<'_>, config: &MeshConfig) -> Workload {
    Workload {
        uid: entry.uid.clone(),
        namespace: entry.namespace.clone(),
        service_account: entry.written.service_account.clone(),
        trust_domain: config.trust_domain.clone(),
        description: (*entry.description).clone(),
        addresses: addresses(entry),
        ports: entry.ports.clone(),
        authorizations: entry.authorizations.clone(),
        peer_authentications: entry.peer_authentications.clone(),
        request_authentications: entry.request_authentications.clone(),
        zone: entry.written.zone.into(),
        probes: entry.written.probes.iter().map(|probe| probe.value.clone()).collect(),
    }
}

fn addresses(entry: &Entry<'_>) -> Vec<IpAddr> {
    entry.written.addresses.iter().map(|address| address.value).collect()
}

// The destination "this one workload", for clients that dial its own address.
fn direct(entry: &Entry<'_>, mesh: &mut Mesh) {
    let target = ServiceTarget::Workload(entry.uid.clone());
    for port in &entry.ports {
        insert_endpoints(mesh, &target, port.port, endpoint(entry, port.port).into_iter().collect());
    }
    let ports = entry.written.ports.iter().zip(&entry.ports).map(|(written, port)| ServicePort {
        port: port.port,
        protocol: port.protocol,
        name: written.name.into(),
        routes: Vec::new(),
    });
    let ports = ports.collect();
    let addresses = addresses(entry);
    insert_service(mesh, Service { target, addresses, ports, traffic_policies: Vec::new() });
}

fn insert_service(mesh: &mut Mesh, service: Service) {
    mesh.services.insert(service.resource_name(), Arc::new(service));
}

// A port without endpoints has one empty slice: known to be empty is not unknown.
fn insert_endpoints(mesh: &mut Mesh, target: &ServiceTarget, port: u16, all: Vec<Endpoint>) {
    let slices = all.len().div_ceil(SLICE_SIZE_MAX).max(1);
    let mut all = all.into_iter();
    for slice in (0..).take(slices) {
        let endpoints = all.by_ref().take(SLICE_SIZE_MAX).collect();
        let held = Endpoints { target: target.clone(), port, slice, endpoints };
        mesh.endpoints.insert(held.resource_name(), Arc::new(held));
    }
}

fn endpoint(entry: &Entry<'_>, port: u16) -> Option<Endpoint> {
    let address = entry.written.addresses.first()?;
    let plain = !entry.written.injected || entry.modes.of_port(port) == TlsMode::Disable;
    Some(Endpoint {
        uid: entry.uid.clone(),
        address: SocketAddr::new(address.value, port),
        wire: if plain { Wire::Plain } else { Wire::Weft(entry.identity.clone()) },
        weight: entry.written.weight,
        zone: entry.written.zone.into(),
        health: Health::Ready,
        description: entry.description.clone(),
    })
}
