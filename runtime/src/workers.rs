//! Worker threads: how many ([`Cgroup`], [`worker_count`]), and running them ([`start`]): one operating
//! system thread each, with its own single-threaded runtime, so that what belongs to a worker needs
//! neither locks nor `Send`.
//! The number is fixed for the process's life. A worker that ends or panics is reported to whoever holds
//! [`Workers`]; nothing is restarted here, since a worker's death is a bug that must be seen.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use cgroup::{Cgroup, worker_count};

mod cgroup;

/// Which worker: from 0, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerIndex(usize);

/// The workers that were started.
#[derive(Debug)]
pub struct Workers<T> {
    ends: mpsc::Receiver<WorkerEnd<T>>,
    /// Threads that have not been seen to end, by index.
    running: Vec<Option<thread::JoinHandle<()>>>,
}

/// A worker ended, and how. Whether it was meant to is the caller's to know.
#[derive(Debug)]
pub struct WorkerEnd<T> {
    /// Which one.
    pub index: WorkerIndex,
    /// What its future returned, or why it did not return.
    pub outcome: Result<T, WorkerError>,
}

/// What became of all workers at [`Workers::join`].
#[derive(Debug)]
pub struct Joined<T> {
    /// Those that ended in time, in that order.
    pub ended: Vec<WorkerEnd<T>>,
    /// Those that did not: their threads go on until the process exits.
    pub still_running: Vec<WorkerIndex>,
}

/// Why a worker ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Its runtime could not be made (out of file descriptors, as a rule).
    #[error("the worker's runtime could not be made")]
    Runtime(#[source] io::Error),
    /// Its own future panicked (a panic in a task that it spawned ends only that task).
    #[error("the worker panicked: {message:?}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
}

/// The runtime of a worker, and of the main thread: single-threaded, input/output and timers on, every
/// other knob as tokio ships it. It takes tasks that are not `Send` ([`crate::spawn_local`]) as well as
/// those that are, without the second scheduler that a `LocalSet` would put inside the first.
///
/// # Errors
/// What the operating system says when it gives no epoll or wake-up descriptor.
pub fn build_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())
}

/// Starts `count` threads named `name-0`, `name-1`, ... Each builds its runtime and runs the future that
/// the factory makes on it, inside the runtime's context; the factory crosses threads, the future does
/// not. When that future ends, the worker's tasks are dropped with its runtime.
///
/// # Errors
/// When a thread cannot be started. Those started before it keep running: the caller is to exit.
pub fn start<T, F, Fut>(count: NonZeroUsize, name: &str, factory: F) -> io::Result<Workers<T>>
where
    T: Send + 'static,
    F: FnOnce(WorkerIndex) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    // Each worker sends once: the capacity is never exceeded.
    let (report, ends) = mpsc::channel(count.get());
    let mut running = Vec::with_capacity(count.get());
    for index in (0..count.get()).map(WorkerIndex) {
        let (factory, report) = (factory.clone(), report.clone());
        let handle = thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
            let outcome = run_worker(index, factory);
            // Nobody listens any more: then nobody wants to know.
            let _ = report.try_send(WorkerEnd { index, outcome });
        })?;
        running.push(Some(handle));
    }
    Ok(Workers { ends, running })
}

fn run_worker<T, F, Fut>(index: WorkerIndex, factory: F) -> Result<T, WorkerError>
where
    F: FnOnce(WorkerIndex) -> Fut,
    Fut: Future<Output = T>,
{
    catch_unwind(AssertUnwindSafe(|| {
        let runtime = build_runtime().map_err(WorkerError::Runtime)?;
        let output = runtime.block_on(async move { factory(index).await });
        // Here, not after the report: dropping the worker's tasks is part of its end.
        drop(runtime);
        Ok(output)
    }))
    .unwrap_or_else(|payload| {
        Err(WorkerError::Panicked { message: panic_message(payload.as_ref()).to_owned() })
    })
}

/// What a panic said, where it said anything.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(message) = payload.downcast_ref::<&'static str>() {
        message
    } else if let Some(message) = payload.downcast_ref::<String>() {
        message
    } else {
        "(no message)"
    }
}

// === impl WorkerIndex ===

impl WorkerIndex {
    /// The number, from 0.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }
}

impl fmt::Display for WorkerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Workers ===

impl<T> Workers<T> {
    /// The next worker that ends; none when all have. Can be dropped and called again without loss.
    pub async fn ended(&mut self) -> Option<WorkerEnd<T>> {
        let end = self.ends.recv().await?;
        if let Some(handle) = self.running.get_mut(end.index.0).and_then(Option::take) {
            // The report is the thread's last act, and it cannot panic any more.
            let _ = handle.join();
        }
        Some(end)
    }

    /// How many have not been seen to end.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.iter().flatten().count()
    }

    /// Waits for all of them, until the deadline. Tells nobody to stop: that is the drain's.
    pub async fn join(mut self, deadline: Instant) -> Joined<T> {
        let mut ended = Vec::with_capacity(self.running.len());
        while let Ok(Some(end)) = tokio::time::timeout_at(deadline, self.ended()).await {
            ended.push(end);
        }
        let still_running =
            (0..self.running.len()).filter(|&index| self.running[index].is_some()).map(WorkerIndex).collect();
        Joined { ended, still_running }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;

    fn in_runtime<F: Future>(future: F) -> F::Output {
        build_runtime().unwrap().block_on(future)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn each_worker_has_its_own_named_thread_and_its_future_need_not_be_send() {
        let two = NonZeroUsize::new(2).unwrap();
        let workers = start(two, "weft-worker", |index| {
            let held = Rc::new(index.get());
            async move {
                let inner = held.clone();
                crate::spawn_local("inner", async move { *inner }).await.unwrap();
                (thread::current().name().map(str::to_owned), *held)
            }
        })
        .unwrap();
        let joined = in_runtime(async { workers.join(soon()).await });
        assert!(joined.still_running.is_empty());
        let mut names: Vec<_> = joined.ended.into_iter().map(|end| end.outcome.unwrap()).collect();
        names.sort();
        assert_eq!(names[0], (Some("weft-worker-0".to_owned()), 0));
        assert_eq!(names[1], (Some("weft-worker-1".to_owned()), 1));
    }

    #[test]
    fn a_worker_that_panics_is_reported_while_the_others_go_on() {
        let (trigger, watch) = crate::drain::channel();
        let two = NonZeroUsize::new(2).unwrap();
        let mut workers = start(two, "panics", move |index| async move {
            assert!(index.get() != 1, "worker {index} on purpose");
            watch.closing().await;
        })
        .unwrap();
        in_runtime(async {
            let end = workers.ended().await.unwrap();
            assert_eq!(end.index.get(), 1);
            assert_eq!(end.outcome.unwrap_err().to_string(), "the worker panicked: \"worker 1 on purpose\"");
            assert_eq!(workers.running(), 1);
            trigger.close();
            let joined = workers.join(soon()).await;
            assert_eq!(joined.ended.len(), 1);
            assert!(joined.still_running.is_empty());
        });
    }

    #[test]
    fn a_task_that_panics_does_not_end_its_worker() {
        let workers = start(NonZeroUsize::MIN, "task", |_| async {
            let task = crate::spawn_local("worker_task", async { panic!("on purpose") });
            task.await.is_err()
        })
        .unwrap();
        let joined = in_runtime(workers.join(soon()));
        assert!(matches!(joined.ended[0].outcome, Ok(true)));
    }

    #[test]
    fn a_worker_that_does_not_end_is_named_at_the_deadline() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let workers = start(NonZeroUsize::MIN, "stuck", move |_| async move {
            let _ = held.lock().unwrap().recv();
        })
        .unwrap();
        let joined = in_runtime(async { workers.join(Instant::now()).await });
        assert_eq!(joined.still_running, [WorkerIndex(0)]);
        assert!(joined.ended.is_empty());
        drop(release);
    }

    #[test]
    fn a_workers_tasks_are_dropped_before_its_end_is_reported() {
        let dropped = std::sync::Arc::new(());
        let held = dropped.clone();
        let workers = start(NonZeroUsize::MIN, "drops", move |_| async move {
            crate::spawn_local("holder", async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
            tokio::task::yield_now().await;
        })
        .unwrap();
        let joined = in_runtime(workers.join(soon()));
        assert!(joined.ended[0].outcome.is_ok());
        assert_eq!(std::sync::Arc::strong_count(&dropped), 1);
    }
}
