//! `faults` of a TrafficPolicy: which requests are delayed or answered with an error, and until when.

use super::http_route::path;
use super::route::{METHODS, headers};
use super::route_filters::share;
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::At;
use http::StatusCode;
use std::time::{Duration, SystemTime};
use weft_model::instant::parse_instant;
use weft_model::names::Namespace;
use weft_model::spiffe::SpiffeId;
use weft_model::traffic::{Abort, Delay, Fault};

/// The longest delay: requests that wait are held in memory.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// The statuses of gRPC that are errors, by their names.
const GRPC: [(&str, u8); 16] = [
    ("CANCELLED", 1),
    ("UNKNOWN", 2),
    ("INVALID_ARGUMENT", 3),
    ("DEADLINE_EXCEEDED", 4),
    ("NOT_FOUND", 5),
    ("ALREADY_EXISTS", 6),
    ("PERMISSION_DENIED", 7),
    ("RESOURCE_EXHAUSTED", 8),
    ("FAILED_PRECONDITION", 9),
    ("ABORTED", 10),
    ("OUT_OF_RANGE", 11),
    ("UNIMPLEMENTED", 12),
    ("INTERNAL", 13),
    ("UNAVAILABLE", 14),
    ("DATA_LOSS", 15),
    ("UNAUTHENTICATED", 16),
];

/// Reads `faults`; `domains`: the trust domains of the principals that they name.
pub(crate) fn read(value: Value<'_>, domains: &mut Vec<At<Box<str>>>) -> Vec<Fault> {
    let items = value.items(16).unwrap_or_default();
    items.into_iter().filter_map(|item| fault(item, domains)).collect()
}

fn fault(value: Value<'_>, domains: &mut Vec<At<Box<str>>>) -> Option<Fault> {
    let object = value.object()?;
    let expires = object.require("expires").and_then(|value| value.parse_with(parse_instant));
    let delay = object.take("delay").map(delay);
    let abort = object.take("abort").map(abort);
    if !object.has("delay") && !object.has("abort") {
        value.error("a fault needs `delay` or `abort`");
    }
    let mut fault = Fault {
        principals: Vec::new(),
        namespaces: Vec::new(),
        methods: Vec::new(),
        path: None,
        headers: Vec::new(),
        delay: None,
        abort: None,
        expires: 0,
    };
    if let Some(matched) = object.take("match").and_then(Value::object) {
        which(&matched, &mut fault, domains);
    }
    let expires = expires?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if expires.value <= now {
        value.report.warn(expires.place, "the fault is over: it has no effect any more", "remove it");
    }
    fault.expires = expires.value;
    fault.delay = delay.map_or(Some(None), |read| read.map(Some))?;
    fault.abort = abort.map_or(Some(None), |read| read.map(Some))?;
    Some(fault)
}

fn which(object: &Object<'_>, fault: &mut Fault, domains: &mut Vec<At<Box<str>>>) {
    if object.is_empty() {
        object.error("`match` says nothing: leave it out to mean every request");
    }
    for item in object.take("principals").and_then(|value| value.items(64)).unwrap_or_default() {
        if let Some(At { value: principal, .. }) = item.parse_with(principal) {
            domains.push(item.at(principal.trust_domain().into()));
            fault.principals.push(principal);
        }
    }
    for item in object.take("namespaces").and_then(|value| value.items(64)).unwrap_or_default() {
        fault.namespaces.extend(item.parse::<Namespace>().map(|at| at.value.as_str().into()));
    }
    for item in object.take("methods").and_then(|value| value.items(METHODS.len())).unwrap_or_default() {
        fault.methods.extend(item.choice(&METHODS).map(|at| at.value.clone()));
    }
    fault.path = object.take("path").and_then(|value| path(value, &mut Vec::new()));
    fault.headers = headers(object);
}

fn principal(text: &str) -> Result<SpiffeId, String> {
    if text.starts_with("spiffe://") {
        return Err(format!("{} begins with spiffe://: leave it out", quoted(text)));
    }
    let written = || format!("{} is not TRUST-DOMAIN/ns/NAMESPACE/sa/NAME", quoted(text));
    format!("spiffe://{text}").parse().map_err(|_| written())
}

fn delay(value: Value<'_>) -> Option<Delay> {
    let object = value.object()?;
    let time = object.require("fixed").and_then(Value::duration);
    let share = share(&object);
    let At { value: time, place } = time?;
    if time.is_zero() || time > DELAY_MAX {
        value.report.error(place, "a delay must be longer than none and at most 60s");
    }
    Some(Delay { time, share: share? })
}

fn abort(value: Value<'_>) -> Option<Abort> {
    let object = value.object()?;
    let status = object.take("httpStatus").map(|value| value.number(400..=599));
    let grpc_status = object.take("grpcStatus").map(|value| value.choice(&GRPC));
    if status.is_none() && grpc_status.is_none() && !object.has("httpStatus") && !object.has("grpcStatus") {
        object.error("`httpStatus` or `grpcStatus` must be given");
    }
    let share = share(&object);
    let status = status.map_or(Some(None), |read| Some(Some(read?.value)))?;
    let grpc_status = grpc_status.map_or(Some(None), |read| Some(Some(read?.value)))?;
    let status = status.and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
    Some(Abort { status, grpc_status, share: share? })
}
