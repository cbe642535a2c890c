//! The only wiring: builds every part in order and runs the process to its end.
//!
//! Listen first, then everything else: all addresses are bound before a thread is started, so that a
//! taken port is one clear message and early connections wait in the backlog instead of being
//! refused. The main thread carries the control client, the certificate, metrics and admin; workers
//! carry connections. What ends the process is a drain, the application's end where its processes are
//! known, or a worker that ends by itself.

use crate::access_log::AccessLog;
use crate::admin::{self, Levers, socket as admin_socket};
use crate::application;
use crate::application::command::{Around, CommandError, CommandLine};
use crate::capture::{self, Arrivals, CaptureError, CaptureMetrics, Path, Prober};
use crate::control::metrics::ControlMetrics;
use crate::control::{Control, report};
use crate::describe::chain;
use crate::identity::Identity;
use crate::identity::metrics::IdentityMetrics;
use crate::inbound::probe::Probes;
use crate::inbound::probe_rules;
use crate::metrics::Families;
use crate::overload::Guards;
use crate::policy;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::spending::Spending;
use crate::state::{StateDirectory, StateError};
use crate::tls::Tls;
use crate::worker::{self, Listeners};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use weft_runtime::logging::LogHandle;
use weft_runtime::readiness::Readiness;
use weft_runtime::registry::{Registry, RegistryError};
use weft_runtime::signal::Signals;
use weft_runtime::{drain, spawn, spawn_local, workers};

/// Connections that wait to be accepted, per worker and address: what a start-up of seconds collects.
const BACKLOG: i32 = 4096;

/// How long workers may take to act on the end of the drain.
const WORKERS_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the process cannot run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be listened on.
    #[error("{setting}: cannot listen on {address}: {why}")]
    Bind {
        /// The setting that names it.
        setting: String,
        /// Which.
        address: SocketAddr,
        /// Why, and what to do.
        why: String,
        /// Whether this machine has no address of that family.
        lacks_family: bool,
    },
    /// The admin socket cannot be listened on.
    #[error("admin.socket: cannot listen on {path}: {source}; choose another path, or none")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The command that this proxy is to run.
    #[error(transparent)]
    Command(CommandError),
    /// The state directory, or what is in it.
    #[error("state")]
    State(#[source] StateError),
    /// The redirection, or who this process is to it.
    #[error("transparent capture")]
    Capture(#[source] CaptureError),
    /// A metric.
    #[error("metrics cannot be set up")]
    Registry(#[source] RegistryError),
    /// What the operating system does not give.
    #[error("{0} cannot be started")]
    Start(&'static str, #[source] io::Error),
    /// A worker ended before the drain did.
    #[error("worker {index} ended: {why}")]
    Worker {
        /// Which.
        index: usize,
        /// Why.
        why: String,
    },
}

impl AppError {
    /// Whether it is the user's to put right: another address, other permissions.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Bind { .. } | Self::Socket { .. } | Self::State(_) | Self::Capture(_))
    }
}

/// Everything that listens.
struct Bound {
    workers: Vec<Listeners>,
    metrics: TcpListener,
    admin: TcpListener,
}

/// Runs the proxy until it has drained, with `command` inside it if there is one; the command's exit
/// code. `unprivileged` is called once capabilities have been given up, before there is another thread.
pub fn run(
    settings: Settings,
    log: Option<LogHandle>,
    command: Option<CommandLine>,
    unprivileged: fn(),
) -> Result<Option<u8>, AppError> {
    let began = Instant::now();
    let descriptors = raise_descriptor_limit();
    let bound = bind(&settings)?;
    let state = settings.state.as_deref().map(StateDirectory::open).transpose().map_err(AppError::State)?;
    let changes = settings
        .admin_socket
        .as_deref()
        .map(|path| {
            admin_socket::bind(path).map_err(|source| AppError::Socket { path: path.to_owned(), source })
        })
        .transpose()?;
    let prepared = settings.capture.as_ref().map(capture::prepare).transpose().map_err(AppError::Capture)?;
    unprivileged();
    let settings = Arc::new(settings);

    let registry = Registry::new("weft-proxy", env!("CARGO_PKG_VERSION")).map_err(AppError::Registry)?;
    let families = Families::new(&registry).map_err(AppError::Registry)?;
    let identity_metrics = IdentityMetrics::new(&registry).map_err(AppError::Registry)?;
    let control_metrics = ControlMetrics::new(&registry).map_err(AppError::Registry)?;
    let capture_metrics = CaptureMetrics::new(&registry).map_err(AppError::Registry)?;
    // Standard output is the command's, where there is one.
    let open_log = if command.is_some() { AccessLog::to_stderr } else { AccessLog::to_stdout };
    let access_log =
        open_log(settings.access_log).map_err(|error| AppError::Start("the access log", error))?;

    let (readiness, certificate) = Readiness::new("certificate");
    let configuration = readiness.latch("configuration");
    let arrivals = settings.capture.is_some().then(Arc::<Arrivals>::default);
    let proofs = arrivals.as_ref().map(|_| Path::ALL.map(|path| readiness.latch(path.missing())));
    let (trigger, watch) = drain::channel();
    let (publisher, handle, demands) = policy::channel();
    let (admit, admitting) = watch::channel(false);
    let tls = if settings.session_resumption { Tls::new() } else { Tls::without_resumption() };
    let tls = Arc::new(tls);
    let shared = Arc::new(Shared {
        settings: settings.clone(),
        namespace: settings.namespace(),
        policy: handle,
        tls: tls.clone(),
        registry,
        families,
        access_log,
        told: Default::default(),
        limits: Default::default(),
        drain: watch,
        probes: Probes::default(),
        arrivals: arrivals.clone(),
        plaintext_clients: Default::default(),
        budgets: Default::default(),
        guards: Guards::new(Instant::now()),
        spending: Spending::new(Instant::now()),
        readiness: readiness.clone(),
        admitting,
    });
    // Both take up what an earlier life left, so that a restart is ready before anything is dialled.
    let identity = Identity::new(settings.clone(), tls.clone(), state.clone(), certificate, identity_metrics)
        .map_err(AppError::State)?;
    let control =
        Control::new(settings.clone(), tls, state, publisher, demands, configuration, control_metrics);

    let runtime = workers::build_runtime().map_err(|error| AppError::Start("the control runtime", error))?;
    runtime.block_on(async move {
        let _prepared = prepared;
        let mut quiet = settings.drain_quiet;
        let mut running = None;
        if let Some(command) = command {
            // It takes the signals: they are the command's as well.
            quiet = Duration::MAX;
            let around = Around {
                readiness: readiness.clone(),
                trigger: trigger.clone(),
                startup_timeout: settings.startup_timeout,
                drain_deadline: settings.drain_deadline,
                descriptors,
            };
            running = Some(spawn_local("command", command.run(around)));
        } else {
            let signals =
                Signals::install().map_err(|error| AppError::Start("the signal handlers", error))?;
            spawn("signals", signals.drive(trigger.clone(), settings.drain_deadline));
            if settings.exit_when_alone {
                quiet = Duration::MAX;
                spawn_local("alone", application::follow(trigger.clone()));
            }
        }
        let levers = Levers { log, drain: trigger.clone(), drain_deadline: settings.drain_deadline };
        let from_std = |listener| {
            tokio::net::TcpListener::from_std(listener).map_err(|error| AppError::Start("a listener", error))
        };
        let changes = changes
            .map(admin_socket::Bound::into_listener)
            .transpose()
            .map_err(|error| AppError::Start("the admin socket", error))?;
        admin::serve(&shared, levers, from_std(bound.metrics)?, from_std(bound.admin)?, changes);
        if let (Some(capture), Some(arrivals), Some(latches)) = (&settings.capture, arrivals, proofs) {
            let prober =
                Prober::new(shared.clone(), arrivals, control.channel(), capture_metrics, capture, latches);
            spawn_local("capture-proof", prober.run());
        }
        spawn_local("reports", report::run(shared.clone(), control.channel()));
        spawn_local("identity", identity.run());
        spawn_local("control", control.run());
        spawn_local("tcp probes", probe_rules::follow(shared.clone()));
        spawn_local("admission", admission(shared.clone(), admit, began));
        let mut workers = start_workers(&shared, bound.workers)?;
        tracing::info!(
            workload = %settings.workload,
            workers = settings.workers.get(),
            control = %settings.control.address,
            "weft-proxy listens"
        );
        tokio::select! {
            _ = drain::run(&trigger, &readiness, quiet) => {}
            Some(end) = workers.ended() => {
                let why = end.outcome.map_or_else(|error| chain(&error), |()| "it returned".to_owned());
                return Err(AppError::Worker { index: end.index.get(), why });
            }
        }
        let joined = workers.join(tokio::time::Instant::now() + WORKERS_END_TIMEOUT).await;
        if !joined.still_running.is_empty() {
            tracing::warn!(workers = joined.still_running.len(), "workers did not end in time");
        }
        let Some(running) = running else { return Ok(None) };
        // At the deadline the command may still run, without connections: its exit code is waited for.
        match running.await {
            Ok(code) => code.map(Some).map_err(AppError::Command),
            Err(error) => Err(AppError::Start("the command", io::Error::other(error))),
        }
    })
}

/// What connections wait for. The proof of capture is no part of it: what arrives by redirection is
/// captured.
const ADMISSION: [&str; 2] = ["certificate", "configuration"];

/// Lets workers accept: when this proxy knows enough to judge, or when the time for starting is over.
/// Past that time connections are refused with a reason instead of waiting, while the process keeps
/// trying.
async fn admission(shared: Arc<Shared>, admit: watch::Sender<bool>, began: Instant) {
    match tokio::time::timeout(shared.settings.startup_timeout, shared.readiness.released(&ADMISSION)).await {
        Ok(()) => tracing::debug!(after = ?began.elapsed(), "connections are accepted"),
        Err(_) => tracing::error!(
            missing = shared.readiness.missing().join(", "),
            after = ?began.elapsed(),
            "not ready in time: connections are accepted and refused with a reason until it is"
        ),
    }
    admit.send_replace(true);
    shared.readiness.ready().await;
    tracing::info!(after = ?began.elapsed(), "ready");
    // Held: a sender that is gone would read as a process that ends.
    std::future::pending::<()>().await;
}

fn start_workers(shared: &Arc<Shared>, listeners: Vec<Listeners>) -> Result<workers::Workers<()>, AppError> {
    let listeners: Vec<_> = listeners.into_iter().map(Some).collect();
    let (listeners, shared) = (Arc::new(Mutex::new(listeners)), shared.clone());
    workers::start(shared.settings.workers, "weft-worker", move |index| {
        let taken = listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(index.get())
            .and_then(Option::take);
        worker::run(index, shared, taken.unwrap_or_default())
    })
    .map_err(|error| AppError::Start("a worker thread", error))
}

fn bind(settings: &Settings) -> Result<Bound, AppError> {
    let count = settings.workers.get();
    let mut workers: Vec<Listeners> = (0..count).map(|_| Listeners::default()).collect();
    if let Some(address) = settings.outbound.listen {
        for (worker, listener) in workers.iter_mut().zip(listen("outbound.listen", address, count)?) {
            worker.outbound = Some(listener);
        }
    }
    for entry in &settings.outbound.services {
        let setting = format!("outbound.services ({}:{})", entry.service, entry.port);
        for (worker, listener) in workers.iter_mut().zip(listen(&setting, entry.listen, count)?) {
            worker.services.push((entry.service.clone(), entry.port, listener));
        }
    }
    for entry in &settings.inbound {
        let setting = format!("inbound (application {})", entry.application);
        for (worker, listener) in workers.iter_mut().zip(listen(&setting, entry.listen, count)?) {
            worker.inbound.push((entry.application, listener));
        }
    }
    if let Some(capture) = &settings.capture {
        for address in capture.outbound() {
            let listeners = match listen("rules.outboundPort", address, count) {
                // A pod without IPv6 has no [::1], and nothing that could be redirected there.
                Err(AppError::Bind { lacks_family: true, .. }) if address.is_ipv6() => continue,
                listeners => listeners?,
            };
            for (worker, listener) in workers.iter_mut().zip(listeners) {
                worker.redirected_outbound.push(listener);
            }
        }
        for (worker, listener) in
            workers.iter_mut().zip(listen("rules.inboundPort", capture.inbound(), count)?)
        {
            worker.redirected_inbound = Some(listener);
        }
    }
    let one = |setting: &str, address| listen(setting, address, 1).map(|mut listeners| listeners.remove(0));
    Ok(Bound {
        workers,
        metrics: one("metrics.listen", settings.metrics)?,
        admin: one("admin.listen", settings.admin)?,
    })
}

/// One listener per worker on the same address, between which the kernel shares connections out.
fn listen(setting: &str, address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, AppError> {
    let failed = |address: SocketAddr, error: &io::Error| {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there; stop it, or choose another port".to_owned()
            }
            io::ErrorKind::AddrNotAvailable => "this machine does not have the address".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "this user may not; choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE".to_owned()
            }
            _ => error.to_string(),
        };
        AppError::Bind { setting: setting.to_owned(), address, why, lacks_family: lacks_ipv6(error) }
    };
    // Without sharing first: with it, a second proxy on the same port would silently take half of
    // this one's connections. A port of the kernel's choice is one that nobody has, and that somebody
    // could take between two sockets.
    let shared = count > 1 && address.port() == 0;
    let first = match socket(address, shared) {
        // A machine without IPv6 has no [::]: then every address there is is an IPv4 one.
        Err(error) if lacks_ipv6(&error) && address.ip().is_unspecified() => {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            return match socket(address, count > 1) {
                Ok(listener) if count == 1 => Ok(vec![listener]),
                Ok(listener) => more(listener, count).map_err(|error| failed(address, &error)),
                Err(error) => Err(failed(address, &error)),
            };
        }
        Err(error) => return Err(failed(address, &error)),
        Ok(listener) => listener,
    };
    let first = if count == 1 || shared {
        first
    } else {
        drop(first);
        socket(address, true).map_err(|error| failed(address, &error))?
    };
    more(first, count).map_err(|error| failed(address, &error))
}

fn more(first: TcpListener, count: usize) -> io::Result<Vec<TcpListener>> {
    let address = first.local_addr()?;
    let mut all = vec![first];
    while all.len() < count {
        all.push(socket(address, true)?);
    }
    Ok(all)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
        || error.raw_os_error() == Some(nix::errno::Errno::EADDRNOTAVAIL as i32)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted proxy takes its port back while old connections linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// As many file descriptors as this process may have: a proxy's connections are its work.
fn raise_descriptor_limit() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| soft));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of file descriptors stays as it is");
    }
    raised.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn a_taken_port_is_named_with_its_setting() {
        let taken = listen("one", loopback(), 1).unwrap();
        let address = taken[0].local_addr().unwrap();
        for count in [1, 2] {
            let error = listen("admin.listen", address, count).unwrap_err();
            assert!(error.is_usage());
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("admin.listen: cannot listen on {address}: another process")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_port_that_another_proxy_shares_among_its_workers_is_taken_too() {
        let taken = listen("one", loopback(), 2).unwrap();
        assert_eq!(taken[0].local_addr().unwrap(), taken[1].local_addr().unwrap());
        let address = taken[0].local_addr().unwrap();
        assert!(listen("two", address, 2).is_err());
        assert!(listen("two", address, 1).is_err());
    }

    #[test]
    fn a_port_of_the_kernels_choice_is_one_proxys_alone() {
        let all: Vec<_> = (0..100).map(|_| listen("one", loopback(), 2).unwrap()).collect();
        let ports = all.iter().map(|listeners| {
            let [first, second] = [&listeners[0], &listeners[1]].map(|held| held.local_addr().unwrap());
            assert_eq!(first, second);
            first.port()
        });
        assert_eq!(ports.collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn an_address_of_another_machine_is_said_to_be_one() {
        let error = listen("inbound", "192.0.2.1:8080".parse().unwrap(), 1).unwrap_err();
        assert!(error.to_string().contains("does not have the address"), "{error}");
    }
}
