use super::*;
use crate::fixture::{AUTHORIZER, Policies, SHOP};

const MESH_CONFIG: &str = "apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  requestTimeout: 15s
  extensionProviders: [{name: opa, envoyExtAuthzGrpc: {service: opa.auth.svc.cluster.local, port: 9191, timeout: 2s}}]
---
";

const CUSTOM: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/asked]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, rules: [{to: [{operation: {methods: [GET]}}]}]}
";

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, port: 80}]
  rules:
  - matches: [{path: {value: /routed}}]
    timeouts: {request: 3s, backendRequest: 1s}
    retry: {codes: [503, 504], attempts: 4, backoff: 50ms}
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: '1'}], remove: [x-b]}}]
    backendRefs: [{name: cart, port: 80}]
  - backendRefs: [{name: cart, port: 80}]
";

fn explained(policies: &str, words: &[&str]) -> String {
    explained_with(MESH_CONFIG, policies, words)
}

fn explained_with(mesh_config: &str, policies: &str, words: &[&str]) -> String {
    let policies = Policies::new(&format!("{SHOP}{AUTHORIZER}{mesh_config}{policies}"));
    let words = [&["--from", "shop/web-1", "--to", "shop/cart"][..], words].concat();
    explain(&policies.arguments(&words)).unwrap()
}

fn json(policies: &str, words: &[&str]) -> serde_json::Value {
    let words: Vec<_> = words.iter().chain(&["--output", "json"]).copied().collect();
    serde_json::from_str(&explained(policies, &words)).unwrap()
}

#[test]
fn an_authorizer_is_named_with_where_it_is_and_what_the_rest_says() {
    let text = explained(CUSTOM, &["--path", "/asked"]);
    assert!(text.starts_with("ASK\n"), "{text}");
    assert!(
        text.contains("shop/ask rule 0 (a.yaml:")
            && text.contains("asks the authorizer opa; if it agrees: allowed by"),
        "{text}"
    );
    assert!(
        text.contains(
            "authorizer: opa at auth/opa:9191, by gRPC; without an answer within 2s the request is denied"
        ),
        "{text}"
    );
    let said = json(CUSTOM, &["--path", "/asked", "--method", "POST"]);
    assert_eq!((&said["verdict"], &said["reason"]), (&"ask".into(), &serde_json::Value::Null), "{said:#}");
    let end = &said["backends"][0]["endpoints"][0];
    assert_eq!(
        (&end["policy"], &end["authorizer"]["provider"]),
        (&"shop/ask".into(), &"opa".into()),
        "{said:#}"
    );
    assert!(end["nearestMiss"].as_str().unwrap().contains("failed only on methods"), "{said:#}");
    let free = json(CUSTOM, &["--path", "/free"]);
    assert_eq!(
        (&free["verdict"], &free["backends"][0]["endpoints"][0]["authorizer"]),
        (&"allow".into(), &serde_json::Value::Null)
    );
}

#[test]
fn with_the_authorizers_answer_the_verdict_is_known() {
    for (said, method, verdict, reason) in [
        ("allow", "GET", "allow", None),
        ("allow", "POST", "deny", Some("authorization_denied")),
        ("deny", "GET", "deny", Some("external_authorizer_denied")),
        ("deny", "POST", "deny", Some("external_authorizer_denied")),
        ("fail", "GET", "deny", Some("external_authorizer_failed")),
    ] {
        let answer = json(CUSTOM, &["--path", "/asked", "--authorizer", said, "--method", method]);
        assert_eq!(
            (answer["verdict"].as_str(), answer["reason"].as_str()),
            (Some(verdict), reason),
            "{answer:#}"
        );
    }
    let open = MESH_CONFIG.replace("9191, timeout: 2s}", "9191, timeout: 2s, failOpen: true}");
    let text = explained_with(&open, CUSTOM, &["--path", "/asked", "--authorizer", "fail"]);
    assert!(text.starts_with("ALLOW\n") && text.contains("the request passes"), "{text}");
}

#[test]
fn how_long_a_request_may_take_and_what_is_tried_again_is_told() {
    let text = explained(ROUTE, &["--path", "/routed"]);
    for part in [
        "route  shop/cart rule 0 (a.yaml:",
        "filter: RequestHeaderModifier: set x-a, remove x-b",
        "time   3s in all, by the rule",
        "1s for each try, by the rule",
        "retry  up to 2 times, where nothing reached an application or the method is idempotent",
        "up to 4 times of failed connections and tries and of 503, 504, after 50ms or more, by the rule",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let said = json(ROUTE, &["--path", "/routed"]);
    assert_eq!(said["delivery"]["retry"]["codes"], serde_json::json!([503, 504]));
    // Without timeouts of its own a rule has the mesh's.
    let other = json(ROUTE, &["--path", "/other"]);
    assert_eq!(other["delivery"]["requestTimeout"], "15s");
    assert_eq!(other["delivery"]["requestTimeoutOrigin"], "the MeshConfig");
    assert_eq!(other["delivery"]["retry"], serde_json::Value::Null);
    // The caller's own counts where it is less.
    for (asked, timeout, origin) in [("2000", "2s", "the caller"), ("60000", "15s", "the MeshConfig")] {
        let field = format!("x-envoy-expected-rq-timeout-ms: {asked}");
        let said = json(ROUTE, &["--path", "/other", "--header", &field]);
        assert_eq!(said["delivery"]["requestTimeout"], timeout, "{said:#}");
        assert_eq!(said["delivery"]["requestTimeoutOrigin"], origin);
    }
}

#[test]
fn how_callers_treat_a_service_is_named() {
    let policy = "
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: even, namespace: shop}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], loadBalancing: {algorithm: RoundRobin}}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: few, namespace: shop}
spec: {targetRefs: [{group: '', kind: Service, name: cart}], retryConstraint: {budget: {percent: 5}}}
";
    let text = explained(policy, &["--path", "/"]);
    assert!(text.contains("         TrafficPolicy shop/even (a.yaml:"), "{text}");
    assert!(text.contains("         XBackendTrafficPolicy shop/few (a.yaml:"), "{text}");
}

#[test]
fn whoever_has_no_proxy_is_told_of_no_retries() {
    let said = json(ROUTE, &["--path", "/routed", "--plaintext"]);
    assert_eq!(
        (&said["delivery"], &said["route"]),
        (&serde_json::Value::Null, &serde_json::Value::Null),
        "{said:#}"
    );
}

const TREATED: &str = "
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  loadBalancing: {algorithm: ConsistentHash, hash: {header: x-user}, zone: Prefer}
  connections: {maxInFlight: 200, maxConnections: 10}
  ejection: {counts: ServerErrors, consecutiveFailures: 3}
  rateLimits: [{name: all, requests: 500}]
  concurrency: {max: 64}
  faults:
  - {match: {path: {value: /broken}}, delay: {fixed: 2s, percent: 10}, abort: {httpStatus: 503, percent: 50}, expires: '2999-01-01T00:00:00Z'}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  retryConstraint: {budget: {percent: 10, interval: 5s}}
  sessionPersistence: {sessionName: stay, idleTimeout: 1m}
";

#[test]
fn what_a_request_is_in_for_is_told_session_budget_limits_and_faults() {
    let text = explained(TREATED, &["--path", "/broken/items"]);
    for line in [
        "  fault  10 of 100 such requests wait 2s; 50 of 100 such requests are answered 503 (fault_injected), for ",
        "         TrafficPolicy shop/cart (a.yaml:",
        "         XBackendTrafficPolicy shop/cart (a.yaml:",
        "         stays with one endpoint by the cookie stay, for 60s without requests, by the Service's policy\n",
        "         balancing: ConsistentHash of the header x-user, the own zone first\n",
        "         retry budget: 10 % of the requests of 5s, at least ",
        "         ejection: after 3 server errors in a row, or below 50 % of successes; 1s to 30s, 50 % of the endpoints at most\n",
        "         limits: at most 200 under way and 10 connections; 1024 wait at most, 1s each, from each proxy\n",
        "         rate limit all: 500 in 1s, 500 at once, at each replica\n",
        "         concurrency: 64 at once at each replica; 640 wait, 1s at most\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    let said = json(TREATED, &["--path", "/items"]);
    assert_eq!(said["fault"], serde_json::Value::Null, "it is for other requests");
    let each = explained(&TREATED.replace(", percent: 50", ""), &["--path", "/broken/items"]);
    assert!(each.starts_with("DENY: 503 fault_injected\n"), "{each}");
    assert!(each.contains("; all such requests are answered 503 (fault_injected), for "), "{each}");
    assert_eq!(said["backends"][0]["treatment"].as_array().unwrap().len(), 6, "{said:#}");
}

#[test]
fn where_no_policy_speaks_the_defaults_are_told_and_a_rules_session_goes_first() {
    let plain = explained("", &[]);
    assert!(plain.contains("         balancing: PeakEwma\n"), "{plain}");
    assert!(plain.contains("         retry budget: 20 % of the requests of 10s, at least 30\n"), "{plain}");
    assert!(!plain.contains("  fault  ") && !plain.contains("stays with one endpoint"), "{plain}");
    let route = ROUTE.replace(
        "    timeouts: {request: 3s",
        "    sessionPersistence: {type: Header, sessionName: x-stay}\n    timeouts: {request: 3s",
    );
    let text = explained(&format!("{route}---{TREATED}"), &["--path", "/routed"]);
    assert!(text.contains("stays with one endpoint by the header x-stay, by the rule\n"), "{text}");
}

#[test]
fn what_is_wrong_with_a_request_is_told_in_the_proxys_order() {
    let policies = "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  jwtRules:
  - issuer: https://a.example
    jwks: '{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"1\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}'
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: paths, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, rules: [{to: [{operation: {paths: [/a]}}]}]}
";
    let (bad_path, bad_token) = (["--path", "/a%2"], ["--header", "authorization: Bearer none"]);
    let plaintext = "--plaintext";
    for (words, reason) in [
        ([&bad_path[..], &bad_token, &[plaintext]].concat(), "tls_required"),
        ([&bad_path[..], &bad_token].concat(), "request_malformed"),
        ([&["--path", "/b"][..], &bad_token].concat(), "jwt_invalid"),
        (vec!["--path", "/b"], "authorization_denied"),
    ] {
        assert_eq!(json(policies, &words)["reason"], reason, "{words:?}");
    }
}
