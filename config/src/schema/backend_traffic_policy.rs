//! `XBackendTrafficPolicy` (gateway.networking.x-k8s.io/v1alpha1): retry budgets (GEP-3388) and sessions
//! (GEP-1619) of Services.

use super::metadata::Metadata;
use super::selector::services;
use super::session_persistence;
use super::value::{Object, Value};
use crate::report::At;
use std::time::Duration;
use weft_model::names::ServiceName;
use weft_model::route::SessionPersistence;
use weft_model::traffic::RetryBudget;

/// Retries that there may always be in a second, unless said otherwise (GEP-3388).
const RATE_DEFAULT: u32 = 10;

/// What a policy's owner wrote.
#[derive(Debug, Default)]
pub(crate) struct BackendTrafficPolicy {
    pub(crate) services: Vec<At<ServiceName>>,
    pub(crate) retry_budget: Option<RetryBudget>,
    pub(crate) session: Option<SessionPersistence>,
    /// What only requests have, not opaque connections.
    pub(crate) of_requests: Vec<At<&'static str>>,
}

pub(crate) fn read(spec: Option<&Object<'_>>, metadata: &Metadata<'_>) -> BackendTrafficPolicy {
    let Some(spec) = spec else { return BackendTrafficPolicy::default() };
    let references = spec.require("targetRefs").and_then(|value| value.items(16)).unwrap_or_default();
    let retry_budget = spec.take("retryConstraint").and_then(Value::object).map(|object| {
        if object.is_empty() {
            object.error("`retryConstraint` says nothing: leave it out to mean the default");
        }
        let budget = object.take("budget").and_then(Value::object);
        retry_budget(budget.as_ref(), &object)
    });
    let session = spec.take("sessionPersistence");
    let of_requests = session.iter().map(|value| value.at("sessionPersistence")).collect();
    let session = session.and_then(session_persistence::read);
    if !spec.has("retryConstraint") && !spec.has("sessionPersistence") {
        spec.error("the policy says nothing: `retryConstraint` or `sessionPersistence` must be given");
    }
    BackendTrafficPolicy { services: services(references, metadata), retry_budget, session, of_requests }
}

/// Reads a budget: `percent` and `interval` of one object, `minRetryRate` of the other.
fn retry_budget(share: Option<&Object<'_>>, rate: &Object<'_>) -> RetryBudget {
    let mut budget = RetryBudget::default();
    let (mut count, mut time) = (RATE_DEFAULT, Duration::from_secs(1));
    if let Some(share) = share {
        if let Some(percent) = share.take("percent").and_then(|value| value.number(0..=100)) {
            budget.percent = percent.value;
        }
        if let Some(time) = share.take("interval").and_then(interval) {
            budget.interval = time;
        }
    }
    if let Some(rate) = rate.take("minRetryRate").and_then(Value::object) {
        if let Some(written) = rate.take("count").and_then(|value| value.number(1..=1_000_000)) {
            count = written.value;
        }
        if let Some(written) = rate.take("interval").and_then(interval) {
            time = written;
        }
    }
    budget.floor = floor(count, time, budget.interval);
    budget
}

/// How many retries an interval always has, by a rate. Rounded up: a rate that is wanted is never none.
fn floor(count: u32, time: Duration, interval: Duration) -> u32 {
    let rate = interval.as_millis().saturating_mul(count.into());
    u32::try_from(rate.div_ceil(time.as_millis().max(1))).unwrap_or(u32::MAX)
}

// The upstream CRD's bounds.
fn interval(value: Value<'_>) -> Option<Duration> {
    let time = value.duration()?.value;
    if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&time) {
        value.error("an interval must be from 1s to 1h");
    }
    Some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_a_rate_over_the_interval() {
        let seconds = Duration::from_secs;
        assert_eq!(floor(RATE_DEFAULT, seconds(1), seconds(10)), 100);
        assert_eq!(floor(1, seconds(60), seconds(10)), 1, "a slow rate is not none");
        assert_eq!(floor(7, seconds(60), seconds(10)), 2);
        assert_eq!(floor(3, seconds(60), seconds(3600)), 180);
    }
}
