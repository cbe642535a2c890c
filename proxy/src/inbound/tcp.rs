//! Opaque bytes on their way in: authorized once, by identity, address and port, then carried.
//!
//! There is no HTTP to look at, so an HTTP field of a rule never admits (see the model). What is
//! denied is closed before the application sees a connection.

use super::connection::Connection;
use super::judge::Marks;
use super::revoke::Live;
use crate::stream::Stream;
use crate::tcp::Pair;
use bytes::Bytes;
use std::rc::Rc;

/// Carries a connection to the application until both sides have ended, if it may, and for as long as
/// it may.
pub async fn carry(connection: Rc<Connection>, client: Stream) {
    let worker = connection.worker().clone();
    let mut marks = Marks::default();
    let judged = connection.judge_opaque(&worker.policy.current(), &mut marks);
    if !marks.is_empty() {
        tracing::info!(
            client = %connection.client(),
            source = connection.source(),
            audit = marks.audit.as_deref().unwrap_or_default(),
            dry_run = marks.dry_run.as_deref().unwrap_or_default(),
            "opaque connection marked"
        );
    }
    if let Err(denied) = judged {
        worker.metrics.answered(super::DIRECTION, denied.reason);
        tracing::info!(
            client = %connection.client(),
            source = connection.source(),
            reason = denied.reason.label(),
            detail = denied.detail.as_deref().unwrap_or_default(),
            "opaque connection refused"
        );
        client.reset_on_close();
        return;
    }
    let application = connection.application().clone();
    // From here on a change of the policy finds it.
    let live = Live::new(connection.clone(), None, Some(application.begin()));
    let server = match application.connect_opaque(&worker).await {
        Ok(server) => server,
        Err(reason) => {
            worker.metrics.answered(super::DIRECTION, reason);
            tracing::info!(application = %application.address(), reason = reason.label(), "application unreachable");
            client.reset_on_close();
            return;
        }
    };
    let cells = worker.metrics.tcp_cells(&connection.ends());
    let _open = cells.opened();
    let limits = worker.shared.settings.tcp.limits();
    let carried = Pair::new(client, server).carry(Bytes::new(), Bytes::new(), limits, cells.meter());
    let carried = async {
        tokio::select! {
            biased;
            () = live.ended() => None,
            end = carried => Some(end),
        }
    };
    if let Some(Some(end)) = worker.shared.drain.until_forced(carried).await {
        tracing::debug!(source = connection.source(), end = end.as_str(), "opaque connection ended");
    }
}
