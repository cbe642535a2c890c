//! What is wrong before anything runs: one clear sentence each, exit code 2, nothing half done.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use weft_tests::application::Application;
use weft_tests::binaries::binaries;
use weft_tests::client::Request;
use weft_tests::mesh::{Builder, Mesh, Workload, authorization, write_private};
use weft_tests::process::{self, Ended};
use weft_tests::wait;

/// Refused: exit code 2, and one message that contains all of `said`.
#[track_caller]
fn refused(what: &str, ended: &Ended, said: &[&str]) {
    assert_eq!(ended.status.code(), Some(2), "{what}: {}\n{}", ended.status, ended.stderr);
    let lower = ended.stderr.to_lowercase();
    for word in said {
        assert!(lower.contains(&word.to_lowercase()), "{what}: {word:?} is not in\n{}", ended.stderr);
    }
    assert!(!lower.contains("panicked"), "{what}:\n{}", ended.stderr);
    let sentences = ended.stderr.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(sentences <= 12, "{what}: one message, not {sentences} lines:\n{}", ended.stderr);
}

async fn proxy(settings: &Path, arguments: &[&str]) -> Ended {
    let mut command = Command::new(&binaries().proxy);
    command.arg("--config").arg(settings).args(arguments);
    process::run(command).await
}

async fn control(policies: &Path, state: &Path, arguments: &[&str]) -> Ended {
    let mut command = Command::new(&binaries().control);
    command.arg("--policies").arg(policies).arg("--state").arg(state);
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).args(arguments);
    process::run(command).await
}

async fn pair() -> (Mesh, Application) {
    let application = Application::start("cart-1").await;
    (Builder::pair(application.address()).start().await, application)
}

#[tokio::test]
async fn a_proxy_with_settings_that_make_no_sense_says_which() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let address = "127.0.0.1:15010";
    let base = format!(
        "control: {{ address: '{address}', roots: /r, token: /t }}\nmetrics: {{ listen: '127.0.0.1:15020' }}\n"
    );
    let with = |lines: &str| format!("workload: shop/cart-1\n{base}{lines}\n");
    let cases = [
        ("an unknown setting", with("outbuond: {}"), &["outbuond", "proxy.yaml"][..]),
        ("broken YAML", "workload: [\n".to_owned(), &["proxy.yaml"]),
        ("no workload", base.clone(), &["workload", "--workload", "WEFT_WORKLOAD"]),
        ("a bad workload", format!("workload: Shop\n{base}"), &["workload", "Shop"]),
        ("a bad address", with("admin: { listen: here }"), &["here"]),
        ("an admin port for everybody", with("admin: { listen: '0.0.0.0:15000' }"), &["admin", "loopback"]),
        (
            "an outbound port for everybody",
            with("outbound: { listen: '0.0.0.0:15001' }"),
            &["outbound", "loopback"],
        ),
        ("two listeners on one port", with("admin: { listen: '127.0.0.1:15020' }"), &["15020"]),
        ("a bad duration", with("drain: { deadline: soon }"), &["soon"]),
        ("a bad log level", with("log: loud"), &["loud"]),
    ];
    for (what, text, said) in cases {
        fs::write(&file, &text).unwrap();
        refused(what, &proxy(&file, &[]).await, said);
    }
    let missing = directory.path().join("missing.yaml");
    refused("a missing file", &proxy(&missing, &[]).await, &["missing.yaml"]);
    fs::write(&file, "workload: shop/cart-1\n").unwrap();
    refused("an unknown flag", &proxy(&file, &["--wokload", "x/y"]).await, &["--wokload"]);
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_setting() {
    let (mut mesh, _application) = pair().await;
    let settings = mesh.proxy("shop/web-1").settings().to_owned();
    let outbound = mesh.proxy("shop/web-1").outbound();
    let metrics = mesh.proxy("shop/web-1").metrics_address();
    mesh.proxy_mut("shop/web-1").kill();
    for (setting, address) in [("outbound", outbound), ("metrics", metrics)] {
        let taken = TcpListener::bind(address).unwrap();
        let ended = proxy(&settings, &[]).await;
        refused("a taken port", &ended, &[setting, &address.to_string(), "another process"]);
        drop(taken);
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let policies = directory.path().join("policies");
    fs::create_dir(&policies).unwrap();
    fs::write(policies.join("mesh.yaml"), mesh.read_policy("mesh")).unwrap();
    let mut command = Command::new(&binaries().control);
    command.arg("--policies").arg(&policies).arg("--state").arg(&state);
    command.args(["--listen", &address, "--admin-listen", "127.0.0.1:0"]);
    refused("a taken port", &process::run(command).await, &["listen", &address]);
}

#[tokio::test]
async fn files_that_others_can_read_or_that_cannot_be_read_are_refused() {
    let (mut mesh, _application) = pair().await;
    let set = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // The authority's key.
    mesh.kill_control();
    let key = mesh.state().join("ca.key");
    set(&key, 0o644);
    let ended = control(&mesh.policies(), &mesh.state(), &[]).await;
    refused("a key that all can read", &ended, &["ca.key"]);
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    let ended = control(&mesh.policies(), &mesh.state(), &[]).await;
    refused("a key that cannot be read", &ended, &["ca.key"]);
    fs::remove_dir(&key).unwrap();
    write_private(&key, "not a key\n");
    let ended = control(&mesh.policies(), &mesh.state(), &[]).await;
    refused("a key that is none", &ended, &["ca.key"]);
    // The workload's own key, as it is kept for a restart.
    mesh.proxy_mut("shop/web-1").kill();
    let state = mesh.proxy("shop/web-1").directory().join("state");
    let kept = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    let keys: Vec<_> = kept.filter(|path| path.ends_with("identity")).collect();
    assert_eq!(keys.len(), 1, "one kept key: {keys:?}");
    set(&keys[0], 0o644);
    let settings = mesh.proxy("shop/web-1").settings().to_owned();
    let name = keys[0].to_string_lossy();
    refused("a kept key that all can read", &proxy(&settings, &[]).await, &[&*name, "600"]);
}

#[tokio::test]
async fn a_control_api_without_a_usable_configuration_refuses_to_start() {
    let directory = tempfile::tempdir().unwrap();
    let (policies, state) = (directory.path().join("policies"), directory.path().join("state"));
    let missing = control(&policies, &state, &[]).await;
    refused("a missing directory", &missing, &["policies"]);
    fs::create_dir(&policies).unwrap();
    let broken = authorization("nobody", "cart", "DENY", "[{}]").replace("selector", "selectr");
    fs::write(policies.join("deny.yaml"), broken).unwrap();
    let ended = control(&policies, &state, &[]).await;
    refused("a bad file with no last good of it", &ended, &["deny.yaml", "selectr"]);
}

#[tokio::test]
async fn a_token_that_is_not_believed_is_told_and_tried_again() {
    let application = Application::start("cart-1").await;
    let mut mesh = Builder::pair(application.address()).workload(Workload::new("shop/late-1")).start().await;
    mesh.proxy_mut("shop/late-1").kill();
    let directory = mesh.proxy("shop/late-1").directory().to_owned();
    fs::remove_dir_all(directory.join("state")).unwrap();
    let right = mesh.token("shop/late-1", None).await;
    let other = mesh.token("shop/web-1", None).await;
    let token = directory.join("token");
    for (what, text) in [
        ("nonsense", "nonsense"),
        ("a changed one", &right.replace(&right[8..12], "AAAA")),
        ("another's", &other),
    ] {
        write_private(&token, text);
        mesh.proxy_mut("shop/late-1").spawn();
        wait::until(&format!("{what} is told"), async || {
            let log = mesh.proxy("shop/late-1").process().log().to_lowercase();
            log.contains("token")
        })
        .await;
        assert_ne!(mesh.proxy("shop/late-1").ready().await, Some(true), "{what}");
    }
    // The right one is read without a restart.
    write_private(&token, &right);
    mesh.proxy_mut("shop/late-1").wait_ready().await;
    let request = Request::get("http://cart.shop/").id("late");
    mesh.client("shop/late-1").send(&request).await.passed();
}

#[tokio::test]
async fn an_expired_token_is_told() {
    let application = Application::start("cart-1").await;
    let mut mesh = Builder::pair(application.address()).workload(Workload::new("shop/late-1")).start().await;
    mesh.proxy_mut("shop/late-1").kill();
    let directory = mesh.proxy("shop/late-1").directory().to_owned();
    fs::remove_dir_all(directory.join("state")).unwrap();
    let token = mesh.token("shop/late-1", Some("1s")).await;
    write_private(&directory.join("token"), &token);
    // What is waited for is time itself: the token's second, counted in whole ones.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    mesh.proxy_mut("shop/late-1").spawn();
    mesh.proxy("shop/late-1").process().logged("expired").await;
    assert_ne!(mesh.proxy("shop/late-1").ready().await, Some(true));
}

#[tokio::test]
async fn a_proxy_whose_control_api_is_away_waits_says_so_and_recovers() {
    let application = Application::start("cart-1").await;
    let mut mesh = Builder::pair(application.address()).workload(Workload::new("shop/late-1")).start().await;
    let address = mesh.control_address().to_string();
    mesh.proxy_mut("shop/late-1").kill();
    fs::remove_dir_all(mesh.proxy("shop/late-1").directory().join("state")).unwrap();
    mesh.kill_control();
    mesh.proxy_mut("shop/late-1").spawn();
    let proxy = mesh.proxy("shop/late-1");
    proxy.process().logged(&address).await;
    wait::until("it is not ready and says why", async || {
        match weft_tests::client::fetch(proxy.metrics_address(), "/ready").await {
            Ok(response) => response.status() == 503 && response.text().contains("certificate"),
            Err(_) => false,
        }
    })
    .await;
    assert_eq!(
        weft_tests::client::fetch(proxy.metrics_address(), "/live").await.unwrap().status(),
        200,
        "waiting is no reason to be restarted"
    );
    mesh.start_control().await;
    mesh.proxy_mut("shop/late-1").wait_ready().await;
    mesh.client("shop/late-1").get("http://cart.shop/").await.passed();
}

#[tokio::test]
async fn a_control_api_that_is_somebody_else_gets_no_token() {
    let (mut mesh, _application) = pair().await;
    mesh.proxy_mut("shop/web-1").kill();
    let directory = mesh.proxy("shop/web-1").directory().to_owned();
    fs::remove_dir_all(directory.join("state")).unwrap();
    // The same address, but roots of another authority.
    let foreign = weft_tests::certificate::Authority::new("cluster.local");
    let roots = directory.join("roots.pem");
    fs::write(&roots, foreign.root_pem()).unwrap();
    let old = mesh.state().join("roots.pem").to_string_lossy().into_owned();
    mesh.proxy("shop/web-1").edit_settings(&old, &roots.to_string_lossy());
    mesh.proxy_mut("shop/web-1").spawn();
    wait::until("the refusal is told", async || {
        let log = mesh.proxy("shop/web-1").process().log().to_lowercase();
        log.contains("certificate") && (log.contains("control") || log.contains("issuer"))
    })
    .await;
    assert_ne!(mesh.proxy("shop/web-1").ready().await, Some(true));
    // Roots are read again: the right ones put it right.
    fs::copy(&old, &roots).unwrap();
    mesh.proxy_mut("shop/web-1").wait_ready().await;
}

#[tokio::test]
async fn a_token_for_a_workload_that_is_none_is_refused_by_name() {
    let (mesh, _application) = pair().await;
    let ended = mesh.run_token("Shop", None).await;
    refused("a bad workload", &ended, &["Shop"]);
    let mut command = Command::new(&binaries().control);
    command.args(["token", "--workload", "shop/cart-1", "--state", "/proc/weft"]);
    let ended = process::run(command).await;
    refused("no state", &ended, &["/proc/weft"]);
}
