//! Opaque TCP in real pods: peers that vanish, ends that come late, ports that must not run out.
//!
//! The pain is known at a scale of 5 000 connections closed 90 s late and 60 000 short ones a minute; here
//! it is run with hundreds and thousands, and the waits shortened by the settings that decide them.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_tests::netns::isolated;
use weft_tests::pods::{Builder, PodSpec, Pods};
use weft_tests::wait;

/// Where the application listens.
const STORE: u16 = 9000;

/// Every port that a connection of `shop/store` has at one end or the other.
const PORTS: [u16; 4] = [STORE, 7000, 15001, 15006];

async fn mesh(settings: &str) -> Pods {
    let pod = |uid: &str| PodSpec::new(uid).settings(settings);
    Builder::default()
        .service("shop/store", 7000, STORE)
        .with_protocol("tcp")
        .pod(pod("shop/store-1").serves(STORE).protocol("tcp"))
        .pod(pod("shop/web-1"))
        .start()
        .await
}

fn application(mesh: &Pods) -> TcpListener {
    mesh.member("shop/store-1").pod().listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), STORE))
}

async fn dial(mesh: &Pods) -> TcpStream {
    let caller = mesh.member("shop/web-1").caller(mesh.vip("shop/store"));
    caller.stream().await.expect("the connection must be taken")
}

/// Both far ends of a connection that has carried a byte each way.
async fn connected(mesh: &Pods, application: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = dial(mesh).await;
    client.write_all(b"x").await.expect("bytes must pass");
    let (mut server, _) = wait::within("a connection", application.accept()).await.expect("it must be taken");
    wait::within("a byte", server.read_exact(&mut [0])).await.expect("bytes must pass");
    server.write_all(b"y").await.expect("bytes must pass");
    wait::within("a byte", client.read_exact(&mut [0])).await.expect("bytes must pass");
    (client, server)
}

async fn no_socket_is_left(mesh: &Pods) {
    for uid in ["shop/web-1", "shop/store-1"] {
        let pod = mesh.member(uid).pod();
        wait::until("no socket is left", async || pod.sockets(&PORTS).is_empty()).await;
        wait::until("every connection is counted as closed", async || {
            let metrics = mesh.member(uid).metrics().await;
            let sum = |name: &str| metrics.sum(name, &[]);
            sum("weft_connections_open") == 0.0
                && sum("istio_tcp_connections_opened_total") == sum("istio_tcp_connections_closed_total")
        })
        .await;
    }
}

#[test]
fn an_application_that_ends_long_after_its_peer_leaves_no_socket() {
    const CONNECTIONS: usize = 300;
    isolated("an_application_that_ends_long_after_its_peer_leaves_no_socket", || async {
        let mesh = mesh("").await;
        let application = application(&mesh);
        let mut late = Vec::new();
        for _ in 0..CONNECTIONS {
            let (client, server) = connected(&mesh, &application).await;
            drop(client);
            late.push(server);
        }
        // All their clients are gone, and each application was told; none has ended yet.
        for server in &mut late {
            assert_eq!(wait::within("its end", server.read(&mut [0])).await.unwrap(), 0);
        }
        drop(late);
        no_socket_is_left(&mesh).await;
    });
}

#[test]
fn an_application_that_never_ends_is_ended_half_closed() {
    isolated("an_application_that_never_ends_is_ended_half_closed", || async {
        let mesh = mesh("tcp: { halfClosedTimeout: 1s }").await;
        let application = application(&mesh);
        let mut kept = Vec::new();
        for _ in 0..20 {
            let (client, server) = connected(&mesh, &application).await;
            drop(client);
            kept.push(server);
        }
        for server in &mut kept {
            assert_eq!(wait::within("its end", server.read(&mut [0])).await.unwrap(), 0);
            wait::until("a reset", async || server.take_error().unwrap().is_some()).await;
        }
        no_socket_is_left(&mesh).await;
    });
}

#[test]
fn a_peer_that_vanishes_is_noticed_on_both_sides() {
    isolated("a_peer_that_vanishes_is_noticed_on_both_sides", || async {
        let settings = "tcp: { keepaliveTime: 1s, keepaliveInterval: 1s, userTimeout: 2s }";
        let mesh = mesh(settings).await;
        let application = application(&mesh);
        // One that lies idle: probes find out. One with bytes under way: they stay unacknowledged.
        let (mut idle, mut idle_server) = connected(&mesh, &application).await;
        let (mut busy, mut busy_server) = connected(&mesh, &application).await;
        mesh.network().lose(mesh.member("shop/store-1").pod()).await;
        busy.write_all(&[7; 10_000]).await.unwrap();
        for stream in [&mut idle, &mut busy, &mut idle_server, &mut busy_server] {
            let error = wait::within("the peer is missed", stream.read(&mut [0])).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        drop((idle, busy, idle_server, busy_server));
        no_socket_is_left(&mesh).await;
    });
}

#[test]
fn short_connections_find_a_port_each() {
    const CONNECTIONS: usize = 2_000;
    isolated("short_connections_find_a_port_each", || async {
        let mesh = mesh("").await;
        // A connection takes a port of the client and one of its proxy, and each is kept for a minute: fewer
        // ports than that together, so that one must serve for several destinations.
        for uid in ["shop/web-1", "shop/store-1"] {
            mesh.member(uid).pod().run(|| {
                std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 42999").unwrap();
            });
        }
        let application = application(&mesh);
        let serve = wait::spawn(async move {
            while let Ok((mut stream, _)) = application.accept().await {
                wait::spawn(async move {
                    let mut byte = [0];
                    while stream.read(&mut byte).await.is_ok_and(|count| count > 0) {
                        if stream.write_all(&byte).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        for number in 0..CONNECTIONS {
            let mut client = dial(&mesh).await;
            let exchange = async {
                client.write_all(b"x").await?;
                client.read_exact(&mut [0]).await?;
                client.shutdown().await?;
                client.read_to_end(&mut Vec::new()).await
            };
            let end = wait::within("an exchange", exchange).await;
            assert!(matches!(end, Ok(0)), "connection {number}: {end:?}");
        }
        serve.abort();
        for uid in ["shop/web-1", "shop/store-1"] {
            let metrics = mesh.member(uid).metrics().await;
            assert_eq!(metrics.sum("weft_answers_total", &[]), 0.0, "{uid}");
            assert_eq!(metrics.sum("istio_tcp_connections_opened_total", &[]), CONNECTIONS as f64, "{uid}");
        }
    });
}

#[test]
fn a_redirected_connection_goes_where_its_tcp_route_leads() {
    isolated("a_redirected_connection_goes_where_its_tcp_route_leads", || async {
        let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: { name: store, namespace: shop \
                     }\nspec:\n  parentRefs: [{ group: '', kind: Service, name: store }]\n  rules: [{ backendRefs: [{ \
                     name: next, port: 7100 }] }]\n";
        let pod = |uid: &str| PodSpec::new(uid).serves(STORE).protocol("tcp");
        let mesh = Builder::default()
            .service("shop/store", 7000, STORE)
            .with_protocol("tcp")
            .service("shop/next", 7100, STORE)
            .with_protocol("tcp")
            .pod(pod("shop/store-1"))
            .pod(pod("shop/next-1"))
            .pod(PodSpec::new("shop/web-1"))
            .policy("route", route)
            .start()
            .await;
        let listen =
            |uid: &str| mesh.member(uid).pod().listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), STORE));
        let (store, next) = (listen("shop/store-1"), listen("shop/next-1"));
        for _ in 0..3 {
            drop(connected(&mesh, &next).await);
        }
        // The pod's own address is no Service's, and has no routes.
        let caller = mesh.member("shop/web-1").caller(mesh.member("shop/store-1").ipv4(STORE));
        let mut client = caller.stream().await.expect("the connection must be taken");
        client.write_all(b"x").await.expect("bytes must pass");
        let (mut server, _) = wait::within("a connection", store.accept()).await.expect("it must be taken");
        wait::within("a byte", server.read_exact(&mut [0])).await.expect("bytes must pass");
    });
}
