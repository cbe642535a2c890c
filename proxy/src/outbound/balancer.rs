//! Which endpoint a request goes to. One balancer per port of a destination and worker, called inline: no
//! lock, no task, no allocation per pick.
//!
//! By default two endpoints are drawn and the one with the smaller product of expected latency and
//! requests in flight is taken ([`peak_ewma`](super::peak_ewma)). Who fails is ejected
//! ([`ejection`](super::ejection)), at most a share of all, but what cannot be connected to always. When all
//! are ejected they are used all the same: a guess that everything is dead must not make it so.
//!
//! What is known of an endpoint is its own: it stays through every change of the others, of its weight and of
//! the policy, and ends with its identity or address.

use super::candidates::Candidates;
use super::connections::Connections;
use super::ejection::Cause;
use super::peak_ewma::Mean;
use super::replica::{Outcome, Replica, SessionDigest, Trying};
use crate::policy::EndpointSet;
use crate::pool::{Pool, Wire};
use crate::tls::Tls;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use weft_model::endpoints::Endpoint;
use weft_model::endpoints::Health;
use weft_model::traffic::Traffic;
use weft_runtime::random::Random;

/// The endpoints of one port of a destination.
pub struct Balancer {
    server_name: Arc<str>,
    /// What connections are counted by; `None` where nobody limits them.
    connections: Option<Rc<Connections>>,
    mean: Rc<Mean>,
    candidates: RefCell<Candidates>,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// It is ejected until then.
    Ejected(Cause, Instant),
    /// Its probe was answered.
    Returned,
    /// It fails, and is used on: too many are ejected already.
    Kept,
}

// === impl Balancer ===

impl Balancer {
    /// A balancer without endpoints. `server_name` is what connections to them are for.
    /// `turn`: at which endpoint turns begin, not the same for all who call.
    pub fn new(
        server_name: Arc<str>,
        connections: Option<Rc<Connections>>,
        turn: usize,
        now: Instant,
    ) -> Self {
        let candidates = RefCell::new(Candidates::new(turn));
        Self { server_name, connections, mean: Rc::new(Mean::new(now)), candidates }
    }

    /// What connections to its endpoints are for.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Takes over a new set or policy. An endpoint that stays the same keeps its connections and all that
    /// is known of it; one whose address now belongs to another workload or identity does not. `zone`:
    /// this proxy's own.
    pub fn update(
        &self,
        set: &Arc<EndpointSet>,
        traffic: &Arc<Traffic>,
        zone: &str,
        tls: &Tls,
        now: Instant,
    ) {
        let mut candidates = self.candidates.borrow_mut();
        // Two views of one port have policies of their own that say the same.
        let same_set = Arc::ptr_eq(&candidates.set, set) || candidates.set == *set;
        let same_traffic = Arc::ptr_eq(&candidates.traffic, traffic) || candidates.traffic == *traffic;
        if same_set && same_traffic && *candidates.zone == *zone {
            return;
        }
        // The first endpoints are not new: they are what there is.
        let begins = candidates.replicas.is_empty();
        let mut old = std::mem::take(&mut candidates.replicas);
        old.sort_unstable_by(|one, other| name_of(&one.endpoint).cmp(&name_of(&other.endpoint)));
        let names: Vec<_> = old.iter().map(|held| held.endpoint.clone()).collect();
        let mut old: Vec<_> = old.into_iter().map(Some).collect();
        let ready = |endpoint: &&Arc<Endpoint>| endpoint.health == Health::Ready && endpoint.weight > 0;
        candidates.replicas = set
            .endpoints
            .iter()
            .filter(ready)
            .map(|endpoint| {
                let found = names.binary_search_by(|held| name_of(held).cmp(&name_of(endpoint)));
                match found.ok().and_then(|index| old[index].take_if(|held| held.is(endpoint))) {
                    Some(same) => same.renewed(endpoint),
                    None => Rc::new(Replica::new(
                        endpoint,
                        &self.server_name,
                        self.connections.clone(),
                        &self.mean,
                        (!begins).then_some(now),
                        tls,
                    )),
                }
            })
            .collect();
        candidates.set = set.clone();
        candidates.traffic = traffic.clone();
        candidates.zone = zone.into();
        candidates.arrange();
        drop(candidates);
        for gone in old.into_iter().flatten() {
            gone.pool.close_idle();
        }
    }

    /// Picks one that is not in `tried`. `key`: what consistent hashing goes by. `None`: there is none.
    pub fn pick(
        &self,
        tried: &[Rc<Replica>],
        key: Option<u64>,
        random: &mut Random,
        now: Instant,
    ) -> Option<Rc<Replica>> {
        self.candidates.borrow_mut().pick(&self.mean, tried, key, random, now)
    }

    /// The best of those to which a connection is free. `None`: there is none.
    pub fn pick_connected(&self, wire: Wire, now: Instant) -> Option<Rc<Replica>> {
        let free = |replica: &Rc<Replica>| replica.is_available(now) && replica.pool.has_free(wire);
        self.candidates.borrow().lightest(&self.mean, free, now)
    }

    /// Closes one connection that is not used, if there is one.
    pub fn give_up_idle(&self) -> bool {
        self.candidates.borrow().replicas.iter().any(|replica| replica.pool.give_up_idle())
    }

    /// Takes note of what a try says of its endpoint; what that changed.
    pub fn report(&self, trying: Trying, outcome: Outcome, now: Instant) -> Option<Change> {
        let mut trying = trying;
        let probe = trying.is_probe();
        trying.end(outcome, now);
        let replica = trying.replica();
        let mut candidates = self.candidates.borrow_mut();
        let settings = &candidates.traffic.ejection;
        let cause = match outcome {
            Outcome::Answered | Outcome::Refused | Outcome::Busy(_) => {
                let returned = trying.proves(settings, now);
                return returned.then(|| {
                    candidates.weigh();
                    Change::Returned
                });
            }
            Outcome::Failed => replica.failed(settings, probe, false, now)?,
            Outcome::Unreachable => replica.failed(settings, probe, true, now)?,
        };
        if matches!(cause, Cause::Consecutive | Cause::SuccessRate) && !candidates.may_eject() {
            return Some(Change::Kept);
        }
        let until = replica.eject(settings, now);
        candidates.weigh();
        Some(Change::Ejected(cause, until))
    }

    /// How many endpoints there are, and how many of them are ejected.
    pub fn counts(&self) -> (usize, usize) {
        let candidates = self.candidates.borrow();
        (candidates.replicas.len(), candidates.replicas.iter().filter(|replica| replica.is_ejected()).count())
    }

    /// The available endpoint that a session's token names.
    pub fn find_session(&self, wanted: &SessionDigest, now: Instant) -> Option<Rc<Replica>> {
        let candidates = self.candidates.borrow();
        let found = candidates.replicas.iter().find(|replica| self.session_digest(replica) == *wanted);
        found.filter(|replica| replica.is_available(now)).cloned()
    }

    /// What names the endpoint in a session's token.
    pub fn session_digest(&self, replica: &Replica) -> SessionDigest {
        replica.session_digest(&self.server_name)
    }

    /// Every pool, for sweeping.
    pub fn for_each_pool(&self, mut visit: impl FnMut(&Pool)) {
        for replica in &self.candidates.borrow().replicas {
            visit(&replica.pool);
        }
    }
}

/// What an endpoint is found by in a list.
fn name_of(endpoint: &Endpoint) -> (&str, SocketAddr) {
    (endpoint.uid.as_str(), endpoint.address)
}

#[cfg(test)]
mod tests;
