//! How a Service's callers treat it, where Gateway API has no field for it: the kind TrafficPolicy.
//!
//! One section each, one file each. [`Traffic::default`] is what holds where no TrafficPolicy speaks; each
//! default stands beside its field, with its reason.

mod load_balancing;

pub use load_balancing::{Algorithm, LoadBalancing};

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
}
