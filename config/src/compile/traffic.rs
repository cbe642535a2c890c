//! TrafficPolicies and XBackendTrafficPolicies: the Services that each is for.

mod effect;

use super::paths;
use super::population::Population;
use super::principals::{expand_identities, warn_of_foreign};
use super::services::Services;
use crate::report::{At, Place, Report};
use crate::schema::{Documents, Metadata};
use effect::Effect;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_model::mesh::MeshConfig;
use weft_model::names::{ResourceName, ServiceName};
use weft_model::route::Route;
use weft_model::traffic::{Traffic, TrafficKind, TrafficPolicy};

/// Binds all policies. One with errors is named by its Services and not held, which denies: what it
/// says may be a limit. A Service has one of each kind at most, so that nobody has to know which of two
/// holds; where both kinds say something of retries, the XBackendTrafficPolicy's holds.
pub(crate) fn bind(
    report: &Report<'_>,
    documents: &Documents<'_>,
    config: &MeshConfig,
    population: &mut Population<'_>,
    services: &mut Services<'_>,
    routes: &BTreeMap<ResourceName, Arc<Route>>,
) -> BTreeMap<ResourceName, Arc<TrafficPolicy>> {
    let mut held = BTreeMap::new();
    let mut taken = BTreeMap::new();
    for document in &documents.traffic_policies {
        let (metadata, spec) = (&document.metadata, &document.spec);
        let name = attach(report, TrafficKind::Weft, metadata, &spec.services, services, &mut taken);
        paths::check(report, &spec.paths, config.path_normalization);
        warn_of_foreign(report, &spec.trust_domains, config);
        Effect::new(&spec.services, population, services, routes).check(
            report,
            &spec.of_requests,
            &spec.of_replicas,
        );
        if !report.failed(document.place()) {
            let mut traffic = spec.traffic.clone();
            traffic.faults.iter_mut().for_each(|fault| expand_identities(&mut fault.principals, config));
            let policy = policy(report, TrafficKind::Weft, metadata, traffic);
            held.insert(name, Arc::new(policy));
        }
    }
    for document in &documents.backend_traffic_policies {
        let (metadata, spec) = (&document.metadata, &document.spec);
        let name = attach(report, TrafficKind::Gateway, metadata, &spec.services, services, &mut taken);
        Effect::new(&spec.services, population, services, routes).check(report, &spec.of_requests, &[]);
        if !report.failed(document.place()) {
            let traffic = Traffic {
                retry_budget: spec.retry_budget,
                session: spec.session.clone(),
                ..Traffic::default()
            };
            held.insert(name, Arc::new(policy(report, TrafficKind::Gateway, metadata, traffic)));
        }
    }
    for entry in services.by_name.values_mut() {
        entry.traffic_policies.sort();
        entry.traffic_policies.dedup();
        if report.failed(entry.place) {
            continue;
        }
        // Its replicas hold its limits, port by port.
        for (workload, target) in entry.ports.iter().flat_map(|port| &port.endpoints) {
            let ports = &mut population.all[*workload].ports;
            if let Some(held) = ports.iter_mut().find(|held| held.port == *target) {
                held.traffic_policies.extend(entry.traffic_policies.iter().cloned());
                held.traffic_policies.sort();
                held.traffic_policies.dedup();
            }
        }
    }
    held
}

// Has its Services name a policy; its name.
fn attach<'r>(
    report: &Report<'_>,
    kind: TrafficKind,
    metadata: &Metadata<'_>,
    targets: &'r [At<ServiceName>],
    services: &mut Services<'_>,
    taken: &mut BTreeMap<(&'static str, &'r ServiceName), Place>,
) -> ResourceName {
    let kind = kind.as_str();
    let resource = ResourceName::of(kind, &metadata.namespace.value, &metadata.name.value);
    for target in targets {
        let Some(entry) = services.by_name.get_mut(&target.value) else {
            let message = format!("there is no Service {}", target.value);
            report.error_hint(target.place, message, services.near(&target.value));
            continue;
        };
        entry.traffic_policies.push(resource.clone());
        if let Some(first) = taken.insert((kind, &target.value), target.place) {
            let article = if kind.starts_with('X') { "an" } else { "a" };
            let message =
                format!("{} has {article} {kind} in {} already", target.value, report.location(first));
            report.error_hint(target.place, message, format!("write all of it in one {kind}"));
        }
    }
    resource
}

fn policy(
    report: &Report<'_>,
    kind: TrafficKind,
    metadata: &Metadata<'_>,
    traffic: Traffic,
) -> TrafficPolicy {
    TrafficPolicy {
        kind,
        namespace: metadata.namespace.value.clone(),
        name: metadata.name.value.clone(),
        traffic: Arc::new(traffic),
        provenance: report.provenance(metadata.place),
    }
}
