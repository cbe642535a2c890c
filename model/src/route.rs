//! HTTPRoute: what its owner wrote, checked. Choice among rules is in [`crate::route_table`].

use crate::authorization::Provenance;
use crate::names::{InvalidName, Name, Namespace, ServiceName};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::bytes::Regex;
use std::time::Duration;

/// The largest compiled regular expression, bytes: a pattern that needs more is refused.
const REGEX_SIZE_MAX: usize = 64 * 1024;

/// One route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Name,
    /// Its rules, in order.
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
    /// By weight.
    pub backends: Vec<Backend>,
    /// The whole request with its retries. `None`: the mesh's default; zero: no timeout (GEP-1742).
    pub request_timeout: Option<Duration>,
    /// One try.
    pub backend_request_timeout: Option<Duration>,
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
        }
    }
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
