//! A mesh for one test: the real control API and real proxies, each a process, on loopback.
//!
//! Everything lives in one temporary directory and ends with the [`Mesh`].

mod builder;
pub(crate) mod described;
mod document;
mod enforcement;

use crate::binaries::binaries;
use crate::certificate::Authority;
use crate::client::{self, Client, Response};
use crate::metrics::Metrics;
use crate::ports::Port;
use crate::process::{self, Ended, Process};
use crate::wait;
use builder::Proxied;
pub use builder::{Builder, Workload};
use described::{declared, mesh_config};
use document::{PORT_NAME, Settings};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The identity of the control API in the tests' trust domain.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// A running mesh.
#[derive(Debug)]
pub struct Mesh {
    // Proxies end before the control API, and both before the directory.
    proxies: BTreeMap<String, Proxy>,
    control: Option<Process>,
    listen: Port,
    admin: Port,
    certificate_lifetime: Option<String>,
    control_arguments: Vec<String>,
    directory: tempfile::TempDir,
}

/// One proxy.
#[derive(Debug)]
pub struct Proxy {
    /// The process; `None` after [`Mesh::kill`].
    process: Option<Process>,
    settings: PathBuf,
    directory: PathBuf,
    uid: String,
    outbound: Port,
    inbound: Option<SocketAddr>,
    services: Vec<(String, u16, SocketAddr)>,
    metrics: Port,
    admin: Port,
    _ports: Vec<Port>,
}

impl Mesh {
    /// An empty mesh to add to.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A client inside this workload, using its outbound port as HTTP proxy.
    pub fn client(&self, uid: &str) -> Client {
        Client::through(self.proxy(uid).outbound.address())
    }

    /// A client inside this workload, using its port for one service.
    pub fn client_of(&self, uid: &str, service: &str) -> Client {
        let services = &self.proxy(uid).services;
        let found = services.iter().find(|(name, ..)| name == service);
        Client::direct(found.unwrap_or_else(|| panic!("{uid} has no port for {service}")).2)
    }

    /// A workload's proxy.
    pub fn proxy(&self, uid: &str) -> &Proxy {
        self.proxies.get(uid).unwrap_or_else(|| panic!("no proxy for {uid}"))
    }

    /// A workload's proxy, to be ended or started again.
    pub fn proxy_mut(&mut self, uid: &str) -> &mut Proxy {
        self.proxies.get_mut(uid).unwrap_or_else(|| panic!("no proxy for {uid}"))
    }

    /// The control API's process.
    pub fn control(&self) -> &Process {
        self.control.as_ref().expect("the control API runs")
    }

    /// Where the control API serves proxies.
    pub fn control_address(&self) -> SocketAddr {
        self.listen.address()
    }

    /// The control API's admin address.
    pub fn control_admin(&self) -> SocketAddr {
        self.admin.address()
    }

    /// The policy directory.
    pub fn policies(&self) -> PathBuf {
        self.directory.path().join("policies")
    }

    /// The control API's state directory.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A directory for what a test needs besides.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The mesh's own certificate authority.
    pub fn authority(&self) -> Authority {
        Authority::of_mesh(&self.state())
    }

    /// Writes or replaces a policy file in one step.
    pub fn write_policy(&self, name: &str, text: &str) {
        write_atomically(&self.policies(), &format!("{name}.yaml"), text);
    }

    /// Removes a policy file.
    pub fn remove_policy(&self, name: &str) {
        fs::remove_file(self.policies().join(format!("{name}.yaml"))).expect("the policy must exist");
    }

    /// Reads a document that the builder wrote.
    pub fn read_policy(&self, name: &str) -> String {
        fs::read_to_string(self.policies().join(format!("{name}.yaml"))).expect("the policy must exist")
    }

    /// The control API's view of the mesh.
    pub async fn status(&self) -> serde_json::Value {
        let response = client::fetch(self.admin.address(), "/status").await.expect("the status answers");
        serde_json::from_slice(&response.body).expect("the status is JSON")
    }

    /// The control API's metrics.
    pub async fn control_metrics(&self) -> Metrics {
        let response = client::fetch(self.admin.address(), "/metrics").await.expect("metrics answer");
        Metrics::parse(&response.text())
    }

    /// Ends the control API as a crash would.
    pub fn kill_control(&mut self) {
        if let Some(mut control) = self.control.take() {
            control.kill();
        }
    }

    /// The control API's process, for a test that ends it in its own way.
    pub fn take_control(&mut self) -> Process {
        self.control.take().expect("the control API runs")
    }

    /// Starts the control API again on the same state, and waits until it is ready.
    pub async fn start_control(&mut self) {
        self.control = Some(self.spawn_control());
        let control = self.control.as_mut().expect("it was just started");
        ready("weft-control", control, || client::fetch(self.admin.address(), "/ready")).await;
    }

    /// Runs `weft-control token` for a workload and gives the token.
    pub async fn token(&self, uid: &str, lifetime: Option<&str>) -> String {
        let ended = self.run_token(uid, lifetime).await;
        assert!(ended.status.success(), "{}", ended.stderr);
        ended.stdout.trim().to_owned()
    }

    /// Runs `weft-control token` for a workload.
    pub async fn run_token(&self, uid: &str, lifetime: Option<&str>) -> Ended {
        let mut command = Command::new(&binaries().control);
        command.args(["token", "--workload", uid, "--state"]).arg(self.state());
        if let Some(lifetime) = lifetime {
            command.args(["--lifetime", lifetime]);
        }
        process::run(command).await
    }

    fn spawn_control(&self) -> Process {
        let mut command = Command::new(&binaries().control);
        command.arg("--policies").arg(self.policies()).arg("--state").arg(self.state());
        command.args(["--listen", &self.listen.address().to_string()]);
        command.args(["--admin-listen", &self.admin.address().to_string(), "--log", "info"]);
        command.args(&self.control_arguments);
        if let Some(lifetime) = &self.certificate_lifetime {
            command.args(["--certificate-lifetime", lifetime]);
        }
        Process::start("weft-control", command, self.directory.path())
    }
}

// === impl Proxy ===

impl Proxy {
    /// The process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the proxy runs")
    }

    /// The process, to be ended or waited for.
    pub fn process_mut(&mut self) -> &mut Process {
        self.process.as_mut().expect("the proxy runs")
    }

    /// The outbound port.
    pub fn outbound(&self) -> SocketAddr {
        self.outbound.address()
    }

    /// The inbound port.
    pub fn inbound(&self) -> SocketAddr {
        self.inbound.unwrap_or_else(|| panic!("{} serves nothing", self.uid))
    }

    /// The loopback admin port.
    pub fn admin(&self) -> SocketAddr {
        self.admin.address()
    }

    /// The port of `/metrics`, `/ready` and `/live`.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics.address()
    }

    /// The settings file.
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

    /// A scrape.
    pub async fn metrics(&self) -> Metrics {
        let response = client::fetch(self.metrics.address(), "/metrics").await.expect("metrics answer");
        assert_eq!(response.status(), 200);
        Metrics::parse(&response.text())
    }

    /// Whether `/ready` says so; `None` when nothing answers.
    pub async fn ready(&self) -> Option<bool> {
        Some(client::fetch(self.metrics.address(), "/ready").await.ok()?.status() == 200)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// The program with these settings, to be started by a test in its own way.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&binaries().proxy);
        command.arg("--config").arg(&self.settings).args(arguments);
        command
    }

    /// The unix socket that takes changes.
    pub fn admin_socket(&self) -> PathBuf {
        self.directory.join("state").join("admin.sock")
    }

    /// Starts it again without waiting.
    pub fn spawn(&mut self) {
        self.kill();
        let command = self.command(&[]);
        self.process = Some(Process::start(&self.uid, command, &self.directory));
    }

    /// Starts it again and waits until it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.wait_ready().await;
    }

    /// Waits until it is ready.
    pub async fn wait_ready(&mut self) {
        let address = self.metrics.address();
        let process = self.process.as_mut().expect("the proxy runs");
        ready(&self.uid, process, || client::fetch(address, "/ready")).await;
    }

    /// The access log so far, one JSON value per line.
    pub fn access_log(&self) -> Vec<serde_json::Value> {
        let output = self.process().output();
        // A last line without its end is still being written.
        let whole = output.rfind('\n').map_or("", |end| &output[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

/// Waits until `/ready`, which `fetch` asks for, says that it is.
pub(crate) async fn ready<F>(name: &str, process: &mut Process, fetch: impl Fn() -> F)
where
    F: Future<Output = io::Result<Response>>,
{
    let (process, last) = (RefCell::new(process), RefCell::new(String::new()));
    let not_ready = || format!("{name} is ready ({}):\n{}", last.borrow(), process.borrow().log());
    wait::eventually_or(not_ready, async || {
        match fetch().await {
            Ok(response) if response.status() == 200 => return Some(()),
            Ok(response) => *last.borrow_mut() = response.text(),
            Err(_) => {}
        }
        let mut process = process.borrow_mut();
        if let Some(status) = process.ended() {
            panic!("{name} ended before it was ready ({status}):\n{}", process.log());
        }
        None
    })
    .await;
}

/// An AuthorizationPolicy in namespace `shop` for the workloads with `app: APP`. `rules` is the list
/// in flow YAML.
pub fn authorization(name: &str, app: &str, action: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: {name}, namespace: \
         shop }}\nspec:\n  selector: {{ matchLabels: {{ app: {app} }} }}\n  action: {action}\n  rules: {rules}\n"
    )
}

/// An HTTPRoute in namespace `shop` for the service SERVICE of that namespace. `rules` is the list in
/// flow YAML.
pub fn route(name: &str, service: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: shop \
         }}\nspec:\n  parentRefs: [{{ group: '', kind: Service, name: {service} }}]\n  rules: {rules}\n"
    )
}

/// A PeerAuthentication in namespace `shop` for the workloads with `app: APP`.
pub fn peer_authentication(name: &str, app: &str, mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: {name}, namespace: \
         shop }}\nspec:\n  selector: {{ matchLabels: {{ app: {app} }} }}\n  mtls: {{ mode: {mode} }}\n"
    )
}

/// Writes a file beside its place and renames it there.
pub fn write_atomically(directory: &Path, name: &str, text: &str) {
    // Dot files are no policies.
    let temporary = directory.join(format!(".{name}.new"));
    fs::write(&temporary, text).expect("a file must be written");
    fs::rename(&temporary, directory.join(name)).expect("a file must be renamed");
}

/// Starts everything that `builder` collected.
async fn start(builder: Builder) -> Mesh {
    let directory = tempfile::Builder::new().prefix("weft-test-").tempdir().expect("a directory");
    let mut mesh = Mesh {
        proxies: BTreeMap::new(),
        control: None,
        listen: Port::claim(),
        admin: Port::claim(),
        certificate_lifetime: builder.certificate_lifetime.clone(),
        control_arguments: builder.control_arguments.clone(),
        directory,
    };
    fs::create_dir(mesh.policies()).expect("a directory");
    let mut text = mesh_config(builder.mesh_config.as_deref());
    text.extend(builder.services.iter().map(|service| service.document()));
    for workload in &builder.workloads {
        text += &add(&mut mesh, workload);
    }
    mesh.write_policy("mesh", &text);
    for (name, text) in &builder.policies {
        mesh.write_policy(name, text);
    }
    mesh.start_control().await;
    let names: Vec<_> = mesh.proxies.keys().cloned().collect();
    for uid in &names {
        let token = mesh.token(uid, None).await;
        let proxy = mesh.proxy_mut(uid);
        write_private(&proxy.directory.join("token"), &token);
        proxy.spawn();
    }
    for uid in &names {
        mesh.proxy_mut(uid).wait_ready().await;
    }
    mesh
}

/// Gives the workload its ports, writes its settings, and returns its document.
fn add(mesh: &mut Mesh, workload: &Workload) -> String {
    let uid = &workload.described.uid;
    let mut ports = Vec::new();
    let mut claim = || {
        let port = Port::claim();
        let address = port.address();
        ports.push(port);
        address
    };
    let inbound = match workload.proxied {
        Proxied::Yes => workload.application.map(|_| claim()),
        Proxied::No | Proxied::Impostor => workload.application,
    };
    let ip = inbound.map_or_else(|| "127.0.0.1".to_owned(), |address| address.ip().to_string());
    let serves: Vec<_> = inbound
        .iter()
        .map(|inbound| {
            let declared = declared("protocol", &workload.protocol);
            format!("{{ name: {PORT_NAME}, port: {}{declared} }}", inbound.port())
        })
        .collect();
    let injected = workload.proxied != Proxied::No;
    let document = workload.described.document(&format!("address: {ip}"), injected, &serves);
    if workload.proxied != Proxied::Yes {
        return document;
    }
    let services: Vec<_> = workload.calls.iter().map(|(name, port)| (name.clone(), *port, claim())).collect();
    let directory = mesh.directory.path().join(uid.replace('/', "."));
    fs::create_dir(&directory).expect("a directory");
    let (outbound, metrics, admin) = (Port::claim(), Port::claim(), Port::claim());
    let text = Settings {
        workload: uid,
        control: mesh.listen.address(),
        roots: &mesh.state().join("roots.pem").to_string_lossy(),
        token: &directory.join("token").to_string_lossy(),
        state: &directory.join("state").to_string_lossy(),
        outbound: outbound.address(),
        connect_timeout: &workload.connect_timeout,
        services: &services,
        inbound: inbound.zip(workload.application),
        metrics: metrics.address(),
        admin: admin.address(),
        extra: &workload.settings,
    }
    .text();
    let settings = directory.join("proxy.yaml");
    fs::write(&settings, text).expect("a settings file must be written");
    let proxy = Proxy {
        process: None,
        settings,
        directory,
        uid: uid.clone(),
        outbound,
        inbound,
        services,
        metrics,
        admin,
        _ports: ports,
    };
    mesh.proxies.insert(uid.clone(), proxy);
    document
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).expect("a file must be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("permissions must be set");
}
