//! The kubelet's probes in real pods: a node that knows nothing of the mesh probes containers that know
//! nothing of it, under STRICT, over IPv4 and IPv6; and the same from elsewhere is refused.

use std::io::ErrorKind;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_model::reason::Reason;
use weft_tests::certificate::{answer_over_tls, handshake_over};
use weft_tests::http1::{Head, Reader};
use weft_tests::mesh::authorization;
use weft_tests::netns::{Dial, isolated};
use weft_tests::pods::{Builder, Member, PodSpec, Pods};
use weft_tests::{http2, wait};

/// The node is the first pod after the control API's, so these are its addresses.
const NODES: &str = "{ nodeCidrs: [10.77.0.2/32, 'fd77::2/128'] }";
const TCP_PROBES: &str = "tcpProbes: { nodes: [10.77.0.2/32, 'fd77::2/128'], ports: [5432] }";

/// `node/node-1`, `shop/stranger-1`, and `shop/cart-1` with containers on 8080 (HTTP), 9090 (gRPC), 8443
/// (TLS of its own) and 5432 (a database). Nobody in the mesh may call.
async fn cart(cart: PodSpec) -> Pods {
    let probes = "probes: [\
        { httpGet: { path: '/healthz?full=1', port: 8080 } }, \
        { httpGet: { path: /status/302, port: 8080, httpHeaders: [{ name: X-Test-Field, value: Location=/ready }] } }, \
        { grpc: { port: 9090, service: shop.Cart } }, \
        { httpGet: { path: /healthz, port: 8443, scheme: HTTPS } }, \
        { tcpSocket: { port: 5432 } }, \
        { exec: { command: [cat, /tmp/ready] } }]";
    let cart = cart
        .serves(8080)
        .serves(9090)
        .protocol("grpc")
        .serves(8443)
        .protocol("tls")
        .serves(5432)
        .protocol("tcp")
        .spec(probes);
    Builder::default()
        .mesh_config(NODES)
        .service("shop/cart", 80, 8080)
        .pod(PodSpec::new("node/node-1").foreign())
        .pod(PodSpec::new("shop/stranger-1").foreign())
        .pod(cart)
        .policy("nobody", &authorization("nobody", "cart", "ALLOW", "[]"))
        .start()
        .await
}

/// What the kubelet sends and gets for a GET.
async fn get(from: &Member, address: SocketAddr, target: &str, fields: &str) -> Head {
    let stream = from.caller(address).stream().await.expect("the port is open");
    let (read, mut write) = stream.into_split();
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe/1.33\r\nAccept: */*\r\nConnection: \
         close\r\n{fields}\r\n"
    );
    write.write_all(request.as_bytes()).await.expect("the request is taken");
    wait::within("the probe is answered", Reader::new(read).head()).await.expect("a head").expect("an answer")
}

fn refused(head: &Head) {
    let reason = head.field("x-weft-reason");
    assert_eq!((head.status(), reason), (403, Some(Reason::TlsRequired.label())), "{head:?}");
}

async fn grpc(from: &Member, address: SocketAddr) -> Option<String> {
    let stream = from.caller(address).stream().await.expect("the port is open");
    let connection = http2::Connection::over(stream).await;
    let request = http2::grpc(&address.to_string(), "/grpc.health.v1.Health/Check")
        .body(())
        .expect("a test's request is well formed");
    let mut exchange = connection.start(request, false).await.expect("the proxy speaks HTTP/2");
    exchange.send.send_data(http2::frame(b"\x0a\x09shop.Cart"), true).expect("a message is sent");
    let whole = wait::within("the call is answered", exchange.whole()).await.expect("an answer");
    whole.field("x-weft-reason").map(ToOwned::to_owned)
}

async fn https(from: &Member, address: SocketAddr) -> Option<String> {
    let stream = from.caller(address).stream().await.expect("the port is open");
    let mut stream = handshake_over(stream, None, "health.example", &[b"http/1.1"]).await.ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.expect("the request is taken");
    let mut answer = String::new();
    wait::within("the application answers", stream.read_to_string(&mut answer)).await.expect("an answer");
    Some(answer)
}

#[test]
fn every_kind_of_probe_passes_for_every_container_and_from_nodes_alone() {
    isolated("every_kind_of_probe_passes_for_every_container_and_from_nodes_alone", || async {
        let mesh = cart(PodSpec::new("shop/cart-1").rules(TCP_PROBES)).await;
        let (node, stranger) = (mesh.member("node/node-1"), mesh.member("shop/stranger-1"));
        let cart = mesh.member("shop/cart-1");
        let (web, health) = (cart.application("web", 8080), cart.application("health", 9090));
        for ip in [cart.pod().ipv4(), cart.pod().ipv6()] {
            let at = |port| SocketAddr::new(ip, port);
            answer_over_tls(cart.pod().listen(at(8443)), b"well".to_vec());
            let database = cart.pod().listen_blocking(at(5432));

            let head = get(node, at(8080), "/healthz?full=1", "").await;
            assert_eq!((head.status(), head.field("x-application")), (200, Some("web")), "{head:?}");
            let fields = "X-Test-Field: Location=/ready\r\n";
            let head = get(node, at(8080), "/status/302", fields).await;
            assert_eq!((head.status(), head.field("location")), (302, Some("/ready")), "{head:?}");
            let followed = format!("{fields}Referer: http://{}/status/302\r\n", at(8080));
            assert_eq!(get(node, at(8080), "/ready", &followed).await.status(), 200);
            assert_eq!(grpc(node, at(9090)).await, None);
            assert_eq!(https(node, at(8443)).await.as_deref(), Some("well"));
            // It is the application that accepts, not the proxy.
            let probe = node.caller(at(5432)).stream().await.expect("the database listens");
            let (_, who) = database.accept().expect("the database hears of it");
            assert_eq!(who.ip(), probe.local_addr().expect("an address").ip());

            // An exec probe calls within the container.
            let loopback = SocketAddr::new(
                if ip.is_ipv4() { [127, 0, 0, 1].into() } else { "::1".parse().unwrap() },
                8080,
            );
            assert_eq!(get(cart, loopback, "/anything", "").await.status(), 200);

            refused(&get(stranger, at(8080), "/healthz?full=1", "").await);
            refused(&get(stranger, at(8080), "/status/302", fields).await);
            assert_eq!(grpc(stranger, at(9090)).await.as_deref(), Some(Reason::TlsRequired.label()));
            assert_eq!(https(stranger, at(8443)).await, None);
            refused(&get(stranger, at(5432), "/", "").await);
            refused(&get(node, at(8080), "/admin", "").await);
            refused(&get(node, at(9090), "/healthz?full=1", "").await);
        }
        // Both families: three requests and one within the container, and one call.
        assert_eq!((web.requests().len(), health.requests().len()), (8, 2));
        let metrics = cart.metrics().await;
        for (kind, count) in [("http", 4.0), ("redirect", 2.0), ("grpc", 2.0), ("https", 2.0)] {
            let labels = [("kind", kind), ("outcome", "succeeded")];
            assert_eq!(metrics.sum("weft_inbound_probes_total", &labels), count, "{kind}");
        }
        assert!(!cart.process().log().contains("TCP probes are not as declared"), "{}", cart.process().log());
    });
}

#[test]
fn a_tcp_probe_of_a_closed_port_fails() {
    isolated("a_tcp_probe_of_a_closed_port_fails", || async {
        let mesh = cart(PodSpec::new("shop/cart-1").rules(TCP_PROBES)).await;
        let (node, cart) = (mesh.member("node/node-1"), mesh.member("shop/cart-1"));
        for ip in [cart.pod().ipv4(), cart.pod().ipv6()] {
            let address = SocketAddr::new(ip, 5432);
            let probe = async || node.pod().connect(address, Dial::default()).await;
            let error = probe().await.expect_err("nothing listens");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            let application = cart.application_at("database", address);
            probe().await.expect("the application listens");
            application.stop();
        }
        let (code, said, _) = cart.rules(&["why", "10.77.0.2:5432"]);
        assert!(code == 0 && said.contains("TCP probes of nodes: plaintext, past every policy"), "{said}");
        let (code, printed, _) = cart.rules(&["print"]);
        assert!(code == 0 && printed.contains("TCP probes of nodes: plaintext"), "{printed}");
        let (code, said, errors) = cart.rules(&["check"]);
        assert_eq!(code, 0, "{said}{errors}");
    });
}

#[test]
fn a_tcp_probe_that_the_rules_do_not_let_by_is_told_of() {
    isolated("a_tcp_probe_that_the_rules_do_not_let_by_is_told_of", || async {
        let mesh = cart(PodSpec::new("shop/cart-1")).await;
        let (node, cart) = (mesh.member("node/node-1"), mesh.member("shop/cart-1"));
        wait::until("the difference is told", async || {
            let log = cart.process().log();
            log.contains("TCP probes are not as declared")
                && log.contains("port 5432 is declared as a TCP probe")
        })
        .await;
        // Which is why: it meets the proxy.
        node.pod().connect(cart.ipv4(5432), Dial::default()).await.expect("the proxy accepts");
    });
}
