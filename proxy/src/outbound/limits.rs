//! How much of a Service is under way, in the whole process, and how much waits for an endpoint: counted in
//! atomics, looked up once per port and worker, and only where there is a limit.

use super::Port;
use super::replica::Replica;
use crate::worker::Worker;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use weft_model::names::ResourceName;
use weft_model::reason::Reason;
use weft_model::traffic::Connections;

/// What is counted of all Services that are called, by name.
#[derive(Debug, Default)]
pub struct Limits {
    services: Mutex<HashMap<ResourceName, Weak<ServiceCounts>>>,
    /// Rises when someone begins to wait for a connection.
    wanted: watch::Sender<u64>,
}

/// What is under way to one Service.
#[derive(Debug, Default)]
pub struct ServiceCounts {
    in_flight: AtomicUsize,
    pending: AtomicUsize,
    pending_bytes: AtomicUsize,
    /// Connections, used and idle.
    pub(super) connections: AtomicUsize,
    /// Who makes them: a port of the Service in a worker each.
    pub(super) holders: AtomicUsize,
    /// Who waits for one.
    pub(super) short: AtomicUsize,
    /// One was closed.
    pub(super) freed: Notify,
}

/// A place among what is under way, or what waits: given back when dropped.
#[derive(Debug)]
pub struct Place {
    counts: Arc<ServiceCounts>,
    /// The bytes of what waits. `None`: it is under way.
    waits: Option<usize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.waits {
            None => _ = self.counts.in_flight.fetch_sub(1, Ordering::Relaxed),
            Some(bytes) => {
                self.counts.pending.fetch_sub(1, Ordering::Relaxed);
                self.counts.pending_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
    }
}

impl Limits {
    /// The counts of a Service. Once per port and worker.
    pub fn of(&self, service: &ResourceName) -> Arc<ServiceCounts> {
        let mut held = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = held.get(service).and_then(Weak::upgrade) {
            return counts;
        }
        // Those that nobody calls any more make room.
        held.retain(|_, counts| counts.strong_count() > 0);
        let counts = Arc::<ServiceCounts>::default();
        held.insert(service.clone(), Arc::downgrade(&counts));
        counts
    }

    /// Tells every worker that someone waits for a connection.
    pub fn want(&self) {
        self.wanted.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Hears of it.
    pub fn wanted(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }
}

impl ServiceCounts {
    /// A place for one more under way. `Ok(None)`: there is no limit to count for.
    pub fn begin(self: &Arc<Self>, limits: &Connections) -> Result<Option<Place>, Reason> {
        let Some(most) = limits.in_flight_max else { return Ok(None) };
        if enter(&self.in_flight, 1, most) {
            return Ok(Some(Place { counts: self.clone(), waits: None }));
        }
        Err(Reason::InFlightLimit)
    }

    /// A place for one more that waits.
    pub fn wait(self: &Arc<Self>, limits: &Connections, bytes: usize) -> Option<Place> {
        if !enter(&self.pending, 1, limits.pending_max) {
            return None;
        }
        if !enter(&self.pending_bytes, bytes, limits.pending_bytes_max) {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place { counts: self.clone(), waits: Some(bytes) })
    }
}

// Counts what still has room; nothing else is decided by these numbers, so their order does not matter.
fn enter(count: &AtomicUsize, more: usize, most: u32) -> bool {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let fits = |held: usize| held.checked_add(more).filter(|sum| *sum <= most);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
}

/// Waits until an endpoint can be picked, where the Service's owner wants that. `bytes`: what the request
/// keeps in memory meanwhile.
pub async fn await_endpoint(
    worker: &Worker,
    port: &Port,
    bytes: usize,
    pick: impl Fn() -> Option<Rc<Replica>>,
) -> Result<Rc<Replica>, Reason> {
    let limits = &port.model.traffic.connections;
    if limits.wait.is_zero() {
        return Err(Reason::EndpointsMissing);
    }
    let _place = port.counts.wait(limits, bytes).ok_or(Reason::QueueFull)?;
    let _counted = worker.metrics.waiting(&port.labels);
    let deadline = Instant::now() + limits.wait;
    let mut changes = worker.policy.changes();
    loop {
        worker.destinations.renew(worker, port);
        if let Some(replica) = pick() {
            return Ok(replica);
        }
        if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            return Err(Reason::EndpointsMissing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_as_many_as_allowed_and_come_back() {
        let limits = Limits::default();
        let name: ResourceName = "shop/cart".parse().unwrap();
        let counts = limits.of(&name);
        assert!(Arc::ptr_eq(&counts, &limits.of(&name)), "all workers count together");
        let two = Connections { in_flight_max: Some(2), ..Connections::default() };
        let first = counts.begin(&two).unwrap();
        let second = counts.begin(&two).unwrap();
        assert!(first.is_some() && second.is_some());
        assert_eq!(counts.begin(&two).unwrap_err(), Reason::InFlightLimit);
        drop(first);
        assert!(counts.begin(&two).unwrap().is_some());
        assert!(counts.begin(&Connections::default()).unwrap().is_none(), "no limit, no count");
        drop(second);
        assert_eq!(counts.in_flight.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_waits_is_bounded_by_number_and_by_bytes() {
        let counts = Arc::<ServiceCounts>::default();
        let limits = Connections { pending_max: 2, pending_bytes_max: 100, ..Connections::default() };
        let first = counts.wait(&limits, 60).unwrap();
        assert!(counts.wait(&limits, 60).is_none(), "bytes");
        let second = counts.wait(&limits, 40).unwrap();
        assert!(counts.wait(&limits, 0).is_none(), "number");
        drop((first, second));
        assert!(counts.wait(&limits, 100).is_some());
        assert_eq!(counts.pending.load(Ordering::Relaxed) + counts.pending_bytes.load(Ordering::Relaxed), 0);
    }
}
