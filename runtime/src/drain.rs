//! The shutdown of everything that accepts or holds connections: a trigger, watches, and the one
//! sequence that every listener of a process goes through ([`run`]).
//! Phases only move forward: Running → Draining (keep serving, and accepting, but hint to close) →
//! Closing (listeners stop) → Forced (whatever is left is dropped). What the process carries for its own
//! application is not hinted at and goes on until Forced ([`Watch::untouched`]).
//! A watch costs one load to ask and takes a lock only when it starts and stops waiting, so that each
//! connection can hold one, on any thread. It closes nothing itself: connections and listeners do that.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use crate::readiness::Readiness;

/// The last part of a drain, in which nothing new is accepted: a fifth of it, and at most this. Most
/// requests end within it.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Business as usual.
    Running = 0,
    /// Still accepting and serving, not ready any more, and asking peers to go elsewhere: `Connection:
    /// close` on HTTP/1, GOAWAY on HTTP/2. Ends at the deadline at the latest.
    Draining = 1,
    /// Nothing is accepted any more; what is open may finish until the deadline.
    Closing = 2,
    /// Whatever is still open ends now.
    Forced = 3,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was open any more.
    Quiet,
    /// The deadline came first; so many connections were cut.
    Deadline {
        /// Connections that were still open.
        open: usize,
    },
    /// Somebody forced it; so many connections were cut.
    Forced {
        /// Connections that were still open.
        open: usize,
    },
}

/// Starts and advances the shutdown. Cloned to whoever may ask for one (signals, the admin server).
#[derive(Clone, Debug)]
pub struct Trigger {
    shared: Arc<Shared>,
}

/// Follows the shutdown. One clone for each listener and connection.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    /// The phase from which on its holder asks peers to close.
    asks_from: Phase,
}

/// Counts as one open connection while it lives.
#[derive(Debug)]
#[must_use = "the connection counts as open only while the guard lives"]
pub struct OpenGuard {
    shared: Arc<Shared>,
}

pin_project! {
    /// Resolves when a phase has been reached. Keep one for a connection's whole life and poll that one:
    /// polling it again is a single load, starting a new one takes a lock that all waiters share.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct PhaseReached {
        shared: Arc<Shared>,
        phase: Phase,
        // Who is to be woken; `notified` holds the same waker in its list.
        waker: Option<Waker>,
        #[pin]
        notified: OwnedNotified,
    }
}

pin_project! {
    /// A future that ends at a phase: with `None`, if that came first. By hand, since an asynchronous
    /// function has room for its argument twice, and connections are such arguments.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Until<F> {
        #[pin]
        reached: PhaseReached,
        #[pin]
        future: F,
    }
}

#[derive(Debug)]
struct Shared {
    phase: AtomicU8,
    /// Written before the phase leaves Running; may only move closer after that.
    deadline: Mutex<Option<Instant>>,
    deadline_moved: Notify,
    /// One for each phase after Running: its waiters are woken once, when it is reached.
    reached: [Arc<Notify>; 3],
    open: AtomicUsize,
    /// How many were ever opened: tells a quiet time from one in which something came and went.
    opened: AtomicU64,
    closed_last: Notify,
}

/// A new shutdown, not begun.
#[must_use]
pub fn channel() -> (Trigger, Watch) {
    let shared = Arc::new(Shared {
        phase: AtomicU8::new(Phase::Running as u8),
        deadline: Mutex::new(None),
        deadline_moved: Notify::new(),
        reached: Default::default(),
        open: AtomicUsize::new(0),
        opened: AtomicU64::new(0),
        closed_last: Notify::new(),
    });
    let trigger = Trigger { shared };
    let watch = trigger.watch();
    (trigger, watch)
}

/// The shutdown of a process, from start to end. Runs beside everything else and returns when the
/// process may exit:
///
/// 1. waits until somebody calls [`Trigger::drain`] (or [`Trigger::force`]);
/// 2. fails readiness under the name `draining`, so that nobody new is sent here;
/// 3. lets listeners go on accepting, and connections hint that they close, until nothing has been open
///    for `quiet` (`Duration::MAX`: that says nothing here), or somebody calls [`Trigger::finish`], or shortly
///    before the deadline, or force;
/// 4. stops accepting ([`Phase::Closing`]); whatever is under way may finish, within the deadline: under
///    clients that never stop coming this is what lets the last requests end instead of being cut;
/// 5. forces what is left ([`Phase::Forced`]).
///
/// After it returns, give the workers a moment to act on step 5 before the process exits
/// ([`crate::workers::Workers::join`]).
pub async fn run(trigger: &Trigger, readiness: &Readiness, quiet: Duration) -> Outcome {
    let shared = &trigger.shared;
    let watch = trigger.watch();
    watch.draining().await;
    readiness.fail("draining");
    tracing::info!(open = watch.open(), "draining: still accepting, asking peers to close");

    let started = Instant::now();
    tokio::select! {
        biased;
        () = watch.closing() => {}
        () = shared.quiet_for(quiet) => {}
        () = shared.near_deadline(started) => {}
    }
    trigger.close();
    let outcome = tokio::select! {
        biased;
        () = watch.forced() => Outcome::Forced { open: watch.open() },
        () = shared.quiet_for(Duration::ZERO) => Outcome::Quiet,
        () = shared.past_deadline() => Outcome::Deadline { open: watch.open() },
    };
    trigger.force();
    match outcome {
        Outcome::Quiet => tracing::info!("drained: nothing is open"),
        Outcome::Deadline { open } => tracing::warn!(open, "drain deadline: cutting what is open"),
        Outcome::Forced { open } => tracing::warn!(open, "drain forced: cutting what is open"),
    }
    outcome
}

// === impl Phase ===

impl Phase {
    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Running,
            1 => Self::Draining,
            2 => Self::Closing,
            _ => Self::Forced,
        }
    }
}

// === impl Trigger ===

impl Trigger {
    /// Begins to drain, to be over `within` from now. When a drain is under way, the earlier of the two
    /// deadlines holds: whoever is more in a hurry wins.
    pub fn drain(&self, within: Duration) {
        self.shared.advance(Phase::Draining, Some(after(within)));
    }

    /// Ends what is left, within `within` from now: nothing new is accepted, and the process is over as
    /// soon as nothing is open. For when there is nobody left to serve.
    pub fn finish(&self, within: Duration) {
        self.shared.advance(Phase::Closing, Some(after(within)));
    }

    /// Stops accepting. [`run`] does this in its place.
    pub fn close(&self) {
        self.shared.advance(Phase::Closing, None);
    }

    /// Ends everything that is still open.
    pub fn force(&self) {
        self.shared.advance(Phase::Forced, None);
    }

    /// A watch on this trigger.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { shared: self.shared.clone(), asks_from: Phase::Draining }
    }
}

fn after(within: Duration) -> Instant {
    // A duration beyond what a clock can hold means "as long as it takes": a year does for that.
    let now = Instant::now();
    now.checked_add(within).unwrap_or(now + Duration::from_secs(365 * 86_400))
}

// === impl Watch ===

impl Watch {
    /// How far it is. One load.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// The same shutdown for what the process's own application uses: nothing is hinted, nothing idle is
    /// closed, and it goes on until everything must end.
    #[must_use]
    pub fn untouched(&self) -> Self {
        Self { shared: self.shared.clone(), asks_from: Phase::Forced }
    }

    /// Whether peers are to be asked to close. One load: ask before each answer.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase() >= self.asks_from
    }

    /// When the drain ends; none while running, or when it was forced without one.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.shared.deadline()
    }

    /// Resolves when peers are to be asked to close: for connections.
    pub fn draining(&self) -> PhaseReached {
        self.reached(self.asks_from)
    }

    /// Resolves when accepting ends: for listeners.
    pub fn closing(&self) -> PhaseReached {
        self.reached(Phase::Closing)
    }

    /// Resolves when everything must end: for connections.
    pub fn forced(&self) -> PhaseReached {
        self.reached(Phase::Forced)
    }

    /// Runs a listener's accept loop until accepting ends; what the loop returned if it ended first.
    pub fn until_closing<F: Future>(&self, future: F) -> Until<F> {
        Until { reached: self.closing(), future }
    }

    /// Runs a connection until everything must end; what it returned if it ended first.
    pub fn until_forced<F: Future>(&self, future: F) -> Until<F> {
        Until { reached: self.forced(), future }
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn opened(&self) -> OpenGuard {
        self.shared.opened.fetch_add(1, Ordering::SeqCst);
        self.shared.open.fetch_add(1, Ordering::SeqCst);
        OpenGuard { shared: self.shared.clone() }
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    fn reached(&self, phase: Phase) -> PhaseReached {
        let notify = &self.shared.reached[(phase as usize).saturating_sub(1)];
        PhaseReached {
            phase,
            waker: None,
            notified: notify.clone().notified_owned(),
            shared: self.shared.clone(),
        }
    }
}

// === impl Until ===

impl<F: Future> Future for Until<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.reached.poll(context).is_ready() {
            return Poll::Ready(None);
        }
        this.future.poll(context).map(Some)
    }
}

// === impl OpenGuard ===

impl Drop for OpenGuard {
    fn drop(&mut self) {
        let was = self.shared.open.fetch_sub(1, Ordering::SeqCst);
        // Nobody waits for quiet before the drain. Either this sees the phase, or `quiet_for`, which
        // runs after the phase was set, sees the count: both sides are sequentially consistent.
        if was == 1 && self.shared.phase() >= Phase::Draining {
            self.shared.closed_last.notify_waiters();
        }
    }
}

// === impl PhaseReached ===

impl Future for PhaseReached {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.shared.phase() >= *this.phase {
            return Poll::Ready(());
        }
        // A connection's task is woken for its bytes thousands of times and polls this each time. It is
        // in the list of waiters under this waker already, and the phase was just read: no need to take
        // the list's lock.
        if this.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        *this.waker = Some(context.waker().clone());
        this.notified.poll(context)
    }
}

// === impl Shared ===

impl Shared {
    fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::SeqCst))
    }

    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, to: Phase, new_deadline: Option<Instant>) {
        // The lock makes transitions one after the other; it is never taken to read the phase.
        let mut deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(new) = new_deadline
            && self.phase() < Phase::Forced
            && deadline.is_none_or(|old| new < old)
        {
            *deadline = Some(new);
            self.deadline_moved.notify_waiters();
        }
        let from = self.phase();
        if to > from {
            self.phase.store(to as u8, Ordering::SeqCst);
            for notify in &self.reached[from as usize..to as usize] {
                notify.notify_waiters();
            }
        }
    }

    /// Resolves when nothing has been open for so long.
    async fn quiet_for(&self, quiet: Duration) {
        loop {
            let closed_last = self.closed_last.notified();
            let opened = self.opened.load(Ordering::SeqCst);
            if self.open.load(Ordering::SeqCst) > 0 {
                closed_last.await;
                continue;
            }
            tokio::time::sleep(quiet).await;
            let still = self.open.load(Ordering::SeqCst) == 0;
            if still && self.opened.load(Ordering::SeqCst) == opened {
                return;
            }
        }
    }

    /// Resolves when accepting is to end, so that what was accepted may end too.
    async fn near_deadline(&self, started: Instant) {
        loop {
            let moved = self.deadline_moved.notified();
            let Some(deadline) = self.deadline() else {
                moved.await;
                continue;
            };
            let closing = (deadline.saturating_duration_since(started) / 5).min(CLOSING_MAX);
            tokio::select! {
                () = tokio::time::sleep_until(deadline - closing) => return,
                () = moved => {}
            }
        }
    }

    /// Resolves at the deadline, wherever it has been moved to.
    async fn past_deadline(&self) {
        loop {
            let moved = self.deadline_moved.notified();
            // None where somebody closed without draining first.
            let Some(deadline) = self.deadline() else {
                moved.await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return,
                () = moved => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
