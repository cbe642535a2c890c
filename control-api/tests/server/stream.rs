//! A discovery stream, as a proxy has one: it keeps what it is sent and answers everything.

use crate::channel::{self, Caller, Svid, origin};
use crate::fixture::{DEADLINE, TestServer};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weft_model::proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_model::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status as Refusal,
};
use weft_model::wire::Kind;

/// All responses up to and with a commit mark.
pub(crate) struct Batch(Vec<DeltaDiscoveryResponse>);

/// A discovery stream that answers what it is sent.
pub(crate) struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// Names and versions, as for a later stream.
    pub(crate) held: BTreeMap<(Kind, String), String>,
    /// Refuse all of a kind, for this reason.
    pub(crate) refuse: Option<(Kind, &'static str)>,
}

// === impl Batch ===

impl Batch {
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.0.iter().map(|response| Kind::from_type_url(&response.type_url).unwrap()).collect()
    }

    pub(crate) fn last(&self) -> Option<Kind> {
        self.kinds().pop()
    }

    pub(crate) fn resources(&self) -> impl Iterator<Item = (Kind, &Resource)> {
        self.0.iter().flat_map(|response| {
            let kind = Kind::from_type_url(&response.type_url).unwrap();
            response.resources.iter().map(move |resource| (kind, resource))
        })
    }

    pub(crate) fn names(&self, kind: Kind) -> Vec<&str> {
        let of_kind = self.resources().filter(|(held, _)| *held == kind);
        of_kind.map(|(_, resource)| resource.name.as_str()).collect()
    }

    pub(crate) fn removed(&self, kind: Kind) -> Vec<&str> {
        let of_kind = self.0.iter().filter(|response| response.type_url == kind.type_url());
        of_kind.flat_map(|response| &response.removed_resources).map(String::as_str).collect()
    }
}

// === impl Stream ===

impl Stream {
    pub(crate) async fn open(server: &TestServer, svid: &Svid, node: &str, services: &[&str]) -> Self {
        Self::resume(server, svid, node, services, BTreeMap::new()).await
    }

    pub(crate) async fn resume(
        server: &TestServer,
        svid: &Svid,
        node: &str,
        services: &[&str],
        held: BTreeMap<(Kind, String), String>,
    ) -> Self {
        Self::try_open(server, Caller::Svid(svid), node, services, held).await.unwrap()
    }

    /// Why the stream does not come about.
    pub(crate) async fn refused(server: &TestServer, caller: Caller<'_>, node: &str) -> Status {
        match Self::try_open(server, caller, node, &[], BTreeMap::new()).await {
            Err(status) => status,
            Ok(mut stream) => stream.responses.message().await.unwrap_err(),
        }
    }

    async fn try_open(
        server: &TestServer,
        caller: Caller<'_>,
        node: &str,
        services: &[&str],
        held: BTreeMap<(Kind, String), String>,
    ) -> Result<Self, Status> {
        let (channel, _) = channel::connect(server, caller).await.unwrap();
        let (requests, receiver) = mpsc::channel(64);
        for kind in Kind::ALL {
            let versions = held.iter().filter(|((of, _), _)| *of == kind);
            let request = DeltaDiscoveryRequest {
                node: Some(Node { id: node.to_owned(), ..Node::default() }),
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: match kind {
                    Kind::Service => services.iter().map(|name| (*name).to_owned()).collect(),
                    _ => vec!["*".to_owned()],
                },
                initial_resource_versions: versions
                    .map(|((_, name), version)| (name.clone(), version.clone()))
                    .collect(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(request).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::with_origin(channel, origin());
        let responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses, held, refuse: None })
    }

    pub(crate) async fn ask(&mut self, name: &str) {
        let request = DeltaDiscoveryRequest {
            type_url: Kind::Service.type_url().to_owned(),
            resource_names_subscribe: vec![name.to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// Everything up to the next commit mark, answered.
    pub(crate) async fn batch(&mut self) -> Batch {
        let mut responses = Vec::new();
        loop {
            let message = tokio::time::timeout(DEADLINE, self.responses.message()).await;
            let response = message.expect("no message came").unwrap().expect("the stream ended");
            let kind = Kind::from_type_url(&response.type_url).unwrap();
            for resource in &response.resources {
                self.held.insert((kind, resource.name.clone()), resource.version.clone());
            }
            for name in &response.removed_resources {
                self.held.remove(&(kind, name.clone()));
            }
            let refused = self.refuse.filter(|(refused, _)| *refused == kind).map(|(_, reason)| {
                let name = &response.resources[0].name;
                Refusal { code: 3, message: format!(r#"[{{"name":"{name}","reason":"{reason}"}}]"#) }
            });
            let answer = DeltaDiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce.clone(),
                error_detail: refused,
                ..DeltaDiscoveryRequest::default()
            };
            self.requests.send(answer).await.unwrap();
            responses.push(response);
            if kind == Kind::Generation {
                return Batch(responses);
            }
        }
    }

    /// Waits for the end; with what status.
    pub(crate) async fn ended(&mut self) -> Option<Status> {
        tokio::time::timeout(DEADLINE, async {
            loop {
                match self.responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        })
        .await
        .expect("the stream did not end")
    }
}
