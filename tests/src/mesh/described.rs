//! What the document of a workload says in either kind of mesh, of processes and of pods; and the document of
//! the mesh.

use std::fmt::Write;

/// What a proxy's `outbound.connectTimeout` is where a test is not about it: on a busy machine a handshake may
/// take longer than the default, and where there is one endpoint alone nothing else is tried.
pub(crate) const CONNECT_TIMEOUT: &str = "30s";

/// A workload as the mesh knows it.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// `NAMESPACE/NAME-N`.
    pub(crate) uid: String,
    /// NAME unless said otherwise.
    pub(crate) account: String,
    /// `app` is NAME unless said otherwise.
    labels: Vec<(String, String)>,
    /// Further lines of the `spec`.
    spec: String,
}

impl Described {
    pub(crate) fn new(uid: &str) -> Self {
        let (_, name) = uid.split_once('/').expect("a workload is NAMESPACE/NAME");
        let app = name.trim_end_matches(|character: char| character.is_ascii_digit()).trim_end_matches('-');
        Self {
            uid: uid.to_owned(),
            account: app.to_owned(),
            labels: vec![("app".to_owned(), app.to_owned())],
            spec: String::new(),
        }
    }

    /// With a label, in place of one of that name.
    pub(crate) fn label(&mut self, name: &str, value: &str) {
        self.labels.retain(|(held, _)| held != name);
        self.labels.push((name.to_owned(), value.to_owned()));
    }

    /// With a line in the `spec`.
    pub(crate) fn line(&mut self, line: &str) {
        self.spec += line;
        self.spec += "\n";
    }

    /// The document. `address`: the line that says it; `ports`: each as flow YAML.
    pub(crate) fn document(&self, address: &str, injected: bool, ports: &[String]) -> String {
        let (namespace, name) = self.uid.split_once('/').expect("a workload is NAMESPACE/NAME");
        let mut text = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\n  namespace: \
             {namespace}\n  labels:\n"
        );
        for (label, value) in &self.labels {
            let _ = writeln!(text, "    {label}: \"{value}\"");
        }
        let _ = writeln!(text, "spec:\n  {address}\n  serviceAccount: {}", self.account);
        if !injected {
            let _ = writeln!(text, "  injected: false");
        }
        if !ports.is_empty() {
            let _ = writeln!(text, "  ports:");
        }
        for port in ports {
            let _ = writeln!(text, "    - {port}");
        }
        for line in self.spec.lines() {
            let _ = writeln!(text, "  {line}");
        }
        text + "---\n"
    }
}

/// What a list of keys says of a protocol; nothing where it is not declared.
pub(crate) fn declared(key: &str, protocol: &str) -> String {
    if protocol.is_empty() { String::new() } else { format!(", {key}: {protocol}") }
}

/// The MeshConfig. `spec`: one line of flow YAML.
pub(crate) fn mesh_config(spec: Option<&str>) -> String {
    let spec = spec.unwrap_or("{}");
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{ name: mesh, namespace: weft-system \
         }}\nspec: {spec}\n---\n"
    )
}
