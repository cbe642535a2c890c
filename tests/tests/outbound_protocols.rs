//! What is carried: HTTP/1.1 to the letter, HTTP/2, gRPC, WebSocket, long bodies.

use tokio::io::AsyncReadExt;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request};
use weft_tests::http2::{Connection, frame, grpc, send_all};
use weft_tests::mesh::{Builder, Mesh, Workload, authorization};
use weft_tests::speaker::Speaker;
use weft_tests::{wait, websocket};

const CART: &str = "http://cart.shop/items";

async fn pair(application: &Application) -> Mesh {
    Builder::pair(application.address()).start().await
}

/// A mesh whose service and port are declared as HTTP/2 to the application.
async fn grpc_pair(application: &Application) -> Mesh {
    Builder::default()
        .service("shop/cart")
        .with_protocol("grpc")
        .workload(Workload::new("shop/cart-1").serves(application.address()).protocol("grpc"))
        .workload(Workload::new("shop/web-1").calls("shop/cart", 80))
        .start()
        .await
}

#[tokio::test]
async fn names_order_case_and_phrase_arrive_as_they_were_written() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let request = Request::get(CART)
        .id("case")
        .field("X-FiRsT", "1")
        .field("x-second", "a")
        .field("X-second", "b")
        .field("ETag", "\"x\"")
        .field("x-test-phrase", "Quite Fine")
        .field("x-test-field", "X-CaMeL=hump");
    let response = mesh.client("shop/web-1").send(&request).await;
    response.passed();
    assert_eq!(response.head.start, "HTTP/1.1 200 Quite Fine");
    assert!(response.head.fields.iter().any(|(name, _)| name == "X-CaMeL"), "{:?}", response.head.fields);
    let seen = application.request("case");
    let names: Vec<_> = seen
        .fields
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| ["x-first", "x-second", "etag"].contains(&name.to_lowercase().as_str()))
        .collect();
    assert_eq!(names, ["X-FiRsT", "x-second", "X-second", "ETag"]);
    assert_eq!(seen.field("host"), Some("cart.shop"));
}

#[tokio::test]
async fn nothing_of_the_mesh_can_be_forged_or_leaks() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let request = Request::get(CART)
        .id("forged")
        .field("x-weft-case", "t")
        .field("x-weft-undelivered", "1")
        .field("x-weft-attempt", "9")
        .field("x-test-field", "x-weft-undelivered=1");
    let response = mesh.client("shop/web-1").send(&request).await;
    response.passed();
    assert_eq!(response.field("x-weft-undelivered"), None);
    let seen = application.request("forged");
    let ours: Vec<_> =
        seen.fields.iter().filter(|(name, _)| name.to_lowercase().starts_with("x-weft")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[tokio::test]
async fn methods_bodies_and_trailers_pass_both_ways() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    let echo = client.send(&Request::post("http://cart.shop/echo", "some body")).await;
    assert_eq!(echo.text(), "some body");
    let request = Request::post("http://cart.shop/echo", "in chunks").trailers(&[("x-sum", "7")]);
    let echo = client.send(&request).await;
    assert_eq!(echo.text(), "in chunks");
    assert_eq!(echo.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    let trailers = client.get("http://cart.shop/trailers").await;
    assert_eq!(trailers.trailers, [("x-checksum".to_owned(), "42".to_owned())]);
    let head = client.send(&Request::new("HEAD", CART)).await;
    assert_eq!((head.status(), head.text().as_str()), (200, ""));
    assert_eq!(client.get("http://cart.shop/status/204").await.status(), 204);
    assert_eq!(
        client.get("http://cart.shop/status/503").await.reason(),
        None,
        "the application's own answer"
    );
    assert_eq!(client.send(&Request::new("PROPFIND", CART)).await.text(), "cart-1 PROPFIND /items");
}

#[tokio::test]
async fn a_hundred_megabytes_pass_both_ways_in_flat_memory() {
    const LENGTH: u64 = 100 << 20;
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    client.echo("http://cart.shop/echo", 1 << 20).await;
    let before: Vec<_> = residents(&mesh);
    client.echo("http://cart.shop/echo", LENGTH).await;
    for (uid, before) in before {
        let peak = mesh.proxy(uid).process().resident_peak();
        let grown = peak.saturating_sub(before);
        assert!(grown < 16 << 20, "{uid} grew by {} MiB", grown >> 20);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_no_memory() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.passed();
    let before = residents(&mesh);
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut connection = client.connect().await.unwrap();
        connection.begin(&Request::get("http://cart.shop/bytes/100000000")).await.unwrap();
        assert_eq!(connection.head().await.unwrap().status(), 200);
        silent.push(connection);
    }
    // Meanwhile others are served, and by then 800 MB could have piled up.
    for _ in 0..300 {
        client.get(CART).await.passed();
    }
    for (uid, before) in before {
        let grown = mesh.proxy(uid).process().resident_peak().saturating_sub(before);
        assert!(grown < 24 << 20, "{uid} grew by {} MiB", grown >> 20);
    }
}

fn residents(mesh: &Mesh) -> Vec<(&'static str, u64)> {
    ["shop/web-1", "shop/cart-1"].map(|uid| (uid, mesh.proxy(uid).process().resident())).to_vec()
}

#[tokio::test]
async fn an_application_that_ends_early_is_told_apart_from_one_that_is_not_there() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    client.send(&Request::post("http://cart.shop/close", "x")).await.refused_with(Reason::ConnectionReset);
    // A body that ends early is not made to look whole: an error if the head was already sent on,
    // else the mesh's own answer.
    match client.try_send(&Request::post("http://cart.shop/cut", "x")).await {
        Err(_) => {}
        Ok(response) => response.refused_with(Reason::ConnectionReset),
    }
    application.stop();
    // Connections of before may still be found open once.
    wait::until("the application is gone", async || {
        client.get(CART).await.reason() == Some(Reason::ApplicationUnreachable)
    })
    .await;
    client.get(CART).await.refused_with(Reason::ApplicationUnreachable);
}

#[tokio::test]
async fn a_websocket_echoes_through_the_mesh() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    for client in [mesh.client("shop/web-1"), mesh.client_of("shop/web-1", "shop/cart")] {
        let mut connection = client.connect().await.unwrap();
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let request = Request::get("http://cart.shop/socket")
            .field("Connection", "Upgrade")
            .field("Upgrade", "websocket")
            .field("Sec-WebSocket-Version", "13")
            .field("Sec-WebSocket-Key", key);
        connection.begin(&request).await.unwrap();
        let head = connection.head().await.unwrap();
        assert_eq!(head.status(), 101, "{head:?}");
        assert_eq!(head.field("sec-websocket-accept"), Some(websocket::accept_key(key).as_str()));
        let (mut read, buffered, mut write) = connection.into_parts();
        assert!(buffered.is_empty());
        for text in ["hello", "again", &"long ".repeat(20_000)] {
            websocket::send_text(&mut write, text).await.unwrap();
            let echo = wait::within("an echo", websocket::read_frame(&mut read)).await.unwrap();
            assert_eq!(echo, (1, text.as_bytes().to_vec()));
        }
        websocket::send_close(&mut write).await.unwrap();
        let (opcode, _) = wait::within("a close", websocket::read_frame(&mut read)).await.unwrap();
        assert_eq!(opcode, 8);
        let mut byte = [0];
        let end = wait::within("the end", AsyncReadExt::read(&mut read, &mut byte)).await;
        assert_eq!(end.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_upgrade_is_judged_before_it_happens() {
    let application = Application::start("cart-1").await;
    let deny =
        authorization("no-sockets", "cart", "DENY", "[{ to: [{ operation: { paths: ['/socket'] } }] }]");
    let mesh = Builder::pair(application.address()).policy("deny", &deny).start().await;
    let request = Request::get("http://cart.shop/socket")
        .field("Connection", "Upgrade")
        .field("Upgrade", "websocket")
        .field("Sec-WebSocket-Version", "13")
        .field("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    mesh.client("shop/web-1").send(&request).await.refused_with(Reason::AuthorizationDenied);
}

#[tokio::test]
async fn an_http2_client_with_prior_knowledge_reaches_an_http1_application() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let port = mesh.client_of("shop/web-1", "shop/cart").address();
    let connection = Connection::open(port).await;
    let answer = connection.get(CART, &[("x-request-id", "h2")]).await.unwrap();
    assert_eq!((answer.status(), answer.body), (200, b"cart-1 GET /items".to_vec()));
    let seen = application.request("h2");
    assert_eq!((seen.version, seen.field("host")), ("HTTP/1.1", Some("cart.shop")));
    let trailers = connection.get("http://cart.shop/trailers", &[("te", "trailers")]).await.unwrap();
    assert_eq!(trailers.field("x-checksum"), Some("42"));
    let many = (0..50).map(|number| {
        let (connection, id) = (connection.clone(), number.to_string());
        async move { connection.get(CART, &[("x-request-id", &id)]).await.unwrap().status() }
    });
    let statuses = futures_util::future::join_all(many).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test]
async fn an_http2_client_may_use_the_proxy_port_and_a_tunnel() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let outbound = mesh.proxy("shop/web-1").outbound();
    let answer = Connection::open(outbound).await.get(CART, &[]).await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let tunnel = Client::through(outbound).tunnel("cart.shop:80").await.expect("a tunnel");
    let answer = Connection::over(tunnel).await.get(CART, &[]).await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
}

#[tokio::test]
async fn grpc_streams_both_ways_at_once_and_ends_with_trailers() {
    let application = Application::start("cart-1").await;
    let mesh = grpc_pair(&application).await;
    let connection = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    let request = grpc("cart.shop", "/weft.test.Echo/Chat").header("x-request-id", "chat").body(()).unwrap();
    let mut exchange = connection.start(request, false).await.unwrap();
    send_all(&mut exchange.send, frame(b"one"), false).await.unwrap();
    let (head, mut body, mut send) = exchange.response().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-type"], "application/grpc");
    assert_eq!(body.message().await.unwrap().as_deref(), Some(&b"one"[..]));
    // Each message is answered before the next is sent: nothing is held back on the way.
    for text in ["two", "three", "four"] {
        send_all(&mut send, frame(text.as_bytes()), false).await.unwrap();
        assert_eq!(body.message().await.unwrap().as_deref(), Some(text.as_bytes()));
    }
    let long = vec![7; 3 << 20];
    let (sent, received) = tokio::join!(send_all(&mut send, frame(&long), true), body.message());
    sent.unwrap();
    assert_eq!(received.unwrap().map(|message| message.len()), Some(long.len()));
    assert_eq!(body.message().await.unwrap(), None);
    let trailers = body.trailers().await.unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["grpc-message"], "done");
    let seen = application.request("chat");
    assert_eq!((seen.version, seen.field("te")), ("HTTP/2", Some("trailers")));
    let metrics = mesh.proxy("shop/cart-1").metrics().await;
    let labels = [("request_protocol", "grpc"), ("grpc_response_status", "0")];
    wait::until("the call is counted", async || {
        mesh.proxy("shop/cart-1").metrics().await.sum("istio_requests_total", &labels) == 1.0
    })
    .await;
    drop(metrics);
}

#[tokio::test]
async fn a_grpc_client_gets_the_meshs_refusal_as_a_grpc_status() {
    let application = Application::start("cart-1").await;
    let mesh = grpc_pair(&application).await;
    mesh.enforce_policy("deny", &authorization("nobody", "cart", "DENY", "[{}]")).await;
    let connection = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    let request = grpc("cart.shop", "/weft.test.Echo/Chat").body(()).unwrap();
    let mut exchange = connection.start(request, false).await.unwrap();
    let _ = send_all(&mut exchange.send, frame(b"one"), true).await;
    let answer = exchange.whole().await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let status = Reason::AuthorizationDenied.grpc_status().to_string();
    assert_eq!(answer.field("grpc-status"), Some(status.as_str()));
    assert_eq!(answer.field("x-weft-reason"), Some(Reason::AuthorizationDenied.label()));
}

/// It accepts connections, and never says a word.
async fn silent() -> Speaker {
    Speaker::serve(async |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

#[tokio::test]
async fn a_handshake_is_waited_for_as_long_as_the_callers_settings_say() {
    let silent = silent().await;
    let mesh = Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/cart-1").serves(silent.address()).impostor())
        .workload(Workload::new("shop/web-1").connect_timeout("60s"))
        .workload(Workload::new("shop/till-1").connect_timeout("2s"))
        .start()
        .await;
    let patient = mesh.client("shop/web-1");
    let patient = wait::spawn(async move { patient.get(CART).await });
    wait::until("one is being connected for", async || silent.connections() == 1).await;
    mesh.client("shop/till-1").get(CART).await.refused_with(Reason::ConnectTimeout);
    assert!(!patient.is_finished(), "it began before, and goes on");
}

#[tokio::test]
async fn calls_that_wait_for_one_handshake_fail_with_it_and_not_one_after_the_other() {
    let silent = silent().await;
    let mesh = Builder::default()
        .service("shop/cart")
        .with_protocol("grpc")
        .workload(Workload::new("shop/cart-1").serves(silent.address()).protocol("grpc").impostor())
        .workload(Workload::new("shop/web-1").calls("shop/cart", 80).connect_timeout("1s"))
        .start()
        .await;
    let connection = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    // All in one write, so that they wait for the same handshake.
    let calls = (0..20).map(|_| async {
        let request = grpc("cart.shop", "/weft.test.Echo/Unary").body(()).unwrap();
        connection.start(request, true).await.unwrap().whole().await.unwrap()
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.field("x-weft-reason"), Some(Reason::ConnectTimeout.label()));
    }
    assert_eq!(silent.connections(), 1, "one handshake was tried for all of them");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request_at_the_application() {
    let application = Application::start("cart-1").await;
    let mesh = grpc_pair(&application).await;
    let connection = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    let request = grpc("cart.shop", "/weft.test.Echo/Chat").body(()).unwrap();
    let mut exchange = connection.start(request, false).await.unwrap();
    send_all(&mut exchange.send, frame(b"one"), false).await.unwrap();
    let (_, mut body, mut send) = exchange.response().await.unwrap();
    assert!(body.message().await.unwrap().is_some());
    send.send_reset(h2::Reason::CANCEL);
    drop(body);
    let server = mesh.proxy("shop/cart-1");
    wait::until("the request is over at the server's proxy", async || {
        server.metrics().await.sum("istio_requests_total", &[("reporter", "destination")]) == 1.0
    })
    .await;
    // Its connection is still good.
    let request = grpc("cart.shop", "/weft.test.Echo/Chat").body(()).unwrap();
    let mut exchange = connection.start(request, false).await.unwrap();
    exchange.send.send_data(frame(b"again"), true).unwrap();
    assert_eq!(exchange.whole().await.unwrap().field("grpc-status"), Some("0"));
}

#[tokio::test]
async fn a_connection_is_kept_between_the_proxies_and_to_the_application() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let mut connection = mesh.client("shop/web-1").connect().await.unwrap();
    for _ in 0..50 {
        connection.send(&Request::get(CART)).await.unwrap().passed();
    }
    let connections: std::collections::BTreeSet<_> =
        application.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections.len(), 1, "one request after another needs one connection");
    let handshakes = mesh.proxy("shop/cart-1").metrics().await.sum("weft_tls_handshakes_total", &[]);
    assert_eq!(handshakes, 1.0);
}
