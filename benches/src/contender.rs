//! Who is measured. Each contender starts the same topology: client → client-side proxy → (mTLS) → server-side
//! proxy → application, and says plainly where its job is smaller than the mesh's.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    certificates::Certificates,
    facts,
    process::{Owned, wait_until},
};

mod direct;
mod envoy;
mod haproxy;
mod nginx;
mod weft;

/// Long, since a proxy may run under callgrind on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(120);

pub(crate) trait Contender {
    fn name(&self) -> &'static str;

    /// What it does for a request, in one line.
    fn job(&self) -> &'static str;

    /// Why it cannot take part here, and the command that would change that.
    fn missing(&self) -> Option<Missing>;

    fn start(&self, setting: &Setting<'_>) -> Result<Running>;
}

pub(crate) struct Missing {
    pub(crate) what: String,
    pub(crate) install: &'static str,
}

/// Makes the command that runs a program so that its instructions are counted, in a directory.
pub(crate) type Counted = dyn Fn(&Path, &Path) -> Command;

/// What a contender is started into.
pub(crate) struct Setting<'run> {
    /// Its own directory, gone after the run.
    pub(crate) directory: &'run Path,
    pub(crate) application: SocketAddr,
    /// Where the application takes opaque exchanges.
    pub(crate) application_raw: SocketAddr,
    pub(crate) certificates: &'run Certificates,
    /// Connections that a proxy's file descriptors allow, with one descriptor for each.
    pub(crate) connections_max: u64,
    /// Threads of each proxy.
    pub(crate) workers: usize,
    /// Whether TLS sessions may be resumed.
    pub(crate) resumption: bool,
    /// Services of the mesh besides the ones in use.
    pub(crate) services: usize,
    /// How a proxy is started so that its instructions are counted: its program, its directory.
    pub(crate) counted: Option<&'run Counted>,
}

/// A started contender; dropping it ends its processes.
pub(crate) struct Running {
    /// Where the client connects.
    pub(crate) target: SocketAddr,
    /// Where it connects with cleartext HTTP/2; the same unless the contender needs a port for each.
    pub(crate) http2_target: SocketAddr,
    /// Where it calls gRPC; `None` where trailers do not pass the wire between.
    pub(crate) grpc_target: Option<SocketAddr>,
    /// Where it connects with opaque bytes; `None` where the contender carries none.
    pub(crate) tcp_target: Option<SocketAddr>,
    pub(crate) host: String,
    /// Other services in use: each is asked once before anything is measured.
    pub(crate) also: Vec<(SocketAddr, String)>,
    /// In the order of the request's way; what is not in its way comes last.
    pub(crate) members: Vec<Member>,
    /// Where the server-side proxy listens, if it must refuse plaintext there.
    pub(crate) inbound: Option<SocketAddr>,
    /// Whether `/forbidden` must be refused.
    pub(crate) authorizes: bool,
    pub(crate) policy: Option<PolicyFile>,
    /// How the server-side proxy is started again from what it keeps; `None` where nothing is kept.
    pub(crate) restart: Option<Restart>,
    /// The configuration that ran, in lines for people.
    pub(crate) configuration: Vec<String>,
}

pub(crate) struct Member {
    pub(crate) role: Role,
    pub(crate) process: Owned,
    pub(crate) ready_after: Duration,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    ClientProxy,
    ServerProxy,
    /// Beside the request's way: not part of the pair's figure.
    Control,
}

/// A proxy that is killed and started again while nothing that configures it is there.
pub(crate) struct Restart {
    /// Which member.
    pub(crate) member: usize,
    /// Which member is gone meanwhile.
    pub(crate) control: usize,
    pub(crate) command: Box<dyn Fn() -> Command>,
}

/// A policy that can be edited while it is in force.
pub(crate) struct PolicyFile {
    pub(crate) path: PathBuf,
    pub(crate) allow: String,
    pub(crate) deny: String,
}

/// What is ours.
pub(crate) fn weft() -> impl Contender {
    weft::Weft::with_one_worker()
}

pub(crate) fn all() -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(weft::Weft::with_one_worker()),
        Box::new(weft::Weft::with_two_workers()),
        Box::new(envoy::Envoy::over_http1()),
        Box::new(envoy::Envoy::over_http2()),
        Box::new(nginx::Nginx),
        Box::new(haproxy::Haproxy),
        Box::new(direct::Direct),
    ]
}

/// The directory that `install-peers.sh` fills: `peers` beside the directory this program was built into.
fn peers_directory() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.parent()?.join("peers"))
}

/// The first program of that name in PATH.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}

/// A program from Debian: installed, or unpacked by `install-peers.sh` together with its libraries.
fn debian_program(name: &str) -> Option<(PathBuf, Option<PathBuf>)> {
    if let Some(installed) = in_path(name) {
        return Some((installed, None));
    }
    let root = peers_directory()?.join("debian");
    let program = root.join("usr/sbin").join(name);
    program.is_file().then(|| (program, Some(root.join("usr/lib"))))
}

/// A command for such a program, with its libraries in reach.
fn debian_command((program, libraries): &(PathBuf, Option<PathBuf>)) -> Command {
    let mut command = Command::new(program);
    if let Some(libraries) = libraries {
        let architecture = libraries.join(format!("{}-linux-gnu", std::env::consts::ARCH));
        command.env("LD_LIBRARY_PATH", architecture);
    }
    command
}

/// Starts a process in the request's way and waits until `admin` says that it is ready at `path`.
fn start_member(
    role: Role,
    name: &str,
    directory: &Path,
    command: &mut Command,
    admin: SocketAddr,
    path: &str,
) -> Result<Member> {
    let process = Owned::start(name, directory, command)?;
    let ready_after = wait_until(&format!("{name} ready"), READY_WITHIN, || {
        process.check_running()?;
        Ok(facts::status(admin, "localhost", path).is_ok_and(|status| status == 200))
    })?;
    Ok(Member { role, process, ready_after })
}

// === impl Running ===

impl Running {
    /// Fails if a process has ended.
    pub(crate) fn check(&self) -> Result<()> {
        self.members.iter().try_for_each(|member| member.process.check_running())
    }
}

// === impl Role ===

impl Role {
    pub(crate) fn is_proxy(self) -> bool {
        matches!(self, Self::ClientProxy | Self::ServerProxy)
    }
}
