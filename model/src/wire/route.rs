//! `weft.v1.Route`.

use super::service::{reference_from_wire, reference_to_wire};
use super::{Refusal, each, invalid, level, missing, parse, port, provenance_from_wire, provenance_to_wire};
use crate::cors::{Cors, Listed, OriginMatch};
use crate::proto::v1;
use crate::route::{
    Backend, Filter, Fraction, HeaderEdit, Mirror, PathEdit, PathMatch, Pattern, RETRY_ATTEMPTS_MAX,
    Redirect, RetryPolicy, Rewrite, Route, RouteKind, RouteMatch, RouteRule, SessionCarrier,
    SessionPersistence, ValueMatch,
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
        kind: match route.kind {
            RouteKind::Http => v1::RouteKind::Http,
            RouteKind::Grpc => v1::RouteKind::Grpc,
            RouteKind::Tls => v1::RouteKind::Tls,
            RouteKind::Tcp => v1::RouteKind::Tcp,
        }
        .into(),
        created: route.created.unwrap_or_default(),
        server_names: route.server_names.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn from_wire(message: v1::Route) -> Result<Route, Refusal> {
    level(message.needs_level)?;
    let kind = match v1::RouteKind::try_from(message.kind) {
        Ok(v1::RouteKind::Http) => RouteKind::Http,
        Ok(v1::RouteKind::Grpc) => RouteKind::Grpc,
        Ok(v1::RouteKind::Tls) => RouteKind::Tls,
        Ok(v1::RouteKind::Tcp) => RouteKind::Tcp,
        Ok(v1::RouteKind::Unspecified) | Err(_) => return Err(missing("a route's kind")),
    };
    Ok(Route {
        kind,
        namespace: parse(&message.namespace)?,
        name: parse(&message.name)?,
        created: (message.created > 0).then_some(message.created),
        server_names: message.server_names.into_iter().map(Into::into).collect(),
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
        retry: rule.retry.as_ref().map(|retry| v1::RetryPolicy {
            codes: retry.codes.iter().map(|code| u32::from(*code)).collect(),
            attempts: retry.attempts,
            backoff: Some(duration_to_wire(retry.backoff)),
        }),
        session: rule.session.as_ref().map(session_to_wire),
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
        retry: message.retry.map(retry_from_wire).transpose()?,
        session: message.session.map(session_from_wire).transpose()?,
    })
}

pub(super) fn session_to_wire(session: &SessionPersistence) -> v1::SessionPersistence {
    v1::SessionPersistence {
        carrier: match session.carrier {
            SessionCarrier::SessionCookie => v1::SessionCarrier::SessionCookie,
            SessionCarrier::PermanentCookie => v1::SessionCarrier::PermanentCookie,
            SessionCarrier::Header => v1::SessionCarrier::Header,
        }
        .into(),
        name: session.name.to_string(),
        absolute_timeout: session.absolute_timeout.map(duration_to_wire),
        idle_timeout: session.idle_timeout.map(duration_to_wire),
    }
}

pub(super) fn session_from_wire(message: v1::SessionPersistence) -> Result<SessionPersistence, Refusal> {
    let carrier = match v1::SessionCarrier::try_from(message.carrier) {
        Ok(v1::SessionCarrier::SessionCookie) => SessionCarrier::SessionCookie,
        Ok(v1::SessionCarrier::PermanentCookie) => SessionCarrier::PermanentCookie,
        Ok(v1::SessionCarrier::Header) => SessionCarrier::Header,
        Ok(v1::SessionCarrier::Unspecified) | Err(_) => return Err(missing("what carries a session")),
    };
    // A cookie's name has the grammar of a field's.
    parse::<HeaderName>(&message.name)?;
    Ok(SessionPersistence {
        carrier,
        name: message.name.into(),
        absolute_timeout: message.absolute_timeout.map(duration_from_wire),
        idle_timeout: message.idle_timeout.map(duration_from_wire),
    })
}

fn retry_from_wire(message: v1::RetryPolicy) -> Result<RetryPolicy, Refusal> {
    let code = |code: u32| {
        let code = u16::try_from(code).ok().filter(|code| (400..=599).contains(code));
        code.ok_or_else(|| invalid("a status to retry is not one of an error"))
    };
    if message.attempts > RETRY_ATTEMPTS_MAX {
        return Err(invalid(format!("{} tries are more than {RETRY_ATTEMPTS_MAX}", message.attempts)));
    }
    Ok(RetryPolicy {
        codes: each(message.codes, code)?,
        attempts: message.attempts,
        backoff: message.backoff.map(duration_from_wire).unwrap_or_default(),
    })
}

pub(super) fn duration_to_wire(duration: Duration) -> v1::Duration {
    v1::Duration { milliseconds: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX) }
}

pub(super) fn duration_from_wire(message: v1::Duration) -> Duration {
    Duration::from_millis(message.milliseconds)
}

pub(super) fn path_to_wire(path: &PathMatch) -> v1::PathMatch {
    let kind = match path {
        PathMatch::Exact(text) => v1::path_match::Kind::Exact(text.to_string()),
        PathMatch::Prefix(text) => v1::path_match::Kind::Prefix(text.to_string()),
        PathMatch::Regex(pattern) => v1::path_match::Kind::Regex(pattern.as_str().to_owned()),
        PathMatch::Rpc { service, method } => v1::path_match::Kind::Rpc(v1::RpcMatch {
            service: service.as_ref().map(value_to_wire),
            method: method.as_ref().map(value_to_wire),
        }),
    };
    v1::PathMatch { kind: Some(kind) }
}

pub(super) fn header_to_wire((name, value): &(HeaderName, ValueMatch)) -> v1::HeaderMatch {
    v1::HeaderMatch { name: name.to_string(), value: Some(value_to_wire(value)) }
}

pub(super) fn header_from_wire(message: v1::HeaderMatch) -> Result<(HeaderName, ValueMatch), Refusal> {
    Ok((parse::<HeaderName>(&message.name)?, value_from_wire(message.value)?))
}

fn match_to_wire(matched: &RouteMatch) -> v1::RouteMatch {
    v1::RouteMatch {
        path: Some(path_to_wire(&matched.path)),
        headers: matched.headers.iter().map(header_to_wire).collect(),
        queries: matched
            .queries
            .iter()
            .map(|(name, value)| v1::QueryMatch { name: name.to_string(), value: Some(value_to_wire(value)) })
            .collect(),
        method: matched.method.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

pub(super) fn path_from_wire(message: v1::PathMatch) -> Result<PathMatch, Refusal> {
    Ok(match message.kind.ok_or_else(|| missing("a path match"))? {
        v1::path_match::Kind::Exact(text) => PathMatch::Exact(text.into()),
        v1::path_match::Kind::Prefix(text) => PathMatch::prefix(&text),
        v1::path_match::Kind::Regex(text) => PathMatch::Regex(Pattern::new(&text).map_err(invalid)?),
        v1::path_match::Kind::Rpc(rpc) => {
            let part = |part: Option<v1::ValueMatch>| match part {
                Some(part) => value_from_wire(Some(part)).map(Some),
                None => Ok(None),
            };
            PathMatch::Rpc { service: part(rpc.service)?, method: part(rpc.method)? }
        }
    })
}

fn match_from_wire(message: v1::RouteMatch) -> Result<RouteMatch, Refusal> {
    Ok(RouteMatch {
        path: path_from_wire(message.path.ok_or_else(|| missing("a path match"))?)?,
        headers: each(message.headers, header_from_wire)?,
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
        Filter::Cors(cors) => v1::filter::Kind::Cors(v1::Cors {
            origins: cors.origins.iter().map(OriginMatch::text).collect(),
            credentials: cors.credentials,
            methods: Some(listed_to_wire(&cors.methods)),
            headers: Some(listed_to_wire(&cors.headers)),
            expose: Some(listed_to_wire(&cors.expose)),
            max_age: Some(duration_to_wire(cors.max_age)),
        }),
        Filter::Mirror(mirror) => v1::filter::Kind::Mirror(v1::Mirror {
            service: mirror.service.as_ref().map(|(name, _)| reference_to_wire(name)),
            port: mirror.service.as_ref().map_or(0, |(_, port)| (*port).into()),
            numerator: mirror.share.numerator,
            denominator: mirror.share.denominator,
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
        v1::filter::Kind::Cors(held) => Filter::Cors(Cors {
            origins: each(held.origins, |text| {
                OriginMatch::parse(&text).ok_or_else(|| invalid("an origin is not one"))
            })?,
            credentials: held.credentials,
            methods: listed_from_wire(held.methods),
            headers: listed_from_wire(held.headers),
            expose: listed_from_wire(held.expose),
            max_age: held.max_age.map(duration_from_wire).unwrap_or_default(),
        }),
        v1::filter::Kind::Mirror(held) => {
            let service = match held.service {
                Some(service) => Some((reference_from_wire(&service)?, port(held.port)?)),
                None => None,
            };
            let share = Fraction { numerator: held.numerator, denominator: held.denominator };
            if share.denominator == 0 || share.numerator > share.denominator {
                return Err(invalid("a mirror's share is not between 0 and 1"));
            }
            Filter::Mirror(Mirror { service, share })
        }
    })
}

fn listed_to_wire(listed: &Listed) -> v1::Listed {
    match listed {
        Listed::Any => v1::Listed { any: true, names: Vec::new() },
        Listed::Names(names) => {
            v1::Listed { any: false, names: names.iter().map(ToString::to_string).collect() }
        }
    }
}

fn listed_from_wire(message: Option<v1::Listed>) -> Listed {
    let message = message.unwrap_or_default();
    if message.any { Listed::Any } else { Listed::Names(message.names.into_iter().map(Into::into).collect()) }
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
