//! The kubelet's probes: exactly what is declared passes from a node without a certificate, and nothing
//! that is only nearly so. Nodes are 127.0.3.0/24 here; who else calls comes from 127.0.4.1.

use bytes::Bytes;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::certificate::{answer_over_tls, handshake_over};
use weft_tests::http1::{Head, Reader};
use weft_tests::mesh::{Builder, Mesh, Workload, authorization, peer_authentication};
use weft_tests::{http2, wait};

const NODE: &str = "127.0.3.1";
const OTHER_NODE: &str = "127.0.3.2";
const STRANGER: &str = "127.0.4.1";

/// `shop/cart-1` with these probes, STRICT, and with a policy that admits nobody.
async fn cart(application: SocketAddr, probes: &str) -> Mesh {
    builder(application, probes).start().await
}

fn builder(application: SocketAddr, probes: &str) -> Builder {
    Builder::default()
        .service("shop/cart")
        .mesh_config("{ nodeCidrs: [127.0.3.0/24] }")
        .workload(Workload::new("shop/cart-1").serves(application).spec(&format!("probes: {probes}")))
        .policy("nobody", &authorization("nobody", "cart", "ALLOW", "[]"))
}

fn inbound(mesh: &Mesh) -> SocketAddr {
    mesh.proxy("shop/cart-1").inbound()
}

async fn dial(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(source.parse().expect("an address"), 0)).expect("a loopback address");
    socket.connect(address).await.expect("the port must be open")
}

/// Sends the bytes and reads every answer until the proxy ends the connection.
async fn answers(source: &str, address: SocketAddr, bytes: &str) -> Vec<Head> {
    let (read, mut write) = dial(source, address).await.into_split();
    // The proxy may answer and close before it has read everything.
    let _ = write.write_all(bytes.as_bytes()).await;
    let mut reader = Reader::new(read);
    let mut heads = Vec::new();
    let all = async {
        while let Ok(Some(head)) = reader.head().await {
            let framing = head.response_framing("GET");
            heads.push(head);
            if reader.body(framing).await.is_err() {
                break;
            }
        }
    };
    wait::within("the proxy ends the connection", all).await;
    heads
}

/// What the kubelet sends for a GET.
fn get(mesh: &Mesh, target: &str, fields: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: kube-probe/1.33\r\nAccept: */*\r\nConnection: close\r\n\
         {fields}\r\n",
        inbound(mesh)
    )
}

async fn probe(mesh: &Mesh, source: &str, target: &str) -> Head {
    let mut heads = answers(source, inbound(mesh), &get(mesh, target, "")).await;
    assert_eq!(heads.len(), 1, "{heads:?}");
    heads.remove(0)
}

fn refused(head: &Head) {
    assert_eq!(
        (head.status(), head.field("x-weft-reason")),
        (403, Some(Reason::TlsRequired.label())),
        "{head:?}"
    );
}

#[tokio::test]
async fn a_declared_probe_passes_and_is_marked_as_one() {
    let application = Application::start("cart-1").await;
    let mesh = cart(application.address(), "[{ httpGet: { path: '/healthz?full=1', port: serving } }]").await;
    let head = probe(&mesh, NODE, "/healthz?full=1").await;
    assert_eq!((head.status(), head.field("x-weft-reason")), (200, None));
    let seen = application.requests();
    assert_eq!((seen.len(), seen[0].target.as_str()), (1, "/healthz?full=1"));
    assert_eq!(seen[0].field("host"), Some(inbound(&mesh).to_string().as_str()), "the request is as it came");
    let metrics = mesh.proxy("shop/cart-1").metrics().await;
    let labels = [("kind", "http"), ("outcome", "succeeded")];
    assert_eq!(metrics.sum("weft_inbound_probes_total", &labels), 1.0);
    assert_eq!(metrics.sum("weft_inbound_plaintext_connections_total", &[("verdict", "node")]), 1.0);
    assert_eq!(metrics.sum("istio_requests_total", &[]), 0.0, "a probe is no request");
    wait::until("the access log marks it", async || {
        mesh.proxy("shop/cart-1").access_log().iter().any(|line| line["probe"] == "http")
    })
    .await;
}

#[tokio::test]
async fn what_is_only_nearly_a_probe_is_anybodys_plaintext() {
    let application = Application::start("cart-1").await;
    let probes = "[{ httpGet: { path: '/healthz?full=1', port: serving } }, \
                  { httpGet: { path: /ready, port: serving, httpHeaders: [{ name: X-Token, value: secret }] } }]";
    let mesh = cart(application.address(), probes).await;
    let host = inbound(&mesh).to_string();
    let whole = get(&mesh, "/healthz?full=1", "");
    let changed = [
        whole.replacen("GET", "POST", 1),
        whole.replacen("GET", "HEAD", 1),
        whole.replacen("GET", "get", 1),
        whole.replacen("full=1", "full=2", 1),
        whole.replacen("?full=1", "", 1),
        whole.replacen("/healthz", "/healthz/", 1),
        whole.replacen("/healthz", "/healthz/../admin", 1),
        whole.replacen("/healthz", "/%2e/admin", 1),
        whole.replacen(&host, "cart.shop", 1),
        whole.replacen("HTTP/1.1", "HTTP/1.0", 1),
        get(&mesh, "/healthz?full=1", "X-HTTP-Method-Override: DELETE\r\n"),
        get(&mesh, "/healthz?full=1", "X-Forwarded-For: 10.0.0.1\r\n"),
        get(&mesh, "/healthz?full=1", "Content-Length: 0\r\n"),
        get(&mesh, "/ready", ""),
        get(&mesh, "/ready", "X-Token: other\r\n"),
        get(&mesh, "/ready", "X-Token: secret\r\nX-Token: secret\r\n"),
    ];
    for bytes in &changed {
        let heads = answers(NODE, inbound(&mesh), bytes).await;
        assert_eq!(heads.len(), 1, "{bytes}{heads:?}");
        refused(&heads[0]);
    }
    assert_eq!(application.requests().len(), 0, "nothing of it reached the application");
    let heads = answers(NODE, inbound(&mesh), &get(&mesh, "/ready", "X-Token: secret\r\n")).await;
    assert_eq!(heads[0].status(), 200, "the declared one does");
}

#[tokio::test]
async fn a_spelling_of_the_declared_path_reaches_the_application_as_the_declared_one() {
    let application = Application::start("cart-1").await;
    let mesh = cart(application.address(), "[{ httpGet: { path: /healthz, port: serving } }]").await;
    assert_eq!(probe(&mesh, NODE, "/x/../%68ealthz").await.status(), 200);
    assert_eq!(application.requests()[0].target, "/healthz");
}

#[tokio::test]
async fn the_same_request_from_elsewhere_is_refused() {
    let application = Application::start("cart-1").await;
    let mesh = cart(application.address(), "[{ httpGet: { path: /healthz, port: serving } }]").await;
    refused(&probe(&mesh, STRANGER, "/healthz").await);
    refused(&probe(&mesh, "127.0.0.1", "/healthz").await);
    assert_eq!(application.requests().len(), 0);
    assert_eq!(probe(&mesh, OTHER_NODE, "/healthz").await.status(), 200);
}

#[tokio::test]
async fn a_pass_is_good_for_one_request_and_not_for_its_connection() {
    let application = Application::start("cart-1").await;
    let mesh = cart(application.address(), "[{ httpGet: { path: /healthz, port: serving } }]").await;
    let kept = get(&mesh, "/healthz", "").replace("Connection: close\r\n", "");
    let admin = get(&mesh, "/admin", "");
    // Pipelined, so that the second is there while the first is answered.
    let heads = answers(NODE, inbound(&mesh), &format!("{kept}{kept}{admin}")).await;
    assert_eq!(heads.iter().map(Head::status).collect::<Vec<_>>(), [200, 200, 403], "{heads:?}");
    refused(&heads[2]);
    // Hidden in what one reader takes for a body and another for a request.
    for framing in
        ["Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: 0\r\nContent-Length: 60"]
    {
        let hidden = get(&mesh, "/healthz", &format!("{framing}\r\n")).replace("Connection: close\r\n", "");
        let heads = answers(NODE, inbound(&mesh), &format!("{hidden}0\r\n\r\n{admin}")).await;
        assert!(heads.iter().all(|head| head.status() >= 400), "{framing}: {heads:?}");
    }
    let targets: Vec<_> = application.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/healthz", "/healthz"]);
}

#[tokio::test]
async fn a_probe_may_follow_its_own_redirect_once() {
    let application = Application::start("cart-1").await;
    let fields = "httpHeaders: [{ name: X-Test-Field, value: 'Location=/ready?deep=1' }]";
    let probes = format!("[{{ httpGet: {{ path: /status/302, port: serving, {fields} }} }}]");
    let mesh = cart(application.address(), &probes).await;
    let fields = "X-Test-Field: Location=/ready?deep=1\r\n";
    let follow =
        get(&mesh, "/ready?deep=1", &format!("{fields}Referer: http://{}/status/302\r\n", inbound(&mesh)));
    let send = async |source: &str, bytes: &str| answers(source, inbound(&mesh), bytes).await.remove(0);
    refused(&send(NODE, &follow).await);
    let head = send(NODE, &get(&mesh, "/status/302", fields)).await;
    assert_eq!((head.status(), head.field("location")), (302, Some("/ready?deep=1")));
    refused(&send(OTHER_NODE, &follow).await);
    refused(&send(NODE, &follow.replacen("deep=1", "deep=2", 1)).await);
    assert_eq!(send(NODE, &follow).await.status(), 200);
    refused(&send(NODE, &follow).await);
    let metrics = mesh.proxy("shop/cart-1").metrics().await;
    assert_eq!(metrics.sum("weft_inbound_probes_total", &[("kind", "redirect")]), 1.0);
}

#[tokio::test]
async fn a_redirect_to_elsewhere_gives_nothing() {
    let application = Application::start("cart-1").await;
    let location = "https://127.0.0.1/ready";
    let fields = format!("httpHeaders: [{{ name: X-Test-Field, value: 'Location={location}' }}]");
    let probes = format!("[{{ httpGet: {{ path: /status/302, port: serving, {fields} }} }}]");
    let mesh = cart(application.address(), &probes).await;
    let fields = format!("X-Test-Field: Location={location}\r\n");
    let heads = answers(NODE, inbound(&mesh), &get(&mesh, "/status/302", &fields)).await;
    assert_eq!(heads[0].status(), 302);
    let heads = answers(NODE, inbound(&mesh), &get(&mesh, "/ready", &fields)).await;
    refused(&heads[0]);
}

/// One call of the health protocol with this message, framed as gRPC does; status and reason.
async fn health(
    mesh: &Mesh,
    source: &str,
    path: &str,
    message: &[u8],
    more: Option<(&str, &str)>,
) -> (u16, String) {
    let connection = http2::Connection::over(dial(source, inbound(mesh)).await).await;
    let mut request = http::Request::post(format!("http://{}{path}", inbound(mesh)))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.33 grpc-go/1.72.1")
        .header("grpc-timeout", "60S");
    if let Some((name, value)) = more {
        request = request.header(name, value);
    }
    let request = request.body(()).expect("a test's request is well formed");
    let mut exchange = connection.start(request, false).await.expect("the proxy speaks HTTP/2");
    let mut body = vec![0];
    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
    body.extend_from_slice(message);
    exchange.send.send_data(Bytes::from(body), true).expect("a message is sent");
    let whole = wait::within("the call is answered", exchange.whole()).await.expect("an answer");
    let reason =
        whole.head.headers().get("x-weft-reason").map(|value| value.to_str().expect("a word").to_owned());
    (whole.head.status().as_u16(), reason.unwrap_or_default())
}

#[tokio::test]
async fn a_grpc_probe_passes_with_its_own_service_alone() {
    const CHECK: &str = "/grpc.health.v1.Health/Check";
    let application = Application::start("cart-1").await;
    let mesh =
        Builder::default()
            .service("shop/cart")
            .with_protocol("grpc")
            .mesh_config("{ nodeCidrs: [127.0.3.0/24] }")
            .workload(Workload::new("shop/cart-1").serves(application.address()).protocol("grpc").spec(
                "probes: [{ grpc: { port: serving, service: shop.Cart } }, { grpc: { port: serving } }]",
            ))
            .start()
            .await;
    let declared = b"\x0a\x09shop.Cart";
    assert_eq!(health(&mesh, NODE, CHECK, declared, None).await, (200, String::new()));
    assert_eq!(health(&mesh, NODE, CHECK, b"", None).await, (200, String::new()));
    let passed = application.requests().len();
    assert_eq!(passed, 2);
    let other = b"\x0a\x09shop.Bank";
    let longer = b"\x0a\x09shop.Cart\x12\x01a";
    let long = vec![b'a'; 100_000];
    for (source, path, message, more) in [
        (NODE, CHECK, &other[..], None),
        (NODE, CHECK, longer, None),
        (NODE, CHECK, &long, None),
        (NODE, "/grpc.health.v1.Health/Watch", declared, None),
        (NODE, "/grpc.health.v1.Health/Check?a", declared, None),
        (NODE, CHECK, declared, Some(("authorization", "Bearer x"))),
        (STRANGER, CHECK, declared, None),
    ] {
        let (_, reason) = health(&mesh, source, path, message, more).await;
        assert_eq!(reason, Reason::TlsRequired.label(), "{source} {path} {more:?}");
    }
    assert_eq!(application.requests().len(), passed, "nothing of it reached the application");
    let metrics = mesh.proxy("shop/cart-1").metrics().await;
    let labels = [("kind", "grpc"), ("outcome", "succeeded")];
    assert_eq!(metrics.sum("weft_inbound_probes_total", &labels), 2.0);
}

/// An application that speaks TLS of its own.
async fn own_tls(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    answer_over_tls(listener, answer);
    address
}

/// What the application answers over its own TLS; `None`: there was no handshake.
async fn ask_tls(source: &str, address: SocketAddr) -> Option<Vec<u8>> {
    let stream = dial(source, address).await;
    let mut stream = handshake_over(stream, None, "health.example", &[b"http/1.1"]).await.ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.ok()?;
    let mut answer = Vec::new();
    // What is cut ends without TLS's own end.
    let _ = wait::within("the connection ends", stream.read_to_end(&mut answer)).await;
    Some(answer)
}

#[tokio::test]
async fn an_https_probe_reaches_the_application_and_carries_little() {
    let application = own_tls(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await;
    let probes = "[{ httpGet: { path: /healthz, port: serving, scheme: HTTPS } }]";
    let mesh = cart(application, probes).await;
    assert_eq!(ask_tls(NODE, inbound(&mesh)).await.as_deref(), Some(&b"HTTP/1.1 200 OK\r\n\r\n"[..]));
    assert_eq!(ask_tls(STRANGER, inbound(&mesh)).await, None);
    // In plaintext it is nothing that was declared.
    refused(&probe(&mesh, NODE, "/healthz").await);
    let metrics = mesh.proxy("shop/cart-1").metrics().await;
    let labels = [("kind", "https"), ("outcome", "succeeded")];
    assert_eq!(metrics.sum("weft_inbound_probes_total", &labels), 1.0);

    let long = own_tls(vec![b'x'; 1 << 20]).await;
    let mesh = cart(long, probes).await;
    let answer = ask_tls(NODE, inbound(&mesh)).await.expect("the handshake fits");
    assert!((10 << 10..64 << 10).contains(&answer.len()), "{} bytes", answer.len());
}

#[tokio::test]
async fn an_https_probe_to_a_port_that_lets_plaintext_in_is_anybodys_and_carries_all() {
    let long = own_tls(vec![b'x'; 1 << 20]).await;
    let probes = "probes: [{ httpGet: { path: /healthz, port: serving, scheme: HTTPS } }]";
    let mesh = Builder::default()
        .service("shop/cart")
        .with_protocol("")
        .mesh_config("{ nodeCidrs: [127.0.3.0/24] }")
        .workload(Workload::new("shop/cart-1").serves(long).protocol("").spec(probes))
        .policy("nobody", &authorization("nobody", "cart", "ALLOW", "[]"))
        .policy("tls", &peer_authentication("cart", "cart", "PERMISSIVE"))
        .start()
        .await;
    // No policy admits it: it passes as the probe that it may be, and within limits.
    let answer = ask_tls(NODE, inbound(&mesh)).await.expect("the handshake fits");
    assert!(answer.len() < 64 << 10, "{} bytes", answer.len());
    mesh.enforce_policy("nobody", &authorization("everybody", "cart", "ALLOW", "[{}]")).await;
    for source in [NODE, STRANGER] {
        assert_eq!(
            ask_tls(source, inbound(&mesh)).await.map(|answer| answer.len()),
            Some(1 << 20),
            "{source}"
        );
    }
    let metrics = mesh.proxy("shop/cart-1").metrics().await;
    assert_eq!(metrics.sum("weft_inbound_probes_total", &[("kind", "https")]), 1.0);
}

#[tokio::test]
async fn without_an_https_probe_the_applications_tls_is_refused_from_a_node() {
    let application = own_tls(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await;
    let mesh = cart(application, "[{ httpGet: { path: /healthz, port: serving } }]").await;
    assert_eq!(ask_tls(NODE, inbound(&mesh)).await, None);
}

#[tokio::test]
async fn a_probe_fails_where_its_application_is_gone() {
    // Bound and never listening: nobody else takes the port, and a connection is refused.
    let gone = TcpSocket::new_v4().expect("a socket");
    gone.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let gone_at = gone.local_addr().expect("an address");
    let mesh = cart(gone_at, "[{ httpGet: { path: /healthz, port: serving } }]").await;
    let head = probe(&mesh, NODE, "/healthz").await;
    assert_eq!(
        (head.status(), head.field("x-weft-reason")),
        (503, Some(Reason::ApplicationUnreachable.label()))
    );
    let metrics = mesh.proxy("shop/cart-1").metrics().await;
    assert_eq!(metrics.sum("weft_inbound_probes_total", &[("kind", "http"), ("outcome", "failed")]), 1.0);
}

#[tokio::test]
async fn what_was_declared_and_is_no_longer_is_refused() {
    let application = Application::start("cart-1").await;
    let mesh = cart(application.address(), "[{ httpGet: { path: /healthz, port: serving } }]").await;
    assert_eq!(probe(&mesh, NODE, "/healthz").await.status(), 200);
    let text = mesh.read_policy("mesh");
    mesh.enforce_policy("mesh", &text.replace("path: /healthz", "path: /ready")).await;
    assert_eq!(probe(&mesh, NODE, "/ready").await.status(), 200);
    refused(&probe(&mesh, NODE, "/healthz").await);
    mesh.enforce_policy("mesh", &text.replace("127.0.3.0/24", "127.0.9.0/24")).await;
    refused(&probe(&mesh, NODE, "/healthz").await);
}

#[tokio::test]
async fn under_permissive_a_probe_passes_where_a_policy_would_deny_it() {
    let application = Application::start("cart-1").await;
    let mesh = builder(application.address(), "[{ httpGet: { path: /healthz, port: serving } }]")
        .policy("tls", &peer_authentication("cart", "cart", "PERMISSIVE"))
        .start()
        .await;
    assert_eq!(probe(&mesh, NODE, "/healthz").await.status(), 200);
    let head = probe(&mesh, NODE, "/admin").await;
    assert_eq!(
        (head.status(), head.field("x-weft-reason")),
        (403, Some(Reason::AuthorizationDenied.label()))
    );
    let head = probe(&mesh, STRANGER, "/healthz").await;
    assert_eq!(
        (head.status(), head.field("x-weft-reason")),
        (403, Some(Reason::AuthorizationDenied.label()))
    );
}
