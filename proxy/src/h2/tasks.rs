//! The tasks that answer the requests of one connection, kept from one request to the next.
//!
//! What answers a request is a future of several kilobytes. In a task of its own it would be allocated, moved into
//! place and freed for each request; here a task that has answered one waits for the next. So many stay as were busy
//! at once lately: at each look, those end that had nothing to do since the look before.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The tasks that wait for work, the one that waited longest first.
pub(super) struct Tasks<W> {
    waiting: RefCell<Vec<Rc<Place<W>>>>,
    /// The fewest that waited at any moment since the last look.
    waiting_min: Cell<usize>,
    closed: Cell<bool>,
}

/// Where one task finds its work.
pub(super) struct Place<W> {
    work: Cell<Option<W>>,
    waker: Cell<Option<Waker>>,
    waits: Cell<bool>,
    ends: Cell<bool>,
}

/// Ends the tasks of a connection that is gone, when dropped: those that wait at once, others when they are done.
pub(super) struct Closing<'a, W>(pub(super) &'a Tasks<W>);

// === impl Tasks ===

impl<W> Tasks<W> {
    pub(super) fn new() -> Self {
        Self { waiting: RefCell::default(), waiting_min: Cell::new(0), closed: Cell::new(false) }
    }

    /// Gives work to a task that waits. `Some`: there is none; a new one is to [`work`](Self::work) there.
    pub(super) fn give(&self, work: W) -> Option<Rc<Place<W>>> {
        let mut waiting = self.waiting.borrow_mut();
        // The one that waited least: what it holds is warm, and those that are too many show.
        let Some(place) = waiting.pop() else {
            self.waiting_min.set(0);
            return Some(Rc::new(Place::with(work)));
        };
        self.waiting_min.set(self.waiting_min.get().min(waiting.len()));
        drop(waiting);
        place.waits.set(false);
        place.work.set(Some(work));
        place.wake();
        None
    }

    /// The next work for the task of this place; `None` when it is to end.
    pub(super) async fn work(&self, place: &Rc<Place<W>>) -> Option<W> {
        poll_fn(|cx| {
            if let Some(work) = place.work.take() {
                return Poll::Ready(Some(work));
            }
            if place.ends.get() || self.closed.get() {
                return Poll::Ready(None);
            }
            place.waker.set(Some(cx.waker().clone()));
            // It may be polled for other reasons while it waits already.
            if !place.waits.replace(true) {
                self.waiting.borrow_mut().push(place.clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Ends those that had nothing to do since the last look.
    pub(super) fn look(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let idle = self.waiting_min.get().min(waiting.len());
        let ending: Vec<_> = waiting.drain(..idle).collect();
        self.waiting_min.set(waiting.len());
        drop(waiting);
        ending.iter().for_each(|place| place.end());
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }
}

impl<W> Drop for Closing<'_, W> {
    fn drop(&mut self) {
        self.0.closed.set(true);
        let ending = std::mem::take(&mut *self.0.waiting.borrow_mut());
        ending.iter().for_each(|place| place.end());
    }
}

// === impl Place ===

impl<W> Place<W> {
    fn with(work: W) -> Self {
        Self {
            work: Cell::new(Some(work)),
            waker: Cell::default(),
            waits: Cell::new(false),
            ends: Cell::new(false),
        }
    }

    fn end(&self) {
        self.ends.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_runtime::spawn_local;
    use weft_runtime::workers::build_runtime;

    /// Gives work as a connection does; each piece notes its number.
    fn give(tasks: &Rc<Tasks<u32>>, done: &Rc<RefCell<Vec<u32>>>, number: u32) {
        let Some(place) = tasks.give(number) else { return };
        let (tasks, done) = (tasks.clone(), done.clone());
        drop(spawn_local("worker", async move {
            while let Some(number) = tasks.work(&place).await {
                tokio::task::yield_now().await;
                done.borrow_mut().push(number);
            }
        }));
    }

    /// Lets every task run that can.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    fn run(test: impl AsyncFn(Rc<Tasks<u32>>, Rc<RefCell<Vec<u32>>>)) {
        build_runtime().unwrap().block_on(test(Rc::new(Tasks::new()), Rc::default()));
    }

    #[test]
    fn a_task_that_is_done_takes_the_next_work() {
        run(async |tasks, done| {
            for number in 0..5 {
                give(&tasks, &done, number);
                settle().await;
            }
            assert_eq!(*done.borrow(), [0, 1, 2, 3, 4]);
            assert_eq!(tasks.waiting(), 1);
        });
    }

    #[test]
    fn work_that_comes_at_once_is_done_at_once_and_each_once() {
        run(async |tasks, done| {
            for round in 0..3 {
                (0..4).for_each(|number| give(&tasks, &done, round * 4 + number));
                settle().await;
                assert_eq!(tasks.waiting(), 4);
            }
            done.borrow_mut().sort_unstable();
            assert_eq!(*done.borrow(), (0..12).collect::<Vec<_>>());
        });
    }

    #[test]
    fn those_with_nothing_to_do_between_two_looks_end() {
        run(async |tasks, done| {
            (0..4).for_each(|number| give(&tasks, &done, number));
            settle().await;
            tasks.look();
            settle().await;
            assert_eq!(tasks.waiting(), 4, "they were busy since the look before");
            (0..2).for_each(|number| give(&tasks, &done, number));
            settle().await;
            tasks.look();
            settle().await;
            assert_eq!(tasks.waiting(), 2);
            assert_eq!(Rc::strong_count(&tasks), 3, "the tasks of the others are gone");
            tasks.look();
            settle().await;
            assert_eq!(tasks.waiting(), 0);
        });
    }

    #[test]
    fn a_connection_that_is_gone_leaves_no_task() {
        run(async |tasks, done| {
            (0..3).for_each(|number| give(&tasks, &done, number));
            settle().await;
            // One is at work while the connection goes.
            give(&tasks, &done, 3);
            drop(Closing(&tasks));
            settle().await;
            assert_eq!(done.borrow().len(), 4);
            assert_eq!(Rc::strong_count(&tasks), 1);
        });
    }
}
