//! How many connections there are to a Service, in the whole process: a place for each, whatever it carries
//! and whether it is in use or idle.
//!
//! Places are counted for the process and used by workers, which share no connection. So a worker that has
//! more than its share of them, or has them idle, gives some up while another waits for one; within a worker
//! a connection that came free goes to who waited longest. A limit that changes closes nothing: it holds
//! for the next connection.

use super::Port;
use super::limits::ServiceCounts;
use super::replica::Replica;
use crate::pool::Wire;
use crate::worker::Worker;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use weft_model::reason::Reason;

/// How long a request waits for a connection to come free, where its Service's owner does not say: as long
/// as making one may take, unless the proxy's settings say otherwise.
pub const DEFAULT_CONNECTION_WAIT: Duration = crate::pool::DEFAULT_CONNECT_TIMEOUT;

/// What one worker has of the connections to one port of a Service.
#[derive(Debug)]
pub struct Connections {
    counts: Arc<ServiceCounts>,
    /// The most that the Service may have. `None`: any number.
    most: Cell<Option<u32>>,
    held: Cell<usize>,
    waiting: Cell<usize>,
    /// Something came free in this worker: one who waits may go on.
    free: Notify,
}

/// A connection's place; given back when dropped, so it is kept with the connection.
#[derive(Debug)]
pub struct ConnectionPlace(Rc<Connections>);

/// Who waits for a connection.
struct Waiting<'a>(&'a Connections);

// === impl Connections ===

impl Connections {
    /// None so far.
    pub fn new(counts: Arc<ServiceCounts>) -> Rc<Self> {
        counts.holders.fetch_add(1, Ordering::Relaxed);
        Rc::new(Self {
            counts,
            most: Cell::new(None),
            held: Cell::new(0),
            waiting: Cell::new(0),
            free: Notify::new(),
        })
    }

    /// Sets how many the Service may have.
    pub fn limit(&self, most: Option<u32>) {
        if self.most.replace(most) != most {
            // Who waits may find room by what it says now.
            self.counts.freed.notify_waiters();
            self.free.notify_waiters();
        }
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.most.get().is_some()
    }

    /// Whether some wait in this worker: who comes now is behind them.
    pub fn is_crowded(&self) -> bool {
        self.waiting.get() > 0
    }

    /// A place for one more.
    pub fn enter(self: &Rc<Self>) -> Result<ConnectionPlace, Reason> {
        let most = self.most.get().map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let more = |held: usize| (held < most).then_some(held + 1);
        let entered = self.counts.connections.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        entered.map_err(|_| Reason::ConnectionLimit)?;
        self.held.set(self.held.get() + 1);
        Ok(ConnectionPlace(self.clone()))
    }

    /// Something that others may use came free here: an exchange is over.
    pub fn freed(&self) {
        if self.is_crowded() {
            self.free.notify_one();
        }
    }

    /// How many connections that nobody uses here now are to be given up, for another worker or port: as many
    /// as wait there, and where some wait here, too, only what is beyond this one's share.
    pub fn wanted_elsewhere(&self) -> usize {
        if !self.is_limited() {
            return 0;
        }
        let others = self.counts.short.load(Ordering::SeqCst).saturating_sub(self.waiting.get());
        if others == 0 || !self.is_crowded() {
            return others;
        }
        let holders = self.counts.holders.load(Ordering::Relaxed).max(1);
        let share = self.counts.connections.load(Ordering::SeqCst) / holders;
        others.min(self.held.get().saturating_sub(share))
    }

    fn has_room(&self) -> bool {
        let held = self.counts.connections.load(Ordering::SeqCst);
        self.most.get().is_none_or(|most| held < usize::try_from(most).unwrap_or(usize::MAX))
    }

    fn wait(&self) -> Waiting<'_> {
        self.waiting.set(self.waiting.get() + 1);
        self.counts.short.fetch_add(1, Ordering::SeqCst);
        Waiting(self)
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.counts.holders.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let Self(connections) = self;
        connections.held.set(connections.held.get().saturating_sub(1));
        connections.counts.connections.fetch_sub(1, Ordering::SeqCst);
        // After the place is free. Who begins to wait now looks for room once more before it sleeps.
        if connections.counts.short.load(Ordering::SeqCst) > 0 {
            connections.counts.freed.notify_waiters();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Self(connections) = self;
        connections.waiting.set(connections.waiting.get().saturating_sub(1));
        connections.counts.short.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits until an endpoint can be sent to: by a connection that came free, or by a new one. `kept`: the
/// endpoint that it must be, `None` for any that `pick` finds. `bytes`: what the request keeps in memory
/// meanwhile. `until`: the end of its wait, set by its first.
pub async fn await_connection(
    worker: &Worker,
    port: &Port,
    wire: Wire,
    bytes: usize,
    until: &mut Option<Instant>,
    kept: Option<&Rc<Replica>>,
    pick: impl Fn() -> Option<Rc<Replica>>,
) -> Result<Rc<Replica>, Reason> {
    let limits = &port.model.traffic.connections;
    let connections = &port.connections;
    let _place = port.counts.wait(limits, bytes).ok_or(Reason::QueueFull)?;
    let _counted = worker.metrics.waiting(&port.labels);
    let waits = if limits.wait.is_zero() { DEFAULT_CONNECTION_WAIT } else { limits.wait };
    let until = *until.get_or_insert_with(|| Instant::now() + waits);
    let waiting = connections.wait();
    // Others learn of it: what lies idle with them is closed, what comes free is given up.
    worker.shared.limits.want();
    loop {
        let freed = connections.counts.freed.notified();
        let mut freed = std::pin::pin!(freed);
        // From here on no place is given back unheard.
        freed.as_mut().enable();
        if let Some(replica) = find(port, connections, wire, kept, &pick) {
            return Ok(replica);
        }
        let either = async {
            tokio::select! {
                () = freed => {}
                () = connections.free.notified() => {}
            }
        };
        if timeout_at(until, either).await.is_err() {
            drop(waiting);
            return Err(Reason::ConnectionLimit);
        }
    }
}

/// An endpoint with a connection to use, else one that can get one.
fn find(
    port: &Port,
    connections: &Connections,
    wire: Wire,
    kept: Option<&Rc<Replica>>,
    pick: impl Fn() -> Option<Rc<Replica>>,
) -> Option<Rc<Replica>> {
    match kept {
        Some(replica) if replica.pool.has_free(wire) => return Some(replica.clone()),
        Some(_) => {}
        None => {
            if let Some(replica) = port.balancer.pick_connected(wire, std::time::Instant::now()) {
                return Some(replica);
            }
        }
    }
    // One that lies idle at another endpoint makes room.
    if !connections.has_room() {
        port.balancer.give_up_idle();
    }
    // One that is being closed still has its place: who waits hears when it is free.
    if !connections.has_room() {
        return None;
    }
    kept.cloned().or_else(pick)
}

#[cfg(test)]
mod tests {
    use super::super::limits::Limits;
    use super::*;

    fn two_workers(most: u32) -> (Rc<Connections>, Rc<Connections>) {
        let counts = Limits::default().of(&"shop/cart".parse().unwrap());
        let workers = (Connections::new(counts.clone()), Connections::new(counts));
        workers.0.limit(Some(most));
        workers.1.limit(Some(most));
        workers
    }

    #[test]
    fn there_are_never_more_than_the_limit_whoever_makes_them() {
        let (one, other) = two_workers(2);
        let first = one.enter().unwrap();
        let second = other.enter().unwrap();
        assert_eq!(one.enter().unwrap_err(), Reason::ConnectionLimit);
        assert_eq!(other.enter().unwrap_err(), Reason::ConnectionLimit);
        drop(first);
        let third = other.enter().unwrap();
        drop((second, third));
        assert_eq!(one.counts.connections.load(Ordering::SeqCst), 0);
        assert_eq!((one.held.get(), other.held.get()), (0, 0));
    }

    #[test]
    fn a_limit_that_comes_later_counts_what_is_there() {
        let counts = Limits::default().of(&"shop/cart".parse().unwrap());
        let connections = Connections::new(counts);
        let held: Vec<_> = (0..3).map(|_| connections.enter().unwrap()).collect();
        connections.limit(Some(2));
        assert_eq!(connections.enter().unwrap_err(), Reason::ConnectionLimit);
        drop(held);
        assert!(connections.enter().is_ok());
    }

    #[test]
    fn what_is_idle_is_given_up_for_others_and_what_is_used_here_down_to_a_fair_share() {
        let (one, other) = two_workers(4);
        let held: Vec<_> = (0..4).map(|_| one.enter().unwrap()).collect();
        assert_eq!(one.wanted_elsewhere(), 0, "nobody waits");
        let here = one.wait();
        assert_eq!(one.wanted_elsewhere(), 0, "who waits here is no other");
        let there = [other.wait(), other.wait(), other.wait()];
        assert_eq!(one.wanted_elsewhere(), 2, "it has four of four, and they are two");
        let mut held = held.into_iter();
        drop((held.next(), held.next()));
        let taken = (other.enter().unwrap(), other.enter().unwrap());
        assert_eq!(one.wanted_elsewhere(), 0, "two of four are its share");
        drop(here);
        assert_eq!(one.wanted_elsewhere(), 3, "nobody waits here for them");
        drop((there, taken));
        assert_eq!(one.wanted_elsewhere(), 0);
    }
}
