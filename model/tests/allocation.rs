//! A verdict allocates nothing, nor does the check that a path is canonical. A test binary of its own: it counts what its allocator does.

// A helper of a test may fail as a test does.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use weft_model::authorization::{
    Action, Authorization, AuthorizationSet, Clause, Condition, Facts, Operation, Rule, Source,
};
use weft_model::names::ResourceName;
use weft_model::path::Normalization;
use weft_model::request::{ConnectionFacts, HttpFacts};
use weft_model::spiffe::SpiffeId;
use weft_model::string_match::StringMatch;

fn any(values: &[&str]) -> Clause<StringMatch> {
    Clause { any: values.iter().map(|value| StringMatch::parse_path(value).unwrap()).collect(), not: vec![] }
}

fn policy(
    name: &str,
    action: Action,
    dry_run: bool,
    rules: Vec<Rule>,
) -> (ResourceName, Option<Arc<Authorization>>) {
    let policy = Authorization {
        namespace: "shop".parse().unwrap(),
        name: name.parse().unwrap(),
        action,
        dry_run,
        provider: None,
        rules,
        provenance: Default::default(),
    };
    (ResourceName::of("AuthorizationPolicy", &policy.namespace, &policy.name), Some(Arc::new(policy)))
}

fn rule(principal: &str, host: &str, path: &str, values: &[&str]) -> Rule {
    Rule {
        sources: vec![Source { principals: any(&[principal]), ..Source::default() }],
        operations: vec![Operation {
            hosts: any(&[host]),
            methods: any(&["GET", "HEAD"]),
            paths: any(&[path]),
            ..Operation::default()
        }],
        conditions: vec![Condition::RequestHeader("x-groups".into(), any(values))],
        ..Rule::default()
    }
}

#[test]
fn a_path_that_is_canonical_already_costs_no_allocation() {
    let usual = [
        "/",
        "/items/7",
        "/shop.Cart/Checkout",
        "/.well-known/openid-configuration",
        "/a%20b/%C3%A4/x%3Fy",
        "/v1/projects/p:cancel",
        "/items/",
    ];
    for (name, level) in Normalization::NAMES {
        for path in usual {
            let counted = allocation_counter::measure(|| assert!(level.canonical(path).is_ok()));
            assert_eq!(counted.count_total, 0, "{name} {path}");
        }
        let counted = allocation_counter::measure(|| {
            let _ = level.canonical("/a/../b");
        });
        assert_eq!(counted.count_total > 0, level != Normalization::None, "the counter counts");
    }
}

#[test]
fn judging_a_request_allocates_nothing() {
    let web = "cluster.local/ns/shop/sa/web";
    let set = AuthorizationSet::new([
        policy("a", Action::Deny, false, vec![rule("*/sa/evil", "*", "/{*}/admin/{**}", &["x"])]),
        policy("b", Action::Allow, false, vec![rule(web, "cart.shop", "/items/*", &["dev", "ops"])]),
        policy("c", Action::Audit, false, vec![rule("cluster.local/*", "*.shop", "/items/{*}", &["*"])]),
        policy("d", Action::Deny, true, vec![rule("*", "CART.shop", "/items/{**}", &["dev"])]),
    ]);
    let source: SpiffeId = format!("spiffe://{web}").parse().unwrap();
    let headers = [("x-groups".to_owned(), "dev, ops".to_owned())];
    let headers = headers.as_slice();
    let address = "10.0.0.1".parse().unwrap();
    let connection = ConnectionFacts {
        source: Some(&source),
        source_address: address,
        original_address: Some(address),
        destination: "10.0.0.2:8080".parse().unwrap(),
        sni: Some("8080.cart.shop"),
    };
    let http = HttpFacts {
        method: "GET",
        authority: "Cart.Shop:8080",
        path: "/items/7",
        query: None,
        headers: &headers,
        remote_address: address,
        token: None,
    };
    for http in [Some(http), None] {
        let facts = Facts { connection, http };
        let mut judgement = None;
        let counted = allocation_counter::measure(|| judgement = Some(set.judge(&facts)));
        let judgement = judgement.unwrap();
        assert_eq!(judgement.verdict.is_allowed(), http.is_some());
        assert!(judgement.audit.is_some());
        assert!(judgement.shadow.is_some_and(|shadow| !shadow.is_allowed()));
        assert_eq!(counted.count_total, 0, "{counted:?}");
    }
    // The counter counts.
    assert!(allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1)))).count_total > 0);
}
