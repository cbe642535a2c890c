//! How long a connection may have lain idle and still be used again.
//!
//! A server closes idle connections when it likes, and a request that is on its way in that moment is
//! lost: HTTP/1.1 has no word for it. So connections are left before their server leaves them: by what it
//! says of itself (`Keep-Alive: timeout`), by when it was seen closing, and, for a request that cannot be
//! sent twice, early in any case. Looking at the connection just before comes on top of all that.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long a connection may lie idle. Below the five minutes after which our own server side
/// closes, so that the one who closes is the one who knows that nothing is under way.
pub(super) const IDLE_AGE_MAX: Duration = Duration::from_secs(90);

/// The same for a request that cannot be sent twice, where the server does not say what became of it.
/// No server in use closes connections that were busy half a second ago, and a new one costs less
/// than a lost order.
pub(super) const IDLE_AGE_ONCE_MAX: Duration = Duration::from_millis(500);

/// A server that was seen closing sooner than this after an answer may do so at any moment: it gets nothing
/// on a used connection that cannot be sent twice.
const SEEN_ONCE_MIN: Duration = Duration::from_millis(100);

/// How long an observation holds as it is. After each further such time it is taken for twice as long:
/// a restart closes connections of any age, and says nothing about the habits of what comes after it.
const OBSERVATION_AGE_MAX: Duration = Duration::from_secs(10);

/// What is known of one server's habits.
#[derive(Debug)]
pub(super) struct IdleAge {
    /// Whether the server says which requests it took, so that none is lost: our own proxy does.
    tells: bool,
    /// What it says of itself.
    stated: Cell<Option<Duration>>,
    /// The shortest idle time at which it was seen closed, and when that was.
    seen: Cell<Option<(Duration, Instant)>>,
}

// === impl IdleAge ===

impl IdleAge {
    /// Nothing is known yet.
    pub(super) fn new(tells: bool) -> Self {
        Self { tells, stated: Cell::new(None), seen: Cell::new(None) }
    }

    /// The server said how long it keeps connections.
    pub(super) fn stated(&self, timeout: Duration) {
        self.stated.set(Some(timeout));
    }

    /// A connection was found closed after so long at the most.
    pub(super) fn closed(&self, age: Duration, now: Instant) {
        if self.observed(now).is_none_or(|seen| age <= seen) {
            self.seen.set(Some((age, now)));
        }
    }

    /// The longest idle time after which a connection is used again; `repeatable`: for a request that
    /// can be sent twice.
    pub(super) fn limit(&self, repeatable: bool, now: Instant) -> Duration {
        if self.tells {
            return IDLE_AGE_MAX;
        }
        let most = if repeatable { IDLE_AGE_MAX } else { IDLE_AGE_ONCE_MAX };
        // A second early, or at half where it is less than two: its clock began before ours.
        let stated =
            self.stated.get().map(|stated| (stated / 2).max(stated.saturating_sub(Duration::from_secs(1))));
        // Half: it was closed some time before it was found so.
        let seen = match self.observed(now) {
            Some(seen) if !repeatable && seen < SEEN_ONCE_MIN => Some(Duration::ZERO),
            seen => seen.map(|seen| seen / 2),
        };
        most.min(stated.unwrap_or(most)).min(seen.unwrap_or(most))
    }

    fn observed(&self, now: Instant) -> Option<Duration> {
        let (age, at) = self.seen.get()?;
        let periods = now.saturating_duration_since(at).as_secs() / OBSERVATION_AGE_MAX.as_secs();
        let doubled = 1_u32.checked_shl(u32::try_from(periods).unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
        // However short it was, it is forgotten some day.
        Some(age.max(Duration::from_millis(1)).saturating_mul(doubled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_cannot_be_sent_twice_takes_only_connections_that_were_just_busy() {
        let (age, now) = (IdleAge::new(false), Instant::now());
        assert_eq!(age.limit(true, now), IDLE_AGE_MAX);
        assert_eq!(age.limit(false, now), IDLE_AGE_ONCE_MAX);
        let mesh = IdleAge::new(true);
        mesh.closed(Duration::ZERO, now);
        assert_eq!(mesh.limit(false, now), IDLE_AGE_MAX, "our own proxy says what it took");
    }

    #[test]
    fn connections_are_left_before_the_server_leaves_them() {
        let (age, now) = (IdleAge::new(false), Instant::now());
        age.stated(5 * SECOND);
        assert_eq!(age.limit(true, now), 4 * SECOND);
        age.stated(SECOND);
        assert_eq!(age.limit(true, now), SECOND / 2);
        age.stated(Duration::ZERO);
        assert_eq!(age.limit(true, now), Duration::ZERO);
        age.stated(60 * SECOND);
        age.closed(2 * SECOND, now);
        assert_eq!(age.limit(true, now), SECOND);
        age.closed(30 * SECOND, now);
        assert_eq!(age.limit(true, now), SECOND, "the shortest counts");
        age.closed(SECOND / 20, now);
        assert_eq!(age.limit(true, now), SECOND / 40);
        assert_eq!(age.limit(false, now), Duration::ZERO, "it may close at any moment");
    }

    #[test]
    fn an_observation_fades() {
        let (age, now) = (IdleAge::new(false), Instant::now());
        age.closed(Duration::ZERO, now);
        assert!(age.limit(true, now) < Duration::from_millis(1));
        assert_eq!(age.limit(true, now + 100 * SECOND), Duration::from_millis(512));
        assert_eq!(age.limit(true, now + 400 * SECOND), IDLE_AGE_MAX);
        age.closed(20 * SECOND, now + 400 * SECOND);
        assert_eq!(age.limit(true, now + 400 * SECOND), 10 * SECOND, "and a new one takes its place");
    }
}
