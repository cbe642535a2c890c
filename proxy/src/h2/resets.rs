//! The budget of requests that a peer takes back before they are answered.
//!
//! A request costs the peer one frame to open and one to take back, and us a handler each time
//! (the rapid reset attack). Taking back is spent from a budget that fills with time and with
//! every request that is let run to its answer; who spends it all loses the connection.

use std::cell::Cell;
use std::time::Duration;
use tokio::time::Instant;

/// Counts in one connection.
pub(crate) struct Resets {
    left: Cell<u32>,
    burst: u32,
    per_second: u32,
    filled: Cell<Instant>,
    exhausted: Cell<bool>,
}

// === impl Resets ===

impl Resets {
    pub(crate) fn new(burst: u32, per_second: u32) -> Self {
        Self {
            left: Cell::new(burst),
            burst,
            per_second,
            filled: Cell::new(Instant::now()),
            exhausted: Cell::new(false),
        }
    }

    /// A request was answered.
    pub(crate) fn answered(&self) {
        if self.left.get() < self.burst {
            self.left.set(self.left.get() + 1);
        }
    }

    /// A request was taken back.
    pub(crate) fn taken_back(&self) {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.filled.get());
        // Whole tenths of a second, so that many small steps lose nothing.
        let tenths = u32::try_from(since.as_millis() / 100).unwrap_or(u32::MAX);
        if tenths > 0 {
            let more = tenths.saturating_mul(self.per_second) / 10;
            self.left.set(self.left.get().saturating_add(more).min(self.burst));
            self.filled.set(self.filled.get() + Duration::from_millis(100) * tenths);
        }
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => self.exhausted.set(true),
        }
    }

    /// Whether the connection is to be ended.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn the_budget_fills_with_time_and_answers_and_ends_when_spent() {
        let resets = Resets::new(10, 20);
        for _ in 0..10 {
            resets.taken_back();
        }
        assert!(!resets.is_exhausted());
        advance(Duration::from_millis(250)).await;
        for _ in 0..4 {
            resets.taken_back();
        }
        resets.answered();
        resets.taken_back();
        assert!(!resets.is_exhausted());
        resets.taken_back();
        assert!(resets.is_exhausted());
    }
}
