//! A resource that a proxy cannot use: refused by name, told to the control API, and the rest holds.

use prost::Message;
use std::process::Command;
use weft_model::proto::v1;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::binaries::binaries;
use weft_tests::mesh::{Builder, Mesh, authorization};
use weft_tests::process::{self, Ended};
use weft_tests::tamper::Tamper;
use weft_tests::wait;

const CART: &str = "http://cart.shop/items";
const CART_ID: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const POLICY: &str = "AuthorizationPolicy/shop/spoilt";

fn deny(name: &str, path: &str) -> String {
    authorization(name, "cart", "DENY", &format!("[{{ to: [{{ operation: {{ paths: ['{path}'] }} }}] }}]"))
}

/// A mesh whose `shop/cart-1` hears the control API through a [`Tamper`].
async fn tampered(application: &Application) -> (Mesh, Tamper) {
    let mut mesh = Builder::pair(application.address()).policy("policy", &deny("spoilt", "/a")).start().await;
    let control = mesh.control_address();
    let tamper = Tamper::start(&mesh.authority(), CART_ID, control).await;
    let proxy = mesh.proxy_mut("shop/cart-1");
    proxy.kill();
    proxy.edit_settings(&control.to_string(), &tamper.address().to_string());
    std::fs::remove_dir_all(proxy.directory().join("state")).expect("the state directory");
    proxy.start().await;
    (mesh, tamper)
}

/// What `/status` says that `shop/cart-1` refused: names and reasons.
async fn nacks(mesh: &Mesh) -> Vec<(String, String)> {
    let status = mesh.status().await;
    let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    proxies
        .iter()
        .filter(|proxy| proxy["workload"] == "shop/cart-1")
        .flat_map(|proxy| proxy["nacks"].as_array().cloned().unwrap_or_default())
        .map(|nack| (text(&nack["name"]), text(&nack["reason"])))
        .collect()
}

#[tokio::test]
async fn an_invalid_resource_keeps_its_last_good_while_the_rest_of_the_push_holds() {
    let application = Application::start("cart-1").await;
    let (mesh, tamper) = tampered(&application).await;
    let client = mesh.client("shop/web-1");
    client.get("http://cart.shop/a").await.refused_with(Reason::AuthorizationDenied);
    tamper.change(|response| {
        for resource in response.resources.iter_mut().filter(|resource| resource.name == POLICY) {
            resource.resource.as_mut().expect("a body").value = vec![0xff; 7].into();
        }
    });
    // One push: the spoilt policy moves to /b, a new one denies /c.
    mesh.write_policy("policy", &format!("{}---\n{}", deny("spoilt", "/b"), deny("sound", "/c")));
    wait::until("the sound policy of the push holds", async || {
        client.is_answered("http://cart.shop/c", 403).await
    })
    .await;
    client.get("http://cart.shop/a").await.refused_with(Reason::AuthorizationDenied);
    client.get("http://cart.shop/b").await.passed();
    let refused = wait::eventually("the control API is told", async || {
        let refused = nacks(&mesh).await;
        (!refused.is_empty()).then_some(refused)
    })
    .await;
    assert_eq!(refused.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [POLICY], "{refused:?}");
    assert!(mesh.control_metrics().await.sum("weft_control_nacks_total", &[]) >= 1.0);
    // The next version that can be used ends it.
    tamper.change(|_| {});
    mesh.write_policy("policy", &format!("{}---\n{}", deny("spoilt", "/d"), deny("sound", "/c")));
    wait::until("the new version holds", async || client.is_answered("http://cart.shop/d", 403).await).await;
    client.get("http://cart.shop/a").await.passed();
    wait::until("nothing is refused any more", async || nacks(&mesh).await.is_empty()).await;
}

#[tokio::test]
async fn a_security_resource_that_is_not_understood_denies_its_scope() {
    let application = Application::start("cart-1").await;
    let (mesh, tamper) = tampered(&application).await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.passed();
    tamper.change(|response| {
        for resource in response.resources.iter_mut().filter(|resource| resource.name == POLICY) {
            let body = resource.resource.as_mut().expect("a body");
            let mut policy = v1::Authorization::decode(body.value.clone()).expect("a policy");
            policy.needs_level = weft_model::LEVEL + 1;
            body.value = policy.encode_to_vec().into();
        }
    });
    mesh.write_policy("policy", &deny("spoilt", "/b"));
    wait::until("everything is denied", async || client.is_answered(CART, 403).await).await;
    client.get(CART).await.refused_with(Reason::AuthorizationUnresolved);
    let refused = wait::eventually("the control API is told", async || {
        let refused = nacks(&mesh).await;
        (!refused.is_empty()).then_some(refused)
    })
    .await;
    assert!(refused[0].1.contains("not understood"), "{refused:?}");
    tamper.change(|_| {});
    mesh.write_policy("policy", &deny("spoilt", "/c"));
    wait::until("it is understood again", async || client.is_answered(CART, 200).await).await;
}

#[tokio::test]
async fn a_named_policy_that_never_arrives_denies() {
    let application = Application::start("cart-1").await;
    let (mesh, tamper) = tampered(&application).await;
    let client = mesh.client("shop/web-1");
    tamper.change(|response| response.resources.retain(|resource| !resource.name.ends_with("/lost")));
    mesh.write_policy("lost", &deny("lost", "/lost"));
    wait::until("everything is denied", async || client.is_answered(CART, 403).await).await;
    client.get(CART).await.refused_with(Reason::AuthorizationUnresolved);
    mesh.remove_policy("lost");
    wait::until("it is not named any more", async || client.is_answered(CART, 200).await).await;
}

async fn weft(mesh: &Mesh, arguments: &[&str]) -> Ended {
    let mut command = Command::new(&binaries().cli);
    command.args(arguments).args(["--control", &mesh.control_admin().to_string()]);
    process::run(command).await
}

#[tokio::test]
async fn a_proxy_that_refused_a_part_is_nowhere_said_to_enforce_it() {
    let application = Application::start("cart-1").await;
    let (mesh, tamper) = tampered(&application).await;
    tamper.change(|response| {
        for resource in response.resources.iter_mut().filter(|resource| resource.name == POLICY) {
            resource.resource.as_mut().expect("a body").value = vec![0xff; 7].into();
        }
    });
    mesh.write_policy("policy", &deny("spoilt", "/b"));
    wait::until("the control API is told", async || !nacks(&mesh).await.is_empty()).await;
    let status = mesh.status().await;
    let cart = |proxy: &&serde_json::Value| proxy["workload"] == "shop/cart-1";
    let proxy = status["proxies"].as_array().and_then(|proxies| proxies.iter().find(cart));
    assert_eq!(proxy.map(|proxy| &proxy["current"]), Some(&false.into()), "{status:#}");

    let generation = status["generation"].as_str().unwrap_or_default().to_owned();
    for arguments in
        [&["wait", "--timeout", "300ms", "--generation", &generation][..], &["wait", "--timeout", "300ms"]]
    {
        let ended = weft(&mesh, arguments).await;
        assert_eq!(ended.status.code(), Some(1), "{}{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains(&format!("shop/cart-1 refuses {POLICY}")), "{}", ended.stdout);
    }
    let ended = weft(&mesh, &["status"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stdout);
    let ended = weft(&mesh, &["explain", "--live", "--from", "shop/web-1", "--to", "shop/cart"]).await;
    assert!(
        ended.stdout.contains("shop/cart-1 does not enforce all of it"),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
    assert!(ended.stdout.contains(&format!("it refuses {POLICY}")), "{}", ended.stdout);

    tamper.change(|_| {});
    mesh.write_policy("policy", &deny("spoilt", "/c"));
    let ended = weft(&mesh, &["wait"]).await;
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
}
