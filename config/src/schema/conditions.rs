//! `when` of an AuthorizationPolicy, and the values that it shares with `from` and `to`.

use super::authorization_policy::{Rule, clause, namespace, pattern, port};
use super::mesh_config::block;
use super::metadata::Metadata;
use super::value::{Object, Value};
use crate::closest::did_you_mean;
use crate::document::quoted;
use crate::report::At;
use http::HeaderName;
use ipnet::IpNet;
use weft_model::authorization::{Clause, Condition, RequestPrincipal, ServiceAccount, is_list_header};
use weft_model::names::{Name, Namespace};
use weft_model::spiffe::{SpiffeId, TrustDomain};
use weft_model::string_match::StringMatch;

const KEYS: [&str; 13] = [
    "request.headers[NAME]",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[NAME]",
    "source.serviceAccount",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "destination.ip",
    "destination.port",
    "connection.sni",
];

/// How deep a claim may lie.
const CLAIM_DEPTH_MAX: usize = 16;

/// Reads the conditions of a rule.
pub(crate) fn conditions(items: &[Value<'_>], metadata: &Metadata<'_>, rule: &mut Rule) {
    for item in items {
        let Some(object) = item.object() else { continue };
        let Some(key) = object.require("key").and_then(Value::text) else {
            object.accept_all();
            continue;
        };
        if !object.has("values") && !object.has("notValues") {
            object.error("the condition needs `values` or `notValues`");
        }
        if let Some(condition) = condition(&object, key, metadata, rule) {
            rule.model.conditions.push(condition);
        } else {
            object.accept_all();
        }
    }
}

fn condition(
    object: &Object<'_>,
    key: At<&str>,
    metadata: &Metadata<'_>,
    rule: &mut Rule,
) -> Option<Condition> {
    const VALUES: [&str; 2] = ["values", "notValues"];
    let claim = |path: Vec<&str>| Condition::RequestClaim(boxed(path), texts(object, VALUES));
    if key.value.starts_with("request.auth.") {
        rule.needs_http("request.auth", key.place);
    }
    Some(match key.value {
        "source.ip" => Condition::SourceIp(clause(object, VALUES, blocks)),
        "remote.ip" => Condition::RemoteIp(clause(object, VALUES, blocks)),
        "destination.ip" => Condition::DestinationIp(clause(object, VALUES, blocks)),
        "source.namespace" => Condition::SourceNamespace(clause(object, VALUES, namespace)),
        "source.principal" => {
            Condition::SourcePrincipal(clause(object, VALUES, |value| principal(value, rule)))
        }
        "source.serviceAccount" => {
            Condition::SourceServiceAccount(clause(object, VALUES, |value| service_account(value, metadata)))
        }
        "request.auth.principal" => Condition::RequestPrincipal(clause(object, VALUES, request_principal)),
        "request.auth.audiences" => claim(vec!["aud"]),
        "request.auth.presenter" => claim(vec!["azp"]),
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
                let values = clause(object, VALUES, |value| header_value(value, name.as_str()));
                return Some(Condition::RequestHeader(name.as_str().into(), values));
            }
            if let Some(path) = other.strip_prefix("request.auth.claims") {
                let Some(path) = claim_path(path) else {
                    let hint = "write request.auth.claims[NAME], or [A][B] for what lies within";
                    object.report().error_hint(key.place, format!("{} names no claim", quoted(other)), hint);
                    return None;
                };
                return Some(claim(path));
            }
            unknown(object, key);
            return None;
        }
    })
}

fn unknown(object: &Object<'_>, key: At<&str>) {
    if key.value.starts_with("experimental.envoy.filters.") {
        object.report().error(key.place, format!("the condition {} is not evaluated yet", quoted(key.value)));
        return;
    }
    let word = key.value.split('[').next().unwrap_or_default();
    let near = did_you_mean(word, KEYS.iter().map(|key| key.trim_end_matches("[NAME]")));
    let hint = near.unwrap_or_else(|| format!("known are {}", KEYS.join(", ")));
    object.report().error_hint(key.place, format!("unknown condition {}", quoted(key.value)), hint);
}

fn boxed(path: Vec<&str>) -> Box<[Box<str>]> {
    path.into_iter().map(Into::into).collect()
}

// `[A][B]` → A, B
fn claim_path(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let path: Vec<&str> = inner.split("][").collect();
    let valid = |name: &&str| !name.is_empty() && !name.contains(['[', ']']);
    (path.len() <= CLAIM_DEPTH_MAX && path.iter().all(valid)).then_some(path)
}

// A list's values are compared one by one, so that a comma in a pattern matches none of them.
fn header_value(value: Value<'_>, name: &str) -> Option<StringMatch> {
    let (text, pattern) = pattern(value)?;
    if text.value.contains(',') && is_list_header(name) {
        let hint = "write its elements as values of their own";
        value.error_hint(format!("{} never matches: {name} is a list", quoted(text.value)), hint);
        return None;
    }
    Some(pattern)
}

/// A service account, of the policy's namespace where it names none.
pub(crate) fn service_account(value: Value<'_>, metadata: &Metadata<'_>) -> Option<ServiceAccount> {
    let text = value.text()?;
    let (namespace, name) = match text.value.split_once('/') {
        Some((namespace, name)) => (namespace.parse::<Namespace>().ok(), name),
        None => (Some(metadata.namespace.value.clone()), text.value),
    };
    match (namespace, name.parse::<Name>()) {
        (Some(namespace), Ok(name)) => Some(ServiceAccount { namespace, name }),
        _ => {
            let message = format!("{} is not a service account", quoted(text.value));
            value.error_hint(message, "write NAME or NAMESPACE/NAME; patterns are for `principals`");
            None
        }
    }
}

/// `ISSUER/SUBJECT` of a token, or a pattern of it.
pub(crate) fn request_principal(value: Value<'_>) -> Option<RequestPrincipal> {
    let text = value.text()?;
    let parsed = RequestPrincipal::parse(text.value);
    if parsed.is_none() {
        let hint = "write ISSUER/SUBJECT, with a `*` at the beginning or at the end at most";
        value.error_hint(format!("the request principal {} never matches", quoted(text.value)), hint);
    }
    parsed
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
    if text.value.ends_with('.') {
        let hint = format!("write {}", quoted(text.value.trim_end_matches('.')));
        value.error_hint("hosts are compared without the dot at their end", hint);
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
