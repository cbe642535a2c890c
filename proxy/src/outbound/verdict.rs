//! What a gRPC call says of its endpoint where its status comes behind the answer, in trailers. The answer's
//! body keeps the try until then ([`exchange`](crate::exchange)): a call is judged once, by how it ended.
//!
//! How fast the endpoint is was learned from the head already: a stream's length is its application's
//! choice. A client that leaves, and a deadline that passes within the answer, say nothing.

use super::replica::{Outcome, Trying};
use super::{Port, classify};
use crate::worker::Worker;
use std::rc::Rc;
use weft_model::reason::Reason;

/// A gRPC call's status where it ended without one: UNKNOWN, as its client will say.
const UNKNOWN: u8 = 2;

/// A call whose end is not known yet.
pub struct Verdict {
    port: Rc<Port>,
    trying: Trying,
}

impl Verdict {
    /// Of a call whose answer began well.
    pub fn new(port: Rc<Port>, trying: Trying) -> Self {
        Self { port, trying }
    }

    /// Whether its endpoint waits for it. A stream may last for hours; a message is proof enough.
    pub fn is_probe(&self) -> bool {
        self.trying.is_probe()
    }

    /// Its endpoint serves it.
    pub fn serves(self, worker: &Worker) {
        self.port.report(worker, self.trying, Outcome::Answered);
    }

    /// It has ended, with that status if any.
    pub fn ended(self, worker: &Worker, status: Option<u8>) {
        let counts = self.port.model.traffic.ejection.counts;
        let outcome = classify::of_grpc_status(status.unwrap_or(UNKNOWN), counts);
        self.port.report(worker, self.trying, outcome);
    }

    /// It broke off.
    pub fn broken(self, worker: &Worker, reason: Reason) {
        if let Some(outcome) = classify::of_reason(reason) {
            self.port.report(worker, self.trying, outcome);
        }
    }
}
