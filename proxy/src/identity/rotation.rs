//! When to ask for a certificate, and how to prove who asks. Sans-I/O: it is told what time it is
//! and what became of the last try, and answers with the next step.
//!
//! Renewal begins at half of a certificate's life, give or take a twentieth, so that a fleet started
//! at once does not ask at once. It never gives up. A proof that was refused is followed by the
//! other one: the certificate may have been issued by a root that is gone, the token may be stale.

use std::time::{Duration, Instant, SystemTime};
use weft_runtime::backoff::Backoff;
use weft_runtime::random::Random;

/// The first wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait while there is no valid certificate: the workload is cut off until there is.
const RETRY_URGENT_MAX: Duration = Duration::from_secs(5);
/// The longest wait while there is one.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The longest sleep: clocks are set and machines suspended, so the plan is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// A certificate's life, as far as its renewal cares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Held {
    /// When it was issued, by the local clock. Not its NotBefore, which lies in the past on purpose.
    pub obtained: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

/// By what the caller proves who it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proof {
    /// The certificate in use.
    Certificate,
    /// The token file.
    Token,
}

/// The next step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Ask for a certificate now.
    Certify(Proof),
    /// Ask again what to do, after so long.
    Wait(Duration),
}

/// The plan.
#[derive(Debug)]
pub struct Rotation {
    held: Option<Held>,
    renew_at: Option<SystemTime>,
    retry_at: Option<Instant>,
    other_proof: bool,
    backoff: Backoff,
    random: Random,
}

impl Rotation {
    /// With the certificate of an earlier life, if it left one.
    pub fn new(held: Option<Held>, random: Random) -> Self {
        let backoff = Backoff::with_random(RETRY_FIRST, RETRY_MAX, random.clone());
        let mut rotation =
            Self { held: None, renew_at: None, retry_at: None, other_proof: false, backoff, random };
        if let Some(held) = held {
            rotation.hold(held);
        }
        rotation
    }

    /// What to do. `now` for certificates, `tick` for waits.
    pub fn next(&self, now: SystemTime, tick: Instant) -> Action {
        if let Some(retry_at) = self.retry_at
            && tick < retry_at
        {
            return Action::Wait((retry_at - tick).min(LOOK_AGAIN));
        }
        let Some(held) = self.held.filter(|held| now < held.not_after) else {
            return Action::Certify(Proof::Token);
        };
        let due = self.renew_at.unwrap_or(held.not_after);
        match due.duration_since(now) {
            // A clock that was set back must not stretch the plan beyond the certificate's own life.
            Ok(left) if !left.is_zero() => Action::Wait(left.min(LOOK_AGAIN)),
            _ if self.other_proof => Action::Certify(Proof::Token),
            _ => Action::Certify(Proof::Certificate),
        }
    }

    /// There is a new certificate.
    pub fn succeeded(&mut self, held: Held) {
        self.backoff.reset();
        self.retry_at = None;
        self.other_proof = false;
        self.hold(held);
    }

    /// The try failed. Answers how long until the next.
    pub fn failed(&mut self, now: SystemTime, tick: Instant) -> Duration {
        self.other_proof = !self.other_proof;
        let left = self.held.and_then(|held| held.not_after.duration_since(now).ok());
        let most = match left {
            // Ten tries at least in what is left, however short lives are.
            Some(left) => (left / 10).clamp(RETRY_FIRST, RETRY_MAX),
            None => RETRY_URGENT_MAX,
        };
        let wait = self.backoff.next_delay().min(most);
        self.retry_at = Some(tick + wait);
        wait
    }

    /// Whether there is a certificate that is valid.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.held.is_some_and(|held| now < held.not_after)
    }

    /// When renewal begins.
    pub fn renew_at(&self) -> Option<SystemTime> {
        self.renew_at
    }

    fn hold(&mut self, held: Held) {
        let life = held.not_after.duration_since(held.obtained).unwrap_or_default();
        let share = 0.45 + 0.1 * self.random.fraction();
        self.renew_at = Some(held.obtained + life.mul_f64(share));
        self.held = Some(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> (SystemTime, Instant) {
        (SystemTime::UNIX_EPOCH + 1000 * HOUR, Instant::now())
    }

    fn day(obtained: SystemTime) -> Held {
        Held { obtained, not_after: obtained + 24 * HOUR }
    }

    #[test]
    fn without_a_certificate_the_token_is_used_at_once_and_retried_for_ever() {
        let (now, mut tick) = start();
        let mut rotation = Rotation::new(None, Random::seeded(1));
        for _ in 0..1000 {
            assert_eq!(rotation.next(now, tick), Action::Certify(Proof::Token));
            let wait = rotation.failed(now, tick);
            assert!(wait <= RETRY_URGENT_MAX && !wait.is_zero(), "{wait:?}");
            assert_eq!(rotation.next(now, tick), Action::Wait(wait));
            tick += wait;
        }
    }

    #[test]
    fn renewal_begins_around_half_of_life_and_not_at_the_same_moment_everywhere() {
        let (now, tick) = start();
        let mut moments = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut rotation = Rotation::new(None, Random::seeded(seed));
            rotation.succeeded(day(now));
            let at = rotation.renew_at().unwrap();
            assert!(at >= now + 24 * HOUR * 44 / 100 && at <= now + 24 * HOUR * 56 / 100);
            assert!(matches!(rotation.next(now + 10 * HOUR, tick), Action::Wait(_)));
            assert_eq!(rotation.next(now + 14 * HOUR, tick), Action::Certify(Proof::Certificate));
            moments.insert(at);
        }
        assert!(moments.len() > 40);
    }

    #[test]
    fn a_refused_certificate_is_followed_by_the_token_and_back() {
        let (now, mut tick) = start();
        let mut rotation = Rotation::new(Some(day(now)), Random::seeded(3));
        let late = now + 20 * HOUR;
        for proof in [Proof::Certificate, Proof::Token, Proof::Certificate, Proof::Token] {
            assert_eq!(rotation.next(late, tick), Action::Certify(proof));
            tick += rotation.failed(late, tick);
        }
    }

    #[test]
    fn an_expired_certificate_proves_nothing() {
        let (now, tick) = start();
        let rotation = Rotation::new(Some(day(now)), Random::seeded(4));
        assert!(rotation.is_valid(now));
        assert!(!rotation.is_valid(now + 24 * HOUR));
        assert_eq!(rotation.next(now + 25 * HOUR, tick), Action::Certify(Proof::Token));
    }

    #[test]
    fn short_lives_are_retried_often_enough_to_be_renewed_in_time() {
        let (now, tick) = start();
        let held = Held { obtained: now, not_after: now + Duration::from_secs(6) };
        let mut rotation = Rotation::new(Some(held), Random::seeded(5));
        let at = rotation.renew_at().unwrap();
        assert!(at > now + Duration::from_secs(2) && at < now + Duration::from_secs(4));
        for _ in 0..20 {
            assert!(rotation.failed(at, tick) <= Duration::from_millis(400));
        }
    }

    #[test]
    fn a_restart_past_half_of_life_renews_at_once() {
        let (now, tick) = start();
        let rotation = Rotation::new(Some(day(now - 20 * HOUR)), Random::seeded(6));
        assert_eq!(rotation.next(now, tick), Action::Certify(Proof::Certificate));
    }

    #[test]
    fn no_sleep_is_longer_than_a_look_at_the_clock_allows() {
        let (now, tick) = start();
        let rotation = Rotation::new(Some(day(now)), Random::seeded(7));
        assert_eq!(rotation.next(now, tick), Action::Wait(LOOK_AGAIN));
    }
}
