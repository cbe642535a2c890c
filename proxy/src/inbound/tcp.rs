//! Opaque bytes on their way in: authorized once, by identity, address and port, then carried.
//!
//! There is no HTTP to look at, so an HTTP field of a rule never admits (see the model). What is
//! denied is closed before the application sees a connection.

use super::http::{Inbound, Judged};
use crate::h1;
use crate::outbound::tcp::DEFAULT_HALF_CLOSED_MAX;
use crate::stream::Stream;
use crate::worker::Worker;
use bytes::Bytes;
use std::rc::Rc;

/// Carries a connection to the application until both sides have ended, if it may.
pub async fn carry(worker: &Rc<Worker>, inbound: &Inbound, mut client: Stream) {
    if let Judged::Denied { reason, detail } = inbound.judge_connection() {
        worker.metrics.answered(super::DIRECTION, reason);
        tracing::info!(
            client = %inbound.client(),
            source = inbound.source(),
            reason = reason.label(),
            detail,
            "opaque connection refused"
        );
        return;
    }
    let pool = inbound.application();
    let mut server = match pool.connect_opaque(worker).await {
        Ok(server) => server,
        Err(reason) => {
            worker.metrics.answered(super::DIRECTION, reason);
            tracing::info!(application = %pool.address(), reason = reason.label(), "application unreachable");
            return;
        }
    };
    let ends = inbound.ends();
    let cells = worker.metrics.tcp_cells(&ends);
    let _open = cells.opened();
    let copied = h1::copy(&mut client, Bytes::new(), &mut server, Bytes::new(), DEFAULT_HALF_CLOSED_MAX);
    if let Some(Ok((received, sent))) = worker.shared.drain.until_forced(copied).await {
        cells.carried(received, sent);
    }
}
