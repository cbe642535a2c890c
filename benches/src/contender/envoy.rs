//! A pair of Envoy proxies doing a sidecar's job: mTLS with SPIFFE identities checked by both sides, the rules and the
//! route that Weft has here (RBAC that denies, RBAC that allows by identity, method and path; a header's match, a
//! weighted split), retries armed, statistics on. Its best settings otherwise: no access log, no request
//! ids, no added headers, one worker; so the figure flatters it beside a real mesh, which adds telemetry filters.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Contender, Missing, Role, Running, Setting, in_path, peers_directory, start_member};
use crate::{
    certificates::{CLIENT_ID, Leaf, SERVER_ID, SERVER_NAME},
    process::{free_port, write_private},
};

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

pub(super) struct Envoy {
    name: &'static str,
    job: &'static str,
    between: Wire,
}

#[derive(Clone, Copy, PartialEq)]
enum Wire {
    Http1,
    Http2,
}

// === impl Envoy ===

impl Envoy {
    pub(super) fn over_http1() -> Self {
        let job = "mTLS (SPIFFE), RBAC, retries armed, stats; HTTP/1.1 between";
        Self { name: "envoy-h1", job, between: Wire::Http1 }
    }

    pub(super) fn over_http2() -> Self {
        let job = "mTLS (SPIFFE), RBAC, retries armed, stats; HTTP/2 between";
        Self { name: "envoy-h2", job, between: Wire::Http2 }
    }
}

impl Contender for Envoy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn job(&self) -> &'static str {
        self.job
    }

    fn missing(&self) -> Option<Missing> {
        let what = "no Envoy in $WEFT_BENCH_ENVOY, PATH or target/peers".to_owned();
        program().is_none().then_some(Missing { what, install: "benches/install-peers.sh envoy" })
    }

    fn start(&self, setting: &Setting<'_>) -> Result<Running> {
        let program = program().context("Envoy is missing")?;
        let (outbound, inbound) = (free_port(LOOPBACK)?, free_port(LOOPBACK)?);
        let (outbound_raw, inbound_raw) = (free_port(LOOPBACK)?, free_port(LOOPBACK)?);
        let (workers, resumption) = (setting.workers.to_string(), setting.resumption);
        let start = |role, side: &str, resources: Value| {
            let admin = free_port(LOOPBACK)?;
            let file = setting.directory.join(format!("{side}.json"));
            let configuration = json!({
                "node": { "id": side, "cluster": side },
                "admin": { "address": address(admin) },
                "static_resources": resources,
            });
            write_private(&file, &serde_json::to_string_pretty(&configuration)?)?;
            let mut command = Command::new(&program);
            command.arg("-c").arg(&file).args([
                "--concurrency",
                &workers,
                "--disable-hot-restart",
                "-l",
                "warn",
            ]);
            start_member(role, &format!("envoy-{side}"), setting.directory, &mut command, admin, "/ready")
        };
        let certificates = setting.certificates;
        let server = start(
            Role::ServerProxy,
            "server",
            json!({
                "listeners": [listener(
                    inbound,
                    &json!([deny(), allow(), router()]),
                    &json!([
                        route(&json!({ "prefix": "/", "grpc": {} }), &json!({ "cluster": "application-grpc" })),
                        route(&json!({ "prefix": "/" }), &json!({ "cluster": "application" })),
                    ]),
                    Some(&accept(&certificates.server, &certificates.authority, self.alpn(), resumption)),
                ), tcp_listener(
                    inbound_raw,
                    &[tcp_rbac(), tcp_proxy("application-raw")],
                    Some(&accept(&certificates.server, &certificates.authority, &json!([]), resumption)),
                )],
                "clusters": [
                    cluster("application", setting.application, Wire::Http1, None),
                    cluster("application-grpc", setting.application, Wire::Http2, None),
                    cluster("application-raw", setting.application_raw, Wire::Http1, None),
                ],
            }),
        )?;
        let retry = json!({
            "retry_on": "connect-failure,refused-stream,unavailable,cancelled,reset-before-request",
            "num_retries": 2,
        });
        let catalog = |name| {
            let connect = connect(&certificates.client, &certificates.authority, resumption);
            cluster(name, inbound, self.between, Some(&connect))
        };
        let client = start(
            Role::ClientProxy,
            "client",
            json!({
                "listeners": [listener(
                    outbound,
                    &json!([router()]),
                    &json!([
                        route(
                            &json!({ "prefix": "/", "headers": [{ "name": "x-preview", "string_match": { "exact": "true" } }] }),
                            &json!({ "cluster": "catalog-v2", "retry_policy": retry }),
                        ),
                        route(
                            &json!({ "prefix": "/" }),
                            &json!({ "weighted_clusters": { "clusters": [
                                { "name": "catalog-v1", "weight": 90 },
                                { "name": "catalog-v2", "weight": 10 },
                            ]}, "retry_policy": retry }),
                        ),
                    ]),
                    None,
                ), tcp_listener(outbound_raw, &[tcp_proxy("raw")], None)],
                "clusters": [catalog("catalog-v1"), catalog("catalog-v2"), cluster(
                    "raw",
                    inbound_raw,
                    Wire::Http1,
                    Some(&connect(&certificates.client, &certificates.authority, resumption)),
                )],
            }),
        )?;
        Ok(Running {
            target: outbound,
            http2_target: outbound,
            // Over HTTP/1.1 it would drop the trailers.
            grpc_target: (self.between == Wire::Http2).then_some(outbound),
            also: Vec::new(),
            tcp_target: Some(outbound_raw),
            host: SERVER_NAME.to_owned(),
            members: vec![client, server],
            inbound: Some(inbound),
            authorizes: true,
            policy: None,
            restart: None,
            configuration: vec![
                version(&program),
                format!("--concurrency {}, access log off, request ids off, stats on", setting.workers),
                "RBAC: DENY by path, ALLOW by principal or namespace, method and path; a route by header, a split 90:10; \
                 2 retries armed; LEAST_REQUEST; TLS 1.3"
                    .to_owned(),
            ],
        })
    }
}

impl Envoy {
    fn alpn(&self) -> &'static Value {
        static HTTP1: LazyLock<Value> = LazyLock::new(|| json!(["http/1.1"]));
        static HTTP2: LazyLock<Value> = LazyLock::new(|| json!(["h2"]));
        match self.between {
            Wire::Http1 => &HTTP1,
            Wire::Http2 => &HTTP2,
        }
    }
}

fn accept(leaf: &Leaf, authority: &Path, protocols: &Value, resumption: bool) -> Value {
    let mut common = tls(leaf, authority, None);
    common["alpn_protocols"] = protocols.clone();
    transport_socket(&json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "disable_stateless_session_resumption": !resumption,
        "disable_stateful_session_resumption": !resumption,
        "common_tls_context": common,
    }))
}

/// Where Envoy is: told, installed, or put into target/peers by the script.
fn program() -> Option<PathBuf> {
    if let Some(told) = std::env::var_os("WEFT_BENCH_ENVOY") {
        return Some(PathBuf::from(told));
    }
    in_path("envoy").or_else(|| {
        let libraries = peers_directory()?.join("venv/lib");
        let versions = std::fs::read_dir(libraries).ok()?;
        versions
            .filter_map(|version| Some(version.ok()?.path().join("site-packages/envoy/_bin/envoy")))
            .find(|candidate| candidate.is_file())
    })
}

fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // "envoy  version: HASH/1.40.0/Clean/RELEASE/BoringSSL"
    let version = text.lines().find_map(|line| line.split("version:").nth(1)).unwrap_or(" unknown");
    format!("Envoy {}", version.trim().split('/').skip(1).collect::<Vec<_>>().join(" "))
}

fn address(socket: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": socket.ip().to_string(), "port_value": socket.port() } })
}

fn tls(leaf: &Leaf, authority: &Path, identity: Option<&str>) -> Value {
    let mut validation = json!({ "trusted_ca": { "filename": authority } });
    if let Some(identity) = identity {
        validation["match_typed_subject_alt_names"] =
            json!([{ "san_type": "URI", "matcher": { "exact": identity } }]);
    }
    json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": leaf.certificate },
            "private_key": { "filename": leaf.key },
        }],
        "validation_context": validation,
    })
}

fn connect(leaf: &Leaf, authority: &Path, resumption: bool) -> Value {
    transport_socket(&json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": SERVER_NAME,
        "max_session_keys": u32::from(resumption),
        "common_tls_context": tls(leaf, authority, Some(SERVER_ID)),
    }))
}

fn transport_socket(context: &Value) -> Value {
    json!({ "name": "tls", "typed_config": context })
}

fn router() -> Value {
    json!({ "name": "router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        "suppress_envoy_headers": true,
    }})
}

/// What Istio makes of a policy that denies: a filter of its own before the one that allows.
fn deny() -> Value {
    rbac(
        "DENY",
        &json!({ "no-administration": {
            "permissions": [path("/items/administration")],
            "principals": [{ "any": true }],
        }}),
    )
}

fn allow() -> Value {
    rbac(
        "ALLOW",
        &json!({
            "catalog-0": {
                "permissions": [{ "and_rules": { "rules": [
                    { "or_rules": { "rules": [method("GET"), method("POST")] } },
                    path("/items"),
                ]}}],
                "principals": [{ "authenticated": { "principal_name": { "exact": CLIENT_ID } } }],
            },
            "catalog-1": {
                "permissions": [{ "and_rules": { "rules": [method("GET"), path("/items")] } }],
                "principals": [{ "authenticated": { "principal_name": { "safe_regex": { "regex": ".*/ns/ops/.*" } } } }],
            },
        }),
    )
}

fn rbac(action: &str, policies: &Value) -> Value {
    json!({ "name": "rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": { "action": action, "policies": policies },
    }})
}

fn method(name: &str) -> Value {
    json!({ "header": { "name": ":method", "string_match": { "exact": name } } })
}

fn path(prefix: &str) -> Value {
    json!({ "url_path": { "path": { "prefix": prefix } } })
}

fn route(matched: &Value, action: &Value) -> Value {
    let mut action = action.clone();
    action["timeout"] = json!("10s");
    json!({ "match": matched, "route": action })
}

fn tcp_rbac() -> Value {
    json!({ "name": "rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
        "stat_prefix": "bench",
        "rules": { "action": "ALLOW", "policies": { "front-reads-items": {
            "permissions": [{ "any": true }],
            "principals": [{ "authenticated": { "principal_name": { "exact": CLIENT_ID } } }],
        }}},
    }})
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({ "name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "bench",
        "cluster": cluster,
    }})
}

fn tcp_listener(at: std::net::SocketAddr, filters: &[Value], transport: Option<&Value>) -> Value {
    let mut chain = json!({ "filters": filters });
    if let Some(transport) = transport {
        chain["transport_socket"] = transport.clone();
    }
    json!({ "name": "raw", "address": address(at), "filter_chains": [chain] })
}

fn listener(at: std::net::SocketAddr, filters: &Value, routes: &Value, transport: Option<&Value>) -> Value {
    let manager = json!({ "name": "http", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "generate_request_id": false,
        "server_header_transformation": "PASS_THROUGH",
        "route_config": { "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": routes,
        }]},
        "http_filters": filters,
    }});
    let mut chain = json!({ "filters": [manager] });
    if let Some(transport) = transport {
        chain["transport_socket"] = transport.clone();
    }
    json!({ "name": "in", "address": address(at), "filter_chains": [chain] })
}

fn cluster(name: &str, at: std::net::SocketAddr, wire: Wire, transport: Option<&Value>) -> Value {
    let protocol = match wire {
        Wire::Http1 => json!({ "http_protocol_options": {} }),
        Wire::Http2 => json!({ "http2_protocol_options": {} }),
    };
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{ "max_connections": 32000, "max_requests": 32000, "max_pending_requests": 32000 }] },
        "load_assignment": { "cluster_name": name, "endpoints": [{
            "lb_endpoints": [{ "endpoint": { "address": address(at) } }],
        }]},
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": protocol,
        }},
    });
    if let Some(transport) = transport {
        cluster["transport_socket"] = transport.clone();
    }
    cluster
}
