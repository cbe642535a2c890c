//! Routes beyond choosing a backend: retries that an owner asks for, mirrors, CORS, gRPC, sessions, and
//! rules that change requests on their way to the Service that was called.

use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request};
use weft_tests::http2::{Connection, grpc};
use weft_tests::mesh::{Builder, Mesh, Workload, route};
use weft_tests::wait;

/// Two replicas of a cart, and an audit that only routes lead to.
struct Shop {
    mesh: Mesh,
    carts: [Application; 2],
    audit: Application,
}

impl Shop {
    async fn start(kind: &str, rules: &str) -> Self {
        let carts = [Application::start("one").await, Application::start("two").await];
        let audit = Application::start("audit").await;
        let mesh = Builder::default()
            .service("shop/cart")
            .service("other/audit")
            .workload(Workload::new("shop/cart-1").serves(carts[0].address()))
            .workload(Workload::new("shop/cart-2").serves(carts[1].address()))
            .workload(Workload::new("other/audit-1").serves(audit.address()))
            .workload(Workload::new("shop/web-1").calls("shop/cart", 80))
            .policy("route", &route("cart", "cart", rules).replace("HTTPRoute", kind))
            .start()
            .await;
        Self { mesh, carts, audit }
    }

    fn web(&self) -> Client {
        self.mesh.client("shop/web-1")
    }

    /// How often the carts have seen the request.
    fn executed(&self, id: &str) -> usize {
        self.carts.iter().map(|cart| cart.count(id)).sum()
    }
}

#[tokio::test]
async fn a_rule_without_backends_leads_to_the_service_that_was_called() {
    let rules = "[{ filters: [{ type: ResponseHeaderModifier, responseHeaderModifier: { set: [{ name: x-by, value: route }] } }] }]";
    let shop = Shop::start("HTTPRoute", rules).await;
    let response = shop.web().get("http://cart.shop/").await;
    response.passed();
    assert_eq!(response.field("x-by"), Some("route"));
    assert!(["one", "two"].contains(&response.application()));
}

#[tokio::test]
async fn a_status_that_the_owner_names_is_tried_on_another_replica_with_the_same_body() {
    let shop = Shop::start("HTTPRoute", "[{ retry: { codes: [503], attempts: 2, backoff: 1ms } }]").await;
    // Whichever is asked first, only one of them is ill.
    let ask = async |number: u32| {
        let id = format!("ill-{number}");
        let request =
            Request::post("http://cart.shop/echo", "order 66").id(&id).field("x-test-status", "one=503");
        let response = shop.web().send(&request).await;
        assert_eq!((response.status(), response.text().as_str()), (200, "order 66"));
        assert!(shop.executed(&id) <= 2);
    };
    for number in 0..20 {
        ask(number).await;
    }
    // By latency: one that was slower once has its turn when that is forgotten.
    let number = std::cell::Cell::new(20);
    wait::until("the ill replica was asked, too", async || {
        ask(number.replace(number.get() + 1)).await;
        !shop.carts[0].requests().is_empty()
    })
    .await;
    let retries = shop.mesh.proxy("shop/web-1").metrics().await;
    assert!(retries.sum("weft_outbound_retries_total", &[("reason", "status"), ("outcome", "made")]) >= 1.0);
}

#[tokio::test]
async fn tries_end_with_the_number_that_the_owner_gave_and_the_last_answer_is_passed_on() {
    let shop = Shop::start("HTTPRoute", "[{ retry: { codes: [503], attempts: 3, backoff: 1ms } }]").await;
    let response = shop.web().send(&Request::post("http://cart.shop/status/503", "x").id("all")).await;
    assert_eq!((response.status(), response.reason()), (503, None));
    assert_eq!(shop.executed("all"), 4);
    let response = shop.web().send(&Request::post("http://cart.shop/status/500", "x").id("other")).await;
    assert_eq!(response.status(), 500);
    assert_eq!(shop.executed("other"), 1, "a status that is not named is not retried");
}

#[tokio::test]
async fn a_server_that_asks_for_more_time_than_a_retry_is_worth_is_not_asked_again() {
    let shop = Shop::start("HTTPRoute", "[{ retry: { codes: [503], attempts: 3, backoff: 1ms } }]").await;
    let request =
        Request::get("http://cart.shop/status/503").id("later").field("x-test-field", "retry-after=3600");
    assert_eq!(shop.web().send(&request).await.status(), 503);
    assert_eq!(shop.executed("later"), 1);
}

#[tokio::test]
async fn a_post_whose_connection_breaks_is_tried_again_only_if_its_owner_says_so() {
    let rules = "[{ matches: [{ path: { value: /close } }], retry: { attempts: 2, backoff: 1ms } }, {}]";
    let shop = Shop::start("HTTPRoute", rules).await;
    shop.web()
        .send(&Request::post("http://cart.shop/close", "x").id("opted"))
        .await
        .refused_with(Reason::ConnectionReset);
    assert_eq!(shop.executed("opted"), 3);
    let cut = shop.web().send(&Request::post("http://cart.shop/close?", "x").id("same")).await;
    cut.refused_with(Reason::ConnectionReset);
    let shop = Shop::start("HTTPRoute", "[{}]").await;
    shop.web()
        .send(&Request::post("http://cart.shop/close", "x").id("plain"))
        .await
        .refused_with(Reason::ConnectionReset);
    assert_eq!(shop.executed("plain"), 1);
}

#[tokio::test]
async fn a_body_too_long_to_keep_is_streamed_and_not_tried_again() {
    let shop = Shop::start("HTTPRoute", "[{ retry: { codes: [503], attempts: 3, backoff: 1ms } }]").await;
    let body = vec![b'a'; 200_000];
    let response =
        shop.web().send(&Request::post("http://cart.shop/status/503", body.clone()).id("long")).await;
    assert_eq!(response.status(), 503);
    assert_eq!(shop.executed("long"), 1);
    let response = shop.web().send(&Request::post("http://cart.shop/discard", body).id("sent")).await;
    response.passed();
    assert!(response.text().contains("200000"), "{}", response.text());
}

#[tokio::test]
async fn mirrors_get_copies_and_never_change_the_answer() {
    let rules = "[{ matches: [{ path: { value: /none } }], filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: \
                 audit, namespace: other, port: 80 }, percent: 0 } }] }, { filters: [{ type: RequestMirror, requestMirror: { \
                 backendRef: { name: audit, namespace: other, port: 80 } } }] }]";
    let shop = Shop::start("HTTPRoute", rules).await;
    let web = shop.web();
    for (id, request) in [
        ("get", Request::get("http://cart.shop/items?x=1")),
        ("post", Request::post("http://cart.shop/echo", "the body")),
        ("none", Request::get("http://cart.shop/none")),
    ] {
        let response = web.send(&request.id(id).field("x-test-status", "audit=500")).await;
        response.passed();
        assert_ne!(response.application(), "audit");
        assert_eq!(shop.executed(id), 1);
    }
    wait::until("both copies arrive", async || shop.audit.count("get") == 1 && shop.audit.count("post") == 1)
        .await;
    assert_eq!(shop.audit.request("get").target, "/items?x=1");
    assert_eq!(shop.audit.request("post").field("content-length"), Some("8"));
    // A mirror that is gone is nobody's business.
    shop.audit.stop();
    for number in 0..5 {
        web.send(&Request::get("http://cart.shop/items").id(&format!("gone-{number}"))).await.passed();
    }
    let metrics = shop.mesh.proxy("shop/web-1");
    wait::until("the copies are counted", async || {
        let metrics = metrics.metrics().await;
        metrics.sum("weft_outbound_mirrors_total", &[("outcome", "sent")]) >= 2.0
            && metrics.sum("weft_outbound_mirrors_total", &[]) == 7.0
    })
    .await;
    assert_eq!(shop.audit.count("none"), 0);
    assert_eq!(shop.audit.requests().len(), 2);
}

#[tokio::test]
async fn a_mirror_that_never_answers_costs_the_original_nothing() {
    let rules = "[{ filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: audit, namespace: other, port: 80 } \
                 } }] }]";
    let shop = Shop::start("HTTPRoute", rules).await;
    let web = shop.web();
    shop.carts.iter().for_each(|cart| cart.open("held"));
    let held = |number: usize| {
        Request::post("http://cart.shop/echo", format!("order {number}"))
            .id("held")
            .field("x-test-gate", "held")
    };
    for number in 0..40 {
        let response = web.send(&held(number)).await;
        response.passed();
        assert_eq!(response.text(), format!("order {number}"));
        if number == 20 {
            // From here on copies wait at the mirror for sure.
            shop.audit.arrived("held").await;
        }
    }
    assert_eq!(shop.executed("held"), 40);
    // What is too long for a copy passes whole.
    let response = web.send(&Request::post("http://cart.shop/discard", vec![b'a'; 500_000]).id("long")).await;
    response.passed();
    assert!(response.text().contains("500000"), "{}", response.text());
    let metrics = shop.mesh.proxy("shop/web-1").metrics().await;
    assert_eq!(metrics.sum("weft_outbound_mirrors_total", &[("outcome", "body_too_long")]), 1.0);
    assert_eq!(shop.audit.count("long"), 0);
}

#[tokio::test]
async fn pages_of_other_origins_are_told_what_they_may_do() {
    let rules = "[{ filters: [{ type: CORS, cors: { allowOrigins: [\"https://*.shop.example\"], allowMethods: [PUT], \
                 exposeHeaders: [x-total], maxAge: 60 } }] }]";
    let shop = Shop::start("HTTPRoute", rules).await;
    let web = shop.web();
    let ask = |origin: &str| {
        Request::new("OPTIONS", "http://cart.shop/")
            .field("origin", origin)
            .field("access-control-request-method", "PUT")
    };
    let preflight = web.send(&ask("https://www.shop.example")).await;
    assert_eq!((preflight.status(), preflight.reason()), (204, Some(Reason::CorsPreflight)));
    assert_eq!(preflight.field("access-control-allow-origin"), Some("https://www.shop.example"));
    assert_eq!(preflight.field("access-control-allow-methods"), Some("PUT"));
    assert_eq!(preflight.field("access-control-max-age"), Some("60"));
    let other = web.send(&ask("https://evil.example")).await;
    assert_eq!(other.field("access-control-allow-origin"), None);
    assert!(shop.carts.iter().all(|cart| cart.requests().is_empty()), "the mesh answers by itself");
    let page = Request::get("http://cart.shop/")
        .field("origin", "https://www.shop.example")
        .field("x-test-field", "access-control-allow-origin=*");
    let response = web.send(&page).await;
    response.passed();
    assert_eq!(response.field("access-control-allow-origin"), Some("https://www.shop.example"));
    assert_eq!(response.field("access-control-expose-headers"), Some("x-total"));
    let evil = web.send(&Request::get("http://cart.shop/").field("origin", "https://evil.example")).await;
    assert_eq!(evil.field("access-control-allow-origin"), None);
}

#[tokio::test]
async fn grpc_calls_are_routed_by_service_and_method() {
    let rules = "[{ matches: [{ method: { service: shop.Cart, method: Audit } }], backendRefs: [{ name: audit, namespace: \
                 other, port: 80 }] }, { matches: [{ method: { service: shop.Cart } }] }]";
    let shop = Shop::start("GRPCRoute", rules).await;
    let client = Connection::open(shop.web().address()).await;
    for (path, audit) in [("/shop.Cart/Audit", true), ("/shop.Cart/Get", false)] {
        let request = grpc("cart.shop", path).header("x-request-id", path).body(()).unwrap();
        let whole = client.start(request, true).await.unwrap().whole().await.unwrap();
        assert_eq!((whole.status(), whole.field("x-weft-reason")), (200, None), "{path}");
        assert_eq!(shop.audit.count(path) == 1, audit, "{path}");
        assert_eq!(shop.executed(path) == 1, !audit, "{path}");
    }
    let request = grpc("cart.shop", "/shop.Other/Get").body(()).unwrap();
    let whole = client.start(request, true).await.unwrap().whole().await.unwrap();
    assert_eq!(whole.field("grpc-status"), Some("12"));
    assert_eq!(whole.field("x-weft-reason"), Some(Reason::RouteNotFound.label()));
}

/// The `NAME=TOKEN` of a cookie that an answer sets.
fn cookie(response: &weft_tests::client::Response) -> Option<String> {
    let set = response.field("set-cookie")?;
    assert!(set.contains("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
    set.split(';').next().map(ToOwned::to_owned)
}

const STICKY: &str = "[{ sessionPersistence: { sessionName: sticky, absoluteTimeout: 1h }, retry: { codes: [503], attempts: 2, \
                      backoff: 1ms } }]";

#[tokio::test]
async fn a_session_stays_with_its_replica_and_a_made_up_one_is_balanced() {
    let mut shop = Shop::start("HTTPRoute", STICKY).await;
    let web = shop.web();
    let first = web.get("http://cart.shop/").await;
    let token = cookie(&first).expect("a new session");
    let with = |cookies: &str| Request::get("http://cart.shop/").field("cookie", cookies);
    for _ in 0..20 {
        let response = web.send(&with(&format!("other=1; {token}; more=2"))).await;
        assert_eq!(response.application(), first.application());
        assert_eq!(response.field("set-cookie"), None, "the client has it");
    }
    // Nobody is told of addresses, and who makes a token up is sent where anybody would be.
    let (_, value) = token.split_once('=').unwrap();
    assert_eq!(value.len(), 36);
    let mut changed = value.to_owned().into_bytes();
    changed[5] = if changed[5] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    for made_up in ["127.0.0.1:80", "", "%%%", &changed] {
        // By latency: the one that was slower a moment ago has its turn when that is forgotten.
        let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
        wait::until("a session that is none is balanced", async || {
            let response = web.send(&with(&format!("sticky={made_up}"))).await;
            response.passed();
            assert!(cookie(&response).is_some(), "{made_up}");
            seen.borrow_mut().insert(response.application().to_owned());
            seen.borrow().len() == 2
        })
        .await;
    }
    // A try at another replica moves the session there.
    let ill = format!("{}=503", first.application());
    let response = web.send(&with(&token).field("x-test-status", &ill)).await;
    response.passed();
    assert_ne!(response.application(), first.application());
    let moved = cookie(&response).expect("a new session");
    assert_eq!(web.send(&with(&moved)).await.application(), response.application());
    // So does a replica that is gone.
    let gone = if response.application() == "one" { "shop/cart-1" } else { "shop/cart-2" };
    shop.mesh.proxy_mut(gone).kill();
    let back = web.send(&with(&moved)).await;
    assert_eq!((back.status(), back.application()), (200, first.application()));
    let back = cookie(&back).expect("a new session");
    let session = |token: &str| token[..30].to_owned();
    assert_eq!(session(&back), session(&token), "the same replica has the same name in every token");
}

#[tokio::test]
async fn a_sessions_backend_stays_whatever_the_weights_become() {
    let rules = |cart: u32, audit: u32| {
        format!(
            "[{{ sessionPersistence: {{ sessionName: x-session, type: Header }}, backendRefs: [{{ name: cart, port: 80, \
             weight: {cart} }}, {{ name: audit, namespace: other, port: 80, weight: {audit} }}] }}]"
        )
    };
    let shop = Shop::start("HTTPRoute", &rules(0, 1)).await;
    let web = shop.web();
    let first = web.get("http://cart.shop/").await;
    assert_eq!(first.application(), "audit");
    let token = first.field("x-session").expect("a new session").to_owned();
    shop.mesh.write_policy("route", &route("cart", "cart", &rules(1, 0)));
    wait::until("the weights are others", async || {
        web.get("http://cart.shop/").await.application() != "audit"
    })
    .await;
    for _ in 0..10 {
        let response = web.send(&Request::get("http://cart.shop/").field("x-session", &token)).await;
        assert_eq!(response.application(), "audit");
        assert!(response.field("x-session").is_some(), "every answer names the session");
    }
}

/// A TrafficPolicy for the cart. `faults` is the list in flow YAML.
fn faults(faults: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: cart, namespace: shop }}\nspec:\n  targetRefs: [{{ \
         kind: Service, name: cart }}]\n  faults: {faults}\n"
    )
}

const LATER: &str = "expires: '2099-01-01T00:00:00Z'";

#[tokio::test]
async fn faults_answer_the_requests_that_they_are_for_and_nothing_of_them_is_sent() {
    let rules = "[{ filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: audit, namespace: other, port: 80 } } \
                 }], retry: { codes: [503], attempts: 3, backoff: 1ms } }]";
    let shop = Shop::start("HTTPRoute", rules).await;
    let other = "match: { principals: [cluster.local/ns/shop/sa/other] }, abort: { httpStatus: 500 }";
    let own = "match: { principals: [cluster.local/ns/shop/sa/web], methods: [GET], path: { value: /broken }, headers: [{ name: \
               x-team, value: red }] }, abort: { httpStatus: 503 }";
    let none = "match: { path: { value: /never } }, abort: { httpStatus: 500, percent: 0 }";
    let policy = faults(&format!("[{{ {other}, {LATER} }}, {{ {own}, {LATER} }}, {{ {none}, {LATER} }}]"));
    shop.mesh.write_policy("faults", &policy);
    let web = shop.web();
    let broken = |id: &str| Request::get("http://cart.shop/broken").field("x-team", "red").id(id);
    wait::until("the fault holds", async || web.send(&broken("before")).await.status() == 503).await;
    for _ in 0..5 {
        web.send(&broken("broken")).await.refused_with(Reason::FaultInjected);
    }
    assert_eq!(shop.executed("broken"), 0);
    for (id, request) in [
        ("method", Request::post("http://cart.shop/broken", "x").field("x-team", "red")),
        ("path", Request::get("http://cart.shop/brokenness").field("x-team", "red")),
        ("header", Request::get("http://cart.shop/broken").field("x-team", "blue")),
        ("percent", Request::get("http://cart.shop/never")),
    ] {
        web.send(&request.id(id)).await.passed();
        assert_eq!(shop.executed(id), 1, "{id}");
        wait::until("what goes out is copied", async || shop.audit.count(id) == 1).await;
    }
    assert_eq!(shop.audit.count("broken"), 0, "nor is a copy of it sent");
    let metrics = shop.mesh.proxy("shop/web-1").metrics().await;
    assert!(metrics.sum("weft_outbound_faults_total", &[("kind", "abort")]) >= 5.0);
    // It ends by itself: nobody removes it.
    let soon = time::OffsetDateTime::now_utc() + std::time::Duration::from_secs(2);
    let soon = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    shop.mesh.write_policy("faults", &faults(&format!("[{{ {own}, expires: '{soon}' }}]")));
    wait::until("the fault has ended", async || web.send(&broken("after")).await.status() == 200).await;
}

#[tokio::test]
async fn faults_come_in_shares_wait_within_the_deadline_and_answer_calls_in_their_own_way() {
    let rules = "[{ matches: [{ path: { value: /slow } }], timeouts: { request: 100ms } }, {}]";
    let shop = Shop::start("HTTPRoute", rules).await;
    let slow = "match: { path: { value: /slow } }, delay: { fixed: 60s }";
    let waits = "match: { path: { value: /waits } }, delay: { fixed: 10ms }";
    let half = "match: { path: { value: /half } }, abort: { httpStatus: 418, fraction: { numerator: 1, denominator: 2 } }";
    let call = "abort: { grpcStatus: RESOURCE_EXHAUSTED }";
    let list = [slow, waits, half, call].map(|fault| format!("{{ {fault}, {LATER} }}")).join(", ");
    shop.mesh.write_policy("faults", &faults(&format!("[{list}]")));
    let web = shop.web();
    // Nothing but the fault answers so.
    wait::until("the faults hold", async || web.get("http://cart.shop/half").await.status() == 418).await;
    web.send(&Request::get("http://cart.shop/slow").id("slow")).await.refused_with(Reason::RequestTimeout);
    assert_eq!(shop.executed("slow"), 0);
    web.send(&Request::get("http://cart.shop/waits").id("waits")).await.passed();
    let metrics = shop.mesh.proxy("shop/web-1").metrics().await;
    assert!(metrics.sum("weft_outbound_faults_total", &[("kind", "delay")]) >= 2.0);
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..100 {
        *statuses.entry(web.get("http://cart.shop/half").await.status()).or_default() += 1;
    }
    // 50 of 100 with a deviation of 5.
    assert!(statuses.len() == 2 && (20..=80).contains(&statuses[&418]), "{statuses:?}");
    // What is no call has no gRPC status, and passes.
    web.get("http://cart.shop/plain").await.passed();
    let client = Connection::open(web.address()).await;
    let request = grpc("cart.shop", "/shop.Cart/Get").body(()).unwrap();
    let whole = client.start(request, true).await.unwrap().whole().await.unwrap();
    assert_eq!(whole.field("grpc-status"), Some("8"));
    assert_eq!(whole.field("x-weft-reason"), Some(Reason::FaultInjected.label()));
}

/// An XBackendTrafficPolicy for the cart.
fn backend_policy(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {{ name: cart, namespace: shop \
         }}\nspec:\n  targetRefs: [{{ group: '', kind: Service, name: cart }}]\n  {spec}\n"
    )
}

#[tokio::test]
async fn a_services_own_sessions_hold_where_its_routes_do_not_say() {
    let shop = Shop::start("HTTPRoute", "[{ matches: [{ path: { value: /routed } }] }, {}]").await;
    let policy = "sessionPersistence: { sessionName: own, absoluteTimeout: 1h, cookieConfig: { lifetimeType: Permanent } }";
    shop.mesh.write_policy("sessions", &backend_policy(policy));
    let web = shop.web();
    wait::until("the policy holds", async || {
        web.get("http://cart.shop/").await.field("set-cookie").is_some()
    })
    .await;
    let first = web.get("http://cart.shop/").await;
    let set = first.field("set-cookie").unwrap();
    let (token, attributes) = set.split_once("; ").unwrap();
    assert_eq!(attributes, "HttpOnly; SameSite=Lax; Max-Age=3600");
    for path in ["/", "/routed", "/other"] {
        for _ in 0..8 {
            let request = Request::get(&format!("http://cart.shop{path}")).field("cookie", token);
            assert_eq!(web.send(&request).await.application(), first.application(), "{path}");
        }
    }
}

#[tokio::test]
async fn a_services_retry_budget_is_the_one_that_its_policy_says() {
    let shop = Shop::start("HTTPRoute", "[{ retry: { codes: [503], attempts: 1, backoff: 1ms } }]").await;
    // One retry in an hour, and none for the number of requests.
    let policy =
        "retryConstraint: { budget: { percent: 0, interval: 1h }, minRetryRate: { count: 1, interval: 1h } }";
    shop.mesh.write_policy("budget", &backend_policy(policy));
    let marker = "[{ retry: { codes: [503], attempts: 1, backoff: 1ms }, filters: [{ type: ResponseHeaderModifier, \
                  responseHeaderModifier: { set: [{ name: x-new, value: '1' }] } }] }]";
    // Of a later generation than the budget, so that it holds once this does.
    shop.mesh.write_policy("route", &route("cart", "cart", marker));
    let web = shop.web();
    wait::until("the policy holds", async || web.get("http://cart.shop/").await.field("x-new").is_some())
        .await;
    for _ in 0..10 {
        let response = web.send(&Request::get("http://cart.shop/status/503").id("ill")).await;
        assert_eq!(response.status(), 503);
    }
    assert_eq!(shop.executed("ill"), 11);
}
