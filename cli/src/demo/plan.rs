//! Which workloads the demo has and where: the example, on a loopback network of its own.
//!
//! Each workload has a loopback address of its own, as a pod has; so every proxy uses the usual
//! ports. The whole 127.0.x.y plan moves to another 127.n.x.y when somebody else is there already.

use anyhow::bail;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use weft_config::SourceFile;

/// The example, built in so that the installed command works anywhere.
const POLICIES: [(&str, &str); 5] = [
    ("mesh.yaml", include_str!("../../../examples/shop/mesh.yaml")),
    ("services.yaml", include_str!("../../../examples/shop/services.yaml")),
    ("workloads.yaml", include_str!("../../../examples/shop/workloads.yaml")),
    ("routes.yaml", include_str!("../../../examples/shop/routes.yaml")),
    ("authorization.yaml", include_str!("../../../examples/shop/authorization.yaml")),
];

/// Where pods are in place of the example's loopback addresses, and where Services are.
const POD_NETWORK: &str = "10.77.";
const SERVICE_NETWORK: &str = "10.76.0.";

/// The kubelet of the pods' node.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

/// How the example writes its loopback addresses.
const EXAMPLE_NETWORK: &str = "127.0.";

/// The application's own port, behind the proxy's.
pub(super) const APPLICATION_PORT: u16 = 3000;

/// The usual ports of the control API and of a proxy.
pub(super) const CONTROL_PORT: u16 = 15010;
pub(super) const CONTROL_ADMIN_PORT: u16 = 15014;
pub(super) const OUTBOUND_PORT: u16 = 15001;
pub(super) const METRICS_PORT: u16 = 15020;
pub(super) const ADMIN_PORT: u16 = 15000;

/// A loopback network for this demo alone. Another demo cannot take it while the claim is held: a UDP
/// socket, so that it is in no program's way.
pub(super) struct Chosen {
    pub(super) network: u8,
    /// What is added to every proxy's and the control API's port.
    pub(super) offset: u16,
    pub(super) plan: Plan,
    pub(super) claim: UdpSocket,
}

/// Which workloads there are and where, as the example says.
pub(super) struct Plan {
    pub(super) files: Vec<SourceFile>,
    /// `NAME.NAMESPACE` of Services with a virtual address.
    pub(super) services: Vec<(String, SocketAddr)>,
    pub(super) workloads: Vec<PlannedWorkload>,
}

pub(super) struct PlannedWorkload {
    pub(super) uid: String,
    pub(super) identity: String,
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
    pub(super) version: String,
}

impl Plan {
    /// The example on a loopback network where all its ports are free.
    pub(super) fn choose() -> anyhow::Result<Chosen> {
        for network in 0..=254 {
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::new(127, network, 0, 1), CONTROL_PORT)) else {
                continue;
            };
            let plan = Self::on(network)?;
            // The usual ports, unless a program holds one of them on all addresses.
            let offset = (0..8).map(|step| step * 1000).find(|offset| plan.is_free(network, *offset));
            if let Some(offset) = offset {
                return Ok(Chosen { network, offset, plan, claim });
            }
        }
        bail!("no loopback network has all the ports free that the demo needs")
    }

    fn on(network: u8) -> anyhow::Result<Self> {
        let moved = format!("127.{network}.");
        let moved = |text: &str| text.replace(EXAMPLE_NETWORK, &moved);
        Self::of(POLICIES.map(|(name, text)| SourceFile { name: name.to_owned(), text: moved(text) }).into())
    }

    /// The example in pods: with virtual addresses for Services, a node, and a probe of the cart.
    pub(super) fn in_pods() -> anyhow::Result<Self> {
        let files = POLICIES.map(|(name, text)| {
            let text = text.replace(EXAMPLE_NETWORK, POD_NETWORK);
            let text = match name {
                "services.yaml" => with_addresses(&text),
                "mesh.yaml" => {
                    text.replace("  trustDomain:", &format!("  nodeCidrs: [{NODE}]\n  trustDomain:"))
                }
                "workloads.yaml" => text.replace(
                    "  serviceAccount: cart\n",
                    "  serviceAccount: cart\n  probes:\n    - httpGet: { path: /healthz, port: http }\n",
                ),
                _ => text,
            };
            SourceFile { name: name.to_owned(), text }
        });
        Self::of(files.into())
    }

    fn of(files: Vec<SourceFile>) -> anyhow::Result<Self> {
        let compilation = weft_config::compile(&files);
        if compilation.has_errors() {
            bail!("{}", weft_config::render(&compilation.diagnostics, &files, false));
        }
        let planned = |workload: &weft_model::workload::Workload| {
            Some(PlannedWorkload {
                uid: workload.uid.as_str().to_owned(),
                identity: workload.identity().to_string(),
                address: *workload.addresses.first()?,
                port: workload.ports.first().map(|port| port.port),
                version: workload.description.version.to_string(),
            })
        };
        let workloads =
            compilation.mesh.workloads.values().filter_map(|workload| planned(workload)).collect();
        let services = compilation.mesh.services.values().filter_map(|service| {
            let weft_model::service::ServiceTarget::Service(name) = &service.target else { return None };
            let address = SocketAddr::new(*service.addresses.first()?, service.ports.first()?.port);
            Some((format!("{}.{}", name.name, name.namespace), address))
        });
        let services = services.collect();
        Ok(Self { files, services, workloads })
    }

    fn is_free(&self, network: u8, offset: u16) -> bool {
        let control = IpAddr::from([127, network, 0, 1]);
        let mut needed = vec![(control, CONTROL_PORT + offset), (control, CONTROL_ADMIN_PORT + offset)];
        for workload in &self.workloads {
            let proxy = [OUTBOUND_PORT, METRICS_PORT, ADMIN_PORT].map(|port| port + offset);
            let ports = proxy.into_iter().chain([APPLICATION_PORT]).chain(workload.port);
            needed.extend(ports.map(|port| (workload.address, port)));
        }
        needed.into_iter().all(|address| TcpListener::bind(address).is_ok())
    }
}

/// Gives each Service the next address.
fn with_addresses(text: &str) -> String {
    let mut parts = text.split("spec:\n  selector:");
    let mut addressed = parts.next().unwrap_or_default().to_owned();
    for (number, part) in (1..).zip(parts) {
        addressed += &format!("spec:\n  clusterIP: {SERVICE_NETWORK}{number}\n  selector:{part}");
    }
    addressed
}
