//! HTTPRoute, GRPCRoute, TLSRoute and TCPRoute: what the owner wrote, checked. Choice among rules is in
//! [`crate::route_table`].

use crate::authorization::Provenance;
use crate::cors::Cors;
use crate::names::{InvalidName, Name, Namespace, ResourceName, ServiceName};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::bytes::Regex;
use std::time::Duration;

/// The largest compiled regular expression, bytes: a pattern that needs more is refused.
const REGEX_SIZE_MAX: usize = 64 * 1024;

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

/// Path AND headers AND queries AND method.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Each must match.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Each must match.
    pub queries: Vec<(Box<str>, ValueMatch)>,
    /// `None`: any.
    pub method: Option<Method>,
}

/// A match of the path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Box<str>),
    /// By elements: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`. Without trailing `/` (but `/`).
    Prefix(Box<str>),
    /// The whole path.
    Regex(Pattern),
    /// A gRPC call, whose path is `/SERVICE/METHOD`. `None`: any.
    Rpc {
        /// The service with its package.
        service: Option<ValueMatch>,
        /// The method.
        method: Option<ValueMatch>,
    },
}

/// A match of a header's or query parameter's value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ValueMatch {
    /// The whole value.
    Exact(Box<str>),
    /// The whole value.
    Regex(Pattern),
}

/// A regular expression for a whole value: linear in time, bounded in size.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Box<str>,
    regex: Regex,
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

/// When a request that was answered, or whose connection broke, is tried again (GEP-1731): its owner
/// says that doing it twice does no harm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RetryPolicy {
    /// Statuses that are tried again, 400 to 599.
    pub codes: Vec<u16>,
    /// Tries after the first.
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

// === impl PathMatch ===

impl PathMatch {
    /// A prefix by path elements.
    pub fn prefix(text: &str) -> Self {
        let trimmed = text.trim_end_matches('/');
        Self::Prefix(if trimmed.is_empty() { "/" } else { trimmed }.into())
    }

    /// Whether the path (without query) matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => path == &**text,
            Self::Prefix(text) if &**text == "/" => path.starts_with('/'),
            Self::Prefix(text) => {
                path.strip_prefix(&**text).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(pattern) => pattern.matches(path),
            Self::Rpc { service, method } => rpc_of(path).is_some_and(|(called_service, called_method)| {
                let matches = |wanted: &Option<ValueMatch>, value| {
                    wanted.as_ref().is_none_or(|wanted| wanted.matches(value))
                };
                matches(service, called_service) && matches(method, called_method)
            }),
        }
    }
}

/// Service and method of a gRPC call's path; `None`: it is no such path.
pub fn rpc_of(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

// === impl Pattern ===

impl Pattern {
    /// Compiles.
    pub fn new(source: &str) -> Result<Self, InvalidName> {
        let refused = || InvalidName::new("regular expression", source);
        if source.len() > 1024 {
            return Err(refused());
        }
        let regex = regex::bytes::RegexBuilder::new(&format!("^(?:{source})$"))
            .unicode(false)
            .size_limit(REGEX_SIZE_MAX)
            .dfa_size_limit(REGEX_SIZE_MAX)
            .build()
            .map_err(|_| refused())?;
        Ok(Self { source: source.into(), regex })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole value matches.
    pub fn matches(&self, value: &str) -> bool {
        self.regex.is_match(value.as_bytes())
    }
}

impl Eq for Pattern {}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

// === impl ValueMatch ===

impl ValueMatch {
    /// The letters of what was written.
    pub fn len(&self) -> usize {
        match self {
            Self::Exact(text) => text.len(),
            Self::Regex(pattern) => pattern.as_str().len(),
        }
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the value matches.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == &**text,
            Self::Regex(pattern) => pattern.matches(value),
        }
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
    fn prefixes_match_by_elements() {
        let prefix = PathMatch::prefix("/foo/");
        for (path, expected) in
            [("/foo", true), ("/foo/", true), ("/foo/bar", true), ("/foobar", false), ("/", false)]
        {
            assert_eq!(prefix.matches(path), expected, "{path}");
        }
        assert!(PathMatch::prefix("/").matches("/x"));
    }

    #[test]
    fn calls_match_by_service_and_method() {
        let exact = |text: &str| Some(ValueMatch::Exact(text.into()));
        let both = PathMatch::Rpc { service: exact("shop.Cart"), method: exact("Get") };
        let service = PathMatch::Rpc { service: exact("shop.Cart"), method: None };
        let method =
            PathMatch::Rpc { service: None, method: Some(ValueMatch::Regex(Pattern::new("G.*").unwrap())) };
        for (path, expected) in [
            ("/shop.Cart/Get", [true, true, true]),
            ("/shop.Cart/Put", [false, true, false]),
            ("/shop.Other/Get", [false, false, true]),
            ("/shop.Cart/Get/more", [false, false, false]),
            ("/shop.Cart/", [false, false, false]),
            ("/shop.Cart", [false, false, false]),
            ("//Get", [false, false, false]),
        ] {
            assert_eq!([&both, &service, &method].map(|matched| matched.matches(path)), expected, "{path}");
        }
    }

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

    #[test]
    fn patterns_match_whole_values_and_are_bounded() {
        assert!(Pattern::new("a+").unwrap().matches("aaa"));
        assert!(!Pattern::new("a+").unwrap().matches("baaa"));
        assert!(!Pattern::new("a|b").unwrap().matches("ac"));
        assert!(Pattern::new("(").is_err());
        assert!(Pattern::new(&"a{1000}".repeat(100)).is_err());
    }
}
