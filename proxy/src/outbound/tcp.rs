//! Opaque bytes on their way out: an endpoint is picked at connect, then bytes are carried.
//!
//! Nothing of the bytes is looked at and nothing can be repeated, so a try is made again only while
//! no byte has been taken from the application. The peer's proxy authorizes by identity and port.

use super::replica::{Outcome, Replica};
use super::retry::TRIES_MAX;
use super::{Port, affinity, connections, limits};
use crate::pool::{Held, InFlight, Wire};
use crate::stream::Stream;
use crate::tcp::Pair;
use crate::worker::Worker;
use bytes::{Bytes, BytesMut};
use std::io;
use std::rc::Rc;
use std::time::Instant;
use tokio::io::AsyncReadExt;
use weft_model::reason::Reason;

/// A connection to an endpoint, of which nothing was carried yet.
pub struct Opened {
    replica: Rc<Replica>,
    stream: Stream,
    /// The connection's place, while it is there.
    held: Held,
    /// What the server said so far.
    first: BytesMut,
    /// Counts for the balancer from here on.
    _in_flight: InFlight,
}

/// What an endpoint says at first: a greeting has room.
const GREETING_BYTES: usize = 1024;

impl Opened {
    /// Waits until the server speaks or ends; how many bytes it said. An error: it was cut, which is
    /// how a peer's proxy refuses.
    pub async fn hear(&mut self) -> io::Result<usize> {
        self.first.reserve(GREETING_BYTES);
        self.stream.read_buf(&mut self.first).await
    }

    /// What the server said so far.
    pub fn first(&self) -> &[u8] {
        &self.first
    }

    /// It is not needed: kept for HTTP where nothing was said on it and it has no other purpose.
    pub fn park(self) {
        if self.first.is_empty() {
            self.replica.pool.adopt(self.stream, self.held);
        }
    }
}

/// Carries a connection to the destination until both sides have ended.
pub async fn carry(worker: &Rc<Worker>, port: &Port, client: Stream, buffered: Bytes) {
    match connect(worker, port).await {
        Ok(opened) => carry_over(worker, port, opened, client, buffered).await,
        Err(reason) => refuse(worker, port, reason, &client),
    }
}

/// The same over a connection that is made already.
pub async fn carry_over(worker: &Rc<Worker>, port: &Port, opened: Opened, client: Stream, buffered: Bytes) {
    let Opened { replica, stream: server, held: _held, first, _in_flight } = opened;
    let ends = replica.ends(worker, &port.labels);
    let cells = worker.metrics.tcp_cells(&ends);
    let _open = cells.opened();
    let limits = worker.shared.settings.tcp.limits();
    let carried = Pair::new(client, server).carry(buffered, first.freeze(), limits, cells.meter());
    if let Some(end) = worker.shared.drain.until_forced(carried).await {
        tracing::debug!(service = %port.labels.host, end = end.as_str(), "opaque connection ended");
    }
}

/// Counts and tells a connection that leads nowhere.
pub fn refuse(worker: &Worker, port: &Port, reason: Reason, client: &Stream) {
    worker.metrics.answered(super::DIRECTION, reason);
    tracing::info!(service = %port.labels.host, reason = reason.label(), "opaque connection failed");
    // As near as it comes to the connection that was refused: an end would look like an answer.
    client.reset_on_close();
}

/// Connects to one of the destination's endpoints.
pub async fn connect(worker: &Rc<Worker>, port: &Port) -> Result<Opened, Reason> {
    if port.model.unresolved.is_some() {
        return Err(Reason::ResourceUnresolved);
    }
    let place = port.counts.begin(&port.model.traffic.connections)?;
    port.budget.request(Instant::now(), &port.allowance);
    let mut tried: Vec<Rc<Replica>> = Vec::new();
    let mut last = Reason::EndpointsMissing;
    let key = affinity::of_connection(&port.model.traffic, worker);
    let pick = |tried: &[Rc<Replica>]| {
        port.balancer.pick(tried, key, &mut worker.random.borrow_mut(), Instant::now())
    };
    // The endpoint that was waited for, and how long may be.
    let (mut waited, mut until) = (None, None);
    while tried.len() < TRIES_MAX {
        let now = Instant::now();
        let again = waited.is_some();
        let replica = match waited.take().or_else(|| pick(&tried)) {
            Some(replica) => replica,
            None if !tried.is_empty() => break,
            None => Box::pin(limits::await_endpoint(worker, port, 0, || pick(&[]))).await?,
        };
        if !tried.is_empty() && !again {
            // Nothing was delivered, so another try is safe; the budget decides of all but the first, as for
            // requests.
            let due = tried.len() == 1 || port.budget.withdraw(now, &port.allowance);
            worker.metrics.retried(last, if due { "made" } else { "budget" });
            if !due {
                return Err(Reason::RetryBudgetExhausted);
            }
        }
        let (in_flight, trying) = replica.begin(now);
        match replica.pool.connect_opaque(worker).await {
            Ok((stream, held)) => {
                port.report(worker, trying, Outcome::Answered);
                return Ok(Opened {
                    replica,
                    stream,
                    held,
                    first: BytesMut::new(),
                    _in_flight: in_flight.with(place),
                });
            }
            Err(Reason::ConnectionLimit) => {
                // It says nothing of the endpoint, and was no try.
                drop((in_flight, trying));
                let kept = key.map(|_| &replica);
                let until = &mut until;
                let waits = connections::await_connection(worker, port, Wire::Opaque, 0, until, kept, || {
                    pick(&tried)
                });
                waited = Some(Box::pin(waits).await?);
            }
            Err(reason) => {
                port.report(worker, trying, Outcome::Unreachable);
                last = reason;
                tried.push(replica);
            }
        }
    }
    Err(last)
}
