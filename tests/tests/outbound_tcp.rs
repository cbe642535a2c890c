//! Opaque bytes: each side's end and reset reach the other, every byte is counted, a dead endpoint is
//! passed over, sessions are resumed, and TCPRoutes and TLSRoutes lead connections where they say.

use std::io::{self, ErrorKind};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_model::reason::Reason;
use weft_tests::mesh::{Builder, Mesh, Workload, authorization};
use weft_tests::ports::Port;
use weft_tests::speaker::Speaker;
use weft_tests::wait;

/// The application: what it accepts is the test's to use.
async fn application() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

fn store(application: &TcpListener) -> Builder {
    Builder::default()
        .service("shop/store")
        .with_protocol("tcp")
        .workload(
            Workload::new("shop/store-1")
                .serves(application.local_addr().expect("it must have an address"))
                .protocol("tcp"),
        )
        .workload(Workload::new("shop/web-1").calls("shop/store", 80))
}

async fn dial(mesh: &Mesh) -> TcpStream {
    let address = mesh.client_of("shop/web-1", "shop/store").address();
    TcpStream::connect(address).await.expect("the proxy must accept")
}

/// Both far ends of a connection through the mesh, used once each way.
async fn connected(mesh: &Mesh, application: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = dial(mesh).await;
    client.write_all(b"hello").await.expect("bytes must pass");
    let (mut server, _) = wait::within("a connection", application.accept()).await.expect("it must be taken");
    pass(&mut client, &mut server, 5).await;
    server.write_all(b"welcome").await.expect("bytes must pass");
    pass(&mut server, &mut client, 7).await;
    (client, server)
}

/// Reads what was written at the other side.
async fn pass(_from: &mut TcpStream, to: &mut TcpStream, length: usize) {
    let mut bytes = vec![0; length];
    wait::within("the bytes", to.read_exact(&mut bytes)).await.expect("bytes must pass");
}

async fn is_reset(stream: &mut TcpStream) {
    let error =
        wait::within("a reset", stream.read_to_end(&mut Vec::new())).await.expect_err("it must break off");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// A connection that leads nowhere is reset, be it before the client has even seen it open.
async fn is_refused(mesh: &Mesh) {
    let address = mesh.client_of("shop/web-1", "shop/store").address();
    match TcpStream::connect(address).await {
        Ok(mut client) => {
            // It may be reset already.
            let _ = client.write_all(b"hello").await;
            is_reset(&mut client).await;
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("bytes must pass");
    drop(stream);
}

async fn closed(mesh: &Mesh, uid: &str, count: f64) {
    wait::until("every connection is counted as closed", async || {
        mesh.proxy(uid).metrics().await.sum("istio_tcp_connections_closed_total", &[]) == count
    })
    .await;
}

#[tokio::test]
async fn each_sides_end_reaches_the_other_which_may_go_on() {
    let application = application().await;
    let mesh = store(&application).start().await;
    for client_first in [true, false] {
        let (client, server) = connected(&mesh, &application).await;
        let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"the last of it").await.unwrap();
        first.shutdown().await.unwrap();
        let mut heard = Vec::new();
        wait::within("its end", second.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, b"the last of it");
        let long = vec![7; 300_000];
        heard.clear();
        let answer = async {
            second.write_all(&long).await.unwrap();
            second.shutdown().await.unwrap();
        };
        let (end, ()) = tokio::join!(wait::within("the other's end", first.read_to_end(&mut heard)), answer);
        end.unwrap();
        assert!(heard == long, "{} bytes", heard.len());
    }
    for uid in ["shop/web-1", "shop/store-1"] {
        closed(&mesh, uid, 2.0).await;
        let metrics = mesh.proxy(uid).metrics().await;
        assert_eq!(metrics.sum("istio_tcp_connections_opened_total", &[]), 2.0);
        let sum = |name: &str| metrics.sum(name, &[("request_protocol", "tcp")]);
        assert_eq!(sum("istio_tcp_received_bytes_total"), 2.0 * 5.0 + 14.0 + 300_000.0);
        assert_eq!(sum("istio_tcp_sent_bytes_total"), 2.0 * 7.0 + 14.0 + 300_000.0);
    }
}

#[tokio::test]
async fn each_sides_reset_reaches_the_other_as_a_reset() {
    let application = application().await;
    let mesh = store(&application).start().await;
    for client_resets in [true, false] {
        let (client, server) = connected(&mesh, &application).await;
        let (first, mut second) = if client_resets { (client, server) } else { (server, client) };
        reset(first);
        is_reset(&mut second).await;
    }
    for uid in ["shop/web-1", "shop/store-1"] {
        closed(&mesh, uid, 2.0).await;
    }
}

#[tokio::test]
async fn bytes_count_while_a_connection_is_open_and_when_it_is_cut() {
    let application = application().await;
    let mesh = store(&application).start().await;
    let (mut client, mut server) = connected(&mesh, &application).await;
    let counted = async |received: f64, sent: f64| {
        for uid in ["shop/web-1", "shop/store-1"] {
            wait::until("the bytes are counted", async || {
                let metrics = mesh.proxy(uid).metrics().await;
                metrics.sum("istio_tcp_received_bytes_total", &[]) == received
                    && metrics.sum("istio_tcp_sent_bytes_total", &[]) == sent
            })
            .await;
        }
    };
    counted(5.0, 7.0).await;
    client.write_all(&[1; 1000]).await.unwrap();
    pass(&mut client, &mut server, 1000).await;
    counted(1005.0, 7.0).await;
    mesh.write_policy("policy", &authorization("nobody", "store", "DENY", "[{}]"));
    is_reset(&mut client).await;
    is_reset(&mut server).await;
    counted(1005.0, 7.0).await;
    for uid in ["shop/web-1", "shop/store-1"] {
        closed(&mesh, uid, 1.0).await;
    }
    let labels = [("direction", "inbound"), ("reason", Reason::AuthorizationDenied.label())];
    assert_eq!(mesh.proxy("shop/store-1").metrics().await.sum("weft_answers_total", &labels), 1.0);
}

#[tokio::test]
async fn who_is_denied_is_reset_and_the_application_sees_nothing() {
    let application = application().await;
    let deny = authorization("nobody", "store", "DENY", "[{}]");
    let mesh = store(&application).policy("deny", &deny).start().await;
    for _ in 0..3 {
        is_refused(&mesh).await;
    }
    let metrics = mesh.proxy("shop/store-1").metrics().await;
    let labels = [("direction", "inbound"), ("reason", Reason::AuthorizationDenied.label())];
    assert_eq!(metrics.sum("weft_answers_total", &labels), 3.0);
    assert_eq!(metrics.sum("weft_upstream_connections_total", &[("direction", "inbound")]), 0.0);
    assert_eq!(metrics.sum("istio_tcp_connections_opened_total", &[]), 0.0);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_passed_over_at_connect() {
    let application = application().await;
    let gone = Port::claim();
    let mesh = store(&application)
        .workload(
            Workload::new("shop/store-2")
                .account("store")
                .label("app", "store")
                .serves(gone.address())
                .protocol("tcp")
                .impostor(),
        )
        .start()
        .await;
    for _ in 0..20 {
        let (client, server) = connected(&mesh, &application).await;
        drop((client, server));
    }
    let metrics = mesh.proxy("shop/web-1").metrics().await;
    let labels = [("direction", "outbound"), ("outcome", Reason::ConnectFailed.label())];
    assert!(
        metrics.sum("weft_upstream_connections_total", &labels) > 0.0,
        "the dead one must have been tried"
    );
    assert_eq!(metrics.sum("weft_answers_total", &[("direction", "outbound")]), 0.0);
}

#[tokio::test]
async fn a_destination_without_a_live_endpoint_is_a_reset_with_a_reason() {
    let application = application().await;
    let mut mesh = store(&application).start().await;
    mesh.proxy_mut("shop/store-1").kill();
    is_refused(&mesh).await;
    let metrics = mesh.proxy("shop/web-1").metrics().await;
    let labels = [("direction", "outbound"), ("reason", Reason::ConnectFailed.label())];
    assert_eq!(metrics.sum("weft_answers_total", &labels), 1.0);
}

#[tokio::test]
async fn the_second_connection_between_two_proxies_resumes_the_first_ones_session() {
    let application = application().await;
    let mesh = store(&application).start().await;
    for _ in 0..5 {
        let (mut client, mut server) = connected(&mesh, &application).await;
        // The ticket comes with the first bytes; an end both ways leaves nothing under way.
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
        wait::within("the end", client.read_to_end(&mut Vec::new())).await.unwrap();
    }
    for (uid, direction) in [("shop/web-1", "outbound"), ("shop/store-1", "inbound")] {
        let metrics = mesh.proxy(uid).metrics().await;
        let handshakes = |resumed: &str| {
            let labels = [("direction", direction), ("alpn", "weft1-tcp"), ("resumed", resumed)];
            metrics.sum("weft_tls_handshakes_total", &labels)
        };
        assert_eq!((handshakes("false"), handshakes("true")), (1.0, 4.0), "{uid}");
    }
}

#[tokio::test]
async fn many_short_connections_leave_none_behind() {
    const CONNECTIONS: usize = 500;
    let application = application().await;
    let mesh = store(&application).start().await;
    for _ in 0..CONNECTIONS {
        let (client, server) = connected(&mesh, &application).await;
        drop((client, server));
    }
    for uid in ["shop/web-1", "shop/store-1"] {
        closed(&mesh, uid, CONNECTIONS as f64).await;
        wait::until("none is open", async || {
            mesh.proxy(uid).metrics().await.sum("weft_connections_open", &[]) == 0.0
        })
        .await;
        let metrics = mesh.proxy(uid).metrics().await;
        assert_eq!(metrics.sum("weft_answers_total", &[]), 0.0, "{uid}");
    }
}

/// Answers a connection's bytes, once they have ended, with its name and their number.
async fn named(name: &'static str) -> Speaker {
    Speaker::serve(move |mut stream| async move {
        let mut bytes = Vec::new();
        if stream.read_to_end(&mut bytes).await.is_ok() {
            let _ = stream.write_all(format!("{name} {}", bytes.len()).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

/// What is answered to these parts. `None`: the connection was cut.
async fn answer_over(mut stream: TcpStream, parts: &[&[u8]]) -> Option<String> {
    let exchange = async {
        for part in parts {
            stream.write_all(part).await?;
            stream.flush().await?;
        }
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    wait::within("an answer or an end", exchange).await.ok()
}

/// The same from a workload to `shop/store`.
async fn answer(mesh: &Mesh, from: &str, parts: &[&[u8]]) -> Option<String> {
    match TcpStream::connect(mesh.client_of(from, "shop/store").address()).await {
        Ok(stream) => answer_over(stream, parts).await,
        // It can be cut before this end knows that it was made.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            None
        }
    }
}

/// `shop/store`, whose connections routes lead to `shop/one` and `shop/two`, called from two namespaces.
async fn routed(protocol: &str, routes: &str) -> (Mesh, [Speaker; 3]) {
    let speakers = [named("store").await, named("one").await, named("two").await];
    let mut builder = Builder::default();
    for (name, speaker) in ["store", "one", "two"].into_iter().zip(&speakers) {
        let workload = Workload::new(&format!("shop/{name}-1")).serves(speaker.address()).protocol(protocol);
        builder = builder.service(&format!("shop/{name}")).with_protocol(protocol).workload(workload);
    }
    let mesh = builder
        .workload(Workload::new("shop/web-1").calls("shop/store", 80))
        .workload(Workload::new("team/web-1").calls("shop/store", 80))
        .policy("routes", routes)
        .start()
        .await;
    (mesh, speakers)
}

/// A TCPRoute or TLSRoute for `shop/store`. `spec` is what it has besides its parent, in flow YAML.
fn connection_route(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: {namespace} \
         }}\nspec: {{ parentRefs: [{{ group: '', kind: Service, name: store, namespace: shop, port: 80 }}], {spec} }}\n---\n"
    )
}

fn tcp_route(namespace: &str, backends: &str) -> String {
    connection_route("TCPRoute", namespace, "route", &format!("rules: [{{ backendRefs: [{backends}] }}]"))
}

async fn refused(mesh: &Mesh, reason: Reason) -> f64 {
    let labels = [("direction", "outbound"), ("reason", reason.label())];
    mesh.proxy("shop/web-1").metrics().await.sum("weft_answers_total", &labels)
}

#[tokio::test]
async fn a_tcp_route_leads_connections_by_weight_and_refuses_what_leads_nowhere() {
    const ONE: &str = "{ name: one, port: 80 }";
    const TWO: &str = "{ name: two, port: 80 }";
    const GONE: &str = "{ name: gone, port: 80 }";
    let (mesh, _speakers) = routed("tcp", &tcp_route("shop", &format!("{ONE}, {TWO}"))).await;
    let ask = async || answer(&mesh, "shop/web-1", &[b"hello"]).await;
    let mut counts = [0, 0];
    for _ in 0..40 {
        match ask().await.as_deref() {
            Some("one 5") => counts[0] += 1,
            Some("two 5") => counts[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    let tunnel = mesh.client("shop/web-1").tunnel("store.shop:80").await.expect("a tunnel");
    let answered = answer_over(tunnel, &[b"hello"]).await;
    assert!(matches!(answered.as_deref(), Some("one 5" | "two 5")), "{answered:?}");
    // A share that leads nowhere is refused, and the other one served.
    mesh.write_policy("routes", &tcp_route("shop", &format!("{GONE}, {ONE}")));
    wait::until("the share is refused", async || ask().await.is_none()).await;
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(ask().await);
    }
    assert!(answers.iter().flatten().all(|answer| answer == "one 5"), "{answers:?}");
    let gone = answers.iter().filter(|answer| answer.is_none()).count();
    assert!((1..40).contains(&gone), "{answers:?}");
    assert!(refused(&mesh, Reason::BackendInvalid).await >= gone as f64);
    mesh.write_policy("routes", &tcp_route("shop", "{ name: one, port: 80, weight: 0 }"));
    wait::until("all weights are zero", async || {
        for _ in 0..20 {
            if ask().await.is_some() {
                return false;
            }
        }
        true
    })
    .await;
    mesh.remove_policy("routes");
    wait::until("the Service itself is called", async || ask().await.as_deref() == Some("store 5")).await;
}

#[tokio::test]
async fn a_consumers_tcp_route_replaces_the_producers_for_its_namespace() {
    let routes = tcp_route("shop", "{ name: one, port: 80 }")
        + &tcp_route("team", "{ name: two, namespace: shop, port: 80 }");
    let (mesh, _speakers) = routed("tcp", &routes).await;
    for _ in 0..5 {
        assert_eq!(answer(&mesh, "shop/web-1", &[b"x"]).await.as_deref(), Some("one 1"));
        assert_eq!(answer(&mesh, "team/web-1", &[b"x"]).await.as_deref(), Some("two 1"));
    }
}

/// The first message of a TLS client that wants this server.
fn client_hello(server: &str) -> Vec<u8> {
    let counted = |bytes: Vec<u8>| {
        let length = u16::try_from(bytes.len()).expect("a short message").to_be_bytes();
        [length.to_vec(), bytes].concat()
    };
    let name = [vec![0], counted(server.as_bytes().to_vec())].concat();
    let extension = [vec![0, 0], counted(counted(name))].concat();
    let body = [vec![3, 3], vec![7; 32], vec![0], counted(vec![0x13, 0x01]), vec![1, 0], counted(extension)]
        .concat();
    let handshake = [vec![1, 0], counted(body)].concat();
    [vec![22, 3, 1], counted(handshake)].concat()
}

#[tokio::test]
async fn tls_routes_lead_connections_by_the_server_that_the_client_names() {
    let route = |name: &str, hostnames: &str, backend: &str| {
        let spec = format!(
            "hostnames: [{hostnames}], rules: [{{ backendRefs: [{{ name: {backend}, port: 80 }}] }}]"
        );
        connection_route("TLSRoute", "shop", name, &spec)
    };
    let routes =
        route("whole", "a.shop.example, other.example", "one") + &route("domain", "'*.shop.example'", "two");
    let (mesh, _speakers) = routed("tls", &routes).await;
    for (server, expected) in [
        ("a.shop.example", Some("one")),
        ("A.Shop.Example", Some("one")),
        ("other.example", Some("one")),
        ("b.shop.example", Some("two")),
        ("c.b.shop.example", Some("two")),
        ("shop.example", None),
        ("evil.example", None),
    ] {
        let hello = client_hello(server);
        let expected = expected.map(|name| format!("{name} {}", hello.len()));
        assert_eq!(answer(&mesh, "shop/web-1", &[&hello]).await, expected, "{server}");
        let (first, rest) = hello.split_at(20);
        assert_eq!(answer(&mesh, "shop/web-1", &[first, rest]).await, expected, "{server} in two parts");
    }
    // What is no TLS names no server.
    for bytes in [&b"hello"[..], b"GET / HTTP/1.1\r\nHost: a.shop.example\r\n\r\n", &[22, 3, 1]] {
        assert_eq!(answer(&mesh, "shop/web-1", &[bytes]).await, None, "{bytes:?}");
    }
    assert_eq!(refused(&mesh, Reason::RouteNotFound).await, 7.0);
    mesh.client("shop/web-1").get("http://store.shop/").await.refused_with(Reason::RouteNotFound);
}

#[tokio::test]
async fn an_opaque_connection_waits_for_a_place_among_those_that_may_be_and_one_too_many_is_reset() {
    let application = application().await;
    let policy = "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: { name: store, namespace: shop }\nspec:\n  \
                  targetRefs: [{ kind: Service, name: store }]\n  \
                  connections: { maxConnections: 1, waitFor: 60s, maxPending: 1 }\n";
    let mesh = store(&application).policy("traffic", policy).start().await;
    let (client, server) = connected(&mesh, &application).await;
    let mut waits = dial(&mesh).await;
    let proxy = mesh.proxy("shop/web-1");
    wait::until("it waits", async || proxy.metrics().await.sum("weft_outbound_requests_waiting", &[]) >= 1.0)
        .await;
    is_refused(&mesh).await;
    let reason = [("reason", Reason::QueueFull.label())];
    assert_eq!(proxy.metrics().await.sum("weft_answers_total", &reason), 1.0);
    drop((client, server));
    waits.write_all(b"hello").await.expect("bytes must pass");
    let (mut server, _) = wait::within("a connection", application.accept()).await.expect("it must be taken");
    pass(&mut waits, &mut server, 5).await;
}
