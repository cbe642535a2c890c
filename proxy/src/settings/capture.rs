//! How connections come to this proxy: by themselves, or redirected by the kernel.

use super::SettingsError;
use super::file::CaptureFile;
use super::flags::Flags;
use crate::describe::chain;
use crate::rules::settings::{RulesFile, RulesSettings};
use crate::rules::wanted::RuleSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// Each inbound probe is a call of the control API.
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Transparent capture.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaptureSettings {
    /// The redirection.
    pub rules: RuleSet,
    /// Who puts it in place.
    pub installer: Installer,
    /// How often it is tried whether it is in place.
    pub probe_interval: Duration,
}

/// How connections come to the proxy.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// Applications and peers dial the proxy.
    #[default]
    Explicit,
    /// They dial each other, and the kernel redirects them.
    Transparent,
}

/// Who installs the rules.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Installer {
    /// The proxy, which listens by then: no connection is ever refused for being early.
    #[default]
    Itself,
    /// Somebody else: an init container, a CNI plugin.
    Other,
}

// === impl CaptureSettings ===

impl CaptureSettings {
    /// Takes what concerns capture out of flags and file. `None`: explicit.
    pub(super) fn join(
        flags: &mut Flags,
        file: CaptureFile,
        rules: RulesFile,
    ) -> Result<Option<Self>, SettingsError> {
        let mode = flags.capture.or(file.mode.map(super::file::Parsed::into_inner)).unwrap_or_default();
        if mode == Mode::Explicit {
            return Ok(None);
        }
        let installer =
            flags.capture_install.or(file.install.map(super::file::Parsed::into_inner)).unwrap_or_default();
        let rules = RuleSet::new(RulesSettings::join(std::mem::take(&mut flags.rules), rules))
            .map_err(|error| SettingsError::new(format_args!("rules: {}", chain(&error))))?;
        let probe_interval = flags
            .capture_probe_interval
            .or(file.probe_interval.map(super::file::Parsed::into_inner))
            .map_or(super::DEFAULT_PROBE_INTERVAL, |span| span.0);
        Ok(Some(Self { rules, installer, probe_interval }))
    }

    /// Where redirected outbound connections arrive: the kernel redirects to loopback.
    pub fn outbound(&self) -> [SocketAddr; 2] {
        let port = self.rules.settings().outbound_port;
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].map(|ip| SocketAddr::new(ip, port))
    }

    /// Where redirected inbound connections arrive: at whichever address they came to.
    pub fn inbound(&self) -> SocketAddr {
        SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.rules.settings().inbound_port)
    }

    pub(super) fn check(&self, metrics: SocketAddr) -> Result<(), SettingsError> {
        let settings = self.rules.settings();
        if !metrics.ip().to_canonical().is_loopback() && !settings.own_ports.contains(&metrics.port()) {
            return Err(SettingsError::new(format_args!(
                "metrics.listen: port {} is not among rules.ownPorts, so whoever asks for metrics or readiness would \
                 be redirected to the application; add it there (ownPorts: [{}])",
                metrics.port(),
                metrics.port()
            )));
        }
        if self.probe_interval < PROBE_INTERVAL_MIN {
            return Err(SettingsError::new(format_args!(
                "capture.probeInterval: {:?} is too often; use {PROBE_INTERVAL_MIN:?} or more, for instance 30s",
                self.probe_interval
            )));
        }
        Ok(())
    }
}

// === impl Mode ===

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "explicit" => Ok(Self::Explicit),
            "transparent" => Ok(Self::Transparent),
            _ => Err(format!("{text:?} is neither `explicit` nor `transparent`")),
        }
    }
}

// === impl Installer ===

impl FromStr for Installer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "itself" => Ok(Self::Itself),
            "other" => Ok(Self::Other),
            _ => Err(format!(
                "{text:?} is neither `itself` (the proxy installs the rules) nor `other` (an init container does)"
            )),
        }
    }
}
