//! Whether a policy's sections have an effect at its Services: one that has none is told.

use crate::compile::population::Population;
use crate::compile::services::{Entry, Port, Services};
use crate::compile::without_proxy;
use crate::report::{At, Report};
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_model::names::{ResourceName, ServiceName};
use weft_model::route::{Backend, Route, RouteKind};

/// The Services that a policy is for, with what decides whether it does anything there.
pub(super) struct Effect<'a, 'r> {
    targets: Vec<(&'a ServiceName, &'a Entry<'r>)>,
    population: &'a Population<'r>,
    services: &'a Services<'r>,
    routes: &'a BTreeMap<ResourceName, Arc<Route>>,
}

impl<'a, 'r> Effect<'a, 'r> {
    pub(super) fn new(
        targets: &'a [At<ServiceName>],
        population: &'a Population<'r>,
        services: &'a Services<'r>,
        routes: &'a BTreeMap<ResourceName, Arc<Route>>,
    ) -> Self {
        let held = |target: &'a At<ServiceName>| Some((&target.value, services.by_name.get(&target.value)?));
        Self { targets: targets.iter().filter_map(held).collect(), population, services, routes }
    }

    /// `of_requests`: sections that opaque connections have nothing of; `of_replicas`: those that the replicas'
    /// proxies hold.
    pub(super) fn check(
        &self,
        report: &Report<'_>,
        of_requests: &[At<&'static str>],
        of_replicas: &[At<&'static str>],
    ) {
        for (name, entry) in &self.targets {
            for section in of_requests.iter().filter(|_| self.is_opaque(name, entry)) {
                let message = format!(
                    "`{}` is for requests, and all ports of {name} carry opaque bytes: nothing of it is done",
                    section.value
                );
                let hint = "declare what is spoken there (`appProtocol: http`)";
                report.error_hint(section.place, message, hint);
            }
            for section in of_replicas {
                self.check_replicas(report, name, entry, section);
            }
        }
    }

    fn check_replicas(
        &self,
        report: &Report<'_>,
        name: &ServiceName,
        entry: &Entry<'_>,
        section: &At<&'static str>,
    ) {
        let key = section.value;
        let replicas: Vec<usize> =
            entry.ports.iter().flat_map(|port| &port.endpoints).map(|(workload, _)| *workload).collect();
        let hint = "write it for the Services that its routes lead to";
        if replicas.is_empty() {
            let message = format!(
                "`{key}` is held by the workloads behind {name}, and there are none: nothing of it is done"
            );
            report.warn(section.place, message, hint);
        } else if entry.ports.iter().all(|port| self.leads_elsewhere(name, port)) {
            let message = format!(
                "`{key}` is held by the workloads behind {name}, and its routes send every request elsewhere"
            );
            report.warn(section.place, message, hint);
        } else if let Some(lacking) = without_proxy::lacking(&replicas, self.population) {
            let message = format!("`{key}` is held by the proxies of the workloads behind {name}: {lacking}");
            report.warn(section.place, message, without_proxy::HINT);
        }
    }

    fn routes_of(&self, port: &'a Port<'_>) -> impl Iterator<Item = &'a Arc<Route>> {
        port.routes.iter().filter_map(|name| self.routes.get(name))
    }

    // Whether no request is seen on any of its ports: by what is declared, or since its routes are connections'.
    // What consumers of other namespaces write is no fault of its owner.
    fn is_opaque(&self, name: &ServiceName, entry: &'a Entry<'_>) -> bool {
        let for_connections = |port: &'a Port<'_>| {
            let mut routes = self.routes_of(port);
            let own = self.routes_of(port).any(|route| route.namespace == name.namespace);
            own && routes.all(|route| matches!(route.kind, RouteKind::Tcp | RouteKind::Tls))
        };
        let opaque = |port: &'a Port<'_>| port.written.protocol.is_opaque() || for_connections(port);
        !entry.ports.is_empty() && entry.ports.iter().all(opaque)
    }

    // Whether the routes of its own namespace, which hold for most clients, lead to none of its workloads.
    fn leads_elsewhere(&self, name: &ServiceName, port: &'a Port<'_>) -> bool {
        let own = || self.routes_of(port).filter(|route| route.namespace == name.namespace);
        let rules = || own().flat_map(|route| &route.rules);
        let leads_here = |backend: &Backend| {
            let named = backend.service.as_ref().filter(|_| backend.weight > 0);
            let port_of = |(service, number): &(ServiceName, u16)| {
                self.services.by_name.get(service)?.has_port(*number)
            };
            let reached = named.and_then(port_of);
            reached.is_some_and(|reached| reached.endpoints.iter().any(|end| port.endpoints.contains(end)))
        };
        own().next().is_some()
            && rules().all(|rule| !rule.backends.is_empty() && !rule.backends.iter().any(leads_here))
    }
}
