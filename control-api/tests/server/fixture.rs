//! A control API over a small shop, in a thread of the test.

use crate::channel::{self, Caller, Svid, origin, request_for};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Status;
use weft_control::app::App;
use weft_control::ca::token::TokenKey;
use weft_control::settings::Invocation;
use weft_control::state::StateDirectory;
use weft_control::tls::PeerCertificate;
use weft_model::proto::v1::capture_client::CaptureClient;
use weft_model::proto::v1::certificate_authority_client::CertificateAuthorityClient;
use weft_model::proto::v1::{CertifyRequest, CertifyResponse, KnockRequest, KnockResponse};
use weft_runtime::drain::Trigger;
use weft_runtime::workers::build_runtime;

/// How long anything may take that is waited for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

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

pub(crate) const POLICY: &str = "
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

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
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
        // However coarse the file system's clock is, it shows that the file was whole.
        let written = SystemTime::now() - Duration::from_secs(1);
        fs::File::options().write(true).open(&temporary).unwrap().set_modified(written).unwrap();
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
        let (channel, _) = channel::connect(self, caller).await.unwrap();
        let mut client = CertificateAuthorityClient::with_origin(channel, origin());
        let request = CertifyRequest { csr, workload: workload.to_owned(), token: token.to_owned() };
        client.certify(request).await.map(tonic::Response::into_inner)
    }

    /// Asks for a knock at a workload's pod.
    pub(crate) async fn knock(
        &self,
        workload: &str,
        nonce: &[u8],
        caller: Caller<'_>,
    ) -> Result<KnockResponse, Status> {
        let (channel, _) = channel::connect(self, caller).await.unwrap();
        let mut client = CaptureClient::with_origin(channel, origin());
        let request = KnockRequest { workload: workload.to_owned(), nonce: nonce.to_vec() };
        client.knock(request).await.map(tonic::Response::into_inner)
    }

    /// The server's leaf certificate, if the handshake succeeds and the server still speaks after it
    /// (in TLS 1.3 a client hears only then that its certificate is refused).
    pub(crate) async fn try_connect(&self, caller: Caller<'_>) -> Result<Vec<u8>, String> {
        let (channel, leaf) = channel::connect(self, caller).await?;
        let mut client = CertificateAuthorityClient::with_origin(channel, origin());
        match client.certify(request_for("")).await {
            Err(status) if status.code() == tonic::Code::InvalidArgument => Ok(leaf),
            other => Err(format!("{other:?}")),
        }
    }

    /// A page of the admin port.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Waits until a further edit would be one after quiet: the source takes edits in together for a
    /// tenth of a second.
    pub(crate) async fn quiet(&self) {
        let metrics = async || self.get("/metrics").await;
        let age = |text: &str| {
            let line =
                text.lines().find(|line| line.starts_with("weft_control_config_age_seconds ")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        eventually("a quiet source", async || (age(&metrics().await) >= 1).then_some(())).await;
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
