//! What is open when the policy changes: what is now denied is closed, all else lives.

use std::net::SocketAddr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request};
use weft_tests::mesh::{Builder, Mesh, Workload, authorization, peer_authentication, route};
use weft_tests::{wait, websocket};

const DENY_ADMIN: &str = "[{ from: [{ source: { principals: [cluster.local/ns/ops/sa/admin] } }] }]";

async fn cart(application: &Application) -> Mesh {
    Builder::pair(application.address()).workload(Workload::new("ops/admin-1")).start().await
}

async fn socket(client: &Client) -> (OwnedReadHalf, OwnedWriteHalf) {
    let mut connection = client.connect().await.expect("the proxy must accept");
    let request = Request::get("http://cart.shop/socket")
        .field("Connection", "Upgrade")
        .field("Upgrade", "websocket")
        .field("Sec-WebSocket-Version", "13")
        .field("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    connection.begin(&request).await.expect("the request must be sent");
    assert_eq!(connection.head().await.expect("an answer must come").status(), 101);
    let (read, _, write) = connection.into_parts();
    (read, write)
}

async fn echoes(read: &mut OwnedReadHalf, write: &mut OwnedWriteHalf) {
    websocket::send_text(write, "still here").await.expect("a frame must be sent");
    let echo = wait::within("an echo", websocket::read_frame(read)).await.expect("a frame must come back");
    assert_eq!(echo.1, b"still here");
}

/// An opaque echo server.
async fn echo_server() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    wait::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            wait::spawn(async move {
                let (mut read, mut write) = stream.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// A connection that stays open, with the client it belongs to.
enum Open {
    Socket(OwnedReadHalf, OwnedWriteHalf),
    Opaque(TcpStream),
}

impl Open {
    async fn echoes(&mut self) {
        match self {
            Self::Socket(read, write) => echoes(read, write).await,
            Self::Opaque(stream) => {
                stream.write_all(b"still here").await.expect("bytes must be sent");
                let mut back = [0; 10];
                wait::within("an echo", stream.read_exact(&mut back)).await.expect("bytes must come back");
                assert_eq!(&back, b"still here");
            }
        }
    }

    async fn ends(self) {
        let mut rest = Vec::new();
        // An end or a reset: it is closed.
        let _ = match self {
            Self::Socket(mut read, _write) => wait::within("the end", read.read_to_end(&mut rest)).await,
            Self::Opaque(mut stream) => wait::within("the end", stream.read_to_end(&mut rest)).await,
        };
    }
}

async fn ends(read: &mut OwnedReadHalf) {
    let mut rest = Vec::new();
    // An end or a reset: it is closed.
    let _ = wait::within("the end", read.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn an_upgraded_connection_that_is_now_denied_is_closed_and_another_lives() {
    let application = Application::start("cart-1").await;
    let mesh = cart(&application).await;
    let (mut web_read, mut web_write) = socket(&mesh.client("shop/web-1")).await;
    let (mut admin_read, mut admin_write) = socket(&mesh.client("ops/admin-1")).await;
    echoes(&mut web_read, &mut web_write).await;
    echoes(&mut admin_read, &mut admin_write).await;
    mesh.write_policy("policy", &authorization("no-admin", "cart", "DENY", DENY_ADMIN));
    ends(&mut admin_read).await;
    echoes(&mut web_read, &mut web_write).await;
    let metrics = mesh.proxy("shop/cart-1").metrics().await;
    let labels = [("direction", "inbound"), ("reason", Reason::AuthorizationDenied.label())];
    assert_eq!(metrics.sum("weft_answers_total", &labels), 1.0, "one was closed, with its reason");
}

#[tokio::test]
async fn a_streamed_answer_that_is_now_denied_breaks_off_and_another_goes_on() {
    let application = Application::start("cart-1").await;
    let mesh = cart(&application).await;
    let begin = async |client: Client, gate: &str| {
        let mut connection = client.connect().await.unwrap();
        let request = Request::get("http://cart.shop/bytes/1000000").field("x-test-gate-body", gate);
        connection.begin(&request).await.unwrap();
        assert_eq!(connection.head().await.unwrap().status(), 200);
        application.arrived(gate).await;
        connection
    };
    let web = begin(mesh.client("shop/web-1"), "web").await;
    let mut admin = begin(mesh.client("ops/admin-1"), "admin").await;
    mesh.write_policy("policy", &authorization("no-admin", "cart", "DENY", DENY_ADMIN));
    let broken = wait::within("the end", admin.rest()).await;
    assert!(broken.is_err() || broken.unwrap().len() < 1_000_000, "the answer must not be complete");
    application.open("web");
    let (mut read, buffered, _write) = web.into_parts();
    let mut rest = vec![0; 1_000_000 - buffered.len()];
    wait::within("the rest", read.read_exact(&mut rest)).await.unwrap();
}

#[tokio::test]
async fn a_plaintext_connection_is_refused_from_the_moment_that_strict_holds() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address())
        .policy("tls", &peer_authentication("cart", "cart", "PERMISSIVE"))
        .start()
        .await;
    let client = Client::direct(mesh.proxy("shop/cart-1").inbound());
    let mut connection = client.connect().await.unwrap();
    connection.send(&Request::get("http://cart.shop/items")).await.unwrap().passed();
    mesh.enforce_policy("tls", &peer_authentication("cart", "cart", "STRICT")).await;
    let response = connection.send(&Request::get("http://cart.shop/items")).await.unwrap();
    response.refused_with(Reason::TlsRequired);
}

#[tokio::test]
async fn an_opaque_connection_that_is_now_denied_is_closed_and_another_lives() {
    let address = echo_server().await;
    let mesh = Builder::default()
        .service("shop/store")
        .with_protocol("tcp")
        .workload(Workload::new("shop/store-1").serves(address).protocol("tcp"))
        .workload(Workload::new("shop/web-1"))
        .workload(Workload::new("ops/admin-1"))
        .start()
        .await;
    let dial = async |uid: &str| mesh.client(uid).tunnel("store.shop:80").await.expect("CONNECT must pass");
    let (mut web, mut admin) = (dial("shop/web-1").await, dial("ops/admin-1").await);
    for stream in [&mut web, &mut admin] {
        stream.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        wait::within("an echo", stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"hello");
    }
    mesh.write_policy("policy", &authorization("no-admin", "store", "DENY", DENY_ADMIN));
    let mut rest = Vec::new();
    let _ = wait::within("the end", admin.read_to_end(&mut rest)).await;
    web.write_all(b"again").await.unwrap();
    let mut back = [0; 5];
    wait::within("an echo", web.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"again");
    web.shutdown().await.unwrap();
    assert_eq!(
        wait::within("the end", web.read_to_end(&mut rest)).await.unwrap(),
        0,
        "half-close is passed on"
    );
    wait::until("its bytes are counted", async || {
        let metrics = mesh.proxy("shop/store-1").metrics().await;
        metrics.sum("istio_tcp_received_bytes_total", &[("destination_service_name", "store")]) >= 10.0
    })
    .await;
}

#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_denied_at_once_and_another_waits_on() {
    let application = Application::start("cart-1").await;
    let mesh = cart(&application).await;
    let waiting = async |client: Client, gate: &str| {
        let mut connection = client.connect().await.unwrap();
        let request = Request::get("http://cart.shop/items").field("x-test-gate", gate);
        connection.begin(&request).await.unwrap();
        application.arrived(gate).await;
        connection
    };
    let mut web = waiting(mesh.client("shop/web-1"), "web").await;
    let mut admin = waiting(mesh.client("ops/admin-1"), "admin").await;
    mesh.write_policy("policy", &authorization("no-admin", "cart", "DENY", DENY_ADMIN));
    // The application keeps its gate shut: nothing but the policy can end this.
    let denied = wait::within("an answer", admin.finish("GET")).await.unwrap();
    denied.refused_with(Reason::AuthorizationDenied);
    application.open("web");
    web.finish("GET").await.unwrap().passed();
    let server = mesh.proxy("shop/cart-1");
    let metrics = server.metrics().await;
    let labels = [("direction", "inbound"), ("reason", Reason::AuthorizationDenied.label())];
    assert_eq!(metrics.sum("weft_answers_total", &labels), 1.0, "one was denied, and counted once");
    wait::until("the access log says by which policy", async || {
        server.access_log().iter().any(|line| {
            line["detail"].as_str().is_some_and(|detail| detail.starts_with("shop/no-admin rule 0 ("))
        })
    })
    .await;
}

/// Waits until the answer is stuck: the proxies on its way (one worker each) serve other requests, and
/// meanwhile take not one byte more of it, since what the client does not read has filled every buffer
/// there is.
async fn blocked(application: &Application, client: Client) {
    wait::until("the sender is blocked", async || {
        let before = application.given();
        for _ in 0..5 {
            client.get("http://cart.shop/items").await.passed();
        }
        application.given() == before
    })
    .await;
}

#[tokio::test]
async fn a_client_that_has_stopped_reading_is_cut_off_all_the_same() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address())
        .workload(Workload::new("ops/admin-1"))
        .policy("tls", &peer_authentication("cart", "cart", "PERMISSIVE"))
        .start()
        .await;
    let plain = Client::direct(mesh.proxy("shop/cart-1").inbound());
    for (client, path) in [(mesh.client("ops/admin-1"), "/bytes/400000001"), (plain, "/bytes/400000002")] {
        let mut connection = client.connect().await.unwrap();
        connection.begin(&Request::get(&format!("http://cart.shop{path}"))).await.unwrap();
        assert_eq!(connection.head().await.unwrap().status(), 200);
        let (mut read, _, _write) = connection.into_parts();
        blocked(&application, client).await;
        let deny = "[{ from: [{ source: { principals: [cluster.local/ns/ops/sa/admin] } }, { source: { notPrincipals: ['*'] } }] }]";
        mesh.write_policy("policy", &authorization("no-admin", "cart", "DENY", deny));
        let server = mesh.proxy("shop/cart-1");
        // Far sooner than a stalled client is given up.
        wait::until("its end is logged, with the reason", async || {
            server
                .access_log()
                .iter()
                .any(|line| line["path"] == path && line["reason"] == Reason::AuthorizationDenied.label())
        })
        .await;
        let mut rest = vec![0; 1 << 20];
        let mut count = 0_u64;
        while let Ok(length) = wait::within("the end", read.read(&mut rest)).await {
            count += length as u64;
            if length == 0 {
                break;
            }
        }
        assert!(count < 400_000_000, "{path}: all of it came");
        mesh.enforce_removal("policy").await;
        client.get("http://cart.shop/items").await.passed();
    }
}

/// A change of some kind: the file it goes into, and its text.
fn push(number: usize, whole: &str) -> (&'static str, String) {
    let path = format!("[{{ to: [{{ operation: {{ paths: ['/secret/{number}'] }} }}] }}]");
    let seconds = 20 + number;
    match number % 8 {
        0 => ("deny", authorization("deny", "cart", "DENY", &path)),
        1 => {
            // Everybody, in as many rules as this number says: each time another document.
            let rules = format!("[{}]", vec!["{}"; 1 + number / 8].join(", "));
            let store = authorization("allow-store", "store", "ALLOW", &rules);
            ("allow", authorization("allow", "cart", "ALLOW", &rules) + "---\n" + &store)
        }
        2 => ("tls", peer_authentication("cart", "cart", ["STRICT", "PERMISSIVE"][number / 8 % 2])),
        3 => {
            let rule =
                format!("timeouts: {{ request: {seconds}s }}, backendRefs: [{{ name: cart, port: 80 }}]");
            ("route", route("cart", "cart", &format!("[{{ {rule} }}]")))
        }
        4 => ("mesh", whole.replace("spec: {}", &format!("spec: {{ requestTimeout: {seconds}s }}"))),
        5 => {
            let head = format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{ name: more-{number}, namespace: shop }}\n"
            );
            let port = "{ port: 81, targetPort: http, appProtocol: http }";
            ("more", format!("{head}spec:\n  selector: {{ app: cart }}\n  ports: [{port}]\n"))
        }
        6 => {
            let head = "apiVersion: weft.dev/v1alpha1\nkind: Workload\n";
            let labels =
                format!("metadata: {{ name: idle-{number}, namespace: shop, labels: {{ app: store }} }}\n");
            let port = format!("{{ name: http, port: {}, protocol: tcp }}", 1000 + number);
            let spec = format!("spec:\n  address: 127.0.0.1\n  serviceAccount: store\n  ports: [{port}]\n");
            ("endpoint", [head, &labels, &spec].concat())
        }
        _ => ("other", authorization("other", "web", "DENY", &path)),
    }
}

/// Pushes in CI, and connections of each kind for each of two clients.
const PUSHES: usize = 200;
const OPEN: usize = 50;

#[tokio::test]
async fn two_hundred_pushes_of_every_kind_drop_nothing_and_a_revocation_exactly_its_own() {
    let application = Application::start("cart-1").await;
    let address = echo_server().await;
    let mesh = Builder::default()
        .service("shop/cart")
        .service("shop/store")
        .with_protocol("tcp")
        .workload(Workload::new("shop/cart-1").serves(application.address()))
        .workload(Workload::new("shop/store-1").serves(address).protocol("tcp"))
        .workload(Workload::new("shop/web-1"))
        .workload(Workload::new("ops/admin-1"))
        .start()
        .await;
    let open = async |uid: &str| {
        let mut all = Vec::new();
        for _ in 0..OPEN {
            let (read, write) = socket(&mesh.client(uid)).await;
            all.push(Open::Socket(read, write));
            let stream = mesh.client(uid).tunnel("store.shop:80").await.expect("CONNECT must pass");
            all.push(Open::Opaque(stream));
        }
        for open in &mut all {
            open.echoes().await;
        }
        all
    };
    let mut web = open("shop/web-1").await;
    let mut admin = open("ops/admin-1").await;
    let whole = mesh.read_policy("mesh");
    for number in 0..PUSHES {
        let (name, text) = push(number, &whole);
        // Each is pushed by itself; Services nobody calls, and endpoints, need no generation.
        if matches!(number % 8, 5 | 6) {
            mesh.write_policy(name, &text);
        } else {
            mesh.enforce_policy(name, &text).await;
        }
    }
    for open in web.iter_mut().chain(&mut admin) {
        open.echoes().await;
    }
    assert_eq!(
        mesh.proxy("shop/cart-1").metrics().await.sum("weft_answers_total", &[]),
        0.0,
        "none was closed"
    );
    let denials = authorization("no-admin", "cart", "DENY", DENY_ADMIN)
        + "---\n"
        + &authorization("no-admin-store", "store", "DENY", DENY_ADMIN);
    let start = Instant::now();
    mesh.write_policy("policy", &denials);
    for open in admin {
        open.ends().await;
    }
    weft_tests::figures::show(&format!(
        "{} connections of a revoked client closed within {:?} of the file's change",
        2 * OPEN,
        start.elapsed()
    ));
    for open in &mut web {
        open.echoes().await;
    }
    for uid in ["shop/cart-1", "shop/store-1"] {
        let metrics = mesh.proxy(uid).metrics().await;
        let labels = [("direction", "inbound"), ("reason", Reason::AuthorizationDenied.label())];
        assert_eq!(metrics.sum("weft_answers_total", &labels), OPEN as f64, "{uid}: exactly its connections");
    }
}
