//! Weft as it ships: the control API on a directory of policy, one proxy beside the client, one beside the server,
//! mTLS between with identities from the mesh's own authority, one authorization rule on identity, method and path,
//! metrics on, one worker. Whatever is not in the texts below is the shipped default.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{Contender, Member, Missing, PolicyFile, Restart, Role, Running, Setting, start_member};
use crate::process::{free_port, write_private};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Workloads are known by their addresses, so each has one of its own.
const CLIENT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 71, 1));
const SERVER_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 71, 2));

/// Few enough that a file stays well below what the control API reads.
const SERVICES_PER_FILE: usize = 5000;

const HOST: &str = "catalog.shop.svc.cluster.local";

pub(super) struct Weft;

/// Where the built programs are.
struct Programs {
    control: PathBuf,
    proxy: PathBuf,
}

// === impl Weft ===

impl Contender for Weft {
    fn name(&self) -> &'static str {
        "weft"
    }

    fn job(&self) -> &'static str {
        "mTLS (SPIFFE), authorization, routing, balancing, retries, metrics: shipped defaults"
    }

    fn missing(&self) -> Option<Missing> {
        let what = "weft-control and weft-proxy are not beside this program".to_owned();
        let install = "cargo build --release -p weft-control -p weft-proxy";
        Programs::find().is_none().then_some(Missing { what, install })
    }

    fn start(&self, setting: &Setting<'_>) -> Result<Running> {
        let programs = Programs::find().context("weft's programs are missing")?;
        let (outbound, inbound) = (free_port(LOOPBACK)?, free_port(SERVER_ADDRESS)?);
        let (outbound_raw, inbound_raw) = (free_port(LOOPBACK)?, free_port(SERVER_ADDRESS)?);
        let mesh = Mesh::start(&programs, setting, inbound, inbound_raw)?;
        let server_configuration = format!(
            "outbound: {{ listen: none }}\n\
             inbound:\n  - {{ listen: \"{inbound}\", application: \"{}\" }}\n  \
             - {{ listen: \"{inbound_raw}\", application: \"{}\" }}\n",
            setting.application, setting.application_raw
        );
        let client_configuration = format!(
            "outbound:\n  listen: \"{}\"\n  services:\n    - {{ service: shop/catalog, port: 80, listen: \"{outbound}\" }}\n    \
             - {{ service: shop/catalog, port: 7, listen: \"{outbound_raw}\" }}\n",
            free_port(LOOPBACK)?
        );
        let (server, again) = mesh.proxy(Role::ServerProxy, "catalog-1", &server_configuration)?;
        let (client, _) = mesh.proxy(Role::ClientProxy, "front-1", &client_configuration)?;
        let policy = PolicyFile {
            path: mesh.policies.join("authorization.yaml"),
            allow: authorization("/items/*", inbound_raw),
            deny: authorization("/elsewhere/*", inbound_raw),
        };
        Ok(Running {
            target: outbound,
            http2_target: outbound,
            tcp_target: Some(outbound_raw),
            host: HOST.to_owned(),
            members: vec![client, server, mesh.control],
            inbound: Some(inbound),
            authorizes: true,
            policy: Some(policy),
            restart: Some(Restart { member: 1, control: 2, command: again }),
            configuration: vec![
                programs.describe(),
                format!(
                    "shipped defaults, {} worker(s), {} other services, sessions {}; one AuthorizationPolicy (principal, method, path; port)",
                    setting.workers,
                    setting.services,
                    if setting.resumption { "resumed" } else { "not resumed" }
                ),
            ],
        })
    }
}

/// The policy directory, first version: who exists, and who may call whom.
fn services(inbound: SocketAddr, inbound_raw: SocketAddr) -> String {
    format!(
        r#"apiVersion: v1
kind: Service
metadata: {{ name: catalog, namespace: shop }}
spec:
  selector: {{ app: catalog }}
  ports:
    - {{ name: http, port: 80, targetPort: {port} }}
    - {{ name: tcp-raw, port: 7, targetPort: {raw} }}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata:
  name: catalog-1
  namespace: shop
  labels: {{ app: catalog }}
spec:
  address: {server}
  ports:
    - {{ name: http, port: {port}, protocol: http }}
    - {{ name: raw, port: {raw}, protocol: tcp }}
  serviceAccount: catalog
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata:
  name: front-1
  namespace: shop
  labels: {{ app: front }}
spec:
  address: {client}
  serviceAccount: front
"#,
        port = inbound.port(),
        raw = inbound_raw.port(),
        server = SERVER_ADDRESS,
        client = CLIENT_ADDRESS,
    )
}

/// Services that nobody calls, each with a workload behind it.
fn others(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for number in numbers {
        let namespace = number % 100;
        let [_, high, middle, low] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            r#"---
apiVersion: v1
kind: Service
metadata: {{ name: other-{number}, namespace: team-{namespace} }}
spec:
  selector: {{ app: other-{number} }}
  ports: [{{ name: http, port: 80, targetPort: 8080 }}]
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {{ name: other-{number}-1, namespace: team-{namespace}, labels: {{ app: other-{number} }} }}
spec:
  address: 10.{high}.{middle}.{low}
  ports: [{{ name: http, port: 8080, protocol: http }}]
  serviceAccount: other
"#
        );
    }
    text
}

fn authorization(path: &str, inbound_raw: SocketAddr) -> String {
    format!(
        r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: front-reads-items, namespace: shop }}
spec:
  selector: {{ matchLabels: {{ app: catalog }} }}
  action: ALLOW
  rules:
    - from:
        - source: {{ principals: ["cluster.local/ns/shop/sa/front"] }}
      to:
        - operation: {{ methods: ["GET", "POST"], paths: ["{path}"] }}
    - from:
        - source: {{ principals: ["cluster.local/ns/shop/sa/front"] }}
      to:
        - operation: {{ ports: ["{raw}"] }}
"#,
        raw = inbound_raw.port(),
    )
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
    fn start(
        programs: &'run Programs,
        setting: &'run Setting<'run>,
        inbound: SocketAddr,
        inbound_raw: SocketAddr,
    ) -> Result<Self> {
        let directory = setting.directory;
        let (policies, state) = (directory.join("policies"), directory.join("control"));
        fs::create_dir_all(&policies)?;
        create_private(&state)?;
        fs::write(policies.join("services.yaml"), services(inbound, inbound_raw))?;
        fs::write(policies.join("authorization.yaml"), authorization("/items/*", inbound_raw))?;
        for first in (0..setting.services).step_by(SERVICES_PER_FILE) {
            let last = setting.services.min(first + SERVICES_PER_FILE);
            fs::write(policies.join(format!("others-{first}.yaml")), others(first..last))?;
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
