//! `weft.v1.TrustBundle`, `weft.v1.MeshConfig` and `weft.v1.Generation`.

use super::authentication::{mode_from_wire, mode_to_wire};
use super::route::{duration_from_wire, duration_to_wire};
use super::service::{reference_from_wire, reference_to_wire};
use super::{Refusal, each, invalid, level, missing, parse, port};
use crate::mesh::{BodyInCheck, ExtensionProvider, Generation, MeshConfig, OutboundTraffic};
use crate::path::Normalization;
use crate::proto::v1;
use crate::trust::TrustBundle;

pub(super) fn bundle_to_wire(bundle: &TrustBundle) -> v1::TrustBundle {
    v1::TrustBundle {
        needs_level: 1,
        trust_domain: bundle.trust_domain.to_string(),
        roots: bundle.roots.clone(),
    }
}

pub(super) fn bundle_from_wire(message: v1::TrustBundle) -> Result<TrustBundle, Refusal> {
    level(message.needs_level)?;
    if message.roots.is_empty() || message.roots.iter().any(Vec::is_empty) {
        return Err(invalid("a trust bundle has no root, or an empty one"));
    }
    Ok(TrustBundle { trust_domain: parse(&message.trust_domain)?, roots: message.roots })
}

pub(super) fn config_to_wire(config: &MeshConfig) -> v1::MeshConfig {
    v1::MeshConfig {
        needs_level: 1,
        trust_domain: config.trust_domain.to_string(),
        trust_domain_aliases: config.trust_domain_aliases.iter().map(ToString::to_string).collect(),
        root_namespace: config.root_namespace.to_string(),
        cidrs: config.cidrs.iter().map(ToString::to_string).collect(),
        node_cidrs: config.node_cidrs.iter().map(ToString::to_string).collect(),
        trusted_proxies: config.trusted_proxies,
        peer_authentication_default: mode_to_wire(Some(config.peer_authentication_default)).into(),
        request_timeout_default: config.request_timeout_default.map(duration_to_wire),
        outbound_traffic: match config.outbound_traffic {
            OutboundTraffic::AllowAny => v1::OutboundTraffic::AllowAny,
            OutboundTraffic::RegistryOnly => v1::OutboundTraffic::RegistryOnly,
        }
        .into(),
        extension_providers: config.extension_providers.iter().map(provider_to_wire).collect(),
        path_normalization: match config.path_normalization {
            Normalization::None => v1::PathNormalization::None,
            Normalization::Base => v1::PathNormalization::Base,
            Normalization::MergeSlashes => v1::PathNormalization::MergeSlashes,
            Normalization::DecodeAndMergeSlashes => v1::PathNormalization::DecodeAndMergeSlashes,
        }
        .into(),
    }
}

pub(super) fn config_from_wire(message: v1::MeshConfig) -> Result<MeshConfig, Refusal> {
    level(message.needs_level)?;
    Ok(MeshConfig {
        trust_domain: parse(&message.trust_domain)?,
        trust_domain_aliases: each(message.trust_domain_aliases, |name| parse(&name))?,
        root_namespace: parse(&message.root_namespace)?,
        cidrs: each(message.cidrs, |block| parse(&block))?,
        node_cidrs: each(message.node_cidrs, |block| parse(&block))?,
        trusted_proxies: message.trusted_proxies,
        peer_authentication_default: mode_from_wire(message.peer_authentication_default)?
            .ok_or_else(|| missing("the default mode"))?,
        request_timeout_default: message.request_timeout_default.map(duration_from_wire),
        outbound_traffic: match v1::OutboundTraffic::try_from(message.outbound_traffic) {
            Ok(v1::OutboundTraffic::AllowAny) => OutboundTraffic::AllowAny,
            Ok(v1::OutboundTraffic::RegistryOnly) => OutboundTraffic::RegistryOnly,
            Ok(v1::OutboundTraffic::Unspecified) | Err(_) => {
                return Err(missing("what becomes of connections that leave the mesh"));
            }
        },
        extension_providers: each(message.extension_providers, provider_from_wire)?,
        path_normalization: match v1::PathNormalization::try_from(message.path_normalization) {
            Ok(v1::PathNormalization::None) => Normalization::None,
            Ok(v1::PathNormalization::Base) => Normalization::Base,
            Ok(v1::PathNormalization::MergeSlashes) => Normalization::MergeSlashes,
            Ok(v1::PathNormalization::DecodeAndMergeSlashes) => Normalization::DecodeAndMergeSlashes,
            Ok(v1::PathNormalization::Unspecified) | Err(_) => {
                return Err(missing("how far paths are put into one form"));
            }
        },
    })
}

fn provider_to_wire(provider: &ExtensionProvider) -> v1::ExtensionProvider {
    v1::ExtensionProvider {
        name: provider.name.to_string(),
        service: Some(reference_to_wire(&provider.service)),
        port: provider.port.into(),
        timeout: Some(duration_to_wire(provider.timeout)),
        fail_open: provider.fail_open,
        body: provider.body.map(|body| v1::BodyInCheck {
            bytes_max: body.bytes_max,
            allow_partial: body.allow_partial,
            as_bytes: body.as_bytes,
        }),
        status_on_error: provider.status_on_error.into(),
    }
}

fn body_from_wire(message: v1::BodyInCheck) -> Result<BodyInCheck, Refusal> {
    let v1::BodyInCheck { bytes_max, allow_partial, as_bytes } = message;
    if !(1..=BodyInCheck::BYTES_MAX).contains(&bytes_max) {
        return Err(invalid(format!("{bytes_max} bytes of a body cannot be shown to an authorizer")));
    }
    Ok(BodyInCheck { bytes_max, allow_partial, as_bytes })
}

fn provider_from_wire(message: v1::ExtensionProvider) -> Result<ExtensionProvider, Refusal> {
    let timeout = message.timeout.map(duration_from_wire).filter(|timeout| !timeout.is_zero());
    let status = u16::try_from(message.status_on_error)
        .ok()
        .filter(|status| ExtensionProvider::is_status_on_error(*status));
    Ok(ExtensionProvider {
        name: message.name.into(),
        service: reference_from_wire(&message.service.ok_or_else(|| missing("a provider's Service"))?)?,
        port: port(message.port)?,
        timeout: timeout.ok_or_else(|| missing("a provider's timeout"))?,
        fail_open: message.fail_open,
        status_on_error: status.ok_or_else(|| missing("the status where a provider cannot be asked"))?,
        body: message.body.map(body_from_wire).transpose()?,
    })
}

pub(super) fn generation_to_wire(generation: &Generation) -> v1::Generation {
    v1::Generation { needs_level: 1, epoch: generation.epoch.to_string(), number: generation.number }
}

pub(super) fn generation_from_wire(message: v1::Generation) -> Result<Generation, Refusal> {
    level(message.needs_level)?;
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !(1..=64).contains(&message.epoch.len()) || !message.epoch.bytes().all(fit) {
        return Err(invalid("an epoch is 1 to 64 letters, digits or dashes"));
    }
    Ok(Generation { epoch: message.epoch.into(), number: message.number })
}
