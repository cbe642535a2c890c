//! What a mesh is to consist of.

use super::described::{CONNECT_TIMEOUT, Described};
use super::document::ServiceSpec;
use super::{Mesh, start};
use std::net::SocketAddr;

/// Collects services, workloads and policies, then starts everything.
#[derive(Debug, Default)]
pub struct Builder {
    pub(super) services: Vec<ServiceSpec>,
    pub(super) workloads: Vec<Workload>,
    pub(super) policies: Vec<(String, String)>,
    pub(super) mesh_config: Option<String>,
    pub(super) certificate_lifetime: Option<String>,
    pub(super) control_arguments: Vec<String>,
}

/// A workload: one proxy, and the application behind it if there is one.
#[derive(Clone, Debug)]
pub struct Workload {
    pub(super) described: Described,
    pub(super) application: Option<SocketAddr>,
    pub(super) calls: Vec<(String, u16)>,
    pub(super) protocol: String,
    pub(super) connect_timeout: String,
    pub(super) settings: String,
    pub(super) proxied: Proxied,
}

/// Who answers on a workload's address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Proxied {
    /// A proxy.
    Yes,
    /// The application itself: the workload is declared as not injected.
    No,
    /// Whoever the test puts there; the mesh believes that it is a proxy.
    Impostor,
}

// === impl Workload ===

impl Workload {
    /// `NAMESPACE/NAME-N`: label `app` and service account are NAME unless said otherwise.
    pub fn new(uid: &str) -> Self {
        Self {
            described: Described::new(uid),
            application: None,
            calls: Vec::new(),
            protocol: "http".to_owned(),
            connect_timeout: CONNECT_TIMEOUT.to_owned(),
            settings: String::new(),
            proxied: Proxied::Yes,
        }
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

    /// With an inbound port, and the application behind it at `address`.
    pub fn serves(mut self, address: SocketAddr) -> Self {
        self.application = Some(address);
        self
    }

    /// With a per-service outbound port.
    pub fn calls(mut self, service: &str, port: u16) -> Self {
        self.calls.push((service.to_owned(), port));
        self
    }

    /// With the inbound port declared as this protocol; empty: not declared.
    pub fn protocol(mut self, protocol: &str) -> Self {
        self.protocol = protocol.to_owned();
        self
    }

    /// With this `outbound.connectTimeout`.
    pub fn connect_timeout(mut self, timeout: &str) -> Self {
        self.connect_timeout = timeout.to_owned();
        self
    }

    /// With these lines in the proxy's settings file.
    pub fn settings(mut self, lines: &str) -> Self {
        self.settings += lines.trim_end();
        self.settings += "\n";
        self
    }

    /// With this line in the `spec` of its document, for instance `probes: [...]` in flow YAML.
    pub fn spec(mut self, line: &str) -> Self {
        self.described.line(line);
        self
    }

    /// Without a proxy, and declared so.
    pub fn not_injected(mut self) -> Self {
        self.proxied = Proxied::No;
        self
    }

    /// Without a proxy, while the mesh believes that there is one: `serves` is dialled as a proxy.
    pub fn impostor(mut self) -> Self {
        self.proxied = Proxied::Impostor;
        self
    }
}

// === impl Builder ===

impl Builder {
    /// The smallest mesh with two ends: `shop/web-1` calls port 80 of `shop/cart`, which is
    /// `shop/cart-1` with the application at `application`.
    pub fn pair(application: SocketAddr) -> Self {
        Self::default()
            .service("shop/cart")
            .workload(Workload::new("shop/cart-1").serves(application))
            .workload(Workload::new("shop/web-1").calls("shop/cart", 80))
    }

    /// As [`Self::pair`], with nothing declared of what is spoken.
    pub fn undeclared(application: SocketAddr) -> Self {
        Self::default()
            .service("shop/cart")
            .with_protocol("")
            .workload(Workload::new("shop/cart-1").serves(application).protocol(""))
            .workload(Workload::new("shop/web-1").calls("shop/cart", 80))
    }

    /// Port 80 of `NAMESPACE/NAME`, served by the workloads of that namespace with `app: NAME`.
    pub fn service(self, name: &str) -> Self {
        let (_, app) = name.split_once('/').expect("a service is NAMESPACE/NAME");
        self.service_of(name, app, None)
    }

    /// Port 80 of a service, served by the workloads with these labels.
    pub fn service_of(mut self, name: &str, app: &str, version: Option<&str>) -> Self {
        let (namespace, name) = name.split_once('/').expect("a service is NAMESPACE/NAME");
        self.services.push(ServiceSpec {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port: 80,
            app: app.to_owned(),
            version: version.map(ToOwned::to_owned),
            protocol: "http".to_owned(),
        });
        self
    }

    /// The protocol of the service added last; empty: not declared.
    pub fn with_protocol(mut self, protocol: &str) -> Self {
        let last = self.services.last_mut().expect("a service comes first");
        last.protocol = protocol.to_owned();
        self
    }

    /// Adds a workload.
    pub fn workload(mut self, workload: Workload) -> Self {
        self.workloads.push(workload);
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

    /// How long certificates live.
    pub fn certificate_lifetime(mut self, lifetime: &str) -> Self {
        self.certificate_lifetime = Some(lifetime.to_owned());
        self
    }

    /// Further arguments of the control API.
    pub fn control_arguments(mut self, arguments: &[&str]) -> Self {
        self.control_arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Starts everything and waits until every proxy is ready.
    pub async fn start(self) -> Mesh {
        start(self).await
    }
}
