//! The control API over real sockets, in process: certificates by token and by certificate, discovery
//! with the SVID, and what is refused. Nothing sleeps: every wait is for a message, or polls for what
//! it waits for until a deadline.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod channel;
mod fixture;
mod stream;

use channel::Caller;
use fixture::{POLICY, TestServer, WORKLOADS};
use std::time::{Duration, Instant, SystemTime};
use stream::Stream;
use tonic::Code;
use weft_control::ca::issuer::Issuer;
use weft_control::ca::root::Root;
use weft_control::state::StateDirectory;
use weft_model::proto::v1::KnockRequest;
use weft_model::proto::v1::capture_client::CaptureClient;
use weft_model::proto::v1::knocked::Outcome;
use weft_model::spiffe::SpiffeId;
use weft_model::wire::{Kind, Resource};

#[test]
fn a_token_becomes_an_svid_and_the_svid_a_stream() {
    let server = TestServer::start("");
    server.run(async |server| {
        let token = server.token("shop/cart-1");
        let svid = server.certify("shop/cart-1", &token, Caller::Anonymous).await.unwrap();
        assert_eq!(svid.identity, "spiffe://cluster.local/ns/shop/sa/cart");

        let mut stream = Stream::open(server, &svid, "shop/cart-1", &[]).await;
        let batch = stream.batch().await;
        assert_eq!(batch.names(Kind::Workload), ["shop/cart-1"]);
        assert_eq!(batch.names(Kind::Authorization), ["AuthorizationPolicy/shop/cart"]);
        assert_eq!(batch.names(Kind::TrustBundle), ["cluster.local"]);
        assert_eq!(batch.last(), Some(Kind::Generation));
        for (kind, resource) in batch.resources() {
            let value = &resource.resource.as_ref().unwrap().value;
            let decoded = Resource::decode(kind, &resource.name, value).unwrap();
            assert_eq!(decoded.kind(), kind);
        }

        stream.ask("@10.0.0.1:80").await;
        let batch = stream.batch().await;
        assert_eq!(batch.names(Kind::Service), ["shop/cart"]);
        assert_eq!(batch.names(Kind::Endpoints), ["shop/cart:80/0"]);

        // Live: from the file's rename to the message.
        let generation = server.status().await["generation"].clone();
        server.write("policy.yaml", "");
        let batch = stream.batch().await;
        assert_eq!(batch.removed(Kind::Authorization), ["AuthorizationPolicy/shop/cart"]);
        assert_eq!(batch.last(), Some(Kind::Generation));
        let status = server
            .status_when(|status| {
                status["proxies"][0]["current"] == true && status["generation"] != generation
            })
            .await;
        assert_eq!(status["proxies"][0]["workload"], "shop/cart-1");
        assert_eq!(status["proxies"][0]["generation"], status["generation"]);
    });
}

#[test]
fn an_edit_is_pushed_within_milliseconds() {
    let server = TestServer::start("");
    server.run(async |server| {
        let svid = server.svid("shop/cart-1").await;
        let mut stream = Stream::open(server, &svid, "shop/cart-1", &[]).await;
        stream.batch().await;
        let mut times = Vec::new();
        for round in 0..9 {
            // After a quiet time, as edits by people are: the source has nothing under observation.
            server.quiet().await;
            let policy = POLICY.replace("sa/web", &format!("sa/web-{round}"));
            let started = Instant::now();
            server.write("policy.yaml", &policy);
            assert_eq!(stream.batch().await.names(Kind::Authorization), ["AuthorizationPolicy/shop/cart"]);
            times.push(started.elapsed());
        }
        // The least: a wait that is built in is in every round, a busy machine's only in some.
        assert!(times.iter().min().unwrap() < &Duration::from_millis(60), "{times:?}");
    });
}

#[test]
fn certificates_are_refused_with_the_reason() {
    let server = TestServer::start("");
    server.run(async |server| {
        let token = server.token("shop/cart-1");
        let workload = "shop/cart-1";
        for (asked, token, code, said) in [
            (workload, "", Code::Unauthenticated, "neither a token nor a client certificate"),
            (workload, "nonsense", Code::Unauthenticated, "malformed"),
            (workload, &format!("{token}x"), Code::Unauthenticated, "signature is wrong"),
            ("shop/web-1", &token, Code::Unauthenticated, "is for workload shop/cart-1, not for shop/web-1"),
            ("shop/none", &token, Code::NotFound, "workload shop/none is not in the mesh"),
            ("shop/none", "", Code::Unauthenticated, "neither"),
            ("No Name", &token, Code::InvalidArgument, "not a valid workload UID"),
        ] {
            let status = server.certify(asked, token, Caller::Anonymous).await.unwrap_err();
            assert_eq!(status.code(), code, "{status:?}");
            assert!(status.message().contains(said), "{status:?}");
        }
        let expired = server.token_until(workload, SystemTime::now() - Duration::from_secs(60));
        let status = server.certify(workload, &expired, Caller::Anonymous).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("the token expired"), "{status:?}");
        let status = server.certify_raw(workload, &token, vec![0; 9000]).await.unwrap_err();
        assert_eq!((status.code(), status.message().contains("8 KiB")), (Code::InvalidArgument, true));
    });
}

#[test]
fn a_certificate_renews_itself_and_no_other() {
    let server = TestServer::start("");
    server.run(async |server| {
        let first = server.svid("shop/cart-1").await;
        let second = server.certify("shop/cart-1", "", Caller::Svid(&first)).await.unwrap();
        assert_eq!(first.identity, second.identity);
        assert_ne!(first.chain, second.chain);
        // A token that expired does not spoil what the certificate proves.
        let expired = server.token_until("shop/cart-1", SystemTime::UNIX_EPOCH);
        server.certify("shop/cart-1", &expired, Caller::Svid(&first)).await.unwrap();
        // Another identity, and another workload of the same identity.
        for other in ["shop/web-1", "shop/cart-2"] {
            let status = server.certify(other, "", Caller::Svid(&first)).await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        }
    });
}

#[test]
fn discovery_is_for_the_workload_itself_alone() {
    let server = TestServer::start("");
    server.run(async |server| {
        let status = Stream::refused(server, Caller::Anonymous, "shop/cart-1").await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        let cart = server.svid("shop/cart-1").await;
        for node in ["shop/web-1", "shop/cart-2", "shop/none"] {
            let status = Stream::refused(server, Caller::Svid(&cart), node).await;
            assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        }
        let status = Stream::refused(server, Caller::Svid(&cart), "").await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    });
}

#[test]
fn a_knock_is_for_the_workload_itself_alone_and_rare() {
    let server = TestServer::start("");
    server.run(async |server| {
        let (nonce, cart) = ([7; 32], server.svid("shop/cart-1").await);
        let refused = async |workload: &str, nonce: &[u8], caller: Caller<'_>| {
            server.knock(workload, nonce, caller).await.unwrap_err().code()
        };
        assert_eq!(refused("shop/cart-1", &nonce, Caller::Anonymous).await, Code::Unauthenticated);
        // Another identity, another workload of the same one, and one that is not there.
        for other in ["shop/web-1", "shop/cart-2", "shop/none", "", "10.0.0.1"] {
            assert_eq!(refused(other, &nonce, Caller::Svid(&cart)).await, Code::PermissionDenied, "{other}");
        }
        assert_eq!(refused("shop/cart-1", &[7; 31], Caller::Svid(&cart)).await, Code::InvalidArgument);
        assert_eq!(refused("shop/cart-1", &[7; 4096], Caller::Svid(&cart)).await, Code::OutOfRange);
        // Its own addresses, of which none is dialled on this machine's loopback.
        let knocked = server.knock("shop/cart-1", &nonce, Caller::Svid(&cart)).await.unwrap().knocked;
        assert_eq!((knocked.len(), knocked[0].address.as_str()), (1, "127.0.1.1"));
        assert_eq!(knocked[0].outcome(), Outcome::Unreachable);
        // At once again; at a distance it may.
        let (channel, _) = channel::connect(server, Caller::Svid(&cart)).await.unwrap();
        let mut client = CaptureClient::with_origin(channel, channel::origin());
        let request = || KnockRequest { workload: "shop/cart-1".to_owned(), nonce: nonce.to_vec() };
        let burst = async {
            let mut codes = Vec::new();
            for _ in 0..20 {
                codes.push(client.knock(request()).await.map_err(|status| status.code()).err());
            }
            codes
        };
        assert!(burst.await.contains(&Some(Code::ResourceExhausted)));
        fixture::eventually("it may ask again", async || {
            server.knock("shop/cart-1", &nonce, Caller::Svid(&cart)).await.ok()
        })
        .await;
    });
}

#[test]
fn foreign_expired_and_odd_client_certificates_end_the_handshake() {
    let server = TestServer::start("");
    let foreign = TestServer::start("");
    server.run(async |server| {
        let identity: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let state = StateDirectory::open_shared(server.state()).unwrap();
        let root = Root::load_or_create(&state, &"cluster.local".parse().unwrap()).unwrap();
        let issuer = Issuer::new(root.into(), Duration::from_secs(60));
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);

        let good = channel::svid_by(&issuer, &identity, now);
        assert!(server.try_connect(Caller::Svid(&good)).await.is_ok());
        for (name, svid) in [
            ("expired", channel::svid_by(&issuer, &identity, now - hour)),
            ("not yet valid", channel::svid_by(&issuer, &identity, now + hour)),
            ("another authority's", {
                let state = StateDirectory::open_shared(foreign.state()).unwrap();
                let root = Root::load_or_create(&state, &"cluster.local".parse().unwrap()).unwrap();
                channel::svid_by(&Issuer::new(root.into(), hour), &identity, now)
            }),
            ("another trust domain's", {
                channel::svid_by(&issuer, &"spiffe://other.local/ns/shop/sa/cart".parse().unwrap(), now)
            }),
            ("two URIs", channel::odd_svid(server.state(), &["spiffe://cluster.local/ns/a/sa/b"; 2], true)),
            ("a DNS name besides", {
                channel::odd_svid(server.state(), &["spiffe://cluster.local/ns/shop/sa/cart", "dns"], true)
            }),
            ("no workload's URI", channel::odd_svid(server.state(), &["spiffe://cluster.local"], true)),
            ("no name", channel::odd_svid(server.state(), &[], true)),
            ("for servers only", {
                channel::odd_svid(server.state(), &["spiffe://cluster.local/ns/shop/sa/cart"], false)
            }),
        ] {
            assert!(server.try_connect(Caller::Svid(&svid)).await.is_err(), "{name}");
        }
    });
    foreign.stop();
}

#[test]
fn a_bad_file_keeps_what_it_said_and_status_says_so() {
    let server = TestServer::start("");
    server.run(async |server| {
        let svid = server.svid("shop/cart-1").await;
        let mut stream = Stream::open(server, &svid, "shop/cart-1", &[]).await;
        stream.batch().await;
        server.write("policy.yaml", "kind: [");
        server.write("new.yaml", "kind: Nonsense");
        let status =
            server.status_when(|status| status["source"]["problems"].as_array().unwrap().len() == 2).await;
        let problems = &status["source"]["problems"];
        assert_eq!((&problems[0]["file"], &problems[0]["fate"]), (&"new.yaml".into(), &"held-out".into()));
        assert_eq!(
            (&problems[1]["file"], &problems[1]["fate"]),
            (&"policy.yaml".into(), &"last-good".into())
        );
        assert_eq!(problems[1]["diagnostics"][0]["file"], "policy.yaml");
        let metrics = server.get("/metrics").await;
        assert!(metrics.contains("weft_control_source_errors 2\n"), "{metrics}");
        assert!(metrics.contains("weft_control_connected_proxies 1\n"), "{metrics}");
        // Nothing changed for the proxy.
        server.status_when(|status| status["proxies"][0]["current"] == true).await;

        // Everything else still applies.
        let more = WORKLOADS.replace("cart-2", "cart-3");
        server.write("workloads.yaml", &more);
        server.status_when(|status| status["generation"].as_str().unwrap().ends_with(".2")).await;
        // Repaired.
        std::fs::remove_file(server.policies().join("new.yaml")).unwrap();
        server.write("policy.yaml", "");
        assert_eq!(stream.batch().await.removed(Kind::Authorization), ["AuthorizationPolicy/shop/cart"]);
        server.status_when(|status| status["source"]["problems"].as_array().unwrap().is_empty()).await;
    });
}

#[test]
fn another_trust_domain_while_running_is_refused_whole() {
    let server = TestServer::start("");
    server.run(async |server| {
        let mesh = "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: { name: mesh }\n";
        server.write("mesh.yaml", &format!("{mesh}spec: {{ trustDomain: other.local }}\n"));
        let refused =
            |status: &serde_json::Value| !status["source"]["refused"].as_array().unwrap().is_empty();
        let status = server.status_when(refused).await;
        assert_eq!(status["trustDomain"], "cluster.local");
        assert!(status["generation"].as_str().unwrap().ends_with(".1"));
        server.write("mesh.yaml", &format!("{mesh}spec: {{ trustDomain: cluster.local }}\n"));
        server.status_when(|status| !refused(status)).await;
    });
}

#[test]
fn a_refusal_is_shown_with_its_reason_until_the_resource_changes() {
    let server = TestServer::start("");
    server.run(async |server| {
        let svid = server.svid("shop/cart-1").await;
        let mut stream = Stream::open(server, &svid, "shop/cart-1", &[]).await;
        stream.refuse = Some((Kind::Authorization, "needs level 9"));
        stream.batch().await;
        let status =
            server.status_when(|status| !status["proxies"][0]["nacks"].as_array().unwrap().is_empty()).await;
        let nack = &status["proxies"][0]["nacks"][0];
        assert_eq!(nack["name"], "AuthorizationPolicy/shop/cart");
        assert_eq!((&nack["kind"], &nack["reason"]), (&"Authorization".into(), &"needs level 9".into()));
        let metrics = server.get("/metrics").await;
        assert!(metrics.contains("weft_control_nacks_total{type=\"Authorization\"} 1\n"), "{metrics}");
        stream.refuse = None;
        server.write("policy.yaml", "");
        stream.batch().await;
        server.status_when(|status| status["proxies"][0]["nacks"].as_array().unwrap().is_empty()).await;
    });
}

#[test]
fn a_restart_keeps_authority_tokens_and_generation_and_a_stream_resumes() {
    let server = TestServer::start("");
    let (svid, held, token) = server.during(async |server| {
        let svid = server.svid("shop/cart-1").await;
        let mut stream = Stream::open(server, &svid, "shop/cart-1", &["shop/cart"]).await;
        stream.batch().await;
        (svid, stream.held.clone(), server.token("shop/cart-1"))
    });
    let server = server.restart();
    server.run(async |server| {
        let mut stream = Stream::resume(server, &svid, "shop/cart-1", &["shop/cart"], held).await;
        let batch = stream.batch().await;
        assert_eq!(batch.kinds(), [Kind::Generation], "nothing changed");
        assert!(server.status().await["generation"].as_str().unwrap().ends_with(".1"));
        server.certify("shop/cart-1", &token, Caller::Anonymous).await.unwrap();
    });
}

#[test]
fn the_servers_own_certificate_renews_and_open_streams_live_on() {
    // Short enough to be renewed soon, with seconds for a busy machine before the first one ends.
    let server = TestServer::start("6s");
    server.run(async |server| {
        let issuer_state = StateDirectory::open_shared(server.state()).unwrap();
        let root = Root::load_or_create(&issuer_state, &"cluster.local".parse().unwrap()).unwrap();
        let issuer = Issuer::new(root.into(), Duration::from_secs(3600));
        let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let svid = channel::svid_by(&issuer, &identity, SystemTime::now());
        let mut stream = Stream::open(server, &svid, "shop/cart-1", &[]).await;
        stream.batch().await;
        let first = server.try_connect(Caller::Anonymous).await.unwrap();
        fixture::eventually("a renewed certificate", async || {
            let now = server.try_connect(Caller::Anonymous).await.unwrap();
            (now != first).then_some(())
        })
        .await;
        server.write("policy.yaml", "");
        assert_eq!(stream.batch().await.removed(Kind::Authorization), ["AuthorizationPolicy/shop/cart"]);
    });
}

#[test]
fn a_drain_ends_streams_and_the_program() {
    let server = TestServer::start("");
    server.during(async |server| {
        let svid = server.svid("shop/cart-1").await;
        let mut stream = Stream::open(server, &svid, "shop/cart-1", &[]).await;
        stream.batch().await;
        server.trigger().drain(Duration::from_secs(5));
        stream.ended().await;
    });
    server.stop();
}

#[test]
fn a_workload_that_gets_another_identity_loses_its_stream() {
    let server = TestServer::start("");
    server.run(async |server| {
        let svid = server.svid("shop/cart-1").await;
        let mut stream = Stream::open(server, &svid, "shop/cart-1", &[]).await;
        stream.batch().await;
        server.write("workloads.yaml", &WORKLOADS.replace("serviceAccount: cart", "serviceAccount: other"));
        let status = stream.ended().await.unwrap();
        assert_eq!(status.code(), Code::PermissionDenied);
    });
}
