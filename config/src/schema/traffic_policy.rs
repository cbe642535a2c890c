//! `TrafficPolicy` (weft.dev/v1alpha1): how a Service's callers treat it. Each section is read by a
//! function of its own; a section that is left out has its defaults.

use super::metadata::Metadata;
use super::selector::services;
use super::value::{Object, Value};
use crate::report::At;
use weft_model::names::ServiceName;
use weft_model::traffic::{Algorithm, LoadBalancing, Traffic};

/// The algorithms by name.
const ALGORITHMS: [(&str, Algorithm); 3] = [
    ("LeastRequest", Algorithm::LeastRequest),
    ("Random", Algorithm::Random),
    ("RoundRobin", Algorithm::RoundRobin),
];

/// What a policy's owner wrote.
#[derive(Debug, Default)]
pub(crate) struct TrafficPolicy {
    /// The Services it is for.
    pub(crate) services: Vec<At<ServiceName>>,
    pub(crate) traffic: Traffic,
}

pub(crate) fn read(spec: Option<&Object<'_>>, metadata: &Metadata<'_>) -> TrafficPolicy {
    let Some(spec) = spec else { return TrafficPolicy::default() };
    let references = spec.require("targetRefs").and_then(|value| value.items(16));
    let traffic =
        Traffic { load_balancing: section(spec, "loadBalancing", load_balancing).unwrap_or_default() };
    spec.not_yet(&[
        "concurrency",
        "connections",
        "ejection",
        "faults",
        "rateLimits",
        "retryBudget",
        "sessionPersistence",
    ]);
    TrafficPolicy { services: services(references.unwrap_or_default(), metadata), traffic }
}

// A section that says nothing is one whose keys went missing.
fn section<T>(spec: &Object<'_>, key: &'static str, read: impl FnOnce(&Object<'_>) -> T) -> Option<T> {
    let object = spec.take(key).and_then(Value::object)?;
    if object.is_empty() {
        object.error(format!("`{key}` says nothing: leave it out to mean the defaults"));
    }
    Some(read(&object))
}

fn load_balancing(object: &Object<'_>) -> LoadBalancing {
    let default = LoadBalancing::default();
    let algorithm = object.take("algorithm").and_then(|value| value.choice(&ALGORITHMS));
    LoadBalancing { algorithm: algorithm.map_or(default.algorithm, |held| held.value) }
}
