//! The other side: a control API in a thread, and a small client of it that plays a proxy.

use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Status, Streaming};
use weft_control::app::App;
use weft_control::ca::issuer::Issuer;
use weft_control::ca::token::TokenKey;
use weft_control::settings::Invocation;
use weft_control::state::StateDirectory;
use weft_control::tls::{PeerCertificate, provider};
use weft_model::proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_model::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status as Refusal,
};
use weft_model::proto::v1::certificate_authority_client::CertificateAuthorityClient;
use weft_model::proto::v1::{CertifyRequest, CertifyResponse};
use weft_model::spiffe::SpiffeId;
use weft_model::wire::Kind;
use weft_runtime::drain::Trigger;
use weft_runtime::workers::build_runtime;

/// How long anything may take that is waited for.
const DEADLINE: Duration = Duration::from_secs(20);

const CONTROL: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control";

pub(crate) const WORKLOADS: &str = "
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: { name: cart-1, namespace: shop, labels: { app: cart } }
spec: { address: 127.0.1.1, serviceAccount: cart, ports: [{ name: http, port: 8080, protocol: http }] }
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: { name: cart-2, namespace: shop, labels: { app: cart } }
spec: { address: 127.0.1.2, serviceAccount: cart, ports: [{ name: http, port: 8080, protocol: http }] }
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: { name: web-1, namespace: shop, labels: { app: web } }
spec: { address: 127.0.1.3, serviceAccount: web, ports: [{ name: http, port: 8080, protocol: http }] }
---
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec:
  clusterIP: 10.0.0.1
  selector: { app: cart }
  ports: [{ name: http, port: 80, targetPort: 8080 }]
";

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: cart, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  rules: [{ from: [{ source: { principals: [cluster.local/ns/shop/sa/web] } }] }]
";

/// A control API that runs in a thread.
pub(crate) struct TestServer {
    directory: tempfile::TempDir,
    state: PathBuf,
    lifetime: String,
    address: SocketAddr,
    admin: SocketAddr,
    trigger: Trigger,
    thread: JoinHandle<()>,
}

/// What a caller presents.
#[derive(Clone, Copy)]
pub(crate) enum Caller<'a> {
    Anonymous,
    Svid(&'a Svid),
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub(crate) struct Svid {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) identity: String,
    key: Vec<u8>,
}

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

/// An HTTP/2 connection as tonic's clients want it.
#[derive(Clone)]
struct Channel(hyper::client::conn::http2::SendRequest<Body>);

/// Trusts the authority's roots, and the control API's identity alone.
#[derive(Debug)]
struct Verifier {
    roots: Vec<CertificateDer<'static>>,
}

pub(crate) fn request_for(workload: &str) -> CertifyRequest {
    CertifyRequest { workload: workload.to_owned(), ..CertifyRequest::default() }
}

/// Polls until there is something, or the deadline passes.
pub(crate) async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let poll = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// A certificate signed outside the server.
pub(crate) fn svid_by(issuer: &Issuer, identity: &SpiffeId, at: SystemTime) -> Svid {
    let key = KeyPair::generate().unwrap();
    let issued = issuer.sign(&key, identity, None, at).unwrap();
    Svid { chain: vec![issued.certificate], identity: identity.to_string(), key: key.serialize_der() }
}

/// A certificate of the authority's key that its issuer would never sign. `dns` stands for a DNS name.
pub(crate) fn odd_svid(state: &Path, names: &[&str], client: bool) -> Svid {
    let ca_key = KeyPair::from_pem(&fs::read_to_string(state.join("ca.key")).unwrap()).unwrap();
    let ca = rcgen::Issuer::from_ca_cert_pem(&fs::read_to_string(state.join("roots.pem")).unwrap(), ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    for name in names {
        params.subject_alt_names.push(match *name {
            "dns" => SanType::DnsName("cart.shop".try_into().unwrap()),
            uri => SanType::URI(uri.try_into().unwrap()),
        });
    }
    params.extended_key_usages =
        vec![if client { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth }];
    params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 25, 1], vec![4, 0]));
    let signed = params.signed_by(&key, &ca.unwrap()).unwrap();
    let identity = names.first().copied().unwrap_or_default().to_owned();
    Svid { chain: vec![signed.der().clone()], identity, key: key.serialize_der() }
}

// === impl TestServer ===

impl TestServer {
    /// Starts one over a small shop; an empty lifetime is the default.
    pub(crate) fn start(lifetime: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let policies = directory.path().join("policies");
        fs::create_dir(&policies).unwrap();
        fs::write(policies.join("workloads.yaml"), WORKLOADS).unwrap();
        fs::write(policies.join("policy.yaml"), POLICY).unwrap();
        Self::start_in(directory, lifetime.to_owned())
    }

    fn start_in(directory: tempfile::TempDir, lifetime: String) -> Self {
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (policies, state) = (path("policies"), path("state"));
        let mut arguments = vec!["weft-control", "--policies", &policies, "--state", &state];
        arguments.extend(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        if !lifetime.is_empty() {
            arguments.extend(["--certificate-lifetime", &lifetime]);
        }
        let Ok(Invocation::Serve(settings)) = Invocation::try_parse_from(arguments) else {
            panic!("the arguments must parse")
        };
        let app = App::build(&settings).unwrap();
        let (address, admin) = (app.address().unwrap(), app.admin_address().unwrap());
        let trigger = app.trigger();
        let thread = std::thread::spawn(move || build_runtime().unwrap().block_on(app.run()).unwrap());
        Self { state: directory.path().join("state"), directory, lifetime, address, admin, trigger, thread }
    }

    /// Runs a client's story, then stops the server.
    pub(crate) fn run(self, story: impl AsyncFnOnce(&Self)) {
        self.during(story);
        self.stop();
    }

    /// Runs a client's story.
    pub(crate) fn during<T>(&self, story: impl AsyncFnOnce(&Self) -> T) -> T {
        build_runtime().unwrap().block_on(story(self))
    }

    pub(crate) fn stop(self) -> tempfile::TempDir {
        self.trigger.drain(Duration::from_secs(5));
        self.thread.join().unwrap();
        self.directory
    }

    pub(crate) fn restart(self) -> Self {
        let lifetime = self.lifetime.clone();
        Self::start_in(self.stop(), lifetime)
    }

    pub(crate) fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn policies(&self) -> PathBuf {
        self.directory.path().join("policies")
    }

    /// Puts a policy file in place, by a rename as configuration tools do.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let temporary = self.policies().join(".temporary");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.policies().join(name)).unwrap();
    }

    pub(crate) fn token(&self, workload: &str) -> String {
        self.token_until(workload, SystemTime::now() + Duration::from_secs(60))
    }

    pub(crate) fn token_until(&self, workload: &str, end: SystemTime) -> String {
        let state = StateDirectory::open_shared(self.state()).unwrap();
        TokenKey::load_or_create(&state).unwrap().issue(&workload.parse().unwrap(), Duration::ZERO, end)
    }

    pub(crate) async fn svid(&self, workload: &str) -> Svid {
        self.certify(workload, &self.token(workload), Caller::Anonymous).await.unwrap()
    }

    pub(crate) async fn certify(
        &self,
        workload: &str,
        token: &str,
        caller: Caller<'_>,
    ) -> Result<Svid, Status> {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let response = self.call_authority(workload, token, csr, caller).await?;
        let chain: Vec<CertificateDer<'static>> =
            response.chain.into_iter().map(CertificateDer::from).collect();
        assert_eq!(response.trust_domain, "cluster.local");
        assert_eq!(response.roots.len(), 1);
        let identity = PeerCertificate::read(&chain[0]).unwrap().identity().to_string();
        Ok(Svid { chain, identity, key: key.serialize_der() })
    }

    pub(crate) async fn certify_raw(
        &self,
        workload: &str,
        token: &str,
        csr: Vec<u8>,
    ) -> Result<CertifyResponse, Status> {
        self.call_authority(workload, token, csr, Caller::Anonymous).await
    }

    async fn call_authority(
        &self,
        workload: &str,
        token: &str,
        csr: Vec<u8>,
        caller: Caller<'_>,
    ) -> Result<CertifyResponse, Status> {
        let (channel, _) = self.connect(caller).await.unwrap();
        let mut client = CertificateAuthorityClient::with_origin(channel, origin());
        let request = CertifyRequest { csr, workload: workload.to_owned(), token: token.to_owned() };
        client.certify(request).await.map(tonic::Response::into_inner)
    }

    /// The server's leaf certificate, if the handshake succeeds and the server still speaks after it
    /// (in TLS 1.3 a client hears only then that its certificate is refused).
    pub(crate) async fn try_connect(&self, caller: Caller<'_>) -> Result<Vec<u8>, String> {
        let (channel, leaf) = self.connect(caller).await?;
        let mut client = CertificateAuthorityClient::with_origin(channel, origin());
        match client.certify(request_for("")).await {
            Err(status) if status.code() == tonic::Code::InvalidArgument => Ok(leaf),
            other => Err(format!("{other:?}")),
        }
    }

    async fn connect(&self, caller: Caller<'_>) -> Result<(Channel, Vec<u8>), String> {
        let roots = fs::read(self.state().join("roots.pem")).unwrap();
        let roots = CertificateDer::pem_slice_iter(&roots).collect::<Result<_, _>>().unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { roots }));
        let mut config = match caller {
            Caller::Anonymous => builder.with_no_client_auth(),
            Caller::Svid(svid) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.key.clone()));
                builder.with_client_auth_cert(svid.chain.clone(), key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from("weft-control").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        let session = stream.get_ref().1;
        assert_eq!(
            session.negotiated_key_exchange_group().unwrap().name(),
            rustls::NamedGroup::X25519MLKEM768
        );
        let leaf = session.peer_certificates().unwrap()[0].to_vec();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
        weft_runtime::spawn("test-client", connection);
        Ok((Channel(sender), leaf))
    }

    /// A page of the admin port.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    pub(crate) async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").await).unwrap()
    }

    pub(crate) async fn status_when(&self, holds: impl Fn(&Value) -> bool) -> Value {
        eventually("a status", async || {
            let status = self.status().await;
            holds(&status).then_some(status)
        })
        .await
    }
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
        let (channel, _) = server.connect(caller).await.unwrap();
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

fn origin() -> http::Uri {
    http::Uri::from_static("https://weft-control")
}

// === impl Channel ===

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

// === impl Verifier ===

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let anchors: Vec<_> =
            self.roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
        let leaf = webpki::EndEntityCert::try_from(end_entity).unwrap();
        let usage = webpki::KeyUsage::server_auth();
        let algorithms = provider().signature_verification_algorithms.all;
        leaf.verify_for_usage(algorithms, &anchors, intermediates, now, usage, None, None)
            .map_err(|error| Error::General(error.to_string()))?;
        assert_eq!(PeerCertificate::read(end_entity).unwrap().identity().as_str(), CONTROL);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("only TLS 1.3 is offered")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
