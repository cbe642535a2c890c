//! How many requests at once an application bears, found by watching how long it takes.
//!
//! A server that is not full answers as fast with one request more. So the time that requests take now is compared with
//! what they take in the long run: where it is longer the limit shrinks by that ratio, else it grows by a
//! little room for a queue (Netflix' gradient limit, which Envoy's adaptive concurrency follows, too). Nothing
//! is changed while the limit is not what holds requests back.

use std::time::Duration;

/// Samples that one step needs: fewer say nothing.
const SAMPLES_MIN: u32 = 10;

/// How long samples are gathered for one step.
pub const STEP: Duration = Duration::from_millis(100);

/// How much longer than in the long run counts as no longer: times vary without a queue.
const TOLERANCE: f64 = 1.5;

/// A step's share in the long run while the server is not full: sixty steps are six seconds.
const QUIET_SHARE: f64 = 1.0 / 60.0;

/// The same while it is: what is slow because of a queue must not become what is usual. A server that has
/// become slower for good is believed within minutes.
const BUSY_SHARE: f64 = 1.0 / 6000.0;

/// A step's share in the limit.
const SMOOTHING: f64 = 0.2;

/// The limit, and what it rests on.
#[derive(Debug)]
pub struct Gradient {
    min: f64,
    max: f64,
    limit: f64,
    /// What requests take in the long run, in seconds.
    long: Option<f64>,
    sum: f64,
    count: u32,
    peak: u32,
}

impl Gradient {
    /// Between these two, which may be equal.
    pub fn new(min: u32, max: u32) -> Self {
        let (min, max) = (f64::from(min.max(1)), f64::from(max.max(min).max(1)));
        // From the middle of what is allowed, on a scale on which doublings are steps.
        let limit = (min * max).sqrt();
        Self { min, max, limit, long: None, sum: 0.0, count: 0, peak: 0 }
    }

    /// The same with other bounds: what was learned of the server still holds.
    pub fn bound(&mut self, min: u32, max: u32) {
        let Self { min, max, .. } = Self::new(min, max);
        (self.min, self.max, self.limit) = (min, max, self.limit.clamp(min, max));
    }

    /// The limit.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// A request took so long, beside so many.
    pub fn sample(&mut self, took: Duration, in_flight: u32) {
        self.sum += took.as_secs_f64();
        self.count += 1;
        self.peak = self.peak.max(in_flight);
    }

    /// Ends a step; whether the limit may have changed.
    pub fn step(&mut self) -> bool {
        if self.count < SAMPLES_MIN {
            return false;
        }
        let short = self.sum / f64::from(self.count);
        let peak = std::mem::take(&mut self.peak);
        (self.sum, self.count) = (0.0, 0);
        let busy = f64::from(peak) * 2.0 >= self.limit;
        let long = match self.long {
            None => short,
            // Faster than ever is at once what it can do: a long run that began in overload heals.
            Some(long) if short < long => long + (short - long) * 0.1,
            Some(long) => long + (short - long) * if busy { BUSY_SHARE } else { QUIET_SHARE },
        };
        self.long = Some(long);
        if !busy {
            return false;
        }
        let gradient = (TOLERANCE * long / short.max(f64::MIN_POSITIVE)).clamp(0.5, 1.0);
        let wanted = self.limit * gradient + self.limit.sqrt();
        self.limit = (self.limit + (wanted - self.limit) * SMOOTHING).clamp(self.min, self.max);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that serves `capacity` at once in 10 ms each; more than that waits in it.
    fn run(gradient: &mut Gradient, capacity: u32, steps: usize) {
        for _ in 0..steps {
            let in_flight = gradient.limit();
            let took =
                Duration::from_millis(10).mul_f64(f64::from(in_flight.max(capacity)) / f64::from(capacity));
            for _ in 0..20 {
                gradient.sample(took, in_flight);
            }
            gradient.step();
        }
    }

    #[test]
    fn it_finds_what_the_server_bears_and_follows_it() {
        let mut gradient = Gradient::new(1, 1000);
        run(&mut gradient, 100, 300);
        let found = gradient.limit();
        assert!((90..=220).contains(&found), "{found}");
        // The server is a fifth of what it was.
        run(&mut gradient, 20, 300);
        let found = gradient.limit();
        assert!((15..=60).contains(&found), "{found}");
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let mut gradient = Gradient::new(5, 50);
        run(&mut gradient, 1000, 300);
        assert_eq!(gradient.limit(), 50);
        run(&mut gradient, 1, 300);
        assert_eq!(gradient.limit(), 5);
    }

    #[test]
    fn other_bounds_forget_nothing_that_was_learned() {
        let mut gradient = Gradient::new(1, 1000);
        run(&mut gradient, 100, 300);
        let (learned, long) = (gradient.limit(), gradient.long);
        gradient.bound(1, 2000);
        assert_eq!((gradient.limit(), gradient.long), (learned, long));
        gradient.bound(1, 20);
        assert_eq!((gradient.limit(), gradient.long), (20, long));
        gradient.bound(200, 300);
        assert_eq!(gradient.limit(), 200);
    }

    #[test]
    fn a_quiet_server_does_not_change_the_limit() {
        let mut gradient = Gradient::new(1, 1000);
        let before = gradient.limit();
        for _ in 0..100 {
            (0..20).for_each(|_| gradient.sample(Duration::from_millis(500), 1));
            assert!(!gradient.step());
        }
        assert_eq!(gradient.limit(), before);
        gradient.sample(Duration::from_secs(1), 500);
        assert!(!gradient.step(), "one sample is no step");
    }
}
