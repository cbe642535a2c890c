//! How many requests an application is given at once, and who waits for their turn meanwhile.
//!
//! Up to the limit a request costs two exchanges of an atomic word. Beyond it requests wait in a
//! [`FairQueue`], behind a lock that nobody touches otherwise. A place that becomes free goes to
//! whose turn it is; who leaves, or whose deadline passes, gives up its place in the queue at once.

use super::gradient::{Gradient, STEP};
use super::queue::{FairQueue, Pushed, Ticket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use weft_model::traffic::Concurrency;

/// Who asks for a place.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Whose line it waits in.
    pub line: u64,
    /// Whether it is late in its chain.
    pub late: bool,
    /// When it has no use for a place any more.
    pub deadline: Option<Instant>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// As many wait as may, and its own line is not shorter than the longest.
    Full,
    /// It waited as long as may be waited.
    Waited,
    /// Its deadline passed.
    Late,
}

/// Places at an application.
#[derive(Debug)]
pub struct Limiter {
    start: Instant,
    in_flight: AtomicU32,
    limit: AtomicU32,
    waiting: AtomicU32,
    queue_max: AtomicU32,
    /// In milliseconds.
    wait_max: AtomicU64,
    queue: Mutex<FairQueue<oneshot::Sender<Place>>>,
    adaptive: AtomicBool,
    gradient: Mutex<Gradient>,
    /// When the gradient's next step is due, in nanoseconds since the start.
    due: AtomicU64,
}

/// What one request holds: a place of each limiter that counts for it. One is the rule.
#[derive(Debug, Default)]
pub struct Places {
    first: Option<Place>,
    more: Vec<Place>,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub struct Place {
    /// `None`: it was never handed out.
    limiter: Option<Arc<Limiter>>,
    since: Instant,
}

/// Takes who leaves out of the queue.
struct Waiting<'a> {
    limiter: &'a Limiter,
    ticket: Ticket,
}

// === impl Limiter ===

impl Limiter {
    /// As its policy says.
    pub fn new(says: &Concurrency, start: Instant) -> Arc<Self> {
        let limiter = Self {
            start,
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(says.max),
            waiting: AtomicU32::new(0),
            queue_max: AtomicU32::new(0),
            wait_max: AtomicU64::new(0),
            queue: Mutex::default(),
            adaptive: AtomicBool::new(false),
            gradient: Mutex::new(Gradient::new(says.min, says.max)),
            due: AtomicU64::new(0),
        };
        let limiter = Arc::new(limiter);
        limiter.update(says);
        limiter
    }

    /// As its policy says now. Who is being served or waits already goes on, and so does what an adaptive limit
    /// has learned.
    pub fn update(self: &Arc<Self>, says: &Concurrency) {
        let adaptive = says.min < says.max;
        let mut gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        if adaptive && self.adaptive.load(Ordering::Relaxed) {
            gradient.bound(says.min, says.max);
        } else {
            *gradient = Gradient::new(says.min, says.max);
        }
        let limit = if adaptive { gradient.limit() } else { says.max };
        drop(gradient);
        self.adaptive.store(adaptive, Ordering::Relaxed);
        self.limit.store(limit, Ordering::SeqCst);
        self.queue_max.store(says.queue, Ordering::Relaxed);
        self.wait_max.store(u64::try_from(says.wait.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.serve();
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many may be served at once.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// A place, if one is free and nobody waits for it.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        (self.waiting.load(Ordering::SeqCst) == 0 && self.enter()).then(|| self.place())
    }

    /// A place, when it is one's turn.
    pub async fn wait(self: &Arc<Self>, asker: Asker) -> Result<Place, Refused> {
        let (sender, receiver) = oneshot::channel();
        let waiting = match self.queue_up(asker, sender)? {
            Queued::Place(place) => return Ok(place),
            Queued::Waiting(ticket) => Waiting { limiter: self, ticket },
        };
        let longest = Instant::now() + Duration::from_millis(self.wait_max.load(Ordering::Relaxed));
        let (until, why) = match asker.deadline {
            Some(deadline) if deadline < longest => (deadline, Refused::Late),
            _ => (longest, Refused::Waited),
        };
        let outcome = tokio::time::timeout_at(until.into(), receiver).await;
        // After this nobody gives it a place any more; one given meanwhile lies in the channel, which frees it.
        drop(waiting);
        match outcome {
            Ok(Ok(place)) => Ok(place),
            // Somebody of a shorter line took its place in the queue.
            Ok(Err(_)) => Err(Refused::Full),
            Err(_) => Err(why),
        }
    }

    fn queue_up(self: &Arc<Self>, asker: Asker, sender: oneshot::Sender<Place>) -> Result<Queued, Refused> {
        let mut queue = self.lock();
        // Said before it is looked: a place that becomes free now is seen here, or sees this.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if queue.is_empty() && self.enter() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Ok(Queued::Place(self.place()));
        }
        match queue.push(asker.line, asker.late, self.queue_max.load(Ordering::Relaxed) as usize, sender) {
            Pushed::Waits(ticket) => Ok(Queued::Waiting(ticket)),
            Pushed::InPlaceOf(ticket, gone) => {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                drop(gone);
                Ok(Queued::Waiting(ticket))
            }
            Pushed::Full(_) => {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                Err(Refused::Full)
            }
        }
    }

    /// Gives what is free to those whose turn it is.
    fn serve(self: &Arc<Self>) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut queue = self.lock();
        while !queue.is_empty() && self.enter() {
            let mut given = false;
            while !given && let Some(next) = queue.pop() {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                match next.send(self.place()) {
                    Ok(()) => given = true,
                    // Who just left. The place is the next one's; freeing it would ask for the lock again.
                    Err(mut place) => place.limiter = None,
                }
            }
            if !given {
                self.in_flight.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn enter(&self) -> bool {
        let limit = self.limit();
        let more = |held| (held < limit).then(|| held + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn place(self: &Arc<Self>) -> Place {
        Place { limiter: Some(self.clone()), since: Instant::now() }
    }

    fn answered(self: &Arc<Self>, took: Duration) {
        if !self.adaptive.load(Ordering::Relaxed) {
            return;
        }
        // A sample more or less is nothing: who would have to wait for the lock goes on.
        let Ok(mut gradient) = self.gradient.try_lock() else { return };
        gradient.sample(took, self.in_flight.load(Ordering::Relaxed));
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if now < self.due.load(Ordering::Relaxed) {
            return;
        }
        self.due.store(now.saturating_add(STEP.as_nanos() as u64), Ordering::Relaxed);
        if gradient.step() {
            self.limit.store(gradient.limit(), Ordering::SeqCst);
            drop(gradient);
            self.serve();
        }
    }

    fn lock(&self) -> MutexGuard<'_, FairQueue<oneshot::Sender<Place>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Queued {
    Place(Place),
    Waiting(Ticket),
}

impl Places {
    /// One more.
    pub fn push(&mut self, place: Place) {
        match self.first {
            None => self.first = Some(place),
            Some(_) => self.more.push(place),
        }
    }

    /// See [`Place::answered`].
    pub fn answered(&self) {
        self.first.iter().chain(&self.more).for_each(Place::answered);
    }
}

impl Place {
    /// The application has begun to answer: how long that took is what an adaptive limit learns from.
    pub fn answered(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.answered(self.since.elapsed());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(limiter) = self.limiter.take() else { return };
        limiter.in_flight.fetch_sub(1, Ordering::SeqCst);
        limiter.serve();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.limiter.lock().remove(self.ticket).is_some() {
            self.limiter.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(max: u32, queue: u32) -> Arc<Limiter> {
        // Longer than any machine under load keeps a thread waiting.
        let says = Concurrency { min: max, max, queue, wait: Duration::from_secs(60) };
        Limiter::new(&says, Instant::now())
    }

    fn asker(line: u64) -> Asker {
        Asker { line, late: false, deadline: None }
    }

    /// Whether a future that was polled once has come to its end.
    async fn poll_once<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> Option<T> {
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_goes_to_whose_turn_it_is_and_nobody_overtakes() {
        let limiter = limiter(1, 10);
        let first = limiter.take().unwrap();
        assert!(limiter.take().is_none());
        let mut noisy = [Box::pin(limiter.wait(asker(1))), Box::pin(limiter.wait(asker(1)))];
        let mut quiet = Box::pin(limiter.wait(asker(2)));
        for waits in &mut noisy {
            assert!(poll_once(waits).await.is_none());
        }
        assert!(poll_once(&mut quiet).await.is_none());
        assert_eq!(limiter.waiting(), 3);
        drop(first);
        assert!(limiter.take().is_none(), "it is given to who waits");
        let second = poll_once(&mut noisy[0]).await.unwrap().unwrap();
        drop(second);
        assert!(poll_once(&mut noisy[1]).await.is_none());
        let third = poll_once(&mut quiet).await.unwrap().unwrap();
        drop(third);
        drop(poll_once(&mut noisy[1]).await.unwrap().unwrap());
        assert_eq!(limiter.waiting(), 0);
        assert!(limiter.take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_holds_neither_a_place_nor_a_turn() {
        let limiter = limiter(1, 10);
        let first = limiter.take().unwrap();
        let mut leaves = Box::pin(limiter.wait(asker(1)));
        let mut given = Box::pin(limiter.wait(asker(2)));
        let mut stays = Box::pin(limiter.wait(asker(3)));
        for waits in [&mut leaves, &mut given, &mut stays] {
            assert!(poll_once(waits).await.is_none());
        }
        drop(leaves);
        assert_eq!(limiter.waiting(), 2);
        drop(first);
        // It was given a place that it never looked at.
        drop(given);
        let place = poll_once(&mut stays).await.unwrap().unwrap();
        assert!(limiter.take().is_none());
        drop(place);
        assert!(limiter.take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_beyond_its_deadline_or_the_longest_wait() {
        let limiter = limiter(1, 10);
        let _held = limiter.take().unwrap();
        let deadline = Some(Instant::now() + Duration::from_millis(100));
        assert_eq!(limiter.wait(Asker { deadline, ..asker(1) }).await.unwrap_err(), Refused::Late);
        assert_eq!(limiter.wait(asker(1)).await.unwrap_err(), Refused::Waited);
        assert_eq!(limiter.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_the_crowd_and_not_who_comes_alone() {
        let limiter = limiter(1, 2);
        let _held = limiter.take().unwrap();
        let mut crowd = [Box::pin(limiter.wait(asker(1))), Box::pin(limiter.wait(asker(1)))];
        for waits in &mut crowd {
            assert!(poll_once(waits).await.is_none());
        }
        assert_eq!(limiter.wait(asker(1)).await.unwrap_err(), Refused::Full);
        let mut alone = Box::pin(limiter.wait(asker(2)));
        assert!(poll_once(&mut alone).await.is_none());
        assert_eq!(poll_once(&mut crowd[1]).await.unwrap().unwrap_err(), Refused::Full);
        assert_eq!(limiter.waiting(), 2);
    }

    #[test]
    fn places_are_never_more_than_the_limit_on_many_threads() {
        let limiter = limiter(3, 1000);
        let (most, served) = (AtomicU32::new(0), AtomicU32::new(0));
        let in_use = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for line in 0..4 {
                let (limiter, most, served, in_use) = (&limiter, &most, &served, &in_use);
                scope.spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    runtime.block_on(async {
                        for _ in 0..500 {
                            let place = match limiter.take() {
                                Some(place) => place,
                                None => limiter.wait(asker(line)).await.unwrap(),
                            };
                            most.fetch_max(in_use.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::yield_now();
                            in_use.fetch_sub(1, Ordering::SeqCst);
                            drop(place);
                            served.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                });
            }
        });
        assert!(most.into_inner() <= 3);
        assert_eq!((served.into_inner(), limiter.waiting()), (2000, 0));
        assert_eq!(limiter.in_flight.load(Ordering::SeqCst), 0);
    }

    /// A server with ten places of 10 ms each. The victim asks 50 times a second, in steady order; the noisy
    /// client twenty times as often as the server can bear altogether. Time is counted, not waited for.
    #[test]
    fn a_noisy_neighbour_at_twenty_times_the_load_does_not_double_the_victims_p99() {
        let quiet = p99(0);
        let loud = p99(20);
        assert_eq!(quiet, 10_000);
        assert!(loud <= 2 * quiet, "{loud} µs beside {quiet} µs");
    }

    /// The victim's p99 in microseconds.
    fn p99(noise: u64) -> u64 {
        const PLACES: usize = 10;
        const SERVICE: u64 = 10_000;
        let mut queue = FairQueue::default();
        let mut busy: Vec<u64> = Vec::new();
        let mut took = Vec::new();
        let mut start = |busy: &mut Vec<u64>, now: u64, (line, came): (u64, u64)| {
            busy.push(now + SERVICE);
            if line == 1 {
                took.push(now + SERVICE - came);
            }
        };
        // 1,000 a second is what the server bears: one each 1,000 µs, times the noise.
        let gap = 1_000_u64.checked_div(noise);
        for now in (0..10_000_000_u64).step_by(50) {
            busy.retain(|end| *end > now);
            let mut comes = Vec::new();
            if gap.is_some_and(|gap| now % gap == 0) {
                comes.push((2, now));
            }
            if now % 20_000 == 350 {
                comes.push((1, now));
            }
            for (line, came) in comes {
                let _ = queue.push(line, false, 1000, (line, came));
            }
            while busy.len() < PLACES
                && let Some(next) = queue.pop()
            {
                start(&mut busy, now, next);
            }
        }
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }
}
