//! Ports that declare nothing: whoever speaks first decides, with mutual TLS between the proxies.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::certificate::{Authority, Impostor, Shape, handshake};
use weft_tests::http2;
use weft_tests::mesh::{Builder, Mesh, Workload, authorization, route};
use weft_tests::metrics::Metrics;
use weft_tests::speaker::{Lines, Speaker};
use weft_tests::wait;

const OTHER: &str = "spiffe://elsewhere.example/ns/a/sa/b";
const ITEMS: &str = "GET /items HTTP/1.1\r\nHost: cart.shop\r\n\r\n";

async fn undeclared(application: SocketAddr) -> Mesh {
    Builder::undeclared(application).start().await
}

fn port(mesh: &Mesh) -> SocketAddr {
    mesh.client_of("shop/web-1", "shop/cart").address()
}

async fn metrics(mesh: &Mesh, uid: &str) -> Metrics {
    mesh.proxy(uid).metrics().await
}

/// Opaque connections to the service, by who counts.
async fn opaque(mesh: &Mesh, uid: &str) -> f64 {
    metrics(mesh, uid)
        .await
        .sum("istio_tcp_connections_opened_total", &[("destination_service_name", "cart")])
}

/// How often a guess was told in the client's log.
fn told(mesh: &Mesh, guess: &str) -> usize {
    let log = mesh.proxy("shop/web-1").process().log();
    log.lines().filter(|line| line.contains("this was guessed") && line.contains(guess)).count()
}

#[tokio::test]
async fn a_server_that_greets_is_heard_by_a_client_that_waits() {
    let application = Speaker::smtp().await;
    let mesh = undeclared(application.address()).await;
    let outbound = mesh.proxy("shop/web-1").outbound();
    for client in [
        Lines::open(port(&mesh)).await,
        Lines::tunnel(outbound, "cart.shop:80").await,
        Lines::open(port(&mesh)).await,
    ] {
        let mut client = client;
        assert_eq!(client.hear().await, "220 mail.example ESMTP\r\n");
        assert_eq!(client.ask("EHLO web.example\r\n").await, "250-mail.example\r\n");
        assert_eq!(client.hear().await, "250 SIZE 1000\r\n");
        assert_eq!(client.ask("MAIL FROM:<a@example>\r\n").await, "250 OK\r\n");
        assert_eq!(client.ask("DATA\r\n").await, "354 Go on\r\n");
        client.say("GET / HTTP/1.1 is a line of this mail\r\n").await;
        assert_eq!(client.ask(".\r\n").await, "250 OK\r\n");
        client.say("QUIT\r\n").await;
        assert_eq!(client.rest().await, b"");
    }
    assert_eq!(application.connections(), 3, "one connection for each");
    for uid in ["shop/web-1", "shop/cart-1"] {
        assert_eq!(opaque(&mesh, uid).await, 3.0, "{uid}");
    }
    let server = metrics(&mesh, "shop/cart-1").await;
    assert_eq!(server.sum("weft_tls_handshakes_total", &[("alpn", "weft1-tcp")]), 3.0);
    assert_eq!(told(&mesh, "the server speaks first"), 1, "a guess is told once");
    assert_eq!(told(&mesh, "- { port: 80, appProtocol: tcp }"), 1, "with the line that declares it");
}

#[tokio::test]
async fn a_server_that_speaks_and_ends_is_heard_whole_even_by_a_client_that_ended_before() {
    let application = Speaker::says(b"Wed Nov 25 22:00:00 2026\r\n").await;
    let mesh = undeclared(application.address()).await;
    assert_eq!(Lines::open(port(&mesh)).await.rest().await, b"Wed Nov 25 22:00:00 2026\r\n");
    assert_eq!(Lines::open(port(&mesh)).await.end().await, b"Wed Nov 25 22:00:00 2026\r\n");
}

#[tokio::test]
async fn a_client_that_speaks_another_protocol_first_is_carried() {
    let application = Speaker::start("", |line| Some(format!("you said {line}\r\n"))).await;
    let mesh = undeclared(application.address()).await;
    let mut client = Lines::open(port(&mesh)).await;
    assert_eq!(client.ask("set a 1\r\n").await, "you said set a 1\r\n");
    assert_eq!(client.ask("GET / HTTP/1.1\r\n").await, "you said GET / HTTP/1.1\r\n");
    assert_eq!(opaque(&mesh, "shop/cart-1").await, 1.0);
    assert_eq!(told(&mesh, "the client speaks first"), 1);
}

#[tokio::test]
async fn a_client_that_is_silent_as_its_server_may_speak_when_it_will() {
    let application = Speaker::start("", |line| Some(format!("you said {line}\r\n"))).await;
    let mesh = undeclared(application.address()).await;
    let mut client = Lines::open(port(&mesh)).await;
    wait::until("the server's side is connected meanwhile", async || application.connections() == 1).await;
    assert_eq!(client.ask("hello\r\n").await, "you said hello\r\n");
    assert_eq!(application.connections(), 1, "the connection that was made is the one that is used");
}

#[tokio::test]
async fn half_closes_and_many_bytes_pass_where_nothing_is_declared() {
    let application = Speaker::echo().await;
    let mesh = undeclared(application.address()).await;
    let bytes = weft_tests::application::pattern(0, 3 << 20);
    let stream = tokio::net::TcpStream::connect(port(&mesh)).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sent = bytes.clone();
    let send = async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
        write
    };
    let mut echo = Vec::new();
    let (_write, received) =
        wait::within("the echo", async { tokio::join!(send, read.read_to_end(&mut echo)) }).await;
    received.unwrap();
    assert!(echo == bytes, "{} of {} bytes came back", echo.len(), bytes.len());
}

#[tokio::test]
async fn http_costs_no_extra_connection_and_keeps_its_requests_apart() {
    let application = Application::start("cart-1").await;
    let mesh = undeclared(application.address()).await;
    let response = mesh.client_of("shop/web-1", "shop/cart").get("http://cart.shop/items").await;
    response.passed();
    let head = weft_tests::raw::first_head(port(&mesh), ITEMS.as_bytes()).await;
    assert_eq!(head.status(), 200);
    // Of the second, the head alone was read: it is counted at its end.
    wait::until("both are counted", async || {
        metrics(&mesh, "shop/cart-1").await.sum("istio_requests_total", &[("response_code", "200")]) == 2.0
    })
    .await;
    let server = metrics(&mesh, "shop/cart-1").await;
    assert_eq!(server.sum("weft_tls_handshakes_total", &[("alpn", "weft1-tcp")]), 0.0);
    assert!(application.requests()[0].field("x-forwarded-client-cert").is_some());
    assert_eq!(told(&mesh, "HTTP/1"), 1);
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_seen_as_http() {
    let application = Application::start("cart-1").await;
    let mesh = undeclared(application.address()).await;
    let connection = http2::Connection::open(port(&mesh)).await;
    assert_eq!(connection.get("http://cart.shop/items", &[]).await.unwrap().status(), 200);
    assert_eq!(opaque(&mesh, "shop/cart-1").await, 0.0);
    assert_eq!(told(&mesh, "kubernetes.io/h2c"), 1);
}

#[tokio::test]
async fn the_applications_own_tls_passes_and_its_server_name_is_told() {
    let authority = Authority::new("elsewhere.example");
    let svid = authority.issue(&Shape::svid(OTHER));
    let application = Impostor::start(&svid, b"http/1.1").await;
    let mesh = undeclared(application.address()).await;
    for _ in 0..2 {
        let mut stream = handshake(port(&mesh), None, "DB.example.com", &[b"http/1.1"]).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        assert!(shown.windows(OTHER.len()).any(|window| window == OTHER.as_bytes()), "it ends there");
        stream.write_all(ITEMS.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        wait::within("an answer", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    assert_eq!(opaque(&mesh, "shop/cart-1").await, 2.0);
    assert_eq!(told(&mesh, "db.example.com"), 1);
    assert_eq!(told(&mesh, "appProtocol: tls"), 1);
}

/// The pieces of a request, each sent when `next` says so.
async fn slowly(mesh: &Mesh, pieces: [&str; 2], next: impl AsyncFn()) -> String {
    let mut client = Lines::open(port(mesh)).await;
    for piece in pieces {
        next().await;
        client.say(piece).await;
    }
    client.hear().await
}

#[tokio::test]
async fn a_slow_http_client_is_served_as_http() {
    let application = Application::start("cart-1").await;
    let mesh = undeclared(application.address()).await;
    // The first is silent until the server's side was connected for it.
    let connected = async || {
        wait::until("the server's side is connected", async || {
            metrics(&mesh, "shop/web-1").await.sum("weft_upstream_connections_total", &[]) >= 1.0
        })
        .await;
    };
    let answer = slowly(&mesh, ["G", &ITEMS[1..]], connected).await;
    assert_eq!(answer, "HTTP/1.1 200 Fine\r\n");
    assert_eq!(application.requests().len(), 1);
    assert!(application.requests()[0].field("x-forwarded-client-cert").is_some(), "it was read as HTTP");
}

#[tokio::test]
async fn neither_silence_nor_odd_bytes_make_a_port_with_a_rule_for_http_opaque() {
    let application = Application::start("cart-1").await;
    let deny = authorization("no-admin", "cart", "DENY", "[{ to: [{ operation: { paths: ['/admin'] } }] }]");
    let mesh = Builder::undeclared(application.address()).policy("deny", &deny).start().await;
    let refused = async || {
        wait::until("the server's proxy has refused opaque bytes", async || {
            metrics(&mesh, "shop/cart-1").await.sum("weft_answers_total", &[("direction", "inbound")]) >= 1.0
        })
        .await;
    };
    let admin = ITEMS.replace("/items", "/admin");
    let answer = slowly(&mesh, [&admin[..1], &admin[1..]], &refused).await;
    assert_eq!(answer, format!("HTTP/1.1 {} Forbidden\r\n", Reason::AuthorizationDenied.status()));
    let answer = slowly(&mesh, [&ITEMS[..1], &ITEMS[1..]], async || {}).await;
    assert_eq!(answer, "HTTP/1.1 200 Fine\r\n");
    // A request that a lenient server might still take, behind bytes that are no request line.
    for bytes in ["\0GET /admin HTTP/1.1\r\n\r\n", "get /admin HTTP/1.1\r\nHost: cart.shop\r\n\r\n"] {
        let mut client = Lines::open(port(&mesh)).await;
        client.say(bytes).await;
        assert_eq!(client.rest().await, b"", "{bytes:?}");
    }
    let targets: Vec<_> = application.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/items"]);
}

#[tokio::test]
async fn a_rule_that_allows_by_path_admits_no_opaque_bytes() {
    let application = Speaker::smtp().await;
    let rules =
        "[{ to: [{ operation: { paths: ['/items'] } }] }, { from: [{ source: { namespaces: [shop] } }] }]";
    let allow = authorization("some", "cart", "ALLOW", rules);
    let mesh = Builder::undeclared(application.address()).policy("allow", &allow).start().await;
    // The second rule would admit, if the first did not say that HTTP is spoken here.
    let mut client = Lines::open(port(&mesh)).await;
    client.say("EHLO web.example\r\n").await;
    assert_eq!(client.rest().await, b"");
    assert_eq!(application.connections(), 0);
    let reason = [("reason", Reason::HttpRequired.label())];
    assert_eq!(metrics(&mesh, "shop/cart-1").await.sum("weft_answers_total", &reason), 1.0);
    let log = mesh.proxy("shop/cart-1").process().log();
    assert!(log.contains("declare appProtocol: tcp"), "{log}");
}

#[tokio::test]
async fn a_port_with_a_route_takes_http_alone() {
    let application = Application::start("cart-1").await;
    let rules =
        "[{ matches: [{ path: { type: Exact, value: /items } }], backendRefs: [{ name: cart, port: 80 }] }]";
    let mesh = Builder::undeclared(application.address()).policy("route", &route("cart", "cart", rules));
    let mesh = mesh.start().await;
    let mut client = Lines::open(port(&mesh)).await;
    client.say("get / HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.hear().await, "HTTP/1.1 400 Bad Request\r\n");
    assert_eq!(application.requests(), []);
}

#[tokio::test]
async fn tls_on_a_port_that_is_declared_as_http_is_refused_in_words_of_tls() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let error = handshake(port(&mesh), None, "cart.shop", &[b"h2"]).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    let reason = [("direction", "outbound"), ("reason", Reason::HttpRequired.label())];
    assert_eq!(metrics(&mesh, "shop/web-1").await.sum("weft_answers_total", &reason), 1.0);
}

#[tokio::test]
async fn a_silent_client_of_a_service_without_endpoints_learns_it_in_seconds() {
    let application = Speaker::smtp().await;
    let mesh = Builder::undeclared(application.address())
        .service("shop/empty")
        .with_protocol("")
        .workload(Workload::new("shop/other-1").calls("shop/empty", 80))
        .start()
        .await;
    let address = mesh.client_of("shop/other-1", "shop/empty").address();
    assert_eq!(Lines::open(address).await.rest().await, b"");
    let reason = [("reason", Reason::EndpointsMissing.label())];
    assert_eq!(metrics(&mesh, "shop/other-1").await.sum("weft_answers_total", &reason), 1.0);
    // One that speaks HTTP is told.
    let mut client = Lines::open(address).await;
    assert_eq!(client.ask(ITEMS).await, "HTTP/1.1 503 Service Unavailable\r\n");
}
