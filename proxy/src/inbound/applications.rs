//! The application behind each address that was dialled, where connections are redirected.
//!
//! One pool per address and port, made on first use, forgotten when nothing of it is left. Peers
//! choose which ports they dial, so their number has a bound; past it a connection gets a pool of its
//! own, which ends with it.

use super::Application;
use crate::worker::Worker;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

/// Addresses kept per worker. A workload serves on a handful; a port scan must not grow memory.
const APPLICATIONS_MAX: usize = 256;

/// The applications of one worker.
#[derive(Default)]
pub struct Applications {
    held: RefCell<HashMap<SocketAddr, Rc<Application>>>,
}

// === impl Applications ===

impl Applications {
    /// The application at that address.
    pub fn at(&self, worker: &Worker, address: SocketAddr) -> Rc<Application> {
        let mut held = self.held.borrow_mut();
        if let Some(application) = held.get(&address) {
            return application.clone();
        }
        let application = Rc::new(Application::new(address));
        if held.len() < APPLICATIONS_MAX {
            worker.destinations.keep_swept(application.pool());
            held.insert(address, application.clone());
        }
        application
    }

    /// Forgets those of which nothing is left.
    pub fn sweep(&self) {
        self.held
            .borrow_mut()
            .retain(|_, application| Rc::strong_count(application) > 1 || !application.pool().is_empty());
    }
}
