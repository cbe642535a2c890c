//! Who is who: certificates both ways, good and bad, renewed, restored.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::certificate::{Authority, Impostor, Shape, Svid, handshake, judged};
use weft_tests::client::Request;
use weft_tests::http1::Reader;
use weft_tests::mesh::{Builder, Mesh, Workload};
use weft_tests::ports::Port;
use weft_tests::tamper::Tamper;
use weft_tests::traffic::Traffic;
use weft_tests::wait;

const CART: &str = "http://cart.shop/items";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const SERVER_NAME: &str = "80.cart.shop";
const HTTP1: &[&[u8]] = &[b"weft1-http/1.1"];
const RAW_REQUEST: &[u8] = b"GET /items HTTP/1.1\r\nHost: cart.shop\r\n\r\n";

async fn pair(application: &Application) -> Mesh {
    Builder::pair(application.address()).start().await
}

#[tokio::test]
async fn both_ends_know_each_other_and_say_so_in_metrics() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    mesh.client("shop/web-1").get(CART).await.passed();
    let ends = [
        ("source_principal", WEB),
        ("destination_principal", "spiffe://cluster.local/ns/shop/sa/cart"),
        ("source_workload", "web"),
        ("source_workload_namespace", "shop"),
        ("destination_workload", "cart"),
        ("destination_service", "cart.shop.svc.cluster.local"),
        ("response_code", "200"),
    ];
    for (uid, reporter) in [("shop/web-1", "source"), ("shop/cart-1", "destination")] {
        let labels = [&ends[..], &[("reporter", reporter)]].concat();
        let metrics = mesh.proxy(uid).metrics().await;
        let all: Vec<_> = metrics.find("istio_requests_total", &[]).collect();
        assert_eq!(metrics.sum("istio_requests_total", &labels), 1.0, "{uid}: {all:?}");
        assert_eq!(metrics.sum("istio_request_duration_milliseconds_count", &labels), 1.0, "{uid}");
    }
    let server = mesh.proxy("shop/cart-1").metrics().await;
    assert_eq!(server.sum("istio_requests_total", &[("connection_security_policy", "mutual_tls")]), 1.0);
}

#[tokio::test]
async fn a_right_certificate_is_served_over_tls_1_3_with_the_hybrid_group() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let svid = mesh.authority().issue(&Shape::svid(WEB));
    let address = mesh.proxy("shop/cart-1").inbound();
    let mut stream = handshake(address, Some(&svid), SERVER_NAME, HTTP1).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(
        session.negotiated_key_exchange_group().map(|group| group.name()),
        Some(rustls::NamedGroup::X25519MLKEM768)
    );
    assert_eq!(session.alpn_protocol(), Some(HTTP1[0]));
    let shown = session.peer_certificates().unwrap()[0].to_vec();
    let identity = b"spiffe://cluster.local/ns/shop/sa/cart";
    assert!(shown.windows(identity.len()).any(|window| window == identity), "the server shows its SVID");
    tokio::io::AsyncWriteExt::write_all(&mut stream, RAW_REQUEST).await.unwrap();
    let head = wait::within("an answer", Reader::new(stream).head()).await.unwrap().unwrap();
    assert_eq!(head.status(), 200, "{head:?}");
}

#[tokio::test]
async fn a_client_that_does_not_prove_who_it_is_is_refused() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let ours = mesh.authority();
    let foreign = Authority::new("cluster.local");
    let address = mesh.proxy("shop/cart-1").inbound();
    let other = "spiffe://elsewhere.example/ns/shop/sa/web";
    let cases: Vec<(&str, Option<Svid>)> = vec![
        ("no certificate", None),
        ("another authority", Some(foreign.issue(&Shape::svid(WEB)))),
        (
            "two identities",
            Some(ours.issue(&Shape::svid(WEB).and_uri("spiffe://cluster.local/ns/shop/sa/x"))),
        ),
        ("a second URI", Some(ours.issue(&Shape::svid(WEB).and_uri("https://shop.example/")))),
        ("no identity", Some(ours.issue(&Shape::svid(WEB).dns_only("web.shop")))),
        ("an expired certificate", Some(ours.issue(&Shape::svid(WEB).expired()))),
        ("a certificate of tomorrow", Some(ours.issue(&Shape::svid(WEB).not_yet_valid()))),
        ("another trust domain", Some(ours.issue(&Shape::svid(other)))),
        ("not a SPIFFE ID", Some(ours.issue(&Shape::svid("https://cluster.local/ns/shop/sa/web")))),
        ("a SPIFFE ID with a query", Some(ours.issue(&Shape::svid(&format!("{WEB}?x"))))),
    ];
    for (what, svid) in &cases {
        let outcome = judged(address, svid.as_ref(), SERVER_NAME, HTTP1, RAW_REQUEST).await;
        assert!(outcome.is_err(), "{what} was served: {:?}", String::from_utf8_lossy(&outcome.unwrap()));
    }
    assert_eq!(application.requests(), []);
    let right = ours.issue(&Shape::svid(WEB));
    let answer = judged(address, Some(&right), SERVER_NAME, HTTP1, RAW_REQUEST).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_connection_meant_for_somebody_else_is_refused_as_undelivered() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let svid = mesh.authority().issue(&Shape::svid(WEB));
    let address = mesh.proxy("shop/cart-1").inbound();
    for name in ["80.catalog.shop", "81.cart.shop", "80.cart.other", "80.cart-2.shop.workload"] {
        match judged(address, Some(&svid), name, HTTP1, RAW_REQUEST).await {
            Err(_) => {}
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer);
                let status = Reason::WorkloadMismatch.status();
                assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {text}");
                assert!(text.contains(Reason::WorkloadMismatch.label()), "{name}: {text}");
                assert!(text.contains("x-weft-undelivered"), "{name}: {text}");
            }
        }
    }
    assert_eq!(application.requests(), []);
}

#[tokio::test]
async fn a_server_that_is_somebody_else_gets_no_request() {
    let authority = |mesh: &Mesh| mesh.authority();
    // The impostor needs the mesh's own authority, which exists once the mesh has started; so it is
    // placed by an edit of its workload's document.
    let application = Application::start("cart-1").await;
    let placeholder = Port::claim();
    let mesh = Builder::pair(application.address())
        .service("shop/bank")
        .workload(Workload::new("shop/bank-1").serves(placeholder.address()).impostor())
        .start()
        .await;
    let ours = authority(&mesh);
    let foreign = Authority::new("cluster.local");
    let bank = "spiffe://cluster.local/ns/shop/sa/bank";
    let shapes = [
        ("another identity", ours.issue(&Shape::svid(WEB))),
        ("an expired certificate", ours.issue(&Shape::svid(bank).expired())),
        ("another authority", foreign.issue(&Shape::svid(bank))),
        ("two identities", ours.issue(&Shape::svid(bank).and_uri(WEB))),
    ];
    let documents = mesh.read_policy("mesh");
    let mut port = placeholder.number();
    for (what, svid) in &shapes {
        let impostor = Impostor::start(svid, b"weft1-http/1.1").await;
        let (old, new) = (format!("port: {port},"), format!("port: {},", impostor.address().port()));
        port = impostor.address().port();
        let documents = mesh.read_policy("mesh").replace(&old, &new);
        mesh.write_policy("mesh", &documents);
        let client = mesh.client("shop/web-1");
        // Until the new address has arrived, the old one refuses the connection.
        wait::until(&format!("{what} is refused by its identity"), async || {
            let response = client.get("http://bank.shop/account").await;
            assert_ne!(response.application(), "impostor", "{what} was believed");
            response.reason() == Some(Reason::PeerIdentityMismatch)
        })
        .await;
    }
    mesh.write_policy("mesh", &documents);
}

#[tokio::test]
async fn certificates_are_renewed_under_traffic_without_a_failed_request() {
    let application = Application::start("cart-1").await;
    // Long enough for a busy machine to renew each in time, and as long to wait for it.
    const RENEWED: Duration = Duration::from_secs(60);
    let mesh = Builder::pair(application.address()).certificate_lifetime("30s").start().await;
    let serial = async || {
        let address = mesh.proxy("shop/cart-1").inbound();
        let svid = mesh.authority().issue(&Shape::svid(WEB));
        let stream = handshake(address, Some(&svid), SERVER_NAME, HTTP1).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = serial().await;
    let traffic = Traffic::start(mesh.client("shop/web-1"), 2, |id| Request::get(CART).id(id));
    let second = wait::eventually_within(RENEWED, "the server shows a new certificate", async || {
        let shown = serial().await;
        (shown != first).then_some(shown)
    })
    .await;
    wait::until_within(RENEWED, "and a third one", async || serial().await != second).await;
    traffic.more(10).await;
    let outcomes = traffic.stop().await;
    outcomes.all_succeeded();
}

#[tokio::test]
async fn a_proxy_that_is_restarted_serves_while_the_control_api_is_down() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    mesh.client("shop/web-1").get(CART).await.passed();
    // Each has to keep, beside its key and chain, what names this endpoint: its own, or that of its destination.
    let endpoint = b"shop/cart-1";
    for uid in ["shop/web-1", "shop/cart-1"] {
        let state = mesh.proxy(uid).directory().join("state");
        wait::until("the last good snapshot is kept", async || {
            let kept = std::fs::read(state.join("last-good")).unwrap_or_default();
            kept.windows(endpoint.len()).any(|window| window == endpoint)
                && std::fs::read_dir(&state).is_ok_and(|entries| entries.count() >= 2)
        })
        .await;
    }
    mesh.kill_control();
    for uid in ["shop/cart-1", "shop/web-1"] {
        mesh.proxy_mut(uid).start().await;
    }
    mesh.client("shop/web-1").get(CART).await.passed();
    mesh.start_control().await;
    mesh.client("shop/web-1").get(CART).await.passed();
}

#[tokio::test]
async fn a_certificate_that_expires_unrenewed_makes_no_new_connection_and_says_so() {
    let application = Application::start("cart-1").await;
    let mut mesh = Builder::pair(application.address()).certificate_lifetime("4s").start().await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.passed();
    // Occupies the one connection between the proxies, which lives on: the next request needs another.
    let mut occupied = client.connect().await.unwrap();
    occupied.begin(&Request::get(CART).field("x-test-gate", "go")).await.unwrap();
    application.arrived("go").await;
    mesh.kill_control();
    for uid in ["shop/web-1", "shop/cart-1"] {
        let proxy = mesh.proxy(uid);
        proxy.process().logged("own_cert_expired").await;
        wait::until("it is not ready", async || proxy.ready().await == Some(false)).await;
    }
    let response = client.get(CART).await;
    assert!(response.status() == 503 && response.reason().is_some(), "{:?}", response.head);
    application.open("go");
    occupied.finish("GET").await.unwrap().passed();
    mesh.start_control().await;
    wait::until("the mesh is back", async || client.is_answered(CART, 200).await).await;
}

#[tokio::test]
async fn a_clock_that_differs_from_the_authoritys_is_measured_and_told() {
    let application = Application::start("cart-1").await;
    let mut mesh = pair(&application).await;
    let control = mesh.control_address();
    let identity = "spiffe://cluster.local/ns/shop/sa/cart";
    let tamper = Tamper::start(&mesh.authority(), identity, control).await;
    tamper.change_certificates(|response| response.time_unix_ms += 3_600_000);
    let proxy = mesh.proxy_mut("shop/cart-1");
    proxy.kill();
    proxy.edit_settings(&control.to_string(), &tamper.address().to_string());
    std::fs::remove_dir_all(proxy.directory().join("state")).unwrap();
    proxy.start().await;
    proxy.process().logged("clock differs").await;
    let skew = proxy.metrics().await.sum("weft_identity_clock_skew_seconds", &[]);
    assert!((3590.0..3610.0).contains(&skew), "{skew}");
    mesh.client("shop/web-1").get(CART).await.passed();
}

#[tokio::test]
async fn keys_are_readable_by_their_owner_alone() {
    let application = Application::start("cart-1").await;
    let mesh = pair(&application).await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&mesh.state().join("ca.key")), 0o600);
    let state = mesh.proxy("shop/cart-1").directory().join("state");
    assert_eq!(mode(&state), 0o700);
    let entries: Vec<_> = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!entries.is_empty());
    for path in entries {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}
