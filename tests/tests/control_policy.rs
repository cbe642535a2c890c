//! Policy from a file's rename to its enforcement, and what a bad file or a lost control API does.

use std::time::Instant;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{Client, Request};
use weft_tests::mesh::{Builder, Mesh, Workload, authorization, route};
use weft_tests::traffic::Traffic;
use weft_tests::{figures, wait};

const CART: &str = "http://cart.shop/items";

async fn pair(application: &Application) -> Mesh {
    Builder::pair(application.address()).start().await
}

async fn becomes(client: Client, status: u16) {
    wait::until(&format!("the answer becomes {status}"), async || client.is_answered(CART, status).await)
        .await;
}

fn deny() -> String {
    authorization("nobody", "cart", "DENY", "[{}]")
}

#[tokio::test]
async fn a_policy_that_is_written_removed_and_written_again_is_enforced_each_time() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.passed();
    for _ in 0..3 {
        let start = Instant::now();
        mesh.write_policy("policy", &deny());
        becomes(client, 403).await;
        figures::show(&format!("a policy was enforced {:?} after it was written", start.elapsed()));
        mesh.remove_policy("policy");
        becomes(client, 200).await;
    }
}

/// Whether `/status` reports a problem of `policy.yaml`.
async fn reported(mesh: &Mesh) -> bool {
    let status = mesh.status().await;
    let source = &status["source"];
    [&source["problems"], &source["refused"]].iter().any(|list| list.to_string().contains("policy.yaml"))
}

#[tokio::test]
async fn every_proxy_acknowledges_the_generation() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let before = mesh.status().await["generation"].clone();
    mesh.write_policy("policy", &deny());
    becomes(mesh.client("shop/web-1"), 403).await;
    wait::until("both proxies are current, and the one it binds enforces the new generation", async || {
        let status = mesh.status().await;
        let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
        let cart = proxies.iter().find(|proxy| proxy["workload"] == "shop/cart-1");
        status["generation"] != before
            && proxies.len() == 2
            && proxies.iter().all(|proxy| proxy["current"] == true)
            && cart.is_some_and(|cart| cart["generation"] == status["generation"])
            && proxies.iter().all(|proxy| proxy["nacks"].as_array().is_some_and(Vec::is_empty))
    })
    .await;
    let metrics = mesh.control_metrics().await;
    assert_eq!(metrics.sum("weft_control_connected_proxies", &[]), 2.0);
    assert_eq!(metrics.sum("weft_control_nacks_total", &[]), 0.0);
}

#[tokio::test]
async fn a_bad_file_keeps_its_own_last_good_and_leaves_the_others() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).policy("policy", &deny()).start().await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.refused_with(Reason::AuthorizationDenied);
    mesh.write_policy("policy", &deny().replace("selector:", "selectr:"));
    wait::until("the bad file is reported", async || reported(&mesh).await).await;
    mesh.control().logged("selectr").await;
    client.get(CART).await.refused_with(Reason::AuthorizationDenied);
    // The others still change while this one is refused, and the refused one still holds.
    let redirect = "[{ filters: [{ type: RequestRedirect, requestRedirect: { hostname: new.example } }] }]";
    mesh.write_policy("another", &route("moved", "cart", redirect));
    becomes(client, 302).await;
    mesh.remove_policy("another");
    becomes(client, 403).await;
    assert!(reported(&mesh).await);
    mesh.write_policy("policy", &deny().replace("DENY", "ALLOW"));
    becomes(client, 200).await;
    wait::until("nothing is reported any more", async || !reported(&mesh).await).await;
}

#[tokio::test]
async fn every_kind_of_bad_file_is_reported_by_name_and_changes_nothing() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).policy("policy", &deny()).start().await;
    let client = mesh.client("shop/web-1");
    let good = deny();
    let cases = [
        ("broken YAML", "apiVersion: [unclosed\n".to_owned()),
        ("an unknown field", good.replace("rules:", "rulez:")),
        ("a duplicate key", good.replace("  action: DENY\n", "  action: DENY\n  action: ALLOW\n")),
        ("a duplicate name", format!("{good}---\n{good}")),
        ("an unknown kind", good.replace("AuthorizationPolicy", "AuthorisationPolicy")),
        ("a field that is not evaluated yet", good.replace("DENY", "CUSTOM")),
        ("a route for a missing service", route("lost", "nobody", "[{}]")),
        ("not YAML at all", "\u{0}\u{1}\u{2}".to_owned()),
    ];
    for (what, text) in cases {
        mesh.write_policy("policy", &text);
        wait::until(&format!("{what} is reported"), async || reported(&mesh).await).await;
        wait::until(&format!("{what} is counted"), async || {
            mesh.control_metrics().await.sum("weft_control_source_errors", &[]) >= 1.0
        })
        .await;
        client.get(CART).await.refused_with(Reason::AuthorizationDenied);
        mesh.write_policy("policy", &good);
        wait::until(&format!("{what} is forgotten"), async || !reported(&mesh).await).await;
    }
    client.get(CART).await.refused_with(Reason::AuthorizationDenied);
}

#[tokio::test]
async fn a_selector_that_matches_nothing_is_a_warning() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    mesh.write_policy("policy", &authorization("nobody", "cartt", "DENY", "[{}]"));
    wait::until("the warning is shown", async || {
        mesh.status().await["source"]["warnings"].to_string().contains("policy.yaml")
    })
    .await;
    assert!(!reported(&mesh).await);
    mesh.client("shop/web-1").get(CART).await.passed();
}

#[tokio::test]
async fn last_good_documents_survive_a_restart_of_the_control_api() {
    let application = Application::start("cart-1").await;
    let mut mesh = Builder::pair(application.address()).policy("policy", &deny()).start().await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.refused_with(Reason::AuthorizationDenied);
    mesh.write_policy("policy", "kind: [");
    mesh.control().logged("policy.yaml").await;
    mesh.kill_control();
    mesh.start_control().await;
    mesh.proxy_mut("shop/cart-1").start().await;
    client.get(CART).await.refused_with(Reason::AuthorizationDenied);
}

#[tokio::test]
async fn a_control_api_that_is_killed_and_restarted_costs_no_request() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    let traffic = Traffic::start(client, 2, |id| Request::get(CART).id(id));
    traffic.more(50).await;
    mesh.kill_control();
    traffic.more(200).await;
    mesh.start_control().await;
    traffic.more(200).await;
    let outcomes = traffic.stop().await;
    outcomes.all_succeeded();
    // And it is a control API again.
    mesh.write_policy("policy", &deny());
    becomes(client, 403).await;
}

#[tokio::test]
async fn what_is_older_than_its_maximum_age_is_not_enforced_but_denied() {
    let application = Application::start("cart-1").await;
    let mut mesh = Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/cart-1").serves(application.address()).settings("lastGoodAgeMax: 3s"))
        .workload(Workload::new("shop/web-1"))
        .start()
        .await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.passed();
    mesh.kill_control();
    let response = wait::eventually("the cart's configuration is too old", async || {
        // A request under way at that moment is cut.
        let response = client.try_send(&Request::get(CART)).await.ok()?;
        (response.status() != 200).then_some(response)
    })
    .await;
    response.refused_with(Reason::PolicyTooOld);
    mesh.start_control().await;
    becomes(client, 200).await;
}

#[tokio::test]
async fn a_control_api_that_lost_its_state_directory_is_not_believed() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.passed();
    mesh.kill_control();
    std::fs::rename(mesh.state(), mesh.directory().join("lost")).unwrap();
    mesh.start_control().await;
    mesh.write_policy("policy", &deny());
    // Its new roots arrive out of band; the certificates of before are not from them. Until an
    // operator gives the proxies new tokens, what they hold keeps holding.
    for _ in 0..20 {
        client.get(CART).await.passed();
    }
}

#[tokio::test]
async fn a_burst_of_edits_ends_with_the_last_one() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    for last in [deny(), deny().replace("DENY", "ALLOW")] {
        for number in 0..40 {
            let action = if number % 2 == 0 { "DENY" } else { "ALLOW" };
            mesh.write_policy("policy", &authorization("nobody", "cart", action, "[{}]"));
            tokio::task::yield_now().await;
        }
        mesh.write_policy("policy", &last);
        becomes(client, if last == deny() { 403 } else { 200 }).await;
        wait::until("every proxy is current", async || {
            let status = mesh.status().await;
            let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
            proxies.iter().all(|proxy| proxy["current"] == true)
        })
        .await;
        assert_eq!(client.get(CART).await.status(), if last == deny() { 403 } else { 200 });
    }
}

#[tokio::test]
async fn edits_of_what_does_not_concern_a_request_do_not_disturb_it() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let traffic = Traffic::start(mesh.client("shop/web-1"), 2, |id| Request::post(CART, "order").id(id));
    for number in 0..20 {
        // A policy of the server that lets the request pass, another workload's, and a route.
        let path = format!("[{{ to: [{{ operation: {{ paths: ['/secret/{number}'] }} }}] }}]");
        mesh.write_policy("own", &authorization("own", "cart", "DENY", &path));
        mesh.write_policy("other", &authorization("other", "web", "DENY", &path));
        let timeout = format!(
            "[{{ timeouts: {{ request: {}s }}, backendRefs: [{{ name: cart, port: 80 }}] }}]",
            20 + number
        );
        mesh.write_policy("route", &route("cart", "cart", &timeout));
        traffic.more(5).await;
    }
    let outcomes = traffic.stop().await;
    outcomes.all_succeeded();
    assert!(outcomes.succeeded.iter().all(|id| application.count(id) == 1));
}

#[tokio::test]
async fn new_workloads_and_services_come_and_go_live() {
    let (application, other) = (Application::start("cart-1").await, Application::start("other").await);
    let mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    client.get("http://plain.shop/").await.refused_with(Reason::ServiceUnknown);
    let port = other.address().port();
    let documents = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: plain, namespace: shop }}\nspec:\n  selector: {{ app: \
         plain }}\n  ports: [{{ name: main, port: 80, targetPort: http, appProtocol: http }}]\n---\napiVersion: \
         weft.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: plain-1, namespace: shop, labels: {{ app: plain }} \
         }}\nspec:\n  address: 127.0.0.1\n  serviceAccount: plain\n  injected: false\n  ports: [{{ name: http, \
         port: {port}, protocol: http }}]\n"
    );
    mesh.write_policy("plain", &documents);
    wait::until("the new service answers", async || client.is_answered("http://plain.shop/", 200).await)
        .await;
    mesh.remove_policy("plain");
    wait::until("the service is gone", async || {
        client.get("http://plain.shop/").await.reason() == Some(Reason::ServiceUnknown)
    })
    .await;
}

#[tokio::test]
async fn a_workload_that_the_mesh_does_not_know_becomes_ready_once_it_does() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).workload(Workload::new("shop/late-1")).start().await;
    assert_eq!(mesh.proxy("shop/late-1").ready().await, Some(true));
    let documents = mesh.read_policy("mesh");
    let without: Vec<_> = documents.split("---\n").filter(|document| !document.contains("late-1")).collect();
    mesh.write_policy("mesh", &without.join("---\n"));
    // The others are not disturbed by one that is taken out.
    mesh.client("shop/web-1").get(CART).await.passed();
    mesh.write_policy("mesh", &documents);
    becomes(mesh.client("shop/late-1"), 200).await;
}

#[tokio::test]
async fn a_change_that_cannot_be_written_down_is_told_and_holds_as_soon_as_it_can_be() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.passed();
    // As on a disk that is full: the file of the generation cannot be replaced by a new one.
    let generation = mesh.state().join("generation");
    std::fs::remove_file(&generation).unwrap();
    std::fs::create_dir(&generation).unwrap();
    let before = mesh.status().await["generation"].clone();
    mesh.write_policy("policy", &deny());
    let told = wait::eventually("the change is told not to hold", async || {
        mesh.status().await["source"]["unwritten"].as_str().map(str::to_owned)
    })
    .await;
    assert!(told.contains("nothing of the last change is in force") && told.contains("generation"), "{told}");
    wait::until("it is counted", async || {
        mesh.control_metrics().await.sum("weft_control_source_errors", &[]) == 1.0
    })
    .await;
    let mut command = std::process::Command::new(&weft_tests::binaries::binaries().cli);
    command.args(["status", "--control", &mesh.control_admin().to_string()]);
    let ended = weft_tests::process::run(command).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stdout);
    assert!(ended.stdout.contains("the state cannot be written"), "{}", ended.stdout);
    // It holds nowhere, not even in part: a number never stands for two contents.
    assert_eq!(mesh.status().await["generation"], before);
    client.get(CART).await.passed();
    std::fs::remove_dir(&generation).unwrap();
    becomes(client, 403).await;
    wait::until("nothing is told any more", async || mesh.status().await["source"]["unwritten"].is_null())
        .await;
}

#[tokio::test]
async fn a_directory_that_is_emptied_ends_no_workload_and_does_not_start() {
    let application = Application::start("cart-1").await;
    let mut mesh = Builder::pair(application.address()).policy("policy", &deny()).start().await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.refused_with(Reason::AuthorizationDenied);
    let before = mesh.status().await["generation"].clone();
    // As a volume that is unmounted leaves it.
    let away = mesh.directory().join("away");
    std::fs::rename(mesh.policies(), &away).unwrap();
    std::fs::create_dir(mesh.policies()).unwrap();
    wait::until("it is told", async || {
        let status = mesh.status().await;
        status["source"]["unreadable"].as_str().is_some_and(|said| said.contains("no policy file"))
    })
    .await;
    client.get(CART).await.refused_with(Reason::AuthorizationDenied);
    assert_eq!(mesh.status().await["generation"], before);
    mesh.kill_control();
    let mut command = std::process::Command::new(&weft_tests::binaries::binaries().control);
    command.arg("--policies").arg(mesh.policies()).arg("--state").arg(mesh.state());
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let ended = weft_tests::process::run(command).await;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("is it mounted?"), "{}", ended.stderr);
    std::fs::remove_dir(mesh.policies()).unwrap();
    std::fs::rename(&away, mesh.policies()).unwrap();
    mesh.start_control().await;
    client.get(CART).await.refused_with(Reason::AuthorizationDenied);
    assert_eq!(mesh.status().await["generation"], before);
}
