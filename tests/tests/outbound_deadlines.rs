//! One deadline from hop to hop: who says it, what spends it, and what becomes of work that nobody waits for.

use std::time::Duration;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::Request;
use weft_tests::http2::{Connection, frame, grpc};
use weft_tests::mesh::{Builder, Mesh, Workload, peer_authentication, route};
use weft_tests::relay::{Holder, Relay};

const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

async fn pair(application: std::net::SocketAddr, rules: &str) -> Mesh {
    Builder::pair(application).policy("route", &route("cart", "cart", rules)).start().await
}

fn milliseconds(grpc_timeout: &str) -> u64 {
    grpc_timeout.strip_suffix('m').expect("it is told in milliseconds").parse().expect("a number")
}

#[tokio::test]
async fn the_application_of_a_call_is_shown_what_is_left_of_the_earliest_deadline() {
    let application = Application::start("cart-1").await;
    let mesh = pair(application.address(), "[{ timeouts: { request: 20s } }]").await;
    let client = Connection::open(mesh.client("shop/web-1").address()).await;
    // By the route, by the call, and by the field that applications pass on.
    let cases = [("none", None, 20_000), ("earlier", Some("10S"), 10_000), ("later", Some("1H"), 20_000)];
    for (id, timeout, most) in cases {
        let mut request = grpc("cart.shop", "/shop.Cart/Get").header("x-request-id", id);
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let answer = client.start(request.body(()).unwrap(), true).await.unwrap().whole().await.unwrap();
        assert_eq!(answer.field("grpc-status"), Some("0"), "{id}");
        let seen = application.request(id);
        let left = milliseconds(seen.field("grpc-timeout").expect("the call is told"));
        assert!((1..=most).contains(&left), "{id}: {left}");
        assert_eq!(seen.field("x-weft-deadline"), None);
    }
    let request = Request::get("http://cart.shop/").id("plain").field(EXPECTED, "5000");
    mesh.client("shop/web-1").send(&request).await.passed();
    let left: u64 = application.request("plain").field(EXPECTED).unwrap().parse().unwrap();
    assert!((1..=5000).contains(&left), "{left}");
}

#[tokio::test]
async fn without_a_deadline_nothing_is_added() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    mesh.client("shop/web-1").send(&Request::get("http://cart.shop/").id("free")).await.passed();
    let seen = application.request("free");
    for name in [EXPECTED, "grpc-timeout", "x-weft-deadline", "x-weft-attempt"] {
        assert_eq!(seen.field(name), None, "{name}");
    }
}

#[tokio::test]
async fn each_hop_that_passes_it_on_has_less_and_each_that_does_not_begins_anew() {
    for (passes, carried) in [(&[EXPECTED][..], true), (&[][..], false)] {
        let leaf = Application::start("leaf").await;
        let relay = Relay::start("leaf.shop", passes).await;
        let mesh = Builder::default()
            .service("shop/middle")
            .service("shop/leaf")
            .workload(Workload::new("shop/middle-1").serves(relay.address()))
            .workload(Workload::new("shop/leaf-1").serves(leaf.address()))
            .workload(Workload::new("shop/web-1"))
            .policy("route", &route("leaf", "leaf", "[{ timeouts: { request: 25s } }]"))
            .start()
            .await;
        relay.calls_through(mesh.client("shop/middle-1"));
        let request = Request::get("http://middle.shop/").id("through").field(EXPECTED, "20000");
        assert_eq!(mesh.client("shop/web-1").send(&request).await.status(), 200);
        let left: u64 = leaf.request("through").field(EXPECTED).unwrap().parse().unwrap();
        let range = if carried { 1..=20_000 } else { 1..=25_000 };
        assert!(range.contains(&left), "{passes:?}: {left}");
    }
}

#[tokio::test]
async fn waits_between_tries_spend_it() {
    let application = Application::start("cart-1").await;
    let rules = "[{ timeouts: { request: 20s }, retry: { codes: [503], attempts: 1, backoff: 200ms } }]";
    let mesh = pair(application.address(), rules).await;
    let request = Request::get("http://cart.shop/status/503").id("twice");
    assert_eq!(mesh.client("shop/web-1").send(&request).await.status(), 503);
    let left: Vec<u64> =
        application.requests().iter().map(|seen| seen.field(EXPECTED).unwrap().parse().unwrap()).collect();
    assert_eq!(left.len(), 2);
    assert!(left[1] + 200 <= left[0], "{left:?}");
}

#[tokio::test]
async fn a_retry_that_the_deadline_leaves_no_time_for_is_not_waited_for() {
    let application = Application::start("cart-1").await;
    let rules = "[{ timeouts: { request: 20s }, retry: { codes: [503], attempts: 3, backoff: 30s } }]";
    let mesh = pair(application.address(), rules).await;
    let request = Request::get("http://cart.shop/status/503").id("once");
    let answer = mesh.client("shop/web-1").send(&request).await;
    assert_eq!((answer.status(), answer.reason()), (503, None), "the answer that is there is passed on");
    assert_eq!(application.count("once"), 1);
    let labels = [("reason", "status"), ("outcome", "deadline")];
    let metrics = mesh.proxy("shop/web-1").metrics().await;
    assert_eq!(metrics.sum("weft_outbound_retries_total", &labels), 1.0);
}

#[tokio::test]
async fn work_is_taken_back_when_its_deadline_passes() {
    let holder = Holder::start().await;
    let mesh = pair(holder.address(), "[{ timeouts: { request: 20s } }]").await;
    let web = mesh.client("shop/web-1");
    let request = Request::get("http://cart.shop/").field(EXPECTED, "3000");
    web.send(&request).await.refused_with(Reason::RequestTimeout);
    holder.given_up(1).await;
    let client = Connection::open(web.address()).await;
    let request = grpc("cart.shop", "/shop.Cart/Get").header("grpc-timeout", "3000m").body(()).unwrap();
    let answer = client.start(request, true).await.unwrap().whole().await.unwrap();
    assert_eq!(answer.field("grpc-status"), Some("4"));
    assert_eq!(answer.field("x-weft-reason"), Some(Reason::RequestTimeout.label()));
    holder.given_up(2).await;
}

#[tokio::test]
async fn work_is_taken_back_when_its_caller_leaves() {
    let holder = Holder::start().await;
    let mesh = Builder::pair(holder.address()).start().await;
    let web = mesh.client("shop/web-1");
    let mut connection = web.connect().await.unwrap();
    connection.begin(&Request::get("http://cart.shop/")).await.unwrap();
    holder.holds(1).await;
    drop(connection);
    holder.given_up(1).await;
    let client = Connection::open(web.address()).await;
    let request = grpc("cart.shop", "/shop.Cart/Get").body(()).unwrap();
    let exchange = client.start(request, true).await.unwrap();
    holder.holds(2).await;
    drop(exchange);
    holder.given_up(2).await;
}

#[tokio::test]
async fn an_answer_that_is_not_over_in_time_is_cut() {
    let application = Application::start("cart-1").await;
    let mesh = pair(application.address(), "[{ timeouts: { request: 5s } }]").await;
    let web = mesh.client("shop/web-1");
    let client = Connection::open(web.address()).await;
    let request = grpc("cart.shop", "/shop.Cart/Watch").header("x-test-gate-body", "never").body(()).unwrap();
    let mut exchange = client.start(request, false).await.unwrap();
    exchange.send.send_data(frame(b"first"), false).unwrap();
    let (head, mut body, _send) = exchange.response().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(body.message().await.unwrap().as_deref(), Some(&b"first"[..]));
    assert_eq!(body.message().await.unwrap(), None);
    let trailers = body.trailers().await.unwrap();
    let field = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    assert_eq!(field("grpc-status"), Some("4"));
    assert_eq!(field("x-weft-reason"), Some(Reason::RequestTimeout.label()));
    // Over HTTP/1.1 there is no other way to say it than to end the connection.
    let request = Request::get("http://cart.shop/bytes/1000000").field("x-test-gate-body", "never");
    assert!(web.try_send(&request).await.is_err(), "half an answer must not look like a whole one");
    web.send(&Request::get("http://cart.shop/bytes/1000000")).await.passed();
}

#[tokio::test]
async fn the_server_s_side_ends_what_a_client_without_a_proxy_has_given_a_deadline() {
    let holder = Holder::start().await;
    let mesh = Builder::pair(holder.address())
        .policy("mode", &peer_authentication("mode", "cart", "PERMISSIVE"))
        .start()
        .await;
    let client = Connection::open(mesh.proxy("shop/cart-1").inbound()).await;
    let request = grpc("cart.shop", "/shop.Cart/Get").header("grpc-timeout", "3000m").body(()).unwrap();
    let answer = client.start(request, true).await.unwrap().whole().await.unwrap();
    assert_eq!(answer.field("grpc-status"), Some("4"));
    holder.given_up(1).await;
    let labels = [("direction", "inbound"), ("reason", Reason::RequestTimeout.label())];
    assert_eq!(mesh.proxy("shop/cart-1").metrics().await.sum("weft_answers_total", &labels), 1.0);
}

#[tokio::test]
async fn a_request_that_times_out_among_its_retries_is_recorded_with_all_its_tries() {
    let holder = Holder::start().await;
    let rules = "[{ timeouts: { request: 6s, backendRequest: 1s }, retry: { attempts: 10, backoff: 1ms } }]";
    let mesh = pair(holder.address(), rules).await;
    let start = std::time::Instant::now();
    mesh.client("shop/web-1").get("http://cart.shop/").await.refused_with(Reason::RequestTimeout);
    assert!(start.elapsed() >= Duration::from_secs(5), "it had six seconds");
    let logged = weft_tests::wait::eventually("it is logged", async || {
        mesh.proxy("shop/web-1").access_log().first().cloned()
    })
    .await;
    assert!(logged["tries"].as_u64().unwrap() >= 2, "{logged}");
    assert!(logged["endpoint"].is_string(), "who did not answer is told: {logged}");
    // Each try was taken back.
    holder.holds(2).await;
    holder.given_up(2).await;
}
