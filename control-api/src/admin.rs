//! The admin port, plain HTTP. `/metrics`, `/ready` and `/live` answer everybody who reaches it: a scraper
//! and the kubelet are elsewhere. `/status`, which says in JSON which generation is current, how the source
//! fares, and where every connected proxy stands, and `/policies`, which has the files that are in force, say
//! what the mesh is made of and who may do what: they answer programs on this machine alone.
//! It only ever answers; nothing can be changed through it.

mod text;

use crate::index::SourceStatus;
use crate::jwks::KeyStore;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::status::Proxies;
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use text::Text;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use weft_config::SourceFile;
use weft_runtime::drain;
use weft_runtime::readiness::Readiness;
use weft_runtime::registry::{CONTENT_TYPE, Registry};

/// Scrapers and probes; nobody needs more. Who holds many keeps a probe waiting for as long as they may live.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection may live; what is being answered then is finished, within the next bound.
const LIFETIME_MAX: Duration = Duration::from_secs(60);

/// How long a connection may be idle, or take to say what it wants.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// How long to wait when no more files can be opened.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The files of one snapshot, for as long as somebody is being told them.
#[derive(Debug, Default)]
pub struct Told(Mutex<Option<Answer>>);

/// A snapshot, and its files as they are told.
type Answer = (Weak<Snapshot>, Weak<[u8]>);

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
    /// What `/policies` is answering.
    pub told: Told,
}

impl Admin {
    /// Serves until the drain is over: until then people may want to look.
    pub async fn run(self, listener: TcpListener, drain: drain::Watch) {
        let admin = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accepting = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let Ok((stream, peer)) = listener.accept().await else {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let (admin, drain) = (admin.clone(), drain.clone());
                weft_runtime::spawn("admin", async move {
                    let _place = place;
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let response = admin.answer(&request, peer.ip());
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::pin!(connection);
                    let served = async {
                        // Also who takes no answer must go at some time.
                        if timeout(LIFETIME_MAX, connection.as_mut()).await.is_err() {
                            connection.as_mut().graceful_shutdown();
                            let _ = timeout(HEAD_TIMEOUT, connection).await;
                        }
                    };
                    let _ = drain.until_forced(served).await;
                });
            }
        };
        drain.until_forced(accepting).await;
    }

    fn answer<B>(&self, request: &Request<B>, peer: IpAddr) -> Response<Text> {
        let (method, path) = (request.method(), request.uri().path());
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        if let ("/status" | "/policies", Err(why)) = (path, is_here(request, peer)) {
            return text(StatusCode::FORBIDDEN, why.to_owned());
        }
        match path {
            "/metrics" => {
                self.refresh_ages();
                response(StatusCode::OK, CONTENT_TYPE, self.registry.encode().into())
            }
            "/live" => text(StatusCode::OK, "live\n".to_owned()),
            "/ready" => match self.readiness.missing() {
                missing if missing.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
                missing => {
                    text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", ")))
                }
            },
            "/status" => response(StatusCode::OK, "application/json", self.status().into()),
            "/policies" => response(StatusCode::OK, "application/json", self.policies()),
            _ => text(StatusCode::NOT_FOUND, "/metrics /ready /live /status /policies\n".to_owned()),
        }
    }

    // In this order: what the source counts as taken in is in the snapshot, and a proxy is current with that.
    fn status(&self) -> String {
        let source = self.source.borrow().clone();
        let snapshot = self.snapshots.borrow().clone();
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
                "unwritten": source.unwritten,
                "settled": source.settled,
            },
            "issuerKeys": self.keys.status(),
            "proxies": self.proxies.list(snapshot.generation()),
            "policyHits": self.proxies.decisions(),
        })
        .to_string();
        text.push('\n');
        text
    }

    // What is in force, as it was written. It may be hundreds of megabytes: however many ask, it is there once.
    fn policies(&self) -> Text {
        let snapshot = self.snapshots.borrow().clone();
        let mut told = self.told.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = told.as_ref().filter(|(of, _)| std::ptr::eq(of.as_ptr(), Arc::as_ptr(&snapshot)));
        if let Some(text) = held.and_then(|(_, text)| text.upgrade()) {
            return Text::from(text);
        }
        let file = |file: &SourceFile| json!({ "name": file.name, "text": file.text });
        let mut text = json!({
            "generation": snapshot.generation().to_string(),
            "files": snapshot.files().iter().map(file).collect::<Vec<_>>(),
        })
        .to_string();
        text.push('\n');
        let text: Arc<[u8]> = text.into_bytes().into();
        *told = Some((Arc::downgrade(&snapshot), Arc::downgrade(&text)));
        Text::from(text)
    }

    fn refresh_ages(&self) {
        let source = self.source.borrow();
        let seconds = |since: Instant| i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX);
        self.metrics.source_age.shared([]).set(seconds(source.seen));
        self.metrics.config_age.shared([]).set(seconds(source.changed));
    }
}

// Whether a program on this machine asks. A page in a browser on it can reach the port too, under its own
// host's name if need be; browsers say so, or say that name.
fn is_here<B>(request: &Request<B>, peer: IpAddr) -> Result<(), &'static str> {
    if !peer.to_canonical().is_loopback() {
        return Err("/status and /policies answer on the machine that weft-control runs on only: \
                    run weft there, or forward a port to its loopback (kubectl port-forward, ssh -L)\n");
    }
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Err("not from a browser\n");
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let local = |host: &str| {
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || plain.parse::<IpAddr>().is_ok()
    };
    if !host.is_some_and(|host| local(host.host())) {
        return Err("name the port by an address or localhost: a browser may have been led here\n");
    }
    Ok(())
}

fn text(status: StatusCode, body: String) -> Response<Text> {
    response(status, "text/plain; charset=utf-8", body.into())
}

fn response(status: StatusCode, content_type: &'static str, body: Text) -> Response<Text> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_mesh_is_made_of_is_told_to_programs_on_this_machine_alone() {
        let asked = |peer: &str, fields: &[(&str, &str)]| {
            let request = fields
                .iter()
                .fold(Request::get("/policies"), |request, (name, value)| request.header(*name, *value));
            is_here(&request.body(()).unwrap(), peer.parse().unwrap())
        };
        for (peer, host) in [
            ("127.0.0.1", "127.0.0.1:15014"),
            ("127.0.0.9", "localhost:15014"),
            ("::1", "[::1]:15014"),
            ("::ffff:127.0.0.1", "LOCALHOST"),
        ] {
            assert_eq!(asked(peer, &[("host", host)]), Ok(()), "{peer} {host}");
        }
        for (peer, fields) in [
            ("10.1.0.7", &[("host", "127.0.0.1:15014")][..]),
            ("::ffff:10.1.0.7", &[("host", "127.0.0.1:15014")]),
            ("fe80::1", &[("host", "localhost")]),
            ("127.0.0.1", &[("host", "127.0.0.1"), ("origin", "http://evil.example")]),
            ("127.0.0.1", &[("host", "127.0.0.1"), ("sec-fetch-site", "none")]),
            ("127.0.0.1", &[("host", "evil.example:15014")]),
            ("127.0.0.1", &[]),
        ] {
            assert!(asked(peer, fields).is_err(), "{peer} {fields:?}");
        }
        assert!(asked("10.1.0.7", &[]).unwrap_err().contains("port-forward"));
    }
}
