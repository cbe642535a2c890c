use super::*;
use crate::fixture::{AUTHORIZER, Policies, SHOP};

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {methods: [GET], paths: [/cart*]}}]
  - from: [{source: {ipBlocks: [10.9.0.0/16]}}]
---
";

fn tested(cases: &str, change: impl FnOnce(&mut Arguments)) -> Result<(String, u8), String> {
    tested_with("", cases, change)
}

fn tested_with(
    policies: &str,
    cases: &str,
    change: impl FnOnce(&mut Arguments),
) -> Result<(String, u8), String> {
    let policies = Policies::new(&format!(
        "{SHOP}{POLICY}{policies}apiVersion: weft.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\nspec:\n  \
         cases:\n{cases}"
    ));
    let mut arguments = policies.arguments(&[]);
    change(&mut arguments);
    judge(&arguments)
}

const PASSES: &str = "  - {name: web, from: {workload: shop/web-1}, to: {service: shop/cart}, request: {path: /cart/1}, \
                      expect: {verdict: allow, policy: shop/cart, rule: 0}}\n";

#[test]
fn a_case_that_holds_passes_and_its_rule_is_covered() {
    let (text, code) = tested(PASSES, |_| {}).unwrap();
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("ok    default/t: web\n\n1 cases: 1 passed, 0 failed\n1 of 2 rules hit (50 %)"),
        "{text}"
    );
    assert!(text.contains("never hit: AuthorizationPolicy shop/cart rule 1 (a.yaml:25)"), "{text}");
}

#[test]
fn a_case_that_does_not_hold_fails_and_says_why() {
    let case = "  - {name: post, from: {workload: shop/web-1}, to: {service: shop/cart}, request: {method: POST, \
                path: /cart/1}, expect: allow}\n";
    let (text, code) = tested(case, |_| {}).unwrap();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("FAIL  default/t: post (a.yaml:32)"), "{text}");
    assert!(text.contains("expected allow, got deny: nearest: shop/cart rule"), "{text}");
    assert!(text.contains("failed only on"), "{text}");
}

#[test]
fn a_path_that_has_no_canonical_form_is_refused_before_a_token_is_looked_at() {
    let case = |path: &str, reason: &str| {
        format!(
            "  - {{name: {reason}, from: {{workload: shop/web-1, claims: {{iss: stranger}}}}, to: {{service: shop/cart}}, \
             request: {{path: {path}}}, expect: {{verdict: deny, reason: {reason}}}}}\n"
        )
    };
    let rule = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
                metadata: {name: jwt, namespace: shop}\n\
                spec: {jwtRules: [{issuer: a, jwksUri: 'https://id.example/keys'}]}\n";
    let cases = [case("/cart/%00", "request_malformed"), case("/cart/1", "jwt_invalid"), rule.to_owned()];
    let (text, code) = tested(&cases.concat(), |_| {}).unwrap();
    assert_eq!(code, 0, "{text}");
}

#[test]
fn too_little_coverage_fails() {
    let (text, code) = tested(PASSES, |arguments| arguments.coverage_min = Some(51)).unwrap();
    assert!(code == 1 && text.contains("less than the 51 % asked for"), "{text}");
    assert_eq!(tested(PASSES, |arguments| arguments.coverage_min = Some(50)).unwrap().1, 0);
}

#[test]
fn an_address_that_a_policy_asks_for_must_be_said() {
    let case = |ip: &str, expect: &str| {
        format!(
            "  - {{name: a, from: {{principal: cluster.local/ns/x/sa/y{ip}}}, to: {{service: shop/cart}}, expect: {expect}}}\n"
        )
    };
    let (text, code) = tested(&case("", "deny"), |_| {}).unwrap();
    assert!(code == 1 && text.contains("looks at the client's address"), "{text}");
    assert_eq!(tested(&case(", ip: 10.9.1.1", "allow"), |_| {}).unwrap().1, 0);
    assert_eq!(tested(&case(", ip: 10.8.1.1", "deny"), |_| {}).unwrap().1, 0);
}

#[test]
fn junit_names_failures_and_escapes_what_users_wrote() {
    let case = "  - {name: 'a<\"&', from: {workload: shop/web-1}, to: {service: shop/cart}, expect: allow}\n";
    let (text, _) = tested(case, |arguments| arguments.output = Output::Junit).unwrap();
    assert!(text.contains("tests=\"1\" failures=\"1\""), "{text}");
    assert!(text.contains("name=\"a&lt;&quot;&amp;\" file=\"a.yaml\" line=\"32\">"), "{text}");
}

#[test]
fn a_mistyped_key_is_no_case() {
    let case = "  - {name: a, from: {workload: shop/web-1}, to: {service: shop/cart}, expects: allow}\n";
    let message = tested(case, |_| {}).unwrap_err();
    assert!(
        message.contains("unknown key \"expects\"") && message.contains("`expect` is missing"),
        "{message}"
    );
}

#[test]
fn json_has_cases_coverage_and_speed() {
    let json = |arguments: &mut Arguments| {
        arguments.output = Output::Json;
        // So often that no stall brings it below one a second.
        arguments.repeat = Some(1_000);
    };
    let (text, _) = tested(PASSES, json).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["passed"], 1);
    assert_eq!(answer["cases"][0]["verdict"], "allow");
    assert_eq!(answer["coverage"]["hit"], 1);
    assert_eq!(answer["coverage"]["never"][0]["rule"], 1);
    assert!(answer["verdictsPerSecond"].as_u64().unwrap() > 0);
}

const CUSTOM: &str = "apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {extensionProviders: [{name: opa, envoyExtAuthzGrpc: {service: opa.auth.svc.cluster.local, port: 9191}}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/cart/9]}}]}]}
---
";

fn asking(said: &str, expect: &str) -> (String, u8) {
    let case = format!(
        "  - {{name: asked, from: {{workload: shop/web-1}}, to: {{service: shop/cart}}, request: {{path: \
         /cart/9}}{said}, expect: {expect}}}\n"
    );
    tested_with(&format!("{AUTHORIZER}{CUSTOM}"), &case, |_| {}).unwrap()
}

#[test]
fn a_case_that_depends_on_an_authorizer_must_say_what_it_answers() {
    for expect in ["allow", "deny"] {
        let (text, code) = asking("", expect);
        assert_eq!(code, 1, "{text}");
        assert!(
            text.contains(
                "the answer depends on the authorizer opa: say what it answers (`authorizer: allow`"
            ),
            "{text}"
        );
    }
    let (text, code) = asking("", "{verdict: ask, policy: shop/ask, rule: 0}");
    assert_eq!(code, 0, "{text}");
}

#[test]
fn what_an_authorizer_answers_decides_a_case() {
    for (said, expect) in [
        ("allow", "{verdict: allow, policy: shop/cart, rule: 0}"),
        ("deny", "{verdict: deny, reason: external_authorizer_denied, policy: shop/ask}"),
        ("fail", "{verdict: deny, reason: external_authorizer_failed}"),
    ] {
        let (text, code) = asking(&format!(", authorizer: {said}"), expect);
        assert_eq!(code, 0, "{text}");
    }
    let (text, code) = asking(", authorizer: allow", "deny");
    assert!(code == 1 && !text.contains("depends on the authorizer"), "{text}");
}

const ROUTES: &str = "apiVersion: v1
kind: Service
metadata: {name: any, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80, name: main, targetPort: 8080}, {port: 90, name: grpc, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: any, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: any, port: 80}], rules: [{filters: [{type: CORS, cors: {allowOrigins: ['https://a.example']}}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: any, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: any, port: 90}], rules: [{}]}
---
";

fn routed(more: &str, cases: &str) -> (String, u8) {
    let policies = Policies::new(&format!(
        "{SHOP}{POLICY}{ROUTES}{more}apiVersion: weft.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\nspec:\n  \
         cases:\n{cases}"
    ));
    judge(&policies.arguments(&[])).unwrap()
}

#[test]
fn routes_of_one_name_and_two_kinds_are_covered_each_by_itself() {
    let http = "  - {name: http, from: {workload: shop/web-1}, to: {service: shop/any, port: 80}, request: {path: /cart}, expect: allow}\n";
    let (text, code) = routed("", http);
    assert!(code == 0 && text.contains("2 of 4 rules hit"), "{text}");
    assert!(
        text.contains("never hit: GRPCRoute shop/any rule 0 (") && !text.contains("never hit: HTTPRoute"),
        "{text}"
    );
}

#[test]
fn a_preflight_is_answered_with_its_status() {
    let case = "  - {name: preflight, from: {workload: shop/web-1}, to: {service: shop/any, port: 80}, request: {method: OPTIONS, headers: \
                {origin: 'https://a.example', access-control-request-method: GET}}, expect: {verdict: deny, reason: cors_preflight, \
                status: 204}}\n";
    let (text, code) = routed("", case);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn opaque_bytes_are_refused_where_the_callers_proxy_expects_requests() {
    let all = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: all, namespace: shop}\n\
               spec: {selector: {matchLabels: {app: cart}}, rules: [{}]}\n---\n";
    let case = |to: &str, expect: &str| {
        format!(
            "  - {{name: '{to}', from: {{workload: shop/web-1}}, to: {{{to}}}, request: {{protocol: tcp}}, expect: {expect}}}\n"
        )
    };
    let refused = "{verdict: deny, reason: http_required}";
    // A route for requests, where nothing is declared; a declared port; and one without either.
    let (text, code) = routed(
        &format!("{OPAQUE}{all}"),
        &(case("service: shop/any, port: 80", refused)
            + &case("service: shop/cart", refused)
            + &case("service: shop/declared", refused)
            + &case("service: shop/bare", "allow")),
    );
    assert_eq!(code, 0, "{text}");
}

const OPAQUE: &str = "apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: bare-1, namespace: shop, labels: {app: bare}}
spec: {address: 10.0.0.8, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: shop}
spec: {selector: {app: bare}, ports: [{port: 70, targetPort: 8080}]}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: declared-1, namespace: shop, labels: {app: declared}}
spec: {address: 10.0.0.9, ports: [{port: 8080, protocol: tcp}]}
---
apiVersion: v1
kind: Service
metadata: {name: declared, namespace: shop}
spec: {selector: {app: declared}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
";

#[test]
fn a_fault_for_every_request_is_judged_until_it_is_over() {
    let fault = |matched: &str, expires: &str, share: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: any, namespace: shop}}\nspec: {{targetRefs: [{{kind: \
             Service, name: any}}], faults: [{{match: {matched}, abort: {{httpStatus: 418{share}}}, expires: '{expires}'}}]}}\n---\n"
        )
    };
    let (later, past) = ("2099-01-01T00:00:00Z", "2001-01-01T00:00:00Z");
    let case = |expect: &str| {
        format!(
            "  - {{name: a, from: {{workload: shop/web-1}}, to: {{service: shop/any, port: 80}}, request: {{path: /cart}}, expect: {expect}}}\n"
        )
    };
    let answered = "{verdict: deny, reason: fault_injected, status: 418}";
    for (matched, expires, share, expect) in [
        ("{methods: [GET]}", later, "", answered),
        ("{principals: [cluster.local/ns/shop/sa/web]}", later, ", percent: 100", answered),
        ("{path: {value: /other}}", later, "", "allow"),
        ("{principals: [cluster.local/ns/shop/sa/cart]}", later, "", "allow"),
        ("{methods: [GET]}", past, "", "allow"),
        ("{methods: [GET]}", later, ", percent: 99", "allow"),
    ] {
        let (text, code) = routed(&fault(matched, expires, share), &case(expect));
        assert_eq!(code, 0, "{matched} {expires} {share}: {text}");
    }
}

#[test]
fn a_fault_that_outlasts_the_requests_time_is_its_timeout() {
    let policy = |delay: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: cart, namespace: shop}}\nspec: {{targetRefs: [{{kind: \
             Service, name: cart}}], faults: [{{delay: {{fixed: {delay}}}, expires: '2099-01-01T00:00:00Z'}}]}}\n---\napiVersion: \
             gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: cart, namespace: shop}}\nspec: {{parentRefs: [{{group: '', \
             kind: Service, name: cart}}], rules: [{{timeouts: {{request: 2s}}}}]}}\n---\n"
        )
    };
    let case = |expect: &str| {
        format!(
            "  - {{name: a, from: {{workload: shop/web-1}}, to: {{service: shop/cart}}, request: {{path: /cart}}, expect: {expect}}}\n"
        )
    };
    let late = "{verdict: deny, reason: request_timeout, status: 504}";
    for (delay, expect) in [("1s", "allow"), ("2s", late)] {
        let (text, code) = routed(&policy(delay), &case(expect));
        assert_eq!(code, 0, "{delay}: {text}");
    }
}
