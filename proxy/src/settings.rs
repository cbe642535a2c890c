//! What the user decides about this one proxy: a YAML file, environment variables, flags; flags win
//! over the environment, the environment over the file.
//!
//! A typo is an error with file and line, a wrong value names the setting, the value and what to do.
//! What belongs to the mesh (policy, identities, endpoints) is no setting: it comes from the control
//! API. Nothing is opened or bound here; the files that are read are the settings' own.

mod capture;
mod check;
mod file;
mod flags;

pub use capture::{CaptureSettings, Installer, Mode as CaptureMode};
pub use flags::Flags;

use crate::access_log::Mode;
use crate::http::Limits;
use crate::http::limits::DEFAULT_STALL_TIMEOUT;
use crate::pool::DEFAULT_CONNECT_TIMEOUT;
use crate::rules::settings::Bypass;
use crate::socket::TcpSettings;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use weft_model::names::{Namespace, ServiceName, WorkloadUid};
use weft_model::spiffe::SpiffeId;
use weft_runtime::logging::LogFilter;
use weft_runtime::workers::{Cgroup, worker_count};

/// Outbound: the applications of this pod, and nobody from outside.
pub const DEFAULT_OUTBOUND_LISTEN: &str = "127.0.0.1:15001";
/// Metrics and readiness: Prometheus and the kubelet come from outside.
pub const DEFAULT_METRICS_LISTEN: &str = "[::]:15020";
/// What reveals state.
pub const DEFAULT_ADMIN_LISTEN: &str = "127.0.0.1:15000";
/// Below Kubernetes' default grace period of 30 s, with time to exit.
pub const DEFAULT_DRAIN_DEADLINE: Duration = Duration::from_secs(25);
/// An application that is stopping and calls less often than this is taken for gone, where nothing tells
/// that it lives; and a client that learns late of this stop may still dial. An idle pod's stop takes as
/// much longer.
pub const DEFAULT_DRAIN_QUIET: Duration = Duration::from_secs(5);
/// As long as the slowest control plane restart that an application's start should survive.
pub const DEFAULT_STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
/// A pod whose rules are gone is to be noticed within 35 s: an interval, and time to try.
pub const DEFAULT_PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// A configuration of yesterday is better than none; one of last week may admit who was let go.
pub const DEFAULT_LAST_GOOD_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Without a quota every processor of a node would be this proxy's: two carry more than one pod asks for.
pub const DEFAULT_WORKERS_MAX: usize = 2;
/// Less, and a healthy endpoint of another zone may be too slow.
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_millis(10);
/// Longer, and whoever asked has left.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which workload this proxy stands for.
    pub workload: WorkloadUid,
    /// How to reach the control API.
    pub control: ControlSettings,
    /// The applications' side.
    pub outbound: OutboundSettings,
    /// The other workloads' side.
    pub inbound: Vec<InboundSettings>,
    /// Transparent capture. `None`: the explicit mode.
    pub capture: Option<CaptureSettings>,
    /// Where metrics and readiness are served.
    pub metrics: SocketAddr,
    /// Where state is shown; a loopback address.
    pub admin: SocketAddr,
    /// Where state is changed. `None`: nowhere, signals apart.
    pub admin_socket: Option<PathBuf>,
    /// Where key, chain and the last good configuration are kept. `None`: nothing is kept.
    pub state: Option<PathBuf>,
    /// How old the last good configuration may be.
    pub last_good_age_max: Duration,
    /// How long a body may stop arriving, or an answer stop being taken.
    pub body_timeout: Duration,
    /// How many worker threads.
    pub workers: NonZeroUsize,
    /// How long a drain may take.
    pub drain_deadline: Duration,
    /// How long no connection must have been open before a drain is over.
    pub drain_quiet: Duration,
    /// Whether to end with the last other process of this pid namespace.
    pub exit_when_alone: bool,
    /// How long connections wait for the certificate and the first configuration.
    pub startup_timeout: Duration,
    /// What TCP connections are set to.
    pub tcp: TcpSettings,
    /// Whether TLS sessions may be resumed between the same two workloads.
    pub session_resumption: bool,
    /// What is logged.
    pub log: LogFilter,
    /// Which requests are written down.
    pub access_log: Mode,
}

/// How to reach the control API.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    /// Where it listens.
    pub address: ControlAddress,
    /// A PEM file with the roots that its certificate must lead to. Re-read.
    pub roots: PathBuf,
    /// Who it must prove to be. `None`: `weft-control` of the trust domain that the roots name.
    pub spiffe_id: Option<SpiffeId>,
    /// A file with the token for the first certificate. Re-read at each use.
    pub token: Option<PathBuf>,
    /// How the redirection knows this process's connections. `None`: nothing is redirected.
    pub bypass: Option<Bypass>,
}

/// `HOST:PORT`; a name is resolved anew for each connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ControlAddress(Box<str>);

/// The applications' side.
#[derive(Clone, Debug)]
pub struct OutboundSettings {
    /// The HTTP proxy port; `None`: turned off.
    pub listen: Option<SocketAddr>,
    /// Ports that lead to one Service each.
    pub services: Vec<ServiceSettings>,
    /// How long a connection to an endpoint may take to be made, TCP and TLS together.
    pub connect_timeout: Duration,
}

/// A port that leads to one Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceSettings {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Where this proxy listens for it.
    pub listen: SocketAddr,
}

/// One of the workload's own addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InboundSettings {
    /// Where this proxy listens: the address that the mesh advertises.
    pub listen: SocketAddr,
    /// Where the application listens.
    pub application: SocketAddr,
}

/// Why the settings cannot be used. One message, for people.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

// === impl SettingsError ===

impl SettingsError {
    fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string())
    }

    fn missing(setting: &str, flag: &str) -> Self {
        let variable = flag.replace('-', "_").to_uppercase();
        Self(format!(
            "the setting {setting} is missing: set it in the file of --config, by --{flag}, or by WEFT_{variable}"
        ))
    }
}

// === impl ControlAddress ===

impl ControlAddress {
    /// `HOST:PORT`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ControlAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
            return Ok(Self(text.into()));
        }
        let is_host = |host: &str| weft_model::names::is_subdomain(&host.to_ascii_lowercase());
        match text.rsplit_once(':') {
            Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok_and(|port| port != 0) => {
                Ok(Self(text.into()))
            }
            _ => Err("not HOST:PORT, for instance 127.0.0.1:15010".to_owned()),
        }
    }
}

impl fmt::Display for ControlAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl OutboundSettings ===

impl OutboundSettings {
    /// The first value that cannot be: which, its bounds.
    fn wrong(&self) -> Option<(&'static str, Duration, Duration, Duration)> {
        let (min, max) = (CONNECT_TIMEOUT_MIN, CONNECT_TIMEOUT_MAX);
        let value = self.connect_timeout;
        (!(min..=max).contains(&value)).then_some(("outbound.connectTimeout", value, min, max))
    }
}

// === impl ServiceSettings ===

impl FromStr for ServiceSettings {
    type Err = String;

    /// `NAMESPACE/NAME:PORT=LISTEN`
    fn from_str(text: &str) -> Result<Self, String> {
        let form = "not NAMESPACE/NAME:PORT=ADDRESS, for instance shop/catalog:80=127.0.0.1:9001";
        let (target, listen) = text.split_once('=').ok_or(form)?;
        let (service, port) = target.rsplit_once(':').ok_or(form)?;
        Ok(Self {
            service: service.parse().map_err(|error| format!("{error}"))?,
            port: port.parse().ok().filter(|port| *port != 0).ok_or(form)?,
            listen: socket_address(listen)?,
        })
    }
}

impl FromStr for InboundSettings {
    type Err = String;

    /// `LISTEN=APPLICATION`
    fn from_str(text: &str) -> Result<Self, String> {
        let (listen, application) = text
            .split_once('=')
            .ok_or("not ADVERTISED=APPLICATION, for instance 127.0.1.1:8080=127.0.0.1:3000")?;
        Ok(Self { listen: socket_address(listen)?, application: socket_address(application)? })
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an IP address and port, for instance 127.0.0.1:8080 or [::1]:8080")
    })
}

// === impl Settings ===

impl Settings {
    /// Reads the file that the flags name, lays environment and flags over it, and checks all of it.
    pub fn load(flags: Flags) -> Result<Self, SettingsError> {
        let file = match &flags.config {
            Some(path) => file::read(path)?,
            None => file::File::default(),
        };
        Self::join(flags, file)
    }

    fn join(mut flags: Flags, file: file::File) -> Result<Self, SettingsError> {
        let capture = CaptureSettings::join(&mut flags, file.capture, file.rules)?;
        let control = ControlSettings {
            address: flags
                .control_address
                .or(file.control.address.map(file::Parsed::into_inner))
                .ok_or_else(|| SettingsError::missing("control.address", "control-address"))?,
            roots: flags
                .control_roots
                .or(file.control.roots)
                .ok_or_else(|| SettingsError::missing("control.roots", "control-roots"))?,
            spiffe_id: flags.control_spiffe_id.or(file.control.spiffe_id.map(file::Parsed::into_inner)),
            token: flags.token_file.or(file.control.token),
            bypass: capture.as_ref().map(|capture| capture.rules.settings().bypass),
        };
        // What is redirected needs no second way in; one that is asked for is served as well.
        let none = flags::MaybeAddress(None);
        let outbound_listen = flags
            .outbound_listen
            .or(file.outbound.listen.map(file::Parsed::into_inner))
            .unwrap_or_else(|| if capture.is_some() { none } else { flags::MaybeAddress::default() });
        let services = match flags.outbound_service {
            listed if !listed.is_empty() => listed,
            _ => file.outbound.services.into_iter().map(file::ServiceEntry::into_settings).collect(),
        };
        let inbound = match flags.inbound {
            listed if !listed.is_empty() => listed,
            _ => file.inbound.into_iter().map(file::InboundEntry::into_settings).collect(),
        };
        let address =
            |flag: Option<SocketAddr>, file: Option<file::Parsed<flags::Address>>, default: &str| {
                flag.or(file.map(|address| address.into_inner().0))
                    .unwrap_or_else(|| default.parse().expect("a default address must parse"))
            };
        let duration = |flag: Option<flags::Span>, file: Option<file::Parsed<flags::Span>>, default| {
            flag.or(file.map(file::Parsed::into_inner)).map_or(default, |span| span.0)
        };
        let workers = flags.workers.or(file.workers);
        let tcp = TcpSettings::default();
        let tcp = TcpSettings {
            keepalive_time: duration(flags.tcp_keepalive_time, file.tcp.keepalive_time, tcp.keepalive_time),
            keepalive_interval: duration(
                flags.tcp_keepalive_interval,
                file.tcp.keepalive_interval,
                tcp.keepalive_interval,
            ),
            user_timeout: duration(flags.tcp_user_timeout, file.tcp.user_timeout, tcp.user_timeout),
            half_closed_timeout: duration(
                flags.tcp_half_closed_timeout,
                file.tcp.half_closed_timeout,
                tcp.half_closed_timeout,
            ),
            idle_timeout: flags
                .tcp_idle_timeout
                .or(file.tcp.idle_timeout.map(file::Parsed::into_inner))
                .map_or(tcp.idle_timeout, |span| span.0),
        };
        let state = flags.state.or(file.state);
        let admin_socket = match flags.admin_socket.or(file.admin.socket.map(file::Parsed::into_inner)) {
            Some(said) => said.0,
            None => state.as_ref().map(|state| state.join(crate::admin::socket::FILE)),
        };
        let settings = Self {
            workload: flags
                .workload
                .or(file.workload.map(file::Parsed::into_inner))
                .ok_or_else(|| SettingsError::missing("workload", "workload"))?,
            control,
            outbound: OutboundSettings {
                listen: outbound_listen.0,
                services,
                connect_timeout: duration(
                    flags.connect_timeout,
                    file.outbound.connect_timeout,
                    DEFAULT_CONNECT_TIMEOUT,
                ),
            },
            inbound,
            capture,
            metrics: address(flags.metrics_listen, file.metrics.listen, DEFAULT_METRICS_LISTEN),
            admin: address(flags.admin_listen, file.admin.listen, DEFAULT_ADMIN_LISTEN),
            admin_socket,
            state,
            last_good_age_max: duration(
                flags.last_good_age_max,
                file.last_good_age_max,
                DEFAULT_LAST_GOOD_AGE_MAX,
            ),
            body_timeout: duration(flags.body_timeout, file.body_timeout, DEFAULT_STALL_TIMEOUT),
            workers: workers
                .unwrap_or_else(|| worker_count(Cgroup::default().cpu_quota(), DEFAULT_WORKERS_MAX)),
            drain_deadline: duration(flags.drain_deadline, file.drain.deadline, DEFAULT_DRAIN_DEADLINE),
            drain_quiet: duration(flags.drain_quiet, file.drain.quiet, DEFAULT_DRAIN_QUIET),
            exit_when_alone: flags.exit_when_alone.or(file.exit_when_alone).unwrap_or(false),
            startup_timeout: duration(flags.startup_timeout, file.startup.timeout, DEFAULT_STARTUP_TIMEOUT),
            tcp,
            session_resumption: flags
                .tls_session_resumption
                .or(file.tls.session_resumption.map(file::Parsed::into_inner))
                .is_none_or(|switch| switch.0),
            log: flags.log.or(file.log.map(file::Parsed::into_inner)).unwrap_or_default(),
            access_log: flags
                .access_log
                .or(file.access_log.map(file::Parsed::into_inner))
                .unwrap_or_default(),
        };
        settings.check()?;
        Ok(settings)
    }

    /// The bounds of the connections that this proxy accepts.
    pub fn limits(&self) -> Limits {
        Limits { stall_timeout: self.body_timeout, ..Limits::default() }
    }

    /// The namespace of the workload: the first half of its name.
    pub fn namespace(&self) -> Namespace {
        let (namespace, _) = self.workload.as_str().split_once('/').unwrap_or_default();
        namespace.parse().expect("a checked workload must have a namespace")
    }

    /// Every address this proxy listens on, with the setting that says so.
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let mut all = Vec::new();
        all.extend(self.outbound.listen.map(|listen| ("outbound.listen".to_owned(), listen)));
        for entry in &self.outbound.services {
            all.push((format!("outbound.services ({}:{})", entry.service, entry.port), entry.listen));
        }
        for entry in &self.inbound {
            all.push((format!("inbound (application {})", entry.application), entry.listen));
        }
        if let Some(capture) = &self.capture {
            all.extend(capture.outbound().map(|listen| ("rules.outboundPort".to_owned(), listen)));
            all.push(("rules.inboundPort".to_owned(), capture.inbound()));
        }
        all.push(("metrics.listen".to_owned(), self.metrics));
        all.push(("admin.listen".to_owned(), self.admin));
        all
    }
}

#[cfg(test)]
mod tests;
