//! The command line, and its environment variables: every setting has one of each.

use super::capture::{Installer, Mode as CaptureMode};
use super::{ControlAddress, InboundSettings, ServiceSettings, socket_address};
use crate::access_log::Mode;
use crate::rules::settings::RulesFlags;
use clap::Parser;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use weft_model::duration::parse_duration;
use weft_model::names::WorkloadUid;
use weft_model::spiffe::SpiffeId;
use weft_runtime::logging::LogFilter;

/// Weft's sidecar proxy. Settings come from flags, then the environment, then the file.
#[derive(Debug, Default, Parser)]
#[command(name = "weft-proxy", version)]
pub struct Flags {
    /// The settings file (YAML).
    #[arg(long, env = "WEFT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The workload this proxy stands for.
    #[arg(long, env = "WEFT_WORKLOAD", value_name = "NAMESPACE/NAME")]
    pub workload: Option<WorkloadUid>,
    /// Where the control API listens.
    #[arg(long, env = "WEFT_CONTROL_ADDRESS", value_name = "HOST:PORT")]
    pub control_address: Option<ControlAddress>,
    /// The roots of the control API's certificate (PEM). Re-read.
    #[arg(long, env = "WEFT_CONTROL_ROOTS", value_name = "FILE")]
    pub control_roots: Option<PathBuf>,
    /// Who the control API must prove to be [default: weft-control of the roots' trust domain].
    #[arg(long, env = "WEFT_CONTROL_SPIFFE_ID", value_name = "SPIFFE-ID")]
    pub control_spiffe_id: Option<SpiffeId>,
    /// The token for the first certificate. Re-read at each use.
    #[arg(long, env = "WEFT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The HTTP proxy port for this pod's applications, or `none` [default: 127.0.0.1:15001].
    #[arg(long, env = "WEFT_OUTBOUND_LISTEN", value_name = "ADDRESS")]
    pub outbound_listen: Option<MaybeAddress>,
    /// A port that leads to one Service (repeatable): shop/catalog:80=127.0.0.1:9001.
    #[arg(long, env = "WEFT_OUTBOUND_SERVICE", value_delimiter = ',', value_name = "SERVICE:PORT=ADDRESS")]
    pub outbound_service: Vec<ServiceSettings>,
    /// How long a connection to an endpoint may take to be made, TCP and TLS together [default: 1s].
    #[arg(long, env = "WEFT_CONNECT_TIMEOUT", value_name = "DURATION")]
    pub connect_timeout: Option<Span>,
    /// An address of this workload and the application's behind it (repeatable).
    #[arg(long, env = "WEFT_INBOUND", value_delimiter = ',', value_name = "ADDRESS=APPLICATION")]
    pub inbound: Vec<InboundSettings>,
    /// How connections come to the proxy: explicit or transparent [default: explicit].
    #[arg(long, env = "WEFT_CAPTURE", value_name = "MODE")]
    pub capture: Option<CaptureMode>,
    /// Who installs the rules of transparent capture: itself or other [default: itself].
    #[arg(long, env = "WEFT_CAPTURE_INSTALL", value_name = "WHO")]
    pub capture_install: Option<Installer>,
    /// How often it is tried whether the rules are in place [default: 30s].
    #[arg(long, env = "WEFT_CAPTURE_PROBE_INTERVAL", value_name = "DURATION")]
    pub capture_probe_interval: Option<Span>,
    /// The redirection rules of transparent capture.
    #[command(flatten)]
    pub rules: RulesFlags,
    /// Where metrics and readiness are served [default: [::]:15020].
    #[arg(long, env = "WEFT_METRICS_LISTEN", value_name = "ADDRESS", value_parser = socket_address)]
    pub metrics_listen: Option<SocketAddr>,
    /// Where state is shown; loopback only [default: 127.0.0.1:15000].
    #[arg(long, env = "WEFT_ADMIN_LISTEN", value_name = "ADDRESS", value_parser = socket_address)]
    pub admin_listen: Option<SocketAddr>,
    /// The unix socket where state is changed (drain, log level), or `none` [default: admin.sock in the
    /// state directory]. Only this proxy's user and root are answered.
    #[arg(long, env = "WEFT_ADMIN_SOCKET", value_name = "PATH")]
    pub admin_socket: Option<MaybePath>,
    /// Where key, certificate and the last good configuration are kept over a restart.
    #[arg(long, env = "WEFT_STATE", value_name = "DIRECTORY")]
    pub state: Option<PathBuf>,
    /// How old the last good configuration may be [default: 24h].
    #[arg(long, env = "WEFT_LAST_GOOD_AGE_MAX", value_name = "DURATION")]
    pub last_good_age_max: Option<Span>,
    /// Worker threads [default: the CPU quota rounded up, at most 2].
    #[arg(long, env = "WEFT_WORKERS", value_name = "NUMBER")]
    pub workers: Option<NonZeroUsize>,
    /// How long a drain may take: below the pod's grace period [default: 25s].
    #[arg(long, env = "WEFT_DRAIN_DEADLINE", value_name = "DURATION")]
    pub drain_deadline: Option<Span>,
    /// How long no connection must have been open before a drain takes the application for gone
    /// [default: 5s]. Not asked where its processes are known: behind `--`, and with --exit-when-alone.
    #[arg(long, env = "WEFT_DRAIN_QUIET", value_name = "DURATION")]
    pub drain_quiet: Option<Span>,
    /// End when the last other process of this pid namespace has ended: for jobs in pods with
    /// shareProcessNamespace [default: false].
    #[arg(long, env = "WEFT_EXIT_WHEN_ALONE", value_name = "BOOLEAN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub exit_when_alone: Option<bool>,
    /// How long a body may stop arriving, or an answer stop being taken [default: 5m].
    #[arg(long, env = "WEFT_BODY_TIMEOUT", value_name = "DURATION")]
    pub body_timeout: Option<Span>,
    /// How long connections wait for the first certificate and configuration [default: 60s].
    #[arg(long, env = "WEFT_STARTUP_TIMEOUT", value_name = "DURATION")]
    pub startup_timeout: Option<Span>,
    /// Silence on a TCP connection until the kernel probes its peer [default: 30s].
    #[arg(long, env = "WEFT_TCP_KEEPALIVE_TIME", value_name = "DURATION")]
    pub tcp_keepalive_time: Option<Span>,
    /// Between probes that were not answered [default: 10s].
    #[arg(long, env = "WEFT_TCP_KEEPALIVE_INTERVAL", value_name = "DURATION")]
    pub tcp_keepalive_interval: Option<Span>,
    /// How long a peer may leave bytes or probes unacknowledged [default: 60s].
    #[arg(long, env = "WEFT_TCP_USER_TIMEOUT", value_name = "DURATION")]
    pub tcp_user_timeout: Option<Span>,
    /// How long an opaque connection may be silent when one side has ended [default: 5m].
    #[arg(long, env = "WEFT_TCP_HALF_CLOSED_TIMEOUT", value_name = "DURATION")]
    pub tcp_half_closed_timeout: Option<Span>,
    /// How long an opaque connection may be silent, or `none` [default: none].
    #[arg(long, env = "WEFT_TCP_IDLE_TIMEOUT", value_name = "DURATION")]
    pub tcp_idle_timeout: Option<MaybeSpan>,
    /// Whether TLS sessions may be resumed between the same two workloads: on, off [default: on].
    #[arg(long, env = "WEFT_TLS_SESSION_RESUMPTION", value_name = "SWITCH")]
    pub tls_session_resumption: Option<Switch>,
    /// What is logged, for instance info or warn,weft_proxy=debug [default: info].
    #[arg(long, env = "WEFT_LOG", value_name = "FILTER")]
    pub log: Option<LogFilter>,
    /// Which requests are written to standard output: off, errors, all [default: errors].
    #[arg(long, env = "WEFT_ACCESS_LOG", value_name = "WHICH")]
    pub access_log: Option<Mode>,
}

/// An address, with a message that says how one is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address(pub(super) SocketAddr);

/// An address, or `none`.
#[derive(Clone, Copy, Debug)]
pub struct MaybeAddress(pub(super) Option<SocketAddr>);

/// A path, or `none`.
#[derive(Clone, Debug)]
pub struct MaybePath(pub(super) Option<PathBuf>);

/// A duration as the rest of the mesh writes them.
#[derive(Clone, Copy, Debug)]
pub struct Span(pub(super) Duration);

/// A duration, or `none`.
#[derive(Clone, Copy, Debug)]
pub struct MaybeSpan(pub(super) Option<Duration>);

/// `on` or `off`.
#[derive(Clone, Copy, Debug)]
pub struct Switch(pub(super) bool);

impl Default for MaybeAddress {
    fn default() -> Self {
        Self(Some(super::DEFAULT_OUTBOUND_LISTEN.parse().expect("a default address must parse")))
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        socket_address(text).map(Self)
    }
}

impl FromStr for MaybeAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(Self(None)) } else { socket_address(text).map(|address| Self(Some(address))) }
    }
}

impl FromStr for MaybePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("empty; give a path, or none".to_owned()),
            "none" => Ok(Self(None)),
            path => Ok(Self(Some(path.into()))),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_duration(text).map(Self).map_err(|error| error.to_string())
    }
}

impl FromStr for MaybeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|Span(span)| Self(Some(span))) }
    }
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self(true)),
            "off" => Ok(Self(false)),
            _ => Err("neither on nor off".to_owned()),
        }
    }
}
