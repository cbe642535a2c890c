//! One discovery stream: the shell that moves messages between the connection, the newest snapshot and
//! the subscription, and tells people what the proxy says. It holds one batch at most; when the proxy
//! does not take it, the stream ends and the proxy starts anew.

use super::scope::{ScopeError, admit};
use super::subscription::{Subscription, Told};
use crate::metrics::{Metrics, kind_label};
use crate::snapshot::Snapshot;
use crate::status::{Proxies, ProxyEntry};
use crate::tls::PeerCertificate;
use futures_util::FutureExt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};
use weft_model::names::WorkloadUid;
use weft_model::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// How long a stream may be open before it says whose it is.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a response may wait for the connection to take it.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How many requests are taken in before what follows from them is sent.
const REQUESTS_AT_ONCE: usize = 64;

pub(super) struct Session {
    pub(super) certificate: Arc<PeerCertificate>,
    pub(super) address: SocketAddr,
    pub(super) requests: Streaming<DeltaDiscoveryRequest>,
    pub(super) responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) proxies: Arc<Proxies>,
    pub(super) metrics: Arc<Metrics>,
}

impl Session {
    pub(super) async fn run(mut self) {
        if let Err(status) = self.serve().await {
            tracing::warn!(
                identity = %self.certificate, address = %self.address,
                code = ?status.code(), reason = status.message(),
                "ended a discovery stream"
            );
            let _ = timeout(SEND_TIMEOUT, self.responses.send(Err(status))).await;
        }
    }

    async fn serve(&mut self) -> Result<(), Status> {
        let first = timeout(FIRST_REQUEST_TIMEOUT, self.requests.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first request did not come"))?;
        let Some(first) = first? else { return Ok(()) };
        let snapshot = self.snapshots.borrow_and_update().clone();
        let node = first.node.as_ref().map_or("", |node| node.id.as_str());
        let workload = admit(node, &self.certificate, &snapshot).map_err(|error| match error {
            ScopeError::Malformed => Status::invalid_argument(error.to_string()),
            ScopeError::NotTheWorkload { .. } => Status::permission_denied(error.to_string()),
        })?;
        let _connected = self.metrics.connected_proxies.shared([]).guard();
        let mut entry = self.proxies.enter(workload.clone(), self.address);
        tracing::info!(%workload, address = %self.address, "a proxy connected");
        let mut subscription = Subscription::new(workload.clone(), snapshot, std::time::Instant::now());
        self.take_in(&mut subscription, &mut entry, &first)?;
        let ended = self.converse(&mut subscription, &mut entry, &workload).await;
        tracing::info!(%workload, address = %self.address, "a proxy disconnected");
        ended
    }

    async fn converse(
        &mut self,
        subscription: &mut Subscription,
        entry: &mut ProxyEntry,
        workload: &WorkloadUid,
    ) -> Result<(), Status> {
        loop {
            // What has arrived already belongs to the same answer.
            for _ in 0..REQUESTS_AT_ONCE {
                match self.requests.message().now_or_never() {
                    None => break,
                    Some(request) => match request? {
                        Some(request) => self.take_in(subscription, entry, &request)?,
                        None => return Ok(()),
                    },
                }
            }
            let now = std::time::Instant::now();
            if subscription.is_stuck(now) {
                return Err(Status::deadline_exceeded("a response was not answered for too long"));
            }
            for response in subscription.poll(now) {
                self.metrics.pushes.shared([type_label(&response.type_url)]).inc();
                if timeout(SEND_TIMEOUT, self.responses.send(Ok(response)))
                    .await
                    .map_err(|_| slow())?
                    .is_err()
                {
                    return Ok(());
                }
            }
            entry.update(subscription.enforced(), subscription.is_current());
            let deadline = subscription.deadline().map(Instant::from_std);
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => self.take_in(subscription, entry, &request)?,
                    None => return Ok(()),
                },
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the control API is stopping"));
                    }
                    let snapshot = self.snapshots.borrow_and_update().clone();
                    // It may have been given another identity; if it is gone, it is told so.
                    let held = snapshot.mesh().workloads.get(workload);
                    if held.is_some_and(|held| !self.certificate.may_be(held)) {
                        return Err(Status::permission_denied("the workload has another identity now"));
                    }
                    subscription.on_snapshot(snapshot);
                }
                () = until(deadline) => {}
                () = entry.superseded() => {
                    return Err(Status::aborted("newer streams of the same workload took this one's place"));
                }
                // Without it a stream that is told nothing would outlive its connection.
                () = self.responses.closed() => return Ok(()),
            }
        }
    }

    fn take_in(
        &self,
        subscription: &mut Subscription,
        entry: &mut ProxyEntry,
        request: &DeltaDiscoveryRequest,
    ) -> Result<(), Status> {
        let told: Told = subscription
            .on_request(request)
            .map_err(|violation| Status::invalid_argument(violation.to_string()))?;
        if told.unknown_type {
            // A newer proxy may know more types than this server; what it lacks for them, it denies.
            tracing::warn!(
                workload = %entry.workload(), type_url = %crate::bounded(&request.type_url),
                "a proxy asked for a type that is not known here"
            );
        }
        for refusal in &told.refused {
            self.metrics.nacks.shared([kind_label(refusal.kind)]).inc();
            tracing::warn!(
                workload = %entry.workload(), kind = kind_label(refusal.kind),
                name = refusal.name, reason = refusal.reason,
                "a proxy refused a resource"
            );
        }
        if told.answered {
            entry.answered(&told.accepted, told.refused);
        }
        Ok(())
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn slow() -> Status {
    Status::deadline_exceeded("the connection takes no responses")
}

fn type_label(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or_default()
}
