//! Policies as they come over the wire, and requests as peers send them.
//!
//! Judging never panics, and what the index finds is what looking at every rule finds. The input: two bytes of
//! length, an `Authorization` message of that length, as many more as follow a byte of 1, then the request's
//! method, host, path and one header value, each up to the next line feed.

use std::sync::Arc;
use weft_model::authorization::{Action, AuthorizationSet, Facts, Verdict};
use weft_model::names::ResourceName;
use weft_model::request::{ConnectionFacts, HttpFacts};
use weft_model::wire::{Kind, Refusal, Resource};

/// Whether the input says something.
pub(crate) fn check(input: &[u8]) -> bool {
    let mut rest = input;
    let mut named = Vec::new();
    loop {
        let Some((length, after)) = rest.split_first_chunk::<2>() else { return false };
        let Some((message, after)) = after.split_at_checked(u16::from_le_bytes(*length).into()) else {
            return false;
        };
        let Some(policy) = policy(message) else { return false };
        named.push(policy);
        rest = after;
        match rest.split_first() {
            Some((1, after)) => rest = after,
            _ => break,
        }
    }
    let mut lines = rest.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
    let mut line = || lines.next().unwrap_or_default().into_owned();
    let (method, authority, path, value) = (line(), line(), line(), line());
    let set = AuthorizationSet::new(named);
    let headers = [("x-team".to_owned(), value)];
    let headers = headers.as_slice();
    let source = "spiffe://cluster.local/ns/shop/sa/web".parse().expect("a constant must parse");
    let address = [10, 0, 0, 1].into();
    let connection = ConnectionFacts {
        source: Some(&source),
        source_address: address,
        original_address: None,
        destination: ([10, 0, 0, 2], 8080).into(),
        sni: Some(&authority),
    };
    let http = HttpFacts {
        method: &method,
        authority: &authority,
        path: &path,
        query: None,
        headers: &headers,
        remote_address: address,
        token: None,
    };
    for connection in [connection, ConnectionFacts { source: None, ..connection }] {
        for http in [Some(http), None] {
            let facts = Facts { connection, http };
            let judgement = set.judge(&facts);
            let first = |action: Action| {
                set.matching(&facts).find(|by| by.policy.action == action && !by.policy.dry_run)
            };
            assert_eq!(judgement.custom, first(Action::Custom));
            assert_eq!(judgement.audit, first(Action::Audit));
            match judgement.verdict {
                Verdict::Denied(by) => assert_eq!(Some(by), first(Action::Deny)),
                Verdict::Allowed(by) => {
                    assert_eq!(first(Action::Deny), None);
                    assert_eq!(by, first(Action::Allow));
                }
                Verdict::NotAllowed => assert_eq!((first(Action::Deny), first(Action::Allow)), (None, None)),
                Verdict::Unresolved(name) => panic!("{name} is held"),
            }
            if let Some(nearest) = set.nearest_miss(&facts, 10_000) {
                assert!(!nearest.parts.is_empty());
            }
        }
    }
    true
}

// A resource is held to the name it came under; the refusal says which name it would have had.
fn policy(message: &[u8]) -> Option<(ResourceName, Option<Arc<weft_model::authorization::Authorization>>)> {
    let Err(Refusal::Invalid(text)) = Resource::decode(Kind::Authorization, "", message) else { return None };
    let (name, _) = text.strip_prefix("it is named ")?.split_once(" and came as ")?;
    match Resource::decode(Kind::Authorization, name, message) {
        Ok(Resource::Authorization(policy)) => Some((name.parse().ok()?, Some(policy))),
        _ => None,
    }
}
