use super::*;
use crate::fixture::{AUTHORIZER, Policies, SHOP};

fn policy(rule: &str) -> String {
    format!(
        "{SHOP}apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: cart, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: cart}}}}, rules: [{rule}]}}\n"
    )
}

fn differing(before: &str, after: &str, change: impl FnOnce(&mut Arguments)) -> (String, u8) {
    let policies = Policies::new("");
    let mut arguments = Arguments {
        before: policies.file("before.yaml", before),
        after: policies.file("after.yaml", after),
        cases: Vec::new(),
        requests_max: 20_000,
        fail_on: FailOn::More,
        output: Output::Text,
    };
    change(&mut arguments);
    answer(&arguments).unwrap()
}

const NARROW: &str = "{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], \
                      to: [{operation: {methods: [GET], paths: [/cart]}}]}";
const WIDE: &str = "{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}], \
                    to: [{operation: {methods: [GET], paths: ['/cart*']}}]}";

#[test]
fn equal_policies_differ_in_nothing() {
    let (text, code) = differing(&policy(NARROW), &policy(NARROW), |_| {});
    assert!(code == 0 && text.contains("0 changes allow more, 0 allow less, 0 lead elsewhere"), "{text}");
}

#[test]
fn what_is_allowed_that_was_not_fails_with_an_example() {
    let (text, code) = differing(&policy(NARROW), &policy(WIDE), |_| {});
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("MORE  shop/cart:80: deny -> allow"), "{text}");
    assert!(text.contains("after  allowed by shop/cart rule 0 ("), "{text}");
    assert!(text.contains("--from shop/web-1 --to shop/cart:80 --method GET --path '/cart/x'"), "{text}");
}

#[test]
fn what_is_allowed_no_more_fails_only_if_asked_to() {
    let (text, code) = differing(&policy(WIDE), &policy(NARROW), |_| {});
    assert!(code == 0 && text.contains("LESS  shop/cart:80: allow -> deny"), "{text}");
    let any = |arguments: &mut Arguments| arguments.fail_on = FailOn::Any;
    assert_eq!(differing(&policy(WIDE), &policy(NARROW), any).1, 1);
    let never = |arguments: &mut Arguments| arguments.fail_on = FailOn::Never;
    assert_eq!(differing(&policy(NARROW), &policy(WIDE), never).1, 0);
}

#[test]
fn a_port_that_opens_to_plaintext_is_seen() {
    let open = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: d, namespace: shop}\n\
                spec: {mtls: {mode: PERMISSIVE}}\n";
    let all = policy("{}");
    let (text, code) = differing(&all, &format!("{all}{open}"), |_| {});
    assert!(code == 1 && text.contains("for example: weft explain … --plaintext"), "{text}");
}

#[test]
fn each_kind_of_clause_is_told_apart_by_generated_requests() {
    // What either set says more must be found from the values that the sets mention.
    for (before, after) in [
        ("{from: [{source: {namespaces: [a]}}]}", "{from: [{source: {namespaces: [a, b]}}]}"),
        ("{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}", "{from: [{source: {ipBlocks: [10.0.0.0/7]}}]}"),
        ("{to: [{operation: {methods: [GET]}}]}", "{to: [{operation: {methods: [GET, PURGE]}}]}"),
        ("{to: [{operation: {paths: ['/a/{*}']}}]}", "{to: [{operation: {paths: ['/a/{**}']}}]}"),
        ("{to: [{operation: {hosts: [a.example]}}]}", "{to: [{operation: {hosts: ['*.example']}}]}"),
        ("{to: [{operation: {notPaths: [/a, /b]}}]}", "{to: [{operation: {notPaths: [/a]}}]}"),
        (
            "{when: [{key: 'request.headers[x-team]', values: [red]}]}",
            "{when: [{key: 'request.headers[x-team]', values: [red, blue]}]}",
        ),
        (
            "{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]}",
            "{from: [{source: {principals: ['cluster.local/ns/a/*']}}]}",
        ),
    ] {
        let (text, code) = differing(&policy(before), &policy(after), |_| {});
        assert!(code == 1 && text.contains("MORE "), "{before} -> {after}\n{text}");
        let (text, code) = differing(&policy(after), &policy(before), |_| {});
        assert!(code == 0 && text.contains("LESS "), "{after} -> {before}\n{text}");
    }
}

#[test]
fn what_is_left_out_is_told() {
    let few = |arguments: &mut Arguments| arguments.requests_max = 10;
    let (text, _) = differing(&policy(NARROW), &policy(WIDE), few);
    assert!(text.contains("combinations were left out (--requests-max)"), "{text}");
}

#[test]
fn rules_on_tokens_are_told_apart_by_generated_claims() {
    let tokens = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: t, namespace: shop}\n\
                  spec: {jwtRules: [{issuer: 'https://a.example', audiences: [api], jwks: \
                  '{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"1\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}'}]}\n";
    for (before, after) in [
        (
            "{from: [{source: {requestPrincipals: ['https://a.example/ada']}}]}",
            "{from: [{source: {requestPrincipals: ['https://a.example/*']}}]}",
        ),
        (
            "{when: [{key: 'request.auth.claims[groups]', values: [a]}]}",
            "{when: [{key: 'request.auth.claims[groups]', values: [a, b]}]}",
        ),
        (
            "{when: [{key: 'request.auth.claims[realm][role]', values: [a]}]}",
            "{when: [{key: 'request.auth.claims[realm][role]', values: [a, b]}]}",
        ),
    ] {
        let with = |rule: &str| format!("{}{tokens}", policy(rule));
        let (text, code) = differing(&with(before), &with(after), |_| {});
        assert!(code == 1 && text.contains("--claim 'iss=https://a.example'"), "{before} -> {after}\n{text}");
    }
}

#[test]
fn another_refusal_is_another_way() {
    let strict = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: d, namespace: shop}\n\
                  spec: {mtls: {mode: PERMISSIVE}}\n";
    let nobody = policy(
        "{from: [{source: {principals: [cluster.local/ns/x/sa/y]}}], to: [{operation: {methods: [GET]}}]}",
    );
    let (text, code) = differing(&format!("{nobody}{strict}"), &nobody, |_| {});
    assert!(code == 0 && text.contains("WAY   shop/cart:80: deny -> deny"), "{text}");
    let any = |arguments: &mut Arguments| arguments.fail_on = FailOn::Any;
    assert_eq!(differing(&format!("{nobody}{strict}"), &nobody, any).1, 1);
}

#[test]
fn an_authorizer_that_need_not_answer_any_more_allows_more() {
    let asking = |open: bool| {
        format!(
            "{SHOP}{AUTHORIZER}apiVersion: \
             weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{extensionProviders: [{{name: opa, \
             envoyExtAuthzGrpc: {{service: opa.auth.svc.cluster.local, port: 9191, failOpen: {open}}}}}]}}\n---\napiVersion: \
             security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: ask, namespace: shop}}\nspec: {{selector: {{matchLabels: \
             {{app: cart}}}}, action: CUSTOM, provider: {{name: opa}}, rules: [{{}}]}}\n"
        )
    };
    let (text, code) = differing(&asking(false), &asking(true), |_| {});
    assert!(code == 1 && text.contains("MORE  shop/cart:80: deny -> allow"), "{text}");
    assert!(text.contains("--authorizer fail"), "{text}");
}

#[test]
fn server_names_of_tls_are_told_apart() {
    let mesh = |server: &str| {
        format!(
            "{SHOP}apiVersion: v1\nkind: Service\nmetadata: {{name: tls, namespace: shop}}\nspec: {{selector: {{app: tls}}, ports: [{{port: 443, \
             appProtocol: tls}}]}}\n---\napiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: tls-1, namespace: shop, labels: \
             {{app: tls}}}}\nspec: {{address: 10.0.0.9, ports: [{{port: 443, protocol: tls}}]}}\n---\napiVersion: \
             gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{name: tls, namespace: shop}}\nspec: {{parentRefs: [{{group: '', kind: \
             Service, name: tls, port: 443}}], hostnames: ['{server}'], rules: [{{backendRefs: [{{name: tls, port: 443}}]}}]}}\n"
        )
    };
    let (text, code) = differing(&mesh("a.example"), &mesh("b.example"), |_| {});
    assert!(code == 1 && text.contains("--tcp --server-name 'b.example'"), "{text}");
}

#[test]
fn identities_are_of_the_mesh_s_trust_domain() {
    let mesh = |account: &str| {
        format!(
            "{}---\napiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{trustDomain: prod.example}}\n",
            policy(&format!("{{from: [{{source: {{serviceAccounts: ['{account}']}}}}]}}"))
        )
    };
    let (text, code) = differing(&mesh("x/y"), &mesh("x/z"), |_| {});
    assert!(code == 1 && text.contains("--from prod.example/ns/x/sa/z"), "{text}");
    assert!(!text.contains("cluster.local"), "{text}");
}

#[test]
fn lists_of_claims_are_said_one_by_one() {
    let members = weft_model::json::Members::parse(br#"{"groups":["a","b"],"iss":"i"}"#).unwrap();
    let claims = weft_model::token::Claims::new(members).unwrap();
    let question = Question {
        from: Caller { who: Who::Unknown, ip: None, claims: Some(claims), plaintext: true },
        to: Destination::Service("shop/cart".parse().unwrap(), None),
        ask: Ask::Tcp { server_name: None },
        authorizer: Some(Authorizer::Deny),
    };
    let shown = question.shown(&"prod.example".parse().unwrap());
    assert_eq!(
        shown,
        "--plaintext --claim 'groups=a' --claim 'groups=b' --claim 'iss=i' --to shop/cart --tcp --authorizer deny"
    );
}
