//! The drain's promises, in paused time: order of phases, deadlines, quiet, and cheap waiting.

use std::pin::pin;
use std::task::Wake;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_sequence_fails_readiness_waits_for_quiet_then_closes_and_forces() {
    let (trigger, watch) = channel();
    let (readiness, latch) = Readiness::new("configuration");
    latch.release();
    let guard = watch.opened();
    let start = Instant::now();

    let mut sequence = pin!(run(&trigger, &readiness, 2 * SECOND));
    assert!(poll_once(sequence.as_mut()).await.is_none());
    assert!(readiness.is_ready());

    trigger.drain(25 * SECOND);
    assert!(poll_once(sequence.as_mut()).await.is_none());
    assert_eq!(readiness.missing(), ["draining"]);
    assert_eq!(watch.phase(), Phase::Draining);

    tokio::time::advance(5 * SECOND).await;
    assert!(poll_once(sequence.as_mut()).await.is_none());
    assert_eq!(watch.phase(), Phase::Draining, "open connections keep it from closing");

    drop(guard);
    assert_eq!(sequence.await, Outcome::Quiet);
    assert_eq!(watch.phase(), Phase::Forced);
    assert_eq!(start.elapsed(), 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_and_goes_starts_the_quiet_time_again() {
    let (trigger, watch) = channel();
    let (readiness, _latch) = Readiness::new("configuration");
    let start = Instant::now();
    let mut sequence = pin!(run(&trigger, &readiness, 2 * SECOND));
    trigger.drain(25 * SECOND);
    assert!(poll_once(sequence.as_mut()).await.is_none());
    tokio::time::advance(SECOND).await;
    drop(watch.opened());
    assert_eq!(sequence.await, Outcome::Quiet);
    assert_eq!(start.elapsed(), 4 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_cuts_what_is_open() {
    let (trigger, watch) = channel();
    let (readiness, _latch) = Readiness::new("configuration");
    let _guards = [watch.opened(), watch.opened()];
    let start = Instant::now();
    trigger.drain(25 * SECOND);
    let outcome = run(&trigger, &readiness, SECOND).await;
    assert_eq!(outcome, Outcome::Deadline { open: 2 });
    assert_eq!(start.elapsed(), 25 * SECOND);
    assert_eq!(watch.phase(), Phase::Forced);
}

#[tokio::test(start_paused = true)]
async fn under_clients_that_never_stop_accepting_ends_before_the_deadline_and_the_last_may_finish() {
    let (trigger, watch) = channel();
    let (readiness, _latch) = Readiness::new("configuration");
    let last = watch.opened();
    let start = Instant::now();
    trigger.drain(25 * SECOND);
    let closing = async {
        watch.closing().await;
        assert_eq!(start.elapsed(), 20 * SECOND);
        tokio::time::sleep(SECOND).await;
        drop(last);
    };
    let (outcome, ()) = tokio::join!(run(&trigger, &readiness, 2 * SECOND), closing);
    assert_eq!(outcome, Outcome::Quiet);
    assert_eq!(start.elapsed(), 21 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_deadline_wins_even_while_draining_and_a_later_one_does_not() {
    let (trigger, watch) = channel();
    let (readiness, _latch) = Readiness::new("configuration");
    let _guard = watch.opened();
    let start = Instant::now();
    trigger.drain(25 * SECOND);
    let mut sequence = pin!(run(&trigger, &readiness, SECOND));
    assert!(poll_once(sequence.as_mut()).await.is_none());
    trigger.drain(5 * SECOND);
    trigger.drain(60 * SECOND);
    assert_eq!(watch.deadline(), Some(start + 5 * SECOND));
    assert_eq!(sequence.await, Outcome::Deadline { open: 1 });
    assert_eq!(start.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn force_ends_the_sequence_at_once_from_any_phase() {
    for begin_with_drain in [false, true] {
        let (trigger, watch) = channel();
        let (readiness, _latch) = Readiness::new("configuration");
        let _guard = watch.opened();
        let start = Instant::now();
        if begin_with_drain {
            trigger.drain(25 * SECOND);
        }
        let mut sequence = pin!(run(&trigger, &readiness, SECOND));
        assert!(poll_once(sequence.as_mut()).await.is_none());
        trigger.force();
        assert_eq!(sequence.await, Outcome::Forced { open: 1 });
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn closing_without_a_drain_has_no_deadline_until_one_is_given() {
    let (trigger, watch) = channel();
    let (readiness, _latch) = Readiness::new("configuration");
    let _guard = watch.opened();
    trigger.close();
    let mut sequence = pin!(run(&trigger, &readiness, SECOND));
    assert!(poll_once(sequence.as_mut()).await.is_none());
    tokio::time::advance(3600 * SECOND).await;
    assert!(poll_once(sequence.as_mut()).await.is_none());
    let start = Instant::now();
    trigger.drain(5 * SECOND);
    assert_eq!(sequence.await, Outcome::Deadline { open: 1 });
    assert_eq!(start.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn phases_never_go_back() {
    let (trigger, watch) = channel();
    trigger.close();
    trigger.drain(SECOND);
    assert_eq!(watch.phase(), Phase::Closing);
    trigger.force();
    trigger.close();
    trigger.drain(SECOND);
    assert_eq!(watch.phase(), Phase::Forced);
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_end_does_not_overflow_the_clock() {
    let (trigger, watch) = channel();
    trigger.drain(Duration::MAX);
    assert!(watch.is_draining());
    assert!(watch.deadline().is_some());
}

#[tokio::test]
async fn listeners_run_until_closing_and_connections_until_forced() {
    let (trigger, watch) = channel();
    assert_eq!(watch.until_closing(async { 1 }).await, Some(1));
    trigger.drain(SECOND);
    assert_eq!(watch.until_closing(async { 2 }).await, Some(2));
    trigger.close();
    assert_eq!(watch.until_closing(std::future::pending::<()>()).await, None);
    assert_eq!(watch.until_forced(async { 3 }).await, Some(3));
    trigger.force();
    assert_eq!(watch.until_forced(std::future::pending::<()>()).await, None);
}

#[test]
fn waiters_on_several_threads_and_runtimes_are_all_woken() {
    let (trigger, watch) = channel();
    let (waiting, all_waiting) = std::sync::mpsc::channel();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (watch, waiting) = (watch.clone(), waiting.clone());
            std::thread::spawn(move || {
                let runtime = crate::workers::build_runtime().unwrap();
                runtime.block_on(async {
                    let mut draining = pin!(watch.draining());
                    assert!(poll_once(draining.as_mut()).await.is_none());
                    waiting.send(()).unwrap();
                    draining.await;
                    watch.forced().await;
                });
            })
        })
        .collect();
    for _ in 0..4 {
        all_waiting.recv().unwrap();
    }
    trigger.drain(SECOND);
    trigger.force();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_waiter_polled_again_by_another_task_wakes_that_one() {
    struct Counting(AtomicUsize);
    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (first, second) = (Arc::new(Counting(AtomicUsize::new(0))), Arc::new(Counting(AtomicUsize::new(0))));
    let (trigger, watch) = channel();
    let mut draining = pin!(watch.draining());
    for counting in [&first, &first, &second, &second] {
        let waker = Waker::from(counting.clone());
        let polled = draining.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    trigger.drain(SECOND);
    assert_eq!(first.0.load(Ordering::SeqCst), 0);
    assert_eq!(second.0.load(Ordering::SeqCst), 1);
    let waker = Waker::from(second);
    assert!(draining.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
}

#[test]
fn open_connections_are_counted_exactly_over_threads() {
    let (_trigger, watch) = channel();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let watch = watch.clone();
            std::thread::spawn(move || (0..1_000).for_each(|_| drop(watch.opened())))
        })
        .collect();
    let kept = watch.opened();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(watch.open(), 1);
    drop(kept);
    assert_eq!(watch.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_untouched_is_asked_nothing_until_everything_must_end() {
    let (trigger, watch) = channel();
    let untouched = watch.untouched();
    trigger.drain(SECOND);
    trigger.close();
    assert!(watch.is_draining() && !untouched.is_draining());
    let mut asked = pin!(untouched.draining());
    assert!(poll_once(asked.as_mut()).await.is_none());
    trigger.force();
    assert!(untouched.is_draining());
    asked.await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_never_quiet_ends_when_it_is_told_that_nobody_is_left() {
    let (trigger, watch) = channel();
    let (readiness, latch) = Readiness::new("test");
    latch.release();
    let mut sequence = pin!(run(&trigger, &readiness, Duration::MAX));
    trigger.drain(60 * SECOND);
    let still = tokio::time::timeout(30 * SECOND, sequence.as_mut()).await;
    assert!(still.is_err(), "nothing open says nothing here");
    let open = watch.opened();
    let start = Instant::now();
    trigger.finish(5 * SECOND);
    assert_eq!(watch.phase(), Phase::Closing);
    let still = tokio::time::timeout(SECOND, sequence.as_mut()).await;
    assert!(still.is_err(), "what is under way may end");
    drop(open);
    assert_eq!(sequence.await, Outcome::Quiet);
    assert!(start.elapsed() < 2 * SECOND);
    assert!(!readiness.is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_end_without_a_drain_before_it_is_bounded() {
    let (trigger, watch) = channel();
    let (readiness, latch) = Readiness::new("test");
    latch.release();
    let _open = watch.opened();
    let start = Instant::now();
    trigger.finish(5 * SECOND);
    assert_eq!(run(&trigger, &readiness, Duration::MAX).await, Outcome::Deadline { open: 1 });
    assert_eq!(start.elapsed(), 5 * SECOND);
}

/// Polls once, under the calling task's waker.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
