//! What a rule's match means: path AND headers AND query parameters AND method.

use super::Pattern;
use crate::request::HttpFacts;
use http::{HeaderName, Method};

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

// === impl RouteMatch ===

impl RouteMatch {
    /// Whether the request matches.
    pub fn matches(&self, facts: &HttpFacts<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method.as_str() == facts.method)
            && self.path.matches(facts.path)
            && self.headers.iter().all(|(name, wanted)| header_matches(facts, name.as_str(), wanted))
            && self.queries.iter().all(|(name, wanted)| query_matches(facts.query, name, wanted))
    }
}

/// The first value of a field decides, as the Gateway API's conformance has it for repeated names.
pub(crate) fn header_matches(facts: &HttpFacts<'_>, name: &str, wanted: &ValueMatch) -> bool {
    let mut matches = false;
    facts.headers.visit_values(name, &mut |value| {
        matches = std::str::from_utf8(value).is_ok_and(|value| wanted.matches(value));
        false
    });
    matches
}

fn query_matches(query: Option<&str>, name: &str, wanted: &ValueMatch) -> bool {
    query.unwrap_or_default().split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| wanted.matches(value))
    }) == Some(true)
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
    fn the_first_parameter_of_a_name_decides() {
        assert!(query_matches(Some("a=1&b"), "b", &ValueMatch::Exact("".into())));
        assert!(!query_matches(Some("a=1&a=2"), "a", &ValueMatch::Exact("2".into())));
    }
}
