//! `MeshConfig` (weft.dev/v1alpha1): what holds for the whole mesh. At most one.

use super::peer_authentication::MODES;
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::At;
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;
use weft_model::mesh::{
    BodyInCheck, ExtensionProvider, MeshConfig as Model, NODE_PREFIX_MIN, OutboundTraffic,
};
use weft_model::names::service_of_host;
use weft_model::path::Normalization;
use weft_model::spiffe::TrustDomain;

/// What becomes of connections that leave the mesh, by Istio's names.
const OUTBOUND_TRAFFIC: [(&str, OutboundTraffic); 2] =
    [("ALLOW_ANY", OutboundTraffic::AllowAny), ("REGISTRY_ONLY", OutboundTraffic::RegistryOnly)];

/// How far paths are put into one form, by Istio's names. What is not said goes as far as it goes.
const NORMALIZATION: [(&str, Normalization); 5] = {
    let [none, base, merge, decode] = Normalization::NAMES;
    [none, base, merge, decode, ("DEFAULT", Normalization::DecodeAndMergeSlashes)]
};

/// How long an external authorizer may take. Istio's 600 s would hold a request that long.
const PROVIDER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The longest that it may be given.
const PROVIDER_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// What the mesh's owner wrote, with the defaults for what was left out.
#[derive(Debug, Default)]
pub(crate) struct MeshConfig {
    pub(crate) model: Model,
}

pub(crate) fn read(spec: Option<&Object<'_>>) -> MeshConfig {
    let mut model = Model::default();
    let Some(spec) = spec else { return MeshConfig { model } };
    if let Some(domain) = spec.take("trustDomain").and_then(Value::parse::<TrustDomain>) {
        model.trust_domain = domain.value;
    }
    for value in spec.take("trustDomainAliases").and_then(|value| value.items(16)).unwrap_or_default() {
        let Some(alias) = value.parse::<TrustDomain>() else { continue };
        if alias.value == model.trust_domain || model.trust_domain_aliases.contains(&alias.value) {
            value.error(format!("the trust domain {} comes twice", alias.value));
            continue;
        }
        model.trust_domain_aliases.push(alias.value);
    }
    if let Some(namespace) = spec.take("rootNamespace").and_then(Value::parse) {
        model.root_namespace = namespace.value;
    }
    for value in spec.take("cidrs").and_then(|value| value.items(256)).unwrap_or_default() {
        let Some(block) = block(value) else { continue };
        model.cidrs.push(block.value);
    }
    for value in spec.take("nodeCidrs").and_then(|value| value.items(256)).unwrap_or_default() {
        let Some(block) = block(value) else { continue };
        if block.value.prefix_len() < NODE_PREFIX_MIN {
            let message = format!("{} is no block of nodes: it holds far too many addresses", block.value);
            value.error_hint(message, format!("the shortest prefix here is /{NODE_PREFIX_MIN}"));
            continue;
        }
        model.node_cidrs.push(block.value);
    }
    if let Some(count) = spec.take("numTrustedProxies").and_then(|value| value.number(0..=64)) {
        model.trusted_proxies = count.value;
    }
    if let Some(object) = spec.take("peerAuthentication").and_then(Value::object)
        && let Some(mode) = object.require("mode").and_then(|value| value.choice(&MODES))
    {
        match mode.value {
            Some(mode) => model.peer_authentication_default = mode,
            None => spec.report().error(mode.place, "there is nothing to inherit UNSET from"),
        }
    }
    if let Some(timeout) = spec.take("requestTimeout").and_then(Value::duration) {
        // As in a route, zero is no timeout.
        model.request_timeout_default = Some(timeout.value).filter(|timeout| !timeout.is_zero());
    }
    if let Some(object) = spec.take("outboundTrafficPolicy").and_then(Value::object)
        && let Some(mode) = object.require("mode").and_then(|value| value.choice(&OUTBOUND_TRAFFIC))
    {
        model.outbound_traffic = mode.value;
    }
    if let Some(object) = spec.take("pathNormalization").and_then(Value::object)
        && let Some(level) = object.require("normalization").and_then(|value| value.choice(&NORMALIZATION))
    {
        model.path_normalization = level.value;
    }
    for value in spec.take("extensionProviders").and_then(|value| value.items(64)).unwrap_or_default() {
        let Some(provider) = provider(value, &model) else { continue };
        if model.extension_providers.iter().any(|held| held.name == provider.name) {
            value.error(format!("the provider {} comes twice", quoted(&provider.name)));
            continue;
        }
        model.extension_providers.push(provider);
    }
    MeshConfig { model }
}

// An external authorizer, with Istio's keys.
fn provider(value: Value<'_>, model: &Model) -> Option<ExtensionProvider> {
    let object = value.object()?;
    let name = object.require("name").and_then(Value::text)?;
    if name.value.is_empty() || name.value.len() > 253 {
        value.error("a provider's name has 1 to 253 letters");
    }
    object.not_yet(&["envoyExtAuthzHttp"]);
    let object = object.require("envoyExtAuthzGrpc").and_then(Value::object)?;
    object.not_yet(&["pathPrefix"]);
    // Where the request goes is decided after the authorizer has answered in any case.
    object.take("clearRouteCache").and_then(Value::flag);
    let service = object.require("service").and_then(|value| {
        let text = value.text()?;
        // Istio lets the namespace of a ServiceEntry stand before the name.
        let host = text.value.rsplit_once('/').map_or(text.value, |(_, host)| host);
        let service = service_of_host(host, &model.root_namespace);
        if service.is_none() {
            let hint = "write NAME.NAMESPACE.svc.cluster.local";
            value.error_hint(format!("{} is not a Service of the mesh", quoted(text.value)), hint);
        }
        service
    });
    let port = object.require("port").and_then(Value::port);
    let timeout = object.take("timeout").and_then(Value::duration);
    if let Some(timeout) = &timeout
        && (timeout.value.is_zero() || timeout.value > PROVIDER_TIMEOUT_MAX)
    {
        let most = PROVIDER_TIMEOUT_MAX.as_secs();
        let message = format!("an authorizer may take up to {most} s, and some time");
        object.report().error(timeout.place, message);
    }
    let fail_open = object.take("failOpen").and_then(Value::flag).is_some_and(|flag| flag.value);
    // Text, as Istio has it.
    let status = object.take("statusOnError").and_then(|value| value.parse_with(status_on_error));
    let body = object
        .take("includeRequestBodyInCheck")
        .and_then(Value::object)
        .and_then(|body| body_in_check(&body));
    Some(ExtensionProvider {
        name: name.value.into(),
        service: service?,
        port: port?.value,
        timeout: timeout.map_or(PROVIDER_TIMEOUT_DEFAULT, |timeout| timeout.value),
        fail_open,
        status_on_error: status.map_or(ExtensionProvider::STATUS_ON_ERROR_DEFAULT, |status| status.value),
        body,
    })
}

fn status_on_error(text: &str) -> Result<u16, String> {
    // `+503` is a number too, and no status.
    let status =
        text.parse().ok().filter(|status| text.len() == 3 && ExtensionProvider::is_status_on_error(*status));
    status
        .ok_or_else(|| format!("{} is no status of a denial: write one of \"400\" to \"599\"", quoted(text)))
}

fn body_in_check(object: &Object<'_>) -> Option<BodyInCheck> {
    let flag = |key| object.take(key).and_then(Value::flag).is_some_and(|flag| flag.value);
    let (allow_partial, as_bytes) = (flag("allowPartialMessage"), flag("packAsBytes"));
    let bytes_max = object.require("maxRequestBytes")?.number(1..=BodyInCheck::BYTES_MAX)?.value;
    Some(BodyInCheck { bytes_max, allow_partial, as_bytes })
}

/// Reads an address or a block of them. Bits behind the prefix are cut off, with a warning.
pub(crate) fn block(value: Value<'_>) -> Option<At<IpNet>> {
    let text = value.text()?;
    let parsed = match text.value.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => text.value.parse::<IpNet>(),
    };
    let Ok(net) = parsed else {
        let message = format!("{} is not an address or a block of them", quoted(text.value));
        value.error_hint(message, "write 10.1.2.3, 10.0.0.0/8 or fd00::/8");
        return None;
    };
    if net.trunc() != net {
        let message = format!("{net} has bits behind its prefix: it means {}", net.trunc());
        value.report.warn(value.place, message, format!("write {}", net.trunc()));
    }
    if let IpNet::V6(six) = net
        && six.addr().to_ipv4_mapped().is_some()
    {
        value.error_hint("this is an IPv4 address in IPv6 clothes, which never matches", "write it as IPv4");
        return None;
    }
    Some(value.at(net.trunc()))
}
