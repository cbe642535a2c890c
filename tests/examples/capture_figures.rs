//! What transparent capture costs, measured in pods of this machine:
//!
//! ```sh
//! cargo build --release -p weft-proxy -p weft-control -p weft-tests --bins
//! cargo run --release -p weft-tests --example capture_figures
//! ```
//!
//! Connections: set up, accepted and closed one after the other, over loopback without any rules, over
//! loopback beside the rules, and redirected by them (with the look-up of the original destination),
//! in turns. Start: from the start of the process to `/ready`, without anything kept and after a crash.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use weft_proxy::listener::original_dst::OriginalDst;
use weft_proxy::rules::settings::{Bypass, RulesSettings};
use weft_proxy::rules::{self, wanted::RuleSet};
use weft_tests::netns::{Network, Pod, program};
use weft_tests::pods::{Builder, Member, PodSpec, Pods};

const ROUNDS: usize = 15;
const CONNECTIONS: u32 = 2000;
const STARTS: usize = 20;

fn main() -> ExitCode {
    program(|| async {
        let pod = PodSpec::new("shop/cart-1").serves(8080).not_started();
        let mut mesh = Builder::default().pod(pod).start().await;
        connections(mesh.network()).await;
        starts(&mut mesh).await;
    })
}

/// Accepts and closes, as often as asked.
fn accept(listener: TcpListener, look_up: bool) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if look_up {
                OriginalDst::look_up(&stream).expect("a redirected connection has a destination");
            }
        }
    });
}

/// Microseconds for each connection to `address` from the pod.
fn connect(pod: &Pod, address: SocketAddr) -> f64 {
    pod.run(move || {
        let started = Instant::now();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).expect("somebody listens");
            // A reset: nothing of it waits for a minute.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option must be set");
        }
        started.elapsed().as_secs_f64() * 1e6 / f64::from(CONNECTIONS)
    })
}

async fn connections(network: &Network) {
    let (bare, captured) = (network.pod("bare").await, network.pod("captured").await);
    let local: SocketAddr = "127.0.0.1:15001".parse().expect("an address");
    let beside: SocketAddr = "127.0.0.1:15099".parse().expect("an address");
    accept(bare.listen_blocking(local), false);
    accept(captured.listen_blocking(local), true);
    accept(captured.listen_blocking(beside), false);
    let rules = RuleSet::new(RulesSettings { bypass: Bypass::Mark(0x77), ..RulesSettings::default() });
    let rules = rules.expect("the defaults make sense");
    captured.run(move || rules::install(&rules)).expect("the rules are taken");
    let elsewhere: SocketAddr = "192.0.2.1:80".parse().expect("an address");
    let mut times = [(); 3].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        times[0].push(connect(&bare, local));
        times[1].push(connect(&captured, beside));
        times[2].push(connect(&captured, elsewhere));
    }
    let [without, beside, redirected] = times.map(median);
    say(&format!(
        "a connection over loopback: {without:.1} us without rules, {beside:.1} us beside them, redirected \
         {redirected:.1} us ({:+.1} us; {ROUNDS} rounds of {CONNECTIONS}, medians)",
        redirected - without
    ));
}

async fn starts(mesh: &mut Pods) {
    let mut fresh = Vec::new();
    let mut again = Vec::new();
    for _ in 0..STARTS {
        let cart = mesh.member_mut("shop/cart-1");
        cart.kill();
        assert_eq!(cart.rules(&["remove"]).0, 0);
        let _ = std::fs::remove_dir_all(cart.directory().join("state"));
        fresh.push(start(cart).await);
        let file = cart.directory().join("state/last-good");
        weft_tests::wait::until("the state is kept", async || file.exists()).await;
        cart.kill();
        again.push(start(cart).await);
    }
    say(&format!(
        "start to ready, rules installed and capture proven both ways: {:.0} ms without anything kept, {:.0} ms \
         after a crash ({STARTS} starts, medians)",
        median(fresh),
        median(again)
    ));
}

/// Milliseconds from the start of the process until it is ready.
async fn start(cart: &mut Member) -> f64 {
    let started = Instant::now();
    cart.spawn();
    loop {
        if cart.ready().await.is_some_and(|(status, _)| status == 200) {
            return started.elapsed().as_secs_f64() * 1e3;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::print_stdout, reason = "figures are what this program is for")]
fn say(line: &str) {
    println!("{line}");
}
