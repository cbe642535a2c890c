//! Copies of requests for other Services, whose answers nobody reads (RequestMirror, GEP-3171).
//!
//! A copy never affects its original: it is made once the original's body has passed, runs in a task of
//! its own with a deadline of its own, is not retried, and is left out, and counted, where too many are
//! under way or the body is too long to be kept.

use super::tries::plain_wire;
use super::{Port, affinity};
use crate::http::{Body, Request, RequestHead};
use crate::pool::Wire;
use crate::worker::Worker;
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use weft_runtime::spawn_local;

/// How long a copy may take, its answer included.
pub const DEFAULT_MIRROR_TIMEOUT: Duration = Duration::from_secs(15);

/// Copies under way on a worker. With bodies of at most 64 KiB: 32 MiB.
pub const DEFAULT_MIRRORS_MAX: usize = 512;

/// An answer is read this far, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// How many copies a worker has under way.
#[derive(Debug, Default)]
pub struct Mirrors(Rc<Cell<usize>>);

struct UnderWay(Rc<Cell<usize>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Sends a copy to each port; `None`: the body was too long.
pub fn send(worker: &Rc<Worker>, ports: Vec<Rc<Port>>, head: RequestHead, body: Option<Bytes>, wire: Wire) {
    for port in ports {
        let Some(body) = body.clone() else {
            worker.metrics.mirrored("body_too_long");
            continue;
        };
        let under_way = &worker.destinations.mirrors.0;
        if under_way.get() >= DEFAULT_MIRRORS_MAX {
            worker.metrics.mirrored("too_many");
            continue;
        }
        under_way.set(under_way.get() + 1);
        let guard = UnderWay(under_way.clone());
        let request = Request::new(head.clone(), Body::from(body));
        let worker = worker.clone();
        spawn_local("mirror", async move {
            let sent = tokio::time::timeout(DEFAULT_MIRROR_TIMEOUT, one(&worker, &port, request, wire)).await;
            worker.metrics.mirrored(sent.unwrap_or("timeout"));
            drop(guard);
        });
    }
}

async fn one(worker: &Rc<Worker>, port: &Rc<Port>, mut request: Request, wire: Wire) -> &'static str {
    let key = affinity::of_request(&port.model.traffic, &request.head, worker);
    let picked = port.balancer.pick(&[], key, &mut worker.random.borrow_mut(), Instant::now());
    let Some(replica) = picked else { return "failed" };
    // What becomes of a copy says nothing that the original would not.
    let in_flight = replica.pool.begin();
    let wire = if replica.identity.is_none() { plain_wire(wire, port.model.protocol) } else { wire };
    let outcome = match replica.pool.send(worker, &mut request, wire).await {
        Ok(mut answer) => {
            // What is longer is cut off by closing; the copy arrived either way.
            let _ = answer.body.collect(ANSWER_BYTES_MAX).await;
            "sent"
        }
        Err(_) => "failed",
    };
    drop(in_flight);
    outcome
}
