//! The end of a process: what is in flight finishes, what is new is turned away, nothing hangs.

use bytes::Bytes;
use nix::sys::signal::Signal;
use std::time::Duration;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::Request;
use weft_tests::http2::{Connection, frame, grpc, send_all};
use weft_tests::mesh::{Builder, Mesh, Workload};
use weft_tests::traffic::Traffic;
use weft_tests::wait;

const CART: &str = "http://cart.shop/items";

async fn pair(application: &Application) -> Mesh {
    Builder::pair(application.address()).start().await
}

#[tokio::test]
async fn a_request_in_flight_finishes_and_then_the_server_proxy_ends() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    let mut connection = mesh.client("shop/web-1").connect().await.unwrap();
    connection.begin(&Request::get(CART).field("x-test-gate", "go")).await.unwrap();
    application.arrived("go").await;
    mesh.proxy("shop/cart-1").process().signal(Signal::SIGTERM);
    wait::until("it is not ready any more", async || mesh.proxy("shop/cart-1").ready().await != Some(true))
        .await;
    application.open("go");
    let response = connection.finish("GET").await.unwrap();
    response.passed();
    let (status, took) = mesh.proxy_mut("shop/cart-1").process_mut().wait().await;
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(20), "quiet ends the drain before its deadline: {took:?}");
}

#[tokio::test]
async fn a_proxy_that_drains_carries_its_applications_calls_as_before() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    let mut kept = client.connect().await.unwrap();
    kept.send(&Request::get(CART)).await.unwrap().passed();
    mesh.proxy("shop/web-1").process().signal(Signal::SIGTERM);
    wait::until("it is not ready any more", async || mesh.proxy("shop/web-1").ready().await != Some(true))
        .await;
    // Longer than idle connections of others are kept in a drain, and on both kinds of connection.
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        let response = kept.send(&Request::post(CART, "order")).await.unwrap();
        response.passed();
        assert_eq!(response.field("connection"), None, "nothing is hinted: {:?}", response.head);
        client.get(CART).await.passed();
        let http2 = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
        assert_eq!(http2.get(CART, &[]).await.unwrap().status(), 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // An idle connection is the application's to close: for as long as this nothing happens to it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    kept.send(&Request::post(CART, "order")).await.unwrap().passed();
    drop(kept);
    let (status, took) = mesh.proxy_mut("shop/web-1").process_mut().wait().await;
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(20), "it ends once its application uses it no more: {took:?}");
}

#[tokio::test]
async fn an_http2_stream_in_flight_finishes_after_goaway() {
    let application = Application::start("cart-1").await;
    let mut mesh = Builder::default()
        .service("shop/cart")
        .with_protocol("grpc")
        .workload(Workload::new("shop/cart-1").serves(application.address()).protocol("grpc"))
        .workload(Workload::new("shop/web-1").calls("shop/cart", 80))
        .start()
        .await;
    let connection = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    let request = grpc("cart.shop", "/weft.test.Echo/Chat").body(()).unwrap();
    let mut exchange = connection.start(request, false).await.unwrap();
    send_all(&mut exchange.send, frame(b"one"), false).await.unwrap();
    let (_, mut body, mut send) = exchange.response().await.unwrap();
    assert!(body.message().await.unwrap().is_some());
    for uid in ["shop/web-1", "shop/cart-1"] {
        mesh.proxy(uid).process().signal(Signal::SIGTERM);
    }
    wait::until("neither is ready any more", async || {
        mesh.proxy("shop/web-1").ready().await != Some(true)
            && mesh.proxy("shop/cart-1").ready().await != Some(true)
    })
    .await;
    for text in ["two", "three"] {
        send_all(&mut send, frame(text.as_bytes()), false).await.unwrap();
        assert_eq!(body.message().await.unwrap().as_deref(), Some(text.as_bytes()));
    }
    send_all(&mut send, Bytes::new(), true).await.unwrap();
    assert_eq!(body.message().await.unwrap(), None);
    assert_eq!(body.trailers().await.unwrap()["grpc-status"], "0");
    // The client's own proxy stays for as long as its application uses it.
    drop((connection, body, send));
    for uid in ["shop/web-1", "shop/cart-1"] {
        let (status, _) = mesh.proxy_mut(uid).process_mut().wait().await;
        assert!(status.success(), "{uid}: {status}");
    }
}

#[tokio::test]
async fn the_deadline_ends_what_does_not_end_by_itself() {
    let application = Application::start("cart-1").await;
    let mut mesh = Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/cart-1").serves(application.address()))
        .workload(Workload::new("shop/web-1").settings("drain: { deadline: 1s }"))
        .start()
        .await;
    let mut connection = mesh.client("shop/web-1").connect().await.unwrap();
    connection.begin(&Request::get(CART).field("x-test-gate", "never")).await.unwrap();
    application.arrived("never").await;
    let told = std::time::Instant::now();
    mesh.proxy("shop/web-1").process().signal(Signal::SIGTERM);
    let (status, took) = mesh.proxy_mut("shop/web-1").process_mut().wait().await;
    assert_eq!(status.code(), Some(0), "{status}");
    let lived = told.elapsed();
    assert!(lived >= Duration::from_secs(1), "what is in flight has until the deadline: {lived:?}");
    assert!(took < Duration::from_secs(15), "and no longer: {took:?}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    let mut connection = mesh.client("shop/web-1").connect().await.unwrap();
    connection.begin(&Request::get(CART).field("x-test-gate", "never")).await.unwrap();
    application.arrived("never").await;
    mesh.proxy("shop/web-1").process().signal(Signal::SIGTERM);
    wait::until("it is not ready any more", async || mesh.proxy("shop/web-1").ready().await != Some(true))
        .await;
    mesh.proxy("shop/web-1").process().signal(Signal::SIGTERM);
    let (_, took) = mesh.proxy_mut("shop/web-1").process_mut().wait().await;
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test]
async fn an_idle_proxy_ends_at_once() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    mesh.client("shop/web-1").get(CART).await.passed();
    for uid in ["shop/web-1", "shop/cart-1"] {
        mesh.proxy(uid).process().signal(Signal::SIGTERM);
        let (status, took) = mesh.proxy_mut(uid).process_mut().wait().await;
        assert_eq!(status.code(), Some(0), "{uid}: {status}");
        assert!(took < Duration::from_secs(15), "{uid}: {took:?}");
    }
}

#[tokio::test]
async fn a_replica_that_drains_under_traffic_costs_no_request() {
    let first = Application::start("cart-1").await;
    let second = Application::start("cart-2").await;
    let mut mesh = Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/cart-1").serves(first.address()))
        .workload(Workload::new("shop/cart-2").serves(second.address()))
        .workload(Workload::new("shop/web-1"))
        .start()
        .await;
    let get = Traffic::start(mesh.client("shop/web-1"), 2, |id| Request::get(CART).id(id));
    let post =
        Traffic::start(mesh.client("shop/web-1"), 2, |id| Request::post(CART, "order").id(&format!("p{id}")));
    get.more(50).await;
    mesh.proxy("shop/cart-1").process().signal(Signal::SIGTERM);
    let (status, took) = mesh.proxy_mut("shop/cart-1").process_mut().wait().await;
    assert_eq!(status.code(), Some(0));
    // Clients that did not stay away would keep it open until a fifth before its deadline of 25 s.
    assert!(took < Duration::from_secs(20), "its clients went elsewhere: {took:?}");
    get.more(100).await;
    get.stop().await.all_succeeded();
    post.stop().await.all_succeeded();
}

#[tokio::test]
async fn a_replica_that_is_taken_out_and_stopped_costs_no_request_and_one_that_is_added_gets_some() {
    let (first, second) = (Application::start("cart-1").await, Application::start("cart-2").await);
    let mut mesh = Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/cart-1").serves(first.address()))
        .workload(Workload::new("shop/cart-2").serves(second.address()))
        .workload(Workload::new("shop/web-1"))
        .start()
        .await;
    let whole = mesh.read_policy("mesh");
    let traffic = Traffic::start(mesh.client("shop/web-1"), 4, |id| Request::post(CART, "order").id(id));
    traffic.more(100).await;
    let rest: Vec<_> = whole.split("---\n").filter(|document| !document.contains("name: cart-1")).collect();
    mesh.write_policy("mesh", &rest.join("---\n"));
    mesh.proxy("shop/cart-1").process().signal(Signal::SIGTERM);
    let (status, _) = mesh.proxy_mut("shop/cart-1").process_mut().wait().await;
    assert_eq!(status.code(), Some(0));
    traffic.more(100).await;
    mesh.write_policy("mesh", &whole);
    mesh.proxy_mut("shop/cart-1").start().await;
    let before = first.requests().len();
    wait::until("the added replica gets requests", async || first.requests().len() > before + 10).await;
    traffic.stop().await.all_succeeded();
}

#[tokio::test]
async fn the_control_api_ends_on_a_signal_with_proxies_connected() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    mesh.client("shop/web-1").get(CART).await.passed();
    mesh.control().signal(Signal::SIGTERM);
    let mut control = mesh.take_control();
    let (status, took) = control.wait().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    mesh.client("shop/web-1").get(CART).await.passed();
    // What was never called before cannot be looked up now, and that is the reason told.
    mesh.client("shop/web-1").get("http://other.shop/").await.refused_with(Reason::ConfigurationMissing);
}
