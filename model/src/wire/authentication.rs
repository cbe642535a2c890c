//! `weft.v1.PeerAuthentication`.

use super::{Refusal, level, missing, parse, port, provenance_from_wire, provenance_to_wire};
use crate::authentication::{PeerAuthentication, PolicyScope, TlsMode};
use crate::proto::v1;
use std::collections::BTreeMap;

pub(super) fn to_wire(policy: &PeerAuthentication) -> v1::PeerAuthentication {
    let scope = match policy.scope {
        PolicyScope::Mesh => v1::PolicyScope::Mesh,
        PolicyScope::Namespace => v1::PolicyScope::Namespace,
        PolicyScope::Workload => v1::PolicyScope::Workload,
    };
    v1::PeerAuthentication {
        needs_level: 1,
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        scope: scope.into(),
        mode: mode_to_wire(policy.mode).into(),
        ports: policy
            .ports
            .iter()
            .map(|(port, mode)| v1::PortTlsMode { port: (*port).into(), mode: mode_to_wire(*mode).into() })
            .collect(),
        provenance: provenance_to_wire(&policy.provenance),
    }
}

pub(super) fn from_wire(message: v1::PeerAuthentication) -> Result<PeerAuthentication, Refusal> {
    level(message.needs_level)?;
    let scope = match v1::PolicyScope::try_from(message.scope) {
        Ok(v1::PolicyScope::Mesh) => PolicyScope::Mesh,
        Ok(v1::PolicyScope::Namespace) => PolicyScope::Namespace,
        Ok(v1::PolicyScope::Workload) => PolicyScope::Workload,
        Ok(v1::PolicyScope::Unspecified) | Err(_) => return Err(missing("the scope")),
    };
    let mut ports = BTreeMap::new();
    for held in message.ports {
        ports.insert(port(held.port)?, mode_from_wire(held.mode)?);
    }
    Ok(PeerAuthentication {
        namespace: parse(&message.namespace)?,
        name: parse(&message.name)?,
        scope,
        mode: mode_from_wire(message.mode)?,
        ports,
        provenance: provenance_from_wire(message.provenance),
    })
}

pub(super) fn mode_to_wire(mode: Option<TlsMode>) -> v1::TlsMode {
    match mode {
        None => v1::TlsMode::Unset,
        Some(TlsMode::Strict) => v1::TlsMode::Strict,
        Some(TlsMode::Permissive) => v1::TlsMode::Permissive,
        Some(TlsMode::Disable) => v1::TlsMode::Disable,
    }
}

pub(super) fn mode_from_wire(number: i32) -> Result<Option<TlsMode>, Refusal> {
    Ok(match v1::TlsMode::try_from(number) {
        Ok(v1::TlsMode::Unset) => None,
        Ok(v1::TlsMode::Strict) => Some(TlsMode::Strict),
        Ok(v1::TlsMode::Permissive) => Some(TlsMode::Permissive),
        Ok(v1::TlsMode::Disable) => Some(TlsMode::Disable),
        Ok(v1::TlsMode::Unspecified) | Err(_) => return Err(missing("the mode")),
    })
}
