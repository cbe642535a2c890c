//! More requests than a workload bears: who is refused, who waits, and who is served next.
//!
//! Fairness is shown by the order in which the application sees requests, not by time; times are counted in
//! the simulation in `proxy/src/overload/limiter.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request, Response};
use weft_tests::http2::{Connection, grpc};
use weft_tests::mesh::{Builder, Mesh, Workload};
use weft_tests::traffic::Traffic;
use weft_tests::wait;

const CART: &str = "http://cart.shop/items";

/// A TrafficPolicy of the service `shop/cart`. `sections` in flow YAML.
fn policy(sections: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: cart, namespace: shop }}\nspec:\n  targetRefs: \
         [{{ group: '', kind: Service, name: cart }}]\n  {sections}\n"
    )
}

/// One cart, and two clients of it.
struct Shop {
    mesh: Mesh,
    cart: Application,
}

impl Shop {
    async fn start(sections: &str) -> Self {
        let cart = Application::start("cart-1").await;
        let mesh = Builder::default()
            .service("shop/cart")
            .workload(Workload::new("shop/cart-1").serves(cart.address()))
            .workload(Workload::new("shop/web-1"))
            .workload(Workload::new("shop/till-1"))
            .policy("traffic", &policy(sections))
            .start()
            .await;
        Self { mesh, cart }
    }

    fn web(&self) -> Client {
        self.mesh.client("shop/web-1")
    }

    fn till(&self) -> Client {
        self.mesh.client("shop/till-1")
    }

    /// A request that is at the cart and stays there until the gate opens.
    async fn occupied(&self) -> JoinHandle<Response> {
        let first = send(self.web(), Request::get(CART).field("x-test-gate", "gate"));
        self.cart.arrived("gate").await;
        first
    }

    /// Opens the gate, and one more is served behind the first.
    async fn free(&self, first: JoinHandle<Response>) {
        self.cart.open("gate");
        wait::within("the first is served", first).await.expect("no panic").passed();
        self.web().get(CART).await.passed();
    }

    /// Waits until so many requests wait for their turn.
    async fn waiting(&self, count: usize) {
        wait::until(&format!("{count} requests wait"), async || {
            let metrics = self.mesh.proxy("shop/cart-1").metrics().await;
            metrics.sum("weft_inbound_requests_waiting", &[]) == count as f64
        })
        .await;
    }

    /// Waits until the cart's proxy made so many answers for this reason.
    async fn answered(&self, reason: Reason, count: f64) {
        wait::until("the answers are counted", async || {
            let labels = [("direction", "inbound"), ("reason", reason.label())];
            self.mesh.proxy("shop/cart-1").metrics().await.sum("weft_answers_total", &labels) == count
        })
        .await;
    }

    /// What the cart saw, in order, without the first.
    fn order(&self) -> Vec<String> {
        let id =
            |seen: &weft_tests::application::Recorded| seen.field("x-request-id").unwrap_or("").to_owned();
        self.cart.requests().iter().skip(1).map(id).collect()
    }
}

/// Sends on a connection of its own, in the background.
fn send(client: Client, request: Request) -> JoinHandle<Response> {
    wait::spawn(async move { client.send(&request).await })
}

#[tokio::test]
async fn a_rate_is_kept_and_who_exceeds_it_is_told_when_to_come_again() {
    let shop = Shop::start("rateLimits: [{ name: all, requests: 3, interval: 1h }]").await;
    for client in [shop.web(), shop.till(), shop.web()] {
        client.get(CART).await.passed();
    }
    for client in [shop.web(), shop.till()] {
        let refused = client.get(CART).await;
        refused.refused_with(Reason::RateLimited);
        let after: u64 = refused.field("retry-after").expect("it is told").parse().expect("seconds");
        assert!((1..=1200).contains(&after), "{after}");
    }
    assert_eq!(shop.cart.requests().len(), 3);
    shop.answered(Reason::RateLimited, 2.0).await;
    // A gRPC client is told in its own words.
    let client = Connection::open(shop.web().address()).await;
    let request = grpc("cart.shop", "/shop.Cart/Get").body(()).unwrap();
    let answer = client.start(request, true).await.unwrap().whole().await.unwrap();
    assert_eq!(answer.field("grpc-status"), Some("8"));
    let pushback: u64 =
        answer.field("grpc-retry-pushback-ms").expect("it is told").parse().expect("a number");
    assert!((1..=1_200_000).contains(&pushback), "{pushback}");
    let detail = wait::eventually("the refusal is logged", async || {
        let logged = shop.mesh.proxy("shop/cart-1").access_log();
        logged.iter().find_map(|line| line["detail"].as_str().map(str::to_owned))
    })
    .await;
    assert_eq!(detail, "rate limit all");
}

#[tokio::test]
async fn one_client_does_not_use_up_anothers_rate() {
    let shop = Shop::start("rateLimits: [{ name: each, requests: 2, interval: 1h, per: Client }]").await;
    for _ in 0..2 {
        shop.web().get(CART).await.passed();
    }
    for _ in 0..5 {
        shop.web().get(CART).await.refused_with(Reason::RateLimited);
    }
    for _ in 0..2 {
        shop.till().get(CART).await.passed();
    }
    shop.till().get(CART).await.refused_with(Reason::RateLimited);
}

#[tokio::test]
async fn a_routes_rate_counts_its_requests_in_whatever_form_their_path_comes() {
    let limit = "{ name: orders, requests: 1, interval: 1h, methods: [POST], paths: [/orders, /orders/*] }";
    let shop = Shop::start(&format!("rateLimits: [{limit}]")).await;
    let web = shop.web();
    web.send(&Request::post("http://cart.shop/orders/1", "x")).await.passed();
    for path in
        ["/orders/1", "/orders", "/orders/", "//orders/1", "/./orders/1", "/a/../orders/1", "/%6frders/1"]
    {
        let refused = web.send(&Request::post(&format!("http://cart.shop{path}"), "x")).await;
        assert_eq!(refused.reason(), Some(Reason::RateLimited), "{path}");
    }
    web.get("http://cart.shop/orders/1").await.passed();
    web.send(&Request::post("http://cart.shop/items", "x")).await.passed();
}

#[tokio::test]
async fn a_limit_is_charged_before_the_body_is_read() {
    let shop = Shop::start("rateLimits: [{ name: all, requests: 1, interval: 1h }]").await;
    shop.web().get(CART).await.passed();
    let mut connection = shop.web().connect().await.unwrap();
    let request =
        Request::new("POST", CART).field("content-length", "1000000").field("expect", "100-continue");
    connection.begin(&request).await.unwrap();
    let head = connection.head().await.unwrap();
    head.refused_with(Reason::RateLimited);
}

#[tokio::test]
async fn who_comes_after_a_crowd_is_served_in_turn_with_it() {
    let shop = Shop::start("concurrency: { max: 1, queue: 100, wait: 60s }").await;
    let first = send(shop.web(), Request::get(CART).id("first").field("x-test-gate", "gate"));
    shop.cart.arrived("gate").await;
    let mut crowd = Vec::new();
    for number in 0..20 {
        crowd.push(send(shop.web(), Request::get(CART).id(&format!("web {number}"))));
        shop.waiting(number + 1).await;
    }
    let mut quiet = Vec::new();
    for number in 0..3 {
        quiet.push(send(shop.till(), Request::get(CART).id(&format!("till {number}"))));
        shop.waiting(21 + number).await;
    }
    shop.cart.open("gate");
    for answer in crowd.into_iter().chain(quiet).chain([first]) {
        wait::within("all are served", answer).await.unwrap().passed();
    }
    let order = shop.order();
    assert_eq!(order.len(), 23);
    assert_eq!(order[..6], ["web 0", "till 0", "web 1", "till 1", "web 2", "till 2"]);
    shop.waiting(0).await;
}

#[tokio::test]
async fn a_full_queue_refuses_the_crowd_and_makes_room_for_who_comes_alone() {
    let shop = Shop::start("concurrency: { max: 1, queue: 2, wait: 60s }").await;
    let first = shop.occupied().await;
    let kept = send(shop.web(), Request::get(CART).id("kept"));
    shop.waiting(1).await;
    let last = send(shop.web(), Request::get(CART).id("last"));
    shop.waiting(2).await;
    shop.web().get(CART).await.refused_with(Reason::ConcurrencyLimited);
    let alone = send(shop.till(), Request::get(CART).id("alone"));
    let pushed_out = wait::within("the crowd's last is refused", last).await.unwrap();
    pushed_out.refused_with(Reason::ConcurrencyLimited);
    shop.cart.open("gate");
    for answer in [first, kept, alone] {
        wait::within("the others are served", answer).await.unwrap().passed();
    }
    assert_eq!(shop.order(), ["kept", "alone"]);
}

#[tokio::test]
async fn nobody_waits_longer_than_may_be_waited_nor_past_its_deadline() {
    let shop = Shop::start("concurrency: { max: 1, queue: 10, wait: 2s }").await;
    let first = shop.occupied().await;
    shop.web().get(CART).await.refused_with(Reason::QueueTimeout);
    let hurried = Request::get(CART).field("x-envoy-expected-rq-timeout-ms", "200");
    shop.web().send(&hurried).await.refused_with(Reason::RequestTimeout);
    // Whoever left holds no place.
    shop.waiting(0).await;
    shop.free(first).await;
    assert_eq!(shop.cart.requests().len(), 2, "what was refused never reached the application");
}

#[tokio::test]
async fn who_leaves_while_it_waits_holds_no_place() {
    let shop = Shop::start("concurrency: { max: 1, queue: 10, wait: 60s }").await;
    let first = shop.occupied().await;
    let mut leaves = shop.web().connect().await.unwrap();
    leaves.begin(&Request::get(CART)).await.unwrap();
    shop.waiting(1).await;
    drop(leaves);
    shop.waiting(0).await;
    shop.free(first).await;
    assert_eq!(shop.cart.requests().len(), 2, "whoever left never reached the application");
}

#[tokio::test]
async fn a_try_that_is_late_goes_before_others_of_its_client() {
    let route =
        weft_tests::mesh::route("late", "cart", "[{ retry: { codes: [503], attempts: 1, backoff: 1ms } }]");
    let shop = Shop::start("concurrency: { max: 1, queue: 10, wait: 60s }").await;
    shop.mesh.write_policy("late", &route);
    wait::until("the route holds", async || {
        let before = shop.cart.requests().len();
        shop.web().get("http://cart.shop/status/503").await;
        shop.cart.requests().len() == before + 2
    })
    .await;
    let before = shop.cart.requests().len();
    // The first try fails once it is let through, and its second queues up behind the two that wait.
    let failing = Request::get("http://cart.shop/status/503").id("late").field("x-test-gate", "gate");
    let failing = send(shop.web(), failing);
    shop.cart.arrived("gate").await;
    let mut others = Vec::new();
    for number in 0..2 {
        let gated = Request::get(CART).id(&format!("other {number}")).field("x-test-gate", "others");
        others.push(send(shop.web(), gated));
        shop.waiting(number + 1).await;
    }
    shop.cart.open("gate");
    // One of the others has the place now; the second try waits with the other one.
    shop.cart.arrived("others").await;
    shop.waiting(2).await;
    shop.cart.open("others");
    wait::within("the late one is answered", failing).await.unwrap();
    for answer in others {
        wait::within("the others are served", answer).await.unwrap().passed();
    }
    let order: Vec<_> = shop.cart.requests()[before..]
        .iter()
        .map(|seen| seen.field("x-request-id").unwrap().to_owned())
        .collect();
    assert_eq!(order, ["late", "other 0", "late", "other 1"]);
}

#[tokio::test]
async fn a_changed_policy_holds_for_connections_that_are_open() {
    let shop = Shop::start("rateLimits: [{ name: all, requests: 1000, interval: 1h }]").await;
    // The connection between the proxies is kept all the time.
    let web = shop.web();
    web.get(CART).await.passed();
    shop.mesh.write_policy("traffic", &policy("rateLimits: [{ name: all, requests: 1, interval: 1h }]"));
    wait::until("the new limit holds", async || web.get(CART).await.reason() == Some(Reason::RateLimited))
        .await;
    shop.mesh.remove_policy("traffic");
    wait::until("there is no limit any more", async || web.get(CART).await.status() == 200).await;
    let connections: std::collections::BTreeSet<_> =
        shop.cart.requests().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections.len(), 1, "nothing was closed for it");
}

/// An application that works on every request for as long as it is told, in milliseconds.
async fn working(takes: Arc<AtomicU64>) -> SocketAddr {
    async fn serve(mut stream: TcpStream, takes: &AtomicU64) -> std::io::Result<()> {
        let mut head = Vec::new();
        loop {
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut head).await? == 0 {
                    return Ok(());
                }
            }
            head.clear();
            // Its work.
            tokio::time::sleep(Duration::from_millis(takes.load(Ordering::Relaxed))).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await?;
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    wait::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let takes = takes.clone();
            // How a connection ends is its client's to say.
            wait::spawn(async move { _ = serve(stream, &takes).await });
        }
    });
    address
}

#[tokio::test]
async fn an_adaptive_limit_falls_when_the_application_gets_slow_and_rises_again_when_it_recovers() {
    // Far above what a busy machine adds to each request, and six times that.
    const WELL: u64 = 100;
    const SLOW: u64 = 600;
    // The limit is looked at every few seconds, and shown every five.
    const SETTLED: Duration = Duration::from_secs(180);
    let takes = Arc::new(AtomicU64::new(WELL));
    let address = working(takes.clone()).await;
    let sections = "concurrency: { adaptive: { min: 2, max: 12 }, queue: 100, wait: 60s }";
    let mesh = Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/cart-1").serves(address))
        .workload(Workload::new("shop/web-1"))
        .policy("traffic", &policy(sections))
        .start()
        .await;
    let places = async || mesh.proxy("shop/cart-1").metrics().await.sum("weft_inbound_places", &[]);
    // More than it may ever be given at once, so that the limit is what holds them back.
    let traffic = Traffic::start(mesh.client("shop/web-1"), 24, |id| Request::get(CART).id(id));
    wait::until_within(SETTLED, "it bears much", async || places().await >= 10.0).await;
    takes.store(SLOW, Ordering::Relaxed);
    wait::until_within(SETTLED, "it is given less", async || (2.0..=7.0).contains(&places().await)).await;
    takes.store(WELL, Ordering::Relaxed);
    wait::until_within(SETTLED, "it is given more again", async || places().await >= 10.0).await;
    // All of them waited their turn.
    traffic.stop().await.all_succeeded();
}
