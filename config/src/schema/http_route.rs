//! `HTTPRoute` (gateway.networking.k8s.io/v1) with Services as parents (GAMMA).
//!
//! The bounds and rules here are those of the upstream CRD, whose generated types do not carry them.

use super::authorization_policy::RulePath;
use super::metadata::Metadata;
use super::route::{self, Around, Hostnames, METHODS, Route, Rule, headers, named_value, pattern, rule_with};
use super::route_filters::Allowed;
use super::session_persistence;
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::At;
use http::Method;
use std::time::Duration;
use weft_model::route::{PathMatch, RETRY_ATTEMPTS_MAX, RetryPolicy, RouteMatch, ValueMatch};

/// Tries after the first where the owner wants retries and says no number.
const RETRY_ATTEMPTS_DEFAULT: u32 = 2;

/// The least wait before a further try: a busy server's queue has moved by then.
const RETRY_BACKOFF_DEFAULT: Duration = Duration::from_millis(25);

pub(crate) fn read(spec: Option<&Object<'_>>, metadata: &Metadata<'_>) -> Route {
    let around = Around { hostnames: Hostnames::Unused, rules_required: true, rules_max: 16 };
    route::read(spec, metadata, around, rule)
}

fn rule(value: Value<'_>, metadata: &Metadata<'_>) -> Option<Rule> {
    let object = value.object()?;
    let mut matches: Vec<RouteMatch> = Vec::new();
    let mut paths = Vec::new();
    for item in object.take("matches").and_then(|value| value.items(64)).unwrap_or_default() {
        matches.extend(route_match(item, &mut paths));
    }
    if matches.is_empty() {
        matches.push(RouteMatch {
            path: PathMatch::prefix("/"),
            headers: Vec::new(),
            queries: Vec::new(),
            method: None,
        });
    }
    let mut read = rule_with(value, &object, metadata, matches, Allowed::Http);
    read.paths = paths;
    let rule = &mut read.rule;
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
    rule.retry = object.take("retry").and_then(retry);
    rule.session = object.take("sessionPersistence").and_then(session_persistence::read);
    Some(read)
}

// GEP-1731. What is not said is ours: no status is retried unless it is named.
fn retry(value: Value<'_>) -> Option<RetryPolicy> {
    let object = value.object()?;
    let mut codes: Vec<u16> = Vec::new();
    for item in object.take("codes").and_then(|value| value.items(32)).unwrap_or_default() {
        let Some(code) = item.number(400..=599) else { continue };
        let Ok(code) = u16::try_from(code.value) else { continue };
        if codes.contains(&code) {
            item.error(format!("the status {code} comes twice"));
        }
        codes.push(code);
    }
    let attempts = object.take("attempts").map(|value| {
        let attempts = value.number(0..=RETRY_ATTEMPTS_MAX);
        if attempts.is_some_and(|attempts| attempts.value == 0) {
            value.report.warn(value.place, "`attempts: 0` retries nothing", None);
        }
        attempts
    });
    let backoff = object.take("backoff").map(Value::duration);
    let attempts = attempts.map_or(Some(RETRY_ATTEMPTS_DEFAULT), |read| Some(read?.value))?;
    let backoff = backoff.map_or(Some(RETRY_BACKOFF_DEFAULT), |read| Some(read?.value))?;
    Some(RetryPolicy { codes, attempts, backoff })
}

fn route_match(value: Value<'_>, paths: &mut Vec<RulePath>) -> Option<RouteMatch> {
    let object = value.object()?;
    let path = object.take("path").map_or_else(|| Some(PathMatch::prefix("/")), |value| path(value, paths));
    let headers = headers(&object);
    let mut queries: Vec<(Box<str>, ValueMatch)> = Vec::new();
    for item in object.take("queryParams").and_then(|value| value.items(16)).unwrap_or_default() {
        let Some((name, wanted)) = named_value(item) else { continue };
        if let Some(letter) = never_in_query(name.value).or_else(|| name.value.contains('=').then_some('=')) {
            never_matches(item, name.value, letter);
        }
        if let ValueMatch::Exact(value) = &wanted
            && let Some(letter) = never_in_query(value)
        {
            never_matches(item, value, letter);
        }
        if queries.iter().any(|(held, _)| **held == *name.value) {
            item.report
                .error(name.place, format!("the parameter {} comes twice in one match", quoted(name.value)));
        }
        queries.push((name.value.into(), wanted));
    }
    // One that no proxy forwards; the CRD lists it.
    let connect = [("CONNECT", &Method::CONNECT)];
    let methods = [METHODS.as_slice(), &connect].concat();
    let method = object.take("method").and_then(|value| value.choice(&methods));
    Some(RouteMatch { path: path?, headers, queries, method: method.map(|method| method.value.clone()) })
}

// Parameters are compared as they stand in the request: what separates them, ends the query or must be
// escaped is in none.
fn never_in_query(text: &str) -> Option<char> {
    text.chars().find(|letter| !letter.is_ascii_graphic() || matches!(letter, '&' | '#'))
}

fn never_matches(value: Value<'_>, text: &str, letter: char) {
    let mut bytes = [0; 4];
    let escaped: String = letter.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect();
    value.error_hint(
        format!("the parameter {} never matches: no query has {letter:?} in it", quoted(text)),
        format!("write it as it stands in a request ({escaped})"),
    );
}

#[derive(Clone, Copy)]
enum PathKind {
    Exact,
    Prefix,
    Regex,
}

pub(crate) fn path(value: Value<'_>, paths: &mut Vec<RulePath>) -> Option<PathMatch> {
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
    let (written, sample) = (text.value.into(), text.value.into());
    paths.push(RulePath { place: text.place, text: written, sample, partial: false });
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
