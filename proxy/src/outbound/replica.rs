//! One endpoint as a worker sees it: its connections, and what was learned of it.
//!
//! What is known of an endpoint is its own: it stays through every change of the others, of its weight and of
//! the policy, and ends with its identity or address. Which one a request goes to is
//! [`balancer`](super::balancer)'s to say, by what is asked here.

use super::connections::Connections;
use super::ejection::{Cause, Standing, State as Health};
use super::peak_ewma::{Latency, Mean};
use crate::metrics::{Direction, Ends, ServiceLabels};
use crate::pool::{Dial, InFlight, Pool};
use crate::tls::Tls;
use crate::worker::Worker;
use aws_lc_rs::digest::{Context, SHA256};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_model::endpoints::{Endpoint, Wire};
use weft_model::spiffe::SpiffeId;
use weft_model::traffic::Ejection;
use weft_runtime::random::Random;
use weft_runtime::registry::GaugeGuard;

/// What an endpoint that starts slowly gets at first, as a share of its own.
const WARM_MIN: f64 = 0.1;

/// How much heavier an endpoint counts while it wants to be left alone.
const BUSY_FACTOR: f64 = 16.0;

/// What a failing or shedding answer counts for at least, in seconds: whoever fails fastest must not look
/// fastest.
const FAILING: f64 = 1.0;

/// What names an endpoint in a session's token, and tells nothing of it: half of a SHA-256.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionDigest(pub [u8; 16]);

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
struct Known {
    /// What all endpoints of its port take together.
    mean: Rc<Mean>,
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
    /// Its proxy answered by itself: it works, and how fast its application is was not seen.
    Refused,
    /// It works, and wants less to do, for that long.
    Busy(Duration),
    /// It fails.
    Failed,
    /// It cannot be connected to.
    Unreachable,
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
    /// The endpoint's speed was learned from it.
    learned: bool,
    /// What it says was told.
    told: bool,
}

impl Drop for Trying {
    fn drop(&mut self) {
        if !self.told {
            self.give_up(Instant::now());
        }
    }
}

// === impl Replica ===

impl Replica {
    /// Of which nothing is known. `since`: since when it takes its share, where that grows.
    pub fn new(
        endpoint: &Arc<Endpoint>,
        server_name: &Arc<str>,
        connections: Option<Rc<Connections>>,
        mean: &Rc<Mean>,
        since: Option<Instant>,
        tls: &Tls,
    ) -> Self {
        let (dial, identity) = match &endpoint.wire {
            Wire::Plain => (Dial::Plain, None),
            Wire::Weft(identity) => {
                let connector = tls.connector(identity, &endpoint.uid);
                let dial = Dial::Mesh { connector, server_name: server_name.clone() };
                (dial, Some(Arc::new(identity.clone())))
            }
        };
        let known = Known {
            mean: mean.clone(),
            standing: Standing::default(),
            latency: Latency::default(),
            since: Cell::new(since),
            busy_until: Cell::new(None),
            ejected: RefCell::default(),
        };
        Self {
            endpoint: endpoint.clone(),
            identity,
            pool: Pool::new(endpoint.address, dial, Direction::Outbound, connections),
            known: Rc::new(known),
            ends: RefCell::default(),
            session: OnceCell::new(),
        }
    }

    /// Whether it is that endpoint: the same workload at the same address, reached the same way.
    pub fn is(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.uid == endpoint.uid
            && self.endpoint.address == endpoint.address
            && self.endpoint.wire == endpoint.wire
    }

    /// The same endpoint as it is told of now: with all that is known of it.
    pub fn renewed(self: Rc<Self>, endpoint: &Arc<Endpoint>) -> Rc<Self> {
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
        let trying = Trying {
            replica: self.clone(),
            probe,
            forced,
            started: now,
            dials: self.pool.dials(),
            learned: false,
            told: false,
        };
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

    /// Whether it is not ejected, though it may be draining.
    pub fn is_serving(&self, now: Instant) -> bool {
        self.known.standing.takes(now)
    }

    /// Whether it is to be picked.
    pub fn is_available(&self, now: Instant) -> bool {
        self.is_serving(now) && !self.pool.is_leaving(now)
    }

    /// Whether it was found failing, and has not been proved since.
    pub fn is_ejected(&self) -> bool {
        self.known.standing.state() != Health::Available
    }

    /// Whether it takes a turn of which it has that share. One that starts slowly lets more of them pass.
    pub fn takes_turn(&self, share: f64, warming: f64, random: &mut Random, now: Instant) -> bool {
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

    /// How long it takes to answer, as far as that is known; `mean` where it is not.
    pub fn latency(&self, mean: f64, now: Instant) -> f64 {
        self.known.latency.estimate(mean, now)
    }

    /// What it has to do.
    pub fn busyness(&self, now: Instant) -> f64 {
        let load = (self.pool.in_flight() + 1) as f64;
        match self.known.busy_until.get() {
            Some(until) if now < until => load * BUSY_FACTOR,
            _ => load,
        }
    }

    /// What names it in a session's token: of its workload and what is called. No address, since there are
    /// few enough of those to try them all.
    pub fn session_digest(&self, server_name: &str) -> SessionDigest {
        *self.session.get_or_init(|| {
            let mut context = Context::new(&SHA256);
            for part in ["weft session 1", server_name, self.endpoint.uid.as_str()] {
                context.update(part.as_bytes());
                context.update(&[0]);
            }
            let mut digest = SessionDigest::default();
            digest.0.copy_from_slice(&context.finish().as_ref()[..size_of::<SessionDigest>()]);
            digest
        })
    }

    /// It failed: what it is to be ejected for, if that is enough.
    pub fn failed(&self, settings: &Ejection, probe: bool, unreachable: bool, now: Instant) -> Option<Cause> {
        self.known.standing.failed(settings, probe, unreachable, now)
    }

    /// Ejects it; until when.
    pub fn eject(&self, settings: &Ejection, now: Instant) -> Instant {
        self.known.standing.eject(settings, now)
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

    /// An answer has begun, and how it ends will be told: takes note of the endpoint's speed.
    pub fn begun(&mut self, now: Instant) {
        self.learn(Outcome::Answered, now);
        self.learned = true;
    }

    /// It ends with this: takes note of what that says of the endpoint's speed.
    pub fn end(&mut self, outcome: Outcome, now: Instant) {
        self.told = true;
        self.learn(outcome, now);
    }

    /// Nothing more will be heard of it.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.told = true;
        let known = &self.replica.known;
        if self.probe {
            known.standing.abandon(now);
        }
        // Whoever gave up waited that long at least. Else an endpoint that hangs would be asked for ever by
        // callers who are less patient than the mesh.
        let (age, mean) = (now.saturating_duration_since(self.started).as_secs_f64(), known.mean.seconds());
        if !self.learned && age > known.latency.estimate(mean, now) {
            known.latency.observe(age, self.started, mean, now);
        }
    }

    fn learn(&self, outcome: Outcome, now: Instant) {
        let mean = &self.replica.known.mean;
        let known = &self.replica.known;
        // A connection that had to be made first is not the endpoint's slowness.
        let reused = self.replica.pool.dials() == self.dials;
        let elapsed = now.saturating_duration_since(self.started).as_secs_f64();
        // What came after the head is no latency.
        let elapsed = if self.learned { 0.0 } else { elapsed };
        match outcome {
            Outcome::Answered if self.learned || !reused => {}
            Outcome::Answered => {
                known.latency.observe(elapsed, self.started, mean.seconds(), now);
                mean.observe(elapsed, now);
            }
            Outcome::Busy(_) | Outcome::Failed => {
                known.latency.observe(elapsed.max(FAILING), self.started, mean.seconds(), now);
            }
            Outcome::Refused | Outcome::Unreachable => {}
        }
        if let Outcome::Busy(asked) = outcome {
            known.busy_until.set(Some(now + asked));
        }
    }

    /// The endpoint works: whether that brings it back.
    pub fn proves(&self, settings: &Ejection, now: Instant) -> bool {
        let known = &self.replica.known;
        let returned = if self.forced {
            known.standing.proved(settings, now)
        } else {
            known.standing.succeeded(settings, self.probe, now)
        };
        if returned {
            known.ejected.take();
            known.since.set(Some(now));
        }
        returned
    }
}
