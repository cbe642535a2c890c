//! HTTPRoutes: the Services they attach to and the Services they lead to.

use super::services::{Port, Services};
use crate::report::Report;
use crate::schema::http_route::{BackendRef, HttpRoute, Parent, Rule};
use crate::schema::{Document, Documents};
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_model::names::{ResourceName, ServiceName};
use weft_model::route::{Backend, Route, RouteMatch};
use weft_model::service::Protocol;

/// Attaches all routes, in the order of their names, which decides ties.
pub(crate) fn attach(
    report: &Report<'_>,
    documents: &Documents<'_>,
    services: &mut Services<'_>,
) -> BTreeMap<ResourceName, Arc<Route>> {
    let mut held = BTreeMap::new();
    for document in &documents.http_routes {
        let (namespace, name) = (&document.metadata.namespace.value, &document.metadata.name.value);
        let mut attached = Vec::new();
        for parent in &document.spec.parents {
            for port in ports(report, parent, services) {
                if attached.contains(&(&parent.service, port)) {
                    report.error(
                        parent.place,
                        format!("the route has port {port} of {} already", parent.service),
                    );
                }
                attached.push((&parent.service, port));
            }
        }
        warn_of_shadows(report, &document.spec.rules);
        let rules = document.spec.rules.iter().map(|rule| {
            let backends = rule.backends.iter().map(|held| backend(report, document, held, services));
            weft_model::route::RouteRule { backends: backends.collect(), ..rule.rule.clone() }
        });
        let rules = rules.collect();
        if report.failed(document.place()) {
            continue;
        }
        let resource = ResourceName::of("HTTPRoute", namespace, name);
        for (service, port) in attached {
            let ports = services.by_name.get_mut(service).map(|entry| entry.ports.iter_mut());
            if let Some(held) = ports.into_iter().flatten().find(|held| held.written.port == port) {
                held.routes.push(resource.clone());
            }
        }
        let provenance = report.provenance(document.place());
        let route = Route { namespace: namespace.clone(), name: name.clone(), rules, provenance };
        held.insert(resource, Arc::new(route));
    }
    for port in services.by_name.values_mut().flat_map(|entry| &mut entry.ports) {
        port.routes.sort();
    }
    held
}

fn is_opaque(port: &Port<'_>) -> bool {
    matches!(port.written.protocol, Protocol::Tcp | Protocol::Tls)
}

// The ports of a parent that the route holds for.
fn ports(report: &Report<'_>, parent: &Parent, services: &Services<'_>) -> Vec<u16> {
    let name = &parent.service;
    let Some(entry) = services.by_name.get(name) else {
        report.error_hint(parent.place, format!("there is no Service {name}"), services.near(name));
        return Vec::new();
    };
    // The Service has its own errors; what is missing from it is not news.
    if report.failed(entry.place) {
        return Vec::new();
    }
    let number = |port: &&Port<'_>| parent.port.is_none_or(|wanted| wanted.value == port.written.port);
    let section =
        |port: &&Port<'_>| parent.section.as_ref().is_none_or(|wanted| &*wanted.value == port.written.name);
    let named: Vec<_> = entry.ports.iter().filter(number).filter(section).collect();
    if named.is_empty() {
        let place = parent.port.map(|port| port.place).or(parent.section.as_ref().map(|name| name.place));
        let ports: Vec<String> = entry.ports.iter().map(|port| port.written.port.to_string()).collect();
        let hint = format!("it has {}", ports.join(", "));
        report.error_hint(
            place.unwrap_or(parent.place),
            format!("the Service {name} has no such port"),
            hint,
        );
        return Vec::new();
    }
    let opaque = named.iter().filter(|port| is_opaque(port)).count();
    if opaque == named.len() {
        let message = format!("an HTTPRoute needs HTTP, and the Service {name} declares its port as TCP");
        report.error_hint(parent.place, message, "set `appProtocol: http` if it is");
    } else if opaque > 0 {
        let message =
            format!("the route holds for the HTTP ports of {name} only: others are declared as TCP");
        report.warn(parent.place, message, "name the `port`");
    }
    named.into_iter().filter(|port| !is_opaque(port)).map(|port| port.written.port).collect()
}

fn backend(
    report: &Report<'_>,
    document: &Document<'_, HttpRoute>,
    written: &BackendRef,
    services: &Services<'_>,
) -> Backend {
    let name = &written.service;
    // A client may call the parent anyway, so a consumer's route may lead to it without a grant.
    let own = document.metadata.namespace.value == name.namespace;
    if !own && !document.spec.parents.iter().any(|parent| parent.service == *name) {
        let message =
            format!("{name} is in another namespace, which needs a ReferenceGrant: not evaluated yet");
        report.error(written.place, message);
    }
    Backend {
        service: found(report, written, services),
        weight: written.weight,
        filters: written.filters.clone(),
    }
}

fn found(report: &Report<'_>, written: &BackendRef, services: &Services<'_>) -> Option<(ServiceName, u16)> {
    let name = &written.service;
    let Some(entry) = services.by_name.get(name) else {
        let message = format!("there is no Service {name}: this share is answered 500");
        report.warn(written.place, message, services.near(name));
        return None;
    };
    if report.failed(entry.place) {
        return None;
    }
    let Some(port) = entry.has_port(written.port.value) else {
        let ports: Vec<String> = entry.ports.iter().map(|port| port.written.port.to_string()).collect();
        let message =
            format!("the Service {name} has no port {}: this share is answered 500", written.port.value);
        report.warn(written.port.place, message, format!("it has {}", ports.join(", ")));
        return None;
    };
    if is_opaque(port) {
        let message =
            format!("port {} of {name} is declared as TCP: it cannot take requests", written.port.value);
        report.error_hint(written.port.place, message, "set `appProtocol: http` if it can");
    }
    Some((name.clone(), written.port.value))
}

// A match that an earlier rule has, too, is never chosen.
fn warn_of_shadows(report: &Report<'_>, rules: &[Rule]) {
    let mut before: Vec<&RouteMatch> = Vec::new();
    for rule in rules {
        if rule.rule.matches.iter().all(|matched| before.contains(&matched)) {
            let message = "the rule is never chosen: rules before it match the same requests";
            report.warn(rule.place, message, None);
        }
        before.extend(&rule.rule.matches);
    }
}
