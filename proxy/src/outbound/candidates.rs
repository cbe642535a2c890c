//! The endpoints of a port, arranged so that a pick is cheap: by weight, by zone, by hash. Owned by its
//! [`balancer`](super::balancer), which arranges them anew whenever the set or the policy changes.
//!
//! A group is the own zone or the others; without a preference all are "others". The own zone goes first
//! while it is healthy and not overloaded, which is measured, not guessed.

use super::draw::Draw;
use super::maglev::Maglev;
use super::peak_ewma::Mean;
use super::replica::Replica;
use crate::policy::EndpointSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use weft_model::traffic::{Algorithm, Traffic, ZonePreference};
use weft_runtime::random::Random;

/// A latency below this many times another's is the same: the rest is noise.
const SAME: f64 = 2.0;

/// The own zone is overloaded where its latency is so many times what it is when there is little to do …
const CROWDED: f64 = 3.0;

/// … and by so much longer, in seconds: below that nobody notices.
const CROWDED_SECONDS: f64 = 0.005;

/// How much more than its share of the load the own zone's healthy part may bear before some goes to
/// others: Envoy's overprovisioning factor.
const OVERPROVISION: f64 = 1.4;

/// The endpoints of a port, arranged for picks by its policy.
#[derive(Default)]
pub struct Candidates {
    /// What the mesh says there is.
    pub set: Arc<EndpointSet>,
    /// What it says of traffic to them.
    pub traffic: Arc<Traffic>,
    /// This proxy's own zone.
    pub zone: Box<str>,
    /// Those of the own zone first, if they go first.
    pub replicas: Vec<Rc<Replica>>,
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

// === impl Candidates ===

impl Candidates {
    /// None so far. `turn`: at which one turns begin.
    pub fn new(turn: usize) -> Self {
        Self { turn, ..Self::default() }
    }

    /// Prepares all that picks need of a new set or policy.
    pub fn arrange(&mut self) {
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
            let name =
                |replica: &Rc<Replica>| format!("{}@{}", replica.endpoint.uid, replica.endpoint.address);
            let names: Vec<_> =
                self.replicas.iter().map(|replica| (name(replica), weight(replica))).collect();
            self.table = Maglev::new(names.iter().map(|(name, weight)| (name.as_str(), *weight)));
        }
        self.weigh();
    }

    /// Whether one more may be ejected for what it answers: never the last, and at most the share.
    pub fn may_eject(&self) -> bool {
        let all = self.replicas.len();
        let ejected = self.replicas.iter().filter(|replica| replica.is_ejected()).count();
        let percent = self.traffic.ejection.max_percent as usize;
        // Of two, one: a share that rounds to none would be no ejection at all.
        let most = if percent == 0 { 0 } else { (all.saturating_mul(percent) / 100).max(1) };
        ejected < most && ejected + 1 < all
    }

    /// How much the own zone can bear.
    pub fn weigh(&mut self) {
        let near = &self.replicas[..self.near];
        let sum = |replicas: &mut dyn Iterator<Item = &Rc<Replica>>| {
            replicas.map(|replica| u64::from(replica.endpoint.weight)).sum::<u64>() as f64
        };
        let healthy = sum(&mut near.iter().filter(|replica| !replica.is_ejected()));
        self.near_share = OVERPROVISION * healthy / sum(&mut near.iter()).max(1.0);
    }

    /// Picks one that is not in `tried`. `key`: what consistent hashing goes by. `None`: there is none.
    pub fn pick(
        &mut self,
        mean: &Mean,
        tried: &[Rc<Replica>],
        key: Option<u64>,
        random: &mut Random,
        now: Instant,
    ) -> Option<Rc<Replica>> {
        let untried = |replica: &Rc<Replica>| !tried.iter().any(|held| Rc::ptr_eq(held, replica));
        match self.replicas.as_slice() {
            [] => return None,
            [only] => return untried(only).then(|| only.clone()),
            _ => {}
        }
        let fit = |replica: &Rc<Replica>| replica.is_available(now) && untried(replica);
        if let (Some(key), Some(table)) = (key, &self.table)
            && let Some(index) = table.find(key, |index| fit(&self.replicas[index]))
        {
            return Some(self.replicas[index].clone());
        }
        let chosen = if self.near > 0 {
            self.pick_by_zone(mean, fit, random, now)
        } else {
            self.choose(mean, false, fit, random, now)
        };
        // One that drains still serves, which is more than is known of one that is ejected.
        let serving = |replica: &Rc<Replica>| replica.is_serving(now) && untried(replica);
        chosen
            .or_else(|| self.lightest(mean, fit, now))
            .or_else(|| self.lightest(mean, serving, now))
            .or_else(|| self.lightest(mean, untried, now))
    }

    /// One of the own zone, while that is healthy and not overloaded.
    fn pick_by_zone(
        &mut self,
        mean: &Mean,
        fit: impl Fn(&Rc<Replica>) -> bool + Copy,
        random: &mut Random,
        now: Instant,
    ) -> Option<Rc<Replica>> {
        let spills = self.near_share < 1.0 && random.fraction() >= self.near_share;
        let near = if spills { None } else { self.choose(mean, true, fit, random, now) };
        let Some(near) = near else {
            let far = self.choose(mean, false, fit, random, now);
            return far.or_else(|| self.choose(mean, true, fit, random, now));
        };
        let quiet = mean.quiet();
        let expected = near.latency(mean.seconds(), now);
        if expected < quiet * CROWDED || expected - quiet < CROWDED_SECONDS {
            return Some(near);
        }
        // Measured, not guessed: it goes elsewhere only where it is served sooner.
        let far = self.choose(mean, false, fit, random, now).filter(|far| {
            let load = |replica: &Replica| replica.latency(mean.seconds(), now) * replica.busyness(now);
            load(far) * SAME < load(&near)
        });
        far.or(Some(near))
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
    pub fn lightest(
        &self,
        mean: &Mean,
        fit: impl Fn(&Rc<Replica>) -> bool,
        now: Instant,
    ) -> Option<Rc<Replica>> {
        let fitting = self.replicas.iter().filter(|replica| fit(replica));
        fitting
            .reduce(|first, second| lighter(first, second, slowness(first, second, mean.seconds(), now), now))
            .cloned()
    }
}

/// How much slower the first is than the second; 1 where the difference is noise.
fn slowness(first: &Replica, second: &Replica, mean: f64, now: Instant) -> f64 {
    let (one, other) = (first.latency(mean, now), second.latency(mean, now));
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
