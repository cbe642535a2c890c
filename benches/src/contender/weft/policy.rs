//! The policy that Weft runs under: the shop of `weft demo`, equal in kind. Mutual TLS alone; one policy that allows by
//! identity or namespace, method and path, and one that denies by path; a route by a header, and a split 90:10 with a
//! deadline. Both versions of the catalog are one workload here, so that a pair is what is measured.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

/// What is printed of it.
pub(super) const DESCRIPTION: &str = "the demo's policy: PeerAuthentication STRICT; AuthorizationPolicy ALLOW (principal, method, path; \
     namespace, method, path; principal, port) and DENY (path); HTTPRoute (header; split 90:10, deadline 10 s)";

/// Where the server-side proxy listens.
pub(super) struct Ports {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) raw: SocketAddr,
}

/// As in `examples/shop/mesh.yaml`.
pub(super) const MESH: &str = r#"apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: { name: mesh, namespace: weft-system }
spec: { trustDomain: cluster.local, rootNamespace: weft-system }
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: weft-system }
spec: { mtls: { mode: STRICT } }
"#;

/// As in `examples/shop/routes.yaml`.
pub(super) const ROUTES: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: catalog, namespace: shop }
spec:
  parentRefs:
    - { group: "", kind: Service, name: catalog, port: 80 }
  rules:
    - matches:
        - headers: [{ name: x-preview, value: "true" }]
      backendRefs: [{ name: catalog-v2, port: 80 }]
    - backendRefs:
        - { name: catalog-v1, port: 80, weight: 90 }
        - { name: catalog-v2, port: 80, weight: 10 }
      timeouts: { request: 10s }
"#;

/// The catalog with its versions, and so many services besides, all in front of the one workload.
pub(super) fn services(besides: usize) -> String {
    let mut text = r#"apiVersion: v1
kind: Service
metadata: { name: catalog, namespace: shop }
spec:
  selector: { app: catalog }
  ports:
    - { name: http, port: 80, targetPort: http, appProtocol: http }
    - { name: grpc, port: 50051, targetPort: grpc, appProtocol: grpc }
    - { name: tcp-raw, port: 7, targetPort: raw }
"#
    .to_owned();
    let used = (1..=besides).map(|number| format!("used-{number}"));
    for name in ["catalog-v1".to_owned(), "catalog-v2".to_owned()].into_iter().chain(used) {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            r#"---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: shop }}
spec:
  selector: {{ app: catalog }}
  ports: [{{ name: http, port: 80, targetPort: http, appProtocol: http }}]
"#
        );
    }
    text
}

pub(super) fn workloads(client: IpAddr, server: IpAddr, ports: &Ports) -> String {
    format!(
        r#"apiVersion: weft.dev/v1alpha1
kind: Workload
metadata:
  name: catalog-1
  namespace: shop
  labels: {{ app: catalog, version: v1 }}
spec:
  address: {server}
  ports:
    - {{ name: http, port: {http}, protocol: http }}
    - {{ name: grpc, port: {grpc}, protocol: grpc }}
    - {{ name: raw, port: {raw}, protocol: tcp }}
  serviceAccount: catalog
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata:
  name: front-1
  namespace: shop
  labels: {{ app: front, version: v1 }}
spec:
  address: {client}
  serviceAccount: front
"#,
        http = ports.http.port(),
        grpc = ports.grpc.port(),
        raw = ports.raw.port(),
    )
}

/// As in `examples/shop/authorization.yaml`, and a rule for opaque bytes. What denies is about the ports that carry
/// HTTP: where there is no path, a rule about paths alone would deny all.
pub(super) fn authorization(path: &str, ports: &Ports) -> String {
    format!(
        r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: catalog, namespace: shop }}
spec:
  selector: {{ matchLabels: {{ app: catalog }} }}
  action: ALLOW
  rules:
    - from:
        - source: {{ principals: ["cluster.local/ns/shop/sa/front"] }}
      to:
        - operation: {{ methods: ["GET", "POST"], paths: ["{path}"] }}
    - from:
        - source: {{ namespaces: ["ops"] }}
      to:
        - operation: {{ methods: ["GET"], paths: ["{path}"] }}
    - from:
        - source: {{ principals: ["cluster.local/ns/shop/sa/front"] }}
      to:
        - operation: {{ ports: ["{raw}"] }}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: no-administration, namespace: shop }}
spec:
  selector: {{ matchLabels: {{ app: catalog }} }}
  action: DENY
  rules:
    - to:
        - operation: {{ paths: ["/items/administration*"], ports: ["{http}", "{grpc}"] }}
"#,
        http = ports.http.port(),
        grpc = ports.grpc.port(),
        raw = ports.raw.port(),
    )
}

/// Services that nobody calls, each with a workload behind it.
pub(super) fn others(numbers: std::ops::Range<usize>) -> String {
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
