//! Where a request goes: names, ports, routes, filters, timeouts.

use std::collections::BTreeMap;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request};
use weft_tests::http1::Reader;
use weft_tests::mesh::{Builder, Mesh, Workload, route};
use weft_tests::wait;

/// Two versions of a catalog, each a service of its own, and a service without workloads.
struct Shop {
    mesh: Mesh,
    first: Application,
    _second: Application,
}

impl Shop {
    async fn start(rules: &str) -> Self {
        let (first, second) = (Application::start("v1").await, Application::start("v2").await);
        let mesh = Builder::default()
            .service("shop/catalog")
            .service_of("shop/catalog-v1", "catalog", Some("v1"))
            .service_of("shop/catalog-v2", "catalog", Some("v2"))
            .service("shop/empty")
            .workload(Workload::new("shop/catalog-1").label("version", "v1").serves(first.address()))
            .workload(Workload::new("shop/catalog-2").label("version", "v2").serves(second.address()))
            .workload(Workload::new("shop/web-1").calls("shop/catalog", 80).calls("shop/catalog-v2", 80))
            .policy("route", &route("catalog", "catalog", rules))
            .start()
            .await;
        Self { mesh, first, _second: second }
    }

    fn web(&self) -> Client {
        self.mesh.client("shop/web-1")
    }
}

const V1: &str = "backendRefs: [{ name: catalog-v1, port: 80 }]";
const V2: &str = "backendRefs: [{ name: catalog-v2, port: 80 }]";

#[tokio::test]
async fn a_split_is_as_the_weights_say() {
    let split = "[{ backendRefs: [{ name: catalog-v1, port: 80, weight: 90 }, { name: catalog-v2, port: 80, \
                 weight: 10 }] }]";
    let shop = Shop::start(split).await;
    let mut counts = BTreeMap::<String, u32>::new();
    let mut connection = shop.web().connect().await.unwrap();
    for _ in 0..400 {
        let response = connection.send(&Request::get("http://catalog.shop/")).await.unwrap();
        response.passed();
        *counts.entry(response.application().to_owned()).or_default() += 1;
    }
    // 40 expected with a deviation of 6: six deviations either way.
    assert!((4..=76).contains(&counts["v2"]), "{counts:?}");
    assert_eq!(counts["v1"] + counts["v2"], 400);
}

#[tokio::test]
async fn headers_methods_queries_and_paths_choose_a_rule() {
    let rules = format!(
        "[{{ matches: [{{ headers: [{{ name: X-Version, value: two }}] }}, {{ method: DELETE }}, {{ queryParams: [{{ \
         name: version, value: '2' }}] }}, {{ path: {{ type: PathPrefix, value: /v2 }} }}], {V2} }}, {{ {V1} }}]"
    );
    let shop = Shop::start(&rules).await;
    let web = shop.web();
    let application = async |request: Request| {
        let response = web.send(&request).await;
        response.passed();
        response.application().to_owned()
    };
    let url = "http://catalog.shop/";
    assert_eq!(application(Request::get(url)).await, "v1");
    assert_eq!(application(Request::get(url).field("x-version", "two")).await, "v2");
    assert_eq!(application(Request::get(url).field("x-version", "three")).await, "v1");
    assert_eq!(application(Request::new("DELETE", url)).await, "v2");
    assert_eq!(application(Request::get("http://catalog.shop/?a=1&version=2")).await, "v2");
    assert_eq!(application(Request::get("http://catalog.shop/v2/items")).await, "v2");
    assert_eq!(application(Request::get("http://catalog.shop/v22")).await, "v1");
}

#[tokio::test]
async fn a_redirect_is_answered_by_the_mesh() {
    let rules = "[{ matches: [{ path: { type: PathPrefix, value: /old } }], filters: [{ type: RequestRedirect, \
                 requestRedirect: { scheme: https, hostname: new.example, path: { type: ReplacePrefixMatch, \
                 replacePrefixMatch: /new }, statusCode: 301 } }] }]";
    let shop = Shop::start(rules).await;
    let response = shop.web().get("http://catalog.shop/old/items?x=1").await;
    assert_eq!(response.status(), 301);
    assert_eq!(response.reason(), Some(Reason::RouteRedirect));
    assert_eq!(response.field("location"), Some("https://new.example/new/items?x=1"));
    assert_eq!(shop.first.requests(), []);
}

#[tokio::test]
async fn rewrites_and_header_filters_change_what_the_application_and_the_client_see() {
    let rules = format!(
        "[{{ matches: [{{ path: {{ type: PathPrefix, value: /shop }} }}], filters: [{{ type: URLRewrite, urlRewrite: {{ \
         hostname: rewritten.example, path: {{ type: ReplacePrefixMatch, replacePrefixMatch: /inner }} }} }}, {{ type: \
         RequestHeaderModifier, requestHeaderModifier: {{ set: [{{ name: x-set, value: 'new' }}], add: [{{ name: x-add, \
         value: 'more' }}], remove: [x-remove] }} }}, {{ type: ResponseHeaderModifier, responseHeaderModifier: {{ set: \
         [{{ name: x-answer, value: 'ours' }}] }} }}], {V1} }}]"
    );
    let shop = Shop::start(&rules).await;
    let request = Request::get("http://catalog.shop/shop/items?x=1")
        .id("rewritten")
        .field("x-set", "old")
        .field("x-remove", "gone")
        .field("x-test-field", "x-answer=theirs");
    let response = shop.web().send(&request).await;
    response.passed();
    assert_eq!(response.field("x-answer"), Some("ours"));
    let seen = shop.first.request("rewritten");
    assert_eq!(seen.target, "/inner/items?x=1");
    assert_eq!(seen.field("host"), Some("rewritten.example"));
    assert_eq!(seen.field("x-set"), Some("new"));
    assert_eq!(seen.field("x-add"), Some("more"));
    assert_eq!(seen.field("x-remove"), None);
}

#[tokio::test]
async fn a_request_timeout_ends_the_request() {
    let shop = Shop::start(&format!("[{{ timeouts: {{ request: 300ms }}, {V1} }}]")).await;
    let request = Request::get("http://catalog.shop/").field("x-test-gate", "never");
    let start = std::time::Instant::now();
    shop.web().send(&request).await.refused_with(Reason::RequestTimeout);
    assert!(start.elapsed().as_millis() >= 300, "{:?}", start.elapsed());
    let web = shop.web();
    wait::until("another is answered in time", async || web.is_answered("http://catalog.shop/", 200).await)
        .await;
}

#[tokio::test]
async fn a_timeout_of_zero_is_none() {
    let application = Application::start("cart").await;
    let rules = "[{ matches: [{ path: { value: /unbounded } }], timeouts: { request: 0s } }, {}]";
    let mesh = Builder::pair(application.address())
        .mesh_config("{ requestTimeout: 300ms }")
        .policy("route", &route("cart", "cart", rules))
        .start()
        .await;
    let client = mesh.client("shop/web-1");
    let mut unbounded = client.connect().await.unwrap();
    let slow = Request::get("http://cart.shop/unbounded").field("x-test-gate", "slow");
    unbounded.begin(&slow).await.unwrap();
    application.arrived("slow").await;
    let never = Request::get("http://cart.shop/bounded").field("x-test-gate", "never");
    client.send(&never).await.refused_with(Reason::RequestTimeout);
    // It began before the one whose time has passed.
    application.open("slow");
    let response = unbounded.finish("GET").await.unwrap();
    response.passed();
}

#[tokio::test]
async fn what_cannot_be_routed_is_answered_with_its_reason() {
    let rules = format!(
        "[{{ matches: [{{ path: {{ type: Exact, value: /only }} }}], {V1} }}, {{ matches: [{{ path: {{ type: Exact, value: \
         /nothing }} }}], backendRefs: [{{ name: catalog-v1, port: 80, weight: 0 }}] }}]"
    );
    let shop = Shop::start(&rules).await;
    let web = shop.web();
    web.get("http://catalog.shop/only").await.passed();
    web.get("http://catalog.shop/other").await.refused_with(Reason::RouteNotFound);
    web.get("http://catalog.shop/nothing").await.refused_with(Reason::BackendInvalid);
    web.get("http://empty.shop/").await.refused_with(Reason::EndpointsMissing);
    web.get("http://nobody.shop/").await.refused_with(Reason::ServiceUnknown);
    web.get("http://catalog.shop:81/").await.refused_with(Reason::ServiceUnknown);
}

#[tokio::test]
async fn every_form_of_a_name_leads_to_the_service() {
    let shop = Shop::start(&format!("[{{ {V1} }}]")).await;
    for host in [
        "catalog",
        "catalog.shop",
        "catalog.shop.svc",
        "catalog.shop.svc.cluster.local",
        "CATALOG.Shop",
        "catalog.shop:80",
    ] {
        let response = shop.web().get(&format!("http://{host}/")).await;
        response.passed();
        assert_eq!(response.application(), "v1", "{host}");
    }
}

#[tokio::test]
async fn a_port_of_its_own_leads_to_one_service_whatever_the_host_says() {
    let shop = Shop::start(&format!("[{{ {V1} }}]")).await;
    let catalog = shop.mesh.client_of("shop/web-1", "shop/catalog");
    let second = shop.mesh.client_of("shop/web-1", "shop/catalog-v2");
    assert_eq!(catalog.get("http://localhost/").await.application(), "v1");
    assert_eq!(second.get("http://whatever.example/").await.application(), "v2");
}

#[tokio::test]
async fn connect_is_a_dial_through_the_mesh() {
    let shop = Shop::start(&format!("[{{ {V1} }}]")).await;
    let mut stream = shop.web().tunnel("catalog.shop:80").await.expect("a tunnel");
    let request = b"GET /tunnel HTTP/1.1\r\nHost: catalog.shop\r\nx-request-id: tunnelled\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.unwrap();
    let head = wait::within("an answer", Reader::new(stream).head()).await.unwrap().unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(shop.first.request("tunnelled").target, "/tunnel");
    let refused = shop.web().tunnel("nobody.shop:80").await.expect_err("no such service");
    refused.refused_with(Reason::ServiceUnknown);
}

#[tokio::test]
async fn a_workload_is_reached_by_its_own_address_without_routes() {
    let shop = Shop::start(&format!("[{{ {V1} }}]")).await;
    let address = shop.mesh.proxy("shop/catalog-2").inbound();
    let response = shop.web().get(&format!("http://{address}/")).await;
    response.passed();
    assert_eq!(response.application(), "v2");
    let metrics = shop.mesh.proxy("shop/catalog-2").metrics().await;
    assert_eq!(metrics.sum("istio_requests_total", &[("connection_security_policy", "mutual_tls")]), 1.0);
}

#[tokio::test]
async fn a_workload_without_a_proxy_is_reached_in_plaintext_because_it_says_so() {
    let plain = Application::start("plain").await;
    let mesh = Builder::default()
        .service("shop/plain")
        .workload(Workload::new("shop/plain-1").serves(plain.address()).not_injected())
        .workload(Workload::new("shop/web-1"))
        .start()
        .await;
    let response = mesh.client("shop/web-1").get("http://plain.shop/").await;
    response.passed();
    assert_eq!(response.application(), "plain");
}

#[tokio::test]
async fn a_call_to_oneself_through_ones_own_outbound_port_is_no_loop() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    mesh.client("shop/cart-1").get("http://cart.shop/").await.passed();
}

#[tokio::test]
async fn an_address_that_is_not_the_meshs_is_not_dialled() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    // Neither the proxy's own port, which would be a loop, nor the application behind another proxy.
    for address in [mesh.proxy("shop/web-1").outbound(), application.address()] {
        let response = mesh.client("shop/web-1").get(&format!("http://{address}/")).await;
        response.refused_with(Reason::ServiceUnknown);
    }
    assert_eq!(application.requests(), []);
}

#[tokio::test]
async fn routes_change_live() {
    let shop = Shop::start(&format!("[{{ {V1} }}]")).await;
    let web = shop.web();
    assert_eq!(web.get("http://catalog.shop/").await.application(), "v1");
    shop.mesh.write_policy("route", &route("catalog", "catalog", &format!("[{{ {V2} }}]")));
    wait::until("the new route holds", async || {
        let response = web.get("http://catalog.shop/").await;
        response.passed();
        response.application() == "v2"
    })
    .await;
}
