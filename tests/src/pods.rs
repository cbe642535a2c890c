//! A mesh of pods for one test: real network namespaces with real redirection, a real `weft-proxy` in
//! transparent mode beside each application, a real `weft-control` in a pod of its own. Applications
//! and clients are unmodified: they listen and dial as if there were no mesh.
//!
//! ```no_run
//! use weft_tests::netns::{isolated, wire::Wire};
//! use weft_tests::pods::Builder;
//!
//! #[test]
//! fn a_call_crosses_the_mesh() {
//!     isolated("a_call_crosses_the_mesh", || async {
//!         let mesh = Builder::pair().start().await;
//!         let cart = mesh.member("shop/cart-1");
//!         let application = cart.application("cart-1", 8080);
//!         let wire = Wire::tap(cart.pod());
//!         // An unmodified client in the pod `shop/web-1` dials the Service's virtual address.
//!         let client = mesh.member("shop/web-1").caller(mesh.vip("shop/cart"));
//!         client.get("http://cart/items").await.passed();
//!         wire.stop().never_shows(b"/items");
//!         assert_eq!(application.requests().len(), 1);
//!     });
//! }
//! ```
//!
//! The test's name goes to [`isolated`](crate::netns::isolated) as text. A pod is called by name
//! ([`Pods::member`]); [`Member::ipv4`] and [`Member::ipv6`] are its addresses with a port,
//! [`Pods::vip`] and [`Pods::vip6`] a Service's. Anything else can be run in a pod through
//! [`Member::pod`]: sockets, listeners, programs. [`crate::netns::nftables`] spoils rules,
//! [`crate::netns::wire`] captures packets. A pod that is [`PodSpec::foreign`] is a machine outside the
//! mesh, one that is [`PodSpec::plain`] a workload without a proxy.

mod builder;

use crate::application::Application;
use crate::binaries::binaries;
use crate::client::{Client, Connection, Request, Response};
use crate::mesh::described::{CONNECT_TIMEOUT, mesh_config};
use crate::mesh::{ready, write_atomically, write_private};
use crate::metrics::Metrics;
use crate::netns::{Dial, Network, Pod};
use crate::process::Process;
use builder::Kind;
pub use builder::{Builder, PodSpec};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Where the control API serves proxies, in its own pod.
const CONTROL_PORT: u16 = 15010;
const CONTROL_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15014);

/// Where a proxy serves metrics and readiness, and shows its state.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);

/// A running mesh.
#[derive(Debug)]
pub struct Pods {
    // Proxies end before the control API, and both before the directory and the network.
    members: BTreeMap<String, Member>,
    control: Option<Process>,
    control_pod: Arc<Pod>,
    control_arguments: Vec<String>,
    vips: BTreeMap<String, [SocketAddr; 2]>,
    directory: tempfile::TempDir,
    network: Network,
}

/// One pod of it.
#[derive(Debug)]
pub struct Member {
    uid: String,
    pod: Arc<Pod>,
    process: Option<Process>,
    directory: PathBuf,
    settings: PathBuf,
}

/// A client in a pod that dials an address as any program would.
#[derive(Clone, Debug)]
pub struct Caller {
    pod: Arc<Pod>,
    client: Client,
    dial: Dial,
}

// === impl Pods ===

impl Pods {
    /// An empty mesh to add to.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A pod by its workload's name.
    pub fn member(&self, uid: &str) -> &Member {
        self.members.get(uid).unwrap_or_else(|| panic!("no pod {uid}"))
    }

    /// A pod, to end or start its proxy.
    pub fn member_mut(&mut self, uid: &str) -> &mut Member {
        self.members.get_mut(uid).unwrap_or_else(|| panic!("no pod {uid}"))
    }

    /// The IPv4 virtual address and port of a Service.
    pub fn vip(&self, service: &str) -> SocketAddr {
        self.vips.get(service).unwrap_or_else(|| panic!("no service {service}"))[0]
    }

    /// The IPv6 virtual address and port of a Service.
    pub fn vip6(&self, service: &str) -> SocketAddr {
        self.vips.get(service).unwrap_or_else(|| panic!("no service {service}"))[1]
    }

    /// The bridge that the pods are on, for further pods.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A directory for what a test needs besides.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The policy directory.
    pub fn policies(&self) -> PathBuf {
        self.directory.path().join("policies")
    }

    /// The control API's state directory.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Writes or replaces a policy file in one step.
    pub fn write_policy(&self, name: &str, text: &str) {
        write_atomically(&self.policies(), &format!("{name}.yaml"), text);
    }

    /// Removes a policy file.
    pub fn remove_policy(&self, name: &str) {
        fs::remove_file(self.policies().join(format!("{name}.yaml"))).expect("the policy must exist");
    }

    /// The control API's pod.
    pub fn control_pod(&self) -> &Arc<Pod> {
        &self.control_pod
    }

    /// The control API's process.
    pub fn control(&self) -> &Process {
        self.control.as_ref().expect("the control API runs")
    }

    /// The control API's view of the mesh.
    pub async fn status(&self) -> serde_json::Value {
        let response = fetch(&self.control_pod, CONTROL_ADMIN, "/status").await.expect("the status answers");
        serde_json::from_slice(&response.body).expect("the status is JSON")
    }

    /// The control API's metrics.
    pub async fn control_metrics(&self) -> Metrics {
        let response = fetch(&self.control_pod, CONTROL_ADMIN, "/metrics").await.expect("metrics answer");
        Metrics::parse(&response.text())
    }

    /// Ends the control API as a crash would.
    pub fn kill_control(&mut self) {
        if let Some(mut control) = self.control.take() {
            control.kill();
        }
    }

    /// Starts the control API again on the same state, and waits until it is ready.
    pub async fn start_control(&mut self) {
        let mut command = Command::new(&binaries().control);
        command.arg("--policies").arg(self.policies()).arg("--state").arg(self.state());
        command.args(["--listen", &format!("[::]:{CONTROL_PORT}"), "--log", "info"]);
        // As where something elsewhere scrapes it.
        command.args(["--admin-listen", &format!("[::]:{}", CONTROL_ADMIN.port())]);
        command.args(&self.control_arguments);
        let mut process = self.control_pod.start("weft-control", command, self.directory.path());
        ready("weft-control", &mut process, || fetch(&self.control_pod, CONTROL_ADMIN, "/ready")).await;
        self.control = Some(process);
    }

    /// A token for a workload.
    pub fn token(&self, uid: &str) -> String {
        let mut command = Command::new(&binaries().control);
        command.args(["token", "--workload", uid, "--state"]).arg(self.state());
        let output = command.output().expect("weft-control must start");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

// === impl Member ===

impl Member {
    /// The pod itself.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Its IPv4 address with a port.
    pub fn ipv4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pod.ipv4(), port)
    }

    /// Its IPv6 address with a port.
    pub fn ipv6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pod.ipv6(), port)
    }

    /// An application on all of the pod's addresses.
    pub fn application(&self, name: &str, port: u16) -> Application {
        self.application_at(name, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// An application on one of the pod's addresses.
    pub fn application_at(&self, name: &str, address: SocketAddr) -> Application {
        Application::on(name, self.pod.listen(address))
    }

    /// A client in this pod that dials `address`.
    pub fn caller(&self, address: SocketAddr) -> Caller {
        Caller { pod: self.pod.clone(), client: Client::direct(address), dial: Dial::default() }
    }

    /// The proxy's process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the proxy runs")
    }

    /// The proxy's process, to be ended or waited for.
    pub fn process_mut(&mut self) -> &mut Process {
        self.process.as_mut().expect("the proxy runs")
    }

    /// The proxy's settings file.
    pub fn settings(&self) -> &Path {
        &self.settings
    }

    /// The directory with its token, state and settings.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Replaces a text in the settings file; holds from the next start.
    pub fn edit_settings(&self, old: &str, new: &str) {
        let text = fs::read_to_string(&self.settings).expect("the settings must be there");
        assert!(text.contains(old), "the settings do not contain {old:?}:\n{text}");
        fs::write(&self.settings, text.replace(old, new)).expect("the settings must be written");
    }

    /// A scrape, from within the pod.
    pub async fn metrics(&self) -> Metrics {
        let response = fetch(&self.pod, METRICS, "/metrics").await.expect("metrics answer");
        assert_eq!(response.status(), 200);
        Metrics::parse(&response.text())
    }

    /// What `/ready` says: its status and text. `None` when nothing answers.
    pub async fn ready(&self) -> Option<(u16, String)> {
        let response = fetch(&self.pod, METRICS, "/ready").await.ok()?;
        Some((response.status(), response.text()))
    }

    /// What a path of the admin port says, as JSON.
    pub async fn admin(&self, path: &str) -> serde_json::Value {
        let response = fetch(&self.pod, ADMIN, path).await.expect("the admin port answers");
        serde_json::from_slice(&response.body).expect("it answers JSON")
    }

    /// Runs `weft-proxy rules` with the proxy's own settings: exit code, standard output, standard
    /// error.
    pub fn rules(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(&binaries().proxy);
        command.arg("rules").args(arguments).arg("--config").arg(&self.settings);
        self.pod.output(command)
    }

    /// Ends the proxy as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts the proxy (again) without waiting.
    pub fn spawn(&mut self) {
        self.spawn_as(|_| {});
    }

    /// Starts the proxy (again), with its command changed.
    pub fn spawn_as(&mut self, change: impl FnOnce(&mut Command)) {
        self.kill();
        let mut command = Command::new(&binaries().proxy);
        command.arg("--config").arg(&self.settings);
        change(&mut command);
        self.process = Some(self.pod.start(&self.uid, command, &self.directory));
    }

    /// Starts the proxy (again) and waits until it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.wait_ready().await;
    }

    /// Waits until the proxy is ready.
    pub async fn wait_ready(&mut self) {
        let process = self.process.as_mut().expect("the proxy runs");
        ready(&self.uid, process, || fetch(&self.pod, METRICS, "/ready")).await;
    }

    /// The access log so far, one JSON value per line.
    pub fn access_log(&self) -> Vec<serde_json::Value> {
        let output = self.process().output();
        // A last line without its end is still being written.
        let whole = output.rfind('\n').map_or("", |end| &output[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

// === impl Caller ===

impl Caller {
    /// The same, with its socket opened in another way.
    pub fn dial(mut self, dial: Dial) -> Self {
        self.dial = dial;
        self
    }

    /// One GET on a connection of its own. The URL's host goes into `Host` only.
    pub async fn get(&self, url: &str) -> Response {
        self.send(&Request::get(url)).await
    }

    /// One request on a connection of its own.
    pub async fn send(&self, request: &Request) -> Response {
        match self.try_send(request).await {
            Ok(response) => response,
            Err(error) => panic!("{}: no answer from {}: {error}", self.pod.name(), self.client.address()),
        }
    }

    /// One request on a connection of its own.
    pub async fn try_send(&self, request: &Request) -> io::Result<Response> {
        self.connect().await?.send(request).await
    }

    /// A connection that is kept.
    pub async fn connect(&self) -> io::Result<Connection> {
        self.client.over(self.stream().await?)
    }

    /// A bare connection.
    pub async fn stream(&self) -> io::Result<tokio::net::TcpStream> {
        self.pod.connect(self.client.address(), self.dial).await
    }
}

async fn fetch(pod: &Pod, address: SocketAddr, path: &str) -> io::Result<Response> {
    let stream = pod.connect(address, Dial::default()).await?;
    let request = Request::get(&format!("http://{address}{path}")).field("Connection", "close");
    Client::direct(address).over(stream)?.send(&request).await
}

/// Starts everything that `builder` collected.
async fn start(builder: Builder) -> Pods {
    let directory = tempfile::Builder::new().prefix("weft-test-").tempdir().expect("a directory");
    let network = Network::new().await;
    let control_pod = Arc::new(network.pod("weft-control").await);
    let mut mesh = Pods {
        members: BTreeMap::new(),
        control: None,
        control_pod,
        control_arguments: builder.control_arguments.clone(),
        vips: BTreeMap::new(),
        directory,
        network,
    };
    fs::create_dir(mesh.policies()).expect("a directory");
    let mut text = mesh_config(builder.mesh_config.as_deref());
    for (number, service) in (1..).zip(&builder.services) {
        let addresses: [IpAddr; 2] = [
            Ipv4Addr::new(10, 76, 0, number).into(),
            Ipv6Addr::new(0xfd76, 0, 0, 0, 0, 0, 0, number.into()).into(),
        ];
        text += &service.document(&addresses);
        mesh.vips.insert(service.name.clone(), addresses.map(|ip| SocketAddr::new(ip, service.port)));
    }
    for spec in &builder.pods {
        text += &add(&mut mesh, spec).await;
    }
    mesh.write_policy("mesh", &text);
    for (name, text) in &builder.policies {
        mesh.write_policy(name, text);
    }
    mesh.start_control().await;
    let mut started = Vec::new();
    for spec in builder.pods.iter().filter(|spec| spec.kind == Kind::Proxied) {
        let token = mesh.token(&spec.described.uid);
        let member = mesh.member_mut(&spec.described.uid);
        write_private(&member.directory.join("token"), &token);
        if spec.started {
            member.spawn();
            started.push(&spec.described.uid);
        }
    }
    for uid in started {
        mesh.member_mut(uid).wait_ready().await;
    }
    mesh
}

/// Makes the pod and its proxy's settings, and returns its document.
async fn add(mesh: &mut Pods, spec: &PodSpec) -> String {
    let uid = &spec.described.uid;
    let pod = Arc::new(mesh.network.pod(uid).await);
    let document =
        if spec.kind == Kind::Foreign { String::new() } else { spec.document(pod.ipv4(), pod.ipv6()) };
    let directory = mesh.directory.path().join(uid.replace('/', "."));
    fs::create_dir(&directory).expect("a directory");
    let settings = directory.join("proxy.yaml");
    let control = SocketAddr::new(mesh.control_pod.ipv4(), CONTROL_PORT);
    let rules: String = spec.rules.lines().map(|line| format!("  {line}\n")).collect();
    let lines: Vec<_> = spec.lines.iter().map(|line| format!("\"{line}\"")).collect();
    let text = format!(
        "workload: {}\ncontrol:\n  address: {control}\n  roots: {}\n  token: {}\nstate: {}\noutbound: {{ \
         connectTimeout: {CONNECT_TIMEOUT} }}\ncapture: {{ mode: transparent, install: {} }}\nrules:\n  bypass: {}\n  \
         lines: [{}]\n{rules}workers: 1\nlog: info\naccessLog: all\n{}",
        uid,
        mesh.state().join("roots.pem").display(),
        directory.join("token").display(),
        directory.join("state").display(),
        spec.install,
        spec.bypass,
        lines.join(", "),
        spec.settings,
    );
    fs::write(&settings, text).expect("a settings file must be written");
    let member = Member { uid: uid.clone(), pod, process: None, directory, settings };
    mesh.members.insert(uid.clone(), member);
    document
}
