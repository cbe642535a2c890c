//! What the tools' tests ask about: `shop/cart` with one workload, `shop/web-1`, which calls it, and an external
//! authorizer; and how a test writes it down and asks.

use clap::{Args, Parser};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A Service, the workload behind it, and one that calls it.
pub(crate) const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {address: 10.0.0.1, serviceAccount: cart, ports: [{port: 8080, protocol: http}]}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {address: 10.0.0.2, serviceAccount: web}
---
";

/// An external authorizer; a MeshConfig has yet to name it.
pub(crate) const AUTHORIZER: &str = "apiVersion: v1
kind: Service
metadata: {name: opa, namespace: auth}
spec: {selector: {app: opa}, ports: [{port: 9191, appProtocol: grpc}]}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: opa-1, namespace: auth, labels: {app: opa}}
spec: {address: 10.0.0.9, ports: [{port: 9191, protocol: grpc}]}
---
";

/// A directory of policies.
pub(crate) struct Policies(TempDir);

impl Policies {
    /// With these documents in `a.yaml`.
    pub(crate) fn new(text: &str) -> Self {
        let policies = Self(tempfile::tempdir().unwrap());
        policies.file("a.yaml", text);
        policies
    }

    /// With a further file.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A tool's arguments: the directory, then these words.
    pub(crate) fn arguments<A: Args>(&self, words: &[&str]) -> A {
        let line = ["weft", self.path().to_str().unwrap()];
        Line::try_parse_from(line.iter().chain(words)).unwrap().arguments
    }
}

#[derive(Parser)]
struct Line<A: Args> {
    #[command(flatten)]
    arguments: A,
}
