//! How long a peer that asked its clients to go is left alone while there are others.
//!
//! A proxy that drains waits until nothing has been open for a while (`drain.quiet`, 5 s by default), and takes
//! new connections all that time, so that nobody meets a closed door. Clients that came back after just that
//! while would each time begin it anew. So they stay away for twice as long, and for twice as long again when
//! they are asked once more: whatever a server's quiet is, within the bound, its drain sees it.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The first time. Twice the quiet that a drain waits for by default.
const AWAY_MIN: Duration = Duration::from_secs(10);

/// And never longer: a peer that came back in its old place gets requests again by then.
const AWAY_MAX: Duration = Duration::from_secs(80);

/// What one peer said about its leaving.
#[derive(Debug, Default)]
pub(super) struct Leaving(Cell<Option<Away>>);

#[derive(Clone, Copy, Debug)]
struct Away {
    until: Instant,
    lasts: Duration,
}

impl Leaving {
    /// The peer asked its clients to go. All that is answered meanwhile says so too, and is one word.
    pub(super) fn told(&self, now: Instant) {
        let lasts = match self.0.get() {
            Some(away) if now < away.until => away.lasts,
            // It was tried again soon after, and still leaves.
            Some(away) if now < away.until + away.lasts => (away.lasts * 2).min(AWAY_MAX),
            _ => AWAY_MIN,
        };
        self.0.set(Some(Away { until: now + lasts, lasts }));
    }

    /// Whether it is to be left alone.
    pub(super) fn is_away(&self, now: Instant) -> bool {
        self.0.get().is_some_and(|away| now < away.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest time in which nothing came, if a client calls whenever it may, and is asked to go each time.
    fn quiet_within(drain: Duration, start: Instant) -> Duration {
        let (leaving, end) = (Leaving::default(), start + drain);
        let (mut now, mut last, mut longest) = (start, start, Duration::ZERO);
        while now < end {
            if !leaving.is_away(now) {
                longest = longest.max(now - last);
                last = now;
                leaving.told(now);
            }
            now += Duration::from_millis(10);
        }
        longest.max(end - last)
    }

    #[test]
    fn a_drain_sees_its_quiet_whatever_that_is() {
        let start = Instant::now();
        // By default at the first time; a longer one when the client has learned.
        assert!(quiet_within(Duration::from_secs(10), start) >= AWAY_MIN);
        for quiet in [5, 9, 15, 30, 60] {
            let quiet = Duration::from_secs(quiet);
            assert!(quiet_within(quiet * 4, start) > quiet, "{quiet:?}");
        }
    }

    #[test]
    fn answers_that_say_so_at_once_are_one_word() {
        let (leaving, start) = (Leaving::default(), Instant::now());
        for step in 0..100 {
            leaving.told(start + Duration::from_millis(step));
        }
        let last = start + Duration::from_millis(99);
        assert!(leaving.is_away(last + AWAY_MIN - Duration::from_millis(1)));
        assert!(!leaving.is_away(last + AWAY_MIN));
    }

    #[test]
    fn a_peer_that_served_in_between_is_believed_anew() {
        let (leaving, start) = (Leaving::default(), Instant::now());
        leaving.told(start);
        let next = start + AWAY_MIN;
        leaving.told(next);
        assert!(leaving.is_away(next + AWAY_MIN), "it had only just been left alone");
        let later = next + AWAY_MIN * 5;
        leaving.told(later);
        assert!(!leaving.is_away(later + AWAY_MIN), "this is another drain");
    }
}
