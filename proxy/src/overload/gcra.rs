//! A rate, counted without a queue and without a timer: the generic cell rate algorithm.
//!
//! All that is kept is one moment: when the budget would be whole again. A request moves it on by its share of
//! the interval; one that would move it further than the burst reaches is refused, and told when to come again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So many requests per interval, so many of them at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Nanoseconds that one request stands for; at least 1.
    cost: u64,
    /// How far ahead of now the moment may be before a request.
    room: u64,
}

/// One count by a rate.
#[derive(Debug, Default)]
pub struct Gcra(AtomicU64);

// === impl Rate ===

impl Rate {
    /// `requests` per `interval`, `burst` of them at once. None of them may be 0.
    pub fn new(requests: u32, interval: Duration, burst: u32) -> Self {
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let cost = (interval / u64::from(requests.max(1))).max(1);
        Self { cost, room: cost.saturating_mul(u64::from(burst.max(1) - 1)) }
    }
}

// === impl Gcra ===

impl Gcra {
    /// Takes one request at `now`, in nanoseconds since any start; or says after how long there will be one.
    pub fn take(&self, rate: &Rate, now: u64) -> Result<(), Duration> {
        let mut whole = self.0.load(Ordering::Relaxed);
        loop {
            let ahead = whole.saturating_sub(now);
            if ahead > rate.room {
                return Err(Duration::from_nanos(ahead - rate.room));
            }
            let next = whole.max(now).saturating_add(rate.cost);
            match self.0.compare_exchange_weak(whole, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => whole = other,
            }
        }
    }

    /// Gives one back that was taken and then not used.
    pub fn give_back(&self, rate: &Rate) {
        // What passed meanwhile was not taken from anybody.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |whole| {
            Some(whole.saturating_sub(rate.cost))
        });
    }

    /// Whether nothing is owed: forgetting it changes nothing.
    pub fn is_whole(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate::new(10, Duration::from_secs(1), 5);
        let count = Gcra::default();
        let start = 7 * SECOND;
        assert_eq!((0..20).filter(|_| count.take(&rate, start).is_ok()).count(), 5);
        // Then one each tenth of a second, however often it is tried.
        let passed = (0..100).filter(|step| count.take(&rate, start + step * SECOND / 100).is_ok()).count();
        assert_eq!(passed, 9);
        assert!(count.is_whole(start + 2 * SECOND));
        assert_eq!((0..20).filter(|_| count.take(&rate, start + 60 * SECOND).is_ok()).count(), 5);
    }

    #[test]
    fn who_is_refused_is_told_when_to_come_again() {
        let rate = Rate::new(1, Duration::from_secs(10), 1);
        let count = Gcra::default();
        assert_eq!(count.take(&rate, SECOND), Ok(()));
        assert_eq!(count.take(&rate, 4 * SECOND), Err(Duration::from_secs(7)));
        assert_eq!(count.take(&rate, 11 * SECOND), Ok(()));
    }

    #[test]
    fn what_was_given_back_can_be_taken() {
        let rate = Rate::new(1, Duration::from_secs(10), 1);
        let count = Gcra::default();
        assert!(count.take(&rate, SECOND).is_ok() && count.take(&rate, SECOND).is_err());
        count.give_back(&rate);
        assert!(count.take(&rate, SECOND).is_ok());
    }

    #[test]
    fn workers_together_take_no_more_than_one() {
        let rate = Rate::new(100, Duration::from_secs(1), 100);
        let count = Gcra::default();
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| count.take(&rate, SECOND).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 100);
    }
}
