//! The race between a server that closes an idle connection and a request that is on its way to it.
//!
//! Behind the mesh stands a server that closes its connections at random within 0 to 400 ms of idleness
//! after an answer, one in ten right behind it without saying so, and keeps a ledger of what it executed. Twenty
//! thousand requests of three methods, with pauses that let the connections grow old, find out whether
//! one is lost or executed twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use weft_tests::application::Application;
use weft_tests::client::{Client, Connection, Request};
use weft_tests::figures::Random;
use weft_tests::http1::Reader;
use weft_tests::mesh::Builder;
use weft_tests::{figures, wait};

/// Requests in all. A run of a million is a matter of patience: set WEFT_TESTS_KEEPALIVE_REQUESTS.
const REQUESTS: u64 = 20_000;

/// Clients, each with its own connection and its own pauses.
const CLIENTS: u64 = 32;

type Ledger = Arc<Mutex<BTreeMap<String, u32>>>;

/// A server with the worst of habits.
#[derive(Debug)]
struct Hasty {
    address: SocketAddr,
    executed: Ledger,
    closed: Arc<Mutex<u64>>,
}

impl Hasty {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (executed, closed) = (Ledger::default(), Arc::<Mutex<u64>>::default());
        let (ledger, count) = (executed.clone(), closed.clone());
        wait::spawn(async move {
            let mut random = Random::new(7);
            while let Ok((stream, _)) = listener.accept().await {
                let (ledger, count, random) = (ledger.clone(), count.clone(), Random::new(random.draw()));
                wait::spawn(async move {
                    let _ = serve(stream, random, &ledger).await;
                    *count.lock().expect("no panic while counting") += 1;
                });
            }
        });
        Self { address, executed, closed }
    }
}

async fn serve(stream: TcpStream, mut random: Random, ledger: &Ledger) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    // A new connection has time to bring its first request, as with every server.
    let mut patience = wait::SOON;
    loop {
        let Ok(head) = tokio::time::timeout(patience, reader.head()).await else { return Ok(()) };
        let Some(head) = head? else { return Ok(()) };
        let id = head.field("x-request-id").unwrap_or_default().to_owned();
        let body = reader.body(head.request_framing()).await?;
        *ledger.lock().expect("no panic while counting").entry(id).or_default() += 1;
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        write.write_all(&[text.as_bytes(), &body].concat()).await?;
        if random.below(10) == 0 {
            return Ok(());
        }
        patience = Duration::from_micros(random.below(400_000));
    }
}

#[derive(Debug, Default)]
struct Outcomes {
    failed: Vec<String>,
    posts: Vec<String>,
}

async fn client(client: Client, number: u64, requests: u64) -> Outcomes {
    let mut random = Random::new(1000 + number);
    let mut outcomes = Outcomes::default();
    let mut kept: Option<Connection> = None;
    for index in 0..requests {
        let method = *random.pick(&["GET", "PUT", "POST"]);
        let id = format!("{method}-{number}-{index}");
        let request = match method {
            "GET" => Request::get("http://cart.shop/items"),
            method => Request::new(method, "http://cart.shop/items").body("an order"),
        };
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => client.connect().await.expect("the proxy must accept"),
        };
        match connection.send(&request.id(&id)).await {
            Ok(response) if response.status() == 200 => {}
            Ok(response) => {
                outcomes.failed.push(format!("{id}: {} {:?}", response.status(), response.reason()))
            }
            Err(error) => outcomes.failed.push(format!("{id}: {error}")),
        }
        if method == "POST" {
            outcomes.posts.push(id);
        }
        kept = Some(connection).filter(Connection::is_open);
        // Bursts, and pauses as long as the server's patience.
        if random.below(8) == 0 {
            tokio::time::sleep(Duration::from_micros(random.below(400_000))).await;
        }
    }
    outcomes
}

#[tokio::test]
async fn a_server_that_closes_when_it_likes_costs_no_request_and_no_order_is_executed_twice() {
    let server = Hasty::start().await;
    let mesh = Builder::pair(server.address).start().await;
    let requests = std::env::var("WEFT_TESTS_KEEPALIVE_REQUESTS")
        .map_or(REQUESTS, |text| text.parse().expect("WEFT_TESTS_KEEPALIVE_REQUESTS must be a number"));
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|number| wait::spawn(client(mesh.client("shop/web-1"), number, requests / CLIENTS)))
        .collect();
    let (mut failed, mut posts) = (Vec::new(), Vec::new());
    for task in tasks {
        let outcomes = task.await.unwrap();
        failed.extend(outcomes.failed);
        posts.extend(outcomes.posts);
    }
    let executed = server.executed.lock().unwrap().clone();
    let twice: Vec<_> = posts.iter().filter(|id| executed.get(*id).is_some_and(|count| *count > 1)).collect();
    assert!(twice.is_empty(), "executed more than once: {twice:?}");
    let closed = *server.closed.lock().unwrap();
    assert!(closed > requests / 50, "the server must have closed connections all the time: {closed}");
    let (lost_posts, lost): (Vec<_>, Vec<_>) = failed.into_iter().partition(|line| line.starts_with("POST"));
    assert!(lost.is_empty(), "of GET and PUT {} were lost: {:?}", lost.len(), &lost[..lost.len().min(10)]);
    // What remains for a POST is a close between the look at the connection and the arrival of the
    // bytes, some microseconds; and it is told as what it is.
    let bound = (requests / 10_000) as usize;
    assert!(lost_posts.len() <= bound, "{} POSTs were lost: {lost_posts:?}", lost_posts.len());
    let stale = mesh.proxy("shop/cart-1").metrics().await.sum("weft_upstream_reused_closed_total", &[]);
    assert!(stale >= 1.0, "what was found closed is counted");
    figures::show(&format!(
        "{requests} requests, {closed} connections closed by the server, {stale} found closed, {} of {} POSTs lost",
        lost_posts.len(),
        posts.len()
    ));
}

/// With its idle connections closed one after another by a drain, a peer costs no request either: what
/// it did not take it says so, and that is believed of a proxy of the mesh.
#[tokio::test]
async fn a_peer_that_closes_idle_connections_in_a_drain_costs_no_post() {
    let (first, second) = (Application::start("cart-1").await, Application::start("cart-2").await);
    let mut mesh = Builder::default()
        .service("shop/cart")
        .workload(weft_tests::mesh::Workload::new("shop/cart-1").serves(first.address()))
        .workload(weft_tests::mesh::Workload::new("shop/cart-2").serves(second.address()))
        .workload(weft_tests::mesh::Workload::new("shop/web-1"))
        .start()
        .await;
    for round in 0..4 {
        let tasks: Vec<_> = (0..8)
            .map(|number| wait::spawn(client(mesh.client("shop/web-1"), 100 * round + number, 60)))
            .collect();
        mesh.proxy("shop/cart-1").process().signal(nix::sys::signal::Signal::SIGTERM);
        let (status, _) = mesh.proxy_mut("shop/cart-1").process_mut().wait().await;
        assert_eq!(status.code(), Some(0));
        for task in tasks {
            let outcomes = task.await.unwrap();
            assert!(outcomes.failed.is_empty(), "round {round}: {:?}", outcomes.failed);
        }
        mesh.proxy_mut("shop/cart-1").start().await;
    }
}
