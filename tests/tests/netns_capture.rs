//! Transparent capture in real pods: programs that know nothing of the mesh are in it.
//!
//! Every claim about what left a pod is made from a packet capture of its wire.

use weft_model::reason::Reason;
use weft_tests::client::Request;
use weft_tests::mesh::authorization;
use weft_tests::netns::isolated;
use weft_tests::netns::wire::Wire;
use weft_tests::pods::{Builder, PodSpec, Pods};
use weft_tests::wait;

const MARKER: &str = "marked-b7c1f0e2-body";

/// Only the identity of `shop/web-1` may call `shop/cart`.
fn only_web() -> String {
    authorization(
        "only-web",
        "cart",
        "ALLOW",
        "[{ from: [{ source: { principals: [cluster.local/ns/shop/sa/web] } }] }]",
    )
}

/// How often a direction's proxy has refused for a reason.
async fn refusals(mesh: &Pods, uid: &str, direction: &str, reason: Reason) -> f64 {
    let metrics = mesh.member(uid).metrics().await;
    metrics.sum("weft_answers_total", &[("direction", direction), ("reason", reason.label())])
}

#[test]
fn an_unmodified_client_calls_an_unmodified_server_under_its_identity_and_unseen() {
    isolated("an_unmodified_client_calls_an_unmodified_server_under_its_identity_and_unseen", || async {
        let mesh =
            Builder::pair().pod(PodSpec::new("shop/thief-1")).policy("allow", &only_web()).start().await;
        let cart = mesh.member("shop/cart-1");
        let application = cart.application("cart-1", 8080);
        let wire = Wire::tap(cart.pod());
        let vips = [mesh.vip("shop/cart"), mesh.vip6("shop/cart")];
        // Through the Service's address and the pod's own, of both families.
        for (index, address) in [vips[0], vips[1], cart.ipv4(8080), cart.ipv6(8080)].into_iter().enumerate() {
            let request = Request::post(&format!("http://{address}/echo"), MARKER).id(&index.to_string());
            let response = mesh.member("shop/web-1").caller(address).send(&request).await;
            response.passed();
            assert_eq!(response.text(), MARKER);
            // As it was sent, but for what the mesh says of the caller.
            let seen = application.request(&index.to_string());
            assert_eq!(seen.field("host"), Some(address.to_string().as_str()));
            let by = seen.field("x-forwarded-client-cert").unwrap_or_default();
            assert!(by.contains("URI=spiffe://cluster.local/ns/shop/sa/web"), "{by}");
            let request = Request::post("http://cart/echo", MARKER);
            let answer = mesh.member("shop/thief-1").caller(address).send(&request).await;
            answer.refused_with(Reason::AuthorizationDenied);
        }
        let seen = wire.stop();
        assert!(seen.reached(cart.ipv4(8080)), "the peer dials the address that the mesh advertises");
        assert!(!vips.iter().any(|vip| seen.reached(*vip)), "a virtual address never leaves the pod");
        seen.never_shows(MARKER.as_bytes());
        assert_eq!(application.requests().len(), 4);
    });
}

#[test]
fn the_capture_shows_what_a_plain_workload_is_sent() {
    isolated("the_capture_shows_what_a_plain_workload_is_sent", || async {
        let mesh = Builder::default()
            .service("shop/cart", 80, 8080)
            .pod(PodSpec::new("shop/cart-1").serves(8080).plain())
            .pod(PodSpec::new("shop/web-1"))
            .start()
            .await;
        let cart = mesh.member("shop/cart-1");
        let _application = cart.application("cart-1", 8080);
        let wire = Wire::tap(cart.pod());
        let request = Request::post("http://cart/echo", MARKER);
        mesh.member("shop/web-1").caller(mesh.vip("shop/cart")).send(&request).await.passed();
        assert!(wire.stop().shows(MARKER.as_bytes()));
    });
}

#[test]
fn peers_meet_over_ipv6_where_that_is_where_a_workload_is() {
    isolated("peers_meet_over_ipv6_where_that_is_where_a_workload_is", || async {
        let mesh = Builder::default()
            .service("shop/cart", 80, 8080)
            .pod(PodSpec::new("shop/cart-1").serves(8080).ipv6_first())
            .pod(PodSpec::new("shop/web-1"))
            .policy("allow", &only_web())
            .start()
            .await;
        let cart = mesh.member("shop/cart-1");
        let _application = cart.application_at("cart-1", cart.ipv6(8080));
        let wire = Wire::tap(cart.pod());
        for vip in [mesh.vip("shop/cart"), mesh.vip6("shop/cart")] {
            let request = Request::post("http://cart/echo", MARKER);
            mesh.member("shop/web-1").caller(vip).send(&request).await.passed();
        }
        let seen = wire.stop();
        assert!(seen.reached(cart.ipv6(8080)) && !seen.reached(cart.ipv4(8080)));
        seen.never_shows(MARKER.as_bytes());
    });
}

#[test]
fn a_workload_that_is_its_own_peer_is_called_through_the_mesh() {
    isolated("a_workload_that_is_its_own_peer_is_called_through_the_mesh", || async {
        let mesh = Builder::default()
            .service("shop/cart", 80, 8080)
            .service("shop/six", 80, 8080)
            .pod(PodSpec::new("shop/cart-1").serves(8080))
            .pod(PodSpec::new("shop/six-1").serves(8080).ipv6_first())
            .start()
            .await;
        for (uid, account) in [("shop/cart-1", "cart"), ("shop/six-1", "six")] {
            let own = mesh.member(uid);
            let application = own.application(uid, 8080);
            let request = Request::get("http://own/").id("self");
            own.caller(mesh.vip(&format!("shop/{account}"))).send(&request).await.passed();
            let seen = application.request("self");
            let by = seen.field("x-forwarded-client-cert").unwrap_or_default();
            assert!(by.contains(&format!("URI=spiffe://cluster.local/ns/shop/sa/{account}")), "{by}");
        }
    });
}

#[test]
fn an_application_is_reached_where_it_was_called_and_never_on_loopback() {
    isolated("an_application_is_reached_where_it_was_called_and_never_on_loopback", || async {
        let mesh = Builder::default()
            .pod(PodSpec::new("shop/cart-1").serves(8080).serves(9090))
            .pod(PodSpec::new("shop/web-1"))
            .start()
            .await;
        let cart = mesh.member("shop/cart-1");
        let open = cart.application_at("open", cart.ipv4(8080));
        let private = cart.application_at("private", "127.0.0.1:9090".parse().unwrap());
        let web = mesh.member("shop/web-1");
        let called = web.caller(cart.ipv4(8080)).get("http://cart/").await;
        called.passed();
        assert_eq!(called.application(), "open");
        let hidden = web.caller(cart.ipv4(9090)).get("http://cart/").await;
        assert_ne!(hidden.status(), 200, "{}", hidden.text());
        assert_eq!((open.requests().len(), private.requests().len()), (1, 0));
    });
}

#[test]
fn an_address_of_somebody_else_and_the_proxys_own_ports_are_refused_and_counted() {
    let test = "an_address_of_somebody_else_and_the_proxys_own_ports_are_refused_and_counted";
    isolated(test, || async {
        let mesh = Builder::pair().pod(PodSpec::new("out/side-1").foreign()).start().await;
        let cart = mesh.member("shop/cart-1");
        let application = cart.application("cart-1", 8080);
        let stranger = mesh.member("out/side-1");
        // An address that the pod has and the mesh does not know as this workload's.
        let other = "10.99.0.9".parse().unwrap();
        cart.pod().add_address(other);
        let closed = async |address| {
            let request = Request::get("http://cart/");
            assert!(stranger.caller(address).try_send(&request).await.is_err(), "{address} answers");
        };
        closed(std::net::SocketAddr::new(other, 8080)).await;
        assert_eq!(refusals(&mesh, "shop/cart-1", "inbound", Reason::WorkloadMismatch).await, 1.0);
        // Straight to the ports behind the redirection, from outside and from inside.
        closed(cart.ipv4(15006)).await;
        closed(cart.ipv6(15006)).await;
        for own in [cart.ipv4(15006), "127.0.0.1:15006".parse().unwrap(), "[::1]:15006".parse().unwrap()] {
            assert!(cart.caller(own).try_send(&Request::get("http://cart/")).await.is_err());
        }
        for own in ["127.0.0.1:15001", "[::1]:15001"] {
            let own = own.parse().unwrap();
            assert!(cart.caller(own).try_send(&Request::get("http://cart/")).await.is_err());
        }
        let refused = refusals(&mesh, "shop/cart-1", "inbound", Reason::LoopDetected).await;
        let not_ours = refusals(&mesh, "shop/cart-1", "inbound", Reason::WorkloadMismatch).await;
        // From loopback the address is nobody's workload; either way it is refused.
        assert_eq!((refused, not_ours), (3.0, 3.0));
        assert_eq!(refusals(&mesh, "shop/cart-1", "outbound", Reason::LoopDetected).await, 2.0);
        assert!(application.requests().is_empty());
    });
}

#[test]
fn without_rules_what_arrives_has_no_destination_and_is_refused() {
    isolated("without_rules_what_arrives_has_no_destination_and_is_refused", || async {
        let mut mesh = Builder::default()
            .pod(PodSpec::new("shop/cart-1").serves(8080).rules_by_other().not_started())
            .pod(PodSpec::new("out/side-1").foreign())
            .start()
            .await;
        mesh.member_mut("shop/cart-1").spawn();
        // Not ready, for it is captured by nothing, and accepting all the same.
        wait::until("only the proof is missing", async || {
            mesh.member("shop/cart-1").ready().await.is_some_and(|(_, text)| {
                text.starts_with("missing: capture_") && !text.contains("configuration")
            })
        })
        .await;
        let cart = mesh.member("shop/cart-1");
        let application = cart.application("cart-1", 8080);
        let stranger = mesh.member("out/side-1");
        assert!(stranger.caller(cart.ipv4(15006)).try_send(&Request::get("http://cart/")).await.is_err());
        wait::until("the refusal is counted", async || {
            refusals(&mesh, "shop/cart-1", "inbound", Reason::OriginalDestinationMissing).await == 1.0
        })
        .await;
        assert!(application.requests().is_empty());
    });
}
