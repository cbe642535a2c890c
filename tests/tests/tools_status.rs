//! `weft status`, `weft wait` and `weft explain --live` against a running mesh.

use std::process::Command;
use weft_tests::application::Application;
use weft_tests::binaries::binaries;
use weft_tests::mesh::{Builder, Mesh, authorization};
use weft_tests::process::{self, Ended};
use weft_tests::wait;

async fn weft(mesh: &Mesh, arguments: &[&str]) -> Ended {
    let mut command = Command::new(&binaries().cli);
    command.args(arguments).args(["--control", &mesh.control_admin().to_string()]);
    process::run(command).await
}

fn number(generation: &str) -> u64 {
    generation.rsplit_once('.').and_then(|(_, number)| number.parse().ok()).expect("EPOCH.N")
}

#[tokio::test]
async fn status_says_where_every_proxy_stands_and_how_often_a_rule_decided() {
    let application = Application::start("cart-1").await;
    let policy = authorization("cart", "cart", "ALLOW", "[{ to: [{ operation: { methods: [GET] } }] }]");
    let mesh = Builder::pair(application.address()).policy("policy", &policy).start().await;
    for _ in 0..3 {
        mesh.client("shop/web-1").get("http://cart.shop/items").await.passed();
    }
    let waited = weft(&mesh, &["wait", "--proxies-min", "2"]).await;
    assert!(waited.status.success(), "{}{}", waited.stdout, waited.stderr);
    let metrics = mesh.proxy("shop/cart-1").metrics_address().to_string();
    let mut hits = String::new();
    // As the proxy counts, and as it has reported to the control API.
    for arguments in [&["status", "--metrics", &metrics][..], &["status"]] {
        hits = wait::eventually("the decisions are counted", async || {
            let ended = weft(&mesh, arguments).await;
            assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
            ended.stdout.contains("shop/cart rule 0: allow 3").then_some(ended.stdout)
        })
        .await;
    }
    for workload in ["shop/cart-1", "shop/web-1"] {
        assert!(hits.contains(workload) && hits.contains("current"), "{hits}");
    }
    let json = weft(&mesh, &["status", "--output", "json"]).await;
    let answer: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(answer["proxies"].as_array().map(Vec::len), Some(2), "{answer:#}");
    assert_eq!(answer["trustDomain"], "cluster.local");
    assert_eq!(answer["policyHits"][0]["decisions"], 3, "{answer:#}");
}

#[tokio::test]
async fn wait_returns_when_a_generation_is_enforced_and_says_what_is_missing_if_it_never_is() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let first = mesh.status().await["generation"].as_str().unwrap_or_default().to_owned();
    let deny = authorization("cart", "cart", "DENY", "[{}]");
    mesh.write_policy("policy", &deny);
    let next = (number(&first) + 1).to_string();
    let ended = weft(&mesh, &["wait", "--generation", &next]).await;
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    // Enforced is enforced: no request passes any more.
    assert_eq!(mesh.client("shop/web-1").get("http://cart.shop/items").await.status(), 403);
    let never = (number(&first) + 1000).to_string();
    let ended = weft(&mesh, &["wait", "--generation", &never, "--timeout", "500ms"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stdout.contains("not in time: the control API is at"), "{}", ended.stdout);
}

#[tokio::test]
async fn wait_without_a_generation_waits_for_all_that_was_written_before() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let client = mesh.client("shop/web-1");
    for (action, status) in [("DENY", 403), ("ALLOW", 200), ("DENY", 403), ("ALLOW", 200)] {
        mesh.write_policy("policy", &authorization("cart", "cart", action, "[{}]"));
        let ended = weft(&mesh, &["wait", "--proxies-min", "2"]).await;
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
        // At once: that is what it says.
        assert_eq!(client.get("http://cart.shop/items").await.status(), status, "{}", ended.stdout);
    }
    // What does not come into force is not waited for until the time is up.
    mesh.write_policy("policy", "kind: [");
    let ended = weft(&mesh, &["wait"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(
        ended.stdout.starts_with("not in force: a file is not served as it is: policy.yaml"),
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn a_bad_file_is_shown_and_fails_the_command() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    mesh.write_policy("broken", "apiVersion: v1\nkind: Nothing\n");
    let shown = wait::eventually("the bad file is told", async || {
        let ended = weft(&mesh, &["status"]).await;
        (ended.status.code() == Some(1)).then_some(ended.stdout)
    })
    .await;
    assert!(shown.contains("broken.yaml") && shown.contains("unknown kind"), "{shown}");
}

#[tokio::test]
async fn without_a_control_api_there_is_no_answer() {
    let mut command = Command::new(&binaries().cli);
    // A port of nobody: bound and not listening would be refused as well.
    command.args(["status", "--control", "127.0.0.1:1"]);
    let ended = process::run(command).await;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stdout);
    assert!(ended.stderr.contains("127.0.0.1:1"), "{}", ended.stderr);
}

#[tokio::test]
async fn explain_live_judges_by_the_policies_in_force_and_says_who_enforces_them() {
    let application = Application::start("cart-1").await;
    let deny = authorization("cart", "cart", "DENY", "[{ to: [{ operation: { methods: [GET] } }] }]");
    let mesh = Builder::pair(application.address()).policy("policy", &deny).start().await;
    let waited = weft(&mesh, &["wait", "--proxies-min", "2"]).await;
    assert!(waited.status.success(), "{}{}", waited.stdout, waited.stderr);
    let request = ["explain", "--live", "--from", "shop/web-1", "--to", "shop/cart"];
    let ended = weft(&mesh, &request).await;
    assert!(ended.stdout.starts_with("DENY: 403 authorization_denied"), "{}{}", ended.stdout, ended.stderr);
    for part in ["denied by shop/cart rule 0", "shop/cart-1 enforces it", "shop/web-1 enforces it"] {
        assert!(ended.stdout.contains(part), "{part} is missing: {}", ended.stdout);
    }
    // A file that cannot be understood is not in force: what it said before is, and is what is explained.
    mesh.write_policy("policy", "kind: [");
    wait::eventually("the bad file is told", async || {
        let status = mesh.status().await;
        status["source"]["problems"].as_array().is_some_and(|problems| !problems.is_empty()).then_some(())
    })
    .await;
    let ended = weft(&mesh, &[&request[..], &["--output", "json"]].concat()).await;
    let said: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(
        (&said["verdict"], &said["reason"]),
        (&"deny".into(), &"authorization_denied".into()),
        "{said:#}"
    );
    let status = mesh.status().await;
    assert_eq!(said["live"]["generation"], status["generation"], "{said:#}");
    let proxies = said["live"]["proxies"].as_array().expect("proxies");
    assert!(proxies.len() == 2 && proxies.iter().all(|proxy| proxy["current"] == true), "{said:#}");
    assert_eq!(mesh.client("shop/web-1").get("http://cart.shop/items").await.status(), 403);
}
