//! `/ready` says that a pod's connections are captured, or which are not: by direction and family. Rules
//! are spoiled as other tools would, and healed by installing them again.
//!
//! Probes come every half second here instead of every 30 s; the bound of 35 s follows from the default.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use weft_model::reason::Reason;
use weft_tests::client::Request;
use weft_tests::netns::nftables::{Family, change, flush, pass_ipv4, pass_ipv6, switch_off};
use weft_tests::netns::{Dial, isolated};
use weft_tests::pods::{Builder, PodSpec, Pods};
use weft_tests::wait;

/// All proofs that can be missing, in the order in which they are said.
const ALL: &str =
    "missing: capture_inbound_ipv4, capture_inbound_ipv6, capture_outbound_ipv4, capture_outbound_ipv6\n";

async fn says(mesh: &Pods, uid: &str, expected: &str) {
    let member = mesh.member(uid);
    let last = std::cell::RefCell::new(String::new());
    let what = format!("{uid} says {expected:?}");
    let reached = tokio::time::timeout(wait::SOON, async {
        loop {
            if let Some((status, text)) = member.ready().await {
                if text == expected {
                    assert_eq!(status == 200, expected == "ready\n");
                    return;
                }
                last.replace(text);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(reached.await.is_ok(), "not in time: {what}, but {:?}", last.borrow());
}

/// `shop/cart-1`, whose proxy tries its capture often.
async fn watchful(spec: PodSpec) -> Pods {
    let mut mesh = Builder::default()
        .pod(spec.serves(8080).not_started())
        .pod(PodSpec::new("out/side-1").foreign())
        .start()
        .await;
    let cart = mesh.member_mut("shop/cart-1");
    cart.edit_settings(", install: itself }", ", install: itself, probeInterval: 500ms }");
    cart.start().await;
    mesh
}

/// Waits until a proxy has kept what it knows for its next life.
async fn kept(mesh: &Pods, uid: &str) {
    let file = mesh.member(uid).directory().join("state/last-good");
    wait::until(&format!("{uid} has a last good state"), async || file.exists()).await;
}

async fn proven(mesh: &Pods, direction: &str, family: &str) -> f64 {
    let metrics = mesh.member("shop/cart-1").metrics().await;
    metrics.sum("weft_capture_proven", &[("direction", direction), ("family", family)])
}

#[test]
fn a_pod_without_rules_names_every_proof_until_they_are_installed() {
    isolated("a_pod_without_rules_names_every_proof_until_they_are_installed", || async {
        let mut mesh = Builder::default()
            .pod(PodSpec::new("shop/cart-1").serves(8080).rules_by_other().not_started())
            .start()
            .await;
        mesh.member_mut("shop/cart-1").spawn();
        says(&mesh, "shop/cart-1", ALL).await;
        for direction in ["inbound", "outbound"] {
            for family in ["ipv4", "ipv6"] {
                assert_eq!(proven(&mesh, direction, family).await, 0.0, "{direction} {family}");
            }
        }
        let cart = mesh.member("shop/cart-1");
        let log = cart.process().log();
        assert!(log.contains("weft-proxy rules check"), "{log}");
        assert_eq!(cart.rules(&["install"]).0, 0);
        says(&mesh, "shop/cart-1", "ready\n").await;
        for direction in ["inbound", "outbound"] {
            for family in ["ipv4", "ipv6"] {
                assert_eq!(proven(&mesh, direction, family).await, 1.0, "{direction} {family}");
            }
        }
    });
}

#[test]
fn rules_that_are_spoiled_while_it_runs_are_named_and_healed() {
    isolated("rules_that_are_spoiled_while_it_runs_are_named_and_healed", || async {
        let mesh = watchful(PodSpec::new("shop/cart-1")).await;
        let cart = mesh.member("shop/cart-1");
        let outbound = "missing: capture_outbound_ipv4, capture_outbound_ipv6\n";
        let inbound = "missing: capture_inbound_ipv4, capture_inbound_ipv6\n";
        let spoils: [(Vec<_>, &str); 7] = [
            (flush("weft", "outbound"), outbound),
            (flush("weft", "inbound"), inbound),
            (pass_ipv6("weft", "outbound"), "missing: capture_outbound_ipv6\n"),
            (pass_ipv4("weft", "outbound"), "missing: capture_outbound_ipv4\n"),
            (pass_ipv6("weft", "inbound"), "missing: capture_inbound_ipv6\n"),
            (pass_ipv4("weft", "inbound"), "missing: capture_inbound_ipv4\n"),
            (switch_off("weft"), ALL),
        ];
        for (spoil, missing) in spoils {
            change(cart.pod(), Family::Inet, spoil);
            says(&mesh, "shop/cart-1", missing).await;
            assert_eq!(cart.rules(&["install"]).0, 0);
            says(&mesh, "shop/cart-1", "ready\n").await;
        }
        assert_eq!(cart.rules(&["remove"]).0, 0);
        says(&mesh, "shop/cart-1", ALL).await;
    });
}

#[test]
fn a_pod_without_ipv6_is_ready_without_its_proofs() {
    isolated("a_pod_without_ipv6_is_ready_without_its_proofs", || async {
        let mut mesh = Builder::default()
            .pod(PodSpec::new("shop/cart-1").serves(8080).ipv4_only().not_started())
            .pod(PodSpec::new("shop/web-1"))
            .start()
            .await;
        let cart = mesh.member_mut("shop/cart-1");
        let disabled = cart.pod().run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"));
        disabled.expect("a namespace's own settings must be writable");
        cart.start().await;
        let cart = mesh.member("shop/cart-1");
        let _application = cart.application_at("cart-1", cart.ipv4(8080));
        mesh.member("shop/web-1").caller(cart.ipv4(8080)).get("http://cart/").await.passed();
        let text = cart.metrics().await;
        assert_eq!(text.sum("weft_capture_proven", &[("family", "ipv4")]), 2.0);
        assert!(text.find("weft_capture_proven", &[("family", "ipv6")]).next().is_none());
    });
}

#[test]
fn what_is_proven_outlives_the_control_api_and_what_is_flushed_does_not() {
    isolated("what_is_proven_outlives_the_control_api_and_what_is_flushed_does_not", || async {
        let mut mesh = watchful(PodSpec::new("shop/cart-1")).await;
        mesh.kill_control();
        let asked = async |mesh: &Pods| {
            let metrics = mesh.member("shop/cart-1").metrics().await;
            metrics.sum("weft_capture_probes_total", &[("outcome", "nobody_to_ask")])
        };
        // Several rounds without anybody to ask, in both families.
        wait::until("it was asked in vain", async || asked(&mesh).await >= 6.0).await;
        assert_eq!(mesh.member("shop/cart-1").ready().await.map(|(status, _)| status), Some(200));
        change(mesh.member("shop/cart-1").pod(), Family::Inet, flush("weft", "outbound"));
        says(&mesh, "shop/cart-1", ALL).await;
        assert_eq!(mesh.member("shop/cart-1").rules(&["install"]).0, 0);
        // Inbound has to be seen again, and there is nobody who would call, but any machine.
        says(&mesh, "shop/cart-1", "missing: capture_inbound_ipv4, capture_inbound_ipv6\n").await;
        let cart = mesh.member("shop/cart-1");
        let side = mesh.member("out/side-1");
        for address in [cart.ipv4(8080), cart.ipv6(8080)] {
            wait::until("what came in proves it", async || {
                let _ = side.caller(address).try_send(&Request::get("http://cart/")).await;
                let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
                proven(&mesh, "inbound", family).await == 1.0
            })
            .await;
        }
    });
}

#[test]
fn a_restart_without_the_control_api_is_ready_where_the_proxy_installs_its_rules() {
    isolated("a_restart_without_the_control_api_is_ready_where_the_proxy_installs_its_rules", || async {
        let mut mesh = Builder::default()
            .pod(PodSpec::new("shop/cart-1").serves(8080))
            .pod(PodSpec::new("shop/web-1").rules_by_other().not_started())
            .start()
            .await;
        let web = mesh.member_mut("shop/web-1");
        assert_eq!(web.rules(&["install"]).0, 0);
        web.start().await;
        kept(&mesh, "shop/cart-1").await;
        kept(&mesh, "shop/web-1").await;
        mesh.kill_control();
        // It has read its rules back from the kernel, and goes on from its last good state.
        mesh.member_mut("shop/cart-1").start().await;
        // This one knows of nothing.
        mesh.member_mut("shop/web-1").spawn();
        says(&mesh, "shop/web-1", "missing: capture_inbound_ipv4, capture_inbound_ipv6\n").await;
    });
}

#[test]
fn rules_that_do_not_know_the_proxy_send_nothing_in_circles() {
    isolated("rules_that_do_not_know_the_proxy_send_nothing_in_circles", || async {
        let mut mesh = Builder::default()
            .service("shop/cart", 80, 8080)
            .pod(PodSpec::new("shop/cart-1").serves(8080))
            .pod(PodSpec::new("shop/web-1").rules_by_other().not_started())
            .start()
            .await;
        let application = mesh.member("shop/cart-1").application("cart-1", 8080);
        let vip = mesh.vip("shop/cart");
        let web = mesh.member_mut("shop/web-1");
        assert_eq!(web.rules(&["install"]).0, 0);
        web.start().await;
        web.caller(vip).get("http://cart/").await.passed();
        kept(&mesh, "shop/web-1").await;
        let web = mesh.member_mut("shop/web-1");
        // Now the rules let somebody else pass: the proxy's own connections come back to it.
        assert_eq!(web.rules(&["install", "--bypass", "mark:0x99"]).0, 0);
        web.kill();
        web.spawn();
        says(&mesh, "shop/web-1", ALL).await;
        let web = mesh.member("shop/web-1");
        let seen = application.requests().len();
        assert!(web.caller(vip).try_send(&Request::get("http://cart/")).await.is_err());
        let refused =
            web.metrics().await.sum("weft_answers_total", &[("reason", Reason::LoopDetected.label())]);
        assert!(refused >= 1.0);
        assert_eq!(application.requests().len(), seen);
        let accepted =
            async || web.metrics().await.sum("weft_connections_total", &[("direction", "outbound")]);
        assert!(accepted().await < 100.0, "each turn of a circle would be one more");
    });
}

#[test]
fn the_probe_port_answers_strangers_nothing_and_proves_nothing_by_them() {
    isolated("the_probe_port_answers_strangers_nothing_and_proves_nothing_by_them", || async {
        let mesh = watchful(PodSpec::new("shop/cart-1").line("exclude inbound 0.0.0.0/0,::/0")).await;
        let (cart, side) = (mesh.member("shop/cart-1"), mesh.member("out/side-1"));
        let say = async |address: SocketAddr, bytes: &[u8]| {
            let mut stream = side.pod().connect(address, Dial::default()).await.expect("it accepts");
            stream.write_all(bytes).await.expect("it reads");
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            // A reset is as good an end as any.
            let _ =
                wait::within("it ends", tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer)).await;
            assert!(answer.is_empty(), "{answer:?}");
        };
        for address in [cart.ipv4(15002), cart.ipv6(15002)] {
            say(address, &[0; 32]).await;
            say(address, b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await;
            say(address, b"").await;
        }
        wait::until("they are counted", async || {
            cart.metrics().await.sum("weft_capture_strangers_total", &[]) == 6.0
        })
        .await;
        // Whatever the list excludes, the probe is let in; the rest is not.
        says(&mesh, "shop/cart-1", "ready\n").await;
    });
}
