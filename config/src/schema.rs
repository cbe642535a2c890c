//! What users write, by kind: trees → documents of checked values with their places.
//!
//! Reading never stops at the first problem. A document with errors is still handed on, marked as
//! failed, so that what it would have bound can be closed rather than left open.

pub(crate) mod authorization_policy;
pub(crate) mod backend_traffic_policy;
mod conditions;
pub(crate) mod connection_route;
mod faults;
pub(crate) mod grpc_route;
pub(crate) mod http_route;
pub(crate) mod mesh_config;
mod metadata;
mod overload;
pub(crate) mod peer_authentication;
mod policy_test;
pub(crate) mod probe;
pub(crate) mod reference_grant;
pub(crate) mod request_authentication;
pub(crate) mod route;
mod route_filters;
pub(crate) mod selector;
pub(crate) mod service;
mod session_persistence;
pub(crate) mod traffic_policy;
pub(crate) mod value;
pub(crate) mod workload;

pub(crate) use metadata::{Labels, Metadata};

use crate::case::Case;
use crate::closest::closest;
use crate::document::quoted;
use crate::report::{Place, Report};
use authorization_policy::AuthorizationPolicy;
use backend_traffic_policy::BackendTrafficPolicy;
use mesh_config::MeshConfig;
use metadata::{Scope, metadata};
use peer_authentication::PeerAuthentication;
use request_authentication::RequestAuthentication;
use route::Route;
use service::Service;
use std::rc::Rc;
use traffic_policy::TrafficPolicy;
use value::{Object, Value};
use workload::Workload;

/// A document of a kind.
pub(crate) struct Document<'r, T> {
    pub(crate) metadata: Metadata<'r>,
    pub(crate) spec: T,
}

impl<T> Document<'_, T> {
    pub(crate) fn place(&self) -> Place {
        self.metadata.place
    }
}

/// Documents of one kind, in the order of files. Shared, since a file is read once and joined often.
pub(crate) type List<'r, T> = Vec<Rc<Document<'r, T>>>;

/// All documents that could be told apart, by kind.
#[derive(Default)]
pub(crate) struct Documents<'r> {
    pub(crate) services: List<'r, Service<'r>>,
    pub(crate) workloads: List<'r, Workload<'r>>,
    pub(crate) mesh_configs: List<'r, MeshConfig>,
    pub(crate) http_routes: List<'r, Route>,
    pub(crate) grpc_routes: List<'r, Route>,
    pub(crate) tls_routes: List<'r, Route>,
    pub(crate) tcp_routes: List<'r, Route>,
    pub(crate) reference_grants: List<'r, ()>,
    pub(crate) authorization_policies: List<'r, AuthorizationPolicy<'r>>,
    pub(crate) peer_authentications: List<'r, PeerAuthentication<'r>>,
    pub(crate) policy_tests: List<'r, Vec<Case>>,
    pub(crate) request_authentications: List<'r, RequestAuthentication<'r>>,
    pub(crate) traffic_policies: List<'r, TrafficPolicy>,
    pub(crate) backend_traffic_policies: List<'r, BackendTrafficPolicy>,
}

impl<'r> Documents<'r> {
    /// Adds those of another file.
    pub(crate) fn extend(&mut self, other: &Self) {
        // Taken apart, so that no kind is forgotten here.
        let Self {
            services,
            workloads,
            mesh_configs,
            http_routes,
            grpc_routes,
            tls_routes,
            tcp_routes,
            reference_grants,
            authorization_policies,
            peer_authentications,
            policy_tests,
            request_authentications,
            traffic_policies,
            backend_traffic_policies,
        } = other;
        self.services.extend_from_slice(services);
        self.workloads.extend_from_slice(workloads);
        self.mesh_configs.extend_from_slice(mesh_configs);
        self.http_routes.extend_from_slice(http_routes);
        self.grpc_routes.extend_from_slice(grpc_routes);
        self.tls_routes.extend_from_slice(tls_routes);
        self.tcp_routes.extend_from_slice(tcp_routes);
        self.reference_grants.extend_from_slice(reference_grants);
        self.authorization_policies.extend_from_slice(authorization_policies);
        self.peer_authentications.extend_from_slice(peer_authentications);
        self.policy_tests.extend_from_slice(policy_tests);
        self.request_authentications.extend_from_slice(request_authentications);
        self.traffic_policies.extend_from_slice(traffic_policies);
        self.backend_traffic_policies.extend_from_slice(backend_traffic_policies);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Service,
    Workload,
    MeshConfig,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    ReferenceGrant,
    AuthorizationPolicy,
    PeerAuthentication,
    PolicyTest,
    RequestAuthentication,
    TrafficPolicy,
    BackendTrafficPolicy,
    // Part of the design, not evaluated yet.
    Later,
}

const GATEWAY: &str = "gateway.networking.k8s.io";
const ISTIO: &str = "security.istio.io";
const WEFT: &str = "weft.dev";

// Group, kind, versions.
const KINDS: [(&str, &str, &[&str], Kind); 16] = [
    ("", "Service", &["v1"], Kind::Service),
    (WEFT, "Workload", &["v1alpha1"], Kind::Workload),
    (WEFT, "MeshConfig", &["v1alpha1"], Kind::MeshConfig),
    (WEFT, "PolicyTest", &["v1alpha1"], Kind::PolicyTest),
    (GATEWAY, "HTTPRoute", &["v1"], Kind::HttpRoute),
    (ISTIO, "AuthorizationPolicy", &["v1", "v1beta1"], Kind::AuthorizationPolicy),
    (ISTIO, "PeerAuthentication", &["v1", "v1beta1"], Kind::PeerAuthentication),
    (ISTIO, "RequestAuthentication", &["v1", "v1beta1"], Kind::RequestAuthentication),
    (GATEWAY, "GRPCRoute", &["v1"], Kind::GrpcRoute),
    (GATEWAY, "TCPRoute", &["v1", "v1alpha2"], Kind::TcpRoute),
    (GATEWAY, "TLSRoute", &["v1", "v1alpha3", "v1alpha2"], Kind::TlsRoute),
    (GATEWAY, "ReferenceGrant", &["v1", "v1beta1"], Kind::ReferenceGrant),
    ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy", &["v1alpha1"], Kind::BackendTrafficPolicy),
    (WEFT, "TrafficPolicy", &["v1alpha1"], Kind::TrafficPolicy),
    ("discovery.k8s.io", "EndpointSlice", &["v1"], Kind::Later),
    ("", "List", &["v1"], Kind::Later),
];

// What others use, and what to write instead.
const INSTEAD: [(&str, &str); 8] = [
    ("VirtualService", "write an HTTPRoute with the Service as its parent"),
    (
        "DestinationRule",
        "write a TrafficPolicy (weft.dev/v1alpha1); subsets are Services of their own, chosen by an HTTPRoute",
    ),
    ("ServiceEntry", "write a Service and a Workload"),
    ("WorkloadEntry", "write a Workload (weft.dev/v1alpha1)"),
    ("Deployment", "outside a cluster, write a Workload (weft.dev/v1alpha1) for each replica"),
    ("Pod", "outside a cluster, write a Workload (weft.dev/v1alpha1)"),
    ("Gateway", "Weft carries traffic between workloads; routes attach to Services"),
    ("Sidecar", "Weft's proxies hold what they use; nothing needs to be scoped by hand"),
];

/// Reads all documents of a file.
pub(crate) fn read<'r>(report: &'r Report<'r>, file: u32) -> Documents<'r> {
    let mut documents = Documents::default();
    let tree = report.tree(Place { file, node: 0 });
    for (index, root) in tree.documents.iter().enumerate() {
        let value = Value { report, place: Place { file, node: *root } };
        // An item of a List has a parent.
        let nested = tree.nodes[*root as usize].parent != crate::document::NONE;
        // `---` with nothing but comments behind it.
        if value.is_null() && !nested {
            continue;
        }
        let expanded = tree
            .documents
            .get(index + 1)
            .is_some_and(|next| tree.list_items(*root).is_some_and(|items| items.first() == Some(next)));
        document(value, nested, expanded, &mut documents);
    }
    documents
}

fn document<'r>(value: Value<'r>, nested: bool, expanded: bool, documents: &mut Documents<'r>) {
    let Some(object) = value.object() else { return };
    let (version, kind) = (object.require("apiVersion"), object.require("kind"));
    let known = version.and_then(Value::text).zip(kind.and_then(Value::text));
    let found = known.and_then(|(version, written)| {
        identify(group_and_version(version.value), written.value, value, version.place, written.place)
    });
    let Some((name, kind)) = found else {
        // Of a document of an unknown kind only the kind is worth a word.
        object.accept_all();
        return;
    };
    if name == "List" {
        object.accept(&["metadata", "items"]);
        if nested {
            object.error("a List within a List is not supported");
        } else if !expanded
            && !object.take("items").is_some_and(|items| items.list().is_some_and(|l| l.is_empty()))
        {
            object.error("a List must have its `items` as a list");
        }
        return;
    }
    object.accept(&["status"]);
    if let Kind::Later = kind {
        object.accept_all();
        object.error(format!("kind {name} is not evaluated yet"));
        return;
    }
    let scope = if matches!(kind, Kind::MeshConfig) { Scope::Mesh } else { Scope::Namespaced };
    let metadata = metadata(&object, scope);
    let optional = matches!(
        kind,
        Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication | Kind::MeshConfig
    );
    let spec = if optional { object.take("spec") } else { object.require("spec") };
    let Some(metadata) = metadata else { return };
    if let (Some(place), false) = (metadata.dry_run, matches!(kind, Kind::AuthorizationPolicy)) {
        value.report.error(place, "only an AuthorizationPolicy can be a dry run");
    }
    let spec = spec.and_then(Value::object);
    read_kind(kind, metadata, spec, documents);
}

fn read_kind<'r>(
    kind: Kind,
    metadata: Metadata<'r>,
    spec: Option<Object<'r>>,
    documents: &mut Documents<'r>,
) {
    let spec = spec.as_ref();
    match kind {
        Kind::Service => push(&mut documents.services, service::read(spec, &metadata), metadata),
        Kind::Workload => push(&mut documents.workloads, workload::read(spec), metadata),
        Kind::MeshConfig => push(&mut documents.mesh_configs, mesh_config::read(spec), metadata),
        Kind::HttpRoute => push(&mut documents.http_routes, http_route::read(spec, &metadata), metadata),
        Kind::GrpcRoute => push(&mut documents.grpc_routes, grpc_route::read(spec, &metadata), metadata),
        Kind::TlsRoute => {
            push(&mut documents.tls_routes, connection_route::read_tls(spec, &metadata), metadata);
        }
        Kind::TcpRoute => {
            push(&mut documents.tcp_routes, connection_route::read_tcp(spec, &metadata), metadata);
        }
        Kind::ReferenceGrant => {
            reference_grant::read(spec);
            push(&mut documents.reference_grants, (), metadata);
        }
        Kind::AuthorizationPolicy => {
            let spec = authorization_policy::read(spec, &metadata);
            push(&mut documents.authorization_policies, spec, metadata);
        }
        Kind::PeerAuthentication => {
            push(&mut documents.peer_authentications, peer_authentication::read(spec), metadata);
        }
        Kind::PolicyTest => {
            let spec = policy_test::read(spec, &metadata);
            push(&mut documents.policy_tests, spec, metadata);
        }
        Kind::RequestAuthentication => {
            let spec = request_authentication::read(spec, &metadata);
            push(&mut documents.request_authentications, spec, metadata);
        }
        Kind::TrafficPolicy => {
            let spec = traffic_policy::read(spec, &metadata);
            push(&mut documents.traffic_policies, spec, metadata);
        }
        Kind::BackendTrafficPolicy => {
            let spec = backend_traffic_policy::read(spec, &metadata);
            push(&mut documents.backend_traffic_policies, spec, metadata);
        }
        Kind::Later => {}
    }
}

fn push<'r, T>(list: &mut List<'r, T>, spec: T, metadata: Metadata<'r>) {
    list.push(Rc::new(Document { metadata, spec }));
}

fn group_and_version(version: &str) -> (&str, &str) {
    version.rsplit_once('/').unwrap_or(("", version))
}

fn identify(
    (group, version): (&str, &str),
    kind: &str,
    value: Value<'_>,
    version_place: Place,
    kind_place: Place,
) -> Option<(&'static str, Kind)> {
    let report = value.report;
    let named = KINDS.iter().find(|(_, name, _, _)| *name == kind);
    let Some((own_group, name, versions, found)) = named else {
        let instead = INSTEAD.iter().find(|(name, _)| *name == kind).map(|(_, hint)| (*hint).to_owned());
        let near = closest(kind, KINDS.iter().map(|(_, name, _, _)| *name));
        let hint = instead.or_else(|| near.map(|near| format!("did you mean {near}?")));
        report.error_hint(kind_place, format!("unknown kind {}", quoted(kind)), hint);
        return None;
    };
    if *own_group != group || !versions.contains(&version) {
        let wanted = if own_group.is_empty() {
            versions[0].to_owned()
        } else {
            format!("{own_group}/{}", versions[0])
        };
        let written = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let message = format!("there is no kind {name} in {}", quoted(&written));
        report.error_hint(version_place, message, format!("write `apiVersion: {wanted}`"));
        return None;
    }
    Some((name, *found))
}
