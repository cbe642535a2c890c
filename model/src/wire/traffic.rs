//! `weft.v1.TrafficPolicy`, section by section.

use super::route::{
    duration_from_wire, duration_to_wire, header_from_wire, header_to_wire, path_from_wire, path_to_wire,
    session_from_wire, session_to_wire,
};
use super::{
    Refusal, each, invalid, level, missing, overload, parse, provenance_from_wire, provenance_to_wire,
};
use crate::proto::v1;
use crate::route::Fraction;
use crate::traffic::{
    Abort, Algorithm, Connections, Delay, EJECTION_TIME_MAX, Ejection, FailureKind, Fault, HashOn,
    LoadBalancing, Traffic, TrafficKind, TrafficPolicy, ZonePreference,
};
use http::StatusCode;
use std::sync::Arc;

pub(super) fn to_wire(policy: &TrafficPolicy) -> v1::TrafficPolicy {
    let traffic = &policy.traffic;
    v1::TrafficPolicy {
        needs_level: 1,
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        provenance: provenance_to_wire(&policy.provenance),
        load_balancing: Some(load_balancing_to_wire(&traffic.load_balancing)),
        ejection: Some(ejection_to_wire(&traffic.ejection)),
        connections: Some(connections_to_wire(&traffic.connections)),
        retry_budget: traffic.retry_budget.as_ref().map(overload::retry_budget_to_wire),
        rate_limits: traffic.rate_limits.iter().map(overload::rate_limit_to_wire).collect(),
        concurrency: traffic.concurrency.as_ref().map(overload::concurrency_to_wire),
        kind: match policy.kind {
            TrafficKind::Weft => v1::TrafficKind::Weft,
            TrafficKind::Gateway => v1::TrafficKind::Gateway,
        }
        .into(),
        session: traffic.session.as_ref().map(session_to_wire),
        faults: traffic.faults.iter().map(fault_to_wire).collect(),
    }
}

pub(super) fn from_wire(message: v1::TrafficPolicy) -> Result<TrafficPolicy, Refusal> {
    level(message.needs_level)?;
    let traffic = Traffic {
        load_balancing: message.load_balancing.map(load_balancing_from_wire).transpose()?.unwrap_or_default(),
        connections: message.connections.map(connections_from_wire).unwrap_or_default(),
        ejection: message.ejection.map(ejection_from_wire).transpose()?.unwrap_or_default(),
        retry_budget: message.retry_budget.map(overload::retry_budget_from_wire).transpose()?,
        rate_limits: each(message.rate_limits, overload::rate_limit_from_wire)?,
        concurrency: message.concurrency.map(overload::concurrency_from_wire).transpose()?,
        session: message.session.map(session_from_wire).transpose()?,
        faults: each(message.faults, fault_from_wire)?,
    };
    let kind = match v1::TrafficKind::try_from(message.kind) {
        Ok(v1::TrafficKind::Weft) => TrafficKind::Weft,
        Ok(v1::TrafficKind::Gateway) => TrafficKind::Gateway,
        Ok(v1::TrafficKind::Unspecified) | Err(_) => return Err(missing("the kind of a traffic policy")),
    };
    Ok(TrafficPolicy {
        kind,
        namespace: parse(&message.namespace)?,
        name: parse(&message.name)?,
        traffic: Arc::new(traffic),
        provenance: provenance_from_wire(message.provenance),
    })
}

// === Load balancing ===

fn load_balancing_to_wire(held: &LoadBalancing) -> v1::LoadBalancing {
    let algorithm = match held.algorithm {
        Algorithm::PeakEwma => v1::BalancingAlgorithm::PeakEwma,
        Algorithm::LeastRequest => v1::BalancingAlgorithm::LeastRequest,
        Algorithm::RoundRobin => v1::BalancingAlgorithm::RoundRobin,
        Algorithm::Random => v1::BalancingAlgorithm::Random,
        Algorithm::ConsistentHash => v1::BalancingAlgorithm::ConsistentHash,
    };
    v1::LoadBalancing {
        algorithm: algorithm.into(),
        hash: held.hash.as_ref().map(hash_to_wire),
        slow_start: Some(duration_to_wire(held.slow_start)),
        prefer_zone: held.zone == ZonePreference::Prefer,
    }
}

fn load_balancing_from_wire(message: v1::LoadBalancing) -> Result<LoadBalancing, Refusal> {
    let algorithm = match v1::BalancingAlgorithm::try_from(message.algorithm) {
        Ok(v1::BalancingAlgorithm::PeakEwma) => Algorithm::PeakEwma,
        Ok(v1::BalancingAlgorithm::LeastRequest) => Algorithm::LeastRequest,
        Ok(v1::BalancingAlgorithm::RoundRobin) => Algorithm::RoundRobin,
        Ok(v1::BalancingAlgorithm::Random) => Algorithm::Random,
        Ok(v1::BalancingAlgorithm::ConsistentHash) => Algorithm::ConsistentHash,
        Ok(v1::BalancingAlgorithm::Unspecified) | Err(_) => {
            return Err(missing("the algorithm of load balancing"));
        }
    };
    let hash = message.hash.map(hash_from_wire).transpose()?;
    if hash.is_some() != (algorithm == Algorithm::ConsistentHash) {
        return Err(invalid("consistent hashing needs something to hash, and nothing else does"));
    }
    Ok(LoadBalancing {
        algorithm,
        hash,
        slow_start: message.slow_start.map(duration_from_wire).unwrap_or_default(),
        zone: if message.prefer_zone { ZonePreference::Prefer } else { ZonePreference::Any },
    })
}

fn hash_to_wire(held: &HashOn) -> v1::HashOn {
    let kind = match held {
        HashOn::Header(name) => v1::hash_on::Kind::Header(name.to_string()),
        HashOn::Cookie(name) => v1::hash_on::Kind::Cookie(name.to_string()),
        HashOn::Source => v1::hash_on::Kind::Source(v1::HashOnSource {}),
    };
    v1::HashOn { kind: Some(kind) }
}

fn hash_from_wire(message: v1::HashOn) -> Result<HashOn, Refusal> {
    Ok(match message.kind {
        Some(v1::hash_on::Kind::Header(name)) => {
            let name: http::HeaderName = parse(&name)?;
            HashOn::Header(name.as_str().into())
        }
        Some(v1::hash_on::Kind::Cookie(name)) if !name.is_empty() => HashOn::Cookie(name.into()),
        Some(v1::hash_on::Kind::Source(_)) => HashOn::Source,
        _ => return Err(missing("what is hashed")),
    })
}

// === Connections ===

fn connections_to_wire(held: &Connections) -> v1::ConnectionLimits {
    v1::ConnectionLimits {
        in_flight_max: held.in_flight_max.unwrap_or(0),
        wait: Some(duration_to_wire(held.wait)),
        pending_max: held.pending_max,
        pending_bytes_max: held.pending_bytes_max,
        connections_max: held.connections_max.unwrap_or(0),
    }
}

fn connections_from_wire(message: v1::ConnectionLimits) -> Connections {
    Connections {
        in_flight_max: (message.in_flight_max > 0).then_some(message.in_flight_max),
        connections_max: (message.connections_max > 0).then_some(message.connections_max),
        wait: message.wait.map(duration_from_wire).unwrap_or_default(),
        pending_max: message.pending_max,
        pending_bytes_max: message.pending_bytes_max,
    }
}

// === Ejection ===

fn ejection_to_wire(held: &Ejection) -> v1::Ejection {
    let counts = match held.counts {
        FailureKind::GatewayErrors => v1::FailureKind::GatewayErrors,
        FailureKind::ServerErrors => v1::FailureKind::ServerErrors,
    };
    v1::Ejection {
        counts: counts.into(),
        consecutive: held.consecutive,
        success_rate_min: held.success_rate_min,
        window: Some(duration_to_wire(held.window)),
        requests_min: held.requests_min,
        base_time: Some(duration_to_wire(held.base_time)),
        max_time: Some(duration_to_wire(held.max_time)),
        max_percent: held.max_percent,
    }
}

fn ejection_from_wire(message: v1::Ejection) -> Result<Ejection, Refusal> {
    let counts = match v1::FailureKind::try_from(message.counts) {
        Ok(v1::FailureKind::GatewayErrors) => FailureKind::GatewayErrors,
        Ok(v1::FailureKind::ServerErrors) => FailureKind::ServerErrors,
        Ok(v1::FailureKind::Unspecified) | Err(_) => return Err(missing("what counts as a failure")),
    };
    let duration = |message: Option<v1::Duration>| {
        let duration = message.map(duration_from_wire).unwrap_or_default();
        // An ejection of no length, or one that overflows the clock, is no ejection.
        let fits = !duration.is_zero() && duration <= EJECTION_TIME_MAX;
        if fits { Ok(duration) } else { Err(invalid("a time of the ejection is out of bounds")) }
    };
    if message.consecutive == 0 || message.success_rate_min > 100 || message.max_percent > 100 {
        return Err(invalid("a number of the ejection is out of bounds"));
    }
    Ok(Ejection {
        counts,
        consecutive: message.consecutive,
        success_rate_min: message.success_rate_min,
        window: duration(message.window)?,
        requests_min: message.requests_min,
        base_time: duration(message.base_time)?,
        max_time: duration(message.max_time)?,
        max_percent: message.max_percent,
    })
}

// === Faults ===

fn fault_to_wire(held: &Fault) -> v1::Fault {
    v1::Fault {
        principals: held.principals.iter().map(ToString::to_string).collect(),
        namespaces: held.namespaces.iter().map(ToString::to_string).collect(),
        methods: held.methods.iter().map(ToString::to_string).collect(),
        path: held.path.as_ref().map(path_to_wire),
        headers: held.headers.iter().map(header_to_wire).collect(),
        delay: held.delay.map(|delay| v1::Delay {
            time: Some(duration_to_wire(delay.time)),
            numerator: delay.share.numerator,
            denominator: delay.share.denominator,
        }),
        abort: held.abort.map(|abort| v1::Abort {
            status: abort.status.map_or(0, |status| status.as_u16().into()),
            grpc_status: abort.grpc_status.map_or(0, u32::from),
            numerator: abort.share.numerator,
            denominator: abort.share.denominator,
        }),
        expires: held.expires,
    }
}

fn fault_from_wire(message: v1::Fault) -> Result<Fault, Refusal> {
    let abort = |held: v1::Abort| {
        let status = u16::try_from(held.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let grpc_status = u8::try_from(held.grpc_status).ok().filter(|status| (1..=16).contains(status));
        if (status.is_none() && held.status != 0)
            || (grpc_status.is_none() && held.grpc_status != 0)
            || (held.status == 0 && held.grpc_status == 0)
        {
            return Err(invalid("a fault's answer has no status, or not one of an error"));
        }
        Ok(Abort { status, grpc_status, share: share(held.numerator, held.denominator)? })
    };
    let delay = |held: v1::Delay| {
        let time = held.time.ok_or_else(|| missing("a delay's time"))?;
        Ok(Delay { time: duration_from_wire(time), share: share(held.numerator, held.denominator)? })
    };
    Ok(Fault {
        principals: each(message.principals, |text| parse(&text))?,
        namespaces: message.namespaces.into_iter().map(Into::into).collect(),
        methods: each(message.methods, |text| parse(&text))?,
        path: message.path.map(path_from_wire).transpose()?,
        headers: each(message.headers, header_from_wire)?,
        delay: message.delay.map(delay).transpose()?,
        abort: message.abort.map(abort).transpose()?,
        expires: message.expires,
    })
}

fn share(numerator: u32, denominator: u32) -> Result<Fraction, Refusal> {
    if denominator == 0 || numerator > denominator {
        return Err(invalid("a share is not between 0 and 1"));
    }
    Ok(Fraction { numerator, denominator })
}
