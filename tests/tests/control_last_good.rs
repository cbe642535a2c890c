//! The last good configuration: a proxy that is killed while the control API is away serves again, by
//! nothing that is damaged, somebody else's, or too old.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{self, Request};
use weft_tests::mesh::{Builder, Mesh, Workload};
use weft_tests::traffic::Traffic;
use weft_tests::{figures, wait};

const CART: &str = "http://cart.shop/items";
const FIRST: &str = "http://first.shop/items";

/// How often a proxy is killed.
const KILLS: usize = 20;

/// The connections of the client that sees none of it.
const CONNECTIONS: usize = 4;

fn kept(mesh: &Mesh, uid: &str) -> PathBuf {
    mesh.proxy(uid).directory().join("state/last-good")
}

/// Waits until what a proxy keeps names this.
async fn keeps(mesh: &Mesh, uid: &str, name: &str) {
    wait::until(&format!("{uid} keeps {name}"), async || {
        let bytes = fs::read(kept(mesh, uid)).unwrap_or_default();
        bytes.windows(name.len()).any(|window| window == name.as_bytes())
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_is_killed_under_load_serves_again_without_the_control_api() {
    let (first, second) = (Application::start("cart-1").await, Application::start("cart-2").await);
    let mut mesh = Builder::default()
        .service("shop/cart")
        .service_of("shop/first", "cart", Some("v1"))
        .workload(Workload::new("shop/cart-1").label("version", "v1").serves(first.address()))
        .workload(Workload::new("shop/cart-2").serves(second.address()))
        .workload(Workload::new("shop/web-1"))
        .workload(Workload::new("shop/web-2"))
        .start()
        .await;
    for uid in ["shop/web-1", "shop/web-2"] {
        for url in [CART, FIRST] {
            mesh.client(uid).get(url).await.passed();
        }
        keeps(&mesh, uid, "shop/cart").await;
        keeps(&mesh, uid, "shop/first").await;
    }
    keeps(&mesh, "shop/cart-1", "shop/cart-1").await;
    mesh.kill_control();
    let traffic = Traffic::start(mesh.client("shop/web-2"), CONNECTIONS, |id| Request::get(CART).id(id));
    let mut took = Vec::new();
    for round in 0..KILLS {
        traffic.more(20).await;
        // The client's side and the server's in turn; each time the first answer through it is awaited.
        let (uid, url, by) = if round % 2 == 0 {
            ("shop/web-1", CART, "shop/web-1")
        } else {
            ("shop/cart-1", FIRST, "shop/web-1")
        };
        mesh.proxy_mut(uid).kill();
        let start = Instant::now();
        mesh.proxy_mut(uid).spawn();
        let client = mesh.client(by);
        while !client.try_send(&Request::get(url)).await.is_ok_and(|response| response.status() == 200) {
            assert!(start.elapsed() < wait::SOON, "{uid} does not serve again");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        took.push(start.elapsed());
        // It says that it serves by what is old.
        let ready = client::fetch(mesh.proxy(uid).metrics_address(), "/ready").await.unwrap();
        assert!(ready.status() == 200 && ready.text().contains("stale"), "{}", ready.text());
        assert_eq!(mesh.proxy(uid).metrics().await.sum("weft_policy_stale", &[]), 1.0);
    }
    // The other client, with two replicas to choose from, saw none of it, but for answers that had begun: each
    // kill of the server's side may cut one on each of its connections.
    traffic.stop().await.all_succeeded_but_what_was_cut(CONNECTIONS * KILLS / 2);
    took.sort();
    let (median, slowest) = (took[KILLS / 2], took[KILLS - 1]);
    figures::show(&format!(
        "{KILLS} kills under load: served again after {median:?} (median), {slowest:?} (slowest)"
    ));
    mesh.start_control().await;
    wait::until("it is current again", async || {
        mesh.proxy("shop/web-1").metrics().await.sum("weft_policy_stale", &[]) == 0.0
    })
    .await;
}

/// A mesh whose `shop/web-1` is stopped, with a last good configuration, and whose control API is gone.
async fn stopped(application: &Application, settings: &str) -> Mesh {
    let mut mesh = Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/cart-1").serves(application.address()).settings(settings))
        .workload(Workload::new("shop/web-1").settings(settings))
        .start()
        .await;
    mesh.client("shop/web-1").get(CART).await.passed();
    keeps(&mesh, "shop/web-1", "shop/cart").await;
    mesh.kill_control();
    mesh.proxy_mut("shop/web-1").kill();
    mesh
}

#[tokio::test]
async fn what_is_damaged_or_could_be_somebody_elses_is_refused_with_a_reason_and_whole() {
    let application = Application::start("cart-1").await;
    let mut mesh = stopped(&application, "startup: { timeout: 300ms }").await;
    let path = kept(&mesh, "shop/web-1");
    let whole = fs::read(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let write = |bytes: &[u8], mode: u32| {
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let mut flipped = whole.clone();
    let at = flipped.len() - 10;
    flipped[at] ^= 1;
    let cases: [(&str, &dyn Fn(), &str); 6] = [
        ("truncated", &|| write(&whole[..whole.len() / 2], 0o600), "its checksum is wrong"),
        ("empty", &|| write(b"", 0o600), "does not begin as a state file does"),
        ("tampered with", &|| write(&flipped, 0o600), "its checksum is wrong"),
        ("readable by others", &|| write(&whole, 0o644), "can be read by others"),
        (
            "a link",
            &|| {
                write(&whole, 0o600);
                fs::rename(&path, path.with_extension("elsewhere")).unwrap();
                std::os::unix::fs::symlink(path.with_extension("elsewhere"), &path).unwrap();
            },
            "cannot be read",
        ),
        (
            "another workload's",
            &|| {
                fs::remove_file(&path).unwrap();
                fs::copy(kept_of_cart(&path), &path).unwrap();
            },
            "another workload's",
        ),
    ];
    for (what, prepare, said) in cases {
        prepare();
        let before = log_length(&mesh, "shop/web-1");
        mesh.proxy_mut("shop/web-1").spawn();
        let process = mesh.proxy("shop/web-1").process();
        wait::until("it gives up waiting", async || process.log()[before..].contains("not ready in time"))
            .await;
        let log = process.log();
        let line = log[before..].lines().find(|line| line.contains("last good configuration is ignored"));
        assert!(line.is_some_and(|line| line.contains(said)), "{what}: {line:?}");
        // Nothing of it holds: no destination, no policy, not ready.
        assert_eq!(mesh.proxy("shop/web-1").ready().await, Some(false), "{what}");
        mesh.client("shop/web-1").get(CART).await.refused_with(Reason::ConfigurationMissing);
        mesh.proxy_mut("shop/web-1").kill();
    }
    let _ = fs::remove_file(&path);
    write(&whole, 0o600);
    mesh.proxy_mut("shop/web-1").start().await;
    mesh.client("shop/web-1").get(CART).await.passed();
}

/// How much a proxy that was killed has logged.
fn log_length(mesh: &Mesh, uid: &str) -> usize {
    let log = mesh.proxy(uid).directory().join(format!("{}.log", uid.replace('/', ".")));
    fs::read_to_string(log).expect("its log").len()
}

fn kept_of_cart(path: &std::path::Path) -> PathBuf {
    let proxies = path.ancestors().nth(3).expect("a proxy has a directory");
    proxies.join("shop.cart-1/state/last-good")
}

#[tokio::test]
async fn past_its_maximum_age_it_denies_with_that_reason_until_the_control_api_is_back() {
    let application = Application::start("cart-1").await;
    let mut mesh = stopped(&application, "lastGoodAgeMax: 1h\nstartup: { timeout: 300ms }").await;
    let age = |mesh: &Mesh, uid: &str, seconds: u64| {
        let file = fs::File::options().write(true).open(kept(mesh, uid)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    age(&mesh, "shop/web-1", 3500);
    mesh.proxy_mut("shop/web-1").start().await;
    mesh.client("shop/web-1").get(CART).await.passed();
    mesh.proxy_mut("shop/cart-1").kill();
    age(&mesh, "shop/cart-1", 3700);
    // Its first life may have said the same.
    let before = log_length(&mesh, "shop/cart-1");
    mesh.proxy_mut("shop/cart-1").spawn();
    let process = mesh.proxy("shop/cart-1").process();
    for said in ["policy_too_old", "not ready in time"] {
        wait::until(&format!("it says {said:?}"), async || process.log()[before..].contains(said)).await;
    }
    assert_eq!(mesh.proxy("shop/cart-1").ready().await, Some(false), "nobody new is sent there");
    let response = wait::eventually("the server's side answers again", async || {
        let response = mesh.client("shop/web-1").get(CART).await;
        let away = [Some(Reason::ConnectFailed), Some(Reason::ConnectTimeout)];
        (!away.contains(&response.reason())).then_some(response)
    })
    .await;
    response.refused_with(Reason::PolicyTooOld);
    assert_eq!(application.requests().len(), 2, "the application saw those that were admitted");
    mesh.start_control().await;
    wait::until("it is admitted again", async || mesh.client("shop/web-1").is_answered(CART, 200).await)
        .await;
}
