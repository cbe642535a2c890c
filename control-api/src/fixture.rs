//! A small mesh for unit tests, made of model values.

use crate::snapshot::Snapshot;
use crate::snapshot::generation::GenerationCounter;
use crate::state::StateDirectory;
use std::net::SocketAddr;
use std::sync::Arc;
use weft_model::authorization::{Action, Authorization, Provenance};
use weft_model::endpoints::{Endpoint, Endpoints, Health, Wire};
use weft_model::mesh::Mesh;
use weft_model::names::ResourceName;
use weft_model::route::{Backend, PathMatch, Route, RouteMatch, RouteRule};
use weft_model::service::{Protocol, Service, ServicePort, ServiceTarget, direct_name};
use weft_model::trust::TrustBundle;
use weft_model::workload::{Description, Workload, WorkloadPort};

/// A mesh that is edited, and snapshots of it.
pub(crate) struct Fixture {
    pub(crate) mesh: Mesh,
    counter: GenerationCounter,
    previous: Option<Arc<Snapshot>>,
    _state: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDirectory::open(temporary.path()).unwrap());
        let counter = GenerationCounter::load(state).unwrap();
        Self { mesh: Mesh::default(), counter, previous: None, _state: temporary }
    }

    /// Workloads web-1 and cart-1 (bound by a policy), Services cart (with an address), catalog with a
    /// route to catalog-v1 and catalog-v2, all in namespace shop.
    pub(crate) fn shop() -> Self {
        let mut fixture = Self::new();
        fixture.workload("shop/web-1", "10.1.0.1");
        fixture.workload("shop/cart-1", "10.1.0.2");
        fixture.policy("shop/cart-callers");
        fixture.bind("shop/cart-1", "AuthorizationPolicy/shop/cart-callers");
        fixture.service("shop/cart", Some("10.0.0.1"), &["10.1.0.2:8080"]);
        for name in ["shop/catalog", "shop/catalog-v1", "shop/catalog-v2"] {
            fixture.service(name, None, &["10.1.0.3:8080"]);
        }
        fixture.route("shop/split", "shop/catalog", &["shop/catalog-v1", "shop/catalog-v2"]);
        fixture
    }

    pub(crate) fn snapshot(&mut self) -> Arc<Snapshot> {
        let trust = Arc::new(TrustBundle {
            trust_domain: self.mesh.config.trust_domain.clone(),
            roots: vec![vec![1]],
        });
        let built =
            Snapshot::build(self.mesh.clone(), &trust, &mut self.counter, self.previous.as_deref()).unwrap();
        let built = Arc::new(built);
        self.previous = Some(built.clone());
        built
    }

    pub(crate) fn workload(&mut self, uid: &str, ip: &str) {
        let (namespace, _) = uid.split_once('/').unwrap();
        let workload = Workload {
            uid: uid.parse().unwrap(),
            namespace: namespace.parse().unwrap(),
            service_account: "default".parse().unwrap(),
            trust_domain: self.mesh.config.trust_domain.clone(),
            description: Description::default(),
            addresses: vec![ip.parse().unwrap()],
            ports: vec![WorkloadPort {
                port: 8080,
                protocol: Protocol::Http,
                services: Vec::new(),
                traffic_policies: Vec::new(),
            }],
            authorizations: Vec::new(),
            peer_authentications: Vec::new(),
            request_authentications: Vec::new(),
            zone: "".into(),
            probes: Vec::new(),
        };
        let target = ServiceTarget::Workload(workload.uid.clone());
        let port = port(8080, Vec::new());
        let service = Service {
            target: target.clone(),
            addresses: Vec::new(),
            ports: vec![port],
            traffic_policies: Vec::new(),
        };
        self.mesh.services.insert(direct_name(&workload.uid), Arc::new(service));
        self.endpoints(target, 8080, 0, &[&format!("{ip}:8080")]);
        self.mesh.workloads.insert(workload.uid.clone(), Arc::new(workload));
    }

    pub(crate) fn policy(&mut self, name: &str) {
        let (namespace, name) = name.split_once('/').unwrap();
        let policy = Authorization {
            namespace: namespace.parse().unwrap(),
            name: name.parse().unwrap(),
            action: Action::Allow,
            dry_run: false,
            provider: None,
            rules: Vec::new(),
            provenance: Provenance::default(),
        };
        let name = ResourceName::of("AuthorizationPolicy", &policy.namespace, &policy.name);
        self.mesh.authorizations.insert(name, Arc::new(policy));
    }

    pub(crate) fn bind(&mut self, uid: &str, policy: &str) {
        let workload = self.mesh.workloads.get_mut(uid).unwrap();
        Arc::make_mut(workload).authorizations.push(policy.parse().unwrap());
    }

    pub(crate) fn service(&mut self, name: &str, address: Option<&str>, endpoints: &[&str]) {
        let target = ServiceTarget::Service(name.parse().unwrap());
        let service = Service {
            target: target.clone(),
            addresses: address.map(|address| address.parse().unwrap()).into_iter().collect(),
            ports: vec![port(80, Vec::new())],
            traffic_policies: Vec::new(),
        };
        self.mesh.services.insert(service.resource_name(), Arc::new(service));
        self.endpoints(target, 80, 0, endpoints);
    }

    pub(crate) fn endpoints(&mut self, target: ServiceTarget, port: u16, slice: u32, addresses: &[&str]) {
        let endpoint = |address: &&str| Endpoint {
            uid: "shop/some".parse().unwrap(),
            address: address.parse::<SocketAddr>().unwrap(),
            wire: Wire::Plain,
            weight: 1,
            zone: "".into(),
            health: Health::Ready,
            description: Arc::default(),
        };
        let endpoints =
            Endpoints { target, port, slice, endpoints: addresses.iter().map(endpoint).collect() };
        self.mesh.endpoints.insert(endpoints.resource_name(), Arc::new(endpoints));
    }

    /// A route on port 80 of a Service, to port 80 of its backends.
    pub(crate) fn route(&mut self, name: &str, parent: &str, backends: &[&str]) {
        let (namespace, name) = name.split_once('/').unwrap();
        let backend = |name: &&str| Backend {
            service: Some((name.parse().unwrap(), 80)),
            weight: 1,
            filters: Vec::new(),
        };
        let every = RouteMatch {
            path: PathMatch::prefix("/"),
            headers: Vec::new(),
            queries: Vec::new(),
            method: None,
        };
        let rule = RouteRule {
            name: "".into(),
            matches: vec![every],
            filters: Vec::new(),
            backends: backends.iter().map(backend).collect(),
            request_timeout: None,
            backend_request_timeout: None,
            retry: None,
            session: None,
            provenance: Provenance::default(),
        };
        let route = Route {
            kind: weft_model::route::RouteKind::Http,
            namespace: namespace.parse().unwrap(),
            name: name.parse().unwrap(),
            created: None,
            server_names: Vec::new(),
            rules: vec![rule],
            provenance: Provenance::default(),
        };
        let name = route.resource_name();
        let service = self.mesh.services.get_mut(parent).unwrap();
        let routes = &mut Arc::make_mut(service).ports[0].routes;
        if !routes.contains(&name) {
            routes.push(name.clone());
        }
        self.mesh.routes.insert(name, Arc::new(route));
    }
}

fn port(port: u16, routes: Vec<ResourceName>) -> ServicePort {
    ServicePort { port, protocol: Protocol::Http, name: "http".into(), routes }
}
