//! What the server's proxy takes a connection for: it is never weakened by what a client claims.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::certificate::{Authority, Impostor, Shape, handshake, judged};
use weft_tests::issuer::{Issuer, key_set, request_authentication};
use weft_tests::mesh::{Builder, Mesh, authorization, peer_authentication};
use weft_tests::speaker::{Lines, Speaker};
use weft_tests::wait;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const ITEMS: &[u8] = b"GET /items HTTP/1.1\r\nHost: cart.shop\r\n\r\n";

fn inbound(mesh: &Mesh) -> SocketAddr {
    mesh.proxy("shop/cart-1").inbound()
}

async fn counted(mesh: &Mesh, metric: &str, labels: &[(&str, &str)]) -> f64 {
    mesh.proxy("shop/cart-1").metrics().await.sum(metric, labels)
}

async fn answered(mesh: &Mesh, reason: Reason) -> f64 {
    counted(mesh, "weft_answers_total", &[("direction", "inbound"), ("reason", reason.label())]).await
}

fn permissive() -> String {
    peer_authentication("cart", "cart", "PERMISSIVE")
}

#[tokio::test]
async fn a_claim_of_opaque_bytes_carries_no_request_to_a_port_declared_as_http() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let svid = mesh.authority().issue(&Shape::svid(WEB));
    for bytes in [ITEMS, b"\0\x01\x02"] {
        let outcome = judged(inbound(&mesh), Some(&svid), "80.cart.shop", &[b"weft1-tcp"], bytes).await;
        assert!(outcome.is_err(), "{:?}", String::from_utf8_lossy(&outcome.unwrap()));
    }
    assert_eq!(application.requests(), []);
    assert_eq!(answered(&mesh, Reason::HttpRequired).await, 2.0);
}

#[tokio::test]
async fn a_claim_of_opaque_bytes_evades_no_rule_for_http_where_nothing_is_declared() {
    let application = Application::start("cart-1").await;
    let deny = authorization("no-admin", "cart", "DENY", "[{ to: [{ operation: { paths: ['/admin'] } }] }]");
    let mesh = Builder::undeclared(application.address()).policy("deny", &deny).start().await;
    let svid = mesh.authority().issue(&Shape::svid(WEB));
    let request = b"GET /admin HTTP/1.1\r\nHost: cart.shop\r\n\r\n";
    let outcome = judged(inbound(&mesh), Some(&svid), "80.cart.shop", &[b"weft1-tcp"], request).await;
    assert!(outcome.is_err(), "{:?}", String::from_utf8_lossy(&outcome.unwrap()));
    assert_eq!(application.requests(), []);
    // The same without the rule is what the port is for.
    mesh.enforce_removal("deny").await;
    let answer = judged(inbound(&mesh), Some(&svid), "80.cart.shop", &[b"weft1-tcp"], ITEMS).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_claim_of_opaque_bytes_evades_no_check_of_tokens_where_nothing_is_declared() {
    let application = Application::start("cart-1").await;
    let rules =
        format!("[{{ issuer: 'https://id.example', jwks: '{}' }}]", key_set(&[&Issuer::new("one", "ES256")]));
    let tokens = request_authentication("tokens", "cart", &rules);
    let mesh = Builder::undeclared(application.address()).policy("tokens", &tokens).start().await;
    let svid = mesh.authority().issue(&Shape::svid(WEB));
    let request = b"GET /items HTTP/1.1\r\nHost: cart.shop\r\nAuthorization: Bearer e30.e30.e30\r\n\r\n";
    let outcome = judged(inbound(&mesh), Some(&svid), "80.cart.shop", &[b"weft1-tcp"], request).await;
    assert!(outcome.is_err(), "{:?}", String::from_utf8_lossy(&outcome.unwrap()));
    assert_eq!(application.requests(), []);
    assert_eq!(answered(&mesh, Reason::HttpRequired).await, 1.0);
    // As HTTP the port is what it was.
    mesh.client("shop/web-1").get("http://cart.shop/items").await.passed();
}

#[tokio::test]
async fn an_open_opaque_connection_ends_when_a_rule_for_http_comes() {
    let application = Speaker::smtp().await;
    let mesh = Builder::undeclared(application.address()).start().await;
    let mut client = Lines::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    assert_eq!(client.hear().await, "220 mail.example ESMTP\r\n");
    let rules = "[{ to: [{ operation: { methods: [GET] } }] }, {}]";
    mesh.write_policy("allow", &authorization("some", "cart", "ALLOW", rules));
    assert_eq!(client.rest().await, b"");
    assert_eq!(answered(&mesh, Reason::HttpRequired).await, 1.0);
}

#[tokio::test]
async fn plaintext_of_any_kind_passes_where_it_is_permitted() {
    let application = Speaker::smtp().await;
    let mesh = Builder::undeclared(application.address()).policy("mtls", &permissive()).start().await;
    let mut client = Lines::open(inbound(&mesh)).await;
    assert_eq!(client.hear().await, "220 mail.example ESMTP\r\n", "the server may speak first");
    assert_eq!(client.ask("DATA\r\n").await, "354 Go on\r\n");
    let mut client = Lines::open(inbound(&mesh)).await;
    client.say("DATA\r\n").await;
    assert_eq!(client.hear().await, "220 mail.example ESMTP\r\n", "as may the client");
    assert_eq!(client.hear().await, "354 Go on\r\n");
    assert_eq!(application.connections(), 2);
    let admitted = [("verdict", "admitted"), ("source", "unknown")];
    assert_eq!(counted(&mesh, "weft_inbound_plaintext_connections_total", &admitted).await, 2.0);
    let log = mesh.proxy("shop/cart-1").process().log();
    assert_eq!(log.matches("a client comes without mutual TLS").count(), 1, "told once: {log}");
    let opened = [("connection_security_policy", "none"), ("source_principal", "unknown")];
    assert_eq!(counted(&mesh, "istio_tcp_connections_opened_total", &opened).await, 2.0);
}

#[tokio::test]
async fn plaintext_http_and_the_mesh_are_served_beside_each_other_where_it_is_permitted() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::undeclared(application.address()).policy("mtls", &permissive()).start().await;
    let mut slow = Lines::open(inbound(&mesh)).await;
    wait::until("the application's side is connected meanwhile", async || {
        counted(&mesh, "weft_upstream_connections_total", &[("direction", "inbound")]).await == 1.0
    })
    .await;
    assert_eq!(slow.ask("GET /items HTTP/1.1\r\nHost: cart\r\n\r\n").await, "HTTP/1.1 200 Fine\r\n");
    mesh.client("shop/web-1").get("http://cart.shop/items").await.passed();
    let requests = application.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].connection, requests[1].connection, "what was connected is used, and kept");
    assert!(requests[1].field("x-forwarded-client-cert").is_some_and(|value| value.contains(WEB)));
}

#[tokio::test]
async fn a_client_that_was_waited_for_is_judged_and_counted_once_as_what_it_turns_out_to_be() {
    let application = Application::start("cart-1").await;
    let policies = permissive() + "---\n" + &authorization("all", "cart", "ALLOW", "[{}]");
    let mesh = Builder::undeclared(application.address()).policy("policies", &policies).start().await;
    let decided = async || counted(&mesh, "weft_authorization_decisions_total", &[]).await;
    // While it is silent, the application's side is connected as for opaque bytes; then it speaks HTTP.
    let mut slow = Lines::open(inbound(&mesh)).await;
    wait::until("the application's side is connected meanwhile", async || {
        counted(&mesh, "weft_upstream_connections_total", &[("direction", "inbound")]).await == 1.0
    })
    .await;
    assert_eq!(decided().await, 0.0, "nothing has come that could be judged");
    assert_eq!(slow.ask("GET /items HTTP/1.1\r\nHost: cart\r\n\r\n").await, "HTTP/1.1 200 Fine\r\n");
    assert_eq!(decided().await, 1.0, "one request");
    // The same with opaque bytes.
    let mut slow = Lines::open(inbound(&mesh)).await;
    wait::until("the application's side is connected again", async || {
        counted(&mesh, "weft_upstream_connections_total", &[("direction", "inbound")]).await == 2.0
    })
    .await;
    slow.say("\x01\x02\n").await;
    wait::until("it is carried", async || {
        counted(&mesh, "istio_tcp_connections_opened_total", &[]).await == 1.0
    })
    .await;
    assert_eq!(decided().await, 2.0, "one connection");
    let admitted = [("verdict", "admitted")];
    assert_eq!(counted(&mesh, "weft_inbound_plaintext_connections_total", &admitted).await, 2.0);
}

#[tokio::test]
async fn the_applications_own_tls_counts_as_plaintext() {
    let authority = Authority::new("elsewhere.example");
    let svid = authority.issue(&Shape::svid("spiffe://elsewhere.example/ns/a/sa/b"));
    let application = Impostor::start(&svid, b"http/1.1").await;
    let mesh = Builder::undeclared(application.address()).start().await;
    let refused = async |name: &str| {
        let error = handshake(inbound(&mesh), None, name, &[b"http/1.1"]).await.unwrap_err();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    };
    refused("db.example.com").await;
    assert_eq!(answered(&mesh, Reason::TlsRequired).await, 1.0);
    mesh.enforce_policy("mtls", &permissive()).await;
    let mut stream = handshake(inbound(&mesh), None, "db.example.com", &[b"http/1.1"]).await.unwrap();
    stream.write_all(ITEMS).await.unwrap();
    let mut answer = [0; 12];
    wait::within("an answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    // Its server name is what a policy sees, in whatever case.
    let rules = "[{ when: [{ key: connection.sni, values: ['secret.example.com'] }] }]";
    mesh.enforce_policy("deny", &authorization("no-secret", "cart", "DENY", rules)).await;
    handshake(inbound(&mesh), None, "Secret.Example.com", &[b"http/1.1"]).await.unwrap_err();
    handshake(inbound(&mesh), None, "db.example.com", &[b"http/1.1"]).await.unwrap();
    assert_eq!(answered(&mesh, Reason::AuthorizationDenied).await, 1.0);
}

#[tokio::test]
async fn under_strict_nothing_outside_the_mesh_reaches_the_application() {
    let application = Speaker::smtp().await;
    let mesh = Builder::undeclared(application.address()).start().await;
    // One waits for a greeting, one speaks at once.
    assert_eq!(Lines::open(inbound(&mesh)).await.rest().await, b"");
    let mut client = Lines::open(inbound(&mesh)).await;
    client.say("EHLO web.example\r\n").await;
    assert_eq!(client.rest().await, b"");
    assert_eq!(application.connections(), 0);
    assert_eq!(answered(&mesh, Reason::TlsRequired).await, 1.0);
}
