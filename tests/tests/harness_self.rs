//! The harness against itself, without a mesh between: what fails here says nothing of the product.

use weft_tests::application::Application;
use weft_tests::certificate::{Authority, Impostor, Shape, judged};
use weft_tests::client::{Client, Request};
use weft_tests::http2::{Connection, frame, grpc, send_all};
use weft_tests::traffic::Traffic;
use weft_tests::{raw, wait, websocket};

#[tokio::test]
async fn the_application_answers_what_a_request_asks_for() {
    let application = Application::start("app").await;
    let client = Client::direct(application.address());
    assert_eq!(client.get("http://x/a?b").await.text(), "app GET /a?b");
    assert_eq!(client.get("http://x/bytes/100000").await.body.len(), 100_000);
    assert_eq!(client.get("http://x/status/418").await.status(), 418);
    assert_eq!(client.send(&Request::post("http://x/discard", "12345")).await.text(), "5");
    let echo = client.send(&Request::post("http://x/echo", "abc").trailers(&[("x-t", "1")])).await;
    assert_eq!((echo.text().as_str(), echo.trailers.len()), ("abc", 1));
    assert_eq!(client.get("http://x/trailers").await.trailers[0].1, "42");
    assert!(client.try_send(&Request::get("http://x/close")).await.is_err());
    assert!(client.try_send(&Request::get("http://x/cut")).await.is_err());
    assert_eq!(client.send(&Request::new("HEAD", "http://x/")).await.text(), "");
    client.echo("http://x/echo", 5 << 20).await;
    let named = client.send(&Request::get("http://x/").id("one").field("X-Case", "1")).await;
    assert_eq!(named.application(), "app");
    assert_eq!(application.request("one").field("x-case"), Some("1"));
}

#[tokio::test]
async fn gates_hold_and_open() {
    let application = Application::start("app").await;
    let mut connection = Client::direct(application.address()).connect().await.unwrap();
    connection.begin(&Request::get("http://x/").field("x-test-gate", "g")).await.unwrap();
    application.arrived("g").await;
    application.open("g");
    connection.finish("GET").await.unwrap().passed();
}

#[tokio::test]
async fn http2_and_grpc_work() {
    let application = Application::start("app").await;
    let connection = Connection::open(application.address()).await;
    assert_eq!(connection.get("http://x/hello", &[]).await.unwrap().body, b"app GET /hello");
    assert_eq!(connection.get("http://x/trailers", &[]).await.unwrap().field("x-checksum"), Some("42"));
    let mut exchange =
        connection.start(grpc("x", "/weft.test.Echo/Chat").body(()).unwrap(), false).await.unwrap();
    send_all(&mut exchange.send, frame(b"one"), false).await.unwrap();
    let (_, mut body, mut send) = exchange.response().await.unwrap();
    assert_eq!(body.message().await.unwrap().as_deref(), Some(&b"one"[..]));
    let long = vec![1; 3 << 20];
    let (sent, received) = tokio::join!(send_all(&mut send, frame(&long), true), body.message());
    sent.unwrap();
    assert_eq!(received.unwrap().map(|message| message.len()), Some(3 << 20));
    assert_eq!(body.message().await.unwrap(), None);
    assert_eq!(body.trailers().await.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_websocket_echoes() {
    let application = Application::start("app").await;
    let mut connection = Client::direct(application.address()).connect().await.unwrap();
    let request =
        Request::get("http://x/socket").field("Upgrade", "websocket").field("Sec-WebSocket-Key", "k");
    connection.begin(&request).await.unwrap();
    assert_eq!(connection.head().await.unwrap().status(), 101);
    let (mut read, _, mut write) = connection.into_parts();
    websocket::send_text(&mut write, "hello").await.unwrap();
    let echo = wait::within("an echo", websocket::read_frame(&mut read)).await.unwrap();
    assert_eq!(echo, (1, b"hello".to_vec()));
}

#[tokio::test]
async fn traffic_counts_what_became_of_its_requests() {
    let application = Application::start("app").await;
    let traffic =
        Traffic::start(Client::direct(application.address()), 2, |id| Request::get("http://x/").id(id));
    traffic.more(20).await;
    application.stop();
    traffic.more(4).await;
    let outcomes = traffic.stop().await;
    assert!(outcomes.from("app") >= 20 && !outcomes.failed.is_empty(), "{:?}", outcomes.counts);
    assert!(outcomes.succeeded.iter().all(|id| application.count(id) == 1));
}

#[tokio::test]
async fn an_impostor_shows_its_certificate_and_raw_bytes_are_answered() {
    let svid = Authority::new("cluster.local").issue(&Shape::svid("spiffe://cluster.local/ns/a/sa/b"));
    let impostor = Impostor::start(&svid, b"weft1-http/1.1").await;
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = judged(impostor.address(), None, "x.y", &[b"weft1-http/1.1"], request).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    let server = raw::Server::start(b"HTTP/1.1 204 No\r\n\r\n").await;
    assert_eq!(raw::exchange(server.address(), request).await.status(), 204);
}
