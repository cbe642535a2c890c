//! Which replica a request goes to, seen from outside: spread, zones, keys, ejection, limits, waiting.

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::Request;
use weft_tests::http2::{Connection, frame, grpc};
use weft_tests::mesh::{Builder, Mesh, Workload, route};
use weft_tests::traffic::Traffic;
use weft_tests::wait;

const CART: &str = "http://cart.shop/items";

/// A TrafficPolicy for `shop/cart`, its sections in flow YAML, one a line.
fn policy(sections: &str) -> String {
    let mut text =
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: { name: cart, namespace: shop }\n\
                    spec:\n  targetRefs: [{ kind: Service, name: cart }]\n"
            .to_owned();
    for section in sections.lines() {
        text += "  ";
        text += section.trim();
        text += "\n";
    }
    text
}

/// Replicas `cart-1` to `cart-N`, each with its proxy, and one client.
async fn replicas(count: usize, builder: impl FnOnce(Builder) -> Builder) -> (Mesh, Vec<Application>) {
    replicas_of(count, Workload::new("shop/web-1"), builder).await
}

/// The same with this client.
async fn replicas_of(
    count: usize,
    web: Workload,
    builder: impl FnOnce(Builder) -> Builder,
) -> (Mesh, Vec<Application>) {
    let mut applications = Vec::new();
    let mut all =
        Builder::default().service("shop/cart").workload(web.calls("shop/cart", 80).spec("zone: a"));
    for number in 1..=count {
        let name = format!("cart-{number}");
        let application = Application::start(&name).await;
        let zone = format!("zone: {}", if number == 1 { "a" } else { "b" });
        all = all.workload(Workload::new(&format!("shop/{name}")).serves(application.address()).spec(&zone));
        applications.push(application);
    }
    (builder(all).start().await, applications)
}

/// The same without proxies beside the replicas, so that they are spoken to in HTTP/1.1.
async fn plain(count: usize, sections: &str) -> (Mesh, Vec<Application>) {
    let mut applications = Vec::new();
    let mut all = Builder::default()
        .service("shop/cart")
        .workload(Workload::new("shop/web-1").calls("shop/cart", 80).settings("workers: 2"))
        .policy("traffic", &policy(sections));
    for number in 1..=count {
        let application = Application::start(&format!("cart-{number}")).await;
        let workload = Workload::new(&format!("shop/cart-{number}"));
        all = all.workload(workload.serves(application.address()).not_injected());
        applications.push(application);
    }
    (all.start().await, applications)
}

/// How many connections the applications have seen.
fn connections(applications: &[Application]) -> usize {
    let of = |application: &Application| {
        application.requests().iter().map(|request| request.connection).collect::<BTreeSet<_>>().len()
    };
    applications.iter().map(of).sum()
}

/// How many of the requests each application has seen.
fn shares(applications: &[Application]) -> Vec<usize> {
    applications.iter().map(|application| application.requests().len()).collect()
}

#[tokio::test]
async fn grpc_calls_of_one_connection_spread_evenly() {
    const CALLS: usize = 3_000;
    // By turns, so that it is exact however busy the machine is: the default looks at latency, too, and its
    // spread is shown by simulation (`balancer/tests.rs`).
    let sections = "loadBalancing: { algorithm: RoundRobin }";
    let (mesh, applications) =
        replicas(3, |builder| builder.with_protocol("grpc").policy("traffic", &policy(sections))).await;
    let connection = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    let call = async || {
        let request = grpc("cart.shop", "/shop.Cart/Get").body(()).expect("a request");
        let mut exchange = connection.start(request, false).await.expect("a stream");
        exchange.send.send_data(frame(b"x"), true).expect("the message is sent");
        exchange.whole().await.expect("an answer").status()
    };
    for _ in 0..CALLS / 6 {
        assert_eq!(join_all((0..6).map(|_| call())).await, [200; 6]);
    }
    let shares = shares(&applications);
    assert_eq!(shares.iter().sum::<usize>(), CALLS);
    for share in &shares {
        assert!(share.abs_diff(CALLS / 3) <= 1, "each call goes to the next: {shares:?}");
    }
}

#[tokio::test]
async fn with_half_of_the_replicas_silently_dead_hardly_a_request_fails_after_three_seconds() {
    // A busy machine may be late once; four tries in a row it is not.
    let rules = "[{ timeouts: { request: 60s, backendRequest: 2s }, retry: { attempts: 3, backoff: 10ms } }]";
    let web = Workload::new("shop/web-1").connect_timeout("1s");
    let (mesh, _applications) =
        replicas_of(4, web, |builder| builder.policy("route", &route("cart", "cart", rules))).await;
    let get = |id: &str| Request::get(CART).id(id);
    let before = Traffic::start(mesh.client("shop/web-1"), 8, get);
    before.more(500).await;
    let frozen = ["shop/cart-2", "shop/cart-3"];
    for uid in frozen {
        mesh.proxy(uid).process().signal(Signal::SIGSTOP);
    }
    // Three seconds of requests, as callers have them; then what the claim is about.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        before.more(1).await;
    }
    wait::until("both are ejected", async || {
        let metrics = mesh.proxy("shop/web-1").metrics().await;
        metrics.sum("weft_outbound_endpoints_ejected", &[]) >= 2.0
    })
    .await;
    let after = Traffic::start(mesh.client("shop/web-1"), 8, get);
    after.more(2_000).await;
    let (before, after) = (before.stop().await, after.stop().await);
    for uid in frozen {
        mesh.proxy(uid).process().signal(Signal::SIGCONT);
    }
    let total = after.succeeded.len() + after.failed.len();
    assert!(after.failed.len() * 1_000 < total, "{} of {total}: {:?}", after.failed.len(), after.counts);
    assert!(before.succeeded.len() > 500, "{:?}", before.counts);
}

#[tokio::test]
async fn who_could_not_connect_goes_elsewhere_whatever_the_retry_budget() {
    // At least one retry in a minute, and no more for the number of requests.
    let sections = "loadBalancing: { algorithm: RoundRobin }\n\
                    retryBudget: { percent: 0, floor: 1, interval: 1m }";
    let web = Workload::new("shop/web-1").connect_timeout("1s");
    let (mesh, applications) =
        replicas_of(2, web, |builder| builder.policy("traffic", &policy(sections))).await;
    mesh.proxy("shop/cart-2").process().signal(Signal::SIGSTOP);
    // Half of them meet the one that takes nothing, and wait for its handshakes together.
    let client = mesh.client("shop/web-1");
    let answers = join_all((0..40).map(|number| {
        let request = Request::post(CART, "an order").id(&format!("order-{number}"));
        let client = &client;
        async move { client.send(&request).await }
    }))
    .await;
    mesh.proxy("shop/cart-2").process().signal(Signal::SIGCONT);
    answers.iter().for_each(|answer| answer.passed());
    let executed = applications[0].requests().len() + applications[1].requests().len();
    assert_eq!(executed, 40, "each once");
    let metrics = mesh.proxy("shop/web-1").metrics().await;
    let made = metrics.sum("weft_outbound_retries_total", &[("outcome", "made")]);
    assert!(made >= 10.0, "{made} went elsewhere");
}

#[tokio::test]
async fn a_replica_that_fails_is_ejected_after_so_many_failures_and_used_again_when_it_recovers() {
    let sections = "loadBalancing: { algorithm: RoundRobin }\n\
                    ejection: { consecutiveFailures: 3, baseTime: 1s, maxTime: 2s, maxPercent: 50 }";
    let (mesh, applications) = replicas(3, |builder| builder.policy("traffic", &policy(sections))).await;
    // One connection, so one worker, which alone judges.
    let ill = |id: &str| Request::get(CART).id(id).field("x-test-status", "cart-2=503");
    let traffic = Traffic::start(mesh.client("shop/web-1"), 1, ill);
    let proxy = mesh.proxy("shop/web-1");
    wait::until("the replica is ejected", async || {
        let metrics = proxy.metrics().await;
        metrics.sum("weft_outbound_ejections_total", &[("cause", "consecutive")]) >= 1.0
            && metrics.sum("weft_outbound_endpoints_ejected", &[]) >= 1.0
    })
    .await;
    wait::until("a probe fails", async || {
        proxy.metrics().await.sum("weft_outbound_ejections_total", &[("cause", "probe")]) >= 1.0
    })
    .await;
    let outcomes = traffic.stop().await;
    let metrics = proxy.metrics().await;
    let probes = metrics.sum("weft_outbound_ejections_total", &[("cause", "probe")]);
    let failed = outcomes.counts.get("503 cart-2").copied().unwrap_or(0);
    assert_eq!(failed as f64, 3.0 + probes, "three and the probes, no more: {:?}", outcomes.counts);
    assert_eq!(outcomes.failed.len() as u64, failed, "{:?}", outcomes.counts);
    let seen = applications[1].requests().len();
    let well = Traffic::start(mesh.client("shop/web-1"), 4, |id| Request::get(CART).id(id));
    wait::until("it is used again", async || applications[1].requests().len() > seen + 20).await;
    well.stop().await.all_succeeded();
    proxy.process().logged("an endpoint is ejected").await;
    proxy.process().logged("an endpoint is used again").await;
}

#[tokio::test]
async fn the_own_zone_is_preferred_where_the_policy_says_so_and_a_change_takes_effect() {
    let sections = "loadBalancing: { zone: Prefer }";
    let (mesh, applications) = replicas(3, |builder| builder.policy("traffic", &policy(sections))).await;
    let client = mesh.client("shop/web-1");
    // Some leave a zone that is measured to be slow, and on a busy machine any zone is now and then. Twenty in a
    // row stay by preference, not by chance.
    wait::until("twenty requests in a row stay in the own zone", async || {
        let before = shares(&applications);
        for _ in 0..20 {
            client.get(CART).await.passed();
        }
        let after = shares(&applications);
        after[0] == before[0] + 20 && after[1..] == before[1..]
    })
    .await;
    mesh.write_policy("traffic", &policy("loadBalancing: { algorithm: RoundRobin }"));
    wait::until("three requests in a row go to three replicas", async || {
        let before = shares(&applications);
        for _ in 0..3 {
            client.get(CART).await.passed();
        }
        shares(&applications).iter().zip(before).all(|(after, before)| *after == before + 1)
    })
    .await;
}

#[tokio::test]
async fn a_key_leads_to_one_replica_whichever_connection_it_comes_on() {
    let sections = "loadBalancing: { algorithm: ConsistentHash, hash: { header: x-user } }";
    let (mesh, applications) = replicas(3, |builder| builder.policy("traffic", &policy(sections))).await;
    let client = mesh.client("shop/web-1");
    let mut owners = BTreeMap::new();
    for round in 0..3 {
        for user in 0..200 {
            let user = format!("user-{user}");
            let response = client.send(&Request::get(CART).field("x-user", &user)).await;
            response.passed();
            let owner = owners.entry(user).or_insert_with(|| response.application().to_owned());
            assert_eq!(owner, response.application(), "in round {round}");
        }
    }
    assert!(shares(&applications).iter().all(|share| *share > 0), "keys are spread: {owners:?}");
}

#[tokio::test]
async fn more_than_may_be_under_way_is_refused_before_anything_is_sent() {
    let (mesh, applications) =
        replicas(2, |builder| builder.policy("traffic", &policy("connections: { maxInFlight: 2 }"))).await;
    let client = mesh.client("shop/web-1");
    let held = |gate: &str| {
        let request = Request::get(CART).field("x-test-gate", gate);
        wait::spawn(async move { client.send(&request).await })
    };
    let waiting = [held("one"), held("two")];
    wait::until("both are under way", async || shares(&applications).iter().sum::<usize>() == 2).await;
    client.send(&Request::get(CART).id("third")).await.refused_with(Reason::InFlightLimit);
    for application in &applications {
        assert_eq!(application.count("third"), 0);
        application.open("one");
        application.open("two");
    }
    for request in waiting {
        wait::within("it is answered", request).await.expect("no panic in a client").passed();
    }
    wait::until("places come back", async || client.get(CART).await.status() == 200).await;
}

#[tokio::test]
async fn a_websocket_is_under_way_until_it_ends() {
    let (mesh, _applications) = plain(1, "connections: { maxInFlight: 1 }").await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.passed();
    let mut connection = client.connect().await.expect("the proxy is there");
    let request = Request::get("http://cart.shop/socket")
        .field("Connection", "Upgrade")
        .field("Upgrade", "websocket")
        .field("Sec-WebSocket-Version", "13")
        .field("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    connection.begin(&request).await.expect("a request is sent");
    assert_eq!(connection.head().await.expect("an answer").status(), 101);
    for _ in 0..10 {
        client.get(CART).await.refused_with(Reason::InFlightLimit);
    }
    drop(connection);
    wait::until("its place comes back", async || client.get(CART).await.status() == 200).await;
}

#[tokio::test]
async fn there_are_no_more_connections_than_the_policy_says_and_requests_wait_for_one() {
    let (mesh, applications) = plain(2, "connections: { maxConnections: 2, waitFor: 60s }").await;
    // One connection of the client, so one worker.
    let client = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    for _ in 0..20 {
        let all = (0..20).map(|_| client.get("http://cart.shop/items", &[]));
        for answer in join_all(all).await {
            assert_eq!(answer.expect("an answer").status(), 200);
        }
    }
    assert_eq!(shares(&applications).iter().sum::<usize>(), 400);
    // Each is kept and used again, so there were never more at once than there were altogether.
    assert!(connections(&applications) <= 2, "{}", connections(&applications));
}

#[tokio::test]
async fn who_finds_no_connection_in_time_is_told_and_nothing_was_sent() {
    let (mesh, applications) =
        plain(2, "connections: { maxConnections: 2, waitFor: 60s, maxPending: 1 }").await;
    let client = mesh.client("shop/web-1");
    let held = |gate: &str| {
        let request = Request::get(CART).field("x-test-gate", gate);
        wait::spawn(async move { client.send(&request).await })
    };
    let holding = [held("hold"), held("hold")];
    wait::until("both are under way", async || shares(&applications).iter().sum::<usize>() == 2).await;
    let waits = wait::spawn(async move { client.send(&Request::post(CART, "order").id("waits")).await });
    let labels = [("destination_service_name", "cart"), ("destination_service_namespace", "shop")];
    let proxy = mesh.proxy("shop/web-1");
    wait::until("one waits", async || {
        proxy.metrics().await.sum("weft_outbound_requests_waiting", &labels) >= 1.0
    })
    .await;
    client.send(&Request::get(CART).id("full")).await.refused_with(Reason::QueueFull);
    mesh.write_policy("traffic", &policy("connections: { maxConnections: 2, waitFor: 100ms }"));
    wait::until("the shorter wait holds", async || {
        client.send(&Request::get(CART).id("late")).await.reason() == Some(Reason::ConnectionLimit)
    })
    .await;
    client.send(&Request::get(CART).id("late")).await.refused_with(Reason::ConnectionLimit);
    let seen = |id: &str| applications.iter().map(|application| application.count(id)).sum::<usize>();
    assert_eq!((seen("waits"), seen("full"), seen("late")), (0, 0, 0));
    applications.iter().for_each(|application| application.open("hold"));
    for request in holding.into_iter().chain([waits]) {
        wait::within("it is answered", request).await.expect("no panic in a client").passed();
    }
    assert_eq!(seen("waits"), 1);
    assert_eq!(proxy.metrics().await.sum("weft_outbound_requests_waiting", &labels), 0.0);
}

#[tokio::test]
async fn a_connection_that_lies_idle_with_one_worker_or_endpoint_is_given_up_for_another() {
    let sections = "connections: { maxConnections: 1, waitFor: 60s }\n\
                    loadBalancing: { algorithm: ConsistentHash, hash: { header: x-user } }";
    let (mesh, applications) = plain(3, sections).await;
    let client = mesh.client("shop/web-1");
    for number in 0..60 {
        // A connection of its own each: whichever worker takes it, and whichever endpoint its key leads to.
        let request = Request::get(CART).field("x-user", &format!("user-{}", number % 20));
        client.send(&request).await.passed();
    }
    assert!(shares(&applications).iter().all(|share| *share > 0), "{:?}", shares(&applications));
    let metrics = mesh.proxy("shop/web-1").metrics().await;
    assert_eq!(metrics.sum("weft_outbound_requests_waiting", &[]), 0.0);
}

#[tokio::test]
async fn between_proxies_requests_share_the_few_connections_that_there_may_be() {
    let (mesh, applications) =
        replicas(1, |builder| builder.policy("traffic", &policy("connections: { maxConnections: 1 }"))).await;
    let client = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    client.get(CART, &[]).await.expect("an answer");
    let all: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            wait::spawn(async move { client.get(CART, &[("x-test-gate", "all")]).await })
        })
        .collect();
    wait::until("all are under way at once", async || shares(&applications) == [21]).await;
    applications[0].open("all");
    for answer in all {
        let answer = wait::within("it is answered", answer).await.expect("no panic in a client");
        assert_eq!(answer.expect("an answer").status(), 200);
    }
}

#[tokio::test]
async fn a_grpc_failure_in_trailers_ejects_as_one_in_the_head_does() {
    let sections = "loadBalancing: { algorithm: RoundRobin }\n\
                    ejection: { consecutiveFailures: 3, baseTime: 1h, maxTime: 1h, maxPercent: 50 }";
    let builder = |builder: Builder| builder.with_protocol("grpc").policy("traffic", &policy(sections));
    let (mesh, applications) = replicas(3, builder).await;
    // One connection, so one worker, which alone judges.
    let connection = Connection::open(mesh.client_of("shop/web-1", "shop/cart").address()).await;
    let call = async |status: &str| {
        let request = grpc("cart.shop", "/shop.Cart/Get").header("x-test-grpc-status", status);
        let request = request.body(()).expect("a request");
        let mut exchange = connection.start(request, false).await.expect("a stream");
        exchange.send.send_data(frame(b"x"), true).expect("the message is sent");
        let answer = exchange.whole().await.expect("an answer");
        assert!(answer.head.headers().get("grpc-status").is_none(), "the status comes behind the message");
        answer.field("grpc-status").expect("a status").to_owned()
    };
    // The request's doing, as most statuses are; and one that only an owner would count.
    for status in ["cart-2=5", "cart-2=13"] {
        for _ in 0..30 {
            call(status).await;
        }
    }
    assert!(applications[1].requests().len() >= 20, "it is used on: {:?}", shares(&applications));
    let seen = applications[1].requests().len();
    let mut failed = 0;
    for _ in 0..60 {
        failed += usize::from(call("cart-2=14").await == "14");
    }
    assert_eq!((failed, applications[1].requests().len()), (3, seen + 3), "three, and it is left alone");
    let metrics = mesh.proxy("shop/web-1").metrics().await;
    assert_eq!(metrics.sum("weft_outbound_ejections_total", &[("cause", "consecutive")]), 1.0);
}

#[tokio::test]
async fn requests_wait_for_the_first_endpoint_where_the_policy_says_so_and_no_more_than_it_says() {
    let sections = "connections: { waitFor: 60s, maxPending: 1 }";
    let (mesh, _) = replicas(0, |builder| builder.policy("traffic", &policy(sections))).await;
    let client = mesh.client("shop/web-1");
    let waits = wait::spawn(async move { client.send(&Request::post(CART, "order")).await });
    let labels = [("destination_service_name", "cart"), ("destination_service_namespace", "shop")];
    wait::until("one waits", async || {
        mesh.proxy("shop/web-1").metrics().await.sum("weft_outbound_requests_waiting", &labels) >= 1.0
    })
    .await;
    client.get(CART).await.refused_with(Reason::QueueFull);
    let application = Application::start("late").await;
    mesh.write_policy(
        "late",
        &format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: late, namespace: shop, labels: {{ app: \
             cart }} }}\nspec:\n  address: 127.0.0.1\n  injected: false\n  ports: [{{ name: serving, port: {} }}]\n",
            application.address().port()
        ),
    );
    let response = wait::within("it is answered", waits).await.expect("no panic in a client");
    response.passed();
    assert_eq!(response.application(), "late");
    let metrics = mesh.proxy("shop/web-1").metrics().await;
    assert_eq!(metrics.sum("weft_outbound_requests_waiting", &labels), 0.0);
}

#[tokio::test]
async fn a_wait_that_brings_no_endpoint_ends_with_the_reason() {
    let wait = Duration::from_millis(200);
    let sections = "connections: { waitFor: 200ms }";
    let (mesh, _) = replicas(0, |builder| builder.policy("traffic", &policy(sections))).await;
    let began = Instant::now();
    mesh.client("shop/web-1").get(CART).await.refused_with(Reason::EndpointsMissing);
    assert!(began.elapsed() >= wait, "it waited");
}
