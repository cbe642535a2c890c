//! The sections of a TrafficPolicy that say what a Service's replicas bear.

use super::authorization_policy::{RulePath, method, path};
use super::value::{Object, Value};
use std::time::Duration;
use weft_model::traffic::{Concurrency, DEFAULT_WAIT, Per, QUEUE_PER_PLACE, RateLimit, RetryBudget};

/// How many rate limits a policy may have: each is a count on a request's way.
const RATE_LIMITS_MAX: usize = 16;

/// Methods or paths of one limit.
const MATCHES_MAX: usize = 16;

/// The longest interval: counts longer than this are a quota's, which a restart must not forget.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

const PER: [(&str, Per); 2] = [("Client", Per::Client), ("Service", Per::Service)];

/// `rateLimits`; `written`: the paths that they name.
pub(crate) fn rate_limits(value: Value<'_>, written: &mut Vec<RulePath>) -> Vec<RateLimit> {
    let mut limits: Vec<RateLimit> = Vec::new();
    for item in value.items(RATE_LIMITS_MAX).unwrap_or_default() {
        let Some(object) = item.object() else { continue };
        let Some(limit) = rate_limit(&object, written) else { continue };
        if limits.iter().any(|held| held.name == limit.name) {
            item.error(format!("there are two rate limits named {}", limit.name));
        }
        limits.push(limit);
    }
    limits
}

fn rate_limit(object: &Object<'_>, written: &mut Vec<RulePath>) -> Option<RateLimit> {
    let name = object.require("name").and_then(Value::text);
    if let Some(name) = &name
        && (name.value.is_empty() || name.value.len() > 63)
    {
        object.error("a rate limit's name has 1 to 63 letters");
    }
    let requests = object.require("requests").and_then(|value| value.number(1..=1_000_000_000));
    let interval = object.take("interval").map_or(Some(Duration::from_secs(1)), interval);
    let burst = object.take("burst").map(|value| value.number(1..=1_000_000_000));
    let per = object.take("per").map_or(Some(Per::Service), |value| Some(value.choice(&PER)?.value));
    let methods = matches(object, "methods", method);
    let paths = matches(object, "paths", |value| path(value, written));
    let requests = requests?.value;
    Some(RateLimit {
        name: name?.value.into(),
        requests,
        interval: interval?,
        burst: burst.map_or(Some(requests), |burst| Some(burst?.value))?,
        per: per?,
        methods,
        paths,
    })
}

fn matches<T>(object: &Object<'_>, key: &'static str, read: impl FnMut(Value<'_>) -> Option<T>) -> Vec<T> {
    let items = object.take(key).and_then(|value| value.items(MATCHES_MAX));
    items.unwrap_or_default().into_iter().filter_map(read).collect()
}

fn interval(value: Value<'_>) -> Option<Duration> {
    let interval = value.duration()?;
    if interval.value.is_zero() || interval.value > INTERVAL_MAX {
        value.error("an interval is from 1ms to 1h");
        return None;
    }
    Some(interval.value)
}

/// `concurrency`.
pub(crate) fn concurrency(object: &Object<'_>) -> Option<Concurrency> {
    let max = object.take("max").map(|value| value.number(1..=1_000_000));
    let adaptive = object.take("adaptive").and_then(Value::object);
    let queue = object.take("queue").map(|value| value.number(0..=100_000));
    let wait = object.take("wait").map_or(Some(DEFAULT_WAIT), |value| {
        let wait = value.duration()?;
        if wait.value.is_zero() || wait.value > Duration::from_secs(60) {
            value.error_hint("a wait is from 1ms to 60s", "`queue: 0` lets nobody wait");
            return None;
        }
        Some(wait.value)
    });
    let (min, max) = match (max, adaptive) {
        (Some(_), Some(adaptive)) => {
            adaptive.accept_all();
            object.error("`max` is a fixed limit and `adaptive` is found: write one of them");
            return None;
        }
        (Some(max), None) => (max?.value, max?.value),
        (None, Some(adaptive)) => {
            let min =
                adaptive.take("min").map_or(Some(1), |value| Some(value.number(1..=1_000_000)?.value))?;
            let max = adaptive.require("max")?.number(1..=1_000_000)?.value;
            if min >= max {
                adaptive.error(format!("`min` {min} leaves nothing to be found below `max` {max}"));
                return None;
            }
            (min, max)
        }
        (None, None) => {
            object.error("`concurrency` needs `max` or `adaptive`");
            return None;
        }
    };
    let queue = match queue {
        Some(queue) => queue?.value,
        None => max.saturating_mul(QUEUE_PER_PLACE).min(10_000),
    };
    Some(Concurrency { min, max, queue, wait: wait? })
}

/// `retryBudget`.
pub(crate) fn retry_budget(object: &Object<'_>) -> Option<RetryBudget> {
    let default = RetryBudget::default();
    let percent =
        object.take("percent").map_or(Some(default.percent), |value| Some(value.number(0..=100)?.value));
    let interval = object.take("interval").map_or(Some(default.interval), interval);
    let floor =
        object.take("floor").map_or(Some(default.floor), |value| Some(value.number(0..=1_000_000)?.value));
    Some(RetryBudget { percent: percent?, interval: interval?, floor: floor? })
}
