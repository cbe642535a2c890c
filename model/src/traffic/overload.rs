//! What a Service's replicas bear: rates, requests at once, and how much their callers may retry.

use crate::string_match::StringMatch;
use std::time::Duration;

/// Whose requests a rate counts together.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Per {
    /// Everybody's, at one replica.
    #[default]
    Service,
    /// Each client identity's by itself, at one replica. Those without one are one client.
    Client,
}

/// So many requests in so long a time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RateLimit {
    /// What logs call it.
    pub name: Box<str>,
    /// How many; at least 1.
    pub requests: u32,
    /// In how long.
    pub interval: Duration,
    /// How many at once; at least 1. As many as `requests` unless said otherwise: an interval's worth may come
    /// at its beginning.
    pub burst: u32,
    /// Whose.
    pub per: Per,
    /// Only requests with one of these methods; empty: any.
    pub methods: Vec<StringMatch>,
    /// Only requests with one of these paths, in their canonical form; empty: any.
    pub paths: Vec<StringMatch>,
}

/// How many requests a replica is given at once. `min` below `max`: found between them by how long
/// requests take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Concurrency {
    /// At least so many; at least 1.
    pub min: u32,
    /// At most so many.
    pub max: u32,
    /// How many may wait beyond that.
    pub queue: u32,
    /// How long each may wait.
    pub wait: Duration,
}

/// As long as a connection may take to be made: longer, and another replica is the better try.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(1);

/// Waiting requests per request at once: with more, those at the end would wait out [`DEFAULT_WAIT`] before
/// they are served by anything that takes longer than a tenth of it.
pub const QUEUE_PER_PLACE: u32 = 10;

/// How much of its requests a client proxy may retry (GEP-3388).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RetryBudget {
    /// Of the requests of an interval, in percent; at most 100.
    pub percent: u32,
    /// The interval.
    pub interval: Duration,
    /// How many an interval has at least.
    pub floor: u32,
}

impl RateLimit {
    /// Whether a request counts. `path`: in its canonical form; `None`: it has none, and counts as any.
    pub fn counts(&self, method: &str, path: Option<&str>) -> bool {
        let has =
            |any: &[StringMatch], value: &str| any.is_empty() || any.iter().any(|one| one.matches(value));
        has(&self.methods, method) && path.is_none_or(|path| has(&self.paths, path))
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        // As GEP-3388 says, but for its floor of ten a second: every client has its own, and with a hundred of
        // them ten are a thousand.
        Self { percent: 20, interval: Duration::from_secs(10), floor: 30 }
    }
}
