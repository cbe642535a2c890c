//! Servers that misbehave: each gets a defined answer, and nothing of it stays behind.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_model::reason::Reason;
use weft_tests::client::Request;
use weft_tests::http2::Connection;
use weft_tests::mesh::{Builder, Mesh, Workload, route};
use weft_tests::raw_http2::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, SETTINGS};
use weft_tests::wait;

/// A server that does what the path says, and how many of its connections are open.
struct Misbehaving {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
}

impl Misbehaving {
    async fn start() -> Self {
        Self::serving(|_, stream| serve(stream)).await
    }

    /// One whose connections, counted from 1, are served so.
    async fn serving<F>(serve: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let open = Arc::<AtomicUsize>::default();
        let counted = open.clone();
        wait::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let counted = counted.clone();
                counted.fetch_add(1, Ordering::SeqCst);
                number += 1;
                let served = serve(number, stream);
                wait::spawn(async move {
                    // How it ends is the proxy's to bear.
                    let _ = served.await;
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

/// An HTTP/2 server that has enough of its first connection: it says GOAWAY at the fourth request, that it
/// takes the first two of them, and answers those. On other connections it answers what comes. `executed` is
/// told of each request that was answered, by connection and stream.
async fn goes_away(
    connection: usize,
    mut stream: TcpStream,
    executed: Arc<Mutex<Vec<(usize, u32)>>>,
) -> std::io::Result<()> {
    const SETTINGS_ACK: u8 = 1;
    const PING: u8 = 6;
    let frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let mut frame = u32::try_from(payload.len()).expect("a short frame").to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(id.to_be_bytes());
        frame.extend(payload);
        frame
    };
    // `:status: 200` has an index of its own.
    let answer = |id| frame(HEADERS, END_STREAM | END_HEADERS, id, &[0x88]);
    stream.read_exact(&mut [0; PREFACE.len()]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let mut held = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            SETTINGS if head[4] & SETTINGS_ACK == 0 => {
                stream.write_all(&frame(SETTINGS, SETTINGS_ACK, 0, &[])).await?;
            }
            PING if head[4] == 0 => stream.write_all(&frame(PING, 1, 0, &payload)).await?,
            HEADERS if connection > 1 => {
                executed.lock().expect("no panic while recording").push((connection, id));
                stream.write_all(&answer(id)).await?;
            }
            HEADERS => {
                held.push(id);
                if let [first, second, _, _] = held[..] {
                    let last = [second.to_be_bytes(), 0_u32.to_be_bytes()].concat();
                    stream.write_all(&frame(GOAWAY, 0, 0, &last)).await?;
                    for id in [first, second] {
                        executed.lock().expect("no panic while recording").push((connection, id));
                        stream.write_all(&answer(id)).await?;
                    }
                }
            }
            _ => {}
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
            && metrics.sum("weft_outbound_requests_waiting", &[]) == 0.0
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

#[tokio::test]
async fn what_a_goaway_leaves_out_is_sent_again_and_what_it_takes_is_answered() {
    let executed = Arc::<Mutex<Vec<_>>>::default();
    let told = executed.clone();
    let server =
        Misbehaving::serving(move |connection, stream| goes_away(connection, stream, told.clone())).await;
    let mesh = Builder::default()
        .service("shop/cart")
        .with_protocol("http2")
        .workload(Workload::new("shop/web-1").calls("shop/cart", 80))
        .workload(Workload::new("shop/cart-1").serves(server.address).protocol("http2").not_injected())
        .start()
        .await;
    let before = descriptors(&mesh).await;
    let client = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    // Not idempotent: only what is proven to be unprocessed may be sent again.
    let post = async || {
        let request = http::Request::post("http://cart.shop/orders").body(()).expect("a request");
        client.start(request, true).await.expect("a stream").whole().await.expect("an answer").status()
    };
    assert_eq!(futures_util::future::join_all((0..4).map(|_| post())).await, [200; 4]);
    let executed = executed.lock().expect("no panic while recording").clone();
    let of = |connection| executed.iter().filter(|(held, _)| *held == connection).count();
    assert_eq!((of(1), of(2), executed.len()), (2, 2, 4), "each once: {executed:?}");
    // What comes after goes to the connection that is left.
    assert_eq!(post().await, 200);
    drop(client);
    nothing_is_left(&mesh, &server, before).await;
}

#[tokio::test]
async fn thousands_of_faults_leave_the_proxy_as_large_as_hundreds_did() {
    const LEAK: u64 = 8 << 20;
    let server = Misbehaving::start().await;
    let mesh = mesh(&server, "[{ timeouts: { request: 30s } }]").await;
    let client = mesh.client("shop/web-1");
    client.get(&url("/")).await.passed();
    let before = descriptors(&mesh).await;
    let faults = async |rounds: usize| {
        for _ in 0..rounds {
            let all = ["/half-a-head", "/nonsense", "/flood", "/too-short", "/two-lengths", "/too-long"];
            let sent = all.map(|path| async move { client.try_send(&Request::get(&url(path))).await });
            futures_util::future::join_all(sent).await;
        }
    };
    faults(50).await;
    let grown = mesh.proxy("shop/web-1").process().resident();
    faults(350).await;
    nothing_is_left(&mesh, &server, before).await;
    let now = mesh.proxy("shop/web-1").process().resident();
    assert!(
        now < grown + LEAK,
        "{} KiB more after seven times as many faults",
        now.saturating_sub(grown) >> 10
    );
}
