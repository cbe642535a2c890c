//! How many retries a destination can bear (GEP-3388): at most a share of the requests of the last
//! interval, or a floor, so that a quiet client may retry at all. The larger of the two holds.
//!
//! One budget per port of a destination and process. It is a ring of atomic words, one per tenth of
//! the interval, each with its own time; a request costs one exchange. A retry is entered first and
//! taken back if it was one too many, so that two workers never spend the same one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use weft_model::names::ResourceName;
use weft_model::traffic as policy;

/// Tenths of an interval, and the one that is being filled.
const SLOTS: usize = 11;

const TENTHS: u64 = 10;

// A slot: 20 bits of its time, 20 bits of retries, 24 bits of requests.
const REQUESTS_MAX: u64 = (1 << 24) - 1;
const RETRIES_MAX: u64 = (1 << 20) - 1;
const RETRIES_SHIFT: u32 = 24;
const TIME_SHIFT: u32 = 44;
const TIME_MASK: u64 = (1 << 20) - 1;

/// How much may be retried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Allowance {
    /// Of the requests of an interval, in percent.
    pub percent: u64,
    /// The interval.
    pub interval: Duration,
    /// What an interval has at least.
    pub floor: u64,
}

/// Requests and retries of the last interval.
#[derive(Debug)]
pub struct RetryBudget {
    start: Instant,
    slots: [AtomicU64; SLOTS],
}

/// The budgets of a process. Locked when a worker first calls a destination.
#[derive(Debug, Default)]
pub struct Budgets(Mutex<HashMap<(ResourceName, u16), Weak<RetryBudget>>>);

impl From<&policy::RetryBudget> for Allowance {
    fn from(says: &policy::RetryBudget) -> Self {
        Self { percent: says.percent.into(), interval: says.interval, floor: says.floor.into() }
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Self::from(&policy::RetryBudget::default())
    }
}

// === impl Allowance ===

impl Allowance {
    /// How many retries so many requests allow.
    const fn of(&self, requests: u64) -> u64 {
        let share = requests.saturating_mul(self.percent) / 100;
        if share > self.floor { share } else { self.floor }
    }

    fn tenth(&self, elapsed: Duration) -> u64 {
        let length = (self.interval.as_millis() as u64 / TENTHS).max(1);
        elapsed.as_millis() as u64 / length
    }
}

// === impl RetryBudget ===

impl RetryBudget {
    /// With nothing counted.
    pub fn new(start: Instant) -> Self {
        Self { start, slots: Default::default() }
    }

    /// A request was made.
    pub fn request(&self, now: Instant, allowance: &Allowance) {
        self.enter(self.time(now, allowance), 1, 0);
    }

    /// A retry came or was made that nobody was asked about.
    pub fn retry(&self, now: Instant, allowance: &Allowance) {
        self.enter(self.time(now, allowance), 0, 1);
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&self, now: Instant, allowance: &Allowance) -> bool {
        let time = self.time(now, allowance);
        self.enter(time, 0, 1);
        let (requests, retries) = self.sum(time);
        if retries <= allowance.of(requests) {
            return true;
        }
        self.leave(time);
        false
    }

    /// Whether more was retried than is allowed.
    pub fn is_overdrawn(&self, now: Instant, allowance: &Allowance) -> bool {
        let (requests, retries) = self.sum(self.time(now, allowance));
        retries > allowance.of(requests)
    }

    fn time(&self, now: Instant, allowance: &Allowance) -> u64 {
        allowance.tenth(now.saturating_duration_since(self.start))
    }

    fn slot(&self, time: u64) -> &AtomicU64 {
        &self.slots[(time % SLOTS as u64) as usize]
    }

    fn enter(&self, time: u64, requests: u64, retries: u64) {
        let slot = self.slot(time);
        let mut held = slot.load(Ordering::Relaxed);
        loop {
            let (mut sum_requests, mut sum_retries) = (requests, retries);
            if held >> TIME_SHIFT == time & TIME_MASK {
                sum_requests += held & REQUESTS_MAX;
                sum_retries += (held >> RETRIES_SHIFT) & RETRIES_MAX;
            }
            let word = (time & TIME_MASK) << TIME_SHIFT
                | sum_retries.min(RETRIES_MAX) << RETRIES_SHIFT
                | sum_requests.min(REQUESTS_MAX);
            match slot.compare_exchange_weak(held, word, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => held = other,
            }
        }
    }

    fn leave(&self, time: u64) {
        // Gone meanwhile, it needs no taking back.
        let _ = self.slot(time).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            let retries = (held >> RETRIES_SHIFT) & RETRIES_MAX;
            (held >> TIME_SHIFT == time & TIME_MASK && retries > 0).then(|| held - (1 << RETRIES_SHIFT))
        });
    }

    fn sum(&self, time: u64) -> (u64, u64) {
        let mut sums = (0, 0);
        for slot in &self.slots {
            let held = slot.load(Ordering::Relaxed);
            let age = time.wrapping_sub(held >> TIME_SHIFT) & TIME_MASK;
            if age <= TENTHS {
                sums.0 += held & REQUESTS_MAX;
                sums.1 += (held >> RETRIES_SHIFT) & RETRIES_MAX;
            }
        }
        sums
    }
}

// === impl Budgets ===

impl Budgets {
    /// The budget of a destination's port, the same for every worker.
    pub fn of(&self, destination: &ResourceName, port: u16, now: Instant) -> Arc<RetryBudget> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (destination.clone(), port);
        if let Some(budget) = held.get(&key).and_then(Weak::upgrade) {
            return budget;
        }
        held.retain(|_, budget| budget.strong_count() > 0);
        let budget = Arc::new(RetryBudget::new(now));
        held.insert(key, Arc::downgrade(&budget));
        budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWANCE: Allowance = Allowance { percent: 20, interval: Duration::from_secs(10), floor: 30 };

    fn drain(budget: &RetryBudget, now: Instant) -> usize {
        (0..1000).filter(|_| budget.withdraw(now, &ALLOWANCE)).count()
    }

    #[test]
    fn retries_are_a_share_of_requests_or_the_floor() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        assert_eq!(drain(&budget, start), 30);
        for _ in 0..1000 {
            budget.request(start, &ALLOWANCE);
        }
        assert_eq!(drain(&budget, start), 170, "a fifth of a thousand, the floor included");
        assert!(!budget.is_overdrawn(start, &ALLOWANCE));
        budget.retry(start, &ALLOWANCE);
        assert!(budget.is_overdrawn(start, &ALLOWANCE));
    }

    #[test]
    fn what_is_older_than_the_interval_neither_pays_nor_owes() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        for _ in 0..1000 {
            budget.request(start, &ALLOWANCE);
        }
        assert_eq!(drain(&budget, start), 200);
        assert_eq!(drain(&budget, start + Duration::from_secs(10)), 0);
        assert_eq!(drain(&budget, start + Duration::from_secs(11)), 30);
        // A ring of times must not take a time long past for this one.
        assert_eq!(drain(&budget, start + Duration::from_secs(11 << 20)), 30);
    }

    #[test]
    fn a_destination_that_always_fails_for_a_minute_gets_a_fifth_more_at_any_rate() {
        for per_second in [20_u32, 100, 500] {
            let start = Instant::now();
            let budget = RetryBudget::new(start);
            let (mut requests, mut retries) = (0_u32, 0_u32);
            for number in 0..per_second * 60 {
                let now = start + Duration::from_secs(1) * number / per_second;
                budget.request(now, &ALLOWANCE);
                requests += 1;
                // Each would be retried twice.
                retries += (0..2).filter(|_| budget.withdraw(now, &ALLOWANCE)).count() as u32;
            }
            // The floor pays once: before there are requests that a share could be of.
            let most = requests / 5 + ALLOWANCE.floor as u32;
            assert!((requests / 6..=most).contains(&retries), "{per_second}/s: {retries} for {requests}");
        }
    }

    #[test]
    fn without_a_floor_there_is_never_more_than_the_share() {
        let strict = Allowance { floor: 0, ..ALLOWANCE };
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let (mut requests, mut retries, mut now) = (0, 0, start);
        // Bursts and pauses of a second, three and seven.
        for round in 0..200_u64 {
            for _ in 0..round % 37 {
                budget.request(now, &strict);
                requests += 1;
                retries += usize::from(budget.withdraw(now, &strict));
                assert!(retries * 5 <= requests, "{retries} for {requests}");
            }
            now += Duration::from_secs([1, 3, 7][(round % 3) as usize]);
        }
        assert!(retries * 7 > requests, "{retries} for {requests}");
    }

    #[test]
    fn workers_never_spend_one_retry_twice() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let spent: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| drain(&budget, start))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((1..=30).contains(&spent), "{spent}");
    }

    #[test]
    fn a_process_has_one_budget_per_port_and_keeps_none_that_nobody_uses() {
        let budgets = Budgets::default();
        let name = |text: &str| ResourceName::of("Service", &"shop".parse().unwrap(), &text.parse().unwrap());
        let now = Instant::now();
        let first = budgets.of(&name("cart"), 80, now);
        assert!(Arc::ptr_eq(&first, &budgets.of(&name("cart"), 80, now)));
        assert!(!Arc::ptr_eq(&first, &budgets.of(&name("cart"), 81, now)));
        drop(first);
        let _other = budgets.of(&name("till"), 80, now);
        assert_eq!(budgets.0.lock().unwrap().len(), 1);
    }
}
