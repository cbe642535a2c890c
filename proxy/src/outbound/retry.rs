//! When a failed try is made again, and how many such tries a destination can bear.
//!
//! Safe is: nothing reached the application, or the method is idempotent (RFC 9110, section 9.2.2)
//! and the body is still whole. The budget is GEP-3388's idea: retries are at most a share of the
//! requests, with a floor so that a quiet client may retry at all.

use crate::h1::Delivered;
use crate::http::Method;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Tries of one request, the first included.
pub const TRIES_MAX: usize = 3;

/// Thousandths of a retry: whole numbers, so that sums are exact.
const RETRY: u64 = 1000;

/// What a request adds to the budget: a fifth of a retry.
const SHARE: u64 = RETRY / 5;

/// What a millisecond adds, whatever the load: three retries per second.
const FLOOR_PER_MILLISECOND: u64 = 3 * RETRY / 1000;

/// How much is kept unspent: ten seconds of the floor.
const BALANCE_MAX: u64 = 30 * RETRY;

/// Whether a try that failed so may be made again.
pub fn is_safe(method: &Method, delivered: Delivered) -> bool {
    delivered == Delivered::No || method.is_idempotent()
}

/// The budget of one destination's port on one worker.
#[derive(Debug)]
pub struct RetryBudget {
    balance: Cell<u64>,
    counted: Cell<Instant>,
}

impl RetryBudget {
    /// A full budget.
    pub fn new(now: Instant) -> Self {
        Self { balance: Cell::new(BALANCE_MAX), counted: Cell::new(now) }
    }

    /// A request was made.
    pub fn deposit(&self) {
        self.balance.set((self.balance.get() + SHARE).min(BALANCE_MAX));
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.counted.get());
        let whole = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        // Only whole milliseconds are counted; the rest counts next time.
        self.counted.set(self.counted.get() + Duration::from_millis(whole));
        let grown = whole.saturating_mul(FLOOR_PER_MILLISECOND).saturating_add(self.balance.get());
        let balance = grown.min(BALANCE_MAX);
        let enough = balance >= RETRY;
        self.balance.set(if enough { balance - RETRY } else { balance });
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_executed_is_retried_only_if_idempotent() {
        assert!(is_safe(&Method::POST, Delivered::No));
        assert!(!is_safe(&Method::POST, Delivered::Maybe));
        assert!(!is_safe(&Method::PATCH, Delivered::Maybe));
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert!(is_safe(&method, Delivered::Maybe), "{method}");
        }
    }

    #[test]
    fn retries_are_a_share_of_requests_with_a_floor() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let drained = (0..100).filter(|_| budget.withdraw(start)).count();
        assert_eq!(drained, 30);
        for _ in 0..50 {
            budget.deposit();
        }
        assert_eq!((0..100).filter(|_| budget.withdraw(start)).count(), 10);
        let later = start + Duration::from_secs(2);
        assert_eq!((0..100).filter(|_| budget.withdraw(later)).count(), 6);
    }
}
