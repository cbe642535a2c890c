//! The documents and settings files that a test's mesh is made of.

use super::described::declared;
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
        let declared = declared("appProtocol", protocol);
        let _ = writeln!(
            text,
            "  ports:\n    - {{ name: main, port: {port}, targetPort: {PORT_NAME}{declared} }}\n---"
        );
        text
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
    pub(super) connect_timeout: &'a str,
    pub(super) services: &'a [(String, u16, SocketAddr)],
    pub(super) inbound: Option<(SocketAddr, SocketAddr)>,
    pub(super) metrics: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) extra: &'a str,
}

impl Settings<'_> {
    pub(super) fn text(&self) -> String {
        let Self { workload, control, roots, token, state, metrics, admin, extra, .. } = self;
        let Self { outbound, connect_timeout, .. } = self;
        let mut text = format!(
            "workload: {workload}\ncontrol:\n  address: {control}\n  roots: {roots}\n  token: {token}\n\
             outbound:\n  listen: {outbound}\n  connectTimeout: {connect_timeout}\n"
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
