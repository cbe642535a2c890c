//! What strangers can do to a captured pod by connecting: nothing that lasts.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::fs;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use weft_tests::client::{Client, Request, Response};
use weft_tests::mesh::peer_authentication;
use weft_tests::netns::{Dial, Pod, isolated};
use weft_tests::pods::{Builder, Member, PodSpec};
use weft_tests::wait;

/// Connections at once. Each is one file here and one in the proxy.
const CROWD: usize = 10_000;

fn scene() -> Builder {
    Builder::pair().pod(PodSpec::new("out/side-1").foreign())
}

async fn open(member: &Member, direction: &str) -> f64 {
    member.metrics().await.sum("weft_connections_open", &[("direction", direction)])
}

async fn connect(from: &Member, address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        streams.push(from.pod().connect(address, Dial::default()).await.expect("it is accepted or waits"));
    }
    streams
}

#[test]
fn ten_thousand_silent_connections_cost_memory_for_themselves_and_nobody_a_call() {
    isolated("ten_thousand_silent_connections_cost_memory_for_themselves_and_nobody_a_call", || async {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).expect("a limit may be raised");
        assert!(
            hard.is_none_or(|hard| hard > CROWD as u64 + 200),
            "this test needs {CROWD} files open at once; the hard limit is {hard:?} (ulimit -Hn)"
        );
        // Where TLS must come first, silence has ten seconds: the first would be gone before the last has come.
        let permissive = peer_authentication("cart", "cart", "PERMISSIVE");
        let mesh = scene().policy("tls", &permissive).start().await;
        let (cart, side) = (mesh.member("shop/cart-1"), mesh.member("out/side-1"));
        let application = cart.application("cart-1", 8080);
        let before = cart.process().resident();
        // To a port that somebody serves, and to hundreds that nobody does.
        let mut crowd = connect(side, cart.ipv4(8080), CROWD / 2).await;
        for port in 0..u16::try_from(CROWD / 2).unwrap() {
            crowd.extend(connect(side, cart.ipv6(20_000 + port % 700), 1).await);
        }
        wait::until("all are accepted", async || open(cart, "inbound").await >= CROWD as f64).await;
        mesh.member("shop/web-1").caller(mesh.vip("shop/cart")).get("http://cart/").await.passed();
        let each = (cart.process().resident() - before) / CROWD as u64;
        assert!(each < 32 << 10, "{each} bytes for each");
        // Nobody has spoken, so the application has seen nobody but the one caller.
        assert_eq!(application.requests().len(), 1);
        drop(crowd);
        wait::until("they are gone", async || open(cart, "inbound").await < 10.0).await;
    });
}

#[test]
fn a_peer_that_says_half_of_something_and_closes_leaves_nothing_behind() {
    isolated("a_peer_that_says_half_of_something_and_closes_leaves_nothing_behind", || async {
        let mesh = scene().start().await;
        let (cart, side) = (mesh.member("shop/cart-1"), mesh.member("out/side-1"));
        let _application = cart.application("cart-1", 8080);
        let mut held = Vec::new();
        for said in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01", b"GET / HT", b"PRI * HTTP/2.0\r\n\r\n"] {
            for mut stream in connect(side, cart.ipv4(8080), 20).await {
                stream.write_all(said).await.expect("it reads");
                // Half open: this side will hear, and say no more.
                stream.shutdown().await.expect("it may be shut down");
                held.push(stream);
            }
        }
        wait::until("the proxy has let go of all", async || open(cart, "inbound").await < 1.0).await;
        mesh.member("shop/web-1").caller(mesh.vip("shop/cart")).get("http://cart/").await.passed();
        drop(held);
    });
}

#[test]
fn without_files_accepting_pauses_and_nothing_dies() {
    isolated("without_files_accepting_pauses_and_nothing_dies", || async {
        let mut mesh = scene().start().await;
        let _application = mesh.member("shop/cart-1").application("cart-1", 8080);
        let (cart, side) = (mesh.member("shop/cart-1"), mesh.member("out/side-1"));
        let process = Pid::from_raw(i32::try_from(cart.process().id()).unwrap());
        let open_files = fs::read_dir(format!("/proc/{}/fd", cart.process().id())).unwrap().count() as u64;
        let limit = |current| Rlimit { current: Some(current), maximum: None };
        let before = prlimit(process, Resource::Nofile, limit(open_files + 20)).or_else(|_| {
            // Without privileges the hard limit stays.
            let maximum = getrlimit(Resource::Nofile).maximum;
            prlimit(process, Resource::Nofile, Rlimit { current: Some(open_files + 20), maximum })
        });
        before.expect("a limit may be lowered");
        let crowd = connect(side, cart.ipv4(8080), 200).await;
        cart.process().logged("accepting pauses").await;
        // Nothing could be opened: not even metrics. What was open works on, and the rest is back when
        // there is room.
        drop(crowd);
        let answer = wait::within("a call is answered", async {
            mesh.member("shop/web-1").caller(mesh.vip("shop/cart")).get("http://cart/").await
        });
        answer.await.passed();
        let paused =
            mesh.member("shop/cart-1").metrics().await.sum("weft_connections_accept_paused_total", &[]);
        assert!(paused >= 1.0, "{paused}");
        assert!(mesh.member_mut("shop/cart-1").process_mut().ended().is_none());
    });
}

async fn asked(pod: &Pod, address: SocketAddr, path: &str) -> Response {
    let stream = pod.connect(address, Dial::default()).await.expect("the admin port accepts");
    let request = Request::get(&format!("http://{address}{path}"));
    Client::direct(address)
        .over(stream)
        .expect("a client on the stream")
        .send(&request)
        .await
        .expect("the admin port answers")
}

#[test]
fn who_scrapes_the_control_api_from_elsewhere_is_not_told_what_the_mesh_is_made_of() {
    isolated("who_scrapes_the_control_api_from_elsewhere_is_not_told_what_the_mesh_is_made_of", || async {
        let mesh = scene().start().await;
        let (side, control) = (mesh.member("out/side-1").pod(), mesh.control_pod());
        for ip in [control.ipv4(), control.ipv6()] {
            let address = SocketAddr::new(ip, 15014);
            assert!(asked(side, address, "/metrics").await.text().contains("weft_control_generation"));
            assert_eq!(asked(side, address, "/ready").await.status(), 200);
            assert_eq!(asked(side, address, "/live").await.status(), 200);
            for path in ["/status", "/policies", "/status?x", "/policies?/metrics"] {
                let answer = asked(side, address, path).await;
                assert_eq!(answer.status(), 403, "{path}: {}", answer.text());
                assert!(answer.text().contains("on the machine that weft-control runs on"), "{path}");
            }
        }
        // On its own machine they are told, by either family.
        for ip in ["127.0.0.1", "::1"] {
            let address = SocketAddr::new(ip.parse().unwrap(), 15014);
            for (path, part) in [("/status", "connectedSeconds"), ("/policies", "MeshConfig")] {
                let answer = asked(control, address, path).await;
                assert!(answer.status() == 200 && answer.text().contains(part), "{path}: {}", answer.text());
            }
        }
    });
}
