//! Weft as it ships: the control API on a directory of policy (the demo's shop, see [`policy`]), one proxy beside the
//! client, one beside the server, mTLS between with identities from the mesh's own authority, metrics on. Whatever is
//! not in the texts below is the shipped default.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{Contender, Member, Missing, PolicyFile, Restart, Role, Running, Setting, start_member};
use crate::process::{free_port, write_private};
use policy::Ports;

mod policy;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Workloads are known by their addresses, so each has one of its own.
const CLIENT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 71, 1));
const SERVER_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 71, 2));

/// Few enough that a file stays well below what the control API reads.
const SERVICES_PER_FILE: usize = 5000;

const HOST: &str = "catalog.shop.svc.cluster.local";

/// How many services the client's side calls: the catalog, and these besides.
const SERVICES_BESIDES: usize = 4;

pub(super) struct Weft {
    name: &'static str,
    job: &'static str,
    /// Threads of each proxy; `None`: as many as the run says.
    workers: Option<usize>,
}

/// Where the built programs are.
struct Programs {
    control: PathBuf,
    proxy: PathBuf,
}

// === impl Weft ===

impl Weft {
    pub(super) fn with_one_worker() -> Self {
        let job = "mTLS (SPIFFE), authorization, routing, balancing, retries, metrics: shipped defaults";
        Self { name: "weft", job, workers: None }
    }

    pub(super) fn with_two_workers() -> Self {
        Self { name: "weft-w2", job: "the same with two workers in each proxy", workers: Some(2) }
    }
}

impl Contender for Weft {
    fn name(&self) -> &'static str {
        self.name
    }

    fn job(&self) -> &'static str {
        self.job
    }

    fn missing(&self) -> Option<Missing> {
        let what = "weft-control and weft-proxy are not beside this program".to_owned();
        let install = "cargo build --release -p weft-control -p weft-proxy";
        Programs::find().is_none().then_some(Missing { what, install })
    }

    fn start(&self, setting: &Setting<'_>) -> Result<Running> {
        let programs = Programs::find().context("weft's programs are missing")?;
        let setting = &Setting { workers: self.workers.unwrap_or(setting.workers), ..*setting };
        let (outbound, outbound_grpc, outbound_raw) =
            (free_port(LOOPBACK)?, free_port(LOOPBACK)?, free_port(LOOPBACK)?);
        let inbound = Ports {
            http: free_port(SERVER_ADDRESS)?,
            grpc: free_port(SERVER_ADDRESS)?,
            raw: free_port(SERVER_ADDRESS)?,
        };
        let mesh = Mesh::start(&programs, setting, &inbound)?;
        let server_configuration = format!(
            "outbound: {{ listen: none }}\n\
             inbound:\n  - {{ listen: \"{http}\", application: \"{application}\" }}\n  \
             - {{ listen: \"{grpc}\", application: \"{application}\" }}\n  \
             - {{ listen: \"{raw}\", application: \"{}\" }}\n",
            setting.application_raw,
            http = inbound.http,
            grpc = inbound.grpc,
            raw = inbound.raw,
            application = setting.application,
        );
        let mut client_configuration = format!(
            "outbound:\n  listen: \"{}\"\n  services:\n    - {{ service: shop/catalog, port: 80, listen: \"{outbound}\" }}\n    \
             - {{ service: shop/catalog, port: 50051, listen: \"{outbound_grpc}\" }}\n    \
             - {{ service: shop/catalog, port: 7, listen: \"{outbound_raw}\" }}\n",
            free_port(LOOPBACK)?
        );
        let mut also = Vec::new();
        for number in 1..=SERVICES_BESIDES {
            let listen = free_port(LOOPBACK)?;
            let line = format!("    - {{ service: shop/used-{number}, port: 80, listen: \"{listen}\" }}\n");
            client_configuration.push_str(&line);
            also.push((listen, format!("used-{number}.shop.svc.cluster.local")));
        }
        let (server, again) = mesh.proxy(Role::ServerProxy, "catalog-1", &server_configuration)?;
        let (client, _) = mesh.proxy(Role::ClientProxy, "front-1", &client_configuration)?;
        let policy = PolicyFile {
            path: mesh.policies.join("authorization.yaml"),
            allow: policy::authorization("/items*", &inbound),
            deny: policy::authorization("/elsewhere*", &inbound),
        };
        Ok(Running {
            target: outbound,
            http2_target: outbound,
            grpc_target: Some(outbound_grpc),
            also,
            tcp_target: Some(outbound_raw),
            host: HOST.to_owned(),
            members: vec![client, server, mesh.control],
            inbound: Some(inbound.http),
            authorizes: true,
            policy: Some(policy),
            restart: Some(Restart { member: 1, control: 2, command: again }),
            configuration: vec![
                programs.describe(),
                format!(
                    "shipped defaults, {} worker(s), {} services in use and {} others, sessions {}",
                    setting.workers,
                    SERVICES_BESIDES + 1,
                    setting.services,
                    if setting.resumption { "resumed" } else { "not resumed" }
                ),
                policy::DESCRIPTION.to_owned(),
            ],
        })
    }
}

/// A proxy's configuration file, less what differs between the two sides.
fn proxy_configuration(
    workload: &str,
    mesh: &MeshPaths,
    directory: &Path,
    metrics: SocketAddr,
    admin: SocketAddr,
    setting: &Setting<'_>,
) -> String {
    let sessions = if setting.resumption { "" } else { "tls: { sessionResumption: off }\n" };
    format!(
        r#"workload: shop/{workload}
control:
  address: "{control}"
  roots: {roots}
  token: {token}
metrics: {{ listen: "{metrics}" }}
admin: {{ listen: "{admin}" }}
state: {state}
workers: {workers}
{sessions}"#,
        workers = setting.workers,
        control = mesh.listen,
        roots = mesh.state.join("roots.pem").display(),
        token = directory.join("token").display(),
        state = directory.join("state").display(),
    )
}

/// The control API and what is needed to start proxies under it.
struct Mesh<'run> {
    programs: &'run Programs,
    directory: &'run Path,
    setting: &'run Setting<'run>,
    policies: PathBuf,
    paths: MeshPaths,
    control: Member,
}

struct MeshPaths {
    listen: SocketAddr,
    state: PathBuf,
}

// === impl Mesh ===

impl<'run> Mesh<'run> {
    fn start(programs: &'run Programs, setting: &'run Setting<'run>, inbound: &Ports) -> Result<Self> {
        let directory = setting.directory;
        let (policies, state) = (directory.join("policies"), directory.join("control"));
        fs::create_dir_all(&policies)?;
        create_private(&state)?;
        fs::write(policies.join("mesh.yaml"), policy::MESH)?;
        fs::write(policies.join("services.yaml"), policy::services(SERVICES_BESIDES))?;
        fs::write(
            policies.join("workloads.yaml"),
            policy::workloads(CLIENT_ADDRESS, SERVER_ADDRESS, inbound),
        )?;
        fs::write(policies.join("routes.yaml"), policy::ROUTES)?;
        fs::write(policies.join("authorization.yaml"), policy::authorization("/items*", inbound))?;
        for first in (0..setting.services).step_by(SERVICES_PER_FILE) {
            let last = setting.services.min(first + SERVICES_PER_FILE);
            fs::write(policies.join(format!("others-{first}.yaml")), policy::others(first..last))?;
        }
        let (listen, admin) = (free_port(LOOPBACK)?, free_port(LOOPBACK)?);
        let mut command = Command::new(&programs.control);
        command.arg("--policies").arg(&policies).arg("--state").arg(&state);
        command.args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string()]);
        let control = start_member(Role::Control, "weft-control", directory, &mut command, admin, "/ready")?;
        Ok(Self { programs, directory, setting, policies, paths: MeshPaths { listen, state }, control })
    }

    /// Starts a proxy; also how to start it again.
    fn proxy(&self, role: Role, workload: &str, side: &str) -> Result<(Member, Box<dyn Fn() -> Command>)> {
        let directory = self.directory.join(workload);
        create_private(&directory)?;
        create_private(&directory.join("state"))?;
        write_private(&directory.join("token"), &self.token(workload)?)?;
        let (metrics, admin) = (free_port(LOOPBACK)?, free_port(LOOPBACK)?);
        let file = directory.join("proxy.yaml");
        let common = proxy_configuration(workload, &self.paths, &directory, metrics, admin, self.setting);
        write_private(&file, &format!("{common}{side}"))?;
        let program = self.programs.proxy.clone();
        let again = file.clone();
        let mut first = match self.setting.counted {
            Some(counted) => counted(&program, &directory),
            None => Command::new(&program),
        };
        let command = Box::new(move || {
            let mut command = Command::new(&program);
            command.arg("--config").arg(&again);
            command
        });
        let name = format!("weft-proxy-{workload}");
        first.arg("--config").arg(&file);
        let member = start_member(role, &name, self.directory, &mut first, metrics, "/ready")?;
        Ok((member, command))
    }

    fn token(&self, workload: &str) -> Result<String> {
        let output = Command::new(&self.programs.control)
            .args(["token", "--workload", &format!("shop/{workload}"), "--state"])
            .arg(&self.paths.state)
            .output()
            .context("cannot run weft-control token")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "no token for {workload}: {}", complaint.trim());
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

fn create_private(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot create {}", directory.display()))
}

// === impl Programs ===

impl Programs {
    /// Told by WEFT_BENCH_PROGRAMS, or else beside this program: built by the same profile.
    fn find() -> Option<Self> {
        let directory = match std::env::var_os("WEFT_BENCH_PROGRAMS") {
            Some(told) => PathBuf::from(told),
            None => std::env::current_exe().ok()?.parent()?.to_owned(),
        };
        let programs = Self { control: directory.join("weft-control"), proxy: directory.join("weft-proxy") };
        (programs.control.is_file() && programs.proxy.is_file()).then_some(programs)
    }

    fn describe(&self) -> String {
        let megabytes = |path: &Path| fs::metadata(path).map_or(0.0, |metadata| metadata.len() as f64 / 1e6);
        format!(
            "weft-proxy {:.1} MB, weft-control {:.1} MB",
            megabytes(&self.proxy),
            megabytes(&self.control)
        )
    }
}
