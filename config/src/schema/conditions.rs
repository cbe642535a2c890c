//! `when` of an AuthorizationPolicy, and the values that it shares with `from` and `to`.

use super::authorization_policy::{Rule, clause, namespace, pattern, port};
use super::mesh_config::block;
use super::value::{Object, Value};
use crate::closest::did_you_mean;
use crate::document::quoted;
use crate::report::At;
use http::HeaderName;
use ipnet::IpNet;
use weft_model::authorization::{Clause, Condition};
use weft_model::spiffe::{SpiffeId, TrustDomain};
use weft_model::string_match::StringMatch;

const KEYS: [&str; 8] = [
    "request.headers[NAME]",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "destination.ip",
    "destination.port",
    "connection.sni",
];

/// Reads the conditions of a rule.
pub(crate) fn conditions(items: &[Value<'_>], rule: &mut Rule) {
    for item in items {
        let Some(object) = item.object() else { continue };
        let Some(key) = object.require("key").and_then(Value::text) else {
            object.accept_all();
            continue;
        };
        if !object.has("values") && !object.has("notValues") {
            object.error("the condition needs `values` or `notValues`");
        }
        if let Some(condition) = condition(&object, key, rule) {
            rule.model.conditions.push(condition);
        } else {
            object.accept_all();
        }
    }
}

fn condition(object: &Object<'_>, key: At<&str>, rule: &mut Rule) -> Option<Condition> {
    const VALUES: [&str; 2] = ["values", "notValues"];
    Some(match key.value {
        "source.ip" => Condition::SourceIp(clause(object, VALUES, blocks)),
        "remote.ip" => {
            rule.needs_http("remote.ip", key.place);
            Condition::RemoteIp(clause(object, VALUES, blocks))
        }
        "destination.ip" => Condition::DestinationIp(clause(object, VALUES, blocks)),
        "source.namespace" => Condition::SourceNamespace(clause(object, VALUES, namespace)),
        "source.principal" => {
            Condition::SourcePrincipal(clause(object, VALUES, |value| principal(value, rule)))
        }
        "destination.port" => Condition::DestinationPort(clause(object, VALUES, port)),
        "connection.sni" => Condition::ConnectionSni(texts(object, VALUES)),
        other => {
            let header = other.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
            if let Some(header) = header {
                let Ok(name) = header.parse::<HeaderName>() else {
                    let message = format!("{} is not a valid header name", quoted(header));
                    object.report().error(key.place, message);
                    return None;
                };
                rule.needs_http("request.headers", key.place);
                return Some(Condition::RequestHeader(name.as_str().into(), texts(object, VALUES)));
            }
            unknown(object, key);
            return None;
        }
    })
}

fn unknown(object: &Object<'_>, key: At<&str>) {
    let later = ["request.auth.", "experimental.envoy.filters."];
    if later.iter().any(|prefix| key.value.starts_with(prefix)) || key.value == "source.serviceAccount" {
        object.report().error(key.place, format!("the condition {} is not evaluated yet", quoted(key.value)));
        return;
    }
    let word = key.value.split('[').next().unwrap_or_default();
    let near = did_you_mean(word, KEYS.iter().map(|key| key.trim_end_matches("[NAME]")));
    let hint = near.unwrap_or_else(|| format!("known are {}", KEYS.join(", ")));
    object.report().error_hint(key.place, format!("unknown condition {}", quoted(key.value)), hint);
}

fn texts(object: &Object<'_>, keys: [&'static str; 2]) -> Clause<StringMatch> {
    clause(object, keys, |value| Some(pattern(value)?.1))
}

/// An address or a block of them.
pub(crate) fn blocks(value: Value<'_>) -> Option<IpNet> {
    Some(block(value)?.value)
}

/// A host name or a pattern of one; hosts are compared without port.
pub(crate) fn header_free_host(value: Value<'_>) -> Option<StringMatch> {
    let (text, pattern) = pattern(value)?;
    let bracketed = text.value.starts_with('[') && text.value.ends_with(']');
    if text.value.contains(':') && !bracketed {
        let hint = "hosts are compared without port; ports go to `ports`";
        value.error_hint(format!("the host {} never matches", quoted(text.value)), hint);
        return None;
    }
    if text.value.contains(['/', ' ', '@']) {
        value.error(format!("{} is not a host", quoted(text.value)));
        return None;
    }
    Some(pattern)
}

/// A principal, `TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, or a pattern of one.
pub(crate) fn principal(value: Value<'_>, rule: &mut Rule) -> Option<StringMatch> {
    let (text, pattern) = pattern(value)?;
    if let Some(rest) = text.value.strip_prefix("spiffe://") {
        value.error_hint("a principal is written without `spiffe://`", format!("write {}", quoted(rest)));
        return None;
    }
    match &pattern {
        StringMatch::Exact(name) => {
            let Ok(id) = format!("spiffe://{name}").parse::<SpiffeId>() else {
                let hint = "write TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT";
                value.error_hint(format!("the principal {} never matches", quoted(text.value)), hint);
                return None;
            };
            rule.trust_domains.push(value.at(id.trust_domain().into()));
        }
        StringMatch::Prefix(name) => {
            let (domain, rest) = name.split_once('/').unwrap_or((name, "ns/"));
            let shaped = rest.starts_with("ns/") || "ns/".starts_with(rest);
            if domain.parse::<TrustDomain>().is_err() || !shaped {
                let hint = "principals are TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT";
                value.error_hint(format!("the principal {} never matches", quoted(text.value)), hint);
                return None;
            }
            if name.contains('/') {
                rule.trust_domains.push(value.at(domain.into()));
            }
        }
        _ => {}
    }
    Some(pattern)
}
