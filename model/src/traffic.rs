//! How a Service's callers treat it, where Gateway API has no field for it: the kind TrafficPolicy.
//!
//! One section each, one file each. [`Traffic::default`] is what holds where no TrafficPolicy speaks; each
//! default stands beside its field, with its reason.

mod connections;
mod ejection;
mod faults;
mod load_balancing;
mod overload;

pub use connections::Connections;
pub use ejection::{EJECTION_TIME_MAX, Ejection, FailureKind};
pub use faults::{Abort, Delay, Fault};
pub use load_balancing::{Algorithm, HashOn, LoadBalancing, ZonePreference};
pub use overload::{Concurrency, DEFAULT_WAIT, Per, QUEUE_PER_PLACE, RateLimit, RetryBudget};

use crate::authorization::Provenance;
use crate::names::{Name, Namespace, ResourceName};
use crate::route::SessionPersistence;
use std::sync::Arc;

/// The kind that a policy was written as.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TrafficKind {
    /// TrafficPolicy: all but what is the other's.
    #[default]
    Weft,
    /// XBackendTrafficPolicy: retry budget and sessions.
    Gateway,
}

/// One TrafficPolicy or XBackendTrafficPolicy. Services name those that are for them: one of each kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrafficPolicy {
    /// Its kind.
    pub kind: TrafficKind,
    /// Its namespace, which is its Services'.
    pub namespace: Namespace,
    /// Its name.
    pub name: Name,
    /// What it says.
    pub traffic: Arc<Traffic>,
    /// Where it was written.
    pub provenance: Provenance,
}

impl TrafficPolicy {
    /// Its name on the wire.
    pub fn resource_name(&self) -> ResourceName {
        ResourceName::of(self.kind.as_str(), &self.namespace, &self.name)
    }
}

impl TrafficKind {
    /// As users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Weft => "TrafficPolicy",
            Self::Gateway => "XBackendTrafficPolicy",
        }
    }
}

/// How a Service's callers treat it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Which endpoint a request goes to.
    pub load_balancing: LoadBalancing,
    /// How much is under way at once, and what waits.
    pub connections: Connections,
    /// When an endpoint that fails is left alone.
    pub ejection: Ejection,
    /// How much of their requests callers may retry. `None`: the proxy's own budget.
    pub retry_budget: Option<RetryBudget>,
    /// Which rates its replicas keep; held by them.
    pub rate_limits: Vec<RateLimit>,
    /// How many requests a replica is given at once; held by it. `None`: any number. How many a server bears is
    /// not for the mesh to guess, and to find it by itself is to refuse some.
    pub concurrency: Option<Concurrency>,
    /// Whether a client's requests stay with one endpoint, where its route does not say.
    pub session: Option<SessionPersistence>,
    /// What goes wrong on purpose.
    pub faults: Vec<Fault>,
}

impl Traffic {
    /// What policies say together.
    pub fn joined<'a>(policies: impl Iterator<Item = &'a TrafficPolicy> + Clone) -> Arc<Self> {
        let of = |kind| policies.clone().find(|policy| policy.kind == kind).map(|policy| &policy.traffic);
        let own = of(TrafficKind::Weft).cloned().unwrap_or_default();
        match of(TrafficKind::Gateway) {
            None => own,
            Some(gateway) => Arc::new(Self {
                // Where both say: the one that is a standard's.
                retry_budget: gateway.retry_budget.or(own.retry_budget),
                session: gateway.session.clone(),
                ..(*own).clone()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(kind: TrafficKind, percent: Option<u32>) -> TrafficPolicy {
        let retry_budget = percent.map(|percent| RetryBudget { percent, ..RetryBudget::default() });
        TrafficPolicy {
            kind,
            namespace: "shop".parse().unwrap(),
            name: "cart".parse().unwrap(),
            traffic: Arc::new(Traffic { retry_budget, ..Traffic::default() }),
            provenance: Provenance::default(),
        }
    }

    #[test]
    fn the_standards_retry_budget_goes_before_our_own() {
        let joined = |own, gateway| {
            let policies = [policy(TrafficKind::Weft, own), policy(TrafficKind::Gateway, gateway)];
            Traffic::joined(policies.iter()).retry_budget.map(|budget| budget.percent)
        };
        assert_eq!(joined(None, None), None);
        assert_eq!(joined(Some(10), None), Some(10));
        assert_eq!(joined(None, Some(30)), Some(30));
        assert_eq!(joined(Some(10), Some(30)), Some(30));
    }
}
