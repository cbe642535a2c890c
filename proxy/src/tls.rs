//! Mutual TLS: the one place that builds rustls configurations.
//!
//! [`Tls`] holds what this proxy proves (its own certificate) and whom it believes (the trust
//! bundles) as one immutable state that a renewal swaps whole: with it go the verifier, the resolver
//! and the ticket keys, so that no session outlives the trust or the certificate it was made under.
//! Servers accept in [`accept`], clients connect in [`connect`]; [`verify`] is the only judge of
//! certificates, on first handshakes and on resumed ones. TLS 1.3 and nothing older; no early data.

pub mod accept;
pub mod authority;
pub mod connect;
pub mod leaf;
pub mod own;
mod subject;
pub mod verify;
pub mod wire;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use accept::{AcceptError, Accepted, Peer};
pub use connect::{ConnectError, Connector};
pub use own::OwnCertificate;

use own::OwnResolver;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use verify::{Trust, TrustError, Verifier};
use weft_model::spiffe::{SpiffeId, TrustDomain};
use weft_model::trust::TrustBundle;

/// Tickets per full handshake. A pool opens connections one after the other, and every resumed
/// connection brings a new ticket, so that one is enough; the second costs 10 µs of each handshake.
const TICKETS: usize = 1;

/// What a mesh connection carries.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MeshAlpn {
    /// HTTP of any version as HTTP/2 streams.
    H2,
    /// One HTTP/1.1 exchange at a time.
    Http1,
    /// Opaque bytes.
    Tcp,
}

/// What all connections of the process share.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn TimeProvider>,
    /// Whether sessions may be resumed.
    resumption: bool,
    /// The version of `current`, so that a connector sees a change without the lock.
    version: AtomicU64,
    current: Mutex<Current>,
    changed: watch::Sender<u64>,
}

struct Current {
    state: Arc<State>,
    /// What the certificate authority vouched with when it last issued: holds for the own trust
    /// domain until a TrustBundle resource speaks for it.
    issued: Option<Arc<TrustBundle>>,
    /// What the control API says, by trust domain; `None`: not understood, so nobody is trusted.
    told: BTreeMap<TrustDomain, Option<Arc<TrustBundle>>>,
}

/// One state, never changed.
struct State {
    version: u64,
    own: Option<Arc<OwnResolver>>,
    verifier: Arc<Verifier>,
    /// Present with a certificate.
    server: Option<Arc<ServerConfig>>,
}

// === impl MeshAlpn ===

impl MeshAlpn {
    /// All, as a server prefers them.
    pub const ALL: [Self; 3] = [Self::H2, Self::Http1, Self::Tcp];

    /// The word in the handshake.
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::H2 => weft_model::ALPN_H2,
            Self::Http1 => weft_model::ALPN_HTTP1,
            Self::Tcp => weft_model::ALPN_TCP,
        }
    }

    /// The word in labels and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::H2 => "weft1-h2",
            Self::Http1 => "weft1-http/1.1",
            Self::Tcp => "weft1-tcp",
        }
    }

    /// From the handshake. Nothing else is a mesh connection.
    pub fn from_bytes(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.as_bytes() == word)
    }

    const fn index(self) -> usize {
        match self {
            Self::H2 => 0,
            Self::Http1 => 1,
            Self::Tcp => 2,
        }
    }
}

impl fmt::Display for MeshAlpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Tls ===

impl Tls {
    /// Without a certificate and without trust: every handshake fails until both are set.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(DefaultTimeProvider))
    }

    /// The same by another clock, for tests.
    pub fn with_clock(clock: Arc<dyn TimeProvider>) -> Self {
        Self::with(clock, true)
    }

    /// The same, where no session may be resumed, as neither side: each connection is a full handshake.
    pub fn without_resumption() -> Self {
        Self::with(Arc::new(DefaultTimeProvider), false)
    }

    fn with(clock: Arc<dyn TimeProvider>, resumption: bool) -> Self {
        let provider = Arc::new(provider());
        let verifier = Arc::new(Verifier::new(Trust::default(), None, &provider));
        let state = State { version: 0, own: None, verifier, server: None };
        let current = Current { state: Arc::new(state), issued: None, told: BTreeMap::new() };
        Self {
            inner: Arc::new(Inner {
                provider,
                clock,
                resumption,
                version: AtomicU64::new(0),
                current: current.into(),
                changed: watch::Sender::new(0),
            }),
        }
    }

    /// From now on this is what the proxy proves, and `roots` is whom it believes in its own trust
    /// domain until a TrustBundle resource says otherwise.
    pub fn set_certificate(&self, own: OwnCertificate, roots: TrustBundle) -> Result<(), TlsError> {
        let mut current = self.inner.lock();
        let roots = Arc::new(roots);
        let trust = combined(Some(&roots), &current.told)?;
        let resolver = Arc::new(OwnResolver::new(own));
        let state = self.inner.state(Some(resolver), trust)?;
        current.issued = Some(roots);
        self.inner.swap(&mut current, state);
        Ok(())
    }

    /// From now on these are the TrustBundles of the control API. One that was not understood
    /// (`None`) means that nobody of that trust domain is believed.
    pub fn set_bundles(&self, told: BTreeMap<TrustDomain, Option<Arc<TrustBundle>>>) -> Result<(), TlsError> {
        let mut current = self.inner.lock();
        // Sessions live by the state: one that is the same must stay the same.
        if told == current.told {
            return Ok(());
        }
        let trust = combined(current.issued.as_ref(), &told)?;
        let state = self.inner.state(current.state.own.clone(), trust)?;
        current.told = told;
        self.inner.swap(&mut current, state);
        Ok(())
    }

    /// The certificate in use.
    pub fn certificate(&self) -> Option<Arc<OwnResolver>> {
        self.inner.lock().state.own.clone()
    }

    /// The trust domains whose identities are believed.
    pub fn trust_domains(&self) -> Vec<TrustDomain> {
        self.inner.lock().state.verifier.trust().domains().cloned().collect()
    }

    /// Counts up with every change of certificate or trust.
    pub fn version(&self) -> u64 {
        self.inner.version.load(Ordering::Acquire)
    }

    /// Told of every change of certificate or trust.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// The clock by which certificates are judged.
    pub fn now(&self) -> SystemTime {
        self.inner.now()
    }

    /// What connects to an endpoint that must prove to be this identity, and this workload where its
    /// certificate says which it is. Keep one for as long as the endpoint: its sessions live in it.
    pub fn connector(&self, expected: &SpiffeId, uid: &weft_model::names::WorkloadUid) -> Arc<Connector> {
        Arc::new(Connector::new(self.inner.clone(), expected.clone(), uid.clone()))
    }

    fn state(&self) -> Arc<State> {
        self.inner.lock().state.clone()
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("version", &self.version()).finish_non_exhaustive()
    }
}

/// Why a certificate or a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A root of a bundle is not a certificate.
    #[error("a trust bundle cannot be used")]
    Trust(#[source] TrustError),
    /// What rustls says.
    #[error("TLS cannot be configured")]
    Configuration(#[source] rustls::Error),
}

// === impl Inner ===

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Current> {
        // Every change is one assignment of a value made before: a panic leaves the old one whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> SystemTime {
        let now =
            self.clock.current_time().map_or(Duration::ZERO, |time| Duration::from_secs(time.as_secs()));
        UNIX_EPOCH + now
    }

    fn state(&self, own: Option<Arc<OwnResolver>>, trust: Trust) -> Result<State, TlsError> {
        let trust_domain = own.as_ref().map(|own| own.identity().trust_domain().to_owned());
        let verifier = Arc::new(Verifier::new(trust, trust_domain.as_deref(), &self.provider));
        let server = match &own {
            None => None,
            Some(own) => Some(Arc::new(self.server_config(own, &verifier)?)),
        };
        Ok(State { version: self.version.load(Ordering::Acquire) + 1, own, verifier, server })
    }

    fn swap(&self, current: &mut Current, state: State) {
        let version = state.version;
        current.state = Arc::new(state);
        self.version.store(version, Ordering::Release);
        self.changed.send_replace(version);
    }

    fn server_config(
        &self,
        own: &Arc<OwnResolver>,
        verifier: &Arc<Verifier>,
    ) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Configuration)?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(own.clone());
        config.alpn_protocols = MeshAlpn::ALL.map(|alpn| alpn.as_bytes().to_vec()).to_vec();
        // Sessions are kept by clients, encrypted: memory does not grow with peers. The key is this
        // state's own, so that what was resumable under another trust or certificate is not here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if self.resumption {
            config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Configuration)?;
            config.send_tls13_tickets = TICKETS;
        }
        Ok(config)
    }
}

fn combined(
    issued: Option<&Arc<TrustBundle>>,
    told: &BTreeMap<TrustDomain, Option<Arc<TrustBundle>>>,
) -> Result<Trust, TlsError> {
    let issued = issued.filter(|bundle| !told.contains_key(&bundle.trust_domain));
    Trust::new(issued.into_iter().chain(told.values().flatten()).map(|bundle| &**bundle))
        .map_err(TlsError::Trust)
}

/// The hybrid group first, so that what is recorded today is not readable tomorrow; plain X25519 for
/// peers without it. AES-128 first: every processor that matters has it in hardware.
pub fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    use aws_lc_rs::kx_group::{X25519, X25519MLKEM768};
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![X25519MLKEM768, X25519],
        ..aws_lc_rs::default_provider()
    }
}
