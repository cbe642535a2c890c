//! Which endpoint a request goes to: power of two choices on requests in flight.
//!
//! One balancer per port of a destination and worker, called inline. An endpoint is `Available` or
//! `Ejected` until a time; what fails to connect is ejected at once, longer each time. When all are
//! ejected they are tried all the same: a guess that everything is dead must not make it so.

use crate::metrics::{Direction, Ends, ServiceLabels};
use crate::policy::EndpointSet;
use crate::pool::{Dial, Pool};
use crate::tls::Tls;
use crate::worker::Worker;
use aws_lc_rs::digest::{Context, SHA256};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_model::endpoints::{Endpoint, Health, Wire};
use weft_model::spiffe::SpiffeId;
use weft_model::traffic::{Algorithm, Traffic};
use weft_runtime::random::Random;

/// The first ejection; each further one in a row is twice as long.
const EJECTION_MIN: Duration = Duration::from_millis(500);

/// The longest ejection. Endpoints that are gone are removed by the control API; this is for those
/// it has not heard of yet.
const EJECTION_MAX: Duration = Duration::from_secs(30);

/// What names an endpoint in a session's token, and tells nothing of it: half of a SHA-256.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionDigest(pub [u8; 16]);

/// The endpoints of one port of a destination.
pub struct Balancer {
    server_name: Arc<str>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    set: Arc<EndpointSet>,
    traffic: Arc<Traffic>,
    /// Whose turn it is.
    turn: usize,
    replicas: Vec<Rc<Replica>>,
}

/// One endpoint, as this worker sees it.
pub struct Replica {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The identity it must prove; `None` where it is plain.
    pub identity: Option<Arc<SpiffeId>>,
    /// Connections to it.
    pub pool: Rc<Pool>,
    failures: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
    /// What requests to it are counted under, for that version of the policy.
    ends: RefCell<Option<(u64, Rc<Ends>)>>,
    /// Where sessions are asked for.
    session: OnceCell<SessionDigest>,
}

impl Balancer {
    /// A balancer without endpoints. `server_name` is what connections to them are for.
    pub fn new(server_name: Arc<str>) -> Self {
        Self { server_name, state: RefCell::default() }
    }

    /// Takes over a new set. An endpoint that stays the same keeps its connections and state; one whose
    /// address now belongs to another workload or identity does not.
    pub fn update(&self, set: &Arc<EndpointSet>, traffic: &Arc<Traffic>, tls: &Tls) {
        let mut state = self.state.borrow_mut();
        state.traffic = traffic.clone();
        if Arc::ptr_eq(&state.set, set) {
            return;
        }
        let mut old = std::mem::take(&mut state.replicas);
        state.replicas = set
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.health == Health::Ready && endpoint.weight > 0)
            .map(|endpoint| {
                let same = old.iter().position(|held| {
                    held.endpoint.uid == endpoint.uid
                        && held.endpoint.address == endpoint.address
                        && held.endpoint.wire == endpoint.wire
                });
                match same {
                    Some(index) => old.swap_remove(index).renewed(endpoint),
                    None => Rc::new(Replica::new(endpoint, &self.server_name, tls)),
                }
            })
            .collect();
        state.set = set.clone();
        drop(state);
        for gone in old {
            gone.pool.close_idle();
        }
    }

    /// Picks one that is not in `tried`. `None`: there is none.
    pub fn pick(&self, tried: &[Rc<Replica>], random: &mut Random, now: Instant) -> Option<Rc<Replica>> {
        let mut state = self.state.borrow_mut();
        let State { traffic, turn, replicas, .. } = &mut *state;
        let untried = |replica: &Rc<Replica>| !tried.iter().any(|held| Rc::ptr_eq(held, replica));
        match replicas.as_slice() {
            [] => return None,
            [only] => return untried(only).then(|| only.clone()),
            _ => {}
        }
        if traffic.load_balancing.algorithm == Algorithm::RoundRobin {
            let count = replicas.len();
            let next = (0..count)
                .map(|step| turn.wrapping_add(step) % count)
                .find(|index| untried(&replicas[*index]) && replicas[*index].is_available(now));
            if let Some(index) = next {
                *turn = index + 1;
                return Some(replicas[index].clone());
            }
        }
        let lighter = match traffic.load_balancing.algorithm {
            Algorithm::Random => first_of,
            Algorithm::LeastRequest | Algorithm::RoundRobin => lighter,
        };
        // Two at random; with most endpoints available the first draw almost always serves.
        for _ in 0..4 {
            let first = &replicas[random.below(replicas.len())];
            let second = &replicas[random.below(replicas.len())];
            let fit = |replica: &Rc<Replica>| untried(replica) && replica.is_available(now);
            match (fit(first), fit(second)) {
                (true, true) => return Some(lighter(first, second).clone()),
                (true, false) => return Some(first.clone()),
                (false, true) => return Some(second.clone()),
                (false, false) => {}
            }
        }
        let least = |only_available: bool| {
            replicas
                .iter()
                .filter(|replica| untried(replica) && (!only_available || replica.is_available(now)))
                .reduce(|first, second| lighter(first, second))
                .cloned()
        };
        least(true).or_else(|| least(false))
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

fn first_of<'a>(first: &'a Rc<Replica>, _second: &'a Rc<Replica>) -> &'a Rc<Replica> {
    first
}

// By load per weight, compared without division.
fn lighter<'a>(first: &'a Rc<Replica>, second: &'a Rc<Replica>) -> &'a Rc<Replica> {
    let load = |replica: &Replica| replica.pool.in_flight() as u64 + 1;
    let weight = |replica: &Replica| u64::from(replica.endpoint.weight);
    if load(second) * weight(first) < load(first) * weight(second) { second } else { first }
}

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
            failures: Cell::new(0),
            ejected_until: Cell::new(None),
            ends: RefCell::default(),
            session: OnceCell::new(),
        }
    }

    fn renewed(self: Rc<Self>, endpoint: &Arc<Endpoint>) -> Rc<Self> {
        if self.endpoint == *endpoint {
            return self;
        }
        Rc::new(Self {
            endpoint: endpoint.clone(),
            identity: self.identity.clone(),
            pool: self.pool.clone(),
            failures: self.failures.clone(),
            ejected_until: self.ejected_until.clone(),
            ends: RefCell::default(),
            session: self.session.clone(),
        })
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

    fn is_available(&self, now: Instant) -> bool {
        self.ejected_until.get().is_none_or(|until| until <= now) && !self.pool.is_leaving(now)
    }

    /// It answered.
    pub fn succeeded(&self) {
        if self.failures.get() > 0 {
            self.failures.set(0);
            self.ejected_until.set(None);
        }
    }

    /// It could not be reached.
    pub fn failed(&self, now: Instant) {
        // Those that failed together are one failure.
        if self.ejected_until.get().is_some_and(|until| now < until) {
            return;
        }
        let failures = self.failures.get().saturating_add(1);
        self.failures.set(failures);
        let age = EJECTION_MIN.saturating_mul(1 << (failures - 1).min(10)).min(EJECTION_MAX);
        self.ejected_until.set(Some(now + age));
    }
}
