//! Waiting for a thing rather than for a time.
//!
//! Deadlines are generous because the machine may be busy; a test that passes never waits one out.

use std::future::Future;
use std::time::{Duration, Instant};

/// Longest wait for something that should come soon. Two loaded cores are assumed.
pub const SOON: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls until `probe` gives a value. Panics, naming `what`, when the deadline passes.
pub async fn eventually<T, F>(what: &str, probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    eventually_or(|| what.to_owned(), probe).await
}

/// The same, with what is to be said of it found out when the deadline has passed.
pub async fn eventually_or<T, F>(what: impl Fn() -> String, probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    poll(SOON, what, probe).await
}

/// The same with a limit of its own, for what takes its time on an idle machine, too.
pub async fn eventually_within<T, F>(limit: Duration, what: &str, probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    poll(limit, || what.to_owned(), probe).await
}

async fn poll<T, F>(limit: Duration, what: impl Fn() -> String, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {}", what());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Polls until `probe` says yes. Panics, naming `what`, when the deadline passes.
pub async fn until<F>(what: &str, probe: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    until_within(SOON, what, probe).await;
}

/// The same with a limit of its own, for what takes its time on an idle machine, too.
pub async fn until_within<F>(limit: Duration, what: &str, mut probe: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    eventually_within(limit, what, || {
        let answer = probe();
        async move { answer.await.then_some(()) }
    })
    .await;
}

/// Gives `future` until the deadline. Panics, naming `what`, when it passes.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {SOON:?}: {what}"),
    }
}

/// A task of a test. The harness stands outside the product, so it has a spawn of its own.
#[allow(clippy::disallowed_methods, reason = "the harness has no drain and no process metrics")]
pub fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(future)
}
