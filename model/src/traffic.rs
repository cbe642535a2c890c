//! How a Service's callers treat it, where Gateway API has no field for it: the kind TrafficPolicy.
//!
//! One section each, one file each. [`Traffic::default`] is what holds where no TrafficPolicy speaks; each
//! default stands beside its field, with its reason.

mod connections;
mod ejection;
mod load_balancing;
mod overload;

pub use connections::Connections;
pub use ejection::{EJECTION_TIME_MAX, Ejection, FailureKind};
pub use load_balancing::{Algorithm, HashOn, LoadBalancing, ZonePreference};
pub use overload::{Concurrency, DEFAULT_WAIT, Per, QUEUE_PER_PLACE, RateLimit, RetryBudget};

use crate::authorization::Provenance;
use crate::names::{Name, Namespace, ResourceName};
use std::sync::Arc;

/// One TrafficPolicy. Services name the one that is for them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrafficPolicy {
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
        ResourceName::of("TrafficPolicy", &self.namespace, &self.name)
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
    /// How much of their requests callers may retry.
    pub retry_budget: RetryBudget,
    /// Which rates its replicas keep; held by them.
    pub rate_limits: Vec<RateLimit>,
    /// How many requests a replica is given at once; held by it. `None`: any number. How many a server bears is
    /// not for the mesh to guess, and to find it by itself is to refuse some.
    pub concurrency: Option<Concurrency>,
}
