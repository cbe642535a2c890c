//! The demo's mesh: real processes on loopback, in one temporary directory, ended by their own ids
//! when this is dropped.

use super::app;
use super::http;
use super::plan::{
    ADMIN_PORT, APPLICATION_PORT, CONTROL_ADMIN_PORT, CONTROL_PORT, Chosen, METRICS_PORT, OUTBOUND_PORT,
    Plan, PlannedWorkload,
};
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a process to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// How often readiness is asked for.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// The running mesh.
#[derive(Debug)]
pub(crate) struct Mesh {
    // Dropped in this order: processes first, then what they use.
    workloads: BTreeMap<String, Workload>,
    control: Process,
    control_admin: SocketAddr,
    directory: tempfile::TempDir,
    programs: Programs,
    _claim: UdpSocket,
}

/// One workload: an application and its proxy.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) uid: String,
    pub(crate) identity: String,
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) application: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) admin: SocketAddr,
    version: String,
    directory: PathBuf,
    proxy: Option<Process>,
    server: Option<Process>,
}

/// A child that ends with its owner.
#[derive(Debug)]
pub(super) struct Process(pub(super) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The programs that are started.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) own: PathBuf,
    pub(super) control: PathBuf,
    pub(super) proxy: PathBuf,
}

impl Programs {
    pub(super) fn find() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("finding this program")?;
        let find = |name: &str| {
            let beside = own.with_file_name(name);
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut candidates = std::iter::once(beside)
                .chain(std::env::split_paths(&path).map(|directory| directory.join(name)));
            candidates
                .find(|candidate| candidate.is_file())
                .with_context(|| format!("{name} is neither beside {} nor on the PATH", own.display()))
        };
        Ok(Self { control: find("weft-control")?, proxy: find("weft-proxy")?, own })
    }

    /// Has the control API make a token for a workload, and puts it into `directory`.
    pub(super) fn make_token(&self, uid: &str, state: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
        let mut command = Command::new(&self.control);
        let output = command.args(["token", "--workload", uid, "--state"]).arg(state).output()?;
        if !output.status.success() {
            bail!("weft-control token: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let token = directory.join("token");
        fs::write(&token, &output.stdout)?;
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
        Ok(token)
    }
}

impl Mesh {
    /// Starts everything and waits until every proxy is ready.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let programs = Programs::find()?;
        let directory = tempfile::Builder::new().prefix("weft-demo-").tempdir()?;
        let Chosen { network, offset, plan, claim } = Plan::choose()?;
        let policies = directory.path().join("policies");
        fs::create_dir(&policies)?;
        for file in &plan.files {
            fs::write(policies.join(&file.name), &file.text)?;
        }
        let address = |port: u16| SocketAddr::from((Ipv4Addr::new(127, network, 0, 1), port + offset));
        let (listen, control_admin) = (address(CONTROL_PORT), address(CONTROL_ADMIN_PORT));
        let state = directory.path().join("state");
        let mut command = Command::new(&programs.control);
        command.arg("--policies").arg(&policies).arg("--state").arg(&state);
        command.args(["--listen", &listen.to_string(), "--admin-listen", &control_admin.to_string()]);
        let control = spawn(command, directory.path(), "weft-control")?;
        let workloads = BTreeMap::new();
        let mut mesh = Self { workloads, control, control_admin, directory, programs, _claim: claim };
        mesh.wait_control().await?;
        for workload in &plan.workloads {
            let running = mesh.prepare(workload, listen, offset)?;
            mesh.workloads.insert(running.uid.clone(), running);
        }
        let uids: Vec<_> = mesh.workloads.keys().cloned().collect();
        for uid in &uids {
            mesh.launch(uid)?;
        }
        for uid in &uids {
            mesh.wait_ready(uid).await?;
        }
        Ok(mesh)
    }

    /// A workload of the example.
    pub(crate) fn workload(&self, uid: &str) -> anyhow::Result<&Workload> {
        self.workloads.get(uid).with_context(|| format!("the example has no workload {uid}"))
    }

    /// All workloads by UID.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values()
    }

    /// How many processes run.
    pub(crate) fn processes(&self) -> usize {
        let of = |workload: &Workload| {
            usize::from(workload.proxy.is_some()) + usize::from(workload.server.is_some())
        };
        1 + self.workloads.values().map(of).sum::<usize>()
    }

    /// The policy directory.
    pub(crate) fn policies(&self) -> PathBuf {
        self.directory.path().join("policies")
    }

    /// Where the control API's metrics and status are.
    pub(crate) fn control_admin(&self) -> SocketAddr {
        self.control_admin
    }

    /// The control API's process id.
    pub(crate) fn control_id(&self) -> u32 {
        self.control.0.id()
    }

    /// Replaces a policy file in one step, as an editor or `kubectl` does.
    pub(crate) fn write_policy(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let directory = self.policies();
        let temporary = directory.join(format!(".{name}.new"));
        fs::write(&temporary, text)?;
        fs::rename(&temporary, directory.join(name))?;
        Ok(())
    }

    /// Kills a workload as a crash would: its proxy, and the application too unless it is kept.
    pub(crate) fn kill(&mut self, uid: &str, application_too: bool) -> anyhow::Result<()> {
        let workload = self.workloads.get_mut(uid).with_context(|| format!("no workload {uid}"))?;
        workload.proxy = None;
        if application_too {
            workload.server = None;
        }
        Ok(())
    }

    /// Starts what is not running of a workload and waits until it is ready.
    pub(crate) async fn restart(&mut self, uid: &str) -> anyhow::Result<()> {
        self.launch(uid)?;
        self.wait_ready(uid).await
    }

    /// The access log of a workload's proxy.
    pub(crate) fn access_log(&self, uid: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        let text = fs::read_to_string(self.workload(uid)?.directory.join("weft-proxy.out"))?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Writes a workload's settings and token.
    fn prepare(&self, plan: &PlannedWorkload, control: SocketAddr, offset: u16) -> anyhow::Result<Workload> {
        let directory = self.directory.path().join(plan.uid.replace('/', "."));
        fs::create_dir(&directory)?;
        let state = self.directory.path().join("state");
        let token = self.programs.make_token(&plan.uid, &state, &directory)?;
        let at = |port| SocketAddr::new(plan.address, port);
        let workload = Workload {
            uid: plan.uid.clone(),
            identity: plan.identity.clone(),
            outbound: at(OUTBOUND_PORT + offset),
            inbound: plan.port.map(at),
            application: at(APPLICATION_PORT),
            metrics: at(METRICS_PORT + offset),
            admin: at(ADMIN_PORT + offset),
            version: plan.version.clone(),
            proxy: None,
            server: None,
            directory,
        };
        let mut text = format!(
            "workload: {}\ncontrol:\n  address: {control}\n  roots: {}\n  token: {}\noutbound: {{ listen: \"{}\" \
             }}\nmetrics: {{ listen: \"{}\" }}\nadmin: {{ listen: \"{}\" }}\nstate: {}\nworkers: 1\n",
            workload.uid,
            state.join("roots.pem").display(),
            token.display(),
            workload.outbound,
            workload.metrics,
            workload.admin,
            workload.directory.join("state").display(),
        );
        if let Some(inbound) = workload.inbound {
            text += &format!(
                "inbound:\n  - {{ listen: \"{inbound}\", application: \"{}\" }}\n",
                workload.application
            );
        }
        fs::write(workload.directory.join("proxy.yaml"), text)?;
        Ok(workload)
    }

    /// Starts what is not running of a workload.
    fn launch(&mut self, uid: &str) -> anyhow::Result<()> {
        let programs = &self.programs;
        let workload = self.workloads.get_mut(uid).with_context(|| format!("no workload {uid}"))?;
        if workload.server.is_none() && workload.inbound.is_some() {
            let mut command = Command::new(&programs.own);
            let name = uid.split('/').next_back().unwrap_or(uid);
            let listen = workload.application.to_string();
            command.args([
                app::SUBCOMMAND,
                "--name",
                name,
                "--version",
                &workload.version,
                "--listen",
                &listen,
            ]);
            workload.server = Some(spawn(command, &workload.directory, "application")?);
        }
        if workload.proxy.is_none() {
            let mut command = Command::new(&programs.proxy);
            command.arg("--config").arg(workload.directory.join("proxy.yaml"));
            workload.proxy = Some(spawn(command, &workload.directory, "weft-proxy")?);
        }
        Ok(())
    }

    async fn wait_control(&mut self) -> anyhow::Result<()> {
        let log = self.directory.path().join("weft-control.log");
        self.control.ready("weft-control", self.control_admin, &log).await
    }

    async fn wait_ready(&mut self, uid: &str) -> anyhow::Result<()> {
        let workload = self.workloads.get_mut(uid).with_context(|| format!("no workload {uid}"))?;
        let directory = &workload.directory;
        if let Some(server) = &mut workload.server {
            let name = format!("the application of {uid}");
            server.ready(&name, workload.application, &directory.join("application.log")).await?;
        }
        if let Some(proxy) = &mut workload.proxy {
            let name = format!("the proxy of {uid}");
            proxy.ready(&name, workload.metrics, &directory.join("weft-proxy.log")).await?;
        }
        Ok(())
    }
}

impl Process {
    /// Waits until `/ready` answers 200; else shows the end of the log.
    async fn ready(&mut self, name: &str, address: SocketAddr, log: &Path) -> anyhow::Result<()> {
        let asks = async || http::fetch(address, "/ready").await.is_ok_and(|response| response.status == 200);
        self.ready_when(name, log, asks).await
    }

    /// Waits until `is_ready` says so; else shows the end of the log.
    pub(super) async fn ready_when(
        &mut self,
        name: &str,
        log: &Path,
        is_ready: impl AsyncFn() -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let what = loop {
            if let Some(status) = self.0.try_wait()? {
                break format!("ended at once ({status})");
            }
            if is_ready().await {
                return Ok(());
            }
            if start.elapsed() > READY_TIMEOUT {
                break format!("is not ready after {READY_TIMEOUT:?}");
            }
            tokio::time::sleep(READY_INTERVAL).await;
        };
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(10)..].join("\n");
        bail!("{name} {what}; the end of its log:\n{end}")
    }
}

fn spawn(mut command: Command, directory: &Path, name: &str) -> anyhow::Result<Process> {
    prepare_output(&mut command, directory, name)?;
    Ok(Process(command.spawn().with_context(|| format!("starting {name}"))?))
}

/// Sends what a program says into files, and keeps the terminal's signals from it.
pub(super) fn prepare_output(command: &mut Command, directory: &Path, name: &str) -> anyhow::Result<()> {
    let open = |extension: &str| {
        File::options().create(true).append(true).open(directory.join(format!("{name}.{extension}")))
    };
    command.stdin(Stdio::null()).stdout(open("out")?).stderr(open("log")?);
    // A Ctrl-C goes to the whole terminal; the children are ended by the demo, in its order.
    std::os::unix::process::CommandExt::process_group(command, 0);
    Ok(())
}
