//! `HTTPRoute` (gateway.networking.k8s.io/v1) with Services as parents (GAMMA).
//!
//! The bounds and rules here are those of the upstream CRD, whose generated types do not carry them.

use super::metadata::Metadata;
use super::route_filters::{filters, hostname};
use super::value::{Object, Value};
use super::workload::WEIGHT_MAX;
use crate::document::quoted;
use crate::report::{At, Place};
use http::{HeaderName, Method};
use weft_model::names::{ServiceName, is_subdomain};
use weft_model::route::{Filter, PathMatch, Pattern, RouteMatch, RouteRule, ValueMatch};

/// What a route's owner wrote.
#[derive(Debug, Default)]
pub(crate) struct HttpRoute {
    pub(crate) parents: Vec<Parent>,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) place: Place,
    pub(crate) service: ServiceName,
    /// `None`: all ports.
    pub(crate) port: Option<At<u16>>,
    /// A port by its name.
    pub(crate) section: Option<At<Box<str>>>,
}

/// A rule, whose backends are still references.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) place: Place,
    pub(crate) rule: RouteRule,
    pub(crate) backends: Vec<BackendRef>,
}

#[derive(Debug)]
pub(crate) struct BackendRef {
    pub(crate) place: Place,
    pub(crate) service: ServiceName,
    pub(crate) port: At<u16>,
    pub(crate) weight: u32,
    pub(crate) filters: Vec<Filter>,
}

pub(crate) fn read(spec: Option<&Object<'_>>, metadata: &Metadata<'_>) -> HttpRoute {
    let mut route = HttpRoute::default();
    let Some(spec) = spec else { return route };
    if let Some(hostnames) = spec.take("hostnames") {
        let hint = "a route of a Service is chosen by the Service that is called";
        spec.report().warn(
            hostnames.place,
            "`hostnames` has no effect on a route whose parent is a Service",
            hint,
        );
        for value in hostnames.items(16).unwrap_or_default() {
            hostname(value, true);
        }
    }
    if let Some(parents) = spec.require("parentRefs").and_then(|value| value.items(32)) {
        route.parents.extend(parents.into_iter().filter_map(|value| parent(value, metadata)));
    }
    spec.not_yet(&["useDefaultGateways"]);
    if !spec.has("rules") {
        spec.error("`rules` is missing");
    }
    let mut total = 0;
    for value in spec.take("rules").and_then(|value| value.items(16)).unwrap_or_default() {
        let Some(rule) = rule(value, metadata) else { continue };
        total += rule.rule.matches.len();
        let name = &rule.rule.name;
        if !name.is_empty() && route.rules.iter().any(|before| before.rule.name == *name) {
            value.error(format!("the rule name {name:?} comes twice"));
        }
        route.rules.push(rule);
    }
    if total > 128 {
        spec.error(format!("the rules have {total} matches; at most 128 are allowed"));
    }
    route
}

fn parent(value: Value<'_>, metadata: &Metadata<'_>) -> Option<Parent> {
    let object = value.object()?;
    let group = object.take("group").and_then(Value::text).map(|group| group.value);
    let kind = object.take("kind").and_then(Value::text).map(|kind| kind.value);
    let name = object.require("name").and_then(Value::text);
    let namespace = object.take("namespace").and_then(Value::text).map(|namespace| namespace.value);
    let port = object.take("port").and_then(Value::port);
    let section = object.take("sectionName").and_then(Value::text).map(|text| text.map(Box::from));
    match (group, kind) {
        (Some("" | "core"), Some("Service")) => {}
        (None, Some("Service")) => {
            let hint = "add `group: \"\"`: without it the group is gateway.networking.k8s.io";
            value.error_hint("the parent's group is missing", hint);
        }
        _ => {
            let hint = "write `kind: Service` and `group: \"\"`";
            value.error_hint("routes of other parents than Services are not evaluated yet", hint);
            return None;
        }
    }
    let service = service_name(namespace.unwrap_or(metadata.namespace.value.as_str()), name?)
        .map_err(|error| value.error(error))
        .ok()?;
    Some(Parent { place: value.place, service, port, section })
}

fn service_name(namespace: &str, name: At<&str>) -> Result<ServiceName, String> {
    ServiceName::new(namespace, name.value).map_err(|error| error.to_string())
}

fn rule(value: Value<'_>, metadata: &Metadata<'_>) -> Option<Rule> {
    let object = value.object()?;
    object.not_yet(&["retry", "sessionPersistence"]);
    let name = object.take("name").and_then(Value::text);
    if let Some(name) = name.filter(|name| !is_subdomain(name.value)) {
        value.report.error(name.place, format!("{} is not a valid name", quoted(name.value)));
    }
    let mut matches: Vec<RouteMatch> = Vec::new();
    for item in object.take("matches").and_then(|value| value.items(64)).unwrap_or_default() {
        matches.extend(route_match(item));
    }
    if matches.is_empty() {
        matches.push(RouteMatch {
            path: PathMatch::prefix("/"),
            headers: Vec::new(),
            queries: Vec::new(),
            method: None,
        });
    }
    let by_prefix = matches!(matches.as_slice(), [RouteMatch { path: PathMatch::Prefix(_), .. }]);
    let filters_value = object.take("filters");
    let filters = filters_value.map(|value| filters(value, by_prefix)).unwrap_or_default();
    let mut backends = Vec::new();
    for item in object.take("backendRefs").and_then(|value| value.items(16)).unwrap_or_default() {
        backends.extend(backend(item, metadata, by_prefix));
    }
    let redirects = filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
    if redirects && object.has("backendRefs") {
        object.error("a rule that redirects must have no `backendRefs`");
    } else if !redirects && !object.has("backendRefs") {
        let hint = "add `backendRefs`";
        value.report.warn(value.place, "the rule has no backend: what it matches is answered 500", hint);
    } else if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        value.report.warn(value.place, "all weights are 0: what the rule matches is answered 500", None);
    }
    let mut rule = RouteRule {
        name: name.map_or("", |name| name.value).into(),
        matches,
        filters,
        backends: Vec::new(),
        request_timeout: None,
        backend_request_timeout: None,
        provenance: value.report.provenance(value.place),
    };
    if let Some(timeouts) = object.take("timeouts").and_then(Value::object) {
        rule.request_timeout = timeouts.take("request").and_then(Value::duration).map(|at| at.value);
        let one_try = timeouts.take("backendRequest").and_then(Value::duration);
        rule.backend_request_timeout = one_try.map(|at| at.value);
        if let (Some(one_try), Some(request)) = (one_try, rule.request_timeout)
            && !request.is_zero()
            && one_try.value > request
        {
            value.report.error(one_try.place, "`backendRequest` must not be longer than `request`");
        }
    }
    Some(Rule { place: value.place, rule, backends })
}

fn backend(value: Value<'_>, metadata: &Metadata<'_>, by_prefix: bool) -> Option<BackendRef> {
    let object = value.object()?;
    let group = object.take("group").and_then(Value::text).map_or("", |group| group.value);
    let kind = object.take("kind").and_then(Value::text).map_or("Service", |kind| kind.value);
    let name = object.require("name").and_then(Value::text);
    let namespace = object.take("namespace").and_then(Value::text).map(|namespace| namespace.value);
    let weight = object.take("weight").and_then(|value| value.number(0..=WEIGHT_MAX));
    let filters = object.take("filters").map(|value| filters(value, by_prefix)).unwrap_or_default();
    let service = kind == "Service" && matches!(group, "" | "core");
    if !service {
        value.error("backends other than Services (group \"\") are not evaluated yet");
    }
    let port = if service { object.require("port") } else { object.take("port") }.and_then(Value::port);
    let service = service_name(namespace.unwrap_or(metadata.namespace.value.as_str()), name?)
        .map_err(|error| value.error(error))
        .ok()?;
    if filters.iter().any(|filter| matches!(filter, Filter::Redirect(_))) {
        value.error("a backend cannot redirect: the rule can");
    }
    let weight = weight.map_or(1, |weight| weight.value);
    Some(BackendRef { place: value.place, service, port: port?, weight, filters })
}

fn route_match(value: Value<'_>) -> Option<RouteMatch> {
    let object = value.object()?;
    let path = object.take("path").map_or_else(|| Some(PathMatch::prefix("/")), path);
    let mut headers: Vec<(HeaderName, ValueMatch)> = Vec::new();
    for item in object.take("headers").and_then(|value| value.items(16)).unwrap_or_default() {
        let Some((name, wanted)) = named_value(item) else { continue };
        let Ok(parsed) = name.value.parse::<HeaderName>() else {
            item.report.error(name.place, format!("{} is not a valid header name", quoted(name.value)));
            continue;
        };
        if headers.iter().any(|(held, _)| *held == parsed) {
            item.report.error(name.place, format!("the header {parsed} comes twice in one match"));
        }
        headers.push((parsed, wanted));
    }
    let mut queries: Vec<(Box<str>, ValueMatch)> = Vec::new();
    for item in object.take("queryParams").and_then(|value| value.items(16)).unwrap_or_default() {
        let Some((name, wanted)) = named_value(item) else { continue };
        if queries.iter().any(|(held, _)| **held == *name.value) {
            item.report
                .error(name.place, format!("the parameter {} comes twice in one match", quoted(name.value)));
        }
        queries.push((name.value.into(), wanted));
    }
    let methods = [
        ("GET", &Method::GET),
        ("HEAD", &Method::HEAD),
        ("POST", &Method::POST),
        ("PUT", &Method::PUT),
        ("DELETE", &Method::DELETE),
        ("CONNECT", &Method::CONNECT),
        ("OPTIONS", &Method::OPTIONS),
        ("TRACE", &Method::TRACE),
        ("PATCH", &Method::PATCH),
    ];
    let method = object.take("method").and_then(|value| value.choice(&methods));
    Some(RouteMatch { path: path?, headers, queries, method: method.map(|method| method.value.clone()) })
}

// A header's or a parameter's name with the value that is wanted.
fn named_value<'r>(value: Value<'r>) -> Option<(At<&'r str>, ValueMatch)> {
    let object = value.object()?;
    let by_regex =
        object.take("type").and_then(|value| value.choice(&[("Exact", false), ("RegularExpression", true)]));
    let name = object.require("name").and_then(Value::text);
    let wanted = object.require("value").and_then(Value::text)?;
    let name = name?;
    if name.value.is_empty() || name.value.len() > 256 {
        value.report.error(name.place, "the name must have 1 to 256 letters");
    }
    if wanted.value.is_empty() || wanted.value.len() > 4096 {
        value.report.error(wanted.place, "the value must have 1 to 4096 letters");
    }
    let wanted = if by_regex.is_some_and(|by_regex| by_regex.value) {
        ValueMatch::Regex(pattern(value, wanted)?)
    } else {
        ValueMatch::Exact(wanted.value.into())
    };
    Some((name, wanted))
}

fn pattern(value: Value<'_>, source: At<&str>) -> Option<Pattern> {
    match Pattern::new(source.value) {
        Ok(pattern) => Some(pattern),
        Err(_) => {
            let message = format!("{} is not a regular expression, or too large a one", quoted(source.value));
            value.report.error_hint(
                source.place,
                message,
                "syntax RE2, at most 1024 letters, 64 KiB compiled",
            );
            None
        }
    }
}

#[derive(Clone, Copy)]
enum PathKind {
    Exact,
    Prefix,
    Regex,
}

fn path(value: Value<'_>) -> Option<PathMatch> {
    let object = value.object()?;
    let kinds = [
        ("PathPrefix", PathKind::Prefix),
        ("Exact", PathKind::Exact),
        ("RegularExpression", PathKind::Regex),
    ];
    let kind = object.take("type").map_or(Some(PathKind::Prefix), |value| Some(value.choice(&kinds)?.value));
    let text = match object.take("value") {
        Some(value) => value.text()?,
        None => At { value: "/", place: value.place },
    };
    if text.value.len() > 1024 {
        value.report.error(text.place, "a path must have at most 1024 letters");
        return None;
    }
    let kind = kind?;
    if let PathKind::Regex = kind {
        return Some(PathMatch::Regex(pattern(value, text)?));
    }
    if let Some(problem) = path_problem(text.value) {
        value.report.error(text.place, format!("the path {} {problem}", quoted(text.value)));
        return None;
    }
    Some(match kind {
        PathKind::Exact => PathMatch::Exact(text.value.into()),
        _ => PathMatch::prefix(text.value),
    })
}

// The CRD's own list: these are either never sent or not compared as they look.
fn path_problem(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("does not start with /");
    }
    let lower = path.to_ascii_lowercase();
    if ["//", "/./", "/../", "%2f", "#"].iter().any(|part| lower.contains(part)) {
        return Some("has //, /./, /../, %2F or # in it");
    }
    if path.contains('?') {
        return Some("has a query, which is matched by `queryParams`");
    }
    if path.ends_with("/..") || path.ends_with("/.") {
        return Some("ends with a dot segment");
    }
    let allowed = |byte: u8| {
        byte.is_ascii_graphic()
            && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    };
    if !path.bytes().all(allowed) {
        return Some("has letters that must be percent-encoded");
    }
    None
}
