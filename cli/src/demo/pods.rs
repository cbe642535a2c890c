//! The demo's mesh in pods: a network namespace for each workload, in it an application that knows
//! nothing of a mesh and a proxy that its connections are redirected to. Beside them the control API, a
//! node that probes, and a machine outside of the mesh. Ended by their own ids when this is dropped.

use super::app;
use super::http::{self, Connection, Response};
use super::mesh::{Process, Programs, prepare_output};
use super::metrics::Metrics;
use super::plan::{CONTROL_ADMIN_PORT, CONTROL_PORT, METRICS_PORT, NODE, Plan, PlannedWorkload};
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use weft_pods::{Network, Pod};

/// The control API's pod.
const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A machine that is not in the mesh.
const OUTSIDER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);

/// How long a program in a pod waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The mark by which the rules know the proxy's own connections.
const MARK: &str = "mark:0x77";

/// The running mesh.
#[derive(Debug)]
pub(crate) struct PodMesh {
    // Dropped in this order: processes first, then what they use.
    members: BTreeMap<String, Member>,
    control: Process,
    control_pod: Pod,
    /// Where the kubelet is.
    pub(crate) node: Pod,
    /// A machine that is not in the mesh.
    pub(crate) outsider: Pod,
    names: BTreeMap<String, SocketAddr>,
    /// Whether programs find Services by their names.
    pub(crate) named: bool,
    directory: tempfile::TempDir,
    programs: Programs,
    _network: Network,
}

/// One pod with its application and proxy.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) uid: String,
    pub(crate) identity: String,
    pub(crate) pod: Pod,
    /// The application's port.
    port: Option<u16>,
    version: String,
    directory: PathBuf,
    proxy: Option<Process>,
    server: Option<Process>,
}

impl PodMesh {
    /// Starts everything and waits until every proxy is ready.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let programs = Programs::find()?;
        let directory = tempfile::Builder::new().prefix("weft-demo-").tempdir()?;
        let plan = Plan::in_pods()?;
        let policies = directory.path().join("policies");
        fs::create_dir(&policies)?;
        for file in &plan.files {
            fs::write(policies.join(&file.name), &file.text)?;
        }
        let named = name(&plan, directory.path());
        let network = Network::new().await?;
        let (control_pod, node) = (network.pod(CONTROL).await?, network.pod(NODE).await?);
        let outsider = network.pod(OUTSIDER).await?;
        let mut command = Command::new(&programs.control);
        command.arg("--policies").arg(&policies).arg("--state").arg(directory.path().join("state"));
        command.args(["--listen", &SocketAddr::from((CONTROL, CONTROL_PORT)).to_string()]);
        command.args(["--admin-listen", &loopback(CONTROL_ADMIN_PORT).to_string()]);
        prepare_output(&mut command, directory.path(), "weft-control")?;
        let control = Process(control_pod.spawn(command).context("starting weft-control")?);
        let names = plan.services.iter().cloned().collect();
        let mut mesh = Self {
            members: BTreeMap::new(),
            control,
            control_pod,
            node,
            outsider,
            names,
            named,
            directory,
            programs,
            _network: network,
        };
        let log = mesh.directory.path().join("weft-control.log");
        let asks = async || is_ready(&mesh.control_pod, CONTROL_ADMIN_PORT).await;
        mesh.control.ready_when("weft-control", &log, asks).await?;
        for workload in &plan.workloads {
            let member = mesh.prepare(workload).await?;
            mesh.members.insert(member.uid.clone(), member);
        }
        let uids: Vec<_> = mesh.members.keys().cloned().collect();
        for uid in &uids {
            mesh.launch(uid)?;
        }
        for uid in &uids {
            mesh.wait_ready(uid).await?;
        }
        Ok(mesh)
    }

    /// A workload of the example.
    pub(crate) fn member(&self, uid: &str) -> anyhow::Result<&Member> {
        self.members.get(uid).with_context(|| format!("the example has no workload {uid}"))
    }

    /// All workloads by UID.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The policy directory.
    pub(crate) fn policies(&self) -> PathBuf {
        self.directory.path().join("policies")
    }

    /// Where a program that calls `host` connects to: what the name means to it.
    pub(crate) fn resolve(&self, host: &str) -> anyhow::Result<SocketAddr> {
        let known = self.names.get(host).with_context(|| format!("the example has no service {host}"))?;
        if !self.named {
            return Ok(*known);
        }
        let found = (host, known.port()).to_socket_addrs().with_context(|| format!("looking up {host}"))?;
        found.into_iter().next().with_context(|| format!("{host} has no address"))
    }

    /// Kills a workload's proxy as a crash would.
    pub(crate) fn kill_proxy(&mut self, uid: &str) -> anyhow::Result<()> {
        self.members.get_mut(uid).with_context(|| format!("no workload {uid}"))?.proxy = None;
        Ok(())
    }

    /// Starts what is not running of a workload and waits until it is ready.
    pub(crate) async fn restart(&mut self, uid: &str) -> anyhow::Result<()> {
        self.launch(uid)?;
        self.wait_ready(uid).await
    }

    /// Makes a workload's pod, settings and token.
    async fn prepare(&self, plan: &PlannedWorkload) -> anyhow::Result<Member> {
        let IpAddr::V4(address) = plan.address else { bail!("{} is no IPv4 address", plan.address) };
        let pod = self._network.pod(address).await?;
        let directory = self.directory.path().join(plan.uid.replace('/', "."));
        fs::create_dir(&directory)?;
        let state = self.directory.path().join("state");
        let token = self.programs.make_token(&plan.uid, &state, &directory)?;
        let text = format!(
            "workload: {}\ncontrol:\n  address: {}\n  roots: {}\n  token: {}\nstate: {}\ncapture: {{ mode: transparent \
             }}\nrules: {{ bypass: {MARK} }}\nworkers: 1\naccessLog: all\n",
            plan.uid,
            SocketAddr::from((CONTROL, CONTROL_PORT)),
            state.join("roots.pem").display(),
            token.display(),
            directory.join("state").display(),
        );
        fs::write(directory.join("proxy.yaml"), text)?;
        Ok(Member {
            uid: plan.uid.clone(),
            identity: plan.identity.clone(),
            pod,
            port: plan.port,
            version: plan.version.clone(),
            directory,
            proxy: None,
            server: None,
        })
    }

    /// Starts what is not running of a workload.
    fn launch(&mut self, uid: &str) -> anyhow::Result<()> {
        let programs = &self.programs;
        let member = self.members.get_mut(uid).with_context(|| format!("no workload {uid}"))?;
        if let (None, Some(port)) = (&member.server, member.port) {
            let mut command = Command::new(&programs.own);
            let name = uid.split('/').next_back().unwrap_or(uid);
            let listen = SocketAddr::new(member.pod.address(), port).to_string();
            command.args([
                app::SUBCOMMAND,
                "--name",
                name,
                "--version",
                &member.version,
                "--listen",
                &listen,
            ]);
            member.server = Some(member.start(command, "application")?);
        }
        if member.proxy.is_none() {
            let mut command = Command::new(&programs.proxy);
            command.arg("--config").arg(member.directory.join("proxy.yaml"));
            member.proxy = Some(member.start(command, "weft-proxy")?);
        }
        Ok(())
    }

    async fn wait_ready(&mut self, uid: &str) -> anyhow::Result<()> {
        let member = self.members.get_mut(uid).with_context(|| format!("no workload {uid}"))?;
        let (pod, port, log) = (&member.pod, member.port, member.directory.join("application.log"));
        if let (Some(server), Some(port)) = (&mut member.server, port) {
            let address = SocketAddr::new(pod.address(), port);
            let listens = async || pod.connect(address, CONNECT_TIMEOUT).is_ok();
            server.ready_when(&format!("the application of {uid}"), &log, listens).await?;
        }
        let log = member.directory.join("weft-proxy.log");
        if let Some(proxy) = &mut member.proxy {
            let asks = async || is_ready(pod, METRICS_PORT).await;
            proxy.ready_when(&format!("the proxy of {uid}"), &log, asks).await?;
        }
        Ok(())
    }
}

impl Member {
    /// The application's address and port.
    pub(crate) fn application(&self) -> anyhow::Result<SocketAddr> {
        let port = self.port.with_context(|| format!("{} serves nothing", self.uid))?;
        Ok(SocketAddr::new(self.pod.address(), port))
    }

    /// A process in the pod, for who wants to enter it.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.proxy.as_ref().map(|proxy| proxy.0.id())
    }

    /// What its proxy has counted.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        Metrics::read(fetch(&self.pod, loopback(METRICS_PORT), "/metrics").await?)
    }

    fn start(&self, mut command: Command, name: &str) -> anyhow::Result<Process> {
        prepare_output(&mut command, &self.directory, name)?;
        Ok(Process(self.pod.spawn(command).with_context(|| format!("starting {name}"))?))
    }
}

/// One request of an unmodified program in the pod, which connects to `address` as it would anywhere.
pub(crate) async fn call(
    pod: &Pod,
    address: SocketAddr,
    method: &str,
    url: &str,
) -> anyhow::Result<Response> {
    let stream = pod.connect(address, CONNECT_TIMEOUT).with_context(|| format!("dialling {address}"))?;
    Connection::over(stream)?.send(method, url, &[]).await
}

/// GET of a path on a plain server, from a pod, with the host that was dialled.
pub(crate) async fn fetch(pod: &Pod, address: SocketAddr, path: &str) -> anyhow::Result<Response> {
    let stream = pod.connect(address, CONNECT_TIMEOUT).with_context(|| format!("dialling {address}"))?;
    http::fetch_over(Connection::over(stream)?, &address.to_string(), path).await
}

async fn is_ready(pod: &Pod, port: u16) -> bool {
    fetch(pod, loopback(port), "/ready").await.is_ok_and(|response| response.status == 200)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Lets every program find Services by name; where that is not to be had, they are called by address.
fn name(plan: &Plan, directory: &Path) -> bool {
    let mut text = fs::read_to_string("/etc/hosts").unwrap_or_default();
    for (name, address) in &plan.services {
        text += &format!("\n{} {name} {name}.svc.cluster.local", address.ip());
    }
    let file = directory.join("hosts");
    fs::write(&file, text + "\n").is_ok() && weft_pods::show_names(&file).is_ok()
}
