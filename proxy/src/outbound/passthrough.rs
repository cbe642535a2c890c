//! Connections that leave the mesh: to an address that nobody in it owns, as it was dialled.
//!
//! Nothing is looked at, balanced or secured: the bytes go where the application sent them, in plain TCP,
//! and are counted under Istio's name for them. What must not leave so is refused before anything is
//! dialled: an address inside the mesh's blocks that is not resolved, any where the mesh says
//! REGISTRY_ONLY, and this proxy's own ports.

use super::{DIRECTION, ends_of};
use crate::metrics::ServiceLabels;
use crate::policy::Policy;
use crate::stream::Stream;
use crate::tcp::Pair;
use crate::worker::Worker;
use bytes::Bytes;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use weft_model::mesh::OutboundTraffic;
use weft_model::reason::Reason;
use weft_model::workload::UNKNOWN;

/// How long a connection out of the mesh may take: beyond a cluster, three lost packets are seven
/// seconds.
pub const DEFAULT_OUTSIDE_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What Istio's metrics call what passes.
const PASSED: &str = "PassthroughCluster";

/// What they call what is refused.
const REFUSED: &str = "BlackHoleCluster";

/// Whether a connection may leave for an address at which the mesh has nothing.
pub fn permit(worker: &Worker, policy: &Policy, address: SocketAddr) -> Result<SocketAddr, Reason> {
    let ip = address.ip().to_canonical();
    let nowhere = match ip {
        // To connect to 0.0.0.0 is to connect to loopback.
        IpAddr::V4(four) => four.is_unspecified() || four.is_broadcast() || four.is_multicast(),
        IpAddr::V6(six) => six.is_unspecified() || six.is_multicast(),
    };
    if nowhere || policy.config.outbound_traffic == OutboundTraffic::RegistryOnly {
        return Err(Reason::ServiceUnknown);
    }
    let own = policy.own.workload.as_ref();
    let here = ip.is_loopback() || own.is_some_and(|own| own.addresses.contains(&ip));
    let listens = worker.own_listeners.iter().any(|listener| {
        let at = listener.ip().to_canonical();
        listener.port() == address.port() && (at == ip || (at.is_unspecified() && here))
    });
    if listens { Err(Reason::LoopDetected) } else { Ok(SocketAddr::new(ip, address.port())) }
}

/// Connects.
pub async fn connect(worker: &Worker, address: SocketAddr) -> Result<Stream, Reason> {
    let connecting = worker.dialler.connect(address);
    let connected = match tokio::time::timeout(DEFAULT_OUTSIDE_CONNECT_TIMEOUT, connecting).await {
        Err(_) => Err(Reason::ConnectTimeout),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "connect failed");
            Err(Reason::ConnectFailed)
        }
        Ok(Ok(tcp)) => tcp.set_nodelay(true).map(|()| Stream::Tcp(tcp)).map_err(|_| Reason::ConnectFailed),
    };
    let outcome = connected.as_ref().map_or_else(|reason| reason.label(), |_| "ok");
    worker.connections.dialled(DIRECTION, outcome);
    connected
}

/// Carries a connection to the address that was dialled until both sides have ended.
pub async fn carry(worker: &Rc<Worker>, address: SocketAddr, client: Stream, buffered: Bytes) {
    match connect(worker, address).await {
        Ok(server) => carry_over(worker, client, buffered, server).await,
        Err(reason) => {
            worker.metrics.answered(DIRECTION, reason);
            tracing::info!(destination = %address, reason = reason.label(), "no connection out of the mesh");
            client.reset_on_close();
        }
    }
}

/// The same over a connection that is made already.
pub async fn carry_over(worker: &Rc<Worker>, client: Stream, buffered: Bytes, server: Stream) {
    let cells = worker.metrics.tcp_cells(&ends_of(worker, labels(PASSED)));
    let _open = cells.opened();
    let limits = worker.shared.settings.tcp.limits();
    let carried = Pair::new(client, server).carry(buffered, Bytes::new(), limits, cells.meter());
    if let Some(end) = worker.shared.drain.until_forced(carried).await {
        tracing::debug!(end = end.as_str(), "connection out of the mesh ended");
    }
}

/// Counts one that is refused, as Istio does.
pub fn refused(worker: &Worker) {
    drop(worker.metrics.tcp_cells(&ends_of(worker, labels(REFUSED))).opened());
}

fn labels(name: &str) -> Arc<ServiceLabels> {
    Arc::new(ServiceLabels { host: UNKNOWN.into(), name: name.into(), namespace: UNKNOWN.into() })
}
