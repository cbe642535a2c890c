//! The certificate authority's gRPC service: a certificate request in, an SVID and the roots out.
//! Authentication is in `ca/authenticate.rs`, the signature in `ca/issuer.rs`; here they meet the mesh:
//! only a workload that the configuration names gets a certificate, under the identity it has there.

pub mod authenticate;
pub mod issuer;
pub mod root;
pub mod token;

use self::authenticate::{AuthenticationError, authenticate};
use self::issuer::{Issuer, key_of_request};
use self::token::TokenKey;
use crate::metrics::Metrics;
use crate::server::Peer;
use crate::snapshot::Snapshot;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};
use weft_model::names::WorkloadUid;
use weft_model::proto::v1::certificate_authority_server::CertificateAuthority;
use weft_model::proto::v1::{CertifyRequest, CertifyResponse};

/// The service.
#[derive(Clone)]
pub struct Authority {
    issuer: Issuer,
    token_key: Arc<TokenKey>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
}

impl Authority {
    /// An authority over the mesh that the snapshots hold.
    pub fn new(
        issuer: Issuer,
        token_key: Arc<TokenKey>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { issuer, token_key, snapshots, metrics }
    }

    fn issue(
        &self,
        request: &CertifyRequest,
        peer: Option<&Peer>,
        now: SystemTime,
    ) -> Result<CertifyResponse, Status> {
        let asked: WorkloadUid = request
            .workload
            .parse()
            .map_err(|error| Status::invalid_argument(format!("the workload asked for: {error}")))?;
        let snapshot = self.snapshots.borrow().clone();
        let workload = snapshot.mesh().workloads.get(&asked).cloned();
        let certificate = peer.and_then(Peer::certificate).map(|held| &**held);
        let Some(workload) = workload else {
            // Only who has proven something is told what the mesh holds.
            let known = certificate.is_some() || self.token_key.verify(&request.token, now).is_ok();
            return Err(if known {
                Status::not_found(format!("workload {asked} is not in the mesh: no document describes it"))
            } else {
                refusal(&self.why_unproven(&request.token, now))
            });
        };
        let proof = authenticate(&workload, &request.token, certificate, &self.token_key, now)
            .map_err(|error| refusal(&error))?;
        let key =
            key_of_request(&request.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let described = Some((&workload.uid, &workload.description));
        let issued = self.issuer.sign(&key, &workload.identity(), described, now).map_err(|error| {
            tracing::error!(%asked, %error, "a certificate cannot be signed");
            Status::internal("the certificate cannot be signed")
        })?;
        self.metrics.certificates_issued.cell([proof.label()]).inc();
        tracing::info!(
            workload = %workload.uid,
            identity = %workload.identity(),
            proof = proof.label(),
            lifetime = ?issued.not_after.duration_since(now).unwrap_or_default(),
            "issued a certificate"
        );
        let elapsed = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let root = self.issuer.root();
        Ok(CertifyResponse {
            chain: vec![issued.certificate.to_vec()],
            trust_domain: root.trust_domain().to_string(),
            roots: root.certificates().iter().map(|root| root.to_vec()).collect(),
            time_unix_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn why_unproven(&self, token: &str, now: SystemTime) -> AuthenticationError {
        match self.token_key.verify(token, now) {
            Err(error) if !token.is_empty() => AuthenticationError::Token(error),
            _ => AuthenticationError::Nothing,
        }
    }
}

#[tonic::async_trait]
impl CertificateAuthority for Authority {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let answer = self.issue(request.get_ref(), peer.as_ref(), SystemTime::now());
        if let Err(status) = &answer {
            self.metrics.certificates_refused.cell([code_label(status.code())]).inc();
            tracing::warn!(
                workload = %crate::bounded(&request.get_ref().workload),
                peer = peer.map(|peer| peer.address().to_string()),
                reason = status.message(),
                "refused a certificate"
            );
        }
        answer.map(Response::new)
    }
}

fn refusal(error: &AuthenticationError) -> Status {
    match error {
        AuthenticationError::CertificateOfAnother { .. } => Status::permission_denied(error.to_string()),
        _ => Status::unauthenticated(error.to_string()),
    }
}

fn code_label(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "invalid_argument",
        Code::NotFound => "not_found",
        Code::PermissionDenied => "permission_denied",
        Code::Unauthenticated => "unauthenticated",
        _ => "internal",
    }
}
