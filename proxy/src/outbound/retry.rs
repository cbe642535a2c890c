//! When a failed try is made again, and how many such tries a destination can bear.
//!
//! Safe is: nothing reached the application, or the method is idempotent (RFC 9110, section 9.2.2);
//! and the owner of a route may ask for more (GEP-1731). The body must still be whole. The budget is
//! GEP-3388's idea: retries are at most a share of the requests, with a floor so that a quiet client may
//! retry at all.

use crate::h1::{Delivered, SendError};
use crate::http::{Headers, Known, Method, Response};
use std::cell::Cell;
use std::time::{Duration, Instant};
use weft_model::reason::Reason;
use weft_model::route::RetryPolicy;
use weft_runtime::random::Random;

/// Tries of one request, the first included.
pub const TRIES_MAX: usize = 3;

/// How much longer than the least wait the longest can be: eight times doubled would outlive callers.
const BACKOFF_GROWTH_MAX: u32 = 10;

/// A server that wants to be left alone for longer than this gets no retry at all.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

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

/// Whether the owner wants a try that was answered so made again. What the endpoint's proxy (`mesh`)
/// says of its own connection to the application is a failed connection, whatever its status.
pub fn wants_answer(policy: &RetryPolicy, answer: &Response, mesh: bool, tries: usize) -> bool {
    let said = if mesh { answer.head.headers().get_str(Known::XWeftReason) } else { None };
    let failed = said.and_then(Reason::from_label).is_some_and(is_endpoints_fault);
    has_left(policy, tries) && (failed || policy.codes.contains(&answer.head.status.as_u16()))
}

/// Whether the owner wants a try that failed so made again: with a retry policy, all that is the
/// connection's or the endpoint's fault. What the request itself is at fault for would fail again.
pub fn wants_failure(policy: &RetryPolicy, error: &SendError, tries: usize) -> bool {
    has_left(policy, tries) && is_endpoints_fault(error.reason) && !error.aborted
}

fn is_endpoints_fault(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ApplicationUnreachable
            | Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::ConnectionReset
            | Reason::PeerIdentityMismatch
            | Reason::PeerRefused
            | Reason::RequestTimeout
    )
}

fn has_left(policy: &RetryPolicy, tries: usize) -> bool {
    usize::try_from(policy.attempts).is_ok_and(|attempts| tries <= attempts)
}

/// How long to wait before the next try: at least the owner's time, growing with the tries, and with
/// jitter, so that those who failed together do not come back together.
pub fn backoff(policy: &RetryPolicy, tries: usize, random: &mut Random) -> Duration {
    let doubled = u32::try_from(tries.saturating_sub(1)).ok().and_then(|shift| 1_u32.checked_shl(shift));
    let growth = doubled.unwrap_or(BACKOFF_GROWTH_MAX).clamp(1, BACKOFF_GROWTH_MAX);
    let span = policy.backoff.saturating_mul(growth);
    let microseconds = usize::try_from(span.as_micros()).unwrap_or(usize::MAX);
    policy.backoff + Duration::from_micros(random.below(microseconds.max(1)) as u64)
}

/// The same after an answer, whose `Retry-After` (RFC 9110, section 10.2.3, in seconds) counts where it
/// is longer. `None`: the server wants more time than a retry is worth.
pub fn wait(policy: &RetryPolicy, tries: usize, headers: &Headers, random: &mut Random) -> Option<Duration> {
    let own = backoff(policy, tries, random);
    let Some(asked) = headers.get_str(Known::RetryAfter) else { return Some(own) };
    // A date would need a clock that agrees with the server's; it counts as too long.
    let asked = asked.trim().parse().map(Duration::from_secs).ok()?;
    (asked <= RETRY_AFTER_MAX).then_some(own.max(asked))
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
    use crate::http::StatusCode;

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
    fn an_owner_gets_what_was_asked_for_and_no_more() {
        let policy = RetryPolicy { codes: vec![503], attempts: 2, backoff: Duration::from_millis(10) };
        let answer = |status: u16| Response::empty(StatusCode::from_u16(status).unwrap());
        let status = |status: u16, tries| wants_answer(&policy, &answer(status), true, tries);
        assert!(status(503, 1) && status(503, 2) && !status(503, 3));
        assert!(!status(500, 1));
        let broken = Response::local(Reason::ConnectionReset);
        assert!(wants_answer(&policy, &broken, true, 1));
        assert!(
            !wants_answer(&policy, &broken, false, 1),
            "an application's word about the mesh is not the mesh's"
        );
        let failed =
            |reason, aborted| SendError { reason, delivered: Delivered::Maybe, aborted, request: None };
        assert!(wants_failure(&policy, &failed(Reason::ConnectionReset, false), 2));
        assert!(!wants_failure(&policy, &failed(Reason::ConnectionReset, false), 3));
        assert!(!wants_failure(&policy, &failed(Reason::ConnectionReset, true), 1));
        assert!(!wants_failure(&policy, &failed(Reason::HeaderTooLarge, false), 1));
    }

    #[test]
    fn waits_grow_with_jitter_and_heed_the_server() {
        let mut random = Random::new();
        let policy = RetryPolicy { codes: vec![], attempts: 9, backoff: Duration::from_millis(10) };
        for tries in 1..40 {
            let wait = backoff(&policy, tries, &mut random);
            let growth = 1_u32 << (tries - 1).min(5);
            let most = policy.backoff * (1 + growth.min(BACKOFF_GROWTH_MAX));
            assert!((policy.backoff..=most).contains(&wait), "{tries}: {wait:?}");
        }
        let mut after = |text: &str| {
            let mut headers = Headers::new();
            headers.append("retry-after", text.as_bytes()).unwrap();
            wait(&policy, 1, &headers, &mut random)
        };
        assert_eq!(after("2"), Some(Duration::from_secs(2)));
        assert_eq!(after("11"), None);
        assert_eq!(after("Fri, 31 Dec 1999 23:59:59 GMT"), None);
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
