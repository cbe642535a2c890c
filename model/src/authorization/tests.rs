//! Istio's documented semantics, case by case.

use super::*;
use crate::spiffe::SpiffeId;

fn policy(action: Action, rules: Vec<Rule>) -> Arc<Authorization> {
    Arc::new(Authorization {
        namespace: "shop".parse().unwrap(),
        name: "policy".parse().unwrap(),
        action,
        rules,
        provenance: Provenance::default(),
    })
}

fn set(policies: &[Arc<Authorization>]) -> AuthorizationSet {
    let name: ResourceName = "AuthorizationPolicy/shop/policy".parse().unwrap();
    AuthorizationSet::new(policies.iter().map(|policy| (name.clone(), Some(policy.clone()))))
}

fn any(values: &[&str]) -> Clause<StringMatch> {
    Clause { any: values.iter().map(|value| StringMatch::parse(value)).collect(), not: Vec::new() }
}

fn not(values: &[&str]) -> Clause<StringMatch> {
    Clause { any: Vec::new(), not: values.iter().map(|value| StringMatch::parse(value)).collect() }
}

struct Case {
    source: Option<SpiffeId>,
    method: &'static str,
    path: &'static str,
    headers: Vec<(String, String)>,
    opaque: bool,
}

fn case() -> Case {
    Case {
        source: Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
        method: "GET",
        path: "/",
        headers: Vec::new(),
        opaque: false,
    }
}

impl Case {
    fn allowed(&self, set: &AuthorizationSet) -> bool {
        let address: IpAddr = "10.0.0.7".parse().unwrap();
        let headers = self.headers.as_slice();
        set.decide(&Facts {
            connection: ConnectionFacts {
                source: self.source.as_ref(),
                source_address: address,
                destination: "10.0.0.9:8080".parse().unwrap(),
                sni: None,
            },
            http: (!self.opaque).then_some(HttpFacts {
                method: self.method,
                authority: "Cart.shop:80",
                path: self.path,
                query: None,
                headers: &headers,
                remote_address: address,
                token: None,
            }),
        })
        .is_allowed()
    }
}

fn rule_of_operation(operation: Operation) -> Rule {
    Rule { operations: vec![operation], ..Rule::default() }
}

#[test]
fn without_policies_everything_passes_and_with_an_allow_only_what_it_matches() {
    assert!(case().allowed(&set(&[])));
    assert!(!case().allowed(&set(&[policy(Action::Allow, vec![])])), "an ALLOW without rules allows nothing");
    assert!(
        case().allowed(&set(&[policy(Action::Allow, vec![Rule::default()])])),
        "an empty rule allows all"
    );
    assert!(case().allowed(&set(&[policy(Action::Deny, vec![])])), "a DENY without rules denies nothing");
    assert!(!case().allowed(&set(&[policy(Action::Deny, vec![Rule::default()])])));
}

#[test]
fn deny_wins_over_allow() {
    let both =
        set(&[policy(Action::Allow, vec![Rule::default()]), policy(Action::Deny, vec![Rule::default()])]);
    assert!(!case().allowed(&both));
}

#[test]
fn a_policy_that_is_not_held_denies() {
    let name: ResourceName = "AuthorizationPolicy/shop/gone".parse().unwrap();
    let missing = AuthorizationSet::new([
        ("AuthorizationPolicy/shop/all".parse().unwrap(), Some(policy(Action::Allow, vec![Rule::default()]))),
        (name, None),
    ]);
    assert!(!case().allowed(&missing));
}

#[test]
fn principals_match_only_a_proven_identity() {
    for (pattern, expected) in [
        ("cluster.local/ns/shop/sa/web", true),
        ("cluster.local/ns/shop/sa/we", false),
        ("cluster.local/ns/shop/*", true),
        ("*/sa/web", true),
        ("*", true),
        ("spiffe://cluster.local/ns/shop/sa/web", false),
    ] {
        let source = Source { principals: any(&[pattern]), ..Source::default() };
        let set = set(&[policy(Action::Allow, vec![Rule { sources: vec![source], ..Rule::default() }])]);
        assert_eq!(case().allowed(&set), expected, "{pattern}");
        assert!(!Case { source: None, ..case() }.allowed(&set), "{pattern} without identity");
    }
}

#[test]
fn an_exclusion_holds_for_a_client_without_identity() {
    let source = Source { principals: not(&["*/sa/admin"]), ..Source::default() };
    let deny = set(&[policy(Action::Deny, vec![Rule { sources: vec![source], ..Rule::default() }])]);
    assert!(!Case { source: None, ..case() }.allowed(&deny), "deny all but admin denies the unknown too");
}

#[test]
fn operations_join_fields_by_and_and_values_by_or() {
    let operation =
        Operation { methods: any(&["GET", "HEAD"]), paths: any(&["/api/*"]), ..Operation::default() };
    let set = set(&[policy(Action::Allow, vec![rule_of_operation(operation)])]);
    assert!(Case { path: "/api/x", ..case() }.allowed(&set));
    assert!(Case { path: "/api/x", method: "HEAD", ..case() }.allowed(&set));
    assert!(!Case { path: "/api/x", method: "POST", ..case() }.allowed(&set));
    assert!(!case().allowed(&set));
    assert!(set.needs_canonical_path());
}

#[test]
fn hosts_are_compared_without_port_and_case() {
    let operation = Operation { hosts: any(&["cart.SHOP"]), ..Operation::default() };
    assert!(case().allowed(&set(&[policy(Action::Allow, vec![rule_of_operation(operation)])])));
}

#[test]
fn a_second_header_value_never_buys_admission() {
    let condition = |clause| Rule {
        conditions: vec![Condition::RequestHeader("x-team".into(), clause)],
        ..Rule::default()
    };
    let headers = |values: &[&str]| {
        values.iter().map(|value| ("x-team".to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let allow = set(&[policy(Action::Allow, vec![condition(any(&["red"]))])]);
    let deny = set(&[policy(Action::Deny, vec![condition(any(&["evil"]))])]);
    assert!(Case { headers: headers(&["red"]), ..case() }.allowed(&allow));
    assert!(!Case { headers: headers(&["red", "blue"]), ..case() }.allowed(&allow));
    assert!(!case().allowed(&allow));
    assert!(!Case { headers: headers(&["good", "evil"]), ..case() }.allowed(&deny));
    assert!(Case { headers: headers(&["good"]), ..case() }.allowed(&deny));
}

#[test]
fn http_fields_on_an_opaque_connection_never_admit() {
    let operation = Operation { methods: any(&["GET"]), ..Operation::default() };
    let opaque = Case { opaque: true, ..case() };
    assert!(!opaque.allowed(&set(&[policy(Action::Allow, vec![rule_of_operation(operation.clone())])])));
    assert!(!opaque.allowed(&set(&[policy(Action::Deny, vec![rule_of_operation(operation)])])));
    let port = Operation { ports: Clause { any: vec![8080], not: vec![] }, ..Operation::default() };
    assert!(opaque.allowed(&set(&[policy(Action::Allow, vec![rule_of_operation(port)])])));
}

#[test]
fn addresses_match_blocks_and_mapped_addresses_are_ipv4() {
    let source = |block: &str| Source {
        ip_blocks: Clause { any: vec![block.parse().unwrap()], not: vec![] },
        ..Source::default()
    };
    let with =
        |block| set(&[policy(Action::Allow, vec![Rule { sources: vec![source(block)], ..Rule::default() }])]);
    assert!(case().allowed(&with("10.0.0.0/24")));
    assert!(!case().allowed(&with("10.0.1.0/24")));
    assert!(matches_address(
        &Clause { any: vec!["10.0.0.0/8".parse().unwrap()], not: vec![] },
        "::ffff:10.1.2.3".parse().unwrap()
    ));
}
