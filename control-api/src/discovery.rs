//! The discovery service: the incremental xDS protocol over which proxies are told what concerns them.
//! Here a stream is opened for a caller that has presented a certificate; `discovery/session.rs` runs
//! it, `discovery/subscription.rs` decides what is sent, `discovery/scope.rs` what may be.

pub mod holdings;
pub mod nack;
pub mod scope;
mod session;
pub mod subscription;

use self::session::Session;
use crate::metrics::Metrics;
use crate::server::Peer;
use crate::snapshot::Snapshot;
use crate::status::Proxies;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_model::proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use weft_model::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_runtime::drain;

/// Responses that wait for a slow connection; their bytes are shared with the snapshot.
const RESPONSES_WAITING_MAX: usize = 4;

/// The service.
#[derive(Clone)]
pub struct Discovery {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    proxies: Arc<Proxies>,
    metrics: Arc<Metrics>,
    drain: drain::Watch,
}

impl Discovery {
    /// Serves from the snapshots.
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        proxies: Arc<Proxies>,
        metrics: Arc<Metrics>,
        drain: drain::Watch,
    ) -> Self {
        Self { snapshots, proxies, metrics, drain }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .cloned()
            .ok_or_else(|| Status::internal("a connection without a peer"))?;
        let Some(certificate) = peer.certificate().cloned() else {
            return Err(Status::unauthenticated("discovery needs a client certificate of the mesh"));
        };
        let (responses, receiver) = mpsc::channel(RESPONSES_WAITING_MAX);
        let session = Session {
            certificate,
            address: peer.address(),
            requests: request.into_inner(),
            responses,
            snapshots: self.snapshots.clone(),
            proxies: self.proxies.clone(),
            metrics: self.metrics.clone(),
        };
        let drain = self.drain.clone();
        // Answered before the first request is in: some clients send none until they have headers.
        weft_runtime::spawn("discovery", async move {
            tokio::select! {
                biased;
                () = drain.draining() => {}
                () = session.run() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
