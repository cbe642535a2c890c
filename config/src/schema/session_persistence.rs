//! `sessionPersistence` of a rule (GEP-1619): with what and for how long a client's requests stay with
//! one endpoint.

use super::route_filters::is_untouchable;
use super::value::Value;
use crate::document::quoted;
use http::HeaderName;
use weft_model::route::{SessionCarrier, SessionPersistence};

/// What a cookie or header is called where nothing is said. Cookies are apart by their paths.
const NAME_DEFAULT: &str = "weft-session";

/// The longest name (the upstream CRD's bound).
const NAME_MAX: usize = 128;

pub(crate) fn read(value: Value<'_>) -> Option<SessionPersistence> {
    let object = value.object()?;
    let by_header = object
        .take("type")
        .map_or(Some(false), |value| Some(value.choice(&[("Cookie", false), ("Header", true)])?.value));
    let name = object.take("sessionName").map_or(Some(None), |value| Some(Some((value, value.text()?))));
    let absolute = object.take("absoluteTimeout").map_or(Some(None), |value| Some(Some(value.duration()?)));
    let idle = object.take("idleTimeout").map_or(Some(None), |value| Some(Some(value.duration()?)));
    let permanent = match object.take("cookieConfig") {
        None => Some(false),
        Some(held) => {
            if by_header == Some(true) {
                held.error("`cookieConfig` needs `type: Cookie`");
            }
            let lifetime = held.object().and_then(|held| held.take("lifetimeType"));
            let words = [("Session", false), ("Permanent", true)];
            lifetime.map_or(Some(false), |value| Some(value.choice(&words)?.value))
        }
    };
    let (by_header, name, absolute, idle, permanent) = (by_header?, name?, absolute?, idle?, permanent?);
    for timeout in [absolute, idle].into_iter().flatten().filter(|timeout| timeout.value.is_zero()) {
        value.report.error(timeout.place, "a session of no time is none: leave the key out");
    }
    if let (Some(absolute), Some(idle)) = (absolute, idle)
        && idle.value > absolute.value
    {
        let message = "`idleTimeout` is longer than `absoluteTimeout` and has no effect";
        value.report.warn(idle.place, message, None);
    }
    if permanent && absolute.is_none() {
        value.error_hint("a permanent cookie needs `absoluteTimeout`", "it is how long the cookie lasts");
    }
    let name = match name {
        None => NAME_DEFAULT,
        Some((value, name)) => {
            let text = name.value;
            // A cookie's name has the grammar of a field's.
            let valid = text.len() <= NAME_MAX && text.parse::<HeaderName>().is_ok();
            if !valid {
                value.error(format!("{} is not a valid name, or too long a one", quoted(text)));
            } else if by_header && is_untouchable(&text.to_ascii_lowercase()) {
                value.error(format!("the field {} cannot carry a session", quoted(text)));
            }
            text
        }
    };
    let carrier = match (by_header, permanent) {
        (true, _) => SessionCarrier::Header,
        (false, true) => SessionCarrier::PermanentCookie,
        (false, false) => SessionCarrier::SessionCookie,
    };
    Some(SessionPersistence {
        carrier,
        name: name.into(),
        absolute_timeout: absolute.map(|at| at.value),
        idle_timeout: idle.map(|at| at.value),
    })
}
