//! `PeerAuthentication` (security.istio.io/v1): how a workload's clients must connect.

use super::selector::{Target, selector};
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::{At, Place};
use weft_model::authentication::TlsMode;

/// Modes by name. UNSET inherits.
pub(crate) const MODES: [(&str, Option<TlsMode>); 4] = [
    ("STRICT", Some(TlsMode::Strict)),
    ("PERMISSIVE", Some(TlsMode::Permissive)),
    ("DISABLE", Some(TlsMode::Disable)),
    ("UNSET", None),
];

/// What a policy's owner wrote.
#[derive(Debug)]
pub(crate) struct PeerAuthentication<'r> {
    pub(crate) target: Target<'r>,
    pub(crate) mode: Option<TlsMode>,
    pub(crate) ports: Vec<(At<u16>, Option<TlsMode>)>,
}

pub(crate) fn read<'r>(spec: Option<&Object<'r>>) -> PeerAuthentication<'r> {
    let Some(spec) = spec else {
        return PeerAuthentication { target: Target::All, mode: None, ports: Vec::new() };
    };
    let target = selector(spec);
    let mode = spec.take("mtls").and_then(mode).flatten();
    let mut ports = Vec::new();
    if let Some(value) = spec.take("portLevelMtls") {
        for (key, value) in value.entries().unwrap_or_default() {
            let mode = mode_of_port(value);
            match key.value.parse::<u16>() {
                Ok(port) if port != 0 => ports.push((at(key.place, port), mode)),
                _ => {
                    let message = format!("{} is not a port's number", quoted(key.value));
                    value.report.error_hint(
                        key.place,
                        message,
                        "name the workload's port, not the Service's",
                    );
                }
            }
        }
        if !spec.has("selector") {
            let hint = "add a selector, or set `mtls.mode`";
            value.error_hint("`portLevelMtls` needs a selector: ports are a workload's", hint);
        }
    }
    PeerAuthentication { target, mode, ports }
}

fn at<T>(place: Place, value: T) -> At<T> {
    At { value, place }
}

fn mode(value: Value<'_>) -> Option<Option<TlsMode>> {
    let object = value.object()?;
    let mode = object.take("mode").and_then(|value| value.choice(&MODES));
    Some(mode.and_then(|mode| mode.value))
}

fn mode_of_port(value: Value<'_>) -> Option<TlsMode> {
    mode(value).flatten()
}
