//! HTTPRoute, GRPCRoute, TLSRoute and TCPRoute: what the owner wrote, checked.
//!
//! What a rule's matches mean is in `matching`; which of all rules holds, in [`crate::route_table`].

mod matching;
mod pattern;

pub(crate) use matching::header_matches;
pub use matching::{PathMatch, RouteMatch, ValueMatch, rpc_of};
pub use pattern::Pattern;

use crate::authorization::Provenance;
use crate::cors::Cors;
use crate::names::{Name, Namespace, ResourceName, ServiceName};
use http::{HeaderName, HeaderValue, StatusCode};
use std::time::Duration;

/// The type of a route: a port of a Service has routes of one type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
    /// TLSRoute: connections, by the server that their TLS names.
    Tls,
    /// TCPRoute: connections.
    Tcp,
}

/// One route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// Its type.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Name,
    /// When its object was made, in seconds since 1970, where that is known: the older route wins ties.
    pub created: Option<u64>,
    /// A TLSRoute's server names, in lower case: `HOST`, or `*.DOMAIN` for all below it.
    pub server_names: Vec<Box<str>>,
    /// Its rules, in order. A TLSRoute or TCPRoute has one.
    pub rules: Vec<RouteRule>,
    /// Where it was written.
    pub provenance: Provenance,
}

/// One rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteRule {
    /// Its name (GEP-995); may be empty.
    pub name: Box<str>,
    /// One must match; never empty (a rule without matches has one that matches all).
    pub matches: Vec<RouteMatch>,
    /// Applied in order.
    pub filters: Vec<Filter>,
    /// By weight. None written: the Service that was called (a route of a Service changes its
    /// requests on the way, and need not send them elsewhere).
    pub backends: Vec<Backend>,
    /// The whole request with its retries. `None`: the mesh's default; zero: no timeout (GEP-1742).
    pub request_timeout: Option<Duration>,
    /// One try.
    pub backend_request_timeout: Option<Duration>,
    /// What the owner wants tried again. `None`: only what is safe without being told.
    pub retry: Option<RetryPolicy>,
    /// Whether a client's requests stay with one endpoint.
    pub session: Option<SessionPersistence>,
    /// Where it was written.
    pub provenance: Provenance,
}

/// An edit of a request or an answer, or an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Filter {
    /// Edits the request's header.
    RequestHeaders(HeaderEdit),
    /// Edits the answer's header.
    ResponseHeaders(HeaderEdit),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes host or path on the way to the backend.
    Rewrite(Rewrite),
    /// Answers preflights, and says in answers who may read them.
    Cors(Cors),
    /// Sends a copy of the request elsewhere as well. May come several times.
    Mirror(Mirror),
}

/// Where copies of requests go, and of how many.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mirror {
    /// `None`: the reference leads nowhere, and nothing is copied.
    pub service: Option<(ServiceName, u16)>,
    /// Of how many requests (GEP-3171).
    pub share: Fraction,
}

/// A share of requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fraction {
    /// At most the denominator.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
}

/// The most tries after the first: more would outlive any deadline that is worth having.
pub const RETRY_ATTEMPTS_MAX: u32 = 10;

/// When a request that was answered, or whose connection broke, is tried again (GEP-1731): its owner
/// says that doing it twice does no harm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RetryPolicy {
    /// Statuses that are tried again, 400 to 599.
    pub codes: Vec<u16>,
    /// Tries after the first, at most [`RETRY_ATTEMPTS_MAX`].
    pub attempts: u32,
    /// The least wait before a further try.
    pub backoff: Duration,
}

/// How a client's requests stay with one endpoint (GEP-1619).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionPersistence {
    /// What carries the token.
    pub carrier: SessionCarrier,
    /// The cookie's or the header's name.
    pub name: Box<str>,
    /// How long a session lasts.
    pub absolute_timeout: Option<Duration>,
    /// How long one lasts without requests.
    pub idle_timeout: Option<Duration>,
}

/// What carries a session's token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SessionCarrier {
    /// A cookie that is gone with the browser's session.
    SessionCookie,
    /// A cookie that lasts as long as the session: with an absolute timeout.
    PermanentCookie,
    /// A header field, of answers and requests alike.
    Header,
}

/// Removes, then sets, then adds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HeaderEdit {
    /// Replaced, or added where absent.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added besides what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

/// `None` parts stay as the request's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Box<str>>,
    /// The host.
    pub hostname: Option<Box<str>>,
    /// The port.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// `None` parts stay as they are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rewrite {
    /// The host.
    pub hostname: Option<Box<str>>,
    /// The path.
    pub path: Option<PathEdit>,
}

/// A change of the path; the query stays.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathEdit {
    /// The whole path.
    Full(Box<str>),
    /// What the rule's prefix matched.
    Prefix(Box<str>),
}

/// A share of a rule's requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backend {
    /// `None`: the reference leads nowhere, and its share is answered 500.
    pub service: Option<(ServiceName, u16)>,
    /// Its share.
    pub weight: u32,
    /// Applied after the rule's.
    pub filters: Vec<Filter>,
}

// === impl RouteKind ===

impl RouteKind {
    /// As users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }

    /// The type of a route by its resource's name.
    pub fn of(name: &ResourceName) -> Option<Self> {
        let (kind, _) = name.as_str().split_once('/')?;
        [Self::Grpc, Self::Http, Self::Tls, Self::Tcp].into_iter().find(|held| held.as_str() == kind)
    }

    /// Whether its rules are for connections, and not for requests.
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::Tls | Self::Tcp)
    }
}

// === impl Route ===

impl Route {
    /// The name of its resource.
    pub fn resource_name(&self) -> ResourceName {
        ResourceName::of(self.kind.as_str(), &self.namespace, &self.name)
    }

    /// The Services that it may send requests to, mirrors included; one may come several times.
    pub fn targets(&self) -> impl Iterator<Item = &(ServiceName, u16)> {
        self.rules.iter().flat_map(|rule| {
            let mirrors = rule.filters.iter().filter_map(|filter| match filter {
                Filter::Mirror(mirror) => mirror.service.as_ref(),
                _ => None,
            });
            rule.backends.iter().filter_map(|backend| backend.service.as_ref()).chain(mirrors)
        })
    }
}

// === impl Fraction ===

impl Fraction {
    /// All requests.
    pub const ALL: Self = Self { numerator: 1, denominator: 1 };

    /// Whether a number drawn evenly from 0 to the denominator lies within the share.
    pub fn takes(self, drawn: u32) -> bool {
        drawn < self.numerator
    }
}

// === impl PathEdit ===

impl PathEdit {
    /// The new path. `matched` is the rule's prefix that matched; a prefix edit of another kind of
    /// match is refused when the route is compiled, and changes nothing here.
    pub fn apply(&self, path: &str, matched: &PathMatch) -> String {
        match (self, matched) {
            (Self::Full(text), _) => text.to_string(),
            (Self::Prefix(text), PathMatch::Prefix(prefix)) => {
                let prefix = if &**prefix == "/" { "" } else { prefix };
                let rest = path.strip_prefix(prefix).unwrap_or(path);
                let head = text.trim_end_matches('/');
                match (head.is_empty(), rest.starts_with('/'), rest.is_empty()) {
                    (true, true, _) => rest.to_owned(),
                    (_, _, true) if text.ends_with('/') || text.is_empty() => format!("{head}/"),
                    (_, true, _) | (_, _, true) => format!("{head}{rest}"),
                    (_, false, false) => format!("{head}/{rest}"),
                }
            }
            (Self::Prefix(_), _) => path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_rewrites_follow_the_table_of_the_specification() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/a/b", "/", "/x", "/x/a/b"),
        ] {
            let edit = PathEdit::Prefix(replacement.into());
            assert_eq!(
                edit.apply(path, &PathMatch::prefix(prefix)),
                expected,
                "{path} {prefix} {replacement}"
            );
        }
    }
}
