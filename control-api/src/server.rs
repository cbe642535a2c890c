//! The gRPC port: accept, TLS, HTTP/2, and off to the service whose path it is. What a service learns
//! of its caller is a [`Peer`], put into the request here and nowhere else.
//! Everything is bounded: connections, handshakes in time, streams per connection, how long a caller
//! without certificate may stay. A peer that no longer answers pings is dropped.

use crate::ca::Authority;
use crate::capture::Knocker;
use crate::discovery::Discovery;
use crate::metrics::Metrics;
use crate::report::Reporter;
use crate::tls::PeerCertificate;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;
use weft_model::proto::discovery::aggregated_discovery_service_server as discovery_server;
use weft_model::proto::v1::capture_server;
use weft_model::proto::v1::certificate_authority_server as authority_server;
use weft_model::proto::v1::reports_server;
use weft_runtime::drain;

/// Each proxy has one connection, and a second one while it renews; this is for some thousands.
const CONNECTIONS_MAX: usize = 16_384;

/// A handshake is two round trips; whoever takes longer holds a place for nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Enough for a certificate. A caller without one has no other business here.
const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(30);

/// A proxy needs two.
const STREAMS_MAX: u32 = 16;

/// How soon a peer that is gone is noticed: a ping every so often, answered within so long.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// A certificate request is below 8 KiB, a token below 2.
const CERTIFY_LENGTH_MAX: usize = 32 * 1024;

/// A name and a nonce.
const KNOCK_LENGTH_MAX: usize = 1024;

/// Some thousand rules with the longest names.
const REPORT_LENGTH_MAX: usize = 1024 * 1024;

/// When no more files can be opened, the next attempt waits for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who called.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    certificate: Option<Arc<PeerCertificate>>,
}

/// The services, and what all connections share.
pub struct Server {
    tls: TlsAcceptor,
    discovery: discovery_server::AggregatedDiscoveryServiceServer<Discovery>,
    authority: authority_server::CertificateAuthorityServer<Authority>,
    capture: capture_server::CaptureServer<Knocker>,
    reports: reports_server::ReportsServer<Reporter>,
    metrics: Arc<Metrics>,
    drain: drain::Watch,
}

/// Spawns what hyper needs spawned, by the one door.
#[derive(Clone, Copy)]
struct Spawner;

// === impl Peer ===

impl Peer {
    /// Where it connects from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who it has proven to be, if it presented a certificate.
    pub fn certificate(&self) -> Option<&Arc<PeerCertificate>> {
        self.certificate.as_ref()
    }
}

// === impl Server ===

impl Server {
    /// Serves these services with this TLS configuration.
    pub fn new(
        tls: ServerConfig,
        discovery: Discovery,
        authority: Authority,
        knocker: Knocker,
        reporter: Reporter,
        metrics: Arc<Metrics>,
        drain: drain::Watch,
    ) -> Self {
        Self {
            tls: TlsAcceptor::from(Arc::new(tls)),
            discovery: discovery_server::AggregatedDiscoveryServiceServer::new(discovery),
            authority: authority_server::CertificateAuthorityServer::new(authority)
                .max_decoding_message_size(CERTIFY_LENGTH_MAX),
            capture: capture_server::CaptureServer::new(knocker).max_decoding_message_size(KNOCK_LENGTH_MAX),
            reports: reports_server::ReportsServer::new(reporter)
                .max_decoding_message_size(REPORT_LENGTH_MAX),
            metrics,
            drain,
        }
    }

    /// Accepts until the drain begins. A proxy that is asked to go elsewhere must not land here again.
    pub async fn run(self, listener: TcpListener) {
        let server = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accepting = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, address)) => {
                        let server = server.clone();
                        weft_runtime::spawn("connection", async move {
                            let _place = place;
                            let _open = server.drain.opened();
                            let _counted = server.metrics.connections.shared([]).guard();
                            server.connection(stream, address).await;
                        });
                    }
                    // The peer gave up before it was accepted.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept connections");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = server.drain.draining() => {}
            () = accepting => {}
        }
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        // A response must not wait for a further one to fill a packet.
        let _ = stream.set_nodelay(true);
        let stream = match timeout(HANDSHAKE_TIMEOUT, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.metrics.handshake_failures.shared(["refused"]).inc();
                tracing::info!(%address, %error, "a handshake failed");
                return;
            }
            Err(_) => {
                self.metrics.handshake_failures.shared(["timeout"]).inc();
                tracing::info!(%address, "a handshake took too long");
                return;
            }
        };
        let Ok(certificate) = presented(&stream) else { return };
        let anonymous = certificate.is_none();
        let peer = Peer { address, certificate };
        let server = self.clone();
        let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let server = server.clone();
            async move { server.call(request).await }
        });
        let connection = http2::Builder::new(Spawner)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let lifetime = async {
            match anonymous {
                true => sleep(ANONYMOUS_LIFETIME).await,
                false => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.drain.draining() => None,
            () = lifetime => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                match timeout(HANDSHAKE_TIMEOUT, self.drain.until_forced(connection)).await {
                    Ok(Some(ended)) => ended,
                    _ => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, error = %crate::chain(&error), "a connection ended");
        }
    }

    async fn call(&self, request: http::Request<Incoming>) -> Result<http::Response<Body>, Infallible> {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            discovery_server::SERVICE_NAME => self.discovery.clone().call(request).await,
            capture_server::SERVICE_NAME => self.capture.clone().call(request).await,
            reports_server::SERVICE_NAME => self.reports.clone().call(request).await,
            authority_server::SERVICE_NAME => self.authority.clone().call(request).await,
            _ => Ok(Status::unimplemented("no such service").into_http()),
        }
    }
}

/// Who the client has proven to be. The handshake has verified it.
fn presented(stream: &TlsStream<TcpStream>) -> Result<Option<Arc<PeerCertificate>>, ()> {
    let (_, session) = stream.get_ref();
    match session.peer_certificates().and_then(|chain| chain.first()) {
        None => Ok(None),
        Some(leaf) => match PeerCertificate::read(leaf) {
            Ok(read) => Ok(Some(Arc::new(read))),
            Err(error) => {
                tracing::error!(%error, "a verified certificate cannot be read");
                Err(())
            }
        },
    }
}

// === impl Spawner ===

impl<F> Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        drop(weft_runtime::spawn("request", future));
    }
}
