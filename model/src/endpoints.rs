//! Where a port of a Service leads: endpoints, in slices.

use crate::names::{ResourceName, WorkloadUid};
use crate::service::ServiceTarget;
use crate::spiffe::SpiffeId;
use crate::workload::Description;
use std::net::SocketAddr;
use std::sync::Arc;

/// The most endpoints one slice holds.
pub const SLICE_SIZE_MAX: usize = 100;

/// One slice of a port's endpoints; the slices of a port are read together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoints {
    /// Whose.
    pub target: ServiceTarget,
    /// The Service's port.
    pub port: u16,
    /// The number of the slice, from 0.
    pub slice: u32,
    /// At most [`SLICE_SIZE_MAX`].
    pub endpoints: Vec<Endpoint>,
}

/// One replica.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// The workload. An address that is reused by another workload is another endpoint.
    pub uid: WorkloadUid,
    /// Where it is reached.
    pub address: SocketAddr,
    /// How it is reached, and who it must prove to be.
    pub wire: Wire,
    /// Its share; 0 takes no new requests.
    pub weight: u32,
    /// Its zone; may be empty.
    pub zone: Box<str>,
    /// Whether it takes requests.
    pub health: Health,
    /// What metrics call it.
    pub description: Arc<Description>,
}

/// How an endpoint is reached.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Wire {
    /// Mutual TLS with a proxy that must prove this identity.
    Weft(SpiffeId),
    /// Plaintext: the endpoint has no proxy, or mutual TLS is off for it.
    Plain,
}

/// Whether an endpoint takes requests.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Health {
    /// It does.
    Ready,
    /// It finishes what it has.
    Draining,
    /// It does not.
    Unready,
}

impl Endpoints {
    /// Its name on the wire, `NAMESPACE/NAME:PORT/SLICE` (`workload/UID:PORT/SLICE`).
    pub fn resource_name(&self) -> ResourceName {
        let target = match &self.target {
            ServiceTarget::Service(name) => name.to_string(),
            ServiceTarget::Workload(uid) => format!("workload/{uid}"),
        };
        format!("{target}:{}/{}", self.port, self.slice)
            .parse()
            .expect("a service's name must be part of a resource name")
    }
}
