//! Routes: the Services they attach to and the Services they lead to.

use super::services::{Port, Services};
use crate::report::{At, Place, Report};
use crate::schema::Documents;
use crate::schema::route::{Parent, Rule};
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_model::names::{ResourceName, ServiceName};
use weft_model::route::{Backend, Filter, Mirror, Route, RouteKind, RouteMatch, RouteRule};
use weft_model::service::Protocol;

/// Attaches all routes, in the order of their names, which decides ties. Of two types at one port the
/// more specific one holds (GEP-1294: GRPCRoute, then HTTPRoute).
pub(crate) fn attach(
    report: &Report<'_>,
    documents: &Documents<'_>,
    services: &mut Services<'_>,
) -> BTreeMap<ResourceName, Arc<Route>> {
    let mut held = BTreeMap::new();
    let mut taken: BTreeMap<(ServiceName, u16), Place> = BTreeMap::new();
    for (kind, routes) in
        [(RouteKind::Grpc, &documents.grpc_routes), (RouteKind::Http, &documents.http_routes)]
    {
        for document in routes {
            let (namespace, name) = (&document.metadata.namespace.value, &document.metadata.name.value);
            let mut attached: Vec<(&ServiceName, u16)> = Vec::new();
            for parent in &document.spec.parents {
                for port in ports(report, kind, parent, services) {
                    if attached.contains(&(&parent.service, port)) {
                        report.error(
                            parent.place,
                            format!("the route has port {port} of {} already", parent.service),
                        );
                    }
                    attached.push((&parent.service, port));
                    if kind == RouteKind::Grpc {
                        taken.insert((parent.service.clone(), port), parent.place);
                    } else if let Some(other) = taken.get(&(parent.service.clone(), port)) {
                        let message = format!(
                            "port {port} of {} has a GRPCRoute in {}, and a port has routes of one type",
                            parent.service,
                            report.location(*other)
                        );
                        report.error_hint(
                            parent.place,
                            message,
                            "name another `port`, or write one type only",
                        );
                    }
                }
            }
            warn_of_shadows(report, &document.spec.rules);
            let rules: Vec<_> =
                document.spec.rules.iter().map(|rule| joined(report, rule, services)).collect();
            if report.failed(document.place()) {
                continue;
            }
            let provenance = report.provenance(document.place());
            let route = Route { kind, namespace: namespace.clone(), name: name.clone(), rules, provenance };
            let resource = route.resource_name();
            for (service, port) in attached {
                let ports = services.by_name.get_mut(service).map(|entry| entry.ports.iter_mut());
                if let Some(held) = ports.into_iter().flatten().find(|held| held.written.port == port) {
                    held.routes.push(resource.clone());
                }
            }
            held.insert(resource, Arc::new(route));
        }
    }
    for port in services.by_name.values_mut().flat_map(|entry| &mut entry.ports) {
        port.routes.sort();
    }
    held
}

// The rule with its references looked up.
fn joined(report: &Report<'_>, rule: &Rule, services: &Services<'_>) -> RouteRule {
    let backends = rule.backends.iter().map(|written| Backend {
        service: found(
            report,
            written.place,
            &written.service,
            written.port,
            services,
            "this share is answered 500",
        ),
        weight: written.weight,
        filters: written.filters.clone(),
    });
    let filters = rule.rule.filters.iter().map(|filter| match filter {
        Filter::Mirror(Mirror { service: Some((service, port)), share }) => {
            let port = At { value: *port, place: rule.place };
            let service = found(report, rule.place, service, port, services, "nothing is mirrored to it");
            Filter::Mirror(Mirror { service, share: *share })
        }
        other => other.clone(),
    });
    RouteRule { backends: backends.collect(), filters: filters.collect(), ..rule.rule.clone() }
}

fn is_opaque(port: &Port<'_>) -> bool {
    matches!(port.written.protocol, Protocol::Tcp | Protocol::Tls)
}

// The ports of a parent that the route holds for.
fn ports(report: &Report<'_>, kind: RouteKind, parent: &Parent, services: &Services<'_>) -> Vec<u16> {
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
        let article = if kind == RouteKind::Http { "an" } else { "a" };
        let kind = kind.as_str();
        let message = format!("{article} {kind} needs HTTP, and the Service {name} declares its port as TCP");
        report.error_hint(parent.place, message, "set `appProtocol: http` if it is");
    } else if opaque > 0 {
        let message =
            format!("the route holds for the HTTP ports of {name} only: others are declared as TCP");
        report.warn(parent.place, message, "name the `port`");
    }
    named.into_iter().filter(|port| !is_opaque(port)).map(|port| port.written.port).collect()
}

fn found(
    report: &Report<'_>,
    place: Place,
    name: &ServiceName,
    number: At<u16>,
    services: &Services<'_>,
    else_what: &str,
) -> Option<(ServiceName, u16)> {
    let Some(entry) = services.by_name.get(name) else {
        report.warn(place, format!("there is no Service {name}: {else_what}"), services.near(name));
        return None;
    };
    if report.failed(entry.place) {
        return None;
    }
    let Some(port) = entry.has_port(number.value) else {
        let ports: Vec<String> = entry.ports.iter().map(|port| port.written.port.to_string()).collect();
        let message = format!("the Service {name} has no port {}: {else_what}", number.value);
        report.warn(number.place, message, format!("it has {}", ports.join(", ")));
        return None;
    };
    if is_opaque(port) {
        let message = format!("port {} of {name} is declared as TCP: it cannot take requests", number.value);
        report.error_hint(number.place, message, "set `appProtocol: http` if it can");
    }
    Some((name.clone(), number.value))
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
