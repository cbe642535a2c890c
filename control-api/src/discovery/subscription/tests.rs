use super::super::holdings::{NAME_LENGTH_MAX, NAMES_MAX};
use super::*;
use crate::fixture::Fixture;
use weft_model::service::ServiceTarget;

/// A proxy as the protocol sees it: asks, keeps what it is sent, answers.
struct Proxy {
    server: Subscription,
    now: Instant,
    held: BTreeMap<(Kind, String), String>,
    /// Unanswered responses.
    inbox: Vec<DeltaDiscoveryResponse>,
    /// The kinds of all responses since it was last asked, in order.
    log: Vec<Kind>,
}

fn request(kind: Kind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

fn kind_of(response: &DeltaDiscoveryResponse) -> Kind {
    Kind::from_type_url(&response.type_url).unwrap()
}

impl Proxy {
    fn new(uid: &str, snapshot: Arc<Snapshot>) -> Self {
        let now = Instant::now();
        let server = Subscription::new(uid.parse().unwrap(), snapshot, now);
        Self { server, now, held: BTreeMap::new(), inbox: Vec::new(), log: Vec::new() }
    }

    /// Connected, subscribed to all that concerns it, settled.
    fn connected(uid: &str, fixture: &mut Fixture) -> Self {
        let mut proxy = Self::new(uid, fixture.snapshot());
        proxy.open(&[]);
        proxy.settle();
        proxy.log.clear();
        proxy
    }

    fn open(&mut self, services: &[&str]) {
        for kind in Kind::ALL {
            let held = self.held.iter().filter(|((held, _), _)| *held == kind);
            let mut request = request(kind);
            request.initial_resource_versions =
                held.map(|((_, name), version)| (name.clone(), version.clone())).collect();
            request.resource_names_subscribe = match kind {
                Kind::Service => services.iter().map(|name| (*name).to_owned()).collect(),
                _ => vec!["*".to_owned()],
            };
            self.server.on_request(&request).unwrap();
        }
    }

    fn ask(&mut self, name: &str) {
        let mut request = request(Kind::Service);
        request.resource_names_subscribe = vec![name.to_owned()];
        self.server.on_request(&request).unwrap();
    }

    fn leave(&mut self, name: &str) {
        let mut request = request(Kind::Service);
        request.resource_names_unsubscribe = vec![name.to_owned()];
        self.server.on_request(&request).unwrap();
    }

    /// Takes what the server has to send now.
    fn receive(&mut self) -> usize {
        let responses = self.server.poll(self.now);
        let count = responses.len();
        for response in responses {
            let kind = kind_of(&response);
            self.log.push(kind);
            for resource in &response.resources {
                self.held.insert((kind, resource.name.clone()), resource.version.clone());
            }
            for name in &response.removed_resources {
                self.held.remove(&(kind, name.clone()));
            }
            self.inbox.push(response);
        }
        count
    }

    fn answer(&mut self, response: &DeltaDiscoveryResponse, error: Option<&str>) -> Told {
        let mut request = request(kind_of(response));
        request.response_nonce = response.nonce.clone();
        request.error_detail = error
            .map(|message| weft_model::proto::discovery::Status { code: 3, message: message.to_owned() });
        self.server.on_request(&request).unwrap()
    }

    fn acknowledge(&mut self) {
        for response in std::mem::take(&mut self.inbox) {
            self.answer(&response, None);
        }
    }

    /// Receives and acknowledges until nothing comes any more; all responses.
    fn settle(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let mut all = Vec::new();
        loop {
            self.receive();
            if self.inbox.is_empty() {
                return all;
            }
            all.extend(self.inbox.iter().cloned());
            self.acknowledge();
        }
    }

    fn names(&self, kind: Kind) -> Vec<&str> {
        self.held.keys().filter(|(held, _)| *held == kind).map(|(_, name)| name.as_str()).collect()
    }
}

fn removed(responses: &[DeltaDiscoveryResponse], kind: Kind) -> Vec<&str> {
    let of_kind = responses.iter().filter(|response| kind_of(response) == kind);
    of_kind.flat_map(|response| &response.removed_resources).map(String::as_str).collect()
}

#[test]
fn a_proxy_gets_its_own_workload_and_policies_and_the_commit_mark_last() {
    let mut fixture = Fixture::shop();
    fixture.policy("shop/of-others");
    let mut proxy = Proxy::new("shop/cart-1", fixture.snapshot());
    proxy.open(&[]);
    proxy.settle();
    assert_eq!(
        proxy.log,
        [Kind::TrustBundle, Kind::MeshConfig, Kind::Authorization, Kind::Workload, Kind::Generation]
    );
    assert_eq!(proxy.names(Kind::Workload), ["shop/cart-1"]);
    assert_eq!(proxy.names(Kind::Authorization), ["AuthorizationPolicy/shop/cart-callers"]);
    assert!(proxy.names(Kind::Service).is_empty(), "memory follows use");
    assert_eq!(proxy.server.enforced().unwrap().number, 1);
    assert!(proxy.server.is_current());
}

#[test]
fn nothing_is_sent_before_the_subscriptions_are_whole_or_the_opening_is_over() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::new("shop/cart-1", fixture.snapshot());
    // The commit mark first: it must not commit a Workload without its policies.
    for kind in [Kind::Generation, Kind::Workload] {
        let mut request = request(kind);
        request.resource_names_subscribe = vec!["*".to_owned()];
        proxy.server.on_request(&request).unwrap();
    }
    assert_eq!(proxy.receive(), 0);
    assert_eq!(proxy.server.deadline(), Some(proxy.server.opened + OPENING));
    proxy.now += OPENING;
    proxy.settle();
    assert_eq!(proxy.log, [Kind::Workload, Kind::Generation]);
}

#[test]
fn a_first_request_without_names_wants_all_as_in_the_form_of_old() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::new("shop/cart-1", fixture.snapshot());
    proxy.server.on_request(&request(Kind::Workload)).unwrap();
    proxy.now += OPENING;
    proxy.settle();
    assert_eq!(proxy.names(Kind::Workload), ["shop/cart-1"]);
}

#[test]
fn a_service_asked_for_comes_with_its_routes_and_where_they_lead() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/web-1", &mut fixture);
    proxy.ask("shop/catalog");
    proxy.settle();
    assert_eq!(proxy.log, [Kind::Route, Kind::Endpoints, Kind::Service, Kind::Generation]);
    assert_eq!(proxy.names(Kind::Route), ["HTTPRoute/shop/split"]);
    assert_eq!(proxy.names(Kind::Service), ["shop/catalog", "shop/catalog-v1", "shop/catalog-v2"]);
    assert_eq!(proxy.names(Kind::Endpoints).len(), 3);
}

#[test]
fn routes_are_those_of_the_clients_namespace_where_there_are_any() {
    let mut fixture = Fixture::shop();
    fixture.workload("team/client", "10.1.0.9");
    fixture.route("team/own", "shop/catalog", &["shop/catalog-v2"]);
    let mut consumer = Proxy::connected("team/client", &mut fixture);
    consumer.ask("shop/catalog");
    consumer.settle();
    assert_eq!(consumer.names(Kind::Route), ["HTTPRoute/team/own"]);
    assert_eq!(consumer.names(Kind::Service), ["shop/catalog", "shop/catalog-v2"]);
    let mut producer = Proxy::connected("shop/web-1", &mut fixture);
    producer.ask("shop/catalog");
    producer.settle();
    assert_eq!(producer.names(Kind::Route), ["HTTPRoute/shop/split"]);
}

#[test]
fn an_address_comes_under_its_own_name_with_the_address_as_alias() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/web-1", &mut fixture);
    for (asked, name) in [
        ("@10.0.0.1:80", "shop/cart"),
        ("@[::ffff:10.0.0.1]:80", "shop/cart"),
        ("@10.1.0.2:8080", "workload/shop/cart-1"),
    ] {
        proxy.ask(asked);
        let responses = proxy.settle();
        let service = responses.iter().find(|held| kind_of(held) == Kind::Service).unwrap();
        assert_eq!(service.resources[0].name, name);
        assert!(service.resources[0].aliases.contains(&asked.to_owned()), "{asked}");
        assert_eq!(proxy.log.last(), Some(&Kind::Generation), "the answer is committed");
    }
    assert_eq!(proxy.names(Kind::Service), ["shop/cart", "workload/shop/cart-1"]);
}

#[test]
fn absence_is_told_by_the_name_asked_and_watched() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/web-1", &mut fixture);
    for name in ["shop/nope", "@10.0.0.9:80", "@10.0.0.1:81", "@nonsense", "no name at all"] {
        proxy.ask(name);
        let responses = proxy.settle();
        assert_eq!(removed(&responses, Kind::Service), [name]);
        assert_eq!(proxy.log.last(), Some(&Kind::Generation), "the answer is committed");
    }
    // Told once.
    proxy.server.on_snapshot(fixture.snapshot());
    assert_eq!(proxy.receive(), 0);
    // It appears.
    fixture.service("shop/nope", Some("10.0.0.9"), &["10.1.0.9:8080"]);
    proxy.server.on_snapshot(fixture.snapshot());
    let responses = proxy.settle();
    assert_eq!(proxy.names(Kind::Service), ["shop/nope"]);
    let service = responses.iter().find(|held| kind_of(held) == Kind::Service).unwrap();
    assert_eq!(service.resources[0].aliases, ["@10.0.0.9:80"]);
    // And goes again.
    fixture.mesh.services.remove("shop/nope");
    proxy.server.on_snapshot(fixture.snapshot());
    let responses = proxy.settle();
    assert_eq!(removed(&responses, Kind::Service), ["shop/nope", "@10.0.0.9:80"]);
}

#[test]
fn an_address_that_moves_to_another_service_is_told_anew() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/web-1", &mut fixture);
    proxy.ask("@10.0.0.1:80");
    proxy.settle();
    fixture.service("shop/cart", None, &["10.1.0.2:8080"]);
    fixture.service("shop/catalog-v1", Some("10.0.0.1"), &["10.1.0.3:8080"]);
    proxy.server.on_snapshot(fixture.snapshot());
    let responses = proxy.settle();
    let service = responses.iter().find(|held| kind_of(held) == Kind::Service).unwrap();
    assert_eq!(service.resources[0].name, "shop/catalog-v1");
    assert_eq!(service.resources[0].aliases, ["@10.0.0.1:80"]);
    assert_eq!(service.removed_resources, ["shop/cart"]);
}

#[test]
fn a_change_is_a_delta_and_what_does_not_concern_the_proxy_is_no_message() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/cart-1", &mut fixture);
    fixture.policy("shop/of-others");
    proxy.server.on_snapshot(fixture.snapshot());
    assert_eq!(proxy.receive(), 0);
    assert_eq!(proxy.server.enforced().unwrap().number, 2, "it counts as current");

    let name = "AuthorizationPolicy/shop/cart-callers";
    let policy = fixture.mesh.authorizations.get_mut(name).unwrap();
    Arc::make_mut(policy).rules.push(weft_model::authorization::Rule::default());
    proxy.server.on_snapshot(fixture.snapshot());
    proxy.settle();
    assert_eq!(proxy.log, [Kind::Authorization, Kind::Generation]);
    assert_eq!(proxy.server.enforced().unwrap().number, 3);
}

#[test]
fn endpoints_go_at_once_and_without_a_commit_even_while_a_batch_is_unanswered() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/cart-1", &mut fixture);
    proxy.ask("shop/catalog-v1");
    proxy.settle();
    proxy.log.clear();
    let target = || ServiceTarget::Service("shop/catalog-v1".parse().unwrap());

    // A batch is on its way and not answered.
    fixture.policy("shop/new");
    fixture.bind("shop/cart-1", "AuthorizationPolicy/shop/new");
    proxy.server.on_snapshot(fixture.snapshot());
    proxy.receive();
    assert_eq!(proxy.log, [Kind::Authorization, Kind::Workload, Kind::Generation]);

    fixture.endpoints(target(), 80, 0, &["10.1.0.3:8080", "10.1.0.4:8080"]);
    proxy.server.on_snapshot(fixture.snapshot());
    proxy.receive();
    assert_eq!(proxy.log[3..], [Kind::Endpoints], "no commit mark");

    // That one is not answered either: the next waits, and is made of the newest state.
    for port in [1, 2, 3] {
        fixture.endpoints(target(), 80, 0, &[&format!("10.1.0.5:{port}")]);
        proxy.server.on_snapshot(fixture.snapshot());
        assert_eq!(proxy.receive(), 0);
    }
    proxy.log.clear();
    proxy.settle();
    assert_eq!(proxy.log, [Kind::Endpoints]);
}

#[test]
fn a_slow_proxy_is_sent_one_batch_and_then_the_newest_state() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/cart-1", &mut fixture);
    for number in 0..20 {
        fixture.policy(&format!("shop/p{number}"));
        fixture.bind("shop/cart-1", &format!("AuthorizationPolicy/shop/p{number}"));
        proxy.server.on_snapshot(fixture.snapshot());
        let sent = proxy.receive();
        assert_eq!(sent > 0, number == 0, "one batch at a time");
    }
    assert!(!proxy.server.is_current());
    assert_eq!(proxy.server.enforced().unwrap().number, 1);
    assert_eq!(proxy.server.outstanding.len(), 3);
    proxy.settle();
    assert_eq!(proxy.log.len(), 6, "twenty changes in two batches: {:?}", proxy.log);
    assert_eq!(proxy.names(Kind::Authorization).len(), 21);
    assert_eq!(proxy.server.enforced().unwrap().number, 21);
}

#[test]
fn endpoints_that_a_route_leaves_go_after_the_commit() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/web-1", &mut fixture);
    proxy.ask("shop/catalog");
    proxy.settle();
    proxy.log.clear();
    fixture.route("shop/split", "shop/catalog", &["shop/catalog-v2"]);
    proxy.server.on_snapshot(fixture.snapshot());
    let responses = proxy.settle();
    assert_eq!(proxy.log, [Kind::Route, Kind::Service, Kind::Generation, Kind::Endpoints]);
    assert_eq!(removed(&responses, Kind::Service), ["shop/catalog-v1"]);
    assert_eq!(removed(&responses, Kind::Endpoints), ["shop/catalog-v1:80/0"]);
    assert_eq!(proxy.names(Kind::Endpoints), ["shop/catalog-v2:80/0", "shop/catalog:80/0"]);
}

#[test]
fn a_slice_that_is_no_more_of_a_service_that_stays_goes_at_once() {
    let mut fixture = Fixture::shop();
    let target = ServiceTarget::Service("shop/cart".parse().unwrap());
    fixture.endpoints(target, 80, 1, &["10.1.0.7:8080"]);
    let mut proxy = Proxy::connected("shop/web-1", &mut fixture);
    proxy.ask("shop/cart");
    proxy.settle();
    proxy.log.clear();
    fixture.mesh.endpoints.remove("shop/cart:80/1");
    proxy.server.on_snapshot(fixture.snapshot());
    let responses = proxy.settle();
    assert_eq!(proxy.log, [Kind::Endpoints]);
    assert_eq!(removed(&responses, Kind::Endpoints), ["shop/cart:80/1"]);
}

#[test]
fn a_service_that_is_left_goes_with_all_that_came_for_it() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/web-1", &mut fixture);
    proxy.ask("shop/catalog");
    proxy.ask("shop/catalog-v1");
    proxy.settle();
    proxy.leave("shop/catalog");
    proxy.settle();
    assert_eq!(proxy.names(Kind::Service), ["shop/catalog-v1"]);
    assert_eq!(proxy.names(Kind::Endpoints), ["shop/catalog-v1:80/0"]);
    assert!(proxy.names(Kind::Route).is_empty());
    proxy.leave("shop/catalog-v1");
    proxy.settle();
    assert!(proxy.names(Kind::Service).is_empty() && proxy.names(Kind::Endpoints).is_empty());
}

#[test]
fn a_stream_that_resumes_is_sent_what_changed_and_the_commit_mark() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/cart-1", &mut fixture);
    proxy.ask("shop/catalog");
    proxy.settle();
    let held = proxy.held.clone();

    let mut again = Proxy::new("shop/cart-1", fixture.snapshot());
    again.held = held.clone();
    again.open(&["shop/catalog"]);
    again.settle();
    assert_eq!(again.log, [Kind::Generation], "nothing changed");
    assert_eq!(again.held, held);

    fixture.mesh.authorizations.remove("AuthorizationPolicy/shop/cart-callers");
    fixture.service("shop/catalog-v1", None, &[]);
    let mut later = Proxy::new("shop/cart-1", fixture.snapshot());
    later.held = held;
    later.open(&["shop/catalog"]);
    let responses = later.settle();
    assert_eq!(later.log, [Kind::Authorization, Kind::Endpoints, Kind::Generation]);
    assert_eq!(removed(&responses, Kind::Authorization), ["AuthorizationPolicy/shop/cart-callers"]);
    assert!(later.server.is_current());
}

#[test]
fn a_stream_that_resumes_with_what_it_has_no_use_for_is_told_so() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::new("shop/web-1", fixture.snapshot());
    for (kind, name) in [
        (Kind::Workload, "shop/cart-1"),
        (Kind::Authorization, "AuthorizationPolicy/shop/cart-callers"),
        (Kind::Service, "shop/cart"),
    ] {
        proxy.held.insert((kind, name.to_owned()), "0123456789abcdef".to_owned());
    }
    proxy.open(&[]);
    let responses = proxy.settle();
    assert_eq!(removed(&responses, Kind::Workload), ["shop/cart-1"]);
    assert_eq!(removed(&responses, Kind::Service), ["shop/cart"]);
    assert_eq!(proxy.names(Kind::Workload), ["shop/web-1"]);
    assert!(proxy.names(Kind::Authorization).is_empty(), "another's policies are not seen");
}

#[test]
fn anothers_workload_cannot_be_asked_for() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/web-1", &mut fixture);
    let mut request = request(Kind::Workload);
    request.resource_names_subscribe = vec!["shop/cart-1".to_owned(), "shop/none".to_owned()];
    proxy.server.on_request(&request).unwrap();
    let responses = proxy.settle();
    let mut told = removed(&responses, Kind::Workload);
    told.sort_unstable();
    assert_eq!(told, ["shop/cart-1", "shop/none"], "there or not, the answer is the same");
    assert_eq!(proxy.names(Kind::Workload), ["shop/web-1"]);
}

#[test]
fn a_refused_resource_is_named_and_not_sent_again_until_it_changes() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::new("shop/cart-1", fixture.snapshot());
    proxy.open(&[]);
    proxy.receive();
    for response in std::mem::take(&mut proxy.inbox) {
        let refused = kind_of(&response) == Kind::Authorization;
        let name = "AuthorizationPolicy/shop/cart-callers";
        let message = format!(r#"[{{"name":"{name}","reason":"needs level 9"}}]"#);
        let told = proxy.answer(&response, refused.then_some(message.as_str()));
        assert_eq!(told.refused.len(), usize::from(refused));
        if refused {
            assert_eq!(
                (told.refused[0].name.as_str(), told.refused[0].reason.as_str()),
                (name, "needs level 9")
            );
            assert!(told.accepted.is_empty());
        }
    }
    assert_eq!(proxy.receive(), 0, "the rest holds, and nothing is sent again");
    assert_eq!(proxy.server.enforced().unwrap().number, 1);

    let policy = fixture.mesh.authorizations.get_mut("AuthorizationPolicy/shop/cart-callers").unwrap();
    Arc::make_mut(policy).rules.push(weft_model::authorization::Rule::default());
    proxy.log.clear();
    proxy.server.on_snapshot(fixture.snapshot());
    proxy.settle();
    assert_eq!(proxy.log, [Kind::Authorization, Kind::Generation]);
}

#[test]
fn a_refused_commit_is_not_enforced() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::new("shop/cart-1", fixture.snapshot());
    proxy.open(&[]);
    proxy.receive();
    for response in std::mem::take(&mut proxy.inbox) {
        let generation = kind_of(&response) == Kind::Generation;
        proxy.answer(&response, generation.then_some("no"));
    }
    assert_eq!(proxy.receive(), 0);
    assert_eq!(proxy.server.enforced(), None);
    assert!(!proxy.server.is_current());
}

#[test]
fn a_workload_that_is_no_more_is_removed_from_its_own_proxy() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/cart-1", &mut fixture);
    fixture.mesh.workloads.remove("shop/cart-1");
    proxy.server.on_snapshot(fixture.snapshot());
    let responses = proxy.settle();
    assert_eq!(removed(&responses, Kind::Workload), ["shop/cart-1"]);
    assert_eq!(proxy.log.last(), Some(&Kind::Generation));
}

#[test]
fn what_breaks_the_protocol_ends_the_stream_and_an_unknown_type_does_not() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/cart-1", &mut fixture);
    let unknown = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/weft.v2.Future".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    assert!(proxy.server.on_request(&unknown).unwrap().unknown_type);
    assert_eq!(proxy.receive(), 0);

    let mut wildcard = request(Kind::Service);
    wildcard.resource_names_subscribe = vec!["*".to_owned()];
    assert_eq!(proxy.server.on_request(&wildcard), Err(Violation::ServiceWildcard));
    let mut long = request(Kind::Service);
    long.resource_names_subscribe = vec!["x".repeat(NAME_LENGTH_MAX + 1)];
    assert_eq!(proxy.server.on_request(&long), Err(Violation::LongName));
    let mut many = request(Kind::Service);
    many.resource_names_subscribe = (0..=NAMES_MAX).map(|number| format!("a/b{number}")).collect();
    assert_eq!(proxy.server.on_request(&many), Err(Violation::TooManyNames));
}

#[test]
fn answers_to_nothing_change_nothing() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/cart-1", &mut fixture);
    for nonce in ["", "0", "99", "-1", "x", "18446744073709551616"] {
        let mut stale = request(Kind::Workload);
        stale.response_nonce = nonce.to_owned();
        assert_eq!(proxy.server.on_request(&stale).unwrap(), Told::default());
    }
    assert_eq!(proxy.receive(), 0);
    // A nonce of another type is not this type's.
    fixture.policy("shop/new");
    fixture.bind("shop/cart-1", "AuthorizationPolicy/shop/new");
    proxy.server.on_snapshot(fixture.snapshot());
    proxy.receive();
    let mut crossed = request(Kind::Workload);
    crossed.response_nonce = proxy.inbox[0].nonce.clone();
    assert!(!proxy.server.on_request(&crossed).unwrap().answered);
}

#[test]
fn a_proxy_that_does_not_answer_is_stuck_after_a_while() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::new("shop/cart-1", fixture.snapshot());
    proxy.open(&[]);
    proxy.receive();
    assert_eq!(proxy.server.deadline(), Some(proxy.now + ACK_TIMEOUT));
    assert!(!proxy.server.is_stuck(proxy.now));
    assert!(proxy.server.is_stuck(proxy.now + ACK_TIMEOUT));
    proxy.acknowledge();
    assert!(!proxy.server.is_stuck(proxy.now + ACK_TIMEOUT));
    assert_eq!(proxy.server.deadline(), None);
}

#[test]
fn responses_are_of_bounded_size() {
    let mut fixture = Fixture::shop();
    let mut proxy = Proxy::connected("shop/cart-1", &mut fixture);
    for number in 0..4000 {
        let label = "p".repeat(60);
        let name = format!("{label}.{label}.{label}.{number}");
        fixture.policy(&format!("shop/{name}"));
        fixture.bind("shop/cart-1", &format!("AuthorizationPolicy/shop/{name}"));
    }
    proxy.server.on_snapshot(fixture.snapshot());
    let responses = proxy.settle();
    assert!(responses.len() > 4);
    for response in &responses {
        let length: usize = response.resources.iter().map(size).sum();
        assert!(length <= RESPONSE_LENGTH_MAX || response.resources.len() == 1, "{length}");
    }
    assert_eq!(proxy.names(Kind::Authorization).len(), 4001);
}
