//! What a mesh of pods is to consist of, and the documents and settings files made of it.

use super::Pods;
use crate::mesh::described::{Described, declared};
use std::net::IpAddr;

/// Collects services, pods and policies, then starts everything.
#[derive(Debug, Default)]
pub struct Builder {
    pub(super) services: Vec<ServiceSpec>,
    pub(super) pods: Vec<PodSpec>,
    pub(super) policies: Vec<(String, String)>,
    pub(super) mesh_config: Option<String>,
    pub(super) control_arguments: Vec<String>,
}

/// A Service with one port. Its virtual addresses are given out in order.
#[derive(Clone, Debug)]
pub(super) struct ServiceSpec {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) target: u16,
    /// What `appProtocol` says; empty: nothing.
    pub(super) protocol: String,
    pub(super) headless: bool,
}

/// A pod: a workload, with a transparent proxy unless said otherwise.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(super) described: Described,
    pub(super) ports: Vec<(u16, String)>,
    pub(super) kind: Kind,
    pub(super) started: bool,
    pub(super) families: Families,
    pub(super) bypass: String,
    pub(super) lines: Vec<String>,
    pub(super) install: &'static str,
    pub(super) settings: String,
    pub(super) rules: String,
}

/// Which addresses of a pod the mesh knows, and where peers call it: at the first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Families {
    Ipv4First,
    Ipv6First,
    Ipv4Only,
}

/// What a pod is to the mesh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A workload with a proxy.
    Proxied,
    /// A workload without one, declared so.
    Plain,
    /// Nothing that the mesh knows of.
    Foreign,
}

// === impl PodSpec ===

impl PodSpec {
    /// `NAMESPACE/NAME-N`: label `app` and service account are NAME unless said otherwise.
    pub fn new(uid: &str) -> Self {
        Self {
            described: Described::new(uid),
            ports: Vec::new(),
            kind: Kind::Proxied,
            started: true,
            families: Families::Ipv4First,
            bypass: "mark:0x77".to_owned(),
            lines: Vec::new(),
            install: "itself",
            settings: String::new(),
            rules: String::new(),
        }
    }

    /// With this port among those the mesh advertises. The test puts an application there, see
    /// [`super::Member::application`].
    pub fn serves(mut self, port: u16) -> Self {
        self.ports.push((port, "http".to_owned()));
        self
    }

    /// With the port added last declared as this protocol; empty: not declared.
    pub fn protocol(mut self, protocol: &str) -> Self {
        self.ports.last_mut().expect("a port comes first").1 = protocol.to_owned();
        self
    }

    /// With a label.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.described.label(name, value);
        self
    }

    /// Under this service account.
    pub fn account(mut self, account: &str) -> Self {
        self.described.account = account.to_owned();
        self
    }

    /// Called over IPv6 by its peers.
    pub fn ipv6_first(mut self) -> Self {
        self.families = Families::Ipv6First;
        self
    }

    /// Known to the mesh by its IPv4 address alone.
    pub fn ipv4_only(mut self) -> Self {
        self.families = Families::Ipv4Only;
        self
    }

    /// With a line of the list of what is included and excluded.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// With its proxy known to the rules in this way; `mark:0x77` unless said otherwise.
    pub fn bypass(mut self, bypass: &str) -> Self {
        self.bypass = bypass.to_owned();
        self
    }

    /// With rules that somebody else installs.
    pub fn rules_by_other(mut self) -> Self {
        self.install = "other";
        self
    }

    /// With these lines in the proxy's settings file.
    pub fn settings(mut self, lines: &str) -> Self {
        self.settings += lines.trim_end();
        self.settings += "\n";
        self
    }

    /// With this line in the section `rules` of the proxy's settings file.
    pub fn rules(mut self, line: &str) -> Self {
        self.rules += line;
        self.rules += "\n";
        self
    }

    /// With this line in the `spec` of its document, for instance `probes: [...]` in flow YAML.
    pub fn spec(mut self, line: &str) -> Self {
        self.described.line(line);
        self
    }

    /// With a proxy that the test starts, by [`super::Member::spawn`] or [`super::Member::start`].
    pub fn not_started(mut self) -> Self {
        self.started = false;
        self
    }

    /// Without a proxy, and declared so: a workload that is called in plaintext.
    pub fn plain(mut self) -> Self {
        self.kind = Kind::Plain;
        self
    }

    /// Not a workload at all: a machine somewhere outside the mesh.
    pub fn foreign(mut self) -> Self {
        self.kind = Kind::Foreign;
        self
    }

    pub(super) fn document(&self, ipv4: IpAddr, ipv6: IpAddr) -> String {
        let addresses = match self.families {
            Families::Ipv4First => format!("\"{ipv4}\", \"{ipv6}\""),
            Families::Ipv6First => format!("\"{ipv6}\", \"{ipv4}\""),
            Families::Ipv4Only => format!("\"{ipv4}\""),
        };
        let port = |(port, protocol): &(u16, String)| {
            format!("{{ port: {port}{} }}", declared("protocol", protocol))
        };
        let ports: Vec<_> = self.ports.iter().map(port).collect();
        let address = format!("addresses: [{addresses}]");
        self.described.document(&address, self.kind != Kind::Plain, &ports)
    }
}

// === impl ServiceSpec ===

impl ServiceSpec {
    pub(super) fn document(&self, addresses: &[IpAddr; 2]) -> String {
        let (namespace, name) = self.name.split_once('/').expect("a service is NAMESPACE/NAME");
        let [ipv4, ipv6] = addresses;
        let vip = if self.headless {
            "  clusterIP: None\n".to_owned()
        } else {
            format!("  clusterIP: {ipv4}\n  clusterIPs: [\"{ipv4}\", \"{ipv6}\"]\n")
        };
        let declared = declared("appProtocol", &self.protocol);
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n{vip}  \
             selector: {{ app: {name} }}\n  ports:\n    - {{ port: {}, targetPort: {}{declared} }}\n---\n",
            self.port, self.target
        )
    }
}

// === impl Builder ===

impl Builder {
    /// The smallest mesh with two ends: `shop/web-1` calls port 80 of `shop/cart`, which is port 8080
    /// of `shop/cart-1`. HTTP, declared.
    pub fn pair() -> Self {
        Self::default()
            .service("shop/cart", 80, 8080)
            .pod(PodSpec::new("shop/cart-1").serves(8080))
            .pod(PodSpec::new("shop/web-1"))
    }

    /// Port `port` of `NAMESPACE/NAME`, which is port `target` of the pods of that namespace with
    /// `app: NAME`. Declared as HTTP.
    pub fn service(mut self, name: &str, port: u16, target: u16) -> Self {
        self.services.push(ServiceSpec {
            name: name.to_owned(),
            port,
            target,
            protocol: "http".to_owned(),
            headless: false,
        });
        self
    }

    /// The protocol of the service added last; empty: not declared.
    pub fn with_protocol(mut self, protocol: &str) -> Self {
        self.services.last_mut().expect("a service comes first").protocol = protocol.to_owned();
        self
    }

    /// The service added last has no virtual address.
    pub fn headless(mut self) -> Self {
        self.services.last_mut().expect("a service comes first").headless = true;
        self
    }

    /// Adds a pod.
    pub fn pod(mut self, pod: PodSpec) -> Self {
        self.pods.push(pod);
        self
    }

    /// Adds a policy file `NAME.yaml`.
    pub fn policy(mut self, name: &str, text: &str) -> Self {
        self.policies.push((name.to_owned(), text.to_owned()));
        self
    }

    /// The `spec` of the MeshConfig, one line of flow YAML.
    pub fn mesh_config(mut self, spec: &str) -> Self {
        self.mesh_config = Some(spec.to_owned());
        self
    }

    /// Starts the control API with these arguments besides.
    pub fn control_arguments(mut self, arguments: &[&str]) -> Self {
        self.control_arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Starts everything and waits until every proxy that is started is ready.
    pub async fn start(self) -> Pods {
        super::start(self).await
    }
}
