//! When an endpoint that fails is left alone, and for how long.

use std::time::Duration;

/// The longest time of an ejection: an hour, after which nobody remembers why.
pub const EJECTION_TIME_MAX: Duration = Duration::from_secs(3600);

/// What is counted as an endpoint's failure, besides connections that could not be made.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum FailureKind {
    /// Answers 502, 503 and 504 (gRPC: UNAVAILABLE, DEADLINE_EXCEEDED), connections that break, and tries
    /// that take too long. The default: any other 5xx is mostly the request's doing, and another
    /// endpoint would answer alike.
    #[default]
    GatewayErrors,
    /// Every 5xx (gRPC: UNKNOWN, INTERNAL and DATA_LOSS, too).
    ServerErrors,
}

/// When an endpoint that fails is left alone, and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ejection {
    /// What is counted.
    pub counts: FailureKind,
    /// So many failures in a row eject. Five: as in Envoy and Istio; fewer happen by chance.
    pub consecutive: u32,
    /// A share of successes, in percent, below which an endpoint is ejected. Fifty: who fails more
    /// often than not is no help, even if some answers between keep the failures from being in a row.
    pub success_rate_min: u32,
    /// The time over which that share is taken. Ten seconds, as Envoy's interval: long enough for
    /// `requests_min` at a few requests per second.
    pub window: Duration,
    /// How many answers it takes to judge by a share. Twenty: with fewer, chance decides.
    pub requests_min: u32,
    /// The first ejection; each further one is twice as long. One second: a probe costs one request,
    /// so that looking again soon is cheap, and most restarts take longer than one probe.
    pub base_time: Duration,
    /// The longest ejection. Thirty seconds: what has come back is in use again within that.
    pub max_time: Duration,
    /// The most endpoints, in percent, that may be ejected for what they answer. Fifty: the rest can
    /// bear at most twice its load; where more than half fails, the fault is elsewhere.
    pub max_percent: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            counts: FailureKind::default(),
            consecutive: 5,
            success_rate_min: 50,
            window: Duration::from_secs(10),
            requests_min: 20,
            base_time: Duration::from_secs(1),
            max_time: Duration::from_secs(30),
            max_percent: 50,
        }
    }
}
