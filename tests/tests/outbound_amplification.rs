//! Failures that stay small: how much more a failing service gets to do because its callers try again.
//!
//! Chains of real proxies, each service with a route that asks for retries. Without the marks of decision
//! 0039 each layer would add its fifth, or its floor. Scale: a thousand requests where the field notes speak of
//! 500 a second; the budget itself is simulated for minutes in `proxy/src/outbound/budget.rs`.

use std::collections::BTreeMap;
use std::time::Instant;
use weft_tests::application::Application;
use weft_tests::client::Request;
use weft_tests::mesh::{Builder, Mesh, Workload, route};
use weft_tests::relay::Relay;
use weft_tests::traffic::Traffic;

/// What a failing chain is asked for, over all callers.
const REQUESTS: u64 = 1_000;

/// Retries of one destination that are always allowed in ten seconds, unless a policy says otherwise.
const FLOOR: u64 = 30;

const RETRY: &str = "[{ retry: { codes: [502, 503], attempts: 2, backoff: 1ms } }]";

static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Services in a row; the last one's application does what it is asked for, those before it call on.
struct Chain {
    /// A chain is a dozen of processes: one at a time.
    _alone: tokio::sync::MutexGuard<'static, ()>,
    mesh: Mesh,
    relays: Vec<Relay>,
    leaf: Application,
    callers: usize,
}

impl Chain {
    /// `hops`: calls from the first caller to the leaf. `passes`: what the services in between pass on.
    /// `floor`: retries that are always allowed; without them the share holds whatever the machine's pace is.
    async fn start(hops: usize, callers: usize, passes: &[&str], floor: u64) -> Self {
        let alone = ALONE.lock().await;
        let leaf = Application::start("leaf").await;
        let mut builder = Builder::default();
        let mut relays = Vec::new();
        for hop in 1..hops {
            let next = if hop + 1 == hops { "leaf.shop".to_owned() } else { format!("s{}.shop", hop + 1) };
            let relay = Relay::start(&next, passes).await;
            let name = format!("s{hop}");
            builder = builder
                .service_of(&format!("shop/{name}"), &name, None)
                .workload(
                    Workload::new(&format!("shop/{name}-1")).label("app", &name).serves(relay.address()),
                )
                .policy(&name, &route(&name, &name, RETRY));
            relays.push(relay);
        }
        builder = builder
            .service("shop/leaf")
            .workload(Workload::new("shop/leaf-1").serves(leaf.address()))
            .policy("leaf", &route("leaf", "leaf", RETRY));
        let names: Vec<_> = (1..hops).map(|hop| format!("s{hop}")).chain(["leaf".to_owned()]).collect();
        let references: Vec<_> =
            names.iter().map(|name| format!("{{ group: '', kind: Service, name: {name} }}")).collect();
        let budget = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: budget, namespace: shop }}\nspec:\n  \
             targetRefs: [{}]\n  retryBudget: {{ floor: {floor} }}\n",
            references.join(", ")
        );
        builder = builder.policy("budget", &budget);
        for caller in 1..=callers {
            builder = builder.workload(Workload::new(&format!("shop/web-{caller}")));
        }
        let mesh = builder.start().await;
        for (index, relay) in relays.iter().enumerate() {
            relay.calls_through(mesh.client(&format!("shop/s{}-1", index + 1)));
        }
        Self { _alone: alone, mesh, relays, leaf, callers }
    }

    /// Has the callers ask, over so many connections each, until there were enough requests. How many
    /// there were.
    async fn fail(&self, connections: usize) -> u64 {
        let host = if self.relays.is_empty() { "leaf.shop" } else { "s1.shop" };
        let url = format!("http://{host}/status/503");
        let mut streams = Vec::new();
        for caller in 1..=self.callers {
            let url = url.clone();
            let client = self.mesh.client(&format!("shop/web-{caller}"));
            streams.push(Traffic::start(client, connections, move |id| {
                let (connection, number) = id.split_once('-').expect("ids are CONNECTION-NUMBER");
                let (connection, number): (u64, u64) =
                    (connection.parse().expect("a number"), number.parse().expect("a number"));
                let low = (caller as u64) << 48 | connection << 32 | (number + 1);
                Request::get(&url)
                    .id(&format!("{caller}-{id}"))
                    .field("traceparent", &format!("00-4bf92f3577b34da6{low:016x}-00f067aa0ba902b7-01"))
            }));
        }
        for stream in &streams {
            stream.reach(REQUESTS / self.callers as u64).await;
        }
        let mut requests = 0;
        for stream in streams {
            let outcomes = stream.stop().await;
            assert!(outcomes.succeeded.is_empty(), "{:?}", outcomes.counts);
            requests += outcomes.counts.values().sum::<u64>();
        }
        requests
    }

    /// Retries that a layer made because of an answer's status.
    async fn made(&self, uid: &str) -> u64 {
        let labels = [("reason", "status"), ("outcome", "made")];
        self.mesh.proxy(uid).metrics().await.sum("weft_outbound_retries_total", &labels) as u64
    }

    /// Retries made by all layers but the one before the leaf.
    async fn made_above(&self) -> u64 {
        let mut made = 0;
        for caller in 1..=self.callers {
            made += self.made(&format!("shop/web-{caller}")).await;
        }
        for hop in 1..self.relays.len() {
            made += self.made(&format!("shop/s{hop}-1")).await;
        }
        made
    }
}

#[tokio::test]
async fn three_hops_before_a_failing_leaf_give_it_a_fourth_more_at_most() {
    let chain = Chain::start(3, 1, &["traceparent"], 0).await;
    let requests = chain.fail(8).await;
    let leaf = chain.leaf.requests().len() as u64;
    assert!(leaf <= requests + requests / 4, "{leaf} for {requests}");
    assert!(leaf > requests, "the layer before the leaf does retry");
    assert_eq!(chain.made_above().await, 0, "who is further up leaves it to who is nearest");
}

#[tokio::test]
async fn a_hundred_callers_before_five_hops_add_a_fifth_where_traces_are_passed_on() {
    let chain = Chain::start(5, 4, &["traceparent"], 0).await;
    let requests = chain.fail(25).await;
    let leaf = chain.leaf.requests().len() as u64;
    assert!(leaf <= requests + requests / 5, "{leaf} for {requests}");
    assert_eq!(chain.made_above().await, 0);
}

#[tokio::test]
async fn a_hundred_callers_before_five_hops_add_half_where_they_are_not() {
    let chain = Chain::start(5, 4, &[], 0).await;
    let requests = chain.fail(25).await;
    let leaf = chain.leaf.requests().len() as u64;
    assert!(leaf <= requests + requests / 2, "{leaf} for {requests}");
}

#[tokio::test]
async fn the_budgets_of_many_callers_are_one_where_they_meet() {
    // Each alone would be within its floor, and all together would double the load.
    let callers = 12;
    let chain = Chain::start(1, callers, &[], FLOOR).await;
    let start = Instant::now();
    let requests = chain.fail(1).await;
    let intervals = 1 + start.elapsed().as_secs() / 10;
    let retries = chain.leaf.requests().len() as u64 - requests;
    let allowed = (requests / 5).max(FLOOR * intervals);
    assert!(retries >= FLOOR, "{retries} for {requests}");
    // Each caller may have sent one more before it was told.
    assert!(retries <= allowed + callers as u64, "{retries} for {requests}");
}

#[tokio::test]
async fn what_a_layer_has_not_retried_the_layer_above_may() {
    // The leaf's callers have no policy, so that the first layer is the nearest that may try again.
    let chain = Chain::start(2, 1, &["traceparent"], FLOOR).await;
    chain.mesh.write_policy("leaf", &route("leaf", "leaf", "[{}]"));
    let client = chain.mesh.client("shop/web-1");
    weft_tests::wait::until("the first layer tries again", async || {
        let before = chain.leaf.requests().len();
        client.get("http://s1.shop/status/503").await;
        let made = chain.leaf.requests().len() - before;
        made == 3 && chain.made("shop/web-1").await > 0
    })
    .await;
}

#[tokio::test]
async fn marks_stay_between_proxies() {
    let chain = Chain::start(2, 1, &["traceparent"], FLOOR).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = Request::get("http://s1.shop/status/503").field("traceparent", trace).id("marked");
    let request = request.field("x-weft-attempt", "9").field("x-weft-deadline", "1");
    let answer = chain.mesh.client("shop/web-1").send(&request).await;
    assert_eq!((answer.status(), answer.field("x-weft-retry")), (503, None));
    let seen: Vec<_> = chain.leaf.requests();
    assert_eq!(seen.len(), 3, "the layer before the leaf made both of its retries");
    for request in &seen {
        let internal: Vec<_> =
            request.fields.iter().filter(|(name, _)| name.starts_with("x-weft-")).collect();
        assert!(internal.is_empty(), "{internal:?}");
    }
    let refused = [("reason", "status"), ("outcome", "spent")];
    let metrics = chain.mesh.proxy("shop/web-1").metrics().await;
    assert_eq!(metrics.sum("weft_outbound_retries_total", &refused), 1.0);
    // The inbound side's log says which try it was.
    weft_tests::wait::until("all three are logged", async || {
        let tries: Vec<_> =
            chain.mesh.proxy("shop/leaf-1").access_log().iter().map(|line| line["tries"].clone()).collect();
        tries == [1, 2, 3]
    })
    .await;
}

#[tokio::test]
async fn a_chain_executes_no_post_twice() {
    let chain = Chain::start(3, 1, &["traceparent"], FLOOR).await;
    for hop in ["s1", "s2", "leaf"] {
        chain.mesh.write_policy(hop, &route(hop, hop, "[{}]"));
    }
    let client = chain.mesh.client("shop/web-1");
    weft_tests::wait::until("no layer asks for retries any more", async || {
        let before = chain.leaf.requests().len();
        client.get("http://s1.shop/status/503").await;
        chain.leaf.requests().len() == before + 1
    })
    .await;
    let traffic = Traffic::start(client, 8, |id| Request::post("http://s1.shop/close", "order").id(id));
    traffic.reach(60).await;
    let outcomes = traffic.stop().await;
    assert!(outcomes.succeeded.is_empty(), "{:?}", outcomes.counts);
    let mut executed = BTreeMap::<String, usize>::new();
    for request in chain.leaf.requests().iter().filter(|request| request.method == "POST") {
        *executed.entry(request.field("x-request-id").unwrap().to_owned()).or_default() += 1;
    }
    assert!(executed.len() >= 60, "{}", executed.len());
    let twice: Vec<_> = executed.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "executed more than once: {twice:?}");
}
