//! Exponential backoff with jitter: how long to wait before the next attempt at something that failed
//! (the control API, the certificate authority, a connection to an endpoint).
//! Sans-I/O: it answers with a duration and never sleeps. It never gives up either; who has a deadline
//! compares it with the answer.

use std::time::Duration;

use crate::random::Random;

/// The waits after failures, growing until success is reported with [`Backoff::reset`].
///
/// With `initial` and `most`, the wait after failure number `n` (from 0) is drawn uniformly from
/// `ceiling / 2 ..= ceiling`, where `ceiling = min(most, initial * 2^n)`. The lower half is left out so
/// that a run of lucky draws cannot turn into a busy loop; the upper bound is exact, so that
/// "reconnects within `most`" is a promise.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    most: Duration,
    failures: u32,
    random: Random,
}

// === impl Backoff ===

impl Backoff {
    /// Waits from `initial` up to `most`. An `initial` of zero is taken as a millisecond, since zero
    /// doubled stays zero; a `most` below `initial` is taken as `initial`.
    #[must_use]
    pub fn new(initial: Duration, most: Duration) -> Self {
        Self::with_random(initial, most, Random::new())
    }

    /// The same with a given generator, for tests.
    #[must_use]
    pub fn with_random(initial: Duration, most: Duration, random: Random) -> Self {
        let initial = initial.max(Duration::from_millis(1));
        Self { initial, most: most.max(initial), failures: 0, random }
    }

    /// Counts one failure and says how long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        self.random.between(ceiling / 2, ceiling)
    }

    /// Success: the next failure waits as the first one did.
    ///
    /// Call it when the thing has proven to work, not when a connection merely opened: a server that
    /// accepts and hangs up would otherwise be called at the initial rate for ever.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many failures since the last success.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    fn ceiling(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.initial.saturating_mul(factor).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(5);

    #[test]
    fn every_delay_is_between_half_the_ceiling_and_the_ceiling() {
        for seed in 0..200 {
            let mut backoff = Backoff::with_random(INITIAL, MOST, Random::seeded(seed));
            for failure in 0..80_u32 {
                let ceiling = INITIAL.saturating_mul(1 << failure.min(20)).min(MOST);
                let delay = backoff.next_delay();
                assert!(delay >= ceiling / 2, "{delay:?} after failure {failure}");
                assert!(delay <= ceiling, "{delay:?} after failure {failure}");
            }
            assert_eq!(backoff.failures(), 80);
        }
    }

    #[test]
    fn a_reset_starts_again_from_the_initial_delay() {
        let mut backoff = Backoff::new(INITIAL, MOST);
        for _ in 0..40 {
            backoff.next_delay();
        }
        assert!(backoff.next_delay() >= MOST / 2);
        backoff.reset();
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.next_delay() <= INITIAL);
    }

    #[test]
    fn two_clients_that_fail_together_do_not_return_together() {
        let mut one = Backoff::with_random(INITIAL, MOST, Random::seeded(1));
        let mut other = Backoff::with_random(INITIAL, MOST, Random::seeded(2));
        assert_ne!(one.next_delay(), other.next_delay());
    }

    #[test]
    fn senseless_bounds_still_wait() {
        let mut zero = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert!(zero.next_delay() > Duration::ZERO);
        let mut inverted = Backoff::new(MOST, INITIAL);
        assert!(inverted.next_delay() >= MOST / 2);
        let mut endless = Backoff::new(Duration::MAX, Duration::MAX);
        assert!(endless.next_delay() >= Duration::MAX / 4);
    }
}
