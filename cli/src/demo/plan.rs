//! Which workloads the demo has and where: the example, on a loopback network of its own.
//!
//! Each workload has a loopback address of its own, as a pod has; so every proxy uses the usual
//! ports. The whole 127.0.x.y plan moves to another 127.n.x.y when somebody else is there already.

use anyhow::bail;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use weft_config::SourceFile;

/// The example, built in so that the installed command works anywhere.
const POLICIES: [(&str, &str); 5] = [
    ("mesh.yaml", include_str!("../../../examples/shop/mesh.yaml")),
    ("services.yaml", include_str!("../../../examples/shop/services.yaml")),
    ("workloads.yaml", include_str!("../../../examples/shop/workloads.yaml")),
    ("routes.yaml", include_str!("../../../examples/shop/routes.yaml")),
    ("authorization.yaml", include_str!("../../../examples/shop/authorization.yaml")),
];

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
        let files: Vec<_> = POLICIES
            .iter()
            .map(|(name, text)| SourceFile {
                name: (*name).to_owned(),
                text: text.replace(EXAMPLE_NETWORK, &moved),
            })
            .collect();
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
        Ok(Self { files, workloads })
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
