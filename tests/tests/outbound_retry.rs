//! Failure of a replica: what is retried, what must not be.

use std::collections::BTreeMap;
use weft_model::reason::Reason;
use weft_tests::application::Application;
use weft_tests::client::{CUT, Request};
use weft_tests::mesh::{Builder, Mesh, Workload};
use weft_tests::traffic::Traffic;
use weft_tests::wait;

const CART: &str = "http://cart.shop/items";

async fn three_replicas() -> (Mesh, Vec<Application>) {
    three_replicas_and(|builder| builder).await
}

async fn three_replicas_and(more: impl FnOnce(Builder) -> Builder) -> (Mesh, Vec<Application>) {
    let mut applications = Vec::new();
    let mut builder = Builder::default().service("shop/cart").workload(Workload::new("shop/web-1"));
    for number in 1..=3 {
        let name = format!("cart-{number}");
        let application = Application::start(&name).await;
        builder = builder.workload(Workload::new(&format!("shop/{name}")).serves(application.address()));
        applications.push(application);
    }
    (more(builder).start().await, applications)
}

#[tokio::test]
async fn all_replicas_share_the_load() {
    // By turns, so that it holds however busy the machine is: the default looks at latency, too, and its spread
    // is shown by simulation.
    let policy = "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: { name: cart, namespace: shop }\nspec:\n  \
                  targetRefs: [{ group: '', kind: Service, name: cart }]\n  loadBalancing: { algorithm: RoundRobin }\n";
    let (mesh, _applications) = three_replicas_and(|builder| builder.policy("traffic", policy)).await;
    let traffic = Traffic::start(mesh.client("shop/web-1"), 4, |id| Request::get(CART).id(id));
    traffic.more(300).await;
    let outcomes = traffic.stop().await;
    outcomes.all_succeeded();
    let third = outcomes.succeeded.len() as u64 / 3;
    for name in ["cart-1", "cart-2", "cart-3"] {
        // One more or less for each connection.
        assert!(outcomes.from(name).abs_diff(third) <= 4, "{:?}", outcomes.counts);
    }
}

#[tokio::test]
async fn a_replica_that_is_killed_under_gets_costs_no_request_but_answers_that_had_begun() {
    let (mut mesh, applications) = three_replicas().await;
    let traffic = Traffic::start(mesh.client("shop/web-1"), 4, |id| Request::get(CART).id(id));
    traffic.more(200).await;
    mesh.proxy_mut("shop/cart-1").kill();
    applications[0].stop();
    traffic.more(400).await;
    // By latency: the one that is gone may have its turn late.
    let proxy = mesh.proxy("shop/web-1");
    wait::until("retries are counted", async || {
        proxy.metrics().await.sum("weft_outbound_retries_total", &[]) >= 1.0
    })
    .await;
    let outcomes = traffic.stop().await;
    outcomes.all_succeeded_but_what_was_cut(4);
}

#[tokio::test]
async fn a_replica_that_is_killed_under_posts_executes_none_twice() {
    let (mut mesh, applications) = three_replicas().await;
    let client = mesh.client("shop/web-1");
    let traffic = Traffic::start(client, 4, |id| Request::post(CART, "order").id(id));
    traffic.more(200).await;
    mesh.proxy_mut("shop/cart-1").kill();
    traffic.more(400).await;
    let outcomes = traffic.stop().await;
    let mut executed = BTreeMap::<String, usize>::new();
    for request in applications.iter().flat_map(Application::requests) {
        *executed.entry(request.field("x-request-id").unwrap().to_owned()).or_default() += 1;
    }
    let twice: Vec<_> = executed.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "executed more than once: {twice:?}");
    for id in &outcomes.succeeded {
        assert_eq!(executed.get(id), Some(&1), "{id} was answered with 200");
    }
    // A POST under way on a killed connection may fail, and says how, unless its answer had begun; nothing else may.
    let failures = [format!("502 {}", Reason::ConnectionReset.label()), format!("lost: {CUT}")];
    for outcome in outcomes.counts.keys().filter(|outcome| !outcome.starts_with("200 ")) {
        assert!(failures.contains(outcome), "{:?}", outcomes.counts);
    }
    assert!(outcomes.failed.len() <= 4, "at most one per connection: {:?}", outcomes.counts);
}

#[tokio::test]
async fn with_every_replica_gone_the_answer_says_so_and_comes_back_with_them() {
    let (mut mesh, _applications) = three_replicas().await;
    let client = mesh.client("shop/web-1");
    client.get(CART).await.passed();
    for uid in ["shop/cart-1", "shop/cart-2", "shop/cart-3"] {
        mesh.proxy_mut(uid).kill();
    }
    let response = client.get(CART).await;
    let reasons = [Reason::ConnectFailed, Reason::ConnectTimeout, Reason::EndpointsMissing];
    assert!(response.reason().is_some_and(|reason| reasons.contains(&reason)), "{:?}", response.head);
    mesh.proxy_mut("shop/cart-2").start().await;
    wait::until("the replica that is back serves", async || client.is_answered(CART, 200).await).await;
}

#[tokio::test]
async fn a_get_that_the_application_received_is_retried_when_its_connection_breaks() {
    let application = Application::start("cart-1").await;
    let mesh = Builder::pair(application.address()).start().await;
    let client = mesh.client("shop/web-1");
    // The only replica always breaks: the tries are bounded and the reason is told.
    let response = client.send(&Request::get("http://cart.shop/close").id("closing")).await;
    response.refused_with(Reason::ConnectionReset);
    assert!(application.count("closing") <= 4, "tries are bounded: {}", application.count("closing"));
    let post = client.send(&Request::post("http://cart.shop/close", "x").id("posted")).await;
    post.refused_with(Reason::ConnectionReset);
    assert_eq!(application.count("posted"), 1, "a POST is executed at most once");
}

#[tokio::test]
async fn a_body_of_any_length_goes_to_another_replica_while_nothing_of_it_was_read() {
    let (mut mesh, _applications) = three_replicas().await;
    mesh.proxy_mut("shop/cart-1").kill();
    mesh.proxy_mut("shop/cart-2").kill();
    let web = mesh.client("shop/web-1");
    // As often as it takes until one met a replica that is gone.
    wait::until("a long upload met a replica that is gone", async || {
        web.echo("http://cart.shop/echo", 3 << 20).await;
        let metrics = mesh.proxy("shop/web-1").metrics().await;
        metrics.sum("weft_outbound_retries_total", &[("outcome", "made")]) >= 1.0
    })
    .await;
}
