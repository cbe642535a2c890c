//! How the caller's proxy sends a request: how long it waits, what it tries again, what filters do.

use serde::Serialize;
use std::fmt::Write;
use std::time::{Duration, Instant};
use weft_model::mesh::MeshConfig;
use weft_model::route::{Filter, HeaderEdit, PathEdit, RetryPolicy, RouteRule};
use weft_proxy::deadline::Deadline;
use weft_proxy::http::RequestHead;
use weft_proxy::outbound::retry::TRIES_MAX;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Delivery {
    /// Of the whole request with its retries. `None`: none.
    request_timeout: Option<String>,
    /// Whose it is: the rule's, the mesh's default, or what the caller's own fields ask for, if that is less.
    request_timeout_origin: Option<&'static str>,
    /// Of each try.
    try_timeout: Option<String>,
    /// Tries, the first included, where nothing reached an application or the method is idempotent.
    safe_tries: usize,
    /// What the route's owner wants tried again besides.
    retry: Option<Retry>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Retry {
    codes: Vec<u16>,
    attempts: u32,
    backoff: String,
}

impl Delivery {
    /// `rule`: the route's, where one is taken.
    pub(super) fn new(rule: Option<&RouteRule>, head: &RequestHead, config: &MeshConfig) -> Self {
        let own = rule.and_then(|rule| rule.request_timeout);
        let timeout = own.or(config.request_timeout_default).filter(|held| !held.is_zero());
        let said =
            timeout.map(|timeout| (timeout, if own.is_some() { "the rule" } else { "the MeshConfig" }));
        let now = Instant::now();
        let claimed = Deadline::claimed(head.headers(), head.is_grpc(), now);
        let claimed = claimed.map(|deadline| (deadline.left(now), "the caller"));
        let least = said.into_iter().chain(claimed).min_by_key(|(timeout, _)| *timeout);
        let try_timeout = rule.and_then(|rule| rule.backend_request_timeout).filter(|held| !held.is_zero());
        let retry = |held: &RetryPolicy| Retry {
            codes: held.codes.clone(),
            attempts: held.attempts,
            backoff: shown(held.backoff),
        };
        Self {
            request_timeout: least.map(|(timeout, _)| shown(timeout)),
            request_timeout_origin: least.map(|(_, origin)| origin),
            try_timeout: try_timeout.map(shown),
            safe_tries: TRIES_MAX,
            retry: rule.and_then(|rule| rule.retry.as_ref()).map(retry),
        }
    }

    pub(super) fn write(&self, text: &mut String) {
        // Writing to a String cannot fail.
        let _ = match (&self.request_timeout, self.request_timeout_origin) {
            (Some(timeout), Some(origin)) => writeln!(text, "  time   {timeout} in all, by {origin}"),
            _ => writeln!(text, "  time   no timeout"),
        };
        if let Some(timeout) = &self.try_timeout {
            let _ = writeln!(text, "         {timeout} for each try, by the rule");
        }
        let more = self.safe_tries.saturating_sub(1);
        let _ = writeln!(
            text,
            "  retry  up to {more} times, where nothing reached an application or the method is idempotent"
        );
        if let Some(Retry { codes, attempts, backoff }) = &self.retry {
            let codes: Vec<_> = codes.iter().map(ToString::to_string).collect();
            let answers =
                if codes.is_empty() { String::new() } else { format!(" and of {}", codes.join(", ")) };
            let _ = writeln!(
                text,
                "         up to {attempts} times of failed connections and tries{answers}, after {backoff} or more, by \
                 the rule"
            );
        }
    }
}

fn shown(duration: Duration) -> String {
    format!("{duration:?}")
}

/// A filter and what it does.
pub(super) fn filter(filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(edit) => format!("RequestHeaderModifier: {}", edited(edit)),
        Filter::ResponseHeaders(edit) => format!("ResponseHeaderModifier: {}", edited(edit)),
        Filter::Redirect(redirect) => format!("RequestRedirect: {}", redirect.status.as_u16()),
        Filter::Rewrite(rewrite) => {
            let host = rewrite.hostname.iter().map(|host| format!("the host is {host}"));
            let path = rewrite.path.iter().map(|path| match path {
                PathEdit::Full(path) => format!("the path is {path}"),
                PathEdit::Prefix(prefix) => format!("the path begins with {prefix}"),
            });
            format!("URLRewrite: {}", host.chain(path).collect::<Vec<_>>().join(", "))
        }
        Filter::Cors(_) => "CORS".to_owned(),
        Filter::Mirror(mirror) => {
            let share = mirror.share;
            let to = match &mirror.service {
                Some((service, port)) => format!("{service}:{port}"),
                None => "nowhere".to_owned(),
            };
            format!("RequestMirror: {} of {} to {to}", share.numerator, share.denominator)
        }
    }
}

fn edited(edit: &HeaderEdit) -> String {
    let set = edit.set.iter().map(|(name, _)| format!("set {name}"));
    let add = edit.add.iter().map(|(name, _)| format!("add {name}"));
    let remove = edit.remove.iter().map(|name| format!("remove {name}"));
    set.chain(add).chain(remove).collect::<Vec<_>>().join(", ")
}
