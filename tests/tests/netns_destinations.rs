//! Real redirection, protocols that nobody declared, and addresses as they were dialled.

use std::fmt::Write;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::Request;
use weft_tests::mesh::authorization;
use weft_tests::netns::wire::Wire;
use weft_tests::netns::{Dial, isolated};
use weft_tests::pods::{Builder, Member, PodSpec, Pods};
use weft_tests::speaker::{Lines, Speaker};
use weft_tests::wait;

const GREETING: &str = "220 mail.example ESMTP\r\n";
const MARKER: &str = "marked-5f2d91c7-line";

async fn lines(member: &Member, address: SocketAddr) -> Lines {
    Lines::over(member.pod().connect(address, Dial::default()).await.expect("it must be redirected"))
}

fn mail(member: &Member, port: u16) -> Speaker {
    Speaker::smtp_on(member.pod().listen(SocketAddr::from(([0, 0, 0, 0], port))))
}

async fn opened(mesh: &Pods, uid: &str, labels: &[(&str, &str)]) -> f64 {
    mesh.member(uid).metrics().await.sum("istio_tcp_connections_opened_total", labels)
}

#[test]
fn a_greeting_crosses_pods_by_every_address_and_nobody_on_the_wire_reads_it() {
    isolated("a_greeting_crosses_pods_by_every_address_and_nobody_on_the_wire_reads_it", || async {
        let mesh = Builder::default()
            .service("shop/mail", 25, 2525)
            .with_protocol("")
            .pod(PodSpec::new("shop/mail-1").serves(2525).protocol(""))
            .pod(PodSpec::new("shop/web-1"))
            .start()
            .await;
        let (mail_pod, web) = (mesh.member("shop/mail-1"), mesh.member("shop/web-1"));
        let server = Speaker::smtp_on(mail_pod.pod().listen("[::]:2525".parse().unwrap()));
        let wire = Wire::tap(mail_pod.pod());
        let dialled =
            [mesh.vip("shop/mail"), mesh.vip6("shop/mail"), mail_pod.ipv4(2525), mail_pod.ipv6(2525)];
        for address in dialled {
            let mut client = lines(web, address).await;
            assert_eq!(client.hear().await, GREETING, "{address}");
            assert_eq!(client.ask(&format!("MAIL FROM:<{MARKER}>\r\n")).await, "250 OK\r\n");
        }
        assert_eq!(server.connections(), 4);
        let seen = wire.stop();
        seen.never_shows(MARKER.as_bytes());
        seen.never_shows(b"220 mail.example");
        let secured = [("reporter", "destination"), ("connection_security_policy", "mutual_tls")];
        assert_eq!(opened(&mesh, "shop/mail-1", &secured).await, 4.0);
    });
}

#[test]
fn a_rule_for_http_holds_against_a_slow_client_behind_redirection() {
    isolated("a_rule_for_http_holds_against_a_slow_client_behind_redirection", || async {
        let deny =
            authorization("no-admin", "cart", "DENY", "[{ to: [{ operation: { paths: ['/admin'] } }] }]");
        let mesh = Builder::default()
            .service("shop/cart", 80, 8080)
            .with_protocol("")
            .pod(PodSpec::new("shop/cart-1").serves(8080).protocol(""))
            .pod(PodSpec::new("shop/web-1"))
            .policy("deny", &deny)
            .start()
            .await;
        let cart = mesh.member("shop/cart-1");
        let application = cart.application("cart-1", 8080);
        for (path, status) in [("/admin", "HTTP/1.1 403 Forbidden\r\n"), ("/items", "HTTP/1.1 200 Fine\r\n")]
        {
            let mut client = lines(mesh.member("shop/web-1"), mesh.vip("shop/cart")).await;
            client.say("G").await;
            // The rest comes when the proxies had every chance to take the first for the whole.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            assert_eq!(client.ask(&format!("ET {path} HTTP/1.1\r\nHost: cart\r\n\r\n")).await, status);
        }
        let targets: Vec<_> = application.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(targets, ["/items"]);
    });
}

/// Fifty Services on port 5432 of every kind there is.
fn services() -> String {
    let mut text = String::new();
    for number in 0..50 {
        let kind = number % 5;
        let address =
            if kind % 2 == 0 { "clusterIP: None".to_owned() } else { format!("clusterIP: 10.97.7.{number}") };
        let selector =
            ["selector: { app: db }", "selector: { app: db }", "selector: { app: nothing }", "", ""][kind];
        let declared =
            ["appProtocol: tcp", "appProtocol: http", "name: tcp-db", "name: http-db", "name: db"][kind];
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: more-{number}, namespace: shop }}\nspec:\n  {address}\n  \
             {selector}\n  ports: [{{ port: 5432, {declared} }}]\n---\n"
        );
    }
    text
}

#[test]
fn fifty_services_on_a_databases_port_change_nothing_for_a_database_outside() {
    isolated("fifty_services_on_a_databases_port_change_nothing_for_a_database_outside", || async {
        let mesh = Builder::default()
            .service("shop/db", 5432, 5432)
            .with_protocol("")
            .headless()
            .pod(PodSpec::new("shop/db-0").serves(5432).protocol(""))
            .pod(PodSpec::new("shop/db-1").serves(5432).protocol(""))
            .pod(PodSpec::new("shop/db-2").serves(5432).protocol(""))
            .pod(PodSpec::new("shop/web-1"))
            .pod(PodSpec::new("shop/external-1").foreign())
            .start()
            .await;
        let (web, external) = (mesh.member("shop/web-1"), mesh.member("shop/external-1"));
        let outside = mail(external, 5432);
        let own: Vec<Application> = (0..3)
            .map(|number| {
                mesh.member(&format!("shop/db-{number}")).application(&format!("db-{number}"), 5432)
            })
            .collect();
        let mut before = lines(web, external.ipv4(5432)).await;
        assert_eq!(before.hear().await, GREETING);
        let every_pod_by_its_address = async || {
            for number in 0..3 {
                let pod = mesh.member(&format!("shop/db-{number}"));
                let response = web.caller(pod.ipv4(5432)).send(&Request::get("http://db/")).await;
                response.passed();
                assert_eq!(response.application(), format!("db-{number}"));
            }
        };
        every_pod_by_its_address().await;
        let generation = async || web.metrics().await.sum("weft_policy_generation", &[]);
        let held = generation().await;
        mesh.write_policy("services", &services());
        wait::until("the Services are there", async || generation().await > held).await;
        assert_eq!(before.ask("DATA\r\n").await, "354 Go on\r\n", "an open flow goes on");
        let wire = Wire::tap(external.pod());
        for address in [external.ipv4(5432), external.ipv4(5432)] {
            let mut new = lines(web, address).await;
            assert_eq!(new.hear().await, GREETING, "a new one is as before");
            assert_eq!(new.ask(&format!("MAIL FROM:<{MARKER}>\r\n")).await, "250 OK\r\n");
        }
        let seen = wire.stop();
        assert!(seen.reached(external.ipv4(5432)) && seen.shows(MARKER.as_bytes()), "as it was dialled");
        assert_eq!(outside.connections(), 3);
        every_pod_by_its_address().await;
        assert_eq!(own.iter().map(|one| one.requests().len()).sum::<usize>(), 6);
        let passed = [("destination_service_name", "PassthroughCluster")];
        assert_eq!(opened(&mesh, "shop/web-1", &passed).await, 3.0);
    });
}

#[test]
fn registry_only_resets_what_leaves_the_mesh_and_serves_the_rest() {
    isolated("registry_only_resets_what_leaves_the_mesh_and_serves_the_rest", || async {
        let mesh = Builder::pair()
            .mesh_config("{ outboundTrafficPolicy: { mode: REGISTRY_ONLY } }")
            .pod(PodSpec::new("shop/external-1").foreign())
            .start()
            .await;
        let (web, external) = (mesh.member("shop/web-1"), mesh.member("shop/external-1"));
        let _application = mesh.member("shop/cart-1").application("cart-1", 8080);
        let outside = mail(external, 5432);
        let mut stream = web.pod().connect(external.ipv4(5432), Dial::default()).await.unwrap();
        let _ = stream.write_all(b"EHLO web.example\r\n").await;
        let mut rest = Vec::new();
        let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
        assert!(wait::within("the refusal", end).await.is_err(), "it is reset, not ended");
        assert_eq!((rest, outside.connections()), (Vec::new(), 0));
        let refused = [("destination_service_name", "BlackHoleCluster")];
        assert_eq!(opened(&mesh, "shop/web-1", &refused).await, 1.0);
        let reason = [("direction", "outbound"), ("reason", Reason::ServiceUnknown.label())];
        assert_eq!(web.metrics().await.sum("weft_answers_total", &reason), 1.0);
        web.caller(mesh.vip("shop/cart")).get("http://cart/items").await.passed();
    });
}
