//! Routes: the Services they attach to and the Services they lead to.

use super::paths;
use super::services::{Port, Services};
use crate::report::{At, Place, Report};
use crate::schema::route::{Parent, Route as Written, Rule};
use crate::schema::{Document, Documents};
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_model::mesh::MeshConfig;
use weft_model::names::{Namespace, ResourceName, ServiceName};
use weft_model::route::{Backend, Filter, Mirror, Route, RouteKind, RouteMatch, RouteRule};
use weft_model::service::Protocol;

// What is more specific first: of two types at one port it holds (GEP-1294).
const KINDS: [RouteKind; 4] = [RouteKind::Grpc, RouteKind::Http, RouteKind::Tls, RouteKind::Tcp];

/// Attaches all routes. What wins ties among them is the data path's to say.
pub(crate) fn attach<'r>(
    report: &Report<'_>,
    documents: &'r Documents<'r>,
    config: &MeshConfig,
    services: &mut Services<'_>,
) -> BTreeMap<ResourceName, Arc<Route>> {
    let mut held = BTreeMap::new();
    // By the namespace that it is for: a consumer's routes stand beside nobody else's.
    let mut taken: BTreeMap<(ServiceName, u16, &Namespace), (RouteKind, Place)> = BTreeMap::new();
    let mut spoken_for = SpokenFor::default();
    for kind in KINDS {
        for document in of_kind(documents, kind) {
            let metadata = &document.metadata;
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
                    let at = (parent.service.clone(), port, &metadata.namespace.value);
                    match taken.get(&at) {
                        Some((other, place)) if *other != kind => {
                            let message = format!(
                                "port {port} of {} has a {} in {}, and a port has routes of one type",
                                parent.service,
                                other.as_str(),
                                report.location(*place)
                            );
                            let hint = "name another `port`, or write one type only";
                            report.error_hint(parent.place, message, hint);
                        }
                        Some(_) => {}
                        None => {
                            taken.insert(at, (kind, parent.place));
                        }
                    }
                }
            }
            warn_of_shadows(report, &document.spec.rules);
            for rule in &document.spec.rules {
                paths::check(report, &rule.paths, config.path_normalization);
            }
            let rules: Vec<_> =
                document.spec.rules.iter().map(|rule| joined(report, kind, rule, services)).collect();
            if report.failed(document.place()) {
                continue;
            }
            spoken_for.warn(report, kind, document, &attached);
            let route = Route {
                kind,
                namespace: metadata.namespace.value.clone(),
                name: metadata.name.value.clone(),
                created: metadata.created,
                server_names: document.spec.server_names.iter().map(|name| name.value.clone()).collect(),
                rules,
                provenance: report.provenance(document.place()),
            };
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

fn of_kind<'r>(documents: &'r Documents<'r>, kind: RouteKind) -> Vec<&'r Document<'r, Written>> {
    let all = match kind {
        RouteKind::Http => &documents.http_routes,
        RouteKind::Grpc => &documents.grpc_routes,
        RouteKind::Tls => &documents.tls_routes,
        RouteKind::Tcp => &documents.tcp_routes,
    };
    let mut all: Vec<_> = all.iter().map(|document| &**document).collect();
    // As the data path ranks them.
    let age = |document: &Document<'r, Written>| document.metadata.created.unwrap_or(u64::MAX);
    all.sort_by(|one, other| {
        let (a, b) = (&one.metadata, &other.metadata);
        let by_name = (&a.namespace.value, &a.name.value).cmp(&(&b.namespace.value, &b.name.value));
        age(one).cmp(&age(other)).then(by_name)
    });
    all
}

/// Connections that have a route: by port, the client's namespace, and the server's name if there is one.
#[derive(Default)]
struct SpokenFor<'r>(BTreeMap<(&'r ServiceName, u16, &'r Namespace, &'r str), Place>);

impl<'r> SpokenFor<'r> {
    /// Warns of what another route has already, which would never be chosen.
    fn warn(
        &mut self,
        report: &Report<'_>,
        kind: RouteKind,
        document: &'r Document<'r, Written>,
        attached: &[(&'r ServiceName, u16)],
    ) {
        let names: Vec<(&str, Place)> = match kind {
            RouteKind::Http | RouteKind::Grpc => return,
            RouteKind::Tcp => vec![("", document.place())],
            RouteKind::Tls => {
                document.spec.server_names.iter().map(|name| (&*name.value, name.place)).collect()
            }
        };
        for (service, port) in attached {
            for (name, place) in &names {
                let key = (*service, *port, &document.metadata.namespace.value, *name);
                let Some(first) = self.0.insert(key, *place) else { continue };
                self.0.insert(key, first);
                let what = if name.is_empty() { "connections" } else { name };
                let first = report.location(first);
                let message = format!(
                    "{what} to port {port} of {service}: the route in {first} is older, or first by name, and takes them all"
                );
                report.warn(*place, message, None);
            }
        }
    }
}

// The rule with its references looked up.
fn joined(report: &Report<'_>, kind: RouteKind, rule: &Rule, services: &Services<'_>) -> RouteRule {
    let else_what = if kind.is_opaque() { "this share is refused" } else { "this share is answered 500" };
    let backends = rule.backends.iter().map(|written| Backend {
        service: found(report, kind, written.place, &written.service, written.port, services, else_what),
        weight: written.weight,
        filters: written.filters.clone(),
    });
    let filters = rule.rule.filters.iter().map(|filter| match filter {
        Filter::Mirror(Mirror { service: Some((service, port)), share }) => {
            let port = At { value: *port, place: rule.place };
            let else_what = "nothing is mirrored to it";
            let service = found(report, kind, rule.place, service, port, services, else_what);
            Filter::Mirror(Mirror { service, share: *share })
        }
        other => other.clone(),
    });
    RouteRule { backends: backends.collect(), filters: filters.collect(), ..rule.rule.clone() }
}

// Whether routes of the kind can be for a port of that protocol.
fn fits(kind: RouteKind, protocol: Protocol) -> bool {
    match kind {
        RouteKind::Http | RouteKind::Grpc => !protocol.is_opaque(),
        RouteKind::Tls => matches!(protocol, Protocol::Tls | Protocol::Undeclared),
        RouteKind::Tcp => !protocol.is_http(),
    }
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
    let (fit, others): (Vec<&Port<'_>>, Vec<_>) =
        named.into_iter().partition(|port| fits(kind, port.written.protocol));
    let (needs, is, hint) = match kind {
        RouteKind::Http | RouteKind::Grpc => ("HTTP", "TCP", "set `appProtocol: http` if it is"),
        RouteKind::Tls => ("TLS", "HTTP or TCP", "set `appProtocol: tls` if it is"),
        RouteKind::Tcp => ("opaque bytes", "HTTP", "set `appProtocol: tcp`, or write an HTTPRoute"),
    };
    if fit.is_empty() {
        let article = if kind == RouteKind::Http { "an" } else { "a" };
        let kind = kind.as_str();
        let message =
            format!("{article} {kind} needs {needs}, and the Service {name} declares its port as {is}");
        report.error_hint(parent.place, message, hint);
    } else if !others.is_empty() {
        let message = if kind.is_opaque() {
            format!("the route does not hold for all ports of {name}: others are declared as {is}")
        } else {
            format!("the route holds for the HTTP ports of {name} only: others are declared as TCP")
        };
        report.warn(parent.place, message, "name the `port`");
    }
    fit.into_iter().map(|port| port.written.port).collect()
}

fn found(
    report: &Report<'_>,
    kind: RouteKind,
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
    let protocol = port.written.protocol;
    if !kind.is_opaque() && protocol.is_opaque() {
        let message = format!("port {} of {name} is declared as TCP: it cannot take requests", number.value);
        report.error_hint(number.place, message, "set `appProtocol: http` if it can");
    } else if kind.is_opaque() && protocol.is_http() {
        let message =
            format!("port {} of {name} is declared as HTTP: it takes no opaque bytes", number.value);
        report.error_hint(number.place, message, "set `appProtocol: tcp` if it does");
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
