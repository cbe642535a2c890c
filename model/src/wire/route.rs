//! `weft.v1.Route`.

use super::service::{reference_from_wire, reference_to_wire};
use super::{Refusal, each, invalid, level, missing, parse, port, provenance_from_wire, provenance_to_wire};
use crate::proto::v1;
use crate::route::{
    Backend, Filter, HeaderEdit, PathEdit, PathMatch, Pattern, Redirect, Rewrite, Route, RouteMatch,
    RouteRule, ValueMatch,
};
use http::{HeaderName, HeaderValue, StatusCode};
use std::time::Duration;

pub(super) fn to_wire(route: &Route) -> v1::Route {
    v1::Route {
        needs_level: 1,
        namespace: route.namespace.to_string(),
        name: route.name.to_string(),
        rules: route.rules.iter().map(rule_to_wire).collect(),
        provenance: provenance_to_wire(&route.provenance),
    }
}

pub(super) fn from_wire(message: v1::Route) -> Result<Route, Refusal> {
    level(message.needs_level)?;
    Ok(Route {
        namespace: parse(&message.namespace)?,
        name: parse(&message.name)?,
        rules: each(message.rules, rule_from_wire)?,
        provenance: provenance_from_wire(message.provenance),
    })
}

fn rule_to_wire(rule: &RouteRule) -> v1::RouteRule {
    v1::RouteRule {
        name: rule.name.to_string(),
        matches: rule.matches.iter().map(match_to_wire).collect(),
        filters: rule.filters.iter().map(filter_to_wire).collect(),
        backends: rule
            .backends
            .iter()
            .map(|backend| v1::Backend {
                service: backend.service.as_ref().map(|(name, _)| reference_to_wire(name)),
                port: backend.service.as_ref().map_or(0, |(_, port)| (*port).into()),
                weight: backend.weight,
                filters: backend.filters.iter().map(filter_to_wire).collect(),
            })
            .collect(),
        request_timeout: rule.request_timeout.map(duration_to_wire),
        backend_request_timeout: rule.backend_request_timeout.map(duration_to_wire),
        provenance: provenance_to_wire(&rule.provenance),
    }
}

fn rule_from_wire(message: v1::RouteRule) -> Result<RouteRule, Refusal> {
    if message.matches.is_empty() {
        return Err(missing("a rule's matches"));
    }
    Ok(RouteRule {
        name: message.name.into(),
        matches: each(message.matches, match_from_wire)?,
        filters: each(message.filters, filter_from_wire)?,
        backends: each(message.backends, |held| {
            let service = match held.service {
                Some(service) => Some((reference_from_wire(&service)?, port(held.port)?)),
                None => None,
            };
            Ok(Backend { service, weight: held.weight, filters: each(held.filters, filter_from_wire)? })
        })?,
        request_timeout: message.request_timeout.map(duration_from_wire),
        backend_request_timeout: message.backend_request_timeout.map(duration_from_wire),
        provenance: provenance_from_wire(message.provenance),
    })
}

pub(super) fn duration_to_wire(duration: Duration) -> v1::Duration {
    v1::Duration { milliseconds: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX) }
}

pub(super) fn duration_from_wire(message: v1::Duration) -> Duration {
    Duration::from_millis(message.milliseconds)
}

fn match_to_wire(matched: &RouteMatch) -> v1::RouteMatch {
    let path = match &matched.path {
        PathMatch::Exact(text) => v1::path_match::Kind::Exact(text.to_string()),
        PathMatch::Prefix(text) => v1::path_match::Kind::Prefix(text.to_string()),
        PathMatch::Regex(pattern) => v1::path_match::Kind::Regex(pattern.as_str().to_owned()),
    };
    v1::RouteMatch {
        path: Some(v1::PathMatch { kind: Some(path) }),
        headers: matched
            .headers
            .iter()
            .map(|(name, value)| v1::HeaderMatch {
                name: name.to_string(),
                value: Some(value_to_wire(value)),
            })
            .collect(),
        queries: matched
            .queries
            .iter()
            .map(|(name, value)| v1::QueryMatch { name: name.to_string(), value: Some(value_to_wire(value)) })
            .collect(),
        method: matched.method.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn match_from_wire(message: v1::RouteMatch) -> Result<RouteMatch, Refusal> {
    let path = match message.path.and_then(|path| path.kind).ok_or_else(|| missing("a path match"))? {
        v1::path_match::Kind::Exact(text) => PathMatch::Exact(text.into()),
        v1::path_match::Kind::Prefix(text) => PathMatch::prefix(&text),
        v1::path_match::Kind::Regex(text) => PathMatch::Regex(Pattern::new(&text).map_err(invalid)?),
    };
    Ok(RouteMatch {
        path,
        headers: each(message.headers, |held| {
            Ok((parse::<HeaderName>(&held.name)?, value_from_wire(held.value)?))
        })?,
        queries: each(message.queries, |held| Ok((held.name.into(), value_from_wire(held.value)?)))?,
        method: if message.method.is_empty() { None } else { Some(parse(&message.method)?) },
    })
}

fn value_to_wire(value: &ValueMatch) -> v1::ValueMatch {
    let kind = match value {
        ValueMatch::Exact(text) => v1::value_match::Kind::Exact(text.to_string()),
        ValueMatch::Regex(pattern) => v1::value_match::Kind::Regex(pattern.as_str().to_owned()),
    };
    v1::ValueMatch { kind: Some(kind) }
}

fn value_from_wire(message: Option<v1::ValueMatch>) -> Result<ValueMatch, Refusal> {
    Ok(match message.and_then(|held| held.kind).ok_or_else(|| missing("a value match"))? {
        v1::value_match::Kind::Exact(text) => ValueMatch::Exact(text.into()),
        v1::value_match::Kind::Regex(text) => ValueMatch::Regex(Pattern::new(&text).map_err(invalid)?),
    })
}

fn filter_to_wire(filter: &Filter) -> v1::Filter {
    let kind = match filter {
        Filter::RequestHeaders(edit) => v1::filter::Kind::RequestHeaders(edit_to_wire(edit)),
        Filter::ResponseHeaders(edit) => v1::filter::Kind::ResponseHeaders(edit_to_wire(edit)),
        Filter::Redirect(redirect) => v1::filter::Kind::Redirect(v1::Redirect {
            scheme: redirect.scheme.as_deref().unwrap_or_default().to_owned(),
            hostname: redirect.hostname.as_deref().unwrap_or_default().to_owned(),
            port: redirect.port.map_or(0, u32::from),
            path: redirect.path.as_ref().map(path_edit_to_wire),
            status: redirect.status.as_u16().into(),
        }),
        Filter::Rewrite(rewrite) => v1::filter::Kind::Rewrite(v1::Rewrite {
            hostname: rewrite.hostname.as_deref().unwrap_or_default().to_owned(),
            path: rewrite.path.as_ref().map(path_edit_to_wire),
        }),
    };
    v1::Filter { kind: Some(kind) }
}

fn filter_from_wire(message: v1::Filter) -> Result<Filter, Refusal> {
    let text = |text: String| (!text.is_empty()).then(|| text.into_boxed_str());
    Ok(match message.kind.ok_or_else(|| missing("a filter"))? {
        v1::filter::Kind::RequestHeaders(edit) => Filter::RequestHeaders(edit_from_wire(edit)?),
        v1::filter::Kind::ResponseHeaders(edit) => Filter::ResponseHeaders(edit_from_wire(edit)?),
        v1::filter::Kind::Redirect(held) => Filter::Redirect(Redirect {
            scheme: text(held.scheme),
            hostname: text(held.hostname),
            port: if held.port == 0 { None } else { Some(port(held.port)?) },
            path: held.path.map(path_edit_from_wire).transpose()?,
            status: u16::try_from(held.status)
                .ok()
                .filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308))
                .and_then(|status| StatusCode::from_u16(status).ok())
                .ok_or_else(|| invalid("a redirect's status is not 301, 302, 303, 307 or 308"))?,
        }),
        v1::filter::Kind::Rewrite(held) => Filter::Rewrite(Rewrite {
            hostname: text(held.hostname),
            path: held.path.map(path_edit_from_wire).transpose()?,
        }),
    })
}

fn edit_to_wire(edit: &HeaderEdit) -> v1::HeaderEdit {
    let fields = |fields: &[(HeaderName, HeaderValue)]| {
        fields
            .iter()
            .map(|(name, value)| v1::Header {
                name: name.to_string(),
                value: value.to_str().unwrap_or_default().to_owned(),
            })
            .collect()
    };
    v1::HeaderEdit {
        set: fields(&edit.set),
        add: fields(&edit.add),
        remove: edit.remove.iter().map(ToString::to_string).collect(),
    }
}

fn edit_from_wire(message: v1::HeaderEdit) -> Result<HeaderEdit, Refusal> {
    let field = |held: v1::Header| Ok((parse::<HeaderName>(&held.name)?, parse::<HeaderValue>(&held.value)?));
    Ok(HeaderEdit {
        set: each(message.set, field)?,
        add: each(message.add, field)?,
        remove: each(message.remove, |name| parse(&name))?,
    })
}

fn path_edit_to_wire(edit: &PathEdit) -> v1::PathEdit {
    let kind = match edit {
        PathEdit::Full(text) => v1::path_edit::Kind::Full(text.to_string()),
        PathEdit::Prefix(text) => v1::path_edit::Kind::Prefix(text.to_string()),
    };
    v1::PathEdit { kind: Some(kind) }
}

fn path_edit_from_wire(message: v1::PathEdit) -> Result<PathEdit, Refusal> {
    Ok(match message.kind.ok_or_else(|| missing("a path edit"))? {
        v1::path_edit::Kind::Full(text) => PathEdit::Full(text.into()),
        v1::path_edit::Kind::Prefix(text) => PathEdit::Prefix(text.into()),
    })
}
