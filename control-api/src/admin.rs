//! The admin port, plain HTTP: `/metrics`, `/ready`, `/live`, `/status`, which says in JSON which
//! generation is current, how the source fares, and where every connected proxy stands, and `/policies`,
//! which has the files that are in force.
//! It only ever answers; nothing can be changed through it.

use crate::index::SourceStatus;
use crate::jwks::KeyStore;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::status::Proxies;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use weft_config::SourceFile;
use weft_runtime::drain;
use weft_runtime::readiness::Readiness;
use weft_runtime::registry::{CONTENT_TYPE, Registry};

/// Scrapers and probes; nobody needs more.
const CONNECTIONS_MAX: usize = 64;

/// How long a connection may be idle, or take to say what it wants.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long to wait when no more files can be opened.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is shown.
pub struct Admin {
    /// All metrics.
    pub registry: Registry,
    /// Those of this crate.
    pub metrics: Arc<Metrics>,
    /// Whether the program is ready.
    pub readiness: Readiness,
    /// The current state of the mesh.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// How the source fares.
    pub source: watch::Receiver<Arc<SourceStatus>>,
    /// The connected proxies.
    pub proxies: Arc<Proxies>,
    /// Keys of token issuers.
    pub keys: Arc<KeyStore>,
}

impl Admin {
    /// Serves until the drain is over: until then people may want to look.
    pub async fn run(self, listener: TcpListener, drain: drain::Watch) {
        let admin = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accepting = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let Ok((stream, _)) = listener.accept().await else {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let (admin, drain) = (admin.clone(), drain.clone());
                weft_runtime::spawn("admin", async move {
                    let _place = place;
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let response = admin.answer(request.method(), request.uri().path());
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service);
                    let _ = drain.until_forced(connection).await;
                });
            }
        };
        drain.until_forced(accepting).await;
    }

    fn answer(&self, method: &Method, path: &str) -> Response<String> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match path {
            "/metrics" => {
                self.refresh_ages();
                response(StatusCode::OK, CONTENT_TYPE, self.registry.encode())
            }
            "/live" => text(StatusCode::OK, "live\n".to_owned()),
            "/ready" => match self.readiness.missing() {
                missing if missing.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
                missing => {
                    text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", ")))
                }
            },
            "/status" => response(StatusCode::OK, "application/json", self.status()),
            "/policies" => response(StatusCode::OK, "application/json", self.policies()),
            _ => text(StatusCode::NOT_FOUND, "/metrics /ready /live /status /policies\n".to_owned()),
        }
    }

    fn status(&self) -> String {
        let snapshot = self.snapshots.borrow().clone();
        let source = self.source.borrow().clone();
        let mut text = json!({
            "generation": snapshot.generation().to_string(),
            "trustDomain": snapshot.mesh().config.trust_domain.as_str(),
            "workloads": snapshot.mesh().workloads.len(),
            "services": snapshot.mesh().services.len(),
            "source": {
                "problems": source.problems,
                "refused": source.refused,
                "warnings": source.warnings,
                "unreadable": source.unreadable,
            },
            "issuerKeys": self.keys.status(),
            "proxies": self.proxies.list(),
            "policyHits": self.proxies.decisions(),
        })
        .to_string();
        text.push('\n');
        text
    }

    // What is in force, as it was written.
    fn policies(&self) -> String {
        let snapshot = self.snapshots.borrow().clone();
        let file = |file: &SourceFile| json!({ "name": file.name, "text": file.text });
        let mut text = json!({
            "generation": snapshot.generation().to_string(),
            "files": snapshot.files().iter().map(file).collect::<Vec<_>>(),
        })
        .to_string();
        text.push('\n');
        text
    }

    fn refresh_ages(&self) {
        let source = self.source.borrow();
        let seconds = |since: Instant| i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX);
        self.metrics.source_age.shared([]).set(seconds(source.seen));
        self.metrics.config_age.shared([]).set(seconds(source.changed));
    }
}

fn text(status: StatusCode, body: String) -> Response<String> {
    response(status, "text/plain; charset=utf-8", body)
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
