//! `TrafficPolicy` (weft.dev/v1alpha1): how a Service's callers treat it. Each section is read by a
//! function of its own; a section that is left out has its defaults.

use super::authorization_policy::RulePath;
use super::faults;
use super::metadata::Metadata;
use super::overload::{concurrency, rate_limits, retry_budget};
use super::selector::services;
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::At;
use http::HeaderName;
use std::ops::RangeInclusive;
use std::time::Duration;
use weft_model::names::ServiceName;
use weft_model::traffic::{
    Algorithm, Connections, EJECTION_TIME_MAX, Ejection, FailureKind, HashOn, LoadBalancing, Traffic,
    ZonePreference,
};

/// Zones' preferences by name.
const ZONES: [(&str, ZonePreference); 2] = [("Any", ZonePreference::Any), ("Prefer", ZonePreference::Prefer)];

/// What counts as a failure, by name.
const FAILURES: [(&str, FailureKind); 2] =
    [("GatewayErrors", FailureKind::GatewayErrors), ("ServerErrors", FailureKind::ServerErrors)];

/// The longest slow start, as of an ejection.
const SLOW_START_MAX: Duration = Duration::from_secs(3600);

/// The longest wait for an endpoint: callers are gone by then.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// The longest window of a success rate: what is older says nothing of now.
const WINDOW_MAX: Duration = Duration::from_secs(300);

/// What a policy's owner wrote.
#[derive(Debug, Default)]
pub(crate) struct TrafficPolicy {
    /// The Services it is for.
    pub(crate) services: Vec<At<ServiceName>>,
    pub(crate) traffic: Traffic,
    /// The paths that its rate limits name.
    pub(crate) paths: Vec<RulePath>,
    /// The trust domains of the principals that its faults name.
    pub(crate) trust_domains: Vec<At<Box<str>>>,
    /// What only requests have, not opaque connections.
    pub(crate) of_requests: Vec<At<&'static str>>,
    /// What the replicas' proxies hold, and not the callers'.
    pub(crate) of_replicas: Vec<At<&'static str>>,
}

pub(crate) fn read(spec: Option<&Object<'_>>, metadata: &Metadata<'_>) -> TrafficPolicy {
    let Some(spec) = spec else { return TrafficPolicy::default() };
    let references = spec.require("targetRefs").and_then(|value| value.items(16));
    let (mut paths, mut trust_domains) = (Vec::new(), Vec::new());
    let written = |key: &'static str| spec.take_filled(key).map(|value| value.at(key));
    let of_replicas: Vec<_> = ["rateLimits", "concurrency"].into_iter().filter_map(written).collect();
    let mut of_requests = of_replicas.clone();
    of_requests.extend(written("faults"));
    let traffic = Traffic {
        load_balancing: section(spec, "loadBalancing", load_balancing).unwrap_or_default(),
        connections: section(spec, "connections", connections).unwrap_or_default(),
        ejection: section(spec, "ejection", ejection).unwrap_or_default(),
        retry_budget: section(spec, "retryBudget", retry_budget).flatten(),
        rate_limits: spec.take("rateLimits").map(|value| rate_limits(value, &mut paths)).unwrap_or_default(),
        concurrency: section(spec, "concurrency", concurrency).flatten(),
        faults: spec.take("faults").map(|value| faults::read(value, &mut trust_domains)).unwrap_or_default(),
        session: None,
    };
    if let Some(held) = spec.take("sessionPersistence") {
        let hint = "Gateway API has it: write an XBackendTrafficPolicy";
        held.error_hint("a TrafficPolicy has no `sessionPersistence`", hint);
    }
    if let Some(HashOn::Header(_) | HashOn::Cookie(_)) = traffic.load_balancing.hash {
        of_requests.extend(written("loadBalancing"));
    }
    let services = services(references.unwrap_or_default(), metadata);
    TrafficPolicy { services, traffic, paths, trust_domains, of_requests, of_replicas }
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
    let written = object.take("algorithm").and_then(|value| value.choice(&Algorithm::NAMED));
    let algorithm = written.map_or(default.algorithm, |held| held.value);
    let hash = object.take("hash").and_then(hash);
    if algorithm == Algorithm::ConsistentHash && !object.has("hash") {
        object.error("`hash` is missing: ConsistentHash must be told what to hash");
    } else if let (true, Some(hash)) = (algorithm != Algorithm::ConsistentHash, &hash) {
        object.report().error(hash.place, "`hash` needs `algorithm: ConsistentHash`");
    }
    let slow_start =
        object.take("slowStart").and_then(|value| duration(value, Duration::ZERO, SLOW_START_MAX));
    let zone = object.take("zone").and_then(|value| value.choice(&ZONES));
    LoadBalancing {
        algorithm,
        hash: hash.map(|hash| hash.value),
        slow_start: slow_start.unwrap_or(default.slow_start),
        zone: zone.map_or(default.zone, |held| held.value),
    }
}

fn hash(value: Value<'_>) -> Option<At<HashOn>> {
    let object = value.object()?;
    let header = object.take("header").and_then(Value::parse::<HeaderName>);
    let cookie = object.take("cookie").and_then(Value::text);
    let source = object.take("source").and_then(Value::flag);
    let given = ["header", "cookie", "source"].into_iter().filter(|key| object.has(key)).count();
    if given != 1 {
        object.error("exactly one of `header`, `cookie` and `source` must be given");
        return None;
    }
    let on = match (header, cookie, source) {
        (Some(name), ..) => HashOn::Header(name.value.as_str().into()),
        (_, Some(name), _) => {
            let is_token = name.value.parse::<HeaderName>().is_ok();
            if !is_token {
                value.report.error(name.place, format!("{} is not the name of a cookie", quoted(name.value)));
            }
            HashOn::Cookie(name.value.into())
        }
        (.., Some(source)) => {
            if !source.value {
                value.report.error(source.place, "leave `source` out, or say `true`");
            }
            HashOn::Source
        }
        _ => return None,
    };
    Some(value.at(on))
}

fn connections(object: &Object<'_>) -> Connections {
    let default = Connections::default();
    let number = |key, most| object.take(key).and_then(|value| value.number(1..=most)).map(|held| held.value);
    let wait = object.take("waitFor").and_then(|value| duration(value, Duration::ZERO, WAIT_MAX));
    let read = Connections {
        in_flight_max: number("maxInFlight", 1_000_000).or(default.in_flight_max),
        connections_max: number("maxConnections", 1_000_000).or(default.connections_max),
        wait: wait.unwrap_or(default.wait),
        pending_max: number("maxPending", 1_000_000).unwrap_or(default.pending_max),
        pending_bytes_max: number("maxPendingBytes", 1 << 30).unwrap_or(default.pending_bytes_max),
    };
    let waits = !read.wait.is_zero() || object.has("maxConnections");
    if !waits && (object.has("maxPending") || object.has("maxPendingBytes")) {
        object.error(
            "nothing waits without `waitFor` or `maxConnections`: `maxPending` and `maxPendingBytes` mean nothing",
        );
    }
    read
}

fn ejection(object: &Object<'_>) -> Ejection {
    let default = Ejection::default();
    let number = |key, range: RangeInclusive<u32>, default| {
        let value = object.take(key).and_then(|value| value.number(range));
        value.map_or(default, |held| held.value)
    };
    let time = |key, most, default| {
        let value = object.take(key).and_then(|value| duration(value, Duration::from_millis(1), most));
        value.unwrap_or(default)
    };
    let counts = object.take("counts").and_then(|value| value.choice(&FAILURES));
    let read = Ejection {
        counts: counts.map_or(default.counts, |held| held.value),
        consecutive: number("consecutiveFailures", 1..=1_000, default.consecutive),
        success_rate_min: number("successRateMin", 0..=100, default.success_rate_min),
        window: time("window", WINDOW_MAX, default.window),
        requests_min: number("requestsMin", 1..=100_000, default.requests_min),
        base_time: time("baseTime", EJECTION_TIME_MAX, default.base_time),
        max_time: time("maxTime", EJECTION_TIME_MAX, default.max_time),
        max_percent: number("maxPercent", 0..=100, default.max_percent),
    };
    if read.base_time > read.max_time {
        object.error("`baseTime` is longer than `maxTime`");
    }
    read
}

fn duration(value: Value<'_>, least: Duration, most: Duration) -> Option<Duration> {
    let duration = value.duration()?.value;
    if !(least..=most).contains(&duration) {
        value.error(format!("this may be from {} ms to {} s", least.as_millis(), most.as_secs()));
        return None;
    }
    Some(duration)
}
