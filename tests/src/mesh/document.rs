//! The documents and settings files that a test's mesh is made of.

use std::fmt::Write;
use std::net::SocketAddr;

/// The name of every inbound port: no protocol's, so that it declares nothing.
pub(super) const PORT_NAME: &str = "serving";

/// A Service to be written.
#[derive(Clone, Debug)]
pub(super) struct ServiceSpec {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: u16,
    /// The label `app` of its workloads, and `version` where it is set.
    pub(super) app: String,
    pub(super) version: Option<String>,
    /// What `appProtocol` says; nothing where it is empty.
    pub(super) protocol: String,
}

impl ServiceSpec {
    pub(super) fn document(&self) -> String {
        let Self { namespace, name, port, app, protocol, .. } = self;
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  \
             selector:\n    app: {app}\n"
        );
        if let Some(version) = &self.version {
            let _ = writeln!(text, "    version: {version}");
        }
        let declared = if protocol.is_empty() { String::new() } else { format!(", appProtocol: {protocol}") };
        let _ = writeln!(
            text,
            "  ports:\n    - {{ name: main, port: {port}, targetPort: {PORT_NAME}{declared} }}\n---"
        );
        text
    }
}

/// A Workload to be written.
pub(super) struct WorkloadDocument<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) labels: &'a [(String, String)],
    pub(super) account: &'a str,
    pub(super) inbound: Option<SocketAddr>,
    pub(super) protocol: &'a str,
    pub(super) injected: bool,
    pub(super) spec: &'a str,
}

impl WorkloadDocument<'_> {
    pub(super) fn document(&self) -> String {
        let Self { namespace, name, account, .. } = self;
        let mut text = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\n  namespace: \
             {namespace}\n  labels:\n"
        );
        for (label, value) in self.labels {
            let _ = writeln!(text, "    {label}: \"{value}\"");
        }
        let ip = self.inbound.map_or_else(|| "127.0.0.1".to_owned(), |address| address.ip().to_string());
        let _ = writeln!(text, "spec:\n  address: {ip}\n  serviceAccount: {account}");
        if !self.injected {
            let _ = writeln!(text, "  injected: false");
        }
        if let Some(inbound) = self.inbound {
            let (port, protocol) = (inbound.port(), self.protocol);
            let declared =
                if protocol.is_empty() { String::new() } else { format!(", protocol: {protocol}") };
            let _ = writeln!(text, "  ports:\n    - {{ name: {PORT_NAME}, port: {port}{declared} }}");
        }
        for line in self.spec.lines() {
            let _ = writeln!(text, "  {line}");
        }
        text + "---\n"
    }
}

/// A proxy's settings file.
pub(super) struct Settings<'a> {
    pub(super) workload: &'a str,
    pub(super) control: SocketAddr,
    pub(super) roots: &'a str,
    pub(super) token: &'a str,
    pub(super) state: &'a str,
    pub(super) outbound: SocketAddr,
    pub(super) services: &'a [(String, u16, SocketAddr)],
    pub(super) inbound: Option<(SocketAddr, SocketAddr)>,
    pub(super) metrics: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) extra: &'a str,
}

impl Settings<'_> {
    pub(super) fn text(&self) -> String {
        let Self { workload, control, roots, token, state, outbound, metrics, admin, extra, .. } = self;
        let mut text = format!(
            "workload: {workload}\ncontrol:\n  address: {control}\n  roots: {roots}\n  token: {token}\n\
             outbound:\n  listen: {outbound}\n"
        );
        if !self.services.is_empty() {
            text += "  services:\n";
        }
        for (service, port, listen) in self.services {
            let _ = writeln!(text, "    - {{ service: {service}, port: {port}, listen: \"{listen}\" }}");
        }
        if let Some((listen, application)) = self.inbound {
            let _ =
                writeln!(text, "inbound:\n  - {{ listen: \"{listen}\", application: \"{application}\" }}");
        }
        // One, unless a test is about several.
        let workers = if extra.contains("workers:") { "" } else { "workers: 1\n" };
        let _ = write!(
            text,
            "metrics: {{ listen: \"{metrics}\" }}\nadmin: {{ listen: \"{admin}\" }}\nstate: {state}\n\
             {workers}log: info\naccessLog: all\n{extra}"
        );
        text
    }
}
