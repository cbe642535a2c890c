//! Who may call what: every kind of rule, with the reason and the policy told.

use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::certificate::{Shape, judged};
use weft_tests::client::{Client, Request};
use weft_tests::mesh::{Builder, Mesh, Proxy, Workload, authorization, peer_authentication};
use weft_tests::wait;

const CART: &str = "http://cart.shop/items";

/// `shop/cart` with one policy; callers `shop/web-1` and `ops/admin-1`.
async fn cart(application: &Application, policy: &str) -> Mesh {
    Builder::pair(application.address())
        .workload(Workload::new("ops/admin-1"))
        .policy("policy", policy)
        .start()
        .await
}

fn web(mesh: &Mesh) -> Client {
    mesh.client("shop/web-1")
}

fn admin(mesh: &Mesh) -> Client {
    mesh.client("ops/admin-1")
}

#[tokio::test]
async fn without_a_policy_everybody_in_the_mesh_may_call() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let response = web(&mesh).get(CART).await;
    response.passed();
    assert_eq!(response.text(), "cart-1 GET /items");
}

#[tokio::test]
async fn an_identity_is_allowed_and_another_is_denied() {
    let application = Application::start("cart-1").await;
    let rules = "[{ from: [{ source: { principals: ['cluster.local/ns/shop/sa/web'] } }] }]";
    let mesh = cart(&application, &authorization("cart", "cart", "ALLOW", rules)).await;
    web(&mesh).get(CART).await.passed();
    admin(&mesh).get(CART).await.refused_with(Reason::AuthorizationDenied);
    assert_eq!(application.requests().len(), 1, "what is denied never reaches the application");
}

#[tokio::test]
async fn a_namespace_is_denied_although_another_policy_allows_all() {
    let application = Application::start("cart-1").await;
    let allow = authorization("everybody", "cart", "ALLOW", "[{}]");
    let deny = authorization("not-ops", "cart", "DENY", "[{ from: [{ source: { namespaces: [ops] } }] }]");
    let mesh = cart(&application, &format!("{allow}---\n{deny}")).await;
    web(&mesh).get(CART).await.passed();
    admin(&mesh).get(CART).await.refused_with(Reason::AuthorizationDenied);
}

#[tokio::test]
async fn methods_and_paths_are_judged_together() {
    let application = Application::start("cart-1").await;
    let rules = "[{ to: [{ operation: { methods: [GET], paths: ['/items*', '/health'] } }] }]";
    let mesh = cart(&application, &authorization("cart", "cart", "ALLOW", rules)).await;
    web(&mesh).get("http://cart.shop/items/7?all=1").await.passed();
    web(&mesh).get("http://cart.shop/health").await.passed();
    web(&mesh).get("http://cart.shop/healthy").await.refused_with(Reason::AuthorizationDenied);
    web(&mesh).send(&Request::post(CART, "x")).await.refused_with(Reason::AuthorizationDenied);
}

#[tokio::test]
async fn no_spelling_of_a_denied_path_gets_through() {
    let application = Application::start("cart-1").await;
    let rules = "[{ to: [{ operation: { paths: ['/admin*'] } }] }]";
    let mesh = cart(&application, &authorization("no-admin", "cart", "DENY", rules)).await;
    web(&mesh).get("http://cart.shop/administrator").await.refused_with(Reason::AuthorizationDenied);
    for path in [
        "/admin",
        "/./admin",
        "/x/../admin",
        "//admin",
        "/%61dmin",
        "/x/%2e%2e/admin",
        "/admin%2f",
        "/x/..%2fadmin",
    ] {
        let response = web(&mesh).get(&format!("http://cart.shop{path}")).await;
        assert!(matches!(response.status(), 400 | 403), "{path}: {}", response.status());
    }
    assert_eq!(application.requests(), [], "nothing got through");
    web(&mesh).get(CART).await.passed();
}

#[tokio::test]
async fn on_a_port_that_is_declared_as_tcp_no_client_chooses_its_rules_by_speaking_http() {
    let (cart, store) = (Application::start("cart-1").await, Application::start("store-1").await);
    let mesh = Builder::pair(cart.address())
        .service("shop/store")
        .with_protocol("tcp")
        .workload(Workload::new("shop/store-1").serves(store.address()).protocol("tcp"))
        .start()
        .await;
    let svid = mesh.authority().issue(&Shape::svid("spiffe://cluster.local/ns/shop/sa/web"));
    let get = b"GET /items HTTP/1.1\r\nHost: store.shop\r\n\r\n";
    let inbound = mesh.proxy("shop/store-1").inbound();
    let ask = async || {
        let answer = judged(inbound, Some(&svid), "80.store.shop", &[b"weft1-http/1.1"], get).await;
        String::from_utf8_lossy(&answer.expect("an answer")).into_owned()
    };
    assert!(ask().await.contains("store-1 GET /items"), "nothing is denied yet");
    // For the whole namespace, of which cart speaks HTTP.
    let everywhere = |action: &str| {
        authorization("all", "", action, "[{ to: [{ operation: { methods: [METHOD] } }] }]")
            .replace("  selector: { matchLabels: { app:  } }\n", "")
    };
    // A DENY whose HTTP field cannot be looked at denies by the rest; such an ALLOW never matches.
    for (action, method) in [("DENY", "POST"), ("ALLOW", "GET")] {
        mesh.enforce_policy("all", &everywhere(action).replace("METHOD", method)).await;
        web(&mesh).get(CART).await.passed();
        let answer = ask().await;
        assert!(answer.contains("x-weft-reason: authorization_denied"), "{action}: {answer}");
    }
    assert_eq!(store.requests().len(), 1, "what is denied never reaches the application");
}

#[tokio::test]
async fn no_rule_rests_on_a_field_that_the_application_will_not_get() {
    let application = Application::start("cart-1").await;
    let rules = "[{ when: [{ key: 'request.headers[x-team]', values: [blue] }] }]";
    let mesh = cart(&application, &authorization("cart", "cart", "ALLOW", rules)).await;
    let svid = mesh.authority().issue(&Shape::svid("spiffe://cluster.local/ns/shop/sa/web"));
    let inbound = mesh.proxy("shop/cart-1").inbound();
    let say = async |connection: &str| {
        let request = format!(
            "GET /items HTTP/1.1\r\nHost: cart.shop\r\nx-team: blue\r\nConnection: {connection}\r\n\r\n"
        );
        let alpn: &[&[u8]] = &[b"weft1-http/1.1"];
        let answer = judged(inbound, Some(&svid), "80.cart.shop", alpn, request.as_bytes()).await;
        String::from_utf8_lossy(&answer.expect("an answer")).into_owned()
    };
    let answer = say("close").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = say("close, X-Team").await;
    assert!(answer.contains("x-weft-reason: authorization_denied"), "{answer}");
    assert_eq!(application.requests().len(), 1);
}

#[tokio::test]
async fn a_header_decides() {
    let application = Application::start("cart-1").await;
    let rules = "[{ when: [{ key: 'request.headers[x-team]', values: [blue] }] }]";
    let mesh = cart(&application, &authorization("cart", "cart", "ALLOW", rules)).await;
    web(&mesh).send(&Request::get(CART).field("X-Team", "blue")).await.passed();
    web(&mesh)
        .send(&Request::get(CART).field("x-team", "red"))
        .await
        .refused_with(Reason::AuthorizationDenied);
    web(&mesh).get(CART).await.refused_with(Reason::AuthorizationDenied);
}

#[tokio::test]
async fn a_field_of_several_values_admits_only_if_all_fit_and_denies_if_any_does() {
    let rules = |any: &str| format!("[{{ when: [{{ key: 'request.headers[x-team]', {any} }}] }}]");
    let allow = rules("values: [blue, green*], notValues: [greenish]");
    let deny = rules("notValues: [blue, green]");
    // The lines of the field, and whether the ALLOW admits and the DENY lets it by.
    let cases: [(&[&str], bool, bool); 13] = [
        (&["blue"], true, true),
        (&["blue", "green"], true, true),
        (&["green,blue"], true, true),
        (&[" blue ,\tgreen,, "], true, true),
        (&["greener"], true, false),
        (&["blue", "red"], false, false),
        (&["red", "blue"], false, false),
        (&["blue, red"], false, false),
        (&["blue red"], false, false),
        (&["blue", "greenish"], false, false),
        (&["blue\u{e4}"], false, false),
        (&["\"blue\""], false, false),
        (&[], false, false),
    ];
    for (action, rules) in [("ALLOW", allow), ("DENY", deny)] {
        let application = Application::start("cart-1").await;
        let mesh = cart(&application, &authorization("cart", "cart", action, &rules)).await;
        for (lines, admitted, by) in cases {
            let add = |request: Request, line: &&str| request.field("X-Team", line);
            let response = web(&mesh).send(&lines.iter().fold(Request::get(CART), add)).await;
            let passes = if action == "ALLOW" { admitted } else { by };
            assert_eq!(response.status() == 200, passes, "{action} {lines:?}: {}", response.text());
            if !passes {
                response.refused_with(Reason::AuthorizationDenied);
            }
        }
    }
}

#[tokio::test]
async fn the_port_that_policy_sees_is_the_advertised_one() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let port = mesh.proxy("shop/cart-1").inbound().port();
    let rules = format!("[{{ to: [{{ operation: {{ ports: ['{port}'] }} }}] }}]");
    mesh.enforce_policy("policy", &authorization("cart", "cart", "DENY", &rules)).await;
    web(&mesh).get(CART).await.refused_with(Reason::AuthorizationDenied);
}

#[tokio::test]
async fn a_denial_names_its_policy_in_metrics_and_log_but_not_to_the_client() {
    let application = Application::start("cart-1").await;
    let deny = authorization("no-writes", "cart", "DENY", "[{ to: [{ operation: { methods: [POST] } }] }]");
    let mesh = cart(&application, &deny).await;
    let response = web(&mesh).send(&Request::post(CART, "x")).await;
    response.refused_with(Reason::AuthorizationDenied);
    assert!(!response.text().contains("no-writes"), "{}", response.text());
    let server = mesh.proxy("shop/cart-1");
    let metrics = server.metrics().await;
    let policy = "AuthorizationPolicy/shop/no-writes";
    let decisions = metrics.find("weft_authorization_decisions_total", &[]).collect::<Vec<_>>();
    assert!(
        decisions
            .iter()
            .any(|sample| sample.labels["policy"].contains("shop/no-writes") && sample.value == 1.0),
        "{policy}: {decisions:?}"
    );
    let answers = [("direction", "inbound"), ("reason", Reason::AuthorizationDenied.label())];
    assert_eq!(metrics.sum("weft_answers_total", &answers), 1.0);
    wait::until("the access log has the line", async || {
        server.access_log().iter().any(|line| {
            line["reason"] == Reason::AuthorizationDenied.label()
                && line["detail"].as_str().is_some_and(|detail| detail.contains("no-writes"))
                && line["source"] == "spiffe://cluster.local/ns/shop/sa/web"
        })
    })
    .await;
}

#[tokio::test]
async fn a_denial_names_the_rule_that_was_nearest_and_where_it_is() {
    let application = Application::start("cart-1").await;
    let rules = "\n  - from: [{ source: { namespaces: [ops] } }]\n    to: [{ operation: { methods: [POST] } }]\n  \
                 - from: [{ source: { namespaces: [ui] } }]\n    to: [{ operation: { methods: [GET] } }]";
    let mesh = cart(&application, &authorization("allow-ui", "cart", "ALLOW", rules)).await;
    web(&mesh).get(CART).await.refused_with(Reason::AuthorizationDenied);
    let server = mesh.proxy("shop/cart-1");
    let detail = wait::eventually("the access log has the line", async || {
        let lines = server.access_log();
        lines.iter().find_map(|line| line["detail"].as_str().map(str::to_owned))
    })
    .await;
    assert!(detail.starts_with("no ALLOW policy matches; shop/allow-ui rule 1 ("), "{detail}");
    assert!(detail.ends_with("policy.yaml:10) failed only on namespaces"), "{detail}");
}

/// The lines of the access log that policy marked, once both requests of a test have theirs.
async fn marked(server: &Proxy, field: &str) -> Vec<serde_json::Value> {
    wait::until("both requests are logged", async || server.access_log().len() == 2).await;
    server.access_log().into_iter().filter(|line| line[field].is_string()).collect()
}

#[tokio::test]
async fn an_audit_is_logged_and_counted_and_changes_nothing() {
    let application = Application::start("cart-1").await;
    let rules = "[{ to: [{ operation: { methods: [POST], paths: ['/ledger*'] } }] }]";
    let mesh = cart(&application, &authorization("writes", "cart", "AUDIT", rules)).await;
    web(&mesh).get(CART).await.passed();
    // Not in canonical form: judged by it, and passed on as it came.
    let odd = "http://cart.shop/x/../%6cedger";
    web(&mesh).send(&Request::post(odd, "x")).await.passed();
    assert_eq!(
        application.requests().last().map(|request| request.target.clone()).as_deref(),
        Some("/x/../%6cedger")
    );
    let server = mesh.proxy("shop/cart-1");
    let audited = marked(server, "audit").await;
    let [audited] = audited.as_slice() else { panic!("the read is not audited: {audited:?}") };
    assert!(audited["audit"].as_str().is_some_and(|by| by.starts_with("shop/writes rule 0 (")), "{audited}");
    assert_eq!((audited["status"].as_u64(), audited["reason"].as_str()), (Some(200), None));
    let metrics = server.metrics().await;
    let decisions = [("verdict", "audit"), ("policy", "shop/writes"), ("rule", "0")];
    assert_eq!(metrics.sum("weft_authorization_decisions_total", &decisions), 1.0);
}

#[tokio::test]
async fn a_dry_run_is_logged_and_counted_and_not_enforced() {
    let application = Application::start("cart-1").await;
    let deny = authorization("tried", "cart", "DENY", "[{ from: [{ source: { namespaces: [ops] } }] }]")
        .replace("name: tried,", "name: tried, annotations: { istio.io/dry-run: 'true' },");
    let mesh = cart(&application, &deny).await;
    web(&mesh).get(CART).await.passed();
    admin(&mesh).get(CART).await.passed();
    let server = mesh.proxy("shop/cart-1");
    let lines = marked(server, "dry_run").await;
    let [line] = lines.as_slice() else { panic!("what would stay the same is not marked: {lines:?}") };
    let said = line["dry_run"].as_str().unwrap_or_default();
    assert!(said.starts_with("denied by shop/tried rule 0 ("), "{line}");
    let metrics = server.metrics().await;
    let count = |verdict| metrics.sum("weft_authorization_decisions_total", &[("verdict", verdict)]);
    assert_eq!((count("dry_run_allow"), count("dry_run_deny"), count("deny")), (1.0, 1.0, 0.0));
    mesh.enforce_policy("policy", &deny.replace("'true'", "'false'")).await;
    admin(&mesh).get(CART).await.refused_with(Reason::AuthorizationDenied);
    web(&mesh).get(CART).await.passed();
}

#[tokio::test]
async fn plaintext_is_refused_under_strict_and_passes_under_permissive() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let inbound = mesh.proxy("shop/cart-1").inbound();
    let plain = Client::direct(inbound);
    plain.get(CART).await.refused_with(Reason::TlsRequired);
    assert_eq!(application.requests(), []);
    mesh.enforce_policy("permissive", &peer_authentication("cart", "cart", "PERMISSIVE")).await;
    plain.get(CART).await.passed();
    // Callers with a sidecar go on over mutual TLS.
    web(&mesh).get(CART).await.passed();
    let metrics = mesh.proxy("shop/cart-1").metrics().await;
    assert!(metrics.sum("weft_inbound_plaintext_connections_total", &[]) >= 2.0);
    let mutual = [("connection_security_policy", "mutual_tls"), ("response_code", "200")];
    assert_eq!(metrics.sum("istio_requests_total", &mutual), 1.0);
    mesh.enforce_removal("permissive").await;
    plain.get(CART).await.refused_with(Reason::TlsRequired);
}

#[tokio::test]
async fn plaintext_clients_are_named_once_in_the_log_and_counted_in_the_dump() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address())
        .policy("tls", &peer_authentication("cart", "cart", "PERMISSIVE"))
        .start()
        .await;
    let server = mesh.proxy("shop/cart-1");
    let plain = Client::direct(server.inbound());
    for _ in 0..3 {
        plain.get(CART).await.passed();
    }
    web(&mesh).get(CART).await.passed();
    let dump = weft_tests::client::fetch(server.admin(), "/dump").await.unwrap();
    let dump: serde_json::Value = serde_json::from_str(&dump.text()).unwrap();
    let clients = dump["plaintextClients"]["clients"].as_array().unwrap();
    let [client] = clients.as_slice() else { panic!("callers with a sidecar are none: {clients:?}") };
    assert_eq!(client["address"], "127.0.0.1");
    assert_eq!((client["admitted"].as_u64(), client["refused"].as_u64()), (Some(3), Some(0)));
    assert_eq!(client["port"].as_u64(), Some(server.inbound().port().into()));
    let lines = server.process().log().matches("a client comes without mutual TLS").count();
    assert_eq!(lines, 1, "a client is told once");
    let metrics = server.metrics().await;
    let samples: Vec<_> = metrics.find("weft_inbound_plaintext_connections_total", &[]).collect();
    assert!(samples.iter().all(|sample| sample.labels.keys().eq(["source", "verdict"])), "{samples:?}");
}

#[tokio::test]
async fn plaintext_has_no_identity_whatever_it_claims() {
    let application = Application::start("cart-1").await;
    let rules = "[{ from: [{ source: { principals: ['cluster.local/ns/shop/sa/web'] } }] }]";
    let policies = format!(
        "{}---\n{}",
        authorization("cart", "cart", "ALLOW", rules),
        peer_authentication("cart", "cart", "PERMISSIVE")
    );
    let mesh = cart(&application, &policies).await;
    let claim = "By=x;Hash=y;URI=spiffe://cluster.local/ns/shop/sa/web";
    let request = Request::get(CART).field("x-forwarded-client-cert", claim);
    let plain = Client::direct(mesh.proxy("shop/cart-1").inbound());
    plain.send(&request).await.refused_with(Reason::AuthorizationDenied);
    web(&mesh).get(CART).await.passed();
}

#[tokio::test]
async fn an_open_connection_is_judged_by_the_policy_of_now() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let mut connection = web(&mesh).connect().await.unwrap();
    connection.send(&Request::get(CART)).await.unwrap().passed();
    mesh.enforce_policy("policy", &authorization("nobody", "cart", "DENY", "[{}]")).await;
    connection.send(&Request::get(CART)).await.unwrap().refused_with(Reason::AuthorizationDenied);
    assert_eq!(application.requests().len(), 1);
    mesh.enforce_removal("policy").await;
    connection.send(&Request::get(CART)).await.unwrap().passed();
}

#[tokio::test]
async fn while_the_policy_changes_each_request_passes_whole_or_ends_with_the_reason() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let client = web(&mesh);
    let asking = wait::spawn(async move {
        let (mut cut, mut passed) = (0, 0);
        loop {
            let Ok(response) = client.try_send(&Request::get(CART)).await else {
                // Its answer was on its way.
                cut += 1;
                continue;
            };
            if response.status() == 403 {
                response.refused_with(Reason::AuthorizationDenied);
                return (passed, cut);
            }
            response.passed();
            assert_eq!(response.text(), "cart-1 GET /items");
            passed += 1;
        }
    });
    wait::until("requests pass", async || !application.requests().is_empty()).await;
    mesh.enforce_policy("policy", &authorization("nobody", "cart", "DENY", "[{}]")).await;
    let (passed, cut) = wait::within("the first refusal", asking).await.unwrap();
    assert!(passed > 0);
    let denied = Reason::AuthorizationDenied.label();
    wait::until("each that was cut off is logged, with the reason", async || {
        let lines = mesh.proxy("shop/cart-1").access_log();
        lines.iter().filter(|line| line["reason"] == denied).count() > cut
    })
    .await;
}

/// What a scope says: nothing, or a mode.
const SAID: [Option<&str>; 4] = [None, Some("STRICT"), Some("PERMISSIVE"), Some("DISABLE")];

/// A PeerAuthentication of a scope; empty where it says nothing.
fn scope(name: &str, namespace: &str, mode: Option<&str>) -> String {
    let Some(mode) = mode else { return String::new() };
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: {name}, namespace: \
         {namespace} }}\nspec: {{ mtls: {{ mode: {mode} }} }}\n"
    )
}

#[tokio::test]
async fn the_narrowest_scope_that_says_a_mode_decides_who_gets_in() {
    let application = Application::start("shop").await;
    // Four servers, by what their own policy says; what it says of the port varies with the rest.
    let names = ["none", "strict", "permissive", "disable"];
    let mut builder = Builder::default().workload(Workload::new("shop/web-1"));
    for name in names {
        builder = builder
            .service(&format!("shop/{name}"))
            .workload(Workload::new(&format!("shop/{name}-1")).serves(application.address()));
    }
    let mesh = builder.start().await;
    let svid = mesh.authority().issue(&Shape::svid("spiffe://cluster.local/ns/shop/sa/web"));
    let inbound = |index: usize| mesh.proxy(&format!("shop/{}-1", names[index])).inbound();
    let (mut admitted, mut refused, mut by_sidecar) = ([0_u64; 4], [0_u64; 4], [0_u64; 4]);
    for (step, (whole, namespace)) in
        SAID.iter().flat_map(|whole| SAID.iter().map(move |namespace| (*whole, *namespace))).enumerate()
    {
        let port_mode = |index: usize| SAID[(step + step / 4 + index) % 4];
        let mut text = format!("{}{}", scope("whole", "weft-system", whole), scope("all", "shop", namespace));
        for (index, name) in names.iter().enumerate() {
            let mode = SAID[index].unwrap_or("UNSET");
            text += "---\n";
            text += &peer_authentication(name, name, mode);
            if let Some(mode) = port_mode(index) {
                text += &format!("  portLevelMtls: {{ {}: {{ mode: {mode} }} }}\n", inbound(index).port());
            }
        }
        // Each differs from the one before, so that it is waited for.
        text += "---\n";
        let path = format!("[{{ to: [{{ operation: {{ paths: ['/step-{step}'] }} }}] }}]");
        text += &authorization("step", "none", "DENY", &path);
        mesh.enforce_policy("modes", &text).await;
        for (index, name) in names.iter().enumerate() {
            let mode = port_mode(index).or(SAID[index]).or(namespace).or(whole).unwrap_or("STRICT");
            let what = format!("mesh {whole:?}, namespace {namespace:?}, workload {name}: {mode}");
            let url = format!("http://{name}.shop/");
            let plain = Client::direct(inbound(index)).get(&url).await;
            if mode == "STRICT" {
                assert_eq!(plain.reason(), Some(Reason::TlsRequired), "{what}");
                refused[index] += 1;
            } else {
                assert_eq!((plain.status(), plain.reason()), (200, None), "{what}");
                admitted[index] += 1;
            }
            let request = format!("GET / HTTP/1.1\r\nHost: {name}.shop\r\nConnection: close\r\n\r\n");
            let server_name = format!("80.{name}.shop");
            let alpn: &[&[u8]] = &[b"weft1-http/1.1"];
            let answer = judged(inbound(index), Some(&svid), &server_name, alpn, request.as_bytes()).await;
            let answer = answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let passed = answer.as_ref().is_ok_and(|text| text.starts_with("HTTP/1.1 200 "));
            assert_eq!(passed, mode != "DISABLE", "{what}: {answer:?}");
            // A sidecar calls as the mode wants it.
            let called = mesh.client("shop/web-1").get(&url).await;
            assert_eq!((called.status(), called.reason()), (200, None), "{what}");
            by_sidecar[index] += u64::from(mode == "DISABLE");
        }
    }
    for (index, name) in names.iter().enumerate() {
        let server = mesh.proxy(&format!("shop/{name}-1"));
        let dump = weft_tests::client::fetch(server.admin(), "/dump").await.unwrap();
        let dump: serde_json::Value = serde_json::from_str(&dump.text()).unwrap();
        let clients = dump["plaintextClients"]["clients"].as_array().unwrap();
        let [client] = clients.as_slice() else { panic!("{name}: {clients:?}") };
        assert_eq!(client["refused"].as_u64(), Some(refused[index]), "{name}");
        // The sidecar's connections come from the same address, and may serve several of its calls.
        let counted = client["admitted"].as_u64().unwrap();
        let expected = admitted[index]..=admitted[index] + by_sidecar[index];
        assert!(expected.contains(&counted), "{name}: {counted}, not within {expected:?}");
        assert_eq!(server.process().log().matches("a client comes without mutual TLS").count(), 1, "{name}");
    }
}
