//! Servers that misbehave: each gets a defined answer, and nothing of it stays behind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_model::reason::Reason;
use weft_tests::client::Request;
use weft_tests::mesh::{Builder, Mesh, Workload, route};
use weft_tests::wait;

/// A server that does what the path says, and how many of its connections are open.
struct Misbehaving {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
}

impl Misbehaving {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let open = Arc::<AtomicUsize>::default();
        let counted = open.clone();
        wait::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = counted.clone();
                counted.fetch_add(1, Ordering::SeqCst);
                wait::spawn(async move {
                    // How it ends is the proxy's to bear.
                    let _ = serve(stream).await;
                    counted.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, open }
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        while !buffer.windows(4).any(|window| window == b"\r\n\r\n") {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&buffer).into_owned();
        buffer.clear();
        let path = head.split(' ').nth(1).unwrap_or_default();
        match path {
            "/silent" => {
                // Until the other side gives up.
                while stream.read_buf(&mut buffer).await? > 0 {
                    buffer.clear();
                }
                return Ok(());
            }
            "/half-a-head" => return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await,
            "/nonsense" => return stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n").await,
            "/flood" => loop {
                stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await?;
            },
            "/reset-in-the-body" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789").await?;
                // The head is on its way before the reset takes the rest.
                let _ = tokio::time::timeout(Duration::from_millis(100), stream.read_buf(&mut buffer)).await;
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
            "/too-short" => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789").await;
            }
            "/too-long" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcdeHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret").await?;
            }
            "/two-lengths" => {
                return stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef")
                    .await;
            }
            "/close-after-the-last-byte" => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde").await;
            }
            _ => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine").await?,
        }
    }
}

fn url(path: &str) -> String {
    format!("http://cart.shop{path}")
}

async fn mesh(server: &Misbehaving, rules: &str) -> Mesh {
    Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/web-1"))
        .workload(Workload::new("shop/cart-1").serves(server.address).not_injected())
        .policy("route", &route("cart", "cart", rules))
        .start()
        .await
}

/// Nothing is left: no connection of a client, no request in flight, no connection to the server that is of no
/// use any more, and as many descriptors as before, but for what is kept idle.
async fn nothing_is_left(mesh: &Mesh, server: &Misbehaving, descriptors: f64) {
    wait::until("connections to the server are closed, or idle and few", async || {
        server.open.load(Ordering::SeqCst) <= 2
    })
    .await;
    wait::until("connections and descriptors come back", async || {
        let metrics = mesh.proxy("shop/web-1").metrics().await;
        metrics.sum("weft_connections_open", &[("direction", "outbound")]) == 0.0
            && metrics.sum("process_open_fds", &[]) <= descriptors + 4.0
            && metrics.sum("weft_runtime_task_panics_total", &[]) == 0.0
    })
    .await;
}

async fn descriptors(mesh: &Mesh) -> f64 {
    mesh.proxy("shop/web-1").metrics().await.sum("process_open_fds", &[])
}

#[tokio::test]
async fn a_server_that_breaks_off_or_talks_nonsense_gets_its_caller_a_reason() {
    let server = Misbehaving::start().await;
    let mesh = mesh(&server, "[{ timeouts: { request: 30s } }]").await;
    let client = mesh.client("shop/web-1");
    client.get(&url("/")).await.passed();
    let before = descriptors(&mesh).await;
    for _ in 0..3 {
        for path in ["/half-a-head", "/nonsense", "/flood", "/two-lengths"] {
            let response = client.get(&url(path)).await;
            assert_eq!(response.status(), 502, "{path}: {:?}", response.head);
            let reason = response.reason();
            assert!(
                matches!(reason, Some(Reason::ResponseMalformed | Reason::ConnectionReset)),
                "{path}: {reason:?}"
            );
        }
    }
    client.get(&url("/")).await.passed();
    nothing_is_left(&mesh, &server, before).await;
}

#[tokio::test]
async fn a_body_that_ends_early_is_never_taken_for_a_whole_one() {
    let server = Misbehaving::start().await;
    let mesh = mesh(&server, "[{ timeouts: { request: 30s } }]").await;
    let client = mesh.client("shop/web-1");
    client.get(&url("/")).await.passed();
    let before = descriptors(&mesh).await;
    for path in ["/reset-in-the-body", "/too-short"] {
        for _ in 0..5 {
            let answer = client.try_send(&Request::get(&url(path))).await;
            // An error, or an answer of the proxy's own where the head was lost with the rest.
            assert!(answer.as_ref().map_or(true, |answer| answer.status() == 502), "{path}: {answer:?}");
        }
    }
    nothing_is_left(&mesh, &server, before).await;
}

#[tokio::test]
async fn bytes_behind_an_answer_are_nobodys_answer_and_a_close_behind_it_costs_nothing() {
    let server = Misbehaving::start().await;
    let mesh = mesh(&server, "[{ timeouts: { request: 30s } }]").await;
    let client = mesh.client("shop/web-1");
    client.get(&url("/")).await.passed();
    let before = descriptors(&mesh).await;
    let mut connection = client.connect().await.expect("the proxy is there");
    for round in 0..20 {
        for (path, body) in
            [("/too-long", "abcde"), ("/", "fine"), ("/close-after-the-last-byte", "abcde"), ("/", "fine")]
        {
            let response = connection.send(&Request::get(&url(path))).await.expect("an answer");
            assert_eq!((response.status(), response.text().as_str()), (200, body), "{path} in round {round}");
        }
    }
    drop(connection);
    nothing_is_left(&mesh, &server, before).await;
}

#[tokio::test]
async fn a_server_that_never_answers_costs_what_the_timeout_allows_and_leaves_nothing() {
    let server = Misbehaving::start().await;
    let mesh = mesh(&server, "[{ timeouts: { request: 500ms } }]").await;
    let client = mesh.client("shop/web-1");
    wait::until("the server answers in time", async || client.get(&url("/")).await.status() == 200).await;
    let before = descriptors(&mesh).await;
    let silent = (0..30).map(|_| async move { client.get(&url("/silent")).await });
    for response in futures_util::future::join_all(silent).await {
        response.refused_with(Reason::RequestTimeout);
    }
    nothing_is_left(&mesh, &server, before).await;
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing_behind() {
    let server = Misbehaving::start().await;
    let mesh = mesh(&server, "[{ timeouts: { request: 0s } }]").await;
    let client = mesh.client("shop/web-1");
    client.get(&url("/")).await.passed();
    let before = descriptors(&mesh).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        // An upload that is not finished, and a question whose answer is not waited for.
        for head in [
            "POST http://cart.shop/silent HTTP/1.1\r\nhost: cart.shop\r\ncontent-length: 1000\r\n\r\nbegun",
            "GET http://cart.shop/silent HTTP/1.1\r\nhost: cart.shop\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(client.address()).await.expect("the proxy is there");
            stream.write_all(head.as_bytes()).await.expect("room for a head");
            clients.push(stream);
        }
    }
    wait::until("all are under way", async || server.open.load(Ordering::SeqCst) >= clients.len()).await;
    drop(clients);
    nothing_is_left(&mesh, &server, before).await;
}
