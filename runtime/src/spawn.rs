//! The only door to tokio's task spawning (the bare functions are banned by `clippy.toml`): every task
//! has a name, and a panic in one is counted in `weft_runtime_task_panics_total{task}` and logged under
//! that name. It ends that task alone.
//! Draining is not forced on a task from here: whatever may live long holds a [`crate::drain::Watch`].
//! Cheap on purpose, since streams and connections are spawned through it: no allocation beyond tokio's
//! own, and a tracing span only while this module's debug level is on.

use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use prometheus::{IntCounterVec, Opts};
use tokio::task::JoinHandle;
use tracing::Span;

/// Panics by task name. A static, because a task can be spawned where no registry is at hand; every
/// [`crate::registry::Registry`] shows it.
pub(crate) static TASK_PANICS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    IntCounterVec::new(
        Opts::new("weft_runtime_task_panics_total", "Tasks that ended by a panic, by the task's name."),
        &["task"],
    )
    .expect("a constant metric must be well formed")
});

/// Spawns a task that may be polled on any thread of the runtime.
///
/// The name is a constant such as `"discovery"`: it becomes a metric label.
#[allow(clippy::disallowed_methods, reason = "this is the door that the ban leads to")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(Task::new(name, future))
}

/// Spawns a task on this thread, for futures that never leave it: a worker's connections and streams.
///
/// # Panics
/// Outside a runtime of [`crate::workers`] (or a `LocalSet`), as tokio does.
#[allow(clippy::disallowed_methods, reason = "this is the door that the ban leads to")]
pub fn spawn_local<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(Task::new(name, future))
}

pin_project! {
    /// A future with a name, which notices when it panics.
    struct Task<F> {
        name: &'static str,
        // Boxed, because it is there only while somebody debugs: a word in every other task.
        span: Option<Box<Span>>,
        #[pin]
        future: F,
    }
}

/// Dropped by unwinding only: each poll that returns forgets it.
struct NoticePanic(&'static str);

// === impl Task ===

impl<F> Task<F> {
    fn new(name: &'static str, future: F) -> Self {
        let span = tracing::debug_span!("task", task = name);
        Self { name, span: (!span.is_disabled()).then(|| Box::new(span)), future }
    }
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let notice = NoticePanic(this.name);
        let polled = match this.span {
            None => this.future.poll(context),
            Some(span) => {
                let _entered = span.enter();
                this.future.poll(context)
            }
        };
        std::mem::forget(notice);
        polled
    }
}

// === impl NoticePanic ===

impl Drop for NoticePanic {
    fn drop(&mut self) {
        TASK_PANICS.with_label_values(&[self.0]).inc();
        // What was said and where is the panic hook's line, just above this one.
        tracing::error!(task = self.0, "a task panicked; only this task ends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::build_runtime;

    #[tokio::test]
    async fn a_panic_is_counted_under_the_tasks_name_and_ends_only_the_task() {
        let bad = spawn("bad", async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        let good = spawn("good", async { 7 });
        assert!(bad.await.unwrap_err().is_panic());
        assert_eq!(good.await.unwrap(), 7);
        assert_eq!(TASK_PANICS.with_label_values(&["bad"]).get(), 1);
        assert_eq!(TASK_PANICS.with_label_values(&["good"]).get(), 0);
    }

    #[tokio::test]
    async fn an_abort_is_not_a_panic() {
        let task = spawn("aborted", std::future::pending::<()>());
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(TASK_PANICS.with_label_values(&["aborted"]).get(), 0);
    }

    #[test]
    fn a_local_task_need_not_be_send() {
        let runtime = build_runtime().unwrap();
        let answer = runtime.block_on(async {
            let held = std::rc::Rc::new(std::cell::Cell::new(1));
            let inner = held.clone();
            spawn_local("local", async move {
                tokio::task::yield_now().await;
                inner.set(2);
            })
            .await
            .unwrap();
            held.get()
        });
        assert_eq!(answer, 2);
    }

    #[test]
    fn the_wrapper_adds_three_words() {
        let future = async {
            // As aligned as what real tasks hold.
            let held = Box::new(1);
            std::future::pending::<()>().await;
            drop(held);
        };
        let bare = size_of_val(&future);
        let task = Task::new("sized", future);
        assert!(size_of_val(&task) <= bare + 3 * size_of::<usize>());
    }
}
