//! Faults on purpose: a share of a Service's requests is delayed, or answered with an error, by the caller's
//! own proxy, and until a time. What they are for is to see how callers take it.

use crate::request::HttpFacts;
use crate::route::{Fraction, PathMatch, ValueMatch, header_matches};
use crate::spiffe::SpiffeId;
use http::{HeaderName, Method, StatusCode};
use std::time::Duration;

/// One fault. Of several the first that is for a request decides about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Whose requests: one of these callers'. Empty: anybody's.
    pub principals: Vec<SpiffeId>,
    /// The callers' namespaces: one of these. Empty: any.
    pub namespaces: Vec<Box<str>>,
    /// Empty: any.
    pub methods: Vec<Method>,
    /// As routes see it: canonical where one of them looks at paths, else as the application sent it. `None`: any.
    pub path: Option<PathMatch>,
    /// Each must match.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Waits before anything is done with the request.
    pub delay: Option<Delay>,
    /// Answers it.
    pub abort: Option<Abort>,
    /// When it is over, in seconds since 1970.
    pub expires: u64,
}

/// A wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Delay {
    /// How long.
    pub time: Duration,
    /// Of how many requests.
    pub share: Fraction,
}

/// An answer. At least one of the two is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Abort {
    /// To requests; also to calls, as the gRPC status that stands for it, where no other is given.
    pub status: Option<StatusCode>,
    /// To calls of gRPC.
    pub grpc_status: Option<u8>,
    /// Of how many requests.
    pub share: Fraction,
}

impl Fault {
    /// Whether it is for a request of this caller, if it is not over.
    pub fn matches(&self, caller: Option<&SpiffeId>, facts: &HttpFacts<'_>) -> bool {
        let is_caller = |wanted: &SpiffeId| caller == Some(wanted);
        let is_from = |wanted: &str| caller.is_some_and(|caller| caller.namespace() == wanted);
        (self.principals.is_empty() || self.principals.iter().any(is_caller))
            && (self.namespaces.is_empty() || self.namespaces.iter().any(|wanted| is_from(wanted)))
            && (self.methods.is_empty() || self.methods.iter().any(|method| method.as_str() == facts.method))
            && self.path.as_ref().is_none_or(|path| path.matches(facts.path))
            && self.headers.iter().all(|(name, wanted)| header_matches(facts, name.as_str(), wanted))
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: u64) -> bool {
        now >= self.expires
    }
}

impl Abort {
    /// The gRPC status that a call is answered with.
    pub fn of_call(&self) -> Option<u8> {
        // As gRPC reads answers of HTTP ("HTTP to gRPC status code mapping").
        let standing_for = |status: StatusCode| match status.as_u16() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => 14,
            _ => 2,
        };
        self.grpc_status.or_else(|| self.status.map(standing_for))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        Fault {
            principals: Vec::new(),
            namespaces: Vec::new(),
            methods: Vec::new(),
            path: None,
            headers: Vec::new(),
            delay: None,
            abort: None,
            expires: 100,
        }
    }

    #[test]
    fn every_part_of_a_match_must_fit() {
        let web: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let headers = [("x-team".to_owned(), "red".to_owned())];
        let headers = &headers[..];
        let facts = HttpFacts {
            method: "GET",
            authority: "cart",
            path: "/items/1",
            query: None,
            headers: &headers,
            remote_address: "10.0.0.1".parse().unwrap(),
            token: None,
        };
        let fits = |fault: Fault| fault.matches(Some(&web), &facts);
        assert!(fits(fault()));
        assert!(fits(Fault { principals: vec![web.clone()], namespaces: vec!["shop".into()], ..fault() }));
        assert!(fits(Fault { methods: vec![Method::POST, Method::GET], ..fault() }));
        assert!(fits(Fault { path: Some(PathMatch::prefix("/items")), ..fault() }));
        let field = |value: &str| vec![(HeaderName::from_static("x-team"), ValueMatch::Exact(value.into()))];
        assert!(fits(Fault { headers: field("red"), ..fault() }));
        let other = "spiffe://cluster.local/ns/shop/sa/other".parse().unwrap();
        assert!(!fits(Fault { principals: vec![other], namespaces: vec!["shop".into()], ..fault() }));
        assert!(!fits(Fault { principals: vec![web.clone()], namespaces: vec!["else".into()], ..fault() }));
        assert!(!fits(Fault { methods: vec![Method::POST], ..fault() }));
        assert!(!fits(Fault { path: Some(PathMatch::prefix("/other")), ..fault() }));
        assert!(!fits(Fault { headers: field("blue"), ..fault() }));
        // Who is not known is nobody in particular.
        assert!(fault().matches(None, &facts));
        assert!(!Fault { namespaces: vec!["shop".into()], ..fault() }.matches(None, &facts));
        assert!(!fault().is_over(99) && fault().is_over(100));
    }

    #[test]
    fn calls_are_answered_with_the_status_that_stands_for_the_other() {
        let abort = |status: u16, grpc_status| Abort {
            status: StatusCode::from_u16(status).ok(),
            grpc_status,
            share: Fraction::ALL,
        };
        assert_eq!(abort(503, None).of_call(), Some(14));
        assert_eq!(abort(500, None).of_call(), Some(2));
        assert_eq!(abort(503, Some(8)).of_call(), Some(8));
    }
}
