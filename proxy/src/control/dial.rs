//! A connection to the control API: TCP, TLS to its one identity, HTTP/2 with heartbeats.
//!
//! Used by the control client for its stream and by `identity` for certificates. A peer that falls
//! silent is noticed by unanswered pings within twenty seconds; nothing here retries.

use crate::describe::tls_failure;
use crate::dial::Dialler;
use crate::settings::ControlSettings;
use crate::socket::TcpSettings;
use crate::tls::authority::{self, AuthorityError};
use crate::tls::own::OwnResolver;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tower_service::Service;
use weft_runtime::spawn_local;

/// How long it may take until the connection stands.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an answer is asked of the other side.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// How long the answer may take.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(15);

/// What the connection is called in the handshake, and the authority of its requests. Who is at the
/// other end is decided by SPIFFE ID, not by this.
const SERVER_NAME: &str = "weft-control";
/// The origin of requests.
pub const ORIGIN: &str = "https://weft-control";

/// A connection that gRPC stubs can use.
#[derive(Clone)]
pub struct Channel {
    requests: SendRequest<Body>,
}

/// The stream's connection, while there is one, for others on its thread.
#[derive(Clone, Default)]
pub struct LentChannel(Rc<RefCell<Option<Channel>>>);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Its trust cannot be set up.
    #[error("the control API cannot be verified")]
    Authority(#[source] AuthorityError),
    /// No TCP connection.
    #[error("the control API cannot be reached at {address} (control.address)")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer.
    #[error("the control API at {address} did not answer within {DIAL_TIMEOUT:?}")]
    Timeout {
        /// Where.
        address: String,
    },
    /// The handshake failed: most often another identity, or roots that do not fit.
    #[error("the TLS handshake with the control API at {address} failed: {why}")]
    Tls {
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// It does not speak HTTP/2.
    #[error("the control API at {address} does not speak HTTP/2")]
    Http2 {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
}

/// Spawns what hyper needs on this thread.
#[derive(Clone, Copy, Debug)]
struct Local;

/// Connects. `own`: the certificate to prove who we are by; without it the server sees nobody.
pub async fn dial(settings: &ControlSettings, own: Option<Arc<OwnResolver>>) -> Result<Channel, DialError> {
    let address = settings.address.to_string();
    match tokio::time::timeout(DIAL_TIMEOUT, connect(settings, own)).await {
        Ok(connected) => connected,
        Err(_) => Err(DialError::Timeout { address }),
    }
}

async fn connect(settings: &ControlSettings, own: Option<Arc<OwnResolver>>) -> Result<Channel, DialError> {
    let address = || settings.address.to_string();
    let config = authority::client_config(&settings.roots, settings.spiffe_id.as_ref(), own)
        .map_err(DialError::Authority)?;
    let tcp = Dialler::new(settings.bypass, TcpSettings::default())
        .connect_to_name(settings.address.as_str())
        .await
        .map_err(|source| DialError::Connect { address: address(), source })?;
    let name = ServerName::try_from(SERVER_NAME).expect("a constant server name must parse");
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|error| DialError::Tls { address: address(), why: tls_failure(&error) })?;
    let (requests, connection) = Builder::new(Local)
        .timer(TokioTimer::new())
        .keep_alive_interval(HEARTBEAT_INTERVAL)
        .keep_alive_timeout(HEARTBEAT_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(tls))
        .await
        .map_err(|source| DialError::Http2 { address: address(), source })?;
    // Ends when the last `Channel` and stream are gone, or the connection is.
    spawn_local("control-connection", async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = crate::describe::chain(&error), "the control connection ended");
        }
    });
    Ok(Channel { requests })
}

// === impl LentChannel ===

impl LentChannel {
    /// The connection.
    pub fn current(&self) -> Option<Channel> {
        self.0.borrow().clone()
    }

    pub(super) fn set(&self, channel: Option<Channel>) {
        self.0.replace(channel);
    }
}

// === impl Channel ===

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}

// === impl Local ===

impl<F> Executor<F> for Local
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        spawn_local("control-http2", future);
    }
}
