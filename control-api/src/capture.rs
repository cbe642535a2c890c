//! Knocks at a proxy's pod when the proxy asks for it: a connection from another machine is the only
//! thing that can show whether what calls the pod is redirected to its proxy.
//!
//! It dials the caller's own addresses, as the mesh knows them, on the one probe port, and nothing
//! else; it says the nonce it was given and tells whether there was a connection. What that proves is
//! the proxy's to judge. Rare for each workload, bounded for all.

use crate::discovery::scope::admit;
use crate::metrics::Metrics;
use crate::server::Peer;
use crate::snapshot::Snapshot;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use weft_model::names::WorkloadUid;
use weft_model::proto::v1::capture_server::Capture;
use weft_model::proto::v1::knocked::Outcome;
use weft_model::proto::v1::{KnockRequest, KnockResponse, Knocked};
use weft_model::workload::{PROBE_NONCE_LENGTH, PROBE_PORT};

/// How long a connection may take. Longer, and the pod cannot be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the proxy may take to hear the nonce; it closes when it has.
const HEAR_TIMEOUT: Duration = Duration::from_secs(2);

/// Knocks at once, for all proxies together: each waits for one round trip as a rule.
const KNOCKS_MAX: usize = 256;

/// How soon after an answer a workload may ask again. Proxies ask every second while something is amiss.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

/// Workloads remembered for that. Past it those that may ask again anyway are forgotten.
const REMEMBERED_MAX: usize = 4096;

/// The service.
#[derive(Clone)]
pub struct Knocker {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
    /// From when on a workload may ask again: one knock at a time, however long its pod stays silent.
    again: Arc<Mutex<HashMap<WorkloadUid, Instant>>>,
}

// === impl Knocker ===

impl Knocker {
    /// Knocks at the workloads that the snapshots hold.
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>, metrics: Arc<Metrics>) -> Self {
        Self { snapshots, metrics, places: Arc::new(Semaphore::new(KNOCKS_MAX)), again: Arc::default() }
    }

    /// Whether the workload may ask now; then it has.
    fn may_ask(&self, workload: &WorkloadUid, now: Instant) -> bool {
        let mut again = self.again.lock().unwrap_or_else(PoisonError::into_inner);
        if again.get(workload).is_some_and(|from| now < *from) {
            return false;
        }
        if again.len() >= REMEMBERED_MAX {
            again.retain(|_, from| now < *from);
        }
        again.insert(workload.clone(), now + CONNECT_TIMEOUT + HEAR_TIMEOUT);
        true
    }

    fn answered(&self, workload: &WorkloadUid, now: Instant) {
        let mut again = self.again.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(from) = again.get_mut(workload) {
            *from = now + INTERVAL_MIN;
        }
    }
}

#[tonic::async_trait]
impl Capture for Knocker {
    async fn knock(&self, request: Request<KnockRequest>) -> Result<Response<KnockResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let Some(certificate) = peer.as_ref().and_then(Peer::certificate) else {
            return Err(Status::unauthenticated("a knock needs a client certificate of the mesh"));
        };
        let request = request.into_inner();
        let nonce: [u8; PROBE_NONCE_LENGTH] = request
            .nonce
            .as_slice()
            .try_into()
            .map_err(|_| Status::invalid_argument("the nonce has another length"))?;
        let snapshot = self.snapshots.borrow().clone();
        let workload = admit(&request.workload, certificate, &snapshot)
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        let Some(held) = snapshot.mesh().workloads.get(&workload) else {
            return Err(Status::not_found("the workload is not in the mesh"));
        };
        if !self.may_ask(&workload, Instant::now()) {
            return Err(Status::resource_exhausted("asked too often"));
        }
        let Ok(_place) = self.places.try_acquire() else {
            return Err(Status::resource_exhausted("too many knocks at once"));
        };
        let mut first = [None, None];
        for ip in &held.addresses {
            first[usize::from(ip.is_ipv6())].get_or_insert(*ip);
        }
        let [ipv4, ipv6] = first.map(|ip| self.knock_at(ip, &nonce));
        let (ipv4, ipv6) = tokio::join!(ipv4, ipv6);
        self.answered(&workload, Instant::now());
        Ok(Response::new(KnockResponse { knocked: [ipv4, ipv6].into_iter().flatten().collect() }))
    }
}

impl Knocker {
    async fn knock_at(&self, ip: Option<IpAddr>, nonce: &[u8]) -> Option<Knocked> {
        let ip = ip?;
        // A workload on this machine's loopback is reached by nobody else, and has nothing redirected.
        let outcome = if ip.is_loopback() { Outcome::Unreachable } else { knock(ip, nonce).await };
        self.metrics.knocks.shared([label(outcome)]).inc();
        Some(Knocked { address: ip.to_string(), outcome: outcome.into() })
    }
}

async fn knock(ip: IpAddr, nonce: &[u8]) -> Outcome {
    let mut stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(SocketAddr::new(ip, PROBE_PORT))).await
    {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Outcome::Refused,
        Ok(Err(_)) | Err(_) => return Outcome::Unreachable,
    };
    let say = async {
        stream.write_all(nonce).await?;
        // Whatever comes back is nothing to us; that it ends says that the nonce was heard.
        stream.read(&mut [0; 1]).await
    };
    // Somebody is there, whether or not they listen to us.
    let _ = timeout(HEAR_TIMEOUT, say).await;
    Outcome::Connected
}

fn label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Connected => "connected",
        Outcome::Refused => "refused",
        Outcome::Unreachable | Outcome::Unspecified => "unreachable",
    }
}
