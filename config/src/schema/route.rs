//! What routes have in common: parents, backends, headers, and the parts of a rule that do not depend on
//! what it matches.

use super::authorization_policy::RulePath;
use super::metadata::Metadata;
use super::route_filters::{Allowed, filters, hostname};
use super::value::{Object, Value};
use super::workload::WEIGHT_MAX;
use crate::document::quoted;
use crate::report::{At, Place};
use http::{HeaderName, Method};
use weft_model::names::{ServiceName, is_subdomain};
use weft_model::route::{Filter, PathMatch, Pattern, Redirect, RouteMatch, RouteRule, ValueMatch};

/// The methods that requests have which pass a proxy, by their names.
pub(crate) static METHODS: [(&str, &Method); 8] = [
    ("GET", &Method::GET),
    ("HEAD", &Method::HEAD),
    ("POST", &Method::POST),
    ("PUT", &Method::PUT),
    ("DELETE", &Method::DELETE),
    ("OPTIONS", &Method::OPTIONS),
    ("TRACE", &Method::TRACE),
    ("PATCH", &Method::PATCH),
];

/// What a route's owner wrote.
#[derive(Debug, Default)]
pub(crate) struct Route {
    pub(crate) parents: Vec<Parent>,
    /// A TLSRoute's.
    pub(crate) server_names: Vec<At<Box<str>>>,
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
    /// The paths that its matches name.
    pub(crate) paths: Vec<RulePath>,
}

#[derive(Debug)]
pub(crate) struct BackendRef {
    pub(crate) place: Place,
    pub(crate) service: ServiceName,
    pub(crate) port: At<u16>,
    pub(crate) weight: u32,
    pub(crate) filters: Vec<Filter>,
}

/// What stands around a kind's rules.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    pub(crate) hostnames: Hostnames,
    pub(crate) rules_required: bool,
    pub(crate) rules_max: usize,
}

/// What `hostnames` means in a kind.
#[derive(Clone, Copy)]
pub(crate) enum Hostnames {
    /// Nothing where the parent is a Service.
    Unused,
    /// The servers that clients name in TLS.
    Servers,
    /// There is no such key.
    None,
}

/// Reads what stands around the rules, and each rule by `rule`.
pub(crate) fn read(
    spec: Option<&Object<'_>>,
    metadata: &Metadata<'_>,
    around: Around,
    rule: impl Fn(Value<'_>, &Metadata<'_>) -> Option<Rule>,
) -> Route {
    let mut route = Route::default();
    let Some(spec) = spec else { return route };
    match around.hostnames {
        Hostnames::None => {}
        Hostnames::Servers => route.server_names = server_names(spec),
        Hostnames::Unused => {
            if let Some(hostnames) = spec.take("hostnames") {
                let hint = "a route of a Service is chosen by the Service that is called";
                let message = "`hostnames` has no effect on a route whose parent is a Service";
                spec.report().warn(hostnames.place, message, hint);
                for value in hostnames.items(16).unwrap_or_default() {
                    hostname(value, true);
                }
            }
        }
    }
    if let Some(parents) = spec.require("parentRefs").and_then(|value| value.items(32)) {
        route.parents.extend(parents.into_iter().filter_map(|value| parent(value, metadata)));
    }
    spec.not_yet(&["useDefaultGateways"]);
    if around.rules_required && !spec.has("rules") {
        spec.error("`rules` is missing");
    }
    let mut total = 0;
    for value in spec.take("rules").and_then(|value| value.items(around.rules_max)).unwrap_or_default() {
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

fn server_names(spec: &Object<'_>) -> Vec<At<Box<str>>> {
    let mut names: Vec<At<Box<str>>> = Vec::new();
    for value in spec.require("hostnames").and_then(|value| value.items(1024)).unwrap_or_default() {
        let Some(name) = hostname(value, true) else { continue };
        if names.iter().any(|held| held.value == name) {
            value.error(format!("the host name {name} comes twice"));
            continue;
        }
        names.push(value.at(name));
    }
    names
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

/// The parts of a rule besides its matches, and its timeouts.
pub(crate) fn rule_with(
    value: Value<'_>,
    object: &Object<'_>,
    metadata: &Metadata<'_>,
    matches: Vec<RouteMatch>,
    allowed: Allowed,
) -> Rule {
    let name = object.take("name").and_then(Value::text);
    if let Some(name) = name.filter(|name| !is_subdomain(name.value)) {
        value.report.error(name.place, format!("{} is not a valid name", quoted(name.value)));
    }
    let by_prefix = matches!(matches.as_slice(), [RouteMatch { path: PathMatch::Prefix(_), .. }]);
    let filters_value = object.take("filters").filter(|_| allowed != Allowed::None);
    let filters = filters_value.map(|value| filters(value, metadata, allowed, by_prefix)).unwrap_or_default();
    let mut backends = Vec::new();
    for item in object.take("backendRefs").and_then(|value| value.items(16)).unwrap_or_default() {
        backends.extend(backend(item, metadata, allowed, by_prefix));
    }
    let redirects = filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
    if redirects && object.has("backendRefs") {
        object.error("a rule that redirects must have no `backendRefs`");
    } else if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        let what = if allowed == Allowed::None { "refused" } else { "answered 500" };
        value.report.warn(value.place, format!("all weights are 0: what the rule matches is {what}"), None);
    }
    if let Some(Filter::Redirect(redirect)) = filters.iter().find(|held| matches!(held, Filter::Redirect(_)))
        && matches.iter().any(|matched| comes_back(redirect, matched))
    {
        let hint = "change the host, the scheme or the port, or to a path that the rule does not match";
        value.report.warn(
            value.place,
            "the redirect leads back to its own rule: clients go in circles",
            hint,
        );
    }
    let rule = RouteRule {
        name: name.map_or("", |name| name.value).into(),
        matches,
        filters,
        backends: Vec::new(),
        request_timeout: None,
        backend_request_timeout: None,
        retry: None,
        session: None,
        provenance: value.report.provenance(value.place),
    };
    Rule { place: value.place, rule, backends, paths: Vec::new() }
}

// Whether a client that follows the redirect makes a request that matches again.
fn comes_back(redirect: &Redirect, matched: &RouteMatch) -> bool {
    let elsewhere = redirect.hostname.is_some()
        || redirect.port.is_some()
        || redirect.scheme.as_deref().is_some_and(|scheme| scheme != "http");
    // Of the other methods only GET is asked with again, where the status does not say otherwise.
    let again = match &matched.method {
        None => true,
        Some(method) => *method == Method::GET || matches!(redirect.status.as_u16(), 307 | 308),
    };
    let path = match &matched.path {
        PathMatch::Exact(text) | PathMatch::Prefix(text) => text,
        PathMatch::Regex(_) | PathMatch::Rpc { .. } => return false,
    };
    let next =
        redirect.path.as_ref().map_or_else(|| path.to_string(), |edit| edit.apply(path, &matched.path));
    !elsewhere && again && matched.path.matches(&next)
}

fn backend(
    value: Value<'_>,
    metadata: &Metadata<'_>,
    allowed: Allowed,
    by_prefix: bool,
) -> Option<BackendRef> {
    let object = value.object()?;
    let target = target(value, &object, metadata);
    let weight = object.take("weight").and_then(|value| value.number(0..=WEIGHT_MAX));
    let filters = match object.take("filters") {
        Some(value) if allowed == Allowed::None => {
            value.error("a backend of connections has no `filters`");
            Vec::new()
        }
        Some(value) => filters(value, metadata, allowed, by_prefix),
        None => Vec::new(),
    };
    for (refused, what) in [
        (filters.iter().any(|filter| matches!(filter, Filter::Redirect(_))), "redirect"),
        (filters.iter().any(|filter| matches!(filter, Filter::Cors(_))), "answer CORS requests"),
        (filters.iter().any(|filter| matches!(filter, Filter::Mirror(_))), "mirror"),
    ] {
        if refused {
            value.error(format!("a backend cannot {what}: the rule can"));
        }
    }
    let weight = weight.map_or(1, |weight| weight.value);
    let (service, port) = target?;
    Some(BackendRef { place: value.place, service, port, weight, filters })
}

/// A rule for connections: backends, which it must have.
pub(crate) fn connection_rule(value: Value<'_>, metadata: &Metadata<'_>) -> Option<Rule> {
    let object = value.object()?;
    let all =
        RouteMatch { path: PathMatch::prefix("/"), headers: Vec::new(), queries: Vec::new(), method: None };
    for key in ["matches", "filters"] {
        if let Some(held) = object.take(key) {
            held.error(format!("a rule for connections has no `{key}`"));
        }
    }
    let rule = rule_with(value, &object, metadata, vec![all], Allowed::None);
    if !object.has("backendRefs") {
        value.error("`backendRefs` is missing");
    }
    Some(rule)
}

/// The Service and port that a reference names.
pub(crate) fn target(
    value: Value<'_>,
    object: &Object<'_>,
    metadata: &Metadata<'_>,
) -> Option<(ServiceName, At<u16>)> {
    let group = object.take("group").and_then(Value::text).map_or("", |group| group.value);
    let kind = object.take("kind").and_then(Value::text).map_or("Service", |kind| kind.value);
    let name = object.require("name").and_then(Value::text);
    let namespace = object.take("namespace").and_then(Value::text).map(|namespace| namespace.value);
    let service = kind == "Service" && matches!(group, "" | "core");
    if !service {
        value.error("backends other than Services (group \"\") are not evaluated yet");
    }
    let port = if service { object.require("port") } else { object.take("port") }.and_then(Value::port);
    let service = service_name(namespace.unwrap_or(metadata.namespace.value.as_str()), name?)
        .map_err(|error| value.error(error))
        .ok()?;
    Some((service, port?))
}

/// The headers of a match, each name once.
pub(crate) fn headers(object: &Object<'_>) -> Vec<(HeaderName, ValueMatch)> {
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
    headers
}

/// A header's or a parameter's name with the value that is wanted.
pub(crate) fn named_value<'r>(value: Value<'r>) -> Option<(At<&'r str>, ValueMatch)> {
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

/// A regular expression for a whole value.
pub(crate) fn pattern(value: Value<'_>, source: At<&str>) -> Option<Pattern> {
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
