//! The settings file as it is written. Unknown keys and wrong values are errors with file and line.

use super::capture::{Installer, Mode as CaptureMode};
use super::flags::{Address, MaybeAddress, MaybePath, MaybeSpan, Span, Switch};
use super::{ControlAddress, InboundSettings, ServiceSettings, SettingsError};
use crate::access_log::Mode;
use crate::rules::settings::RulesFile;
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use weft_model::names::{ServiceName, WorkloadUid};
use weft_model::spiffe::SpiffeId;
use weft_runtime::logging::LogFilter;

/// A settings file is a page; more is a mistake, and YAML is costly to read.
const BYTES_MAX: u64 = 64 << 10;

/// A value that is written as text and parsed where it stands, so that its error has a line.
#[derive(Debug)]
pub(super) struct Parsed<T>(T);

impl<T> Parsed<T> {
    pub(super) fn into_inner(self) -> T {
        self.0
    }
}

impl<'de, T> Deserialize<'de> for Parsed<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|error| {
            let error = error.to_string();
            let quoted = format!("{text:?}");
            if error.contains(&quoted) {
                serde::de::Error::custom(error)
            } else {
                serde::de::Error::custom(format!("{quoted}: {error}"))
            }
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) workload: Option<Parsed<WorkloadUid>>,
    pub(super) control: Control,
    pub(super) outbound: Outbound,
    pub(super) inbound: Vec<InboundEntry>,
    pub(super) capture: CaptureFile,
    pub(super) rules: RulesFile,
    pub(super) metrics: Listen,
    pub(super) admin: Admin,
    pub(super) state: Option<PathBuf>,
    pub(super) last_good_age_max: Option<Parsed<Span>>,
    pub(super) body_timeout: Option<Parsed<Span>>,
    pub(super) workers: Option<NonZeroUsize>,
    pub(super) drain: Drain,
    pub(super) exit_when_alone: Option<bool>,
    pub(super) startup: Startup,
    pub(super) tcp: Tcp,
    pub(super) tls: Tls,
    pub(super) log: Option<Parsed<LogFilter>>,
    pub(super) access_log: Option<Parsed<Mode>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Control {
    pub(super) address: Option<Parsed<ControlAddress>>,
    pub(super) roots: Option<PathBuf>,
    pub(super) spiffe_id: Option<Parsed<SpiffeId>>,
    pub(super) token: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Outbound {
    pub(super) listen: Option<Parsed<MaybeAddress>>,
    pub(super) services: Vec<ServiceEntry>,
    pub(super) connect_timeout: Option<Parsed<Span>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceEntry {
    service: Parsed<ServiceName>,
    port: std::num::NonZeroU16,
    listen: Parsed<Address>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct InboundEntry {
    listen: Parsed<Address>,
    application: Parsed<Address>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct CaptureFile {
    pub(super) mode: Option<Parsed<CaptureMode>>,
    pub(super) install: Option<Parsed<Installer>>,
    pub(super) probe_interval: Option<Parsed<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Listen {
    pub(super) listen: Option<Parsed<Address>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Admin {
    pub(super) listen: Option<Parsed<Address>>,
    pub(super) socket: Option<Parsed<MaybePath>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Drain {
    pub(super) deadline: Option<Parsed<Span>>,
    pub(super) quiet: Option<Parsed<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Startup {
    pub(super) timeout: Option<Parsed<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Tcp {
    pub(super) keepalive_time: Option<Parsed<Span>>,
    pub(super) keepalive_interval: Option<Parsed<Span>>,
    pub(super) user_timeout: Option<Parsed<Span>>,
    pub(super) half_closed_timeout: Option<Parsed<Span>>,
    pub(super) idle_timeout: Option<Parsed<MaybeSpan>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Tls {
    pub(super) session_resumption: Option<Parsed<Switch>>,
}

impl ServiceEntry {
    pub(super) fn into_settings(self) -> ServiceSettings {
        ServiceSettings {
            service: self.service.into_inner(),
            port: self.port.get(),
            listen: self.listen.into_inner().0,
        }
    }
}

impl InboundEntry {
    pub(super) fn into_settings(self) -> InboundSettings {
        InboundSettings { listen: self.listen.into_inner().0, application: self.application.into_inner().0 }
    }
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<File, SettingsError> {
    let unreadable = |error: std::io::Error| {
        SettingsError::new(format_args!(
            "the settings file {} (--config) cannot be read: {error}",
            path.display()
        ))
    };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > BYTES_MAX {
        return Err(SettingsError::new(format_args!(
            "the settings file {} (--config) is larger than {BYTES_MAX} bytes; is it the right file?",
            path.display()
        )));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&path.display().to_string(), &text)
}

/// A value that does not parse is reported at the beginning of the mapping it stands in. The value
/// itself, which the message quotes, is on that line or a later one.
fn value_place(text: &str, from: usize, message: &str) -> Option<(usize, usize)> {
    let value = message.split('"').nth(1).filter(|value| !value.is_empty())?;
    let mut lines = text.lines().enumerate().skip(from.saturating_sub(1));
    lines.find_map(|(index, line)| {
        let after_key = line.find(": ").map_or(0, |colon| colon + 1);
        let at = line.get(after_key..)?.find(value)?;
        Some((index + 1, after_key + at + 1))
    })
}

/// Reads the text of a file.
pub(super) fn parse(name: &str, text: &str) -> Result<File, SettingsError> {
    // A file of comments alone is a file without settings.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(File::default());
    }
    serde_yaml::from_str(text).map_err(|error| {
        let message = error.to_string();
        // The place is in front, where editors look for it.
        let message = message.split(" at line ").next().unwrap_or(&message);
        let place = error.location().map_or_else(String::new, |at| {
            let (line, column) = value_place(text, at.line(), message).unwrap_or((at.line(), at.column()));
            format!(":{line}:{column}")
        });
        SettingsError::new(format_args!("{name}{place}: {message}"))
    })
}
