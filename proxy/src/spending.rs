//! Whether this pod, or its callers together, have spent retries on what now fails, so that nobody further
//! up spends them again (decision 0039).
//!
//! The outbound side notes what it retried in vain or was refused a retry for, and each answer whose sender did so, under
//! the request's trace; the inbound side marks the failing answer of a request with the same trace as
//! `retry: spent`. Where the application passes no trace on, every failing answer is marked for
//! a moment. And where what arrives is retries to more than the share that a budget allows, failing answers are
//! marked, too: each caller has a budget, and they add up here.
//!
//! Everything is in atomics and bounded, and there only once a request with a trace has come. A trace that is pushed out of its slot is handled as one
//! that was not passed on: callers then retry less, not more.

use crate::http::{Headers, Known};
use crate::outbound::budget::{Allowance, RetryBudget};
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long failing answers are marked after a retry whose cause is not known. An application passes a failure on
/// within this; a caller that is told wrongly does without a retry for that long.
const SPENDING_WINDOW: Duration = Duration::from_secs(2);

/// How long a trace stays marked: longer than its request has callers who wait.
const TRACE_MARK_AGE_MAX: Duration = Duration::from_secs(60);

/// Requests under way whose trace is known; 64 KiB.
const CAME_SLOTS: usize = 8192;

/// Traces that retries were spent on, in sets that each hold a few; 64 KiB.
const SPENT_SETS: usize = 2048;

/// Traces of one set. With a thousand spent in two seconds one in a thousand is pushed out.
const WAYS: usize = 4;

/// Bits of a slot's time, in milliseconds; the rest tell traces apart.
const TIME_BITS: u32 = 24;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// The value of the mark.
pub const SPENT: &[u8] = b"spent";

/// The trace of a request, as `traceparent` names it (W3C Trace Context), cut to 64 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trace(u64);

/// What this process knows of retries spent.
#[derive(Debug)]
pub struct Spending {
    start: Instant,
    /// So that nobody can choose a trace that falls into another's slot.
    key: RandomState,
    came: OnceLock<Box<[AtomicU64]>>,
    spent: OnceLock<Box<[[AtomicU64; WAYS]]>>,
    /// When something was spent whose cause is not known, in milliseconds since the start; 0: never.
    untraced: AtomicU64,
    arrived: RetryBudget,
    allowance: Allowance,
}

impl Trace {
    /// A request's trace, if it has one that is well formed.
    pub fn of(headers: &Headers) -> Option<Self> {
        let value = headers.get(Known::Traceparent)?;
        // version "-" trace-id "-" parent-id "-" flags
        let (version, rest) = value.split_at_checked(3)?;
        let (id, rest) = rest.split_at_checked(32)?;
        if version[2] != b'-' || rest.first() != Some(&b'-') {
            return None;
        }
        let mut low = 0;
        for (index, digit) in id.iter().enumerate() {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            if index >= 16 {
                low = low << 4 | u64::from(digit);
            }
        }
        (low != 0).then_some(Self(low))
    }
}

impl Spending {
    /// Nothing spent.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            key: RandomState::new(),
            came: OnceLock::new(),
            spent: OnceLock::new(),
            untraced: AtomicU64::new(0),
            arrived: RetryBudget::new(start),
            allowance: Allowance::default(),
        }
    }

    /// A request came in, as which try of its caller's.
    pub fn arrived(&self, trace: Option<Trace>, attempt: u32, now: Instant) {
        if let Some(hash) = trace.map(|trace| self.hash(trace)) {
            let came = self.came.get_or_init(|| (0..CAME_SLOTS).map(|_| AtomicU64::new(0)).collect());
            came[slot(hash, CAME_SLOTS)].store(hash, Ordering::Relaxed);
        }
        if attempt > 1 {
            self.arrived.retry(now, &self.allowance);
        } else {
            self.arrived.request(now, &self.allowance);
        }
    }

    /// A call of the application's was retried in vain or may not be, or whom it called has spent its own.
    pub fn spent(&self, trace: Option<Trace>, now: Instant) {
        let hash = trace.map(|trace| self.hash(trace));
        let came = hash.filter(|hash| {
            let came = self.came.get().map(|came| &came[slot(*hash, CAME_SLOTS)]);
            came.is_some_and(|held| held.load(Ordering::Relaxed) == *hash)
        });
        let time = self.milliseconds(now);
        if !came.is_some_and(|hash| self.note(hash, time)) {
            self.untraced.store(time, Ordering::Relaxed);
        }
    }

    /// Notes a trace, in place of the oldest of its set. `false`: that one may still be asked for.
    fn note(&self, hash: u64, time: u64) -> bool {
        let tag = hash & !TIME_MASK;
        let word = tag | time & TIME_MASK;
        let spent = self.spent.get_or_init(|| (0..SPENT_SETS).map(|_| Default::default()).collect());
        loop {
            let mut oldest: Option<(u64, u64, &AtomicU64)> = None;
            for way in &spent[slot(hash, SPENT_SETS)] {
                let held = way.load(Ordering::Relaxed);
                // Its own place comes before all others, then an empty one.
                let age = match held {
                    held if held & !TIME_MASK == tag => u64::MAX,
                    0 => u64::MAX - 1,
                    held => time.wrapping_sub(held) & TIME_MASK,
                };
                if oldest.is_none_or(|(least, ..)| age > least) {
                    oldest = Some((age, held, way));
                }
            }
            let Some((age, held, way)) = oldest else { return false };
            if way.compare_exchange(held, word, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return age >= SPENDING_WINDOW.as_millis() as u64;
            }
        }
    }

    /// Whether the failing answer to a request that came in is to be marked.
    pub fn is_spent(&self, trace: Option<Trace>, now: Instant) -> bool {
        let time = self.milliseconds(now);
        let untraced = self.untraced.load(Ordering::Relaxed);
        let recently = untraced != 0 && time.saturating_sub(untraced) < SPENDING_WINDOW.as_millis() as u64;
        recently
            || trace.is_some_and(|trace| self.is_marked(self.hash(trace), time))
            || self.arrived.is_overdrawn(now, &self.allowance)
    }

    fn is_marked(&self, hash: u64, time: u64) -> bool {
        let Some(spent) = self.spent.get() else { return false };
        spent[slot(hash, SPENT_SETS)].iter().any(|way| {
            let word = way.load(Ordering::Relaxed);
            let age = time.wrapping_sub(word) & TIME_MASK;
            word & !TIME_MASK == hash & !TIME_MASK && age < TRACE_MARK_AGE_MAX.as_millis() as u64
        })
    }

    /// Never 0: that is an empty slot.
    fn hash(&self, trace: Trace) -> u64 {
        self.key.hash_one(trace.0) | 1 << 63
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        // Never 0: that is "never".
        now.saturating_duration_since(self.start).as_millis() as u64 + 1
    }
}

/// The low bits choose the slot and the time is laid over them: what is compared are others.
const fn slot(hash: u64, slots: usize) -> usize {
    (hash % slots as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(text: &str) -> Option<Trace> {
        let mut headers = Headers::new();
        headers.append("traceparent", text.as_bytes()).unwrap();
        Trace::of(&headers)
    }

    fn numbered(number: u64) -> Option<Trace> {
        trace(&format!("00-4bf92f3577b34da6{number:016x}-00f067aa0ba902b7-01"))
    }

    #[test]
    fn a_trace_is_read_as_the_standard_writes_it() {
        assert!(trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").is_some());
        assert!(trace("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").is_some());
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00+4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace(text), None, "{text:?}");
        }
        assert_eq!(Trace::of(&Headers::new()), None);
    }

    #[test]
    fn with_traces_exactly_the_requests_that_retries_were_spent_on_are_marked() {
        let start = Instant::now();
        let spending = Spending::new(start);
        // The key is random, and of two that fall into one slot the first is not known any more.
        let mut slots = std::collections::HashSet::new();
        let mut apart = |number: &u64| {
            numbered(*number).is_some_and(|trace| slots.insert(slot(spending.hash(trace), CAME_SLOTS)))
        };
        let numbers: Vec<u64> = (1..).filter(&mut apart).take(100).collect();
        for number in &numbers {
            spending.arrived(numbered(*number), 1, start);
        }
        let (&marked, others) = numbers.split_first().unwrap();
        spending.spent(numbered(marked), start);
        for number in others {
            assert!(!spending.is_spent(numbered(*number), start), "{number}");
        }
        assert!(!spending.is_spent(None, start));
        assert!(spending.is_spent(numbered(marked), start + Duration::from_secs(59)));
        assert!(!spending.is_spent(numbered(marked), start + Duration::from_secs(61)));
    }

    #[test]
    fn without_traces_all_are_marked_for_a_moment() {
        let start = Instant::now();
        // None at all, and one that the application did not get from its caller.
        for own in [None, numbered(8)] {
            let spending = Spending::new(start);
            spending.arrived(numbered(1), 1, start);
            assert!(!spending.is_spent(numbered(1), start));
            spending.spent(own, start);
            let later = start + SPENDING_WINDOW - Duration::from_millis(1);
            assert!(spending.is_spent(numbered(1), later) && spending.is_spent(None, later));
            assert!(!spending.is_spent(numbered(1), start + SPENDING_WINDOW));
        }
    }

    #[test]
    fn budgets_of_many_callers_add_up_at_whom_they_call() {
        let start = Instant::now();
        let spending = Spending::new(start);
        for _ in 0..1000 {
            spending.arrived(None, 1, start);
        }
        for _ in 0..200 {
            spending.arrived(None, 2, start);
        }
        assert!(!spending.is_spent(None, start));
        spending.arrived(None, 3, start);
        assert!(spending.is_spent(None, start));
        assert!(!spending.is_spent(None, start + Duration::from_secs(12)));
    }

    #[test]
    fn a_table_that_is_full_marks_more_and_never_less() {
        let start = Instant::now();
        let spending = Spending::new(start);
        spending.arrived(numbered(1), 1, start);
        for number in 2..100_000 {
            spending.arrived(numbered(number), 1, start);
        }
        spending.spent(numbered(1), start);
        assert!(spending.is_spent(numbered(1), start));
        let spending = Spending::new(start);
        let count = 4 * SPENT_SETS as u64;
        for number in 1..=count {
            spending.arrived(numbered(number), 1, start);
            spending.spent(numbered(number), start);
        }
        let lost = (1..=count).filter(|number| !spending.is_spent(numbered(*number), start)).count();
        assert_eq!(lost, 0, "what was pushed out too early has all marked for a moment");
    }
}
