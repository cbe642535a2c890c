use super::*;
use crate::fixture::{Policies, SHOP};

const MORE: &str = "
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: web-2, namespace: shop}
spec: {address: 10.0.0.3, serviceAccount: web}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: admin-1, namespace: ops}
spec: {address: 10.0.0.4, serviceAccount: admin}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: legacy-1, namespace: shop}
spec: {address: 10.0.0.5, serviceAccount: legacy, injected: false}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  rules: [RULES]
---
";

const WEB_READS: &str =
    "{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], to: [{operation: {methods: [GET]}}]}";

fn policies(rules: &str, more: &str) -> Policies {
    Policies::new(&format!("{SHOP}{}{more}", MORE.replace("RULES", rules)))
}

fn asked(rules: &str, more: &str, words: &[&str]) -> String {
    let words = [&["--to", "shop/cart"][..], words].concat();
    answer(&policies(rules, more).arguments(&words)).unwrap()
}

fn json(rules: &str, more: &str, words: &[&str]) -> serde_json::Value {
    let words: Vec<_> = words.iter().chain(&["--output", "json"]).copied().collect();
    serde_json::from_str(&asked(rules, more, &words)).unwrap()
}

/// The workloads that may, and all others.
fn parted(said: &serde_json::Value) -> (Vec<&str>, Vec<&str>) {
    let callers = said["callers"].as_array().unwrap();
    let of = |verdict: &str| {
        let those = callers.iter().filter(|caller| caller["verdict"] == verdict);
        let mut all: Vec<_> = those
            .flat_map(|caller| caller["workloads"].as_array().unwrap())
            .map(|uid| uid.as_str().unwrap())
            .collect();
        all.sort_unstable();
        all
    };
    (of("allow"), of("deny"))
}

#[test]
fn every_workload_is_asked_for_and_those_of_one_identity_stand_together() {
    let text = asked(WEB_READS, "", &[]);
    assert!(
        text.contains("allow    cluster.local/ns/shop/sa/web (shop/web-1, shop/web-2)\n         allowed by shop/cart rule 0 (a.yaml:"),
        "{text}"
    );
    assert!(text.contains("nobody else of the mesh: 3 workloads are denied"), "{text}");
    let said = json(WEB_READS, "", &[]);
    let everybody = (vec!["shop/web-1", "shop/web-2"], vec!["ops/admin-1", "shop/cart-1", "shop/legacy-1"]);
    assert_eq!(parted(&said), everybody);
    assert_eq!(
        (&said["anyIdentity"]["verdict"], &said["outside"]["verdict"]),
        (&"deny".into(), &"deny".into())
    );
}

#[test]
fn the_request_counts() {
    let text = asked(WEB_READS, "", &["--method", "POST"]);
    assert!(text.starts_with("nobody of the mesh\n"), "{text}");
    assert!(parted(&json(WEB_READS, "", &["--method", "POST"])).0.is_empty());
}

#[test]
fn whoever_proves_something_or_nothing_is_told_apart() {
    let permissive = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: cart, namespace: \
                      shop}\nspec: {mtls: {mode: PERMISSIVE}}\n";
    let said = json("{}", permissive, &[]);
    assert_eq!(parted(&said).1, [""; 0], "the one without a proxy, too");
    assert_eq!(
        (&said["anyIdentity"]["verdict"], &said["outside"]["verdict"]),
        (&"allow".into(), &"allow".into())
    );
    let proven = json("{from: [{source: {principals: ['*']}}]}", permissive, &[]);
    assert_eq!(
        (&proven["anyIdentity"]["verdict"], &proven["outside"]["verdict"]),
        (&"allow".into(), &"deny".into())
    );
    assert_eq!(parted(&proven).1, ["shop/legacy-1"]);
}

#[test]
fn what_depends_on_an_address_that_nobody_gave_is_no_verdict() {
    let inside = "{from: [{source: {ipBlocks: [10.9.0.0/16]}}]}";
    let said = json(inside, "", &[]);
    assert_eq!(said["anyIdentity"]["verdict"], "depends", "{said:#}");
    assert_eq!(json(inside, "", &["--ip", "10.9.0.1"])["anyIdentity"]["verdict"], "allow");
    assert_eq!(json(inside, "", &["--ip", "10.8.0.1"])["anyIdentity"]["verdict"], "deny");
}

#[test]
fn what_is_not_there_has_no_answer() {
    let error = answer(&policies("{}", "").arguments(&["--to", "shop/nothing"])).unwrap_err();
    assert!(error.contains("there is no Service shop/nothing"), "{error}");
}
