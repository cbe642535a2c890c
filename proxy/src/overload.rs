//! What becomes of more requests than a workload bears: rates by [`gcra`], and places at the application by
//! [`limiter`], in lines that take turns by client.
//!
//! The TrafficPolicies of the Services that lead to a port say how much. Counts are the process's and live as long as
//! their policy is known; a changed policy keeps the counts of what it still says. A connection looks up once
//! what counts for it; a request then costs an exchange of an atomic word per limit.

pub mod gcra;
pub mod gradient;
pub mod limiter;
pub mod queue;

use gcra::{Gcra, Rate};
use limiter::{Asker, Limiter, Places, Refused};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use weft_model::names::ResourceName;
use weft_model::path::Normalization;
use weft_model::traffic::{Per, RateLimit, TrafficPolicy};

/// Clients that one limit counts by themselves. Those beyond are counted together, so that nobody gets more by
/// coming as many.
const CLIENTS_MAX: usize = 4096;

/// A request with less left than this is late in its chain: much was spent on it, and it will soon be too late.
const LATE_LEFT: Duration = Duration::from_secs(1);

/// All counts of a process. Locked once per connection and change of the policy.
#[derive(Debug)]
pub struct Guards {
    start: Instant,
    key: RandomState,
    held: Mutex<HashMap<ResourceName, Arc<Guard>>>,
}

/// The counts of one policy.
#[derive(Debug)]
pub struct Guard {
    policy: Arc<TrafficPolicy>,
    limits: Vec<Arc<Limit>>,
    limiter: Option<Arc<Limiter>>,
}

#[derive(Debug)]
struct Limit {
    says: RateLimit,
    rate: Rate,
    all: Arc<Gcra>,
    /// By client identity.
    clients: Mutex<HashMap<Box<str>, Arc<Gcra>>>,
}

/// What counts for the requests of one connection.
#[derive(Debug)]
pub struct Admission {
    start: Instant,
    line: u64,
    limits: Vec<(Arc<Limit>, Arc<Gcra>)>,
    limiters: Vec<Arc<Limiter>>,
}

/// A rate limit that is reached.
#[derive(Debug, Eq, PartialEq)]
pub struct Limited {
    /// What its owner calls it.
    pub name: Box<str>,
    /// When it lets the next one pass.
    pub after: Duration,
}

// === impl Guards ===

impl Guards {
    /// Nothing counted.
    pub fn new(start: Instant) -> Self {
        Self { start, key: RandomState::new(), held: Mutex::default() }
    }

    /// What counts for a client's connection under these policies.
    pub fn admission(&self, policies: &[Arc<TrafficPolicy>], client: &str) -> Admission {
        let now = self.now();
        let mut admission = Admission {
            start: self.start,
            line: self.key.hash_one(client),
            limits: Vec::new(),
            limiters: Vec::new(),
        };
        for policy in policies {
            let guard = self.guard(policy);
            for limit in &guard.limits {
                admission.limits.push((limit.clone(), limit.count_of(client, now)));
            }
            admission.limiters.extend(guard.limiter.clone());
        }
        admission
    }

    /// How many requests may be served at once, in all.
    pub fn places(&self) -> u64 {
        let held = lock(&self.held);
        held.values().filter_map(|guard| guard.limiter.as_ref()).map(|held| u64::from(held.limit())).sum()
    }

    /// Forgets what is counted for policies that are not known any more.
    pub fn retain(&self, known: impl Fn(&ResourceName) -> bool) {
        lock(&self.held).retain(|name, _| known(name));
    }

    fn guard(&self, policy: &Arc<TrafficPolicy>) -> Arc<Guard> {
        let name = policy.resource_name();
        let mut held = lock(&self.held);
        let old = held.get(&name);
        if let Some(old) = old
            && old.policy.traffic == policy.traffic
        {
            return old.clone();
        }
        let traffic = &policy.traffic;
        let limits = traffic.rate_limits.iter().map(|says| {
            let same = old.and_then(|old| old.limits.iter().find(|limit| limit.says == *says));
            same.cloned().unwrap_or_else(|| Arc::new(Limit::new(says)))
        });
        let limits = limits.collect();
        let limiter = traffic.concurrency.as_ref().map(|says| {
            let same = old.and_then(|old| old.limiter.clone());
            match same {
                // Those who are being served count on.
                Some(limiter) => {
                    if old.is_some_and(|old| old.policy.traffic.concurrency.as_ref() != Some(says)) {
                        limiter.update(says);
                    }
                    limiter
                }
                None => Limiter::new(says, self.start),
            }
        });
        let guard = Arc::new(Guard { policy: policy.clone(), limits, limiter });
        held.insert(name, guard.clone());
        guard
    }

    fn now(&self) -> u64 {
        nanoseconds(self.start)
    }
}

// === impl Limit ===

impl Limit {
    fn new(says: &RateLimit) -> Self {
        Self {
            rate: Rate::new(says.requests, says.interval, says.burst),
            says: says.clone(),
            all: Arc::default(),
            clients: Mutex::default(),
        }
    }

    /// Whose count a client's requests go to. Those without an identity are one client.
    fn count_of(&self, client: &str, now: u64) -> Arc<Gcra> {
        if self.says.per == Per::Service {
            return self.all.clone();
        }
        let mut clients = lock(&self.clients);
        if let Some(count) = clients.get(client) {
            return count.clone();
        }
        if clients.len() >= CLIENTS_MAX {
            // Who owes nothing and has no connection is as good as new.
            clients.retain(|_, count| Arc::strong_count(count) > 1 || !count.is_whole(now));
        }
        if clients.len() >= CLIENTS_MAX {
            return self.all.clone();
        }
        clients.entry(client.into()).or_default().clone()
    }
}

// === impl Admission ===

impl Admission {
    /// Whether nothing is limited.
    pub fn is_free(&self) -> bool {
        self.limits.is_empty() && self.limiters.is_empty()
    }

    /// Counts a request. One that a limit refuses is counted by none.
    pub fn charge(&self, method: &str, path: &str, level: Normalization) -> Result<(), Limited> {
        if self.limits.is_empty() {
            return Ok(());
        }
        let now = nanoseconds(self.start);
        // A path without a canonical form counts as any: it must not pass a limit by.
        let path = if self.limits.iter().any(|(limit, _)| !limit.says.paths.is_empty()) {
            level.canonical(path).ok()
        } else {
            None
        };
        for (index, (limit, count)) in self.limits.iter().enumerate() {
            if !limit.says.counts(method, path.as_deref()) {
                continue;
            }
            if let Err(after) = count.take(&limit.rate, now) {
                for (limit, count) in &self.limits[..index] {
                    if limit.says.counts(method, path.as_deref()) {
                        count.give_back(&limit.rate);
                    }
                }
                return Err(Limited { name: limit.says.name.clone(), after });
            }
        }
        Ok(())
    }

    /// Places at the application, if they are free and nobody waits for them.
    pub fn places_at_once(&self) -> Option<Places> {
        let mut places = Places::default();
        for limiter in &self.limiters {
            places.push(limiter.take()?);
        }
        Some(places)
    }

    /// Places at the application, in turn. `late`: one that its client has tried before.
    pub async fn places(&self, late: bool, deadline: Option<Instant>) -> Result<Places, Refused> {
        let mut places = Places::default();
        // Always in one order, so that no two requests wait for each other.
        for limiter in &self.limiters {
            let place = match limiter.take() {
                Some(place) => place,
                None => {
                    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
                    let late = late || left.is_some_and(|left| left < LATE_LEFT);
                    limiter.wait(Asker { line: self.line, late, deadline }).await?
                }
            };
            places.push(place);
        }
        Ok(places)
    }
}

/// Whether an answer says how long the application takes. One that it failed to make says how fast it fails: an
/// adaptive limit that learned from an application that starts anew would find all slow that it does after.
pub fn tells_pace(status: u16, grpc_status: Option<&[u8]>) -> bool {
    status < 500 && status != 429 && grpc_status.is_none_or(|status| status == b"0")
}

fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
