//! What documents mean once they are compiled: who is bound by what, and what leads where.

// A helper of a test may fail as a test does.
#![allow(clippy::unwrap_used)]

use std::fs;
use weft_config::{Compilation, Severity, SourceFile, compile, read_directory, render};
use weft_model::authorization::Action;
use weft_model::endpoints::Wire;
use weft_model::mesh::Mesh;
use weft_model::service::Protocol;
use weft_model::wire::{Kind, Resource};

fn compiled(text: &str) -> (Compilation, String) {
    let files = [SourceFile { name: "test.yaml".to_owned(), text: text.to_owned() }];
    let compilation = compile(&files);
    let shown = render(&compilation.diagnostics, &files, false);
    (compilation, shown)
}

fn clean(text: &str) -> Mesh {
    let (compilation, shown) = compiled(text);
    assert!(compilation.diagnostics.is_empty(), "{shown}");
    compilation.mesh
}

fn workload(namespace: &str, name: &str, app: &str, address: &str, more: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: {namespace}, \
         labels: {{app: {app}}}}}\nspec: {{address: {address}, ports: [{{name: http, port: 8080}}]{more}}}\n---\n"
    )
}

fn policy(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn service(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn authorizations(mesh: &Mesh, uid: &str) -> String {
    let names = mesh.workloads[uid].authorizations.iter();
    names
        .map(|name| name.as_str().trim_start_matches("AuthorizationPolicy/").to_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn three_workloads() -> String {
    workload("shop", "cart-1", "cart", "10.0.0.1", "")
        + &workload("shop", "web-1", "web", "10.0.0.2", "")
        + &workload("other", "cart-1", "cart", "10.0.0.3", "")
}

#[test]
fn examples_compile_without_a_word() {
    let files = read_directory(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shop")).unwrap();
    let compilation = compile(&files);
    assert!(compilation.diagnostics.is_empty(), "{}", render(&compilation.diagnostics, &files, false));
    assert!(!compilation.mesh.workloads.is_empty() && !compilation.mesh.routes.is_empty());
}

#[test]
fn policies_bind_by_selector_namespace_and_root_namespace() {
    let select = "{selector: {matchLabels: {app: cart}}}";
    let mesh = clean(
        &(three_workloads()
            + &service("shop", "web", "{selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}")
            + &policy("AuthorizationPolicy", "shop", "selected", select)
            + &policy("AuthorizationPolicy", "shop", "wide", "{}")
            + &policy("AuthorizationPolicy", "weft-system", "root", "{}")
            + &policy("AuthorizationPolicy", "weft-system", "root-selected", select)
            + &policy("AuthorizationPolicy", "shop", "target", "{targetRefs: [{kind: Service, name: web}]}")),
    );
    assert_eq!(
        authorizations(&mesh, "shop/cart-1"),
        "shop/selected shop/wide weft-system/root weft-system/root-selected"
    );
    assert_eq!(authorizations(&mesh, "shop/web-1"), "shop/target shop/wide weft-system/root");
    assert_eq!(authorizations(&mesh, "other/cart-1"), "weft-system/root weft-system/root-selected");
}

#[test]
fn a_policy_with_errors_is_named_and_not_held_and_so_denies() {
    let select = "{selector: {matchLabels: {app: cart}}, action: DENY, rules: [{form: []}]}";
    let mode = "{mtls: {mode: PERMISIVE}}";
    let (compilation, _) = compiled(
        &(three_workloads()
            + &policy("AuthorizationPolicy", "shop", "broken", select)
            + &policy("PeerAuthentication", "shop", "broken", mode)),
    );
    assert!(compilation.has_errors());
    let mesh = &compilation.mesh;
    assert_eq!(authorizations(mesh, "shop/cart-1"), "shop/broken");
    assert_eq!(authorizations(mesh, "shop/web-1"), "");
    assert!(mesh.authorizations.is_empty() && mesh.peer_authentications.is_empty());
    assert_eq!(mesh.workloads["shop/web-1"].peer_authentications.len(), 1);
}

#[test]
fn one_broken_document_leaves_the_others_whole() {
    let (compilation, _) =
        compiled(&(three_workloads() + "kind: Nothing\n---\n" + &workload("a", "b", "c", "10.0.0.9", "")));
    assert_eq!(compilation.mesh.workloads.len(), 4);
    assert_eq!(compilation.diagnostics.len(), 1, "{:?}", compilation.diagnostics);
}

#[test]
fn absent_empty_and_universal_rules_differ() {
    let rules = |spec: &str| {
        let mesh = clean(&(three_workloads() + &policy("AuthorizationPolicy", "shop", "test", spec)));
        mesh.authorizations.values().next().unwrap().rules.clone()
    };
    assert!(rules("{}").is_empty(), "matches nothing");
    let all = rules("{rules: [{}]}");
    assert!(all[0].sources.is_empty() && all[0].operations.is_empty() && all[0].conditions.is_empty());
    let rule = rules(
        "{action: DENY, rules: [{from: [{source: {notPrincipals: ['*']}}], to: [{operation: {notPaths: [/ok*]}}], \
         when: [{key: 'request.headers[X-A]', notValues: [b]}]}]}",
    );
    assert_eq!(rule[0].sources[0].principals.not[0].to_string(), "*");
    assert_eq!(rule[0].operations[0].paths.not[0].to_string(), "/ok*");
    assert_eq!(rule[0].conditions.len(), 1);
    assert!(rule[0].needs_http());
}

#[test]
fn every_attribute_that_istio_documents_is_taken() {
    let mesh = clean(
        &(three_workloads()
            + &policy(
                "RequestAuthentication",
                "shop",
                "tokens",
                "{jwtRules: [{issuer: a, jwksUri: 'https://id.example/keys'}]}",
            )
            + &policy(
                "AuthorizationPolicy",
                "shop",
                "audit",
                "{action: AUDIT, rules: [{from: [{source: {requestPrincipals: ['*'], notRequestPrincipals: [a/b*]}}], \
                 when: [{key: 'request.auth.claims[a][b]', values: [c]}, {key: request.auth.audiences, values: [x]}, \
                 {key: request.auth.presenter, values: [x]}, {key: request.auth.principal, notValues: ['*/x']}, \
                 {key: source.serviceAccount, values: [web, ops/admin]}, {key: remote.ip, values: [10.0.0.0/8]}]}]}",
            )),
    );
    let policy = mesh.authorizations.values().next().unwrap();
    assert_eq!((policy.action, policy.dry_run), (Action::Audit, false));
    let keys: Vec<String> = policy.rules[0].conditions.iter().map(ToString::to_string).collect();
    assert_eq!(
        keys.join(" "),
        "request.auth.claims[a][b] request.auth.claims[aud] request.auth.claims[azp] request.auth.principal \
         source.serviceAccount remote.ip"
    );
    let source = &policy.rules[0].sources[0];
    assert_eq!((source.request_principals.any.len(), source.request_principals.not.len()), (1, 1));
}

#[test]
fn a_dry_run_is_held_as_one() {
    let dry_run = policy("AuthorizationPolicy", "shop", "tried", "{action: DENY, rules: [{}]}")
        .replace("name: tried,", "name: tried, annotations: {istio.io/dry-run: 'true'},");
    let enforced = dry_run.replace("tried", "enforced").replace("'true'", "'false'");
    let mesh = clean(&(three_workloads() + &dry_run + &enforced));
    assert!(mesh.authorizations["AuthorizationPolicy/shop/tried"].dry_run);
    assert!(!mesh.authorizations["AuthorizationPolicy/shop/enforced"].dry_run);
}

#[test]
fn provenance_is_the_line_of_policy_and_rule() {
    let mesh = clean(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\nspec:\n  rules:\n  - from:\n    - source: {namespaces: [b]}\n  - from:\n    - source: {namespaces: [a]}\n",
    );
    let policy = mesh.authorizations.values().next().unwrap();
    assert_eq!((policy.provenance.file.as_ref(), policy.provenance.line), ("test.yaml", 1));
    assert_eq!(policy.rules.iter().map(|rule| rule.provenance.line).collect::<Vec<_>>(), [7, 9]);
    assert_eq!(policy.action, Action::Allow);
}

#[test]
fn aliases_of_the_trust_domain_hold_in_rules() {
    let mesh = clean(
        &("apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: m}\nspec: {trustDomain: new.example, trustDomainAliases: [old.example]}\n---\n"
            .to_owned()
            + &three_workloads()
            + &policy(
                "AuthorizationPolicy",
                "shop",
                "test",
                "{rules: [{from: [{source: {principals: [old.example/ns/a/sa/b]}}]}]}",
            )),
    );
    let policy = mesh.authorizations.values().next().unwrap();
    let principals = &policy.rules[0].sources[0].principals.any;
    assert_eq!(principals.len(), 2);
    assert_eq!(mesh.workloads["shop/cart-1"].identity().as_str(), "spiffe://new.example/ns/shop/sa/default");
}

#[test]
fn endpoints_come_in_slices_and_say_how_they_are_reached() {
    let mut text =
        service("shop", "many", "{selector: {app: many}, ports: [{name: http, port: 80, targetPort: http}]}");
    for index in 0..250 {
        let address = format!("10.1.{}.{}", index / 100, index % 100 + 1);
        text += &workload("shop", &format!("many-{index}"), "many", &address, "");
    }
    text += &workload("shop", "outside", "outside", "10.9.0.1", ", injected: false");
    text += &service("shop", "outside", "{selector: {app: outside}, ports: [{port: 80, targetPort: 8080}]}");
    text += &policy(
        "PeerAuthentication",
        "shop",
        "no-tls",
        "{selector: {matchLabels: {app: many}}, portLevelMtls: {8080: {mode: DISABLE}}}",
    );
    let mesh = clean(&text);
    let sizes: Vec<usize> = (0..3)
        .map(|slice| mesh.endpoints[format!("shop/many:80/{slice}").as_str()].endpoints.len())
        .collect();
    assert_eq!(sizes, [100, 100, 50]);
    let first = &mesh.endpoints["shop/many:80/0"].endpoints[0];
    assert_eq!((first.wire.clone(), first.address.port()), (Wire::Plain, 8080), "mutual TLS is off");
    assert_eq!(mesh.endpoints["shop/outside:80/0"].endpoints[0].wire, Wire::Plain, "no proxy");
    assert_eq!(mesh.endpoints["workload/shop/outside:8080/0"].endpoints.len(), 1);
    assert!(mesh.services["workload/shop/many-7"].port(8080).is_some());
    let port = &mesh.workloads["shop/many-7"].ports[0];
    assert_eq!((port.protocol, port.services.len()), (Protocol::Http, 1));
}

#[test]
fn a_service_declares_the_protocol_of_a_port_that_does_not() {
    let text = workload("shop", "a", "a", "10.0.0.1", "").replace("name: http, ", "");
    let mesh = clean(
        &(text
            + &service(
                "shop",
                "a",
                "{selector: {app: a}, ports: [{name: grpc-a, port: 80, targetPort: 8080}]}",
            )),
    );
    assert_eq!(mesh.workloads["shop/a"].ports[0].protocol, Protocol::Grpc);
}

#[test]
fn routes_attach_in_order_and_a_consumer_may_call_the_parent() {
    let route = |namespace: &str, name: &str, backend: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: cart, namespace: shop}}], rules: [{{backendRefs: [{backend}]}}]}}\n---\n"
        )
    };
    let ports = "{selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-x, port: 90, targetPort: 8081}]}";
    let text = three_workloads()
        .replace("{name: http, port: 8080}", "{name: http, port: 8080}, {port: 8081, protocol: tcp}")
        + &service("shop", "cart", ports)
        + &route("shop", "b", "{name: cart, port: 80, weight: 3}")
        + &route("other", "consumer", "{name: cart, namespace: shop, port: 80}")
        + &route("shop", "a", "{name: cart, port: 80}");
    let (compilation, shown) = compiled(&text);
    assert!(!compilation.has_errors(), "{shown}");
    let cart = &compilation.mesh.services["shop/cart"];
    let names: Vec<&str> = cart.ports[0].routes.iter().map(|name| name.as_str()).collect();
    assert_eq!(names, ["HTTPRoute/other/consumer", "HTTPRoute/shop/a", "HTTPRoute/shop/b"]);
    assert!(cart.ports[1].routes.is_empty(), "a TCP port takes no HTTPRoute");
    assert_eq!(compilation.mesh.routes["HTTPRoute/shop/b"].rules[0].backends[0].weight, 3);
}

#[test]
fn a_grpc_route_names_services_and_methods_and_may_lead_to_any_namespace() {
    let text = three_workloads()
        + &service(
            "shop",
            "cart",
            "{selector: {app: cart}, ports: [{name: grpc, port: 80, targetPort: 8080}]}",
        )
        + &service("other", "audit", "{ports: [{name: grpc, port: 80}]}").replace("---", "")
        + "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: cart, namespace: shop}\n\
           spec: {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{matches: [{method: {service: shop.Cart, \
           method: Get}}], backendRefs: [{name: audit, namespace: other, port: 80}]}, {}]}\n";
    let (compilation, shown) = compiled(&text);
    assert!(!compilation.has_errors(), "{shown}");
    let cart = &compilation.mesh.services["shop/cart"];
    assert_eq!(cart.ports[0].routes[0].as_str(), "GRPCRoute/shop/cart");
    let route = &compilation.mesh.routes["GRPCRoute/shop/cart"];
    assert!(route.rules[0].matches[0].path.matches("/shop.Cart/Get"));
    assert!(!route.rules[0].matches[0].path.matches("/shop.Cart/Put"));
    assert!(route.rules[0].backends[0].service.is_some());
    assert!(route.rules[1].backends.is_empty(), "without backends it is the Service itself");
}

#[test]
fn what_is_compiled_survives_the_wire() {
    let files = read_directory(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shop")).unwrap();
    let base = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/good/base.yaml")).unwrap();
    let meshes = [compile(&files).mesh, clean(&base)];
    for mesh in meshes {
        let mut all = vec![Resource::MeshConfig(mesh.config.clone())];
        all.extend(mesh.workloads.values().cloned().map(Resource::Workload));
        all.extend(mesh.services.values().cloned().map(Resource::Service));
        all.extend(mesh.endpoints.values().cloned().map(Resource::Endpoints));
        all.extend(mesh.routes.values().cloned().map(Resource::Route));
        all.extend(mesh.authorizations.values().cloned().map(Resource::Authorization));
        all.extend(mesh.peer_authentications.values().cloned().map(Resource::PeerAuthentication));
        for resource in all {
            let kind: Kind = resource.kind();
            let back = Resource::decode(kind, resource.name().as_str(), &resource.encode()).unwrap();
            assert_eq!(back, resource);
        }
    }
}

#[test]
fn a_list_as_kubectl_writes_it_is_its_items() {
    let mesh = clean(
        r#"{"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [
            {"apiVersion": "weft.dev/v1alpha1", "kind": "Workload",
             "metadata": {"name": "a", "namespace": "b", "creationTimestamp": null}, "spec": {"address": "10.0.0.1"}}]}"#,
    );
    assert!(mesh.workloads.contains_key("b/a"));
}

#[test]
fn a_directory_is_read_with_its_links_and_without_what_is_hidden() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::create_dir_all(path.join("..2024_01_01")).unwrap();
    fs::write(path.join("..2024_01_01/a.yaml"), "a").unwrap();
    std::os::unix::fs::symlink(path.join("..2024_01_01"), path.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", path.join("b.yaml")).unwrap();
    fs::create_dir(path.join("deeper")).unwrap();
    fs::write(path.join("deeper/c.yml"), [0xff, 0xfe]).unwrap();
    fs::write(path.join("readme.txt"), "no").unwrap();
    fs::write(path.join(".hidden.yaml"), "no").unwrap();
    let files = read_directory(path).unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["b.yaml", "deeper/c.yml"]);
    let compilation = compile(&files[1..]);
    assert_eq!(compilation.diagnostics[0].severity, Severity::Error);
    assert_eq!(compilation.diagnostics[0].message, "the text is not valid UTF-8");
    std::os::unix::fs::symlink(path, path.join("loop")).unwrap();
    assert!(read_directory(path).is_err(), "a loop ends");
    assert!(read_directory(path.join("nowhere")).is_err());
}

#[test]
fn callers_of_faults_are_of_the_mesh_s_trust_domains() {
    let mesh = clean(
        &("apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: m}\nspec: {trustDomain: prod.example, trustDomainAliases: [old.example]}\n---\n"
            .to_owned()
            + &workload("shop", "cart-1", "cart", "10.0.0.1", "")
            + &service("shop", "cart", "{selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}")
            + "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: cart, namespace: shop}\nspec: {targetRefs: [{kind: Service, name: cart}], faults: [{match: {principals: [cluster.local/ns/a/sa/b, old.example/ns/a/sa/b]}, abort: {httpStatus: 500}, expires: '2099-01-01T00:00:00Z'}]}\n"),
    );
    let policy = mesh.traffic_policies.values().next().unwrap();
    let principals = policy.traffic.faults[0].principals.iter().map(|held| held.principal());
    assert_eq!(
        principals.collect::<Vec<_>>(),
        ["prod.example/ns/a/sa/b", "old.example/ns/a/sa/b"],
        "each once, whatever domain it was written with"
    );
}
