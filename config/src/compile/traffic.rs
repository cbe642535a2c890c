//! TrafficPolicies: the Services that each is for.

use super::paths;
use super::population::Population;
use super::services::Services;
use crate::report::{Place, Report};
use crate::schema::Documents;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_model::names::{ResourceName, ServiceName};
use weft_model::path::Normalization;
use weft_model::traffic::TrafficPolicy;

/// Binds all policies. One with errors is named by its Services and not held, which denies: what it
/// says may be a limit. A Service has one at most, so that nobody has to know which of two holds.
pub(crate) fn bind(
    report: &Report<'_>,
    documents: &Documents<'_>,
    level: Normalization,
    population: &mut Population<'_>,
    services: &mut Services<'_>,
) -> BTreeMap<ResourceName, Arc<TrafficPolicy>> {
    let mut held = BTreeMap::new();
    let mut taken: BTreeMap<&ServiceName, Place> = BTreeMap::new();
    for document in &documents.traffic_policies {
        let (namespace, name) = (&document.metadata.namespace.value, &document.metadata.name.value);
        let resource = ResourceName::of("TrafficPolicy", namespace, name);
        for target in &document.spec.services {
            let Some(entry) = services.by_name.get_mut(&target.value) else {
                let message = format!("there is no Service {}", target.value);
                report.error_hint(target.place, message, services.near(&target.value));
                continue;
            };
            entry.traffic_policies.push(resource.clone());
            if let Some(first) = taken.insert(&target.value, target.place) {
                let message =
                    format!("{} has a TrafficPolicy in {} already", target.value, report.location(first));
                report.error_hint(target.place, message, "write all of it in one TrafficPolicy");
            }
        }
        paths::check(report, &document.spec.paths, level);
        if !report.failed(document.place()) {
            let policy = TrafficPolicy {
                namespace: namespace.clone(),
                name: name.clone(),
                traffic: Arc::new(document.spec.traffic.clone()),
                provenance: report.provenance(document.place()),
            };
            held.insert(resource, Arc::new(policy));
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
