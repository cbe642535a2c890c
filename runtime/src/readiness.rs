//! Readiness as named latches: a program is ready when every latch is released, and says which ones
//! are missing while it is not (`/ready` on the admin server prints them).
//! A latch can be taken again, and a latch whose owner ended before it released it stays missing: a
//! part that died never makes the whole look ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// The process's readiness: shared, cloned freely, asked from any thread.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Names that are missing, with how many latches of that name are (one per worker, say).
    missing: Arc<watch::Sender<BTreeMap<&'static str, usize>>>,
}

/// One condition of readiness. It starts as missing.
#[derive(Debug)]
pub struct Latch {
    name: &'static str,
    released: AtomicBool,
    readiness: Readiness,
}

// === impl Readiness ===

impl Readiness {
    /// A readiness with its first latch. There is none without a latch, so that a process cannot look
    /// ready merely because nobody has said yet what it waits for. Make the other latches before the
    /// admin server starts.
    #[must_use]
    pub fn new(first: &'static str) -> (Self, Latch) {
        let readiness = Self { missing: Arc::new(watch::Sender::new(BTreeMap::new())) };
        let latch = readiness.latch(first);
        (readiness, latch)
    }

    /// A further latch, missing until it is released. Several may share a name (one for each worker);
    /// the name is missing until all of them are released.
    #[must_use]
    pub fn latch(&self, name: &'static str) -> Latch {
        self.take(name);
        Latch { name, released: AtomicBool::new(false), readiness: self.clone() }
    }

    /// Not ready from here on, for this reason: the drain's first step.
    pub fn fail(&self, name: &'static str) {
        self.take(name);
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.missing.borrow().is_empty()
    }

    /// The names of what is missing, sorted, each once.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing.borrow().keys().copied().collect()
    }

    /// Resolves when nothing is missing. It says that there was such a moment, not that it lasts.
    pub async fn ready(&self) {
        let mut receiver = self.missing.subscribe();
        // The sender lives in `self`, so that the channel cannot close here.
        let _ = receiver.wait_for(BTreeMap::is_empty).await;
    }

    /// Resolves when none of these names is missing, whatever else is.
    pub async fn released(&self, names: &[&str]) {
        let mut receiver = self.missing.subscribe();
        let none =
            |missing: &BTreeMap<&'static str, usize>| !names.iter().any(|name| missing.contains_key(name));
        // As above.
        let _ = receiver.wait_for(none).await;
    }

    fn take(&self, name: &'static str) {
        self.missing.send_modify(|missing| *missing.entry(name).or_default() += 1);
    }

    fn give(&self, name: &'static str) {
        self.missing.send_modify(|missing| {
            if let Some(count) = missing.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    missing.remove(name);
                }
            }
        });
    }
}

// === impl Latch ===

impl Latch {
    /// This condition holds. Releasing twice is releasing once.
    pub fn release(&self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            self.readiness.give(self.name);
        }
    }

    /// This condition no longer holds.
    pub fn hold(&self) {
        if self.released.swap(false, Ordering::AcqRel) {
            self.readiness.take(self.name);
        }
    }

    /// Whether it is released.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    /// The name under which it is missing.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_latch_is_released() {
        let (readiness, certificate) = Readiness::new("certificate");
        let listeners = readiness.latch("listeners");
        assert_eq!(readiness.missing(), ["certificate", "listeners"]);
        listeners.release();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.missing(), ["certificate"]);
        certificate.release();
        certificate.release();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_name_shared_by_workers_is_missing_until_the_last_one() {
        let (readiness, first) = Readiness::new("listeners");
        let second = readiness.latch("listeners");
        first.release();
        assert_eq!(readiness.missing(), ["listeners"]);
        second.release();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_latch_can_be_held_again() {
        let (readiness, configuration) = Readiness::new("configuration");
        configuration.release();
        configuration.hold();
        configuration.hold();
        assert_eq!(readiness.missing(), ["configuration"]);
        configuration.release();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_latch_dropped_before_its_release_stays_missing() {
        let (readiness, first) = Readiness::new("configuration");
        drop(first);
        assert_eq!(readiness.missing(), ["configuration"]);
    }

    #[test]
    fn a_latch_dropped_after_its_release_stays_released_and_failing_is_final() {
        let (readiness, first) = Readiness::new("configuration");
        first.release();
        drop(first);
        assert!(readiness.is_ready());
        readiness.fail("draining");
        assert_eq!(readiness.missing(), ["draining"]);
    }

    #[tokio::test]
    async fn waiting_ends_at_the_last_release_from_another_thread() {
        let (readiness, latch) = Readiness::new("certificate");
        let releaser = std::thread::spawn(move || latch.release());
        readiness.ready().await;
        assert!(readiness.is_ready());
        releaser.join().unwrap();
    }
}
