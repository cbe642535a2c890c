//! Whether an endpoint is used: Available → Ejected → Probing → Available. Sans-I/O: outcomes and the time
//! come in, changes go out. How many may be ejected is the [balancer](super::balancer)'s to know.
//!
//! An ejection ends in a probe: one request is let through, all others still go elsewhere. If it is
//! answered the endpoint is Available, else it is ejected again, twice as long.

use std::cell::Cell;
use std::time::{Duration, Instant};
use weft_model::traffic::Ejection;

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// No connection could be made: at once, and whatever the others are like.
    Connect,
    /// It failed several times in a row.
    Consecutive,
    /// Too few of its answers were good.
    SuccessRate,
    /// The probe failed.
    Probe,
}

impl Cause {
    /// The word in labels and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Consecutive => "consecutive",
            Self::SuccessRate => "success_rate",
            Self::Probe => "probe",
        }
    }
}

/// What an endpoint is good for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It takes requests.
    Available,
    /// It takes none until then, and a probe afterwards.
    Ejected(Instant),
    /// A probe is under way.
    Probing,
}

/// Successes and failures of one half of the window.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    good: u32,
    bad: u32,
}

/// What is known of an endpoint's health.
#[derive(Debug)]
pub struct Standing {
    state: Cell<State>,
    /// Failures since the last success.
    consecutive: Cell<u32>,
    /// Ejections that followed each other.
    ejections: Cell<u32>,
    /// The last ejection's length, and when it was over.
    last: Cell<(Duration, Option<Instant>)>,
    /// The half of the window that is filled now, since then, and the one before.
    tallies: Cell<(Option<Instant>, Tally, Tally)>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            state: Cell::new(State::Available),
            consecutive: Cell::new(0),
            ejections: Cell::new(0),
            last: Cell::new((Duration::ZERO, None)),
            tallies: Cell::new((None, Tally::default(), Tally::default())),
        }
    }
}

impl Standing {
    /// Its state.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// Whether a request may be sent to it, be it as its probe.
    pub fn takes(&self, now: Instant) -> bool {
        match self.state.get() {
            State::Available => true,
            State::Ejected(until) => until <= now,
            State::Probing => false,
        }
    }

    /// A request is sent to it; whether that is its probe.
    pub fn begin(&self, now: Instant) -> bool {
        let due = matches!(self.state.get(), State::Ejected(until) if until <= now);
        if due {
            self.state.set(State::Probing);
        }
        due
    }

    /// A probe ended without saying anything: the next request is one.
    pub fn abandon(&self, now: Instant) {
        if self.state.get() == State::Probing {
            self.state.set(State::Ejected(now));
        }
    }

    /// It answered as it should; whether that ends its ejection, which only its `probe` can. Answers to
    /// requests of before an ejection say nothing about it.
    pub fn succeeded(&self, settings: &Ejection, probe: bool, now: Instant) -> bool {
        if self.state.get() == State::Available {
            self.consecutive.set(0);
            self.tally(settings.window, now, |tally| tally.good = tally.good.saturating_add(1));
            return false;
        }
        if self.state.get() != State::Probing || !probe {
            return false;
        }
        self.state.set(State::Available);
        self.last.set((self.last.get().0, Some(now)));
        self.tallies.set((None, Tally::default(), Tally::default()));
        true
    }

    /// The same of a request that was sent to it although it was ejected, because all are: its answer counts
    /// as a probe's.
    pub fn proved(&self, settings: &Ejection, now: Instant) -> bool {
        if matches!(self.state.get(), State::Ejected(_)) {
            self.state.set(State::Probing);
        }
        self.succeeded(settings, true, now)
    }

    /// It failed; why it should be ejected, if it should. `probe`: this was its probe, or sent because all
    /// are ejected.
    pub fn failed(&self, settings: &Ejection, probe: bool, connect: bool, now: Instant) -> Option<Cause> {
        match self.state.get() {
            State::Probing if probe => return Some(Cause::Probe),
            // Those that failed together are one failure, however late they are heard of.
            State::Probing | State::Ejected(_) => return None,
            State::Available => {}
        }
        self.consecutive.set(self.consecutive.get().saturating_add(1));
        let all = self.tally(settings.window, now, |tally| tally.bad = tally.bad.saturating_add(1));
        if connect {
            return Some(Cause::Connect);
        }
        if self.consecutive.get() >= settings.consecutive {
            return Some(Cause::Consecutive);
        }
        let total = u64::from(all.good) + u64::from(all.bad);
        let few = total < u64::from(settings.requests_min);
        let poor = u64::from(all.good) * 100 < u64::from(settings.success_rate_min) * total;
        (!few && poor).then_some(Cause::SuccessRate)
    }

    /// Ejects it; until when. Longer each time, unless it stood well for a while since.
    pub fn eject(&self, settings: &Ejection, now: Instant) -> Instant {
        let (length, returned) = self.last.get();
        let stood = returned.is_some_and(|since| now.saturating_duration_since(since) > length * 2);
        let before = if stood { 0 } else { self.ejections.get() };
        let length = settings
            .base_time
            .saturating_mul(1_u32 << before.min(16))
            .min(settings.max_time)
            .max(settings.base_time);
        self.ejections.set(before.saturating_add(1));
        self.last.set((length, None));
        self.consecutive.set(0);
        let until = now + length;
        self.state.set(State::Ejected(until));
        until
    }

    /// Counts into the window; what is in it.
    fn tally(&self, window: Duration, now: Instant, count: impl FnOnce(&mut Tally)) -> Tally {
        let (since, mut current, mut before) = self.tallies.get();
        let mut begun = since.unwrap_or(now);
        let age = now.saturating_duration_since(begun);
        if age >= window {
            (current, before, begun) = (Tally::default(), Tally::default(), now);
        } else if age >= window / 2 {
            (before, current, begun) = (current, Tally::default(), now);
        }
        count(&mut current);
        self.tallies.set((Some(begun), current, before));
        Tally { good: current.good.saturating_add(before.good), bad: current.bad.saturating_add(before.bad) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Ejection {
        Ejection {
            base_time: Duration::from_secs(1),
            max_time: Duration::from_secs(6),
            ..Ejection::default()
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not_let_them_be_one() {
        let (standing, settings, now) = (Standing::default(), settings(), Instant::now());
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(standing.failed(&settings, false, false, now), None);
            }
            assert!(!standing.succeeded(&settings, false, now));
        }
        for _ in 0..4 {
            assert_eq!(standing.failed(&settings, false, false, now), None);
        }
        assert_eq!(standing.failed(&settings, false, false, now), Some(Cause::Consecutive));
    }

    #[test]
    fn a_poor_share_of_successes_ejects_once_there_are_enough_of_them_and_old_ones_do_not_count() {
        let (standing, settings, start) = (Standing::default(), settings(), Instant::now());
        let mut causes = Vec::new();
        // Two of three fail, never five in a row.
        for step in 0..20_u32 {
            if step % 3 == 0 {
                standing.succeeded(&settings, false, start);
            } else {
                causes.push(standing.failed(&settings, false, false, start));
            }
        }
        assert_eq!(causes.iter().flatten().collect::<Vec<_>>(), [&Cause::SuccessRate]);
        assert_eq!(causes.last(), Some(&Some(Cause::SuccessRate)), "the twentieth answer, not before");
        let later = start + settings.window;
        assert_eq!(standing.failed(&settings, false, false, later), None);
    }

    #[test]
    fn an_ejection_ends_in_one_probe_and_grows_while_probes_fail() {
        let (standing, settings, mut now) = (Standing::default(), settings(), Instant::now());
        assert_eq!(standing.failed(&settings, false, true, now), Some(Cause::Connect));
        for expected in [1, 2, 4, 6, 6] {
            let until = standing.eject(&settings, now);
            assert_eq!(until - now, Duration::from_secs(expected));
            assert_eq!(standing.failed(&settings, false, true, now), None, "it is one failure");
            assert!(!standing.succeeded(&settings, false, now), "an old answer does not bring it back");
            assert!(!standing.takes(until - Duration::from_millis(1)) && standing.takes(until));
            assert!(standing.begin(until));
            assert!(!standing.takes(until), "one probe at a time");
            now = until;
            assert_eq!(standing.failed(&settings, false, true, now), None, "it is still that one failure");
            assert!(!standing.succeeded(&settings, false, now), "an old answer is no answer to the probe");
            assert_eq!(standing.failed(&settings, true, false, now), Some(Cause::Probe));
        }
        let until = standing.eject(&settings, now);
        assert!(standing.begin(until));
        standing.abandon(until);
        assert!(standing.begin(until), "a probe that said nothing is followed by another");
        assert!(standing.succeeded(&settings, true, until));
        assert_eq!(standing.state(), State::Available);
        let well = until + Duration::from_secs(13);
        assert_eq!(standing.failed(&settings, false, true, well), Some(Cause::Connect));
        assert_eq!(standing.eject(&settings, well) - well, Duration::from_secs(1), "it stood well");
    }

    #[test]
    fn no_order_of_events_leaves_an_endpoint_that_can_never_be_used_again() {
        let settings = settings();
        let mut random = weft_runtime::random::Random::seeded(11);
        let standing = Standing::default();
        let mut now = Instant::now();
        for _ in 0..50_000 {
            match random.below(6) {
                0 => {
                    standing.begin(now);
                }
                1 => {
                    standing.succeeded(&settings, random.below(2) == 0, now);
                }
                2 => standing.abandon(now),
                3 | 4 => {
                    let (probe, connect) = (random.below(2) == 0, random.below(2) == 0);
                    if standing.failed(&settings, probe, connect, now).is_some() {
                        let until = standing.eject(&settings, now);
                        assert!(until - now <= settings.max_time);
                    }
                }
                _ => now += Duration::from_millis(random.below(900) as u64),
            }
        }
        standing.abandon(now);
        assert!(standing.takes(now + settings.max_time));
    }
}
