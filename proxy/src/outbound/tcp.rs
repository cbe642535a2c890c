//! Opaque bytes on their way out: an endpoint is picked at connect, then bytes are carried.
//!
//! Nothing of the bytes is looked at and nothing can be repeated, so a try is made again only while
//! no byte has been taken from the application. The peer's proxy authorizes by identity and port.

use super::Port;
use super::balancer::Replica;
use super::retry::TRIES_MAX;
use crate::stream::Stream;
use crate::tcp::Pair;
use crate::worker::Worker;
use bytes::Bytes;
use std::rc::Rc;
use std::time::Instant;
use weft_model::reason::Reason;

/// Carries a connection to the destination until both sides have ended.
pub async fn carry(worker: &Rc<Worker>, port: &Port, client: Stream, buffered: Bytes) {
    let (replica, server) = match connect(worker, port).await {
        Ok(connected) => connected,
        Err(reason) => {
            worker.metrics.answered(super::DIRECTION, reason);
            tracing::info!(service = %port.labels.host, reason = reason.label(), "opaque connection failed");
            // As near as it comes to the connection that was refused: an end would look like an answer.
            client.reset_on_close();
            return;
        }
    };
    let ends = replica.ends(worker, &port.labels);
    let cells = worker.metrics.tcp_cells(&ends);
    let _open = cells.opened();
    let _in_flight = replica.pool.begin();
    let limits = worker.shared.settings.tcp.limits();
    let carried = Pair::new(client, server).carry(buffered, Bytes::new(), limits, cells.meter());
    if let Some(end) = worker.shared.drain.until_forced(carried).await {
        tracing::debug!(service = %port.labels.host, end = end.as_str(), "opaque connection ended");
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
