//! How long an endpoint takes to answer: an estimate that follows facts quickly and accidents hardly.
//! Sans-I/O: whoever observes says what time it is.
//!
//! One slow answer is an accident (a pause, a cold cache), several in a row are a fact: an answer counts
//! for a quarter, and for at most eight times what is expected, so that an endpoint that became fifty
//! times slower is known for it after four answers and one hiccup is forgotten after three. What is not
//! heard of any more drifts towards the mean of all, so that everyone gets another chance.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How fast what is not heard of drifts: two thirds of the way to the mean in this time. Within a deploy's
/// time scale, above a garbage collection's.
const DRIFT: Duration = Duration::from_secs(5);

/// What one answer counts for.
const SHARE: f64 = 0.25;

/// How much above the estimate an answer counts at most.
const LEAP_MAX: f64 = 8.0;

/// What one answer counts for in the mean of all endpoints.
const MEAN_SHARE: f64 = 1.0 / 64.0;

/// How fast the quiet latency is forgotten: 1 % in this time, so that a lasting change becomes the norm
/// within minutes.
const QUIET_RISE: Duration = Duration::from_secs(5);

/// An endpoint's estimate, in seconds.
#[derive(Debug, Default)]
pub struct Latency {
    seconds: Cell<f64>,
    at: Cell<Option<Instant>>,
    /// When it last rose.
    risen: Cell<Option<Instant>>,
}

impl Latency {
    /// An answer to a request of then took so long, or counts for that much.
    pub fn observe(&self, seconds: f64, began: Instant, mean: f64, now: Instant) {
        let held = self.estimate(mean, now);
        if held > 0.0 && seconds > held {
            // Those that were under way together are one accident.
            if self.risen.get().is_some_and(|risen| began < risen) {
                return;
            }
            self.risen.set(Some(now));
        }
        let most = if held > 0.0 { held * LEAP_MAX } else { seconds };
        self.seconds.set(if held > 0.0 { held + (seconds.min(most) - held) * SHARE } else { seconds });
        self.at.set(Some(now));
    }

    /// What is to be expected; the mean where nothing is known.
    pub fn estimate(&self, mean: f64, now: Instant) -> f64 {
        let Some(at) = self.at.get() else { return mean };
        let age = now.saturating_duration_since(at);
        let held = self.seconds.get();
        if age < DRIFT / 512 {
            return held;
        }
        mean + (held - mean) * (-age.as_secs_f64() / DRIFT.as_secs_f64()).exp()
    }
}

/// What all endpoints of a port take together, in seconds.
#[derive(Debug)]
pub struct Mean {
    seconds: Cell<f64>,
    quiet: Cell<f64>,
    at: Cell<Instant>,
}

impl Mean {
    /// Nothing is known.
    pub fn new(now: Instant) -> Self {
        Self { seconds: Cell::new(0.0), quiet: Cell::new(f64::INFINITY), at: Cell::new(now) }
    }

    /// An answer took so long.
    pub fn observe(&self, seconds: f64, now: Instant) {
        let held = self.seconds.get();
        let new = if held > 0.0 { held + (seconds - held) * MEAN_SHARE } else { seconds };
        self.seconds.set(new);
        let elapsed = now.saturating_duration_since(self.at.get()).as_secs_f64();
        self.at.set(now);
        let risen = self.quiet.get() * (1.0 + 0.01 * elapsed / QUIET_RISE.as_secs_f64());
        self.quiet.set(risen.min(new));
    }

    /// The mean.
    pub fn seconds(&self) -> f64 {
        self.seconds.get()
    }

    /// The mean while there was little to do.
    pub fn quiet(&self) -> f64 {
        self.quiet.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: f64 = 0.001;

    #[test]
    fn one_hiccup_is_forgotten_and_several_slow_answers_are_not() {
        let now = Instant::now();
        let latency = Latency::default();
        for _ in 0..20 {
            latency.observe(MILLISECOND, now, MILLISECOND, now);
        }
        latency.observe(0.5, now, MILLISECOND, now);
        assert!(latency.estimate(MILLISECOND, now) < 3.0 * MILLISECOND);
        for _ in 0..3 {
            latency.observe(MILLISECOND, now, MILLISECOND, now);
        }
        assert!(latency.estimate(MILLISECOND, now) < 2.0 * MILLISECOND);
        for _ in 0..4 {
            latency.observe(0.5, now, MILLISECOND, now);
        }
        assert!(latency.estimate(MILLISECOND, now) > 20.0 * MILLISECOND);
    }

    #[test]
    fn a_pause_that_many_requests_meet_is_one_accident() {
        let began = Instant::now();
        let latency = Latency::default();
        for _ in 0..20 {
            latency.observe(MILLISECOND, began, MILLISECOND, began);
        }
        let now = began + Duration::from_millis(500);
        for _ in 0..30 {
            latency.observe(0.5, began, MILLISECOND, now);
        }
        assert!(latency.estimate(MILLISECOND, now) < 3.0 * MILLISECOND);
    }

    #[test]
    fn what_is_not_heard_of_drifts_towards_the_mean() {
        let now = Instant::now();
        let latency = Latency::default();
        assert_eq!(latency.estimate(MILLISECOND, now), MILLISECOND);
        latency.observe(0.1, now, 0.1, now);
        let later = |seconds| latency.estimate(MILLISECOND, now + Duration::from_secs(seconds));
        assert!(later(1) > 0.08 && later(5) < 0.04 && later(30) < 1.3 * MILLISECOND);
    }

    #[test]
    fn the_quiet_mean_falls_at_once_and_rises_slowly() {
        let start = Instant::now();
        let mean = Mean::new(start);
        mean.observe(MILLISECOND, start);
        for second in 1..=30 {
            for _ in 0..100 {
                mean.observe(10.0 * MILLISECOND, start + Duration::from_secs(second));
            }
        }
        assert!(mean.seconds() > 9.0 * MILLISECOND);
        assert!(mean.quiet() < 1.2 * MILLISECOND);
    }
}
