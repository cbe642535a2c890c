//! The client half of the incremental xDS protocol, sans-I/O: requests and responses in and out as
//! values, no stream, no clock.
//!
//! Every kind is subscribed to by `*`, and the server chooses what concerns this workload; Services
//! by name, as they are asked for. A new stream resumes: it says which versions are held, so that
//! only what changed is sent. The Generation is never said to be held, so that the server always
//! sends it last: that mark tells a resumed client that it is up to date. What is held is decided by
//! the [`Holdings`], the single source of truth; nothing is remembered twice.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use weft_model::LEVEL;
use weft_model::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status};
use weft_model::wire::Kind;

/// gRPC's INVALID_ARGUMENT, as xDS clients use it in a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// Resources that one NACK names; the server has the rest in its own log by then.
const NAMED_MAX: usize = 100;
/// Characters of a reason.
const REASON_MAX: usize = 512;
/// Destinations that may be subscribed to: memory follows use, and use has an end.
pub const NAMES_MAX: usize = 10_000;

/// What the client holds, by version.
pub trait Holdings {
    /// Names and versions of what is held of a kind.
    fn versions(&self, kind: Kind) -> BTreeMap<String, String>;
}

/// One stream after another to the same server.
#[derive(Debug)]
pub struct Subscription {
    node: String,
    /// Service names asked for by this proxy, on the wire.
    names: BTreeSet<String>,
    /// Whether a stream is open.
    open: bool,
    /// Whether the current stream has a Service subscription.
    services_open: bool,
}

/// What one response holds.
#[derive(Debug)]
pub struct Batch {
    /// Of which kind.
    pub kind: Kind,
    /// What the answer must quote.
    pub nonce: String,
    /// Added or changed.
    pub resources: Vec<Incoming>,
    /// Gone, or not there: by the name that was asked for.
    pub removed: Vec<String>,
}

/// One resource, not looked at yet.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Its canonical name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Other names it was asked for by.
    pub aliases: Vec<String>,
    /// The type URL inside; must be the batch's.
    pub type_url: String,
    /// The message.
    pub value: Bytes,
}

impl From<Resource> for Incoming {
    fn from(resource: Resource) -> Self {
        let message = resource.resource.unwrap_or_default();
        Self {
            name: resource.name,
            version: resource.version,
            aliases: resource.aliases,
            type_url: message.type_url,
            value: message.value,
        }
    }
}

/// A resource that is not taken.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Refused {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl Subscription {
    /// For the workload `node`.
    pub fn new(node: String) -> Self {
        Self { node, names: BTreeSet::new(), open: false, services_open: false }
    }

    /// The first requests of a new stream: the Generation's comes last, so that its answer comes
    /// after all others'.
    pub fn open(&mut self, holdings: &dyn Holdings) -> Vec<DeltaDiscoveryRequest> {
        self.open = true;
        self.services_open = false;
        let mut requests = Vec::new();
        for kind in Kind::ALL {
            let mut request = match kind {
                Kind::Service if self.names.is_empty() => continue,
                Kind::Service => {
                    self.services_open = true;
                    subscribe(kind, self.names.iter().cloned())
                }
                _ => subscribe(kind, ["*".to_owned()]),
            };
            if kind != Kind::Generation {
                request.initial_resource_versions = holdings.versions(kind);
            }
            if requests.is_empty() {
                request.node = Some(self.node());
            }
            requests.push(request);
        }
        requests
    }

    /// The stream has ended.
    pub fn closed(&mut self) {
        self.open = false;
        self.services_open = false;
    }

    /// Asks for names; those already asked for are left out. `None`: nothing to send now, because
    /// all are known, or because no stream is open (the next one will ask).
    pub fn ask(
        &mut self,
        names: impl IntoIterator<Item = String>,
        holdings: &dyn Holdings,
    ) -> Option<DeltaDiscoveryRequest> {
        let mut new = Vec::new();
        for name in names {
            if self.names.len() < NAMES_MAX && self.names.insert(name.clone()) {
                new.push(name);
            }
        }
        if new.is_empty() || !self.open {
            return None;
        }
        let mut request = subscribe(Kind::Service, new);
        if !self.services_open {
            self.services_open = true;
            request.initial_resource_versions = holdings.versions(Kind::Service);
        }
        Some(request)
    }

    /// Is no longer interested in names.
    pub fn forget(&mut self, names: impl IntoIterator<Item = String>) -> Option<DeltaDiscoveryRequest> {
        let gone: Vec<String> = names.into_iter().filter(|name| self.names.remove(name)).collect();
        if gone.is_empty() || !self.services_open {
            return None;
        }
        Some(DeltaDiscoveryRequest {
            type_url: Kind::Service.type_url().to_owned(),
            resource_names_unsubscribe: gone,
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Whether the name is asked for.
    pub fn asks(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether no more names can be asked for.
    pub fn is_full(&self) -> bool {
        self.names.len() >= NAMES_MAX
    }

    /// Reads a response. A type that is not known is refused whole: the server must not take silence
    /// for consent.
    pub fn receive(&self, response: DeltaDiscoveryResponse) -> Result<Batch, Box<DeltaDiscoveryRequest>> {
        let Some(kind) = Kind::from_type_url(&response.type_url) else {
            let reason =
                Refused { name: "*".to_owned(), reason: "this proxy does not know the type".to_owned() };
            return Err(Box::new(DeltaDiscoveryRequest {
                type_url: response.type_url,
                ..answer_to(response.nonce, &[reason])
            }));
        };
        let resources = response.resources.into_iter().map(Incoming::from).collect();
        Ok(Batch { kind, nonce: response.nonce, resources, removed: response.removed_resources })
    }

    /// The answer to a batch, after what it says holds: an ACK, or a NACK that names what was
    /// refused; all else of the batch counts as taken.
    pub fn answer(&self, kind: Kind, nonce: String, refused: &[Refused]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..answer_to(nonce, refused) }
    }

    fn node(&self) -> Node {
        let level = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(LEVEL.into())) };
        Node {
            id: self.node.clone(),
            metadata: Some(prost_types::Struct {
                fields: [("level".to_owned(), level)].into_iter().collect(),
            }),
            user_agent_name: concat!("weft-proxy/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..Node::default()
        }
    }
}

fn subscribe(kind: Kind, names: impl IntoIterator<Item = String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names.into_iter().collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn answer_to(nonce: String, refused: &[Refused]) -> DeltaDiscoveryRequest {
    let error_detail = (!refused.is_empty()).then(|| {
        let named: Vec<Refused> = refused
            .iter()
            .take(NAMED_MAX)
            .map(|refused| Refused {
                name: refused.name.chars().take(REASON_MAX).collect(),
                reason: refused.reason.chars().take(REASON_MAX).collect(),
            })
            .collect();
        let message = serde_json::to_string(&named).expect("names and reasons must be JSON strings");
        Status { code: INVALID_ARGUMENT, message }
    });
    DeltaDiscoveryRequest { response_nonce: nonce, error_detail, ..DeltaDiscoveryRequest::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::proto::discovery::{Any, Resource};

    #[derive(Default)]
    struct Held(Vec<(Kind, &'static str, &'static str)>);

    impl Holdings for Held {
        fn versions(&self, kind: Kind) -> BTreeMap<String, String> {
            let of_kind = self.0.iter().filter(|(held, ..)| *held == kind);
            of_kind.map(|(_, name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
        }
    }

    fn subscription() -> Subscription {
        Subscription::new("shop/cart-1".to_owned())
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_stream_begins_with_every_kind_but_services_and_the_generation_last() {
        let requests = subscription().open(&Held::default());
        let kinds: Vec<Kind> = requests.iter().map(|r| Kind::from_type_url(&r.type_url).unwrap()).collect();
        assert_eq!(kinds.len(), Kind::ALL.len() - 1);
        assert!(!kinds.contains(&Kind::Service));
        assert_eq!(kinds.last(), Some(&Kind::Generation));
        assert!(requests.iter().all(|request| request.resource_names_subscribe == ["*"]));
    }

    #[test]
    fn the_first_request_alone_says_who_asks_and_what_it_understands() {
        let requests = subscription().open(&Held::default());
        let node = requests[0].node.as_ref().unwrap();
        assert_eq!(node.id, "shop/cart-1");
        let level = &node.metadata.as_ref().unwrap().fields["level"];
        assert_eq!(level.kind, Some(prost_types::value::Kind::NumberValue(LEVEL.into())));
        assert!(requests[1..].iter().all(|request| request.node.is_none()));
    }

    #[test]
    fn a_new_stream_says_what_is_held_and_asks_for_the_same_names_again() {
        let mut subscription = subscription();
        let held = Held(vec![
            (Kind::Route, "HTTPRoute/shop/a", "v1"),
            (Kind::Service, "shop/catalog", "v2"),
            (Kind::Generation, "generation", "v3"),
        ]);
        subscription.open(&held);
        subscription.ask(names(&["shop/catalog", "@10.0.0.1:80"]), &held).unwrap();
        subscription.closed();
        let requests = subscription.open(&held);
        let of = |kind: Kind| requests.iter().find(|request| request.type_url == kind.type_url()).unwrap();
        assert_eq!(of(Kind::Route).initial_resource_versions["HTTPRoute/shop/a"], "v1");
        assert_eq!(of(Kind::Service).initial_resource_versions["shop/catalog"], "v2");
        assert_eq!(of(Kind::Service).resource_names_subscribe, ["@10.0.0.1:80", "shop/catalog"]);
        // The mark must come even if nothing changed.
        assert!(of(Kind::Generation).initial_resource_versions.is_empty());
    }

    #[test]
    fn a_name_is_asked_for_once() {
        let mut subscription = subscription();
        let held = Held::default();
        subscription.open(&held);
        let request = subscription.ask(names(&["shop/a", "shop/b", "shop/a"]), &held).unwrap();
        assert_eq!(request.resource_names_subscribe, ["shop/a", "shop/b"]);
        assert!(subscription.ask(names(&["shop/a"]), &held).is_none());
        let request = subscription.ask(names(&["shop/a", "shop/c"]), &held).unwrap();
        assert_eq!(request.resource_names_subscribe, ["shop/c"]);
    }

    #[test]
    fn what_is_asked_for_without_a_stream_is_asked_for_by_the_next() {
        let mut subscription = subscription();
        assert!(subscription.ask(names(&["shop/a"]), &Held::default()).is_none());
        let requests = subscription.open(&Held::default());
        let services = requests.iter().find(|request| request.type_url == Kind::Service.type_url()).unwrap();
        assert_eq!(services.resource_names_subscribe, ["shop/a"]);
    }

    #[test]
    fn the_first_service_request_of_a_stream_resumes_and_later_ones_do_not() {
        let mut subscription = subscription();
        let held = Held(vec![(Kind::Service, "shop/backend", "v9")]);
        subscription.open(&held);
        let first = subscription.ask(names(&["shop/a"]), &held).unwrap();
        assert_eq!(first.initial_resource_versions["shop/backend"], "v9");
        assert!(subscription.ask(names(&["shop/b"]), &held).unwrap().initial_resource_versions.is_empty());
    }

    #[test]
    fn names_are_forgotten_once_and_only_if_asked_for() {
        let mut subscription = subscription();
        let held = Held::default();
        subscription.open(&held);
        subscription.ask(names(&["shop/a"]), &held).unwrap();
        let request = subscription.forget(names(&["shop/a", "shop/z"])).unwrap();
        assert_eq!(request.resource_names_unsubscribe, ["shop/a"]);
        assert!(subscription.forget(names(&["shop/a"])).is_none());
        assert!(!subscription.asks("shop/a"));
    }

    #[test]
    fn names_have_a_bound() {
        let mut subscription = subscription();
        let held = Held::default();
        subscription.open(&held);
        let many = (0..NAMES_MAX + 10).map(|number| format!("shop/s{number}"));
        let request = subscription.ask(many, &held).unwrap();
        assert_eq!(request.resource_names_subscribe.len(), NAMES_MAX);
        assert!(subscription.is_full());
        assert!(subscription.ask(names(&["shop/more"]), &held).is_none());
    }

    fn response(type_url: &str) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            nonce: "n1".to_owned(),
            resources: vec![Resource {
                name: "shop/a".to_owned(),
                version: "v1".to_owned(),
                aliases: names(&["@10.0.0.1:80"]),
                resource: Some(Any { type_url: type_url.to_owned(), value: Bytes::from_static(b"x") }),
                ..Resource::default()
            }],
            removed_resources: names(&["shop/b"]),
            ..DeltaDiscoveryResponse::default()
        }
    }

    #[test]
    fn a_response_is_read_with_all_that_belongs_to_it() {
        let batch = subscription().receive(response(Kind::Service.type_url())).unwrap();
        assert_eq!((batch.kind, batch.nonce.as_str()), (Kind::Service, "n1"));
        assert_eq!(batch.removed, ["shop/b"]);
        let resource = &batch.resources[0];
        assert_eq!((resource.name.as_str(), resource.version.as_str()), ("shop/a", "v1"));
        assert_eq!(resource.aliases, ["@10.0.0.1:80"]);
        assert_eq!(&resource.value[..], b"x");
    }

    #[test]
    fn an_unknown_type_is_refused_whole() {
        let answer = subscription().receive(response("type.googleapis.com/weft.v9.Novelty")).unwrap_err();
        assert_eq!(answer.response_nonce, "n1");
        assert_eq!(answer.type_url, "type.googleapis.com/weft.v9.Novelty");
        assert!(answer.error_detail.unwrap().message.contains("does not know the type"));
    }

    #[test]
    fn an_answer_quotes_the_nonce_and_names_what_was_refused() {
        let subscription = subscription();
        let ack = subscription.answer(Kind::Route, "n2".to_owned(), &[]);
        assert_eq!((ack.response_nonce.as_str(), &ack.error_detail), ("n2", &None));
        assert_eq!(ack.type_url, Kind::Route.type_url());
        assert!(ack.resource_names_subscribe.is_empty());
        let refused = Refused { name: "HTTPRoute/shop/a".to_owned(), reason: "say \"why\"\n".to_owned() };
        let nack = subscription.answer(Kind::Route, "n3".to_owned(), &[refused]);
        let detail = nack.error_detail.unwrap();
        assert_eq!(detail.code, INVALID_ARGUMENT);
        let read: serde_json::Value = serde_json::from_str(&detail.message).unwrap();
        assert_eq!(read, serde_json::json!([{ "name": "HTTPRoute/shop/a", "reason": "say \"why\"\n" }]));
    }

    #[test]
    fn a_nack_is_bounded() {
        let refused: Vec<Refused> =
            (0..1000).map(|n| Refused { name: format!("n{n}"), reason: "x".repeat(10_000) }).collect();
        let nack = subscription().answer(Kind::Route, "n".to_owned(), &refused);
        let message = nack.error_detail.unwrap().message;
        assert!(message.len() < NAMED_MAX * (REASON_MAX + 64), "{}", message.len());
    }
}
