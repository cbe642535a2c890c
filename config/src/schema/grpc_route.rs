//! `GRPCRoute` (gateway.networking.k8s.io/v1, GEP-1016) with Services as parents.
//!
//! The bounds and rules here are those of the upstream CRD, whose generated types do not carry them.

use super::metadata::Metadata;
use super::route::{self, Around, Hostnames, Route, Rule, headers, pattern, rule_with};
use super::route_filters::Allowed;
use super::session_persistence;
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::At;
use weft_model::route::{PathMatch, RouteMatch, ValueMatch};

pub(crate) fn read(spec: Option<&Object<'_>>, metadata: &Metadata<'_>) -> Route {
    let around = Around { hostnames: Hostnames::Unused, rules_required: false, rules_max: 16 };
    route::read(spec, metadata, around, rule)
}

fn rule(value: Value<'_>, metadata: &Metadata<'_>) -> Option<Rule> {
    let object = value.object()?;
    let mut matches: Vec<RouteMatch> = Vec::new();
    for item in object.take("matches").and_then(|value| value.items(64)).unwrap_or_default() {
        matches.extend(route_match(item));
    }
    if matches.is_empty() {
        matches.push(called(PathMatch::Rpc { service: None, method: None }));
    }
    let mut read = rule_with(value, &object, metadata, matches, Allowed::Grpc);
    read.rule.session = object.take("sessionPersistence").and_then(session_persistence::read);
    Some(read)
}

fn called(path: PathMatch) -> RouteMatch {
    RouteMatch { path, headers: Vec::new(), queries: Vec::new(), method: None }
}

fn route_match(value: Value<'_>) -> Option<RouteMatch> {
    let object = value.object()?;
    let path = match object.take("method") {
        Some(method) => rpc(method),
        None => Some(PathMatch::Rpc { service: None, method: None }),
    };
    let headers = headers(&object);
    if !object.has("method") && !object.has("headers") {
        value.error_hint("this match says nothing", "leave `matches` out to match every call");
    }
    Some(RouteMatch { headers, ..called(path?) })
}

fn rpc(value: Value<'_>) -> Option<PathMatch> {
    let object = value.object()?;
    let by_regex =
        object.take("type").and_then(|value| value.choice(&[("Exact", false), ("RegularExpression", true)]));
    let by_regex = by_regex.is_some_and(|by_regex| by_regex.value);
    let service = object.take("service").map(|part| (part, part.text()));
    let method = object.take("method").map(|part| (part, part.text()));
    if service.is_none() && method.is_none() {
        value.error("`service` or `method` must be given");
        return None;
    }
    let part = |part: Option<(Value<'_>, Option<At<&str>>)>, grammar: fn(&str) -> bool, what: &str| {
        let Some((value, text)) = part else { return Some(None) };
        let text = text?;
        if text.value.is_empty() || text.value.len() > 1024 {
            value.error(format!("a {what} must have 1 to 1024 letters"));
            return None;
        }
        if by_regex {
            return pattern(value, text).map(|pattern| Some(ValueMatch::Regex(pattern)));
        }
        if !grammar(text.value) {
            let hint = if text.value.contains('/') {
                Some("`service` is PACKAGE.SERVICE and `method` the bare name: write both keys".to_owned())
            } else {
                None
            };
            value.error_hint(format!("{} is not the name of a {what}", quoted(text.value)), hint);
            return None;
        }
        Some(Some(ValueMatch::Exact(text.value.into())))
    };
    let service = part(service, is_service, "service");
    let method = part(method, is_identifier, "method");
    Some(PathMatch::Rpc { service: service?, method: method? })
}

// Names as protobuf has them, joined by dots.
fn is_service(text: &str) -> bool {
    text.split('.').all(is_identifier)
}

fn is_identifier(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}
