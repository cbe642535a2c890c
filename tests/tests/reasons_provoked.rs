//! Reasons that no other subject provokes, each over real sockets: what a peer or server must do for
//! the mesh to answer so.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream};
use http::Request as Head;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::http2::{self, Connection};
use weft_tests::mesh::{Builder, Mesh, Workload, route};
use weft_tests::raw;
use weft_tests::tamper::Tamper;
use weft_tests::wait;

const CART: &str = "http://cart.shop/items";

/// What an HTTP/2 server does with each request.
#[derive(Clone, Copy)]
enum Manner {
    /// Refuses it before anything of it was processed.
    Refuse,
    /// Holds it, one at a time on each connection.
    Hold,
}

/// Requests that are held.
type Held = Arc<Mutex<Vec<(Head<RecvStream>, SendResponse<Bytes>)>>>;

/// An HTTP/2 server with prior knowledge.
async fn server(manner: Manner) -> (SocketAddr, Held) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let held = Held::default();
    let shared = held.clone();
    wait::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let held = shared.clone();
            wait::spawn(async move {
                let mut builder = h2::server::Builder::new();
                let Ok(mut connection) = builder.max_concurrent_streams(1).handshake(stream).await else {
                    return;
                };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    match manner {
                        Manner::Refuse => respond.send_reset(Code::REFUSED_STREAM),
                        Manner::Hold => held.lock().expect("no panic while holding").push((request, respond)),
                    }
                }
            });
        }
    });
    (address, held)
}

/// `shop/cart` of plain HTTP/2 servers, called by `shop/web-1`.
async fn plain(servers: &[SocketAddr]) -> Mesh {
    plain_of(Workload::new("shop/web-1"), servers).await
}

/// The same with this client.
async fn plain_of(web: Workload, servers: &[SocketAddr]) -> Mesh {
    let mut builder = Builder::default().service("shop/cart").with_protocol("http2").workload(web);
    for (number, address) in (1..).zip(servers) {
        let workload = Workload::new(&format!("shop/cart-{number}")).serves(*address).protocol("http2");
        builder = builder.workload(workload.not_injected());
    }
    builder.start().await
}

#[tokio::test]
async fn a_request_that_every_endpoint_refuses_says_so() {
    let (address, _held) = server(Manner::Refuse).await;
    let mesh = plain(&[address]).await;
    mesh.client("shop/web-1").get(CART).await.refused_with(Reason::PeerRefused);
}

#[tokio::test]
async fn a_retry_that_the_budget_does_not_bear_is_not_made() {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(server(Manner::Refuse).await.0);
    }
    let mesh = plain(&servers).await;
    let client = mesh.client("shop/web-1");
    // Each request asks for two retries and earns a fifth of one: the budget must run dry.
    let spent = wait::eventually("the retry budget is spent", async || {
        let answers = futures_util::future::join_all((0..8).map(|_| client.get(CART))).await;
        for answer in &answers {
            let reasons = [Some(Reason::PeerRefused), Some(Reason::RetryBudgetExhausted)];
            assert!(reasons.contains(&answer.reason()), "{:?}", answer.head);
        }
        answers.into_iter().find(|answer| answer.reason() == Some(Reason::RetryBudgetExhausted))
    })
    .await;
    spent.refused_with(Reason::RetryBudgetExhausted);
}

#[tokio::test]
async fn more_streams_than_a_peer_takes_are_too_much() {
    let (address, held) = server(Manner::Hold).await;
    let mesh = plain(&[address]).await;
    let mut waiting = Vec::new();
    // One stream for each of the pool's connections; the next finds no room.
    for number in 1..=64 {
        let client = mesh.client("shop/web-1");
        let mut request = wait::spawn(async move { client.get(CART).await });
        let answered = wait::eventually("a request is held or answered", async || {
            let arrived = held.lock().expect("no panic while holding").len() >= number;
            (arrived || request.is_finished()).then_some(request.is_finished())
        })
        .await;
        if answered {
            let answer = (&mut request).await.expect("no panic in a client");
            answer.refused_with(Reason::Overloaded);
            assert!(number > 4, "the pool has more than a few connections");
            return;
        }
        waiting.push(request);
    }
    panic!("64 connections to one peer");
}

#[tokio::test]
async fn a_route_that_the_proxy_could_not_take_fails_its_requests() {
    let application = Application::start("cart-1").await;
    let text = route("cart", "cart", "[{ backendRefs: [{ name: cart, port: 80 }] }]");
    let mut mesh = Builder::pair(application.address()).policy("route", &text).start().await;
    let control = mesh.control_address();
    let tamper = Tamper::start(&mesh.authority(), "spiffe://cluster.local/ns/shop/sa/web", control).await;
    tamper.change(|response| {
        for resource in response.resources.iter_mut().filter(|held| held.name == "HTTPRoute/shop/cart") {
            resource.resource.as_mut().expect("a body").value = vec![0xff; 7].into();
        }
    });
    let proxy = mesh.proxy_mut("shop/web-1");
    proxy.kill();
    proxy.edit_settings(&control.to_string(), &tamper.address().to_string());
    std::fs::remove_dir_all(proxy.directory().join("state")).expect("the state directory");
    proxy.start().await;
    mesh.client("shop/web-1").get(CART).await.refused_with(Reason::ResourceUnresolved);
    assert_eq!(application.requests(), [], "what is not understood is not guessed");
}

#[tokio::test]
async fn an_upgrade_before_the_request_is_whole_is_refused() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let application = raw::Server::start(answer).await;
    let mesh = Builder::pair(application.address()).start().await;
    let outbound = mesh.proxy("shop/web-1").outbound();
    let request =
        b"POST http://cart.shop/ HTTP/1.1\r\nHost: cart.shop\r\nConnection: upgrade\r\nUpgrade: echo\r\n\
                    Content-Length: 5\r\n\r\n";
    raw::first_head(outbound, request).await.refused_with(Reason::UpgradeUnsupported);
}

#[tokio::test]
async fn all_that_is_told_of_an_answer_comes_from_its_one_entry() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address())
        .policy("deny", &weft_tests::mesh::authorization("cart", "cart", "DENY", "[{}]"))
        .start()
        .await;
    let reason = Reason::AuthorizationDenied;
    // HTTP: status, header, sentence.
    let response = mesh.client("shop/web-1").get(CART).await;
    response.refused_with(reason);
    assert_eq!(response.text(), format!("weft: {}\n", reason.text()));
    // gRPC: the same entry's other status, and its sentence.
    let connection = Connection::open(mesh.proxy("shop/web-1").outbound()).await;
    let call = http2::grpc("cart.shop", "/shop.Cart/Get").body(()).expect("a request");
    let whole = connection.start(call, true).await.expect("a stream").whole().await.expect("an answer");
    assert_eq!(whole.status(), 200);
    let status =
        whole.field("grpc-status").or(whole.trailers.get("grpc-status").and_then(|v| v.to_str().ok()));
    assert_eq!(status, Some(reason.grpc_status().to_string().as_str()), "{whole:?}");
    let message =
        whole.field("grpc-message").or(whole.trailers.get("grpc-message").and_then(|v| v.to_str().ok()));
    assert!(message.is_some_and(|message| !message.is_empty()), "{whole:?}");
    assert_eq!(whole.field("x-weft-reason"), Some(reason.label()));
    // Metrics and the log of the proxy that answered.
    let proxy = mesh.proxy("shop/cart-1");
    wait::until("both answers are counted", async || {
        proxy.metrics().await.sum("weft_answers_total", &[("reason", reason.label())]) == 2.0
    })
    .await;
    wait::until("both answers are logged", async || {
        let lines = proxy.access_log();
        let told = lines.iter().filter(|line| line["reason"] == reason.label());
        told.filter(|line| line["status"] == reason.status() || line["status"] == 200).count() == 2
    })
    .await;
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_not_waited_for_for_ever() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/cart-1").serves(application.address()))
        .workload(Workload::new("shop/web-1").settings("bodyTimeout: 1s"))
        .start()
        .await;
    let outbound = mesh.proxy("shop/web-1").outbound();
    let request =
        b"POST http://cart.shop/discard HTTP/1.1\r\nHost: cart.shop\r\nContent-Length: 10\r\n\r\nabc";
    raw::first_head(outbound, request).await.refused_with(Reason::BodyTimeout);
}

#[tokio::test]
async fn an_endpoint_that_nobody_listens_at_cannot_be_connected_to() {
    // Bound and never listening: nobody else takes the port, and a connection is refused.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let mesh = plain(&[socket.local_addr().expect("an address")]).await;
    mesh.client("shop/web-1").get(CART).await.refused_with(Reason::ConnectFailed);
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connections_is_not_waited_for_for_ever() {
    // A listener that never accepts, with its backlog full: the kernel drops what comes on top.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut waiting = Vec::new();
    loop {
        let dialled = tokio::net::TcpStream::connect(address);
        // No answer within a time that loopback never needs: it is full.
        match tokio::time::timeout(std::time::Duration::from_secs(2), dialled).await {
            Ok(stream) => waiting.push(stream.expect("a connection")),
            Err(_) => break,
        }
        assert!(waiting.len() < 64, "a backlog of one takes no 64 connections");
    }
    let mesh = plain_of(Workload::new("shop/web-1").connect_timeout("1s"), &[address]).await;
    mesh.client("shop/web-1").get(CART).await.refused_with(Reason::ConnectTimeout);
}
