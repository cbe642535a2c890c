//! Filters of a route: edits on the way, an answer, or a copy of the request for another Service.

use super::metadata::Metadata;
use super::route::target;
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::At;
use http::{HeaderName, HeaderValue, StatusCode};
use std::mem::discriminant;
use std::time::Duration;
use weft_model::cors::{Cors, Listed, OriginMatch};
use weft_model::names::is_subdomain;
use weft_model::route::{Filter, Fraction, HeaderEdit, Mirror, PathEdit, Redirect, Rewrite};

/// How long browsers keep the answer to a preflight where nothing is said (the Gateway API's default).
const CORS_MAX_AGE_DEFAULT: u32 = 5;
/// The longest value of a header, as in the Gateway API. All that a route's filters write has room beside the
/// largest request.
const HEADER_VALUE_LENGTH_MAX: usize = 4096;

/// Header fields that a route may not touch: they frame the message, or are the mesh's own.
const UNTOUCHABLE: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[derive(Clone, Copy)]
enum Kind {
    RequestHeaders,
    ResponseHeaders,
    Redirect,
    Rewrite,
    Mirror,
    Cors,
    Later,
}

/// Which kind of route the filters are for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Allowed {
    /// HTTPRoute: all.
    Http,
    /// GRPCRoute: edits of headers, and mirrors.
    Grpc,
    /// TLSRoute and TCPRoute: none.
    None,
}

/// Each type with the key that holds what it does.
const KINDS: [(&str, (Kind, &str)); 8] = [
    ("RequestHeaderModifier", (Kind::RequestHeaders, "requestHeaderModifier")),
    ("ResponseHeaderModifier", (Kind::ResponseHeaders, "responseHeaderModifier")),
    ("RequestRedirect", (Kind::Redirect, "requestRedirect")),
    ("URLRewrite", (Kind::Rewrite, "urlRewrite")),
    ("RequestMirror", (Kind::Mirror, "requestMirror")),
    ("CORS", (Kind::Cors, "cors")),
    ("ExternalAuth", (Kind::Later, "externalAuth")),
    ("ExtensionRef", (Kind::Later, "extensionRef")),
];

/// Reads a list of filters. `by_prefix`: the rule has one match, of a path's prefix.
pub(crate) fn filters(
    value: Value<'_>,
    metadata: &Metadata<'_>,
    allowed: Allowed,
    by_prefix: bool,
) -> Vec<Filter> {
    let mut filters: Vec<Filter> = Vec::new();
    for item in value.items(16).unwrap_or_default() {
        let Some(filter) = filter(item, metadata, allowed, by_prefix) else { continue };
        let once = !matches!(filter, Filter::Mirror(_));
        if once && filters.iter().any(|before| discriminant(before) == discriminant(&filter)) {
            item.error("a filter of this type comes twice");
            continue;
        }
        filters.push(filter);
    }
    let has = |test: fn(&Filter) -> bool| filters.iter().any(test);
    if has(|filter| matches!(filter, Filter::Redirect(_)))
        && has(|filter| matches!(filter, Filter::Rewrite(_)))
    {
        value.error("RequestRedirect and URLRewrite exclude each other");
    }
    filters
}

fn filter(value: Value<'_>, metadata: &Metadata<'_>, allowed: Allowed, by_prefix: bool) -> Option<Filter> {
    let object = value.object()?;
    let kind = object.require("type").and_then(|value| value.choice(&KINDS));
    let Some(At { value: (kind, own), place }) = kind else {
        object.accept_all();
        return None;
    };
    for (name, (_, key)) in KINDS {
        if key == own {
            continue;
        }
        if let Some(other) = object.take(key) {
            other.error_hint(format!("`{key}` belongs to a filter of type {name}"), None);
        }
    }
    let http_only = matches!(kind, Kind::Redirect | Kind::Rewrite | Kind::Cors);
    if allowed == Allowed::Grpc && http_only {
        object.accept(&[own]);
        value.report.error(place, "a GRPCRoute has no filters of this type");
        return None;
    }
    if let Kind::Later = kind {
        object.accept(&[own]);
        value.report.error(place, "filters of this type are not evaluated yet");
        return None;
    }
    let held = object.require(own)?.object()?;
    match kind {
        Kind::RequestHeaders => header_edit(&held).map(Filter::RequestHeaders),
        Kind::ResponseHeaders => header_edit(&held).map(Filter::ResponseHeaders),
        Kind::Redirect => redirect(&held, by_prefix).map(Filter::Redirect),
        Kind::Rewrite => {
            let hostname = held.take("hostname").and_then(|value| hostname(value, false));
            let path = held.take("path").and_then(|value| path_edit(value, by_prefix));
            Some(Filter::Rewrite(Rewrite { hostname, path }))
        }
        Kind::Mirror => mirror(&held, metadata).map(Filter::Mirror),
        Kind::Cors => cors(&held).map(Filter::Cors),
        Kind::Later => None,
    }
}

fn mirror(object: &Object<'_>, metadata: &Metadata<'_>) -> Option<Mirror> {
    let backend = object.require("backendRef");
    let share = share(object)?;
    let backend = backend?;
    let (service, port) = target(backend, &backend.object()?, metadata)?;
    Some(Mirror { service: Some((service, port.value)), share })
}

/// Of how many requests: `percent` or `fraction`; without either, of all.
pub(crate) fn share(object: &Object<'_>) -> Option<Fraction> {
    let percent = object.take("percent").map(|value| value.number(0..=100));
    let fraction = object.take("fraction").map(|value| {
        let object = value.object()?;
        let numerator = object.require("numerator").and_then(|value| value.number(0..=i32::MAX as u32));
        let denominator = object.take("denominator").map(|value| value.number(1..=i32::MAX as u32));
        let (numerator, denominator) = (numerator?, denominator.map_or(Some(100), |read| Some(read?.value))?);
        if numerator.value > denominator {
            value.report.error(numerator.place, "the fraction is more than 1");
            return None;
        }
        Some(Fraction { numerator: numerator.value, denominator })
    });
    match (percent, fraction) {
        (Some(_), Some(_)) => {
            object.error("`percent` and `fraction` exclude each other");
            None
        }
        (Some(percent), None) => Some(Fraction { numerator: percent?.value, denominator: 100 }),
        (None, Some(fraction)) => fraction,
        (None, None) => Some(Fraction::ALL),
    }
}

fn cors(object: &Object<'_>) -> Option<Cors> {
    let mut origins = Vec::new();
    for value in object.take("allowOrigins").and_then(|value| value.items(64)).unwrap_or_default() {
        let Some(text) = value.text() else { continue };
        match OriginMatch::parse(text.value) {
            Some(origin) if origins.contains(&origin) => value.error("the origin comes twice"),
            Some(origin) => origins.push(origin),
            None => value.error_hint(
                format!("{} is not an origin", quoted(text.value)),
                "write scheme://host, scheme://host:port, scheme://*.domain, or \"*\" alone",
            ),
        }
    }
    if origins.len() > 1 && origins.contains(&OriginMatch::Any) {
        object.error("`allowOrigins` has \"*\" beside others, which then mean nothing");
    }
    let credentials = object.take("allowCredentials").and_then(Value::flag).is_some_and(|flag| flag.value);
    let methods = listed(object, "allowMethods", |text| {
        http::Method::from_bytes(text.as_bytes()).is_ok()
            && text.bytes().all(|byte| byte.is_ascii_uppercase())
    });
    let is_header = |text: &str| text.parse::<HeaderName>().is_ok();
    let headers = listed(object, "allowHeaders", is_header);
    let expose = listed(object, "exposeHeaders", is_header);
    let max_age = match object.take("maxAge") {
        Some(value) => value.number(1..=i32::MAX as u32)?.value,
        None => CORS_MAX_AGE_DEFAULT,
    };
    let max_age = Duration::from_secs(max_age.into());
    Some(Cors { origins, credentials, methods, headers, expose, max_age })
}

// Names, or `*` alone.
fn listed(object: &Object<'_>, key: &'static str, is_name: impl Fn(&str) -> bool) -> Listed {
    let mut names: Vec<Box<str>> = Vec::new();
    let mut any = false;
    for value in object.take(key).and_then(|value| value.items(64)).unwrap_or_default() {
        let Some(text) = value.text() else { continue };
        match text.value {
            "*" => any = true,
            name if names.iter().any(|held| held.eq_ignore_ascii_case(name)) => {
                value.error(format!("{} comes twice", quoted(name)));
            }
            name if is_name(name) => names.push(name.into()),
            name => value.error(format!("{} is not a name that can stand in `{key}`", quoted(name))),
        }
    }
    if any && !names.is_empty() {
        object.error(format!("`{key}` has \"*\" beside others, which then mean nothing"));
    }
    if any { Listed::Any } else { Listed::Names(names) }
}

fn header_edit(object: &Object<'_>) -> Option<HeaderEdit> {
    let mut edit = HeaderEdit { set: fields(object, "set"), add: fields(object, "add"), remove: Vec::new() };
    for value in object.take("remove").and_then(|value| value.items(16)).unwrap_or_default() {
        if let Some(name) = value.text().and_then(|text| header_name(value, text)) {
            if edit.remove.contains(&name) {
                value.error(format!("the header {name} comes twice"));
            }
            edit.remove.push(name);
        }
    }
    let names =
        |list: &[(HeaderName, HeaderValue)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (set, add) = (names(&edit.set), names(&edit.add));
    let clash = set.iter().chain(&add).find(|name| edit.remove.contains(name));
    if let Some(name) = clash.or_else(|| set.iter().find(|name| add.contains(name))) {
        object.error(format!("the header {name} stands in more than one of `set`, `add` and `remove`"));
    }
    if !["set", "add", "remove"].iter().any(|key| object.has(key)) {
        object.error("the filter changes nothing: give `set`, `add` or `remove`");
    }
    Some(edit)
}

fn fields(object: &Object<'_>, key: &'static str) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for value in object.take(key).and_then(|value| value.items(16)).unwrap_or_default() {
        let Some(object) = value.object() else { continue };
        let name = object.require("name").and_then(Value::text).and_then(|text| header_name(value, text));
        let Some(text) = object.require("value").and_then(Value::text) else { continue };
        let Ok(held) = HeaderValue::from_str(text.value) else {
            value.report.error(text.place, "the value has letters that a header must not have");
            continue;
        };
        if text.value.len() > HEADER_VALUE_LENGTH_MAX {
            let message = format!("the value is longer than {HEADER_VALUE_LENGTH_MAX} bytes");
            value.report.error(text.place, message);
        }
        let Some(name) = name else { continue };
        if fields.iter().any(|(before, _)| *before == name) {
            value.error(format!("the header {name} comes twice"));
        }
        fields.push((name, held));
    }
    fields
}

fn header_name(value: Value<'_>, text: At<&str>) -> Option<HeaderName> {
    let Ok(name) = text.value.parse::<HeaderName>() else {
        value.report.error(text.place, format!("{} is not a valid header name", quoted(text.value)));
        return None;
    };
    if is_untouchable(name.as_str()) {
        let hint = (name == "host").then(|| "use URLRewrite with `hostname`".to_owned());
        value.report.error_hint(text.place, format!("the header {name} cannot be changed by a route"), hint);
        return None;
    }
    Some(name)
}

/// Whether a header field, in lower case, is not for routes to touch.
pub(crate) fn is_untouchable(name: &str) -> bool {
    UNTOUCHABLE.contains(&name) || name.starts_with("x-weft-")
}

fn redirect(object: &Object<'_>, by_prefix: bool) -> Option<Redirect> {
    let scheme =
        object.take("scheme").and_then(|value| value.choice(&[("http", "http"), ("https", "https")]));
    let hostname = object.take("hostname").and_then(|value| hostname(value, false));
    let port = object.take("port").and_then(Value::port);
    let path = object.take("path").and_then(|value| path_edit(value, by_prefix));
    let status = match object.take("statusCode") {
        None => StatusCode::FOUND,
        Some(value) => {
            let number = value.number(300..=399)?;
            let known = [301, 302, 303, 307, 308].contains(&number.value);
            let status = u16::try_from(number.value).ok().and_then(|code| StatusCode::from_u16(code).ok());
            match status.filter(|_| known) {
                Some(status) => status,
                None => {
                    value.error("`statusCode` must be 301, 302, 303, 307 or 308");
                    return None;
                }
            }
        }
    };
    let scheme = scheme.map(|scheme| scheme.value.into());
    Some(Redirect { scheme, hostname, port: port.map(|port| port.value), path, status })
}

/// Reads a host name; with `wildcard`, `*.` may lead.
pub(crate) fn hostname(value: Value<'_>, wildcard: bool) -> Option<Box<str>> {
    let text = value.text()?;
    let name = text.value.strip_prefix("*.").filter(|_| wildcard).unwrap_or(text.value);
    if !is_subdomain(name) || name.parse::<std::net::IpAddr>().is_ok() {
        value.error(format!("{} is not a valid host name", quoted(text.value)));
        return None;
    }
    Some(text.value.into())
}

fn path_edit(value: Value<'_>, by_prefix: bool) -> Option<PathEdit> {
    let object = value.object()?;
    let kinds = [("ReplaceFullPath", "replaceFullPath"), ("ReplacePrefixMatch", "replacePrefixMatch")];
    let kind = object.require("type").and_then(|value| value.choice(&kinds));
    let full = object.take("replaceFullPath").and_then(path_text);
    let prefix = object.take("replacePrefixMatch").and_then(path_text);
    let kind = kind?.value;
    if object.has("replaceFullPath") && object.has("replacePrefixMatch") || !object.has(kind) {
        object.error(format!("`{kind}`, and nothing else, must say the path"));
        return None;
    }
    if kind == "replaceFullPath" {
        if full.as_ref().is_some_and(|path| path.is_empty()) {
            object.error("a full path must start with /");
        }
        return full.map(PathEdit::Full);
    }
    if !by_prefix {
        object.error("ReplacePrefixMatch needs a rule with exactly one match, of type PathPrefix");
        return None;
    }
    prefix.map(PathEdit::Prefix)
}

fn path_text(value: Value<'_>) -> Option<Box<str>> {
    let text = value.text()?;
    let plain = text.value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
    if text.value.len() > 1024 || !plain || !(text.value.is_empty() || text.value.starts_with('/')) {
        value.error(format!("{} is not a path that starts with /", quoted(text.value)));
        return None;
    }
    Some(text.value.into())
}
