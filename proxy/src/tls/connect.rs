//! The client side of a mesh connection: to one endpoint, which must prove to be who it should be.
//!
//! One [`Connector`] per endpoint. It keeps the endpoint's sessions, so that none is resumed with
//! another endpoint, and makes a configuration per ALPN over the verifier and resolver that all
//! share; a change of trust or certificate makes new ones, and the sessions go. The identity is
//! checked after every handshake, first or resumed, before a byte of a request is written.

use super::own::OwnResolver;
use super::verify::{Side, VerifyError};
use super::wire::Wire;
use super::{Inner, MeshAlpn, State};
use crate::describe;
use crate::stream::Stream;
use rustls::ClientConfig;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_model::names::WorkloadUid;
use weft_model::reason::Reason;
use weft_model::spiffe::SpiffeId;

/// What rustls' store counts as servers are here the server names used with one endpoint: its
/// Service ports. Each holds eight tickets at most.
const SESSIONS_MAX: usize = 32;

/// Connects to one endpoint.
pub struct Connector {
    inner: Arc<Inner>,
    expected: SpiffeId,
    uid: WorkloadUid,
    built: Mutex<Option<Built>>,
}

/// Made of one state.
struct Built {
    version: u64,
    state: Arc<State>,
    resolver: Arc<OwnResolver>,
    sessions: Resumption,
    by_alpn: [Option<Arc<ClientConfig>>; 3],
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// This proxy has no certificate yet.
    #[error("this proxy has no certificate yet")]
    NoCertificate,
    /// This proxy's own certificate is past its time.
    #[error("this proxy's own certificate has expired (own_cert_expired)")]
    OwnCertificateExpired,
    /// rustls cannot be configured.
    #[error("TLS cannot be configured")]
    Configuration(#[source] rustls::Error),
    /// The name cannot be sent in a handshake.
    #[error("the server name {0:?} cannot be sent in a TLS handshake")]
    ServerName(String),
    /// The handshake did not end in time.
    #[error("the TLS handshake did not end in time")]
    Timeout,
    /// The handshake failed.
    #[error("the TLS handshake failed: {}", describe::tls_failure(.0))]
    Handshake(#[source] io::Error),
    /// The server did not take the ALPN it was offered.
    #[error("the server does not speak {0}")]
    Alpn(MeshAlpn),
    /// The server's certificate is not believed.
    #[error("{0}")]
    Peer(VerifyError),
    /// The server is somebody else.
    #[error("the server proved to be {presented}, not {expected}")]
    Identity {
        /// Who it should be.
        expected: SpiffeId,
        /// Who it is.
        presented: SpiffeId,
    },
    /// The server is another workload under the same identity: its address was reused.
    #[error("the server is the workload {presented}, not {expected}")]
    Workload {
        /// Which it should be.
        expected: WorkloadUid,
        /// Which it is.
        presented: WorkloadUid,
    },
}

// === impl ConnectError ===

impl ConnectError {
    /// The reason of the answer.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Timeout => Reason::ConnectTimeout,
            Self::Peer(_) | Self::Identity { .. } | Self::Workload { .. } => Reason::PeerIdentityMismatch,
            Self::Handshake(error) if is_certificate_error(error) => Reason::PeerIdentityMismatch,
            Self::NoCertificate
            | Self::OwnCertificateExpired
            | Self::Configuration(_)
            | Self::ServerName(_)
            | Self::Handshake(_)
            | Self::Alpn(_) => Reason::ConnectFailed,
        }
    }
}

fn is_certificate_error(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(inner: Arc<Inner>, expected: SpiffeId, uid: WorkloadUid) -> Self {
        Self { inner, expected, uid, built: Mutex::default() }
    }

    /// Who the endpoint must prove to be.
    pub fn expected(&self) -> &SpiffeId {
        &self.expected
    }

    /// Which workload the endpoint must be, where its certificate says which it is.
    pub fn uid(&self) -> &WorkloadUid {
        &self.uid
    }

    /// Performs a handshake as client, ending by `deadline`.
    pub async fn connect(
        &self,
        tcp: TcpStream,
        server_name: &str,
        alpn: MeshAlpn,
        deadline: Instant,
    ) -> Result<Stream, ConnectError> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| ConnectError::ServerName(server_name.chars().take(253).collect()))?;
        let (state, config) = self.config(alpn)?;
        let handshake = TlsConnector::from(config).connect(name, Wire::new(tcp));
        let tls = tokio::time::timeout_at(deadline.into(), handshake)
            .await
            .map_err(|_| ConnectError::Timeout)?
            .map_err(ConnectError::Handshake)?;
        let connection = tls.get_ref().1;
        if connection.alpn_protocol() != Some(alpn.as_bytes()) {
            return Err(ConnectError::Alpn(alpn));
        }
        self.check(connection, &state)?;
        Ok(Stream::TlsClient(Box::new(tls)))
    }

    fn check(&self, connection: &rustls::ClientConnection, state: &State) -> Result<(), ConnectError> {
        let chain = connection.peer_certificates().unwrap_or_default();
        // After every handshake, the resumed ones above all: rustls asks no verifier then.
        let leaf = state.verifier.check(chain, Side::Server, self.inner.now()).map_err(ConnectError::Peer)?;
        if leaf.identity != self.expected {
            return Err(ConnectError::Identity {
                expected: self.expected.clone(),
                presented: leaf.identity.clone(),
            });
        }
        match state.verifier.uid(&leaf) {
            Some(presented) if *presented != self.uid => {
                Err(ConnectError::Workload { expected: self.uid.clone(), presented: presented.clone() })
            }
            _ => Ok(()),
        }
    }

    fn config(&self, alpn: MeshAlpn) -> Result<(Arc<State>, Arc<ClientConfig>), ConnectError> {
        // Held by a connecting task for a few instructions; what is behind it is replaced whole.
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.inner.version.load(Ordering::Acquire);
        if built.as_ref().is_none_or(|built| built.version != version) {
            *built = Some(Built::new(&self.inner)?);
        }
        let built = built.as_mut().expect("what was just built must be there");
        if built.resolver.own().not_after() <= self.inner.now() {
            return Err(ConnectError::OwnCertificateExpired);
        }
        let state = built.state.clone();
        if let Some(config) = &built.by_alpn[alpn.index()] {
            return Ok((state, config.clone()));
        }
        let config = Arc::new(built.config(&self.inner, alpn).map_err(ConnectError::Configuration)?);
        built.by_alpn[alpn.index()] = Some(config.clone());
        Ok((state, config))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("expected", &self.expected)
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

// === impl Built ===

impl Built {
    fn new(inner: &Inner) -> Result<Self, ConnectError> {
        let state = inner.lock().state.clone();
        let resolver = state.own.clone().ok_or(ConnectError::NoCertificate)?;
        let sessions = if inner.resumption {
            Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX)))
        } else {
            Resumption::disabled()
        };
        Ok(Self { version: state.version, state, resolver, sessions, by_alpn: [None, None, None] })
    }

    fn config(&self, inner: &Inner, alpn: MeshAlpn) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_details(inner.provider.clone(), inner.clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.state.verifier.clone())
            .with_client_cert_resolver(self.resolver.clone());
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config.resumption = self.sessions.clone();
        Ok(config)
    }
}
