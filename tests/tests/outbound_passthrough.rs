//! Destinations as they were dialled: a pod's own address, an address that nobody in the mesh owns, and
//! what must not leave the mesh.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::Client;
use weft_tests::mesh::{Builder, Mesh, Workload, route};
use weft_tests::speaker::{Lines, Speaker};
use weft_tests::wait;

const GREETING: &str = "220 mail.example ESMTP\r\n";

async fn mesh(application: &Application, config: &str) -> Mesh {
    Builder::pair(application.address()).mesh_config(config).start().await
}

fn outbound(mesh: &Mesh) -> SocketAddr {
    mesh.proxy("shop/web-1").outbound()
}

async fn counted(mesh: &Mesh, name: &str) -> f64 {
    let labels = [("destination_service_name", name), ("destination_service", "unknown")];
    mesh.proxy("shop/web-1").metrics().await.sum("istio_tcp_connections_opened_total", &labels)
}

async fn refused(mesh: &Mesh, authority: &str, reason: Reason) {
    let answer = Client::through(outbound(mesh)).tunnel(authority).await;
    match answer {
        Ok(_) => panic!("{authority} was let through"),
        Err(answer) => answer.refused_with(reason),
    }
}

#[tokio::test]
async fn an_address_that_nobody_owns_is_dialled_as_it_is_and_counted() {
    let application = Application::start("cart-1").await;
    let mesh = mesh(&application, "{}").await;
    let external = Speaker::smtp().await;
    for authority in
        [external.address().to_string(), format!("[::ffff:127.0.0.1]:{}", external.address().port())]
    {
        let mut client = Lines::tunnel(outbound(&mesh), &authority).await;
        assert_eq!(client.hear().await, GREETING);
        assert_eq!(client.ask("DATA\r\n").await, "354 Go on\r\n");
    }
    assert_eq!(external.connections(), 2);
    assert_eq!(counted(&mesh, "PassthroughCluster").await, 2.0);
    // Bound and never listening: nobody else takes the port, and a connection is refused.
    let closed = tokio::net::TcpSocket::new_v4().expect("a socket");
    closed.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let closed_at = closed.local_addr().expect("an address");
    refused(&mesh, &closed_at.to_string(), Reason::ConnectFailed).await;
}

#[tokio::test]
async fn registry_only_lets_nothing_out_and_the_mesh_go_on() {
    let application = Application::start("cart-1").await;
    let mesh = mesh(&application, "{ outboundTrafficPolicy: { mode: REGISTRY_ONLY } }").await;
    let external = Speaker::echo().await;
    refused(&mesh, &external.address().to_string(), Reason::ServiceUnknown).await;
    let inside = Client::through(outbound(&mesh)).tunnel("cart.shop:80").await.map(drop);
    inside.expect("what is registered is let through");
    // The mode holds from the moment it is changed.
    let open = mesh.read_policy("mesh").replace("REGISTRY_ONLY", "ALLOW_ANY");
    mesh.write_policy("mesh", &open);
    wait::until("it passes", async || {
        Client::through(outbound(&mesh)).tunnel(&external.address().to_string()).await.is_ok()
    })
    .await;
    mesh.write_policy("mesh", &open.replace("ALLOW_ANY", "REGISTRY_ONLY"));
    wait::until("it is refused again", async || {
        Client::through(outbound(&mesh)).tunnel(&external.address().to_string()).await.is_err()
    })
    .await;
    refused(&mesh, &external.address().to_string(), Reason::ServiceUnknown).await;
}

#[tokio::test]
async fn an_address_of_the_mesh_that_leads_nowhere_never_passes_in_plaintext() {
    let application = Application::start("cart-1").await;
    let mesh = mesh(&application, "{ cidrs: [127.0.0.0/8] }").await;
    let inside = Speaker::smtp().await;
    refused(&mesh, &inside.address().to_string(), Reason::ServiceUnknown).await;
    refused(&mesh, &format!("[::ffff:127.0.0.1]:{}", inside.address().port()), Reason::ServiceUnknown).await;
    assert_eq!(inside.connections(), 0);
}

#[tokio::test]
async fn outside_of_the_meshs_blocks_nothing_depends_on_the_control_api() {
    let application = Application::start("cart-1").await;
    let mut mesh = mesh(&application, "{ cidrs: [127.0.0.0/8] }").await;
    let external = Speaker::smtp_at(IpAddr::V6(Ipv6Addr::LOCALHOST)).await;
    mesh.kill_control();
    let mut client = Lines::tunnel(outbound(&mesh), &external.address().to_string()).await;
    assert_eq!(client.hear().await, GREETING);
    // What would have to be looked up is not let through unseen.
    let unknown = Speaker::smtp().await;
    refused(&mesh, &unknown.address().to_string(), Reason::ConfigurationMissing).await;
    assert_eq!(unknown.connections(), 0);
}

#[tokio::test]
async fn the_proxys_own_ports_are_not_reached_through_it() {
    let application = Application::start("cart-1").await;
    let mesh = mesh(&application, "{}").await;
    let proxy = mesh.proxy("shop/web-1");
    for own in [proxy.admin(), proxy.metrics_address(), proxy.outbound()] {
        for host in ["127.0.0.1", "[::ffff:127.0.0.1]"] {
            refused(&mesh, &format!("{host}:{}", own.port()), Reason::LoopDetected).await;
        }
        for host in ["0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255"] {
            refused(&mesh, &format!("{host}:{}", own.port()), Reason::ServiceUnknown).await;
        }
    }
}

#[tokio::test]
async fn a_name_that_nobody_has_is_told_and_not_looked_up() {
    let application = Application::start("cart-1").await;
    let mesh = mesh(&application, "{}").await;
    refused(&mesh, "nobody.example:80", Reason::ServiceUnknown).await;
    let client = mesh.client("shop/web-1");
    client.get("http://nobody.example/").await.refused_with(Reason::ServiceUnknown);
    // A request in absolute form is HTTP of the mesh, which has nothing at the address.
    let external = Application::start("external").await;
    client.get(&format!("http://{}/", external.address())).await.refused_with(Reason::ServiceUnknown);
}

#[tokio::test]
async fn a_pods_own_address_is_that_pod_and_no_route_applies() {
    let (one, two) = (Application::start("cart-1").await, Application::start("cart-2").await);
    let rules =
        "[{ filters: [{ type: RequestRedirect, requestRedirect: { hostname: elsewhere.example } }] }]";
    let mesh = Builder::pair(one.address())
        .workload(Workload::new("shop/cart-2").serves(two.address()))
        .policy("route", &route("cart", "cart", rules))
        .start()
        .await;
    let client = mesh.client("shop/web-1");
    assert_eq!(client.get("http://cart.shop/items").await.status(), 302);
    for name in ["cart-1", "cart-2"] {
        let address = mesh.proxy(&format!("shop/{name}")).inbound();
        for _ in 0..8 {
            let response = client.get(&format!("http://{address}/items")).await;
            response.passed();
            assert_eq!(response.application(), name);
        }
    }
    // By mutual TLS, to the identity of that pod.
    for uid in ["shop/cart-1", "shop/cart-2"] {
        let labels = [("reporter", "destination"), ("connection_security_policy", "mutual_tls")];
        assert_eq!(mesh.proxy(uid).metrics().await.sum("istio_requests_total", &labels), 8.0, "{uid}");
    }
    // One whose identity the mesh knows otherwise gets nothing.
    let documents = mesh.read_policy("mesh");
    let address = mesh.proxy("shop/cart-2").inbound();
    mesh.write_policy("mesh", &documents.replace("name: cart-2", "name: cart-9"));
    wait::until("the address is another pod's", async || {
        client.get(&format!("http://{address}/items")).await.reason() == Some(Reason::PeerIdentityMismatch)
    })
    .await;
}

/// Services on one port, of every kind there is.
fn services(port: u16) -> String {
    let mut text = String::new();
    for number in 0..50 {
        let (address, selector) = match number % 5 {
            0 => ("clusterIP: None", "selector: { app: cart }"),
            1 => ("", "selector: { app: cart }"),
            2 => ("clusterIP: None", "selector: { app: nothing }"),
            3 => ("", ""),
            _ => ("", "selector: { app: nothing }"),
        };
        let own = format!("clusterIP: 10.96.7.{number}");
        let address = if address.is_empty() { own.as_str() } else { address };
        let protocol = ["appProtocol: tcp", "appProtocol: http", "name: tcp-db", "name: http-db", "name: db"];
        let protocol = protocol[number % 5];
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: db-{number}, namespace: shop }}\nspec:\n  {address}\n"
        );
        if !selector.is_empty() {
            let _ = writeln!(text, "  {selector}");
        }
        let _ = writeln!(text, "  ports: [{{ port: {port}, targetPort: serving, {protocol} }}]\n---");
    }
    text
}

#[tokio::test]
async fn services_that_come_change_no_flow_to_an_address_that_they_do_not_own() {
    let application = Application::start("cart-1").await;
    let mesh = mesh(&application, "{}").await;
    let external = Speaker::smtp().await;
    let authority = external.address().to_string();
    let mut before = Lines::tunnel(outbound(&mesh), &authority).await;
    assert_eq!(before.hear().await, GREETING);
    let port = external.address().port();
    mesh.write_policy("services", &services(port));
    let reached =
        async || Client::through(outbound(&mesh)).tunnel(&format!("db-1.shop:{port}")).await.is_ok();
    wait::until("the Services are there", reached).await;
    assert_eq!(before.ask("DATA\r\n").await, "354 Go on\r\n", "an open flow goes on");
    for _ in 0..5 {
        let mut new = Lines::tunnel(outbound(&mesh), &authority).await;
        assert_eq!(new.hear().await, GREETING, "a new one is as before");
    }
    assert_eq!(counted(&mesh, "PassthroughCluster").await, 6.0);
    mesh.remove_policy("services");
    wait::until("they are gone", async || !reached().await).await;
    assert_eq!(before.ask("DATA\r\n").await, "354 Go on\r\n");
}
