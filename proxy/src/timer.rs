//! One timer per connection, re-armed only when it must be.
//!
//! A deadline is only remembered. The runtime's timer is set when a wait begins that ends before
//! the armed time; when it fires too early, it is set again. So requests in quick succession move
//! the idle deadline without touching the timer wheel.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline, and the sleep that will notice it.
#[derive(Default)]
pub(crate) struct Timer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

// === impl Timer ===

impl Timer {
    /// Sets the deadline from now on.
    pub(crate) fn set(&mut self, after: Duration) {
        self.deadline = Some(Instant::now() + after);
    }

    /// Sets the deadline.
    pub(crate) fn set_at(&mut self, at: std::time::Instant) {
        self.deadline = Some(at.into());
    }

    /// Sets the deadline from now on, unless one is set.
    pub(crate) fn start(&mut self, after: Duration) {
        if self.deadline.is_none() {
            self.set(after);
        }
    }

    /// There is no deadline now.
    pub(crate) fn clear(&mut self) {
        self.deadline = None;
    }

    /// Ready when the deadline has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        loop {
            let sleep = match &mut self.sleep {
                Some(sleep) => sleep,
                none => none.insert(Box::pin(sleep_until(deadline))),
            };
            if sleep.deadline() > deadline {
                sleep.as_mut().reset(deadline);
            }
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                self.deadline = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
