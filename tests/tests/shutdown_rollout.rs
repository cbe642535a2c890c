//! A rollout under load, as pods go through it: everything is told to stop at once, clients hear of it
//! late, and applications still have work to do.
//!
//! Three servers of six are alive at a time. In each cycle a new one comes and an old one gets its SIGTERM,
//! proxy and application at the same moment; the control API's documents change some random time later.
//! A client sends GETs and POSTs on kept connections all the while, and each application that stops goes on
//! calling another service.

use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use weft_tests::application::Application;
use weft_tests::binaries::binaries;
use weft_tests::client::Request;
use weft_tests::mesh::{Builder, Mesh, Workload};
use weft_tests::ports::Port;
use weft_tests::traffic::Traffic;
use weft_tests::{figures, process};

const CART: &str = "http://cart.shop/items";
const STORE: &str = "http://store.shop/stock";

/// Cycles in CI; WEFT_TESTS_ROLLOUT_CYCLES asks for more.
const CYCLES: usize = 3;

/// The longest that documents change behind the event.
const LATE_MAX_MILLISECONDS: u64 = 1500;

/// How long an application that was told to stop goes on serving, and calling.
const SERVES_ON: Duration = Duration::from_millis(300);
const CALLS_ON: Duration = Duration::from_secs(2);

struct Replica {
    uid: String,
    /// Its application comes back to the port that it had.
    port: Port,
    application: Option<Application>,
}

impl Replica {
    async fn start_application(&mut self) {
        let name = self.uid.trim_start_matches("shop/");
        let listener = TcpListener::bind(self.port.address()).await.expect("the port is this replica's");
        self.application = Some(Application::on(name, listener));
    }
}

/// The mesh's documents, with only these replicas in them.
fn publish(mesh: &Mesh, whole: &str, alive: &[bool]) {
    let wanted = |document: &str| {
        alive
            .iter()
            .enumerate()
            .all(|(index, alive)| *alive || !document.contains(&format!("name: cart-{}\n", index + 1)))
    };
    let kept: Vec<_> = whole.split("---\n").filter(|document| wanted(document)).collect();
    mesh.write_policy("mesh", &kept.join("---\n"));
}

#[tokio::test]
async fn a_rollout_under_load_costs_no_request_and_refuses_no_call_of_a_stopping_application() {
    let store = Application::start("store-1").await;
    let mut replicas = Vec::new();
    let mut builder = Builder::default()
        .service("shop/cart")
        .service("shop/store")
        .workload(Workload::new("shop/store-1").serves(store.address()))
        .workload(Workload::new("shop/web-1"));
    for number in 1..=6 {
        let uid = format!("shop/cart-{number}");
        let mut replica = Replica { uid, port: Port::claim(), application: None };
        replica.start_application().await;
        let workload = Workload::new(&replica.uid).serves(replica.port.address());
        builder = builder.workload(workload.settings("drain: { quiet: 1s }"));
        replicas.push(replica);
    }
    let mut mesh = builder.start().await;
    let whole = mesh.read_policy("mesh");
    let mut alive = [true, true, true, false, false, false];
    publish(&mesh, &whole, &alive);
    for replica in &mut replicas[3..] {
        mesh.proxy_mut(&replica.uid).kill();
        replica.application = None;
    }
    // Only three are known: a request must draw none that is gone.
    let mut command = Command::new(&binaries().cli);
    command.args(["wait", "--control", &mesh.control_admin().to_string()]);
    let ended = process::run(command).await;
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    let client = mesh.client("shop/web-1");
    let gets = Traffic::start(client, 4, |id| Request::get(CART).id(id));
    let posts = Traffic::start(client, 4, |id| Request::post(CART, "an order").id(&format!("post-{id}")));
    let mut ledger = BTreeMap::<String, usize>::new();
    let mut lateness = figures::Random::new(42);
    let cycles = std::env::var("WEFT_TESTS_ROLLOUT_CYCLES")
        .map_or(CYCLES, |text| text.parse().expect("WEFT_TESTS_ROLLOUT_CYCLES must be a number"));
    let (mut calls, mut slowest) = (0, Duration::ZERO);
    for cycle in 0..cycles {
        let (old, new) = (cycle % 6, (cycle + 3) % 6);
        // The new one.
        replicas[new].start_application().await;
        alive[new] = true;
        // A pod is known to the mesh before it is ready: the control API issues its certificate.
        publish(&mesh, &whole, &alive);
        mesh.proxy_mut(&replicas[new].uid).start().await;
        posts.more(50).await;
        // The old one: told to stop, both at once.
        let uid = replicas[old].uid.clone();
        let own = mesh.client(&uid);
        own.get(STORE).await.passed();
        // Kept while it calls: however long there is between two of its calls, it is not taken for gone.
        let kept = own.connect().await.unwrap();
        mesh.proxy(&uid).process().signal(Signal::SIGTERM);
        let told = Instant::now();
        let late = Duration::from_millis(lateness.below(LATE_MAX_MILLISECONDS));
        alive[old] = false;
        let mut published = false;
        while told.elapsed() < CALLS_ON.max(late) {
            if told.elapsed() >= SERVES_ON
                && let Some(application) = &replicas[old].application
            {
                application.close();
            }
            if told.elapsed() >= late && !published {
                publish(&mesh, &whole, &alive);
                published = true;
            }
            if told.elapsed() < CALLS_ON {
                own.get(STORE).await.passed();
                own.send(&Request::post(STORE, "done")).await.passed();
                calls += 2;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(kept);
        publish(&mesh, &whole, &alive);
        let (status, took) = mesh.proxy_mut(&uid).process_mut().wait().await;
        assert_eq!(status.code(), Some(0), "{uid}: {status}");
        slowest = slowest.max(took);
        let application = replicas[old].application.take().expect("it was alive");
        for request in application.requests() {
            *ledger.entry(request.field("x-request-id").unwrap_or_default().to_owned()).or_default() += 1;
        }
        gets.more(50).await;
    }
    let (gets, posts) = (gets.stop().await, posts.stop().await);
    gets.all_succeeded();
    posts.all_succeeded();
    for application in replicas.iter().filter_map(|replica| replica.application.as_ref()) {
        for request in application.requests() {
            *ledger.entry(request.field("x-request-id").unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    let not_once: Vec<_> =
        posts.succeeded.iter().filter(|id| ledger.get(&format!("post-{id}")) != Some(&1)).collect();
    assert!(not_once.is_empty(), "executed not exactly once: {not_once:?}");
    figures::show(&format!(
        "{cycles} cycles, {} GETs, {} POSTs, {calls} calls of stopping applications: no error; a proxy ended at the \
         latest {slowest:?} after its application's last call",
        gets.succeeded.len(),
        posts.succeeded.len()
    ));
}
