//! The only wiring: builds all parts in order, serves, and takes them down again. What goes wrong
//! before the first connection is accepted is one [`StartupError`], and nothing is left half-made.

use crate::admin::{Admin, Told};
use crate::ca::Authority;
use crate::ca::issuer::Issuer;
use crate::ca::root::{Root, RootError};
use crate::ca::token::TokenKey;
use crate::capture::Knocker;
use crate::discovery::Discovery;
use crate::index::{Index, log_problem};
use crate::jwks::{self, KeyStore};
use crate::metrics::Metrics;
use crate::own_certificate::{self, OwnCertificateError};
use crate::report::Reporter;
use crate::resolve::resolve;
use crate::server::Server;
use crate::settings::{ServeSettings, TokenSettings};
use crate::source::file::FileSource;
use crate::source::last_good::LastGood;
use crate::source::{Documents, SourceError};
use crate::state::{StateDirectory, StateError};
use crate::status::Proxies;
use crate::tls::{self, OwnCertificate};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tokio::time::timeout;
use weft_model::trust::TrustBundle;
use weft_runtime::drain::{self, Trigger};
use weft_runtime::readiness::Readiness;
use weft_runtime::registry::{Registry, RegistryError};

/// How long open streams have to end. They end by themselves at once; proxies live on without.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How long the index may take to finish what it is compiling.
const INDEX_END_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the program does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// A port cannot be listened on.
    #[error("cannot listen on {address} ({flag})")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that names it.
        flag: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error("the state directory (--state) cannot be used")]
    State(#[source] StateError),
    /// The policies cannot be read.
    #[error("the policies (--policies) cannot be read")]
    Source(#[source] SourceError),
    /// There are no policies where there were some.
    #[error(
        "there is no policy file in {policies} (--policies), and there was when weft-control last ran: is it \
         mounted? If nothing is to be served, leave an empty file there"
    )]
    Emptied {
        /// The directory.
        policies: String,
    },
    /// The policies have errors, and no last good of them is there.
    #[error("the policies (--policies) have errors, and there is no last good state of them:\n{rendered}")]
    Policies {
        /// The diagnostics, for people.
        rendered: String,
    },
    /// There is no certificate authority.
    #[error("the certificate authority cannot be used")]
    Root(#[source] RootError),
    /// The server's own certificate cannot be made.
    #[error("the server's own certificate cannot be made")]
    OwnCertificate(#[source] OwnCertificateError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// Metrics cannot be set up.
    #[error("metrics cannot be set up")]
    Metrics(#[source] RegistryError),
}

/// Why the program stops although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port that was bound cannot be used.
    #[error("cannot accept on a port")]
    Accept(#[source] io::Error),
    /// A thread cannot be started.
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    /// Without the index no change would ever come into force again.
    #[error("the index ended by itself")]
    IndexEnded,
}

/// A server that is set up, its ports bound.
pub struct App {
    listener: TcpListener,
    admin_listener: TcpListener,
    server: Server,
    admin: Admin,
    own: Arc<OwnCertificate>,
    issuer: Issuer,
    trigger: Trigger,
    index: Index,
    keys: Arc<KeyStore>,
    source: FileSource,
    started: weft_runtime::readiness::Latch,
}

impl App {
    /// Sets everything up. Reads before it writes: what is refused leaves no trace.
    pub fn build(settings: &ServeSettings) -> Result<Self, StartupError> {
        let listener = listen(settings.listen, "--listen")?;
        let admin_listener = listen(settings.admin_listen, "--admin-listen")?;
        let registry =
            Registry::new("weft-control", env!("CARGO_PKG_VERSION")).map_err(StartupError::Metrics)?;
        let metrics = Arc::new(Metrics::new(&registry).map_err(StartupError::Metrics)?);

        let (source, documents) = FileSource::open(&settings.policies).map_err(StartupError::Source)?;
        let state = Arc::new(StateDirectory::open(&settings.state).map_err(StartupError::State)?);
        let last_good = LastGood::load(&state).map_err(StartupError::State)?;
        // As while it runs: an empty directory is taken for one that is not mounted.
        if documents == Documents::default() && !last_good.is_empty() {
            return Err(StartupError::Emptied { policies: settings.policies.display().to_string() });
        }
        let resolved =
            resolve(&documents, &last_good, true, &mut weft_config::compile).map_err(|refused| {
                StartupError::Policies {
                    rendered: weft_config::render(&refused.diagnostics, &refused.files, false),
                }
            })?;
        resolved.problems.iter().for_each(log_problem);

        let trust_domain = resolved.compilation.mesh.config.trust_domain.clone();
        let root = Root::load_or_create(&state, &trust_domain).map_err(StartupError::Root)?;
        let token_key = TokenKey::load_or_create(&state).map_err(StartupError::State)?;
        let expiry = root.not_after().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        metrics.root_expiry.shared([]).set(i64::try_from(expiry).unwrap_or(i64::MAX));
        let trust = TrustBundle {
            trust_domain: trust_domain.clone(),
            roots: root.certificates().iter().map(|root| root.to_vec()).collect(),
        };
        let keys = KeyStore::open(settings.jwks.clone(), &state, metrics.clone());
        let keys = Arc::new(keys.map_err(StartupError::State)?);
        let index = Index::start(&state, resolved, trust, last_good, keys.clone(), metrics.clone())
            .map_err(StartupError::State)?;

        let own = Arc::new(OwnCertificate::default());
        let tls =
            tls::server_config(root.certificates(), &trust_domain, own.clone()).map_err(StartupError::Tls)?;
        let issuer = Issuer::new(Arc::new(root), settings.certificate_lifetime);
        own_certificate::renew(&own, &issuer, SystemTime::now()).map_err(StartupError::OwnCertificate)?;

        let (trigger, watch) = drain::channel();
        let (readiness, started) = Readiness::new("listeners");
        let proxies = Arc::new(Proxies::default());
        let discovery = Discovery::new(index.snapshots(), proxies.clone(), metrics.clone(), watch.clone());
        let authority =
            Authority::new(issuer.clone(), Arc::new(token_key), index.snapshots(), metrics.clone());
        let reporter = Reporter::new(index.snapshots(), proxies.clone());
        let admin = Admin {
            registry,
            metrics: metrics.clone(),
            readiness,
            snapshots: index.snapshots(),
            source: index.status(),
            keys: keys.clone(),
            proxies,
            told: Told::default(),
        };
        let knocker = Knocker::new(index.snapshots(), metrics.clone());
        let server = Server::new(tls, discovery, authority, knocker, reporter, metrics, watch);
        Ok(Self {
            listener,
            admin_listener,
            server,
            admin,
            own,
            issuer,
            trigger,
            index,
            keys,
            source,
            started,
        })
    }

    /// Where proxies connect.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the admin port is.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin_listener.local_addr()
    }

    /// The current generation, for the line that says that the server is ready.
    pub fn generation(&self) -> String {
        self.admin.snapshots.borrow().generation().to_string()
    }

    /// What stops it.
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// Serves until the trigger is pulled. Must run inside a runtime.
    pub async fn run(self) -> Result<(), RunError> {
        let accept = |listener| tokio::net::TcpListener::from_std(listener).map_err(RunError::Accept);
        let listener = accept(self.listener)?;
        let admin_listener = accept(self.admin_listener)?;
        let readiness = self.admin.readiness.clone();
        let watch = self.trigger.watch();

        // Its end is that of the channel's other end, which this function holds.
        let (running, stop) = mpsc::channel();
        let (ending, index_gone) = oneshot::channel::<()>();
        let (index, source) = (self.index, self.source);
        let mut published = index.snapshots();
        thread::Builder::new()
            .name("weft-index".to_owned())
            .spawn(move || {
                index.run(source, &stop);
                drop(ending);
            })
            .map_err(RunError::Thread)?;
        let index_ended = async { while published.changed().await.is_ok() {} };
        let renewing = weft_runtime::spawn("own-certificate", own_certificate::keep(self.own, self.issuer));
        let fetching = weft_runtime::spawn("issuer-keys", jwks::keep(self.keys));
        let serving = weft_runtime::spawn("server", self.server.run(listener));
        let admin = weft_runtime::spawn("admin-server", self.admin.run(admin_listener, watch));
        self.started.release();

        // Proxies keep what they hold, so nothing need be waited for but what is open.
        let ended = tokio::select! {
            _ = drain::run(&self.trigger, &readiness, Duration::ZERO) => Ok(()),
            () = index_ended => Err(RunError::IndexEnded),
        };
        self.trigger.force();
        renewing.abort();
        fetching.abort();
        drop(running);
        // The index holds the lock of the state directory: whoever starts next must find it free.
        let _ = tokio::join!(serving, admin, timeout(INDEX_END_TIMEOUT, index_gone));
        ended
    }
}

/// Makes a bootstrap token.
pub fn token(settings: &TokenSettings) -> Result<String, StartupError> {
    let state = StateDirectory::open_shared(&settings.state).map_err(StartupError::State)?;
    let key = TokenKey::load_or_create(&state).map_err(StartupError::State)?;
    Ok(key.issue(&settings.workload, settings.lifetime, SystemTime::now()))
}

fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, StartupError> {
    let failed = |source| StartupError::Listen { address, flag, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}
