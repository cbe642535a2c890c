//! Istio's documented semantics, case by case.

use super::*;
use crate::json::Members;
use crate::names::ResourceName;
use crate::spiffe::SpiffeId;
use crate::token::VerifiedToken;
use std::net::IpAddr;
use std::sync::Arc;

fn policy(action: Action, rules: Vec<Rule>) -> Arc<Authorization> {
    Arc::new(Authorization {
        namespace: "shop".parse().unwrap(),
        name: "policy".parse().unwrap(),
        action,
        dry_run: false,
        provider: None,
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
    address: &'static str,
    token: Option<VerifiedToken>,
    opaque: bool,
}

fn token(claims: &str) -> Option<VerifiedToken> {
    let claims = Members::parse(claims.as_bytes()).unwrap();
    Some(VerifiedToken::new(claims, "", Vec::new().into()))
}

fn case() -> Case {
    Case {
        source: Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
        method: "GET",
        path: "/",
        headers: Vec::new(),
        address: "10.0.0.7",
        token: None,
        opaque: false,
    }
}

impl Case {
    fn allowed(&self, set: &AuthorizationSet) -> bool {
        self.with(|facts| set.decide(facts).is_allowed())
    }

    fn with<T>(&self, judge: impl FnOnce(&Facts<'_>) -> T) -> T {
        let address: IpAddr = self.address.parse().unwrap();
        let headers = self.headers.as_slice();
        judge(&Facts {
            connection: ConnectionFacts {
                source: self.source.as_ref(),
                source_address: address,
                original_address: Some(address),
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
                token: self.token.as_ref(),
            }),
        })
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
    let mapped = Case { address: "::ffff:10.1.2.3", ..case() };
    assert!(mapped.allowed(&with("10.0.0.0/8")));
}

#[test]
fn on_an_opaque_connection_an_allow_rule_with_an_http_field_is_ignored_whole() {
    let opaque = Case { opaque: true, ..case() };
    let http = Operation { methods: any(&["GET"]), ..Operation::default() };
    let port = Operation { ports: Clause { any: vec![8080], not: vec![] }, ..Operation::default() };
    let mixed = Rule { operations: vec![http, port], ..Rule::default() };
    assert!(
        !opaque.allowed(&set(&[policy(Action::Allow, vec![mixed])])),
        "the other operation does not save it"
    );
}

#[test]
fn on_an_opaque_connection_a_deny_rule_is_judged_by_the_rest_of_it() {
    let opaque = Case { opaque: true, ..case() };
    let deny = |port| {
        let operation = Operation {
            methods: any(&["GET"]),
            ports: Clause { any: vec![port], not: vec![] },
            ..Operation::default()
        };
        set(&[policy(Action::Deny, vec![rule_of_operation(operation)])])
    };
    assert!(!opaque.allowed(&deny(8080)));
    assert!(opaque.allowed(&deny(9000)));
}

#[test]
fn an_unknown_original_client_is_never_admitted_and_always_denied() {
    let rule = |clause| Rule { conditions: vec![Condition::RemoteIp(clause)], ..Rule::default() };
    let block: IpNet = "10.0.0.0/8".parse().unwrap();
    let clauses = [Clause { any: vec![block], not: vec![] }, Clause { any: vec![], not: vec![block] }];
    for clause in clauses {
        for (action, allowed) in [(Action::Allow, false), (Action::Deny, false)] {
            let set = set(&[policy(action, vec![rule(clause.clone())])]);
            let opaque = Case { opaque: true, ..case() };
            let verdict = opaque.with(|facts| {
                let connection = ConnectionFacts { original_address: None, ..facts.connection };
                set.decide(&Facts { connection, ..*facts }).is_allowed()
            });
            assert_eq!(verdict, allowed, "{action:?} {clause:?}");
        }
    }
}

#[test]
fn request_principals_are_issuer_and_subject() {
    let claims = || token(r#"{"iss": "https://a/realms", "sub": "alice"}"#);
    for (pattern, expected) in [
        ("https://a/realms/alice", true),
        ("https://a/realms/*", true),
        ("https://a/*", false),
        ("https://a/realms/al*", true),
        ("*/alice", true),
        ("*realms/alice", true),
        ("*ice", true),
        ("https://a/realms/bob", false),
        ("*", true),
    ] {
        let request_principals = Clause { any: vec![RequestPrincipal::parse(pattern).unwrap()], not: vec![] };
        let source = Source { request_principals, ..Source::default() };
        let set = set(&[policy(Action::Allow, vec![Rule { sources: vec![source], ..Rule::default() }])]);
        assert_eq!(Case { token: claims(), ..case() }.allowed(&set), expected, "{pattern}");
        assert!(!case().allowed(&set), "{pattern} without a token");
    }
    for never in ["alice", "", "/", "a/", "/a", "a*b/c", "*a/b*", "**"] {
        assert!(RequestPrincipal::parse(never).is_none(), "{never}");
    }
}

#[test]
fn one_text_of_a_claim_is_enough_and_no_token_has_none() {
    let rule = |clause| Rule {
        conditions: vec![Condition::RequestClaim(["groups".into()].into(), clause)],
        ..Rule::default()
    };
    let token = || token(r#"{"groups": ["dev", "ops"]}"#);
    let with = |clause| set(&[policy(Action::Allow, vec![rule(clause)])]);
    assert!(Case { token: token(), ..case() }.allowed(&with(any(&["ops"]))));
    assert!(!Case { token: token(), ..case() }.allowed(&with(any(&["admin"]))));
    assert!(!Case { token: token(), ..case() }.allowed(&with(not(&["ops"]))));
    assert!(!case().allowed(&with(any(&["*"]))));
    assert!(case().allowed(&with(not(&["ops"]))));
}

#[test]
fn a_list_is_judged_by_its_elements_however_it_is_spelt() {
    let condition = |clause| Rule {
        conditions: vec![Condition::RequestHeader("x-groups".into(), clause)],
        ..Rule::default()
    };
    let allow = set(&[policy(Action::Allow, vec![condition(any(&["dev", "ops*"]))])]);
    let deny = set(&[policy(Action::Deny, vec![condition(any(&["evil"]))])]);
    let deny_others = set(&[policy(Action::Deny, vec![condition(not(&["dev"]))])]);
    let allow_others = set(&[policy(Action::Allow, vec![condition(not(&["evil"]))])]);
    for (lines, [allowed, not_denied, only_dev, not_evil]) in [
        (&["dev"][..], [true, true, true, true]),
        (&["dev, ops-1"], [true, true, false, true]),
        (&["dev", "ops-1"], [true, true, false, true]),
        (&["dev,,dev , "], [true, true, true, true]),
        (&["dev, evil"], [false, false, false, false]),
        (&["ops-1,evil"], [false, false, false, false]),
        (&["dev", "x,\tevil"], [false, false, false, false]),
        (&[""], [false, true, false, true]),
        (&[" , "], [false, true, false, true]),
        (&[], [false, true, false, true]),
        (&["\"dev,evil\""], [false, true, false, true]),
    ] {
        let headers = lines.iter().map(|line| ("x-groups".to_owned(), (*line).to_owned())).collect();
        let case = Case { headers, ..case() };
        assert_eq!(case.allowed(&allow), allowed, "allow {lines:?}");
        assert_eq!(case.allowed(&deny), not_denied, "deny {lines:?}");
        assert_eq!(case.allowed(&deny_others), only_dev, "deny all but dev {lines:?}");
        assert_eq!(case.allowed(&allow_others), not_evil, "allow all but evil {lines:?}");
    }
}

#[test]
fn a_field_of_one_value_is_compared_whole() {
    let condition = Condition::RequestHeader("user-agent".into(), any(&["Mozilla/5.0 (X11, *"]));
    let rule = Rule { conditions: vec![condition], ..Rule::default() };
    let headers = vec![("user-agent".to_owned(), "Mozilla/5.0 (X11, Linux)".to_owned())];
    assert!(Case { headers, ..case() }.allowed(&set(&[policy(Action::Allow, vec![rule])])));
}

fn with(policy: Arc<Authorization>, edit: impl FnOnce(&mut Authorization)) -> Arc<Authorization> {
    let mut policy = Arc::unwrap_or_clone(policy);
    edit(&mut policy);
    Arc::new(policy)
}

#[test]
fn an_audit_marks_and_never_decides() {
    let audit = policy(Action::Audit, vec![Rule::default()]);
    let set = set(std::slice::from_ref(&audit));
    case().with(|facts| {
        let judgement = set.judge(facts);
        assert_eq!(judgement.verdict, Verdict::Allowed(None), "it is no ALLOW policy either");
        assert_eq!(judgement.audit.unwrap().policy, &*audit);
        assert_eq!(judgement.shadow, None);
    });
}

#[test]
fn a_dry_run_says_what_would_be_and_never_decides() {
    let dry_run = |action, rules| with(policy(action, rules), |policy| policy.dry_run = true);
    let allow_all = policy(Action::Allow, vec![Rule::default()]);
    for (policies, verdict, shadow) in [
        (vec![dry_run(Action::Deny, vec![Rule::default()])], true, Some(false)),
        (vec![dry_run(Action::Deny, vec![])], true, Some(true)),
        (vec![dry_run(Action::Allow, vec![])], true, Some(false)),
        (vec![dry_run(Action::Allow, vec![]), allow_all.clone()], true, Some(true)),
        (
            vec![dry_run(Action::Allow, vec![Rule::default()]), policy(Action::Allow, vec![])],
            false,
            Some(true),
        ),
        (vec![allow_all], true, None),
    ] {
        let set = set(&policies);
        case().with(|facts| {
            let judgement = set.judge(facts);
            assert_eq!(judgement.verdict.is_allowed(), verdict, "{policies:?}");
            assert_eq!(judgement.shadow.map(|shadow| shadow.is_allowed()), shadow, "{policies:?}");
        });
    }
}

#[test]
fn paths_need_no_canonical_form_for_what_is_not_enforced() {
    let operation = Operation { paths: any(&["/a"]), ..Operation::default() };
    let deny = policy(Action::Deny, vec![rule_of_operation(operation)]);
    let tried = set(&[with(deny.clone(), |policy| policy.dry_run = true)]);
    assert!(tried.looks_at_path() && !tried.needs_canonical_path());
    let audited = set(&[with(deny.clone(), |policy| policy.action = Action::Audit)]);
    assert!(audited.looks_at_path() && !audited.needs_canonical_path());
    assert!(set(&[deny]).needs_canonical_path());
}

#[test]
fn the_nearest_miss_names_rule_place_and_what_failed() {
    let rule = |namespace: &str, methods: &[&str], line| Rule {
        sources: vec![Source { namespaces: any(&[namespace]), ..Source::default() }],
        operations: vec![Operation { methods: any(methods), ..Operation::default() }],
        conditions: vec![Condition::RequestHeader("x-a".into(), not(&["b"]))],
        provenance: Provenance { file: "shop.yaml".into(), line },
    };
    let named =
        |name: &str, rules| with(policy(Action::Allow, rules), |policy| policy.name = name.parse().unwrap());
    let set = set(&[
        named("far", vec![rule("ops", &["POST"], 3)]),
        named("allow-ui", vec![rule("ops", &["PUT", "DELETE"], 10), rule("ui", &["GET"], 12)]),
        named("as-near", vec![rule("ui", &["GET"], 20)]),
    ]);
    case().with(|facts| {
        let nearest = set.nearest_miss(facts, 1_000).unwrap();
        assert_eq!(nearest.to_string(), "shop/allow-ui rule 1 (shop.yaml:12) failed only on namespaces");
        assert!(nearest.complete);
        let cut = set.nearest_miss(facts, 10).unwrap();
        assert_eq!(cut.to_string(), "shop/far rule 0 (shop.yaml:3) failed on namespaces and methods");
        assert!(!cut.complete);
        assert_eq!(set.nearest_miss(facts, 0), None);
    });
}

#[test]
fn a_port_needs_http_where_any_rule_for_it_looks_at_http() {
    let on = |port: Option<u16>, paths: Clause<StringMatch>| {
        let ports = Clause { any: port.into_iter().collect(), not: Vec::new() };
        let operation = Operation { ports, paths, ..Operation::default() };
        Rule { operations: vec![operation], ..Rule::default() }
    };
    let allow = policy(Action::Allow, vec![on(Some(81), Clause::default()), on(Some(80), any(&["/a"]))]);
    let held = set(&[allow]);
    assert_eq!([80, 81, 82].map(|port| held.needs_http(port)), [true, false, false]);
    let deny = policy(Action::Deny, vec![on(None, not(&["/a"]))]);
    assert!(set(&[deny]).needs_http(82));
    let header = Condition::RequestHeader("x-a".into(), any(&["1"]));
    let when = Rule { conditions: vec![header], ..Rule::default() };
    assert!(set(&[policy(Action::Allow, vec![when])]).needs_http(82));
    assert!(!set(&[policy(Action::Allow, vec![Rule::default()])]).needs_http(80));
}

#[test]
fn an_authorizer_is_asked_before_anything_decides_and_after_what_is_not_held() {
    let custom =
        with(policy(Action::Custom, vec![Rule::default()]), |policy| policy.provider = Some("opa".into()));
    let deny = policy(Action::Deny, vec![Rule::default()]);
    let asking = set(&[deny.clone(), custom.clone()]);
    case().with(|facts| {
        let judgement = asking.judge(facts);
        let by = Decider { policy: &custom, rule: 0 };
        assert_eq!(judgement.step(None), Step::Ask(by));
        assert_eq!(judgement.step(Some("another")), Step::Ask(by));
        let denied = Verdict::Denied(Decider { policy: &deny, rule: 0 });
        assert_eq!(judgement.step(Some("opa")), Step::Decided(denied));
        assert_eq!(set(std::slice::from_ref(&deny)).judge(facts).step(None), Step::Decided(denied));
        // Nobody has agreed to what names nobody.
        let nobody = set(&[with(custom.clone(), |policy| policy.provider = None)]);
        assert!(matches!(nobody.judge(facts).step(None), Step::Ask(_)));
        let name: ResourceName = "AuthorizationPolicy/shop/missing".parse().unwrap();
        let custom = ("AuthorizationPolicy/shop/custom".parse().unwrap(), Some(custom.clone()));
        let lacking = AuthorizationSet::new([custom, (name.clone(), None)]);
        assert_eq!(lacking.judge(facts).step(None), Step::Decided(Verdict::Unresolved(&name)));
    });
}
