//! `weft.v1.TrafficPolicy`, section by section.

use super::{Refusal, level, missing, parse, provenance_from_wire, provenance_to_wire};
use crate::proto::v1;
use crate::traffic::{Algorithm, LoadBalancing, Traffic, TrafficPolicy};
use std::sync::Arc;

pub(super) fn to_wire(policy: &TrafficPolicy) -> v1::TrafficPolicy {
    let traffic = &policy.traffic;
    v1::TrafficPolicy {
        needs_level: 1,
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        provenance: provenance_to_wire(&policy.provenance),
        load_balancing: Some(load_balancing_to_wire(&traffic.load_balancing)),
    }
}

pub(super) fn from_wire(message: v1::TrafficPolicy) -> Result<TrafficPolicy, Refusal> {
    level(message.needs_level)?;
    let traffic = Traffic {
        load_balancing: message.load_balancing.map(load_balancing_from_wire).transpose()?.unwrap_or_default(),
    };
    Ok(TrafficPolicy {
        namespace: parse(&message.namespace)?,
        name: parse(&message.name)?,
        traffic: Arc::new(traffic),
        provenance: provenance_from_wire(message.provenance),
    })
}

// === Load balancing ===

fn load_balancing_to_wire(held: &LoadBalancing) -> v1::LoadBalancing {
    let algorithm = match held.algorithm {
        Algorithm::LeastRequest => v1::BalancingAlgorithm::LeastRequest,
        Algorithm::RoundRobin => v1::BalancingAlgorithm::RoundRobin,
        Algorithm::Random => v1::BalancingAlgorithm::Random,
    };
    v1::LoadBalancing { algorithm: algorithm.into() }
}

fn load_balancing_from_wire(message: v1::LoadBalancing) -> Result<LoadBalancing, Refusal> {
    let algorithm = match v1::BalancingAlgorithm::try_from(message.algorithm) {
        Ok(v1::BalancingAlgorithm::LeastRequest) => Algorithm::LeastRequest,
        Ok(v1::BalancingAlgorithm::RoundRobin) => Algorithm::RoundRobin,
        Ok(v1::BalancingAlgorithm::Random) => Algorithm::Random,
        Ok(v1::BalancingAlgorithm::Unspecified) | Err(_) => {
            return Err(missing("the algorithm of load balancing"));
        }
    };
    Ok(LoadBalancing { algorithm })
}
