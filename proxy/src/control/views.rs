//! What workers see of destinations, built from what is held and rebuilt as little as can be: a port,
//! an endpoint set or a destination is a new `Arc` only if something in it is.
//!
//! A port has two views: as it was asked for, with the routes of this proxy's namespace, and plain,
//! as the backend of a route, where routes do not apply again (so that no view contains itself). A
//! port without routes has one.

use super::apply::Store;
use crate::policy::{Destination, DestinationPort, EndpointSet};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use weft_model::endpoints::{Endpoint, Endpoints};
use weft_model::names::{Namespace, ResourceName, ServiceName};
use weft_model::route::Route;
use weft_model::route_table::RouteTable;
use weft_model::service::{Service, ServicePort, ServiceTarget, direct_name};
use weft_model::traffic::{Traffic, TrafficPolicy};
use weft_model::wire::{Kind, Resource};

/// A port of a destination.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct PortKey {
    name: ResourceName,
    port: u16,
}

/// The slices of every port, as they came.
#[derive(Debug, Default)]
pub(super) struct Slices {
    ports: HashMap<PortKey, BTreeMap<u32, Vec<Arc<Endpoint>>>>,
}

/// Everything that was built.
#[derive(Debug)]
pub(super) struct Views {
    namespace: Namespace,
    plain: HashMap<PortKey, View>,
    routed: HashMap<PortKey, View>,
    destinations: HashMap<ResourceName, Arc<Destination>>,
    sets: HashMap<PortKey, Arc<EndpointSet>>,
}

/// A built port, with what it was built of.
#[derive(Debug)]
struct View {
    inputs: Inputs,
    built: Arc<DestinationPort>,
}

#[derive(Debug)]
struct Inputs {
    service: Arc<Service>,
    policies: Vec<(ResourceName, Option<Arc<TrafficPolicy>>)>,
    routes: Vec<(ResourceName, Option<Arc<Route>>)>,
    backends: Vec<((ServiceName, u16), Arc<DestinationPort>)>,
    endpoints: Arc<EndpointSet>,
}

// === impl Slices ===

impl Slices {
    /// Takes a slice; the port it belongs to.
    pub(super) fn put(&mut self, slice: &Endpoints) -> PortKey {
        let key = PortKey { name: target_name(&slice.target), port: slice.port };
        let held = self.ports.entry(key.clone()).or_default().entry(slice.slice).or_default();
        let mut new: Vec<Arc<Endpoint>> = slice
            .endpoints
            .iter()
            .map(|endpoint| {
                let found = held.binary_search_by(|held| order(held).cmp(&order(endpoint)));
                match found.ok().and_then(|index| held.get(index)).filter(|held| ***held == *endpoint) {
                    Some(same) => same.clone(),
                    None => Arc::new(endpoint.clone()),
                }
            })
            .collect();
        new.sort_by(|a, b| order(a).cmp(&order(b)));
        *held = new;
        key
    }

    /// Drops a slice; the port it belonged to.
    pub(super) fn remove(&mut self, slice: &Endpoints) -> PortKey {
        let key = PortKey { name: target_name(&slice.target), port: slice.port };
        if let Some(slices) = self.ports.get_mut(&key) {
            slices.remove(&slice.slice);
            if slices.is_empty() {
                self.ports.remove(&key);
            }
        }
        key
    }

    fn joined(&self, key: &PortKey) -> EndpointSet {
        let slices = self.ports.get(key).into_iter().flat_map(BTreeMap::values).flatten();
        let mut endpoints: Vec<Arc<Endpoint>> = slices.cloned().collect();
        // Slices are sorted and, as a rule, follow each other: a run, which sorting notices.
        endpoints.sort_by(|a, b| order(a).cmp(&order(b)));
        EndpointSet { endpoints }
    }
}

fn order(endpoint: &Endpoint) -> (&str, std::net::SocketAddr) {
    (endpoint.uid.as_str(), endpoint.address)
}

fn target_name(target: &ServiceTarget) -> ResourceName {
    match target {
        ServiceTarget::Service(name) => name.resource_name(),
        ServiceTarget::Workload(uid) => direct_name(uid),
    }
}

// === impl Views ===

impl Default for Views {
    fn default() -> Self {
        Self::new("default".parse().expect("a constant namespace must parse"))
    }
}

impl Views {
    /// For a proxy of this namespace.
    pub(super) fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            plain: HashMap::new(),
            routed: HashMap::new(),
            destinations: HashMap::new(),
            sets: HashMap::new(),
        }
    }

    /// A destination that was wanted at the last rebuild and exists.
    pub(super) fn destination(&self, name: &ResourceName) -> Option<&Arc<Destination>> {
        self.destinations.get(name)
    }

    /// Builds all destinations that are wanted, from what is held.
    pub(super) fn rebuild(&mut self, wanted: &BTreeSet<ResourceName>, store: &Store, slices: &Slices) {
        let new = Self::new(self.namespace.clone());
        let old = std::mem::replace(self, new);
        for name in wanted {
            let Some(service) = store.service(name) else { continue };
            let ports: Vec<_> = service
                .ports
                .iter()
                .map(|port| self.port(name, &service, port, store, slices, &old))
                .collect();
            let destination = match old.destinations.get(name) {
                Some(held) if Arc::ptr_eq(&held.service, &service) && same(&held.ports, &ports) => {
                    held.clone()
                }
                _ => Arc::new(Destination { name: name.clone(), service, ports }),
            };
            self.destinations.insert(name.clone(), destination);
        }
    }

    /// The endpoints of a port changed: replaces what is built on them. Whether anything was.
    pub(super) fn endpoints_changed(&mut self, key: &PortKey, slices: &Slices) -> bool {
        // A port that nobody has asked for is not built; its slices wait.
        let Some(held) = self.sets.get_mut(key) else { return false };
        let joined = slices.joined(key);
        if **held == joined {
            return false;
        }
        let set = Arc::new(joined);
        *held = set.clone();
        let mut replaced: Vec<(Arc<DestinationPort>, Arc<DestinationPort>)> = Vec::new();
        if let Some(view) = self.plain.get_mut(key) {
            view.inputs.endpoints = set.clone();
            replaced.push(view.rebuild());
        }
        let backend = replaced.first().cloned();
        for (own, view) in &mut self.routed {
            let mut touched = own == key;
            if touched {
                view.inputs.endpoints = set.clone();
            }
            if let Some((old, new)) = &backend {
                for (_, held) in &mut view.inputs.backends {
                    if Arc::ptr_eq(held, old) {
                        *held = new.clone();
                        touched = true;
                    }
                }
            }
            if touched {
                replaced.push(view.rebuild());
            }
        }
        for destination in self.destinations.values_mut() {
            let replacement =
                |port: &Arc<DestinationPort>| replaced.iter().find(|(old, _)| Arc::ptr_eq(old, port));
            if destination.ports.iter().any(|port| replacement(port).is_some()) {
                let ports = destination
                    .ports
                    .iter()
                    .map(|port| replacement(port).map_or(port, |(_, new)| new).clone())
                    .collect();
                *destination = Arc::new(Destination {
                    name: destination.name.clone(),
                    service: destination.service.clone(),
                    ports,
                });
            }
        }
        true
    }

    fn port(
        &mut self,
        name: &ResourceName,
        service: &Arc<Service>,
        port: &ServicePort,
        store: &Store,
        slices: &Slices,
        old: &Self,
    ) -> Arc<DestinationPort> {
        let ServiceTarget::Service(own) = &service.target else {
            return self.plain(name, service, port, store, slices, old);
        };
        let routes: Vec<_> = port
            .routes_for(self.namespace.as_str(), own.namespace.as_str())
            .map(|name| {
                let held = store.get(Kind::Route, name, |resource| match resource {
                    Resource::Route(route) => Some(route),
                    _ => None,
                });
                (name.clone(), held)
            })
            .collect();
        if routes.is_empty() {
            return self.plain(name, service, port, store, slices, old);
        }
        let mut named: Vec<(ServiceName, u16)> = routes
            .iter()
            .filter_map(|(_, route)| route.as_ref())
            .flat_map(|route| route.targets())
            .cloned()
            .collect();
        named.sort();
        named.dedup();
        let mut backends = Vec::with_capacity(named.len());
        for (target, number) in named {
            let name = target.resource_name();
            let Some(service) = store.service(&name) else { continue };
            let Some(port) = service.port(number) else { continue };
            let view = self.plain(&name, &service, port, store, slices, old);
            backends.push(((target, number), view));
        }
        let key = PortKey { name: name.clone(), port: port.port };
        let endpoints = self.set(&key, slices, old);
        let policies = policies(service, store);
        let inputs = Inputs { service: service.clone(), policies, routes, backends, endpoints };
        let view = View::new(&key, port, inputs, old.routed.get(&key));
        let built = view.built.clone();
        self.routed.insert(key, view);
        built
    }

    fn plain(
        &mut self,
        name: &ResourceName,
        service: &Arc<Service>,
        port: &ServicePort,
        store: &Store,
        slices: &Slices,
        old: &Self,
    ) -> Arc<DestinationPort> {
        let key = PortKey { name: name.clone(), port: port.port };
        if let Some(view) = self.plain.get(&key) {
            return view.built.clone();
        }
        let endpoints = self.set(&key, slices, old);
        let inputs = Inputs {
            service: service.clone(),
            policies: policies(service, store),
            routes: Vec::new(),
            backends: Vec::new(),
            endpoints,
        };
        let view = View::new(&key, port, inputs, old.plain.get(&key));
        let built = view.built.clone();
        self.plain.insert(key, view);
        built
    }

    fn set(&mut self, key: &PortKey, slices: &Slices, old: &Self) -> Arc<EndpointSet> {
        if let Some(held) = self.sets.get(key) {
            return held.clone();
        }
        // Endpoints hold at once, so what was built before is what the slices say now; only a port
        // that was not built is joined.
        let set = old.sets.get(key).cloned().unwrap_or_else(|| Arc::new(slices.joined(key)));
        self.sets.insert(key.clone(), set.clone());
        set
    }
}

// === impl View ===

impl View {
    fn new(key: &PortKey, port: &ServicePort, inputs: Inputs, old: Option<&Self>) -> Self {
        let built = match old {
            Some(old) if old.inputs.is_same(&inputs) => old.built.clone(),
            _ => Arc::new(DestinationPort {
                destination: key.name.clone(),
                service: inputs.service.clone(),
                port: key.port,
                protocol: port.protocol,
                routes: RouteTable::new(inputs.routes.iter().cloned()),
                backends: inputs.backends.iter().cloned().collect(),
                endpoints: inputs.endpoints.clone(),
                traffic: inputs.traffic(),
                is_backend: inputs.routes.is_empty(),
                backend_sessions: inputs.backends.iter().any(|(_, held)| held.traffic.session.is_some()),
                // One that is named and not held is one that is not obeyed.
                unresolved: inputs
                    .policies
                    .iter()
                    .find(|(_, held)| held.is_none())
                    .map(|(name, _)| name.clone()),
            }),
        };
        Self { inputs, built }
    }

    /// Builds again over changed endpoints or backends; the old and the new one.
    fn rebuild(&mut self) -> (Arc<DestinationPort>, Arc<DestinationPort>) {
        let new = Arc::new(DestinationPort {
            endpoints: self.inputs.endpoints.clone(),
            backends: self.inputs.backends.iter().cloned().collect(),
            ..(*self.built).clone()
        });
        let old = std::mem::replace(&mut self.built, new.clone());
        (old, new)
    }
}

impl Inputs {
    /// A Service has one policy of a kind at most; a second one was refused where it was written.
    fn traffic(&self) -> Arc<Traffic> {
        Traffic::joined(self.policies.iter().filter_map(|(_, policy)| policy.as_deref()))
    }

    fn is_same(&self, other: &Self) -> bool {
        let route = |held: &Option<Arc<Route>>| held.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.service, &other.service)
            && Arc::ptr_eq(&self.endpoints, &other.endpoints)
            && self.policies.len() == other.policies.len()
            && self
                .policies
                .iter()
                .zip(&other.policies)
                .all(|(a, b)| a.0 == b.0 && a.1.as_ref().map(Arc::as_ptr) == b.1.as_ref().map(Arc::as_ptr))
            && self.routes.len() == other.routes.len()
            && self.routes.iter().zip(&other.routes).all(|(a, b)| a.0 == b.0 && route(&a.1) == route(&b.1))
            && self.backends.len() == other.backends.len()
            && self.backends.iter().zip(&other.backends).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(&a.1, &b.1))
    }
}

/// The TrafficPolicies that a Service names, as far as they are held.
fn policies(service: &Service, store: &Store) -> Vec<(ResourceName, Option<Arc<TrafficPolicy>>)> {
    let held = |name: &ResourceName| {
        store.get(Kind::TrafficPolicy, name, |resource| match resource {
            Resource::TrafficPolicy(policy) => Some(policy),
            _ => None,
        })
    };
    service.traffic_policies.iter().map(|name| (name.clone(), held(name))).collect()
}

fn same(one: &[Arc<DestinationPort>], other: &[Arc<DestinationPort>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b))
}
