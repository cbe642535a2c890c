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

use super::draw::Draw;
use super::ejection::{Cause, Standing, State as Health};
use super::maglev::Maglev;
use super::peak_ewma::{Latency, Mean};
use crate::metrics::{Direction, Ends, ServiceLabels};
use crate::policy::EndpointSet;
use crate::pool::{Dial, InFlight, Pool};
use crate::tls::Tls;
use crate::worker::Worker;
use aws_lc_rs::digest::{Context, SHA256};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_model::endpoints::{self, Endpoint, Wire};
use weft_model::spiffe::SpiffeId;
use weft_model::traffic::{Algorithm, Traffic, ZonePreference};
use weft_runtime::random::Random;
use weft_runtime::registry::GaugeGuard;

/// What an endpoint that starts slowly gets at first, as a share of its own.
const WARM_MIN: f64 = 0.1;

/// How much heavier an endpoint counts while it wants to be left alone.
const BUSY_FACTOR: f64 = 16.0;

/// What a failing or shedding answer counts for at least, in seconds: whoever fails fastest must not look
/// fastest.
const FAILING: f64 = 1.0;

/// A latency below this many times another's is the same: the rest is noise.
const SAME: f64 = 2.0;

/// The own zone is overloaded where its latency is so many times what it is when there is little to do …
const CROWDED: f64 = 3.0;

/// … and by so much longer, in seconds: below that nobody notices.
const CROWDED_SECONDS: f64 = 0.005;

/// How much more than its share of the load the own zone's healthy part may bear before some goes to
/// others: Envoy's overprovisioning factor.
const OVERPROVISION: f64 = 1.4;

/// What names an endpoint in a session's token, and tells nothing of it: half of a SHA-256.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionDigest(pub [u8; 16]);

/// The endpoints of one port of a destination.
pub struct Balancer {
    server_name: Arc<str>,
    mean: Mean,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    set: Arc<EndpointSet>,
    traffic: Arc<Traffic>,
    zone: Box<str>,
    /// Those of the own zone first, if they go first.
    replicas: Vec<Rc<Replica>>,
    /// How many of them go first.
    near: usize,
    /// The share of requests that the first can bear, for what of them is healthy.
    near_share: f64,
    first: Draw,
    others: Draw,
    table: Option<Maglev>,
    /// Whose turn it is.
    turn: usize,
}

/// One endpoint, as this worker sees it.
pub struct Replica {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The identity it must prove; `None` where it is plain.
    pub identity: Option<Arc<SpiffeId>>,
    /// Connections to it.
    pub pool: Rc<Pool>,
    known: Rc<Known>,
    /// What requests to it are counted under, for that version of the policy.
    ends: RefCell<Option<(u64, Rc<Ends>)>>,
    /// Where sessions are asked for.
    session: OnceCell<SessionDigest>,
}

/// What was learned of an endpoint.
#[derive(Default)]
struct Known {
    standing: Standing,
    latency: Latency,
    /// Since when it takes its share, where that grows.
    since: Cell<Option<Instant>>,
    busy_until: Cell<Option<Instant>>,
    /// Counts it as ejected while it is.
    ejected: RefCell<Option<GaugeGuard>>,
}

/// What a try says of its endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It works.
    Answered,
    /// It works, and wants less to do, for that long.
    Busy(Duration),
    /// It fails.
    Failed,
    /// It cannot be connected to.
    Unreachable,
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

/// A try under way: counts for the balancer until it is dropped, and gives up a probe of which nothing
/// was heard.
pub struct Trying {
    replica: Rc<Replica>,
    probe: bool,
    /// It was ejected when this began, and used because all are.
    forced: bool,
    started: Instant,
    dials: u64,
}

impl Drop for Trying {
    fn drop(&mut self) {
        if self.probe {
            self.replica.known.standing.abandon(Instant::now());
        }
    }
}

// === impl Balancer ===

impl Balancer {
    /// A balancer without endpoints. `server_name` is what connections to them are for.
    pub fn new(server_name: Arc<str>, now: Instant) -> Self {
        Self { server_name, mean: Mean::new(now), state: RefCell::default() }
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
        let mut state = self.state.borrow_mut();
        if Arc::ptr_eq(&state.set, set) && Arc::ptr_eq(&state.traffic, traffic) && *state.zone == *zone {
            return;
        }
        // The first endpoints are not new: they are what there is.
        let begins = state.replicas.is_empty();
        let mut old = std::mem::take(&mut state.replicas);
        let ready =
            |endpoint: &&Arc<Endpoint>| endpoint.health == endpoints::Health::Ready && endpoint.weight > 0;
        state.replicas = set
            .endpoints
            .iter()
            .filter(ready)
            .map(|endpoint| {
                let same = old.iter().position(|held| held.is(endpoint));
                match same {
                    Some(index) => old.swap_remove(index).renewed(endpoint),
                    None => {
                        let replica = Replica::new(endpoint, &self.server_name, tls);
                        replica.known.since.set((!begins).then_some(now));
                        Rc::new(replica)
                    }
                }
            })
            .collect();
        state.set = set.clone();
        state.traffic = traffic.clone();
        state.zone = zone.into();
        state.arrange();
        drop(state);
        for gone in old {
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
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let untried = |replica: &Rc<Replica>| !tried.iter().any(|held| Rc::ptr_eq(held, replica));
        match state.replicas.as_slice() {
            [] => return None,
            [only] => return untried(only).then(|| only.clone()),
            _ => {}
        }
        let fit = |replica: &Rc<Replica>| replica.is_available(now) && untried(replica);
        if let (Some(key), Some(table)) = (key, &state.table)
            && let Some(index) = table.find(key, |index| fit(&state.replicas[index]))
        {
            return Some(state.replicas[index].clone());
        }
        let chosen = if state.near > 0 {
            self.pick_by_zone(state, fit, random, now)
        } else {
            state.choose(&self.mean, false, fit, random, now)
        };
        // One that drains still serves, which is more than is known of one that is ejected.
        let serving = |replica: &Rc<Replica>| replica.known.standing.takes(now) && untried(replica);
        chosen
            .or_else(|| state.lightest(&self.mean, fit, now))
            .or_else(|| state.lightest(&self.mean, serving, now))
            .or_else(|| state.lightest(&self.mean, untried, now))
    }

    /// One of the own zone, while that is healthy and not overloaded.
    fn pick_by_zone(
        &self,
        state: &mut State,
        fit: impl Fn(&Rc<Replica>) -> bool + Copy,
        random: &mut Random,
        now: Instant,
    ) -> Option<Rc<Replica>> {
        let spills = state.near_share < 1.0 && random.fraction() >= state.near_share;
        let near = if spills { None } else { state.choose(&self.mean, true, fit, random, now) };
        let Some(near) = near else {
            let far = state.choose(&self.mean, false, fit, random, now);
            return far.or_else(|| state.choose(&self.mean, true, fit, random, now));
        };
        let (mean, quiet) = (self.mean.seconds(), self.mean.quiet());
        let expected = near.known.latency.estimate(mean, now);
        if expected < quiet * CROWDED || expected - quiet < CROWDED_SECONDS {
            return Some(near);
        }
        // Measured, not guessed: it goes elsewhere only where it is served sooner.
        let far = state.choose(&self.mean, false, fit, random, now).filter(|far| {
            let load = |replica: &Replica| replica.known.latency.estimate(mean, now) * replica.busyness(now);
            load(far) * SAME < load(&near)
        });
        far.or(Some(near))
    }

    /// Takes note of what a try says of its endpoint; what that changed.
    pub fn report(&self, trying: Trying, outcome: Outcome, now: Instant) -> Option<Change> {
        let mut trying = trying;
        trying.probe = false;
        let replica = &trying.replica;
        let known = &replica.known;
        // A connection that had to be made first is not the endpoint's slowness.
        let reused = replica.pool.dials() == trying.dials;
        let elapsed = now.saturating_duration_since(trying.started).as_secs_f64();
        let mean = self.mean.seconds();
        match outcome {
            Outcome::Answered if !reused => {}
            Outcome::Answered => {
                known.latency.observe(elapsed, trying.started, mean, now);
                self.mean.observe(elapsed, now);
            }
            Outcome::Busy(_) | Outcome::Failed => {
                known.latency.observe(elapsed.max(FAILING), trying.started, mean, now);
            }
            Outcome::Unreachable => {}
        }
        if let Outcome::Busy(asked) = outcome {
            known.busy_until.set(Some(now + asked));
        }
        let mut state = self.state.borrow_mut();
        let settings = &state.traffic.ejection;
        let cause = match outcome {
            Outcome::Answered | Outcome::Busy(_) => {
                let returned = if trying.forced {
                    known.standing.proved(settings, now)
                } else {
                    known.standing.succeeded(settings, now)
                };
                if !returned {
                    return None;
                }
                known.ejected.take();
                known.since.set(Some(now));
                state.weigh();
                return Some(Change::Returned);
            }
            Outcome::Failed => known.standing.failed(settings, false, now)?,
            Outcome::Unreachable => known.standing.failed(settings, true, now)?,
        };
        if matches!(cause, Cause::Consecutive | Cause::SuccessRate) && !state.may_eject() {
            return Some(Change::Kept);
        }
        let until = known.standing.eject(settings, now);
        state.weigh();
        Some(Change::Ejected(cause, until))
    }

    /// How many endpoints there are, and how many of them are ejected.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state.borrow();
        (state.replicas.len(), state.replicas.iter().filter(|replica| replica.is_ejected()).count())
    }

    /// The available endpoint that a session's token names.
    pub fn find_session(&self, wanted: &SessionDigest, now: Instant) -> Option<Rc<Replica>> {
        let state = self.state.borrow();
        let found = state.replicas.iter().find(|replica| self.session_digest(replica) == *wanted);
        found.filter(|replica| replica.is_available(now)).cloned()
    }

    /// What names the endpoint in a session's token: of its workload and what is called. No address, since
    /// there are few enough of those to try them all.
    pub fn session_digest(&self, replica: &Replica) -> SessionDigest {
        *replica.session.get_or_init(|| {
            let mut context = Context::new(&SHA256);
            for part in ["weft session 1", &*self.server_name, replica.endpoint.uid.as_str()] {
                context.update(part.as_bytes());
                context.update(&[0]);
            }
            let mut digest = SessionDigest::default();
            digest.0.copy_from_slice(&context.finish().as_ref()[..size_of::<SessionDigest>()]);
            digest
        })
    }

    /// Every pool, for sweeping.
    pub fn for_each_pool(&self, mut visit: impl FnMut(&Pool)) {
        for replica in &self.state.borrow().replicas {
            visit(&replica.pool);
        }
    }
}

// === impl State ===

impl State {
    /// Prepares all that picks need of a new set or policy.
    fn arrange(&mut self) {
        let balancing = &self.traffic.load_balancing;
        let zone = &self.zone;
        let own = |replica: &Rc<Replica>| replica.endpoint.zone == *zone;
        self.near = 0;
        if balancing.zone == ZonePreference::Prefer && !zone.is_empty() {
            self.near = self.replicas.iter().filter(|replica| own(replica)).count();
        }
        if self.near == self.replicas.len() {
            self.near = 0;
        }
        if self.near > 0 {
            self.replicas.sort_by_key(|replica| !own(replica));
        }
        let weight = |replica: &Rc<Replica>| replica.endpoint.weight;
        self.first = Draw::new(0, self.replicas[..self.near].iter().map(weight));
        self.others = Draw::new(self.near, self.replicas[self.near..].iter().map(weight));
        self.table = None;
        if balancing.algorithm == Algorithm::ConsistentHash {
            let names: Vec<_> = self
                .replicas
                .iter()
                .map(|replica| {
                    (format!("{}@{}", replica.endpoint.uid, replica.endpoint.address), weight(replica))
                })
                .collect();
            self.table = Maglev::new(names.iter().map(|(name, weight)| (name.as_str(), *weight)));
        }
        self.weigh();
    }

    /// Whether one more may be ejected for what it answers: never the last, and at most the share.
    fn may_eject(&self) -> bool {
        let all = self.replicas.len();
        let ejected = self.replicas.iter().filter(|replica| replica.is_ejected()).count();
        let percent = self.traffic.ejection.max_percent as usize;
        // Of two, one: a share that rounds to none would be no ejection at all.
        let most = if percent == 0 { 0 } else { (all.saturating_mul(percent) / 100).max(1) };
        ejected < most && ejected + 1 < all
    }

    /// How much the own zone can bear.
    fn weigh(&mut self) {
        let near = &self.replicas[..self.near];
        let sum = |replicas: &mut dyn Iterator<Item = &Rc<Replica>>| {
            replicas.map(|replica| u64::from(replica.endpoint.weight)).sum::<u64>() as f64
        };
        let healthy = sum(&mut near.iter().filter(|replica| !replica.is_ejected()));
        self.near_share = OVERPROVISION * healthy / sum(&mut near.iter()).max(1.0);
    }

    /// One of a group by the rule. `None`: none was found soon.
    fn choose(
        &mut self,
        mean: &Mean,
        near: bool,
        fit: impl Fn(&Rc<Replica>) -> bool,
        random: &mut Random,
        now: Instant,
    ) -> Option<Rc<Replica>> {
        let draw = if near { &self.first } else { &self.others };
        if draw.is_empty() {
            return None;
        }
        let balancing = &self.traffic.load_balancing;
        let warming = balancing.slow_start.as_secs_f64();
        let replicas = &self.replicas;
        if balancing.algorithm == Algorithm::RoundRobin {
            for _ in 0..draw.len() * 2 {
                let replica = &replicas[draw.place(self.turn)];
                self.turn = self.turn.wrapping_add(1);
                // A light or cold one lets some of its turns pass.
                let share = draw.share(replica.endpoint.weight);
                if fit(replica) && replica.takes_turn(share, warming, random, now) {
                    return Some(replica.clone());
                }
            }
            return None;
        }
        // With most endpoints available the first draw almost always serves.
        for _ in 0..4 {
            let (first, second) = draw.two(random);
            let (first, second) = (&replicas[first], &replicas[second]);
            let first_fits = fit(first) && first.takes_turn(1.0, warming, random, now);
            match (first_fits, fit(second) && second.takes_turn(1.0, warming, random, now)) {
                (true, true) => {
                    let chosen = match balancing.algorithm {
                        Algorithm::Random => first,
                        Algorithm::LeastRequest => lighter(first, second, 1.0, now),
                        Algorithm::PeakEwma | Algorithm::ConsistentHash | Algorithm::RoundRobin => {
                            lighter(first, second, slowness(first, second, mean.seconds(), now), now)
                        }
                    };
                    return Some(chosen.clone());
                }
                (true, false) => return Some(first.clone()),
                (false, true) => return Some(second.clone()),
                (false, false) => {}
            }
        }
        None
    }

    /// The best of all that fit, where drawing did not find any.
    fn lightest(&self, mean: &Mean, fit: impl Fn(&Rc<Replica>) -> bool, now: Instant) -> Option<Rc<Replica>> {
        let fitting = self.replicas.iter().filter(|replica| fit(replica));
        fitting
            .reduce(|first, second| lighter(first, second, slowness(first, second, mean.seconds(), now), now))
            .cloned()
    }
}

/// How much slower the first is than the second; 1 where the difference is noise.
fn slowness(first: &Replica, second: &Replica, mean: f64, now: Instant) -> f64 {
    let (one, other) = (first.known.latency.estimate(mean, now), second.known.latency.estimate(mean, now));
    if one > other * SAME {
        one / (other * SAME).max(f64::MIN_POSITIVE)
    } else if other > one * SAME {
        (one * SAME).max(f64::MIN_POSITIVE) / other
    } else {
        1.0
    }
}

/// The one with less to do for its speed.
fn lighter<'a>(
    first: &'a Rc<Replica>,
    second: &'a Rc<Replica>,
    slowness: f64,
    now: Instant,
) -> &'a Rc<Replica> {
    if first.busyness(now) * slowness <= second.busyness(now) { first } else { second }
}

// === impl Replica ===

impl Replica {
    fn new(endpoint: &Arc<Endpoint>, server_name: &Arc<str>, tls: &Tls) -> Self {
        let (dial, identity) = match &endpoint.wire {
            Wire::Plain => (Dial::Plain, None),
            Wire::Weft(identity) => {
                let connector = tls.connector(identity, &endpoint.uid);
                let dial = Dial::Mesh { connector, server_name: server_name.clone() };
                (dial, Some(Arc::new(identity.clone())))
            }
        };
        Self {
            endpoint: endpoint.clone(),
            identity,
            pool: Pool::new(endpoint.address, dial, Direction::Outbound),
            known: Rc::default(),
            ends: RefCell::default(),
            session: OnceCell::new(),
        }
    }

    /// Whether it is that endpoint: the same workload at the same address, reached the same way.
    fn is(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.uid == endpoint.uid
            && self.endpoint.address == endpoint.address
            && self.endpoint.wire == endpoint.wire
    }

    fn renewed(self: Rc<Self>, endpoint: &Arc<Endpoint>) -> Rc<Self> {
        if self.endpoint == *endpoint {
            return self;
        }
        Rc::new(Self {
            endpoint: endpoint.clone(),
            identity: self.identity.clone(),
            pool: self.pool.clone(),
            known: self.known.clone(),
            ends: RefCell::default(),
            session: self.session.clone(),
        })
    }

    /// A request is sent to it: what counts it, and what it is reported by.
    pub fn begin(self: &Rc<Self>, now: Instant) -> (InFlight, Trying) {
        let probe = self.known.standing.begin(now);
        let forced = matches!(self.known.standing.state(), Health::Ejected(_));
        let trying = Trying { replica: self.clone(), probe, forced, started: now, dials: self.pool.dials() };
        (self.pool.begin(), trying)
    }

    /// What requests to it are counted under.
    pub fn ends(&self, worker: &Worker, service: &Arc<ServiceLabels>) -> Rc<Ends> {
        let version = worker.policy.version();
        if let Some((held, ends)) = &*self.ends.borrow()
            && *held == version
        {
            return ends.clone();
        }
        let policy = worker.policy.current();
        let ends = Rc::new(Ends {
            direction: Direction::Outbound,
            source: policy.own.description.clone(),
            source_identity: policy.own.workload.as_ref().map(|workload| Arc::new(workload.identity())),
            destination: self.endpoint.description.clone(),
            destination_identity: self.identity.clone(),
            service: service.clone(),
            mutual_tls: self.identity.is_some(),
            cells: RefCell::default(),
        });
        *self.ends.borrow_mut() = Some((version, ends.clone()));
        ends
    }

    /// Keeps the gauge for as long as it is ejected.
    pub fn count_ejected(&self, guard: impl FnOnce() -> GaugeGuard) {
        self.known.ejected.borrow_mut().get_or_insert_with(guard);
    }

    fn is_available(&self, now: Instant) -> bool {
        self.known.standing.takes(now) && !self.pool.is_leaving(now)
    }

    fn is_ejected(&self) -> bool {
        self.known.standing.state() != Health::Available
    }

    /// Whether it takes a turn of which it has that share. One that starts slowly lets more of them pass.
    fn takes_turn(&self, share: f64, warming: f64, random: &mut Random, now: Instant) -> bool {
        let warmth = match self.known.since.get() {
            Some(since) if warming > 0.0 => {
                let age = now.saturating_duration_since(since).as_secs_f64();
                (age / warming).clamp(WARM_MIN, 1.0)
            }
            _ => 1.0,
        };
        let share = share * warmth;
        share >= 1.0 || random.fraction() < share
    }

    /// What it has to do.
    fn busyness(&self, now: Instant) -> f64 {
        let load = (self.pool.in_flight() + 1) as f64;
        match self.known.busy_until.get() {
            Some(until) if now < until => load * BUSY_FACTOR,
            _ => load,
        }
    }
}

// === impl Trying ===

impl Trying {
    /// Whether it decides if its endpoint is used again.
    pub fn is_probe(&self) -> bool {
        self.probe || self.forced
    }

    /// The endpoint.
    pub fn replica(&self) -> &Rc<Replica> {
        &self.replica
    }
}

#[cfg(test)]
mod tests;
