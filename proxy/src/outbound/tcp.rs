//! Opaque bytes on their way out: an endpoint is picked at connect, then bytes are carried.
//!
//! Nothing of the bytes is looked at and nothing can be repeated, so a try is made again only while
//! no byte has been taken from the application. The peer's proxy authorizes by identity and port.

use super::Port;
use super::balancer::Replica;
use super::retry::TRIES_MAX;
use crate::h1;
use crate::stream::Stream;
use crate::worker::Worker;
use bytes::Bytes;
use std::rc::Rc;
use std::time::{Duration, Instant};
use weft_model::reason::Reason;

/// How long a connection may stay half closed and silent (field experience: conntrack forgets such
/// connections after a minute; applications that half-close on purpose answer at once).
pub const DEFAULT_HALF_CLOSED_MAX: Duration = Duration::from_secs(300);

/// Carries a connection to the destination until both sides have ended.
pub async fn carry(worker: &Rc<Worker>, port: &Port, mut client: Stream, buffered: Bytes) {
    let (replica, mut server) = match connect(worker, port).await {
        Ok(connected) => connected,
        Err(reason) => {
            worker.metrics.answered(super::DIRECTION, reason);
            tracing::info!(service = %port.labels.host, reason = reason.label(), "opaque connection failed");
            return;
        }
    };
    let ends = replica.ends(worker, &port.labels);
    let cells = worker.metrics.tcp_cells(&ends);
    let _open = cells.opened();
    let _in_flight = replica.pool.begin();
    let copied = h1::copy(&mut client, buffered, &mut server, Bytes::new(), DEFAULT_HALF_CLOSED_MAX);
    // Told as they pass only at the end: a long connection's bytes are counted when it closes.
    if let Some(Ok((received, sent))) = worker.shared.drain.until_forced(copied).await {
        cells.carried(received, sent);
    }
}

async fn connect(worker: &Rc<Worker>, port: &Port) -> Result<(Rc<Replica>, Stream), Reason> {
    if port.model.unresolved.is_some() {
        return Err(Reason::ResourceUnresolved);
    }
    port.budget.deposit();
    let mut tried: Vec<Rc<Replica>> = Vec::new();
    let mut last = Reason::EndpointsMissing;
    while tried.len() < TRIES_MAX {
        let now = Instant::now();
        let Some(replica) = port.balancer.pick(&tried, &mut worker.random.borrow_mut(), now) else { break };
        if !tried.is_empty() {
            // Nothing was delivered, so another try is safe; the budget decides.
            let due = port.budget.withdraw(now);
            worker.metrics.retried(last, if due { "made" } else { "budget" });
            if !due {
                return Err(Reason::RetryBudgetExhausted);
            }
        }
        match replica.pool.connect_opaque(worker).await {
            Ok(stream) => {
                replica.succeeded();
                return Ok((replica, stream));
            }
            Err(reason) => {
                replica.failed(Instant::now());
                last = reason;
                tried.push(replica);
            }
        }
    }
    Err(last)
}
