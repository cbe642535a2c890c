//! The sections of `weft.v1.TrafficPolicy` that say what a Service's replicas bear.

use super::authorization::{match_from_wire, match_to_wire};
use super::route::{duration_from_wire, duration_to_wire};
use super::{Refusal, each, invalid, missing};
use crate::proto::v1;
use crate::traffic::{Concurrency, Per, RateLimit, RetryBudget};
use std::time::Duration;

pub(super) fn rate_limit_to_wire(held: &RateLimit) -> v1::RateLimit {
    let per = match held.per {
        Per::Service => v1::RateLimitPer::Service,
        Per::Client => v1::RateLimitPer::Client,
    };
    v1::RateLimit {
        name: held.name.to_string(),
        requests: held.requests,
        interval: Some(duration_to_wire(held.interval)),
        burst: held.burst,
        per: per.into(),
        methods: held.methods.iter().map(match_to_wire).collect(),
        paths: held.paths.iter().map(match_to_wire).collect(),
    }
}

pub(super) fn rate_limit_from_wire(message: v1::RateLimit) -> Result<RateLimit, Refusal> {
    let per = match v1::RateLimitPer::try_from(message.per) {
        Ok(v1::RateLimitPer::Service) => Per::Service,
        Ok(v1::RateLimitPer::Client) => Per::Client,
        Ok(v1::RateLimitPer::Unspecified) | Err(_) => {
            return Err(missing("whose requests a rate limit counts"));
        }
    };
    Ok(RateLimit {
        name: message.name.into(),
        requests: at_least_one(message.requests, "a rate limit's requests")?,
        interval: some_time(message.interval, "a rate limit's interval")?,
        burst: at_least_one(message.burst, "a rate limit's burst")?,
        per,
        methods: each(message.methods, match_from_wire)?,
        paths: each(message.paths, match_from_wire)?,
    })
}

pub(super) fn concurrency_to_wire(held: &Concurrency) -> v1::Concurrency {
    v1::Concurrency {
        min: held.min,
        max: held.max,
        queue: held.queue,
        wait: Some(duration_to_wire(held.wait)),
    }
}

pub(super) fn concurrency_from_wire(message: v1::Concurrency) -> Result<Concurrency, Refusal> {
    let min = at_least_one(message.min, "the least concurrency")?;
    if message.max < min {
        return Err(invalid(format!("a concurrency of at most {} is below {min}", message.max)));
    }
    let wait = some_time(message.wait, "the longest wait")?;
    Ok(Concurrency { min, max: message.max, queue: message.queue, wait })
}

pub(super) fn retry_budget_to_wire(held: &RetryBudget) -> v1::RetryBudget {
    v1::RetryBudget {
        percent: held.percent,
        interval: Some(duration_to_wire(held.interval)),
        floor: held.floor,
    }
}

pub(super) fn retry_budget_from_wire(message: v1::RetryBudget) -> Result<RetryBudget, Refusal> {
    if message.percent > 100 {
        return Err(invalid(format!("{} % of the requests are more than all", message.percent)));
    }
    let interval = some_time(message.interval, "a retry budget's interval")?;
    Ok(RetryBudget { percent: message.percent, interval, floor: message.floor })
}

fn at_least_one(number: u32, what: &str) -> Result<u32, Refusal> {
    if number == 0 { Err(missing(what)) } else { Ok(number) }
}

fn some_time(message: Option<v1::Duration>, what: &str) -> Result<Duration, Refusal> {
    let time = message.map(duration_from_wire).filter(|time| !time.is_zero());
    time.ok_or_else(|| missing(what))
}
