//! What there may be only one of: a document of a kind and name, an address with a port.

use crate::report::{Place, Report};
use crate::schema::{Document, Documents};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use weft_model::mesh::MeshConfig;

/// Refuses documents of one kind, namespace and name: all of them, since none is the one that holds.
pub(crate) fn each_once(report: &Report<'_>, documents: &Documents<'_>) {
    of_kind(report, "Service", &documents.services);
    of_kind(report, "Workload", &documents.workloads);
    of_kind(report, "HTTPRoute", &documents.http_routes);
    of_kind(report, "GRPCRoute", &documents.grpc_routes);
    of_kind(report, "TLSRoute", &documents.tls_routes);
    of_kind(report, "TCPRoute", &documents.tcp_routes);
    of_kind(report, "ReferenceGrant", &documents.reference_grants);
    of_kind(report, "AuthorizationPolicy", &documents.authorization_policies);
    of_kind(report, "PeerAuthentication", &documents.peer_authentications);
    of_kind(report, "PolicyTest", &documents.policy_tests);
    of_kind(report, "RequestAuthentication", &documents.request_authentications);
    of_kind(report, "TrafficPolicy", &documents.traffic_policies);
    of_kind(report, "XBackendTrafficPolicy", &documents.backend_traffic_policies);
}

fn of_kind<T>(report: &Report<'_>, kind: &str, documents: &[Rc<Document<'_, T>>]) {
    let mut seen: HashMap<(&str, &str), Place> = HashMap::with_capacity(documents.len());
    let mut told = HashSet::new();
    for document in documents {
        let (namespace, name) = (&document.metadata.namespace.value, &document.metadata.name);
        let Some(first) = seen.insert((namespace.as_str(), name.value.as_str()), name.place) else {
            continue;
        };
        let what = format!("{kind} {namespace}/{}", name.value);
        if told.insert((namespace.as_str(), name.value.as_str())) {
            report.error(first, format!("{what} comes again in {}", report.location(name.place)));
        }
        report.error(name.place, format!("{what} is in {} already", report.location(first)));
    }
}

/// Refuses two destinations at one address and port, and addresses that proxies would pass by.
pub(crate) fn addresses_once(report: &Report<'_>, documents: &Documents<'_>, config: &MeshConfig) {
    let mut seen: HashMap<(IpAddr, u16), Place> = HashMap::new();
    let mut destination = |address: IpAddr, port: u16, place: Place| {
        if let Some(first) = seen.insert((address, port), place) {
            let message =
                format!("{address} port {port} is a destination in {} already", report.location(first));
            report.error(place, message);
        }
    };
    // A block that could not be read is missing from them, and the error is told already.
    let broken = documents.mesh_configs.iter().any(|document| report.failed(document.place()));
    let within = |address: IpAddr, place: Place| {
        if !broken && !config.cidrs.is_empty() && !config.cidrs.iter().any(|block| block.contains(&address)) {
            let message =
                format!("{address} lies outside the mesh's `cidrs`: calls to it would pass the mesh by");
            report.error_hint(place, message, "add it to `cidrs` of the MeshConfig");
        }
    };
    for service in &documents.services {
        for address in &service.spec.addresses {
            within(address.value, address.place);
            for port in &service.spec.ports {
                destination(address.value, port.port, port.place);
            }
        }
    }
    for workload in &documents.workloads {
        for address in &workload.spec.addresses {
            within(address.value, address.place);
            for port in &workload.spec.ports {
                destination(address.value, port.port, port.place);
            }
        }
    }
}
