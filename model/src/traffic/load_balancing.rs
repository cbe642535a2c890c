//! Which endpoint a request goes to.

use std::time::Duration;

/// How endpoints are chosen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LoadBalancing {
    /// The rule of choice.
    pub algorithm: Algorithm,
    /// What of a request is hashed; only for [`Algorithm::ConsistentHash`].
    pub hash: Option<HashOn>,
    /// How long an endpoint that is new, or back from an ejection, gets less than its share. Zero: its
    /// share at once, as in Envoy; by [`Algorithm::PeakEwma`] a slow start is noticed anyway.
    pub slow_start: Duration,
    /// Whether endpoints of the client's own zone go first.
    pub zone: ZonePreference,
}

/// The rule by which one of several endpoints is chosen.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Algorithm {
    /// Of two at random the one with the smaller product of latency and requests under way. The default:
    /// the only rule that notices by itself that an endpoint is slow.
    #[default]
    PeakEwma,
    /// Of two at random the one with fewer requests under way.
    LeastRequest,
    /// Each in its turn.
    RoundRobin,
    /// Any.
    Random,
    /// The one that a hash of the request leads to, for as long as it is there.
    ConsistentHash,
}

impl Algorithm {
    /// Each by the name that policies give it.
    pub const NAMED: [(&'static str, Self); 5] = [
        ("PeakEwma", Self::PeakEwma),
        ("LeastRequest", Self::LeastRequest),
        ("Random", Self::Random),
        ("RoundRobin", Self::RoundRobin),
        ("ConsistentHash", Self::ConsistentHash),
    ];

    /// The name that policies give it.
    pub fn as_str(self) -> &'static str {
        Self::NAMED.into_iter().find(|(_, held)| *held == self).map_or("", |(name, _)| name)
    }
}

/// What of a request is hashed.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum HashOn {
    /// The first field of this name, which is in small letters.
    Header(Box<str>),
    /// The cookie of this name.
    Cookie(Box<str>),
    /// The calling workload: the address of its connections would be its own pod's, whoever calls.
    Source,
}

/// Whether endpoints of the client's own zone go first.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ZonePreference {
    /// All are alike. The default: a zone with few endpoints is not loaded beyond the others unless its
    /// owner wants that.
    #[default]
    Any,
    /// The own zone's, while they are healthy and not overloaded.
    Prefer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_its_name() {
        for (name, algorithm) in Algorithm::NAMED {
            assert_eq!(algorithm.as_str(), name);
            // One more here wants one more above.
            match algorithm {
                Algorithm::PeakEwma
                | Algorithm::LeastRequest
                | Algorithm::Random
                | Algorithm::RoundRobin
                | Algorithm::ConsistentHash => {}
            }
        }
        let names: std::collections::HashSet<_> = Algorithm::NAMED.map(|(name, _)| name).into();
        assert_eq!(names.len(), Algorithm::NAMED.len());
    }
}
