//! Faults on purpose (TrafficPolicy, `faults`): some of a Service's requests wait, or are answered with an
//! error, at the caller's own proxy.
//!
//! They come before routes, retries and mirrors: what is answered here was sent to nobody, and is not tried
//! again. A wait is spent of the request's deadline. A fault ends by itself when its time is over.

use crate::http::{Known, Response};
use crate::worker::Worker;
use std::time::{Duration, SystemTime};
use weft_model::reason::Reason;
use weft_model::request::HttpFacts;
use weft_model::route::Fraction;
use weft_model::traffic::{Abort, Fault};

/// What is to become of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drawn {
    /// It waits.
    pub delay: Option<Duration>,
    /// It is answered.
    pub abort: Option<Abort>,
}

/// Draws what is to become of a request. `None`: nothing.
pub fn draw(worker: &Worker, faults: &[Fault], facts: &HttpFacts<'_>) -> Option<Box<Drawn>> {
    if faults.is_empty() {
        return None;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let policy = worker.policy.current();
    let caller = policy.own.workload.as_ref().map(|own| own.identity());
    let mut alive = faults.iter().filter(|fault| !fault.is_over(now));
    let fault = alive.find(|fault| fault.matches(caller.as_ref(), facts))?;
    let draws = |share: Fraction| {
        let denominator = usize::try_from(share.denominator).unwrap_or(usize::MAX);
        let drawn = worker.random.borrow_mut().below(denominator);
        share.takes(u32::try_from(drawn).unwrap_or(u32::MAX))
    };
    let delay = fault.delay.filter(|delay| draws(delay.share)).map(|delay| delay.time);
    let abort = fault.abort.filter(|abort| draws(abort.share));
    (delay.is_some() || abort.is_some()).then(|| Box::new(Drawn { delay, abort }))
}

impl Drawn {
    /// Waits, and answers where that is its part. `None`: the request goes on.
    pub async fn apply(&self, worker: &Worker, grpc: bool) -> Option<Response> {
        if let Some(delay) = self.delay {
            worker.metrics.faulted("delay");
            tokio::time::sleep(delay).await;
        }
        let abort = self.abort.as_ref()?;
        let mut response = Response::local(Reason::FaultInjected);
        if grpc {
            let status = abort.of_call()?.to_string();
            // A number follows the grammar.
            let _ = response.head.headers_mut().append_known(Known::GrpcStatus, status.as_bytes());
        } else {
            response.head.status = abort.status?;
        }
        worker.metrics.faulted("abort");
        Some(response)
    }
}
