//! A pair of nginx doing TLS only: both sides show certificates and check them against the authority, but no identity
//! is authorized, nothing is retried, nothing counted. A floor to be measured against, not an equal.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{Contender, Missing, Role, Running, Setting, debian_command, debian_program, start_member};
use crate::{
    certificates::SERVER_NAME,
    process::{free_port, write_private},
};

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// What HTTP/1.1 to the next hop takes; without it, it would be HTTP/1.0.
const HTTP_LOCATION: &str =
    "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;";

pub(super) struct Nginx;

/// One server block and where it leads.
struct Server<'a> {
    listen: &'a str,
    tls: &'a str,
    upstream: SocketAddr,
    location: &'a str,
}

// === impl Nginx ===

impl Contender for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn job(&self) -> &'static str {
        "TLS with certificates on both sides, no authorization, no metrics; HTTP/1.1 between"
    }

    fn missing(&self) -> Option<Missing> {
        let what = "no nginx in PATH or target/peers".to_owned();
        debian_program("nginx")
            .is_none()
            .then_some(Missing { what, install: "benches/install-peers.sh debian" })
    }

    fn start(&self, setting: &Setting<'_>) -> Result<Running> {
        let program = debian_program("nginx").context("nginx is missing")?;
        ensure!(setting.workers == 1, "nginx runs as one process here: leave it out with --workers");
        let (outbound, outbound_http2, outbound_grpc) =
            (free_port(LOOPBACK)?, free_port(LOOPBACK)?, free_port(LOOPBACK)?);
        let (inbound, inbound_grpc) = (free_port(LOOPBACK)?, free_port(LOOPBACK)?);
        let certificates = setting.certificates;
        let authority = certificates.authority.display();
        let start = |role, side: &str, http: &Server<'_>, grpc: &Server<'_>| {
            let admin = free_port(LOOPBACK)?;
            let prefix = setting.directory.join(side);
            std::fs::create_dir_all(&prefix)?;
            let file = prefix.join("nginx.conf");
            write_private(&file, &configuration(&prefix, admin, http, grpc)?)?;
            let mut command = debian_command(&program);
            command.arg("-p").arg(&prefix).arg("-e").arg(prefix.join("error.log")).arg("-c").arg(&file);
            start_member(role, &format!("nginx-{side}"), setting.directory, &mut command, admin, "/ready")
        };
        let accept = format!(
            "ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {authority}; ssl_verify_client on;",
            certificates.server.certificate.display(),
            certificates.server.key.display(),
        );
        // The same directives for both modules, under their own names.
        let connect = |module: &str| {
            format!(
                "{module}_ssl_protocols TLSv1.3; {module}_ssl_certificate {}; {module}_ssl_certificate_key {}; \
                 {module}_ssl_trusted_certificate {authority}; {module}_ssl_verify on; {module}_ssl_name {SERVER_NAME}; \
                 {module}_ssl_server_name on;",
                certificates.client.certificate.display(),
                certificates.client.key.display(),
            )
        };
        let server = start(
            Role::ServerProxy,
            "server",
            &Server {
                listen: &format!("{inbound} ssl"),
                tls: &accept,
                upstream: setting.application,
                location: &format!("{HTTP_LOCATION} proxy_pass http://next;"),
            },
            &Server {
                listen: &format!("{inbound_grpc} ssl http2"),
                tls: &accept,
                upstream: setting.application,
                location: "grpc_set_header Host $host; grpc_pass grpc://next-grpc;",
            },
        )?;
        let client = start(
            Role::ClientProxy,
            "client",
            &Server {
                // It does not tell cleartext HTTP/2 from HTTP/1.1 by itself: a port for each.
                listen: &format!("{outbound}; listen {outbound_http2} http2"),
                tls: "",
                upstream: inbound,
                location: &format!("{HTTP_LOCATION} proxy_pass https://next; {}", connect("proxy")),
            },
            &Server {
                listen: &format!("{outbound_grpc} http2"),
                tls: "",
                upstream: inbound_grpc,
                location: &format!(
                    "grpc_set_header Host $host; grpc_pass grpcs://next-grpc; {}",
                    connect("grpc")
                ),
            },
        )?;
        Ok(Running {
            target: outbound,
            http2_target: outbound_http2,
            grpc_target: Some(outbound_grpc),
            also: Vec::new(),
            // Debian's nginx has no stream module unless another package brings it.
            tcp_target: None,
            host: SERVER_NAME.to_owned(),
            members: vec![client, server],
            inbound: Some(inbound),
            authorizes: false,
            policy: None,
            restart: None,
            configuration: vec![
                "one process, access log off, keepalive to the next hop, TLS 1.3; grpc_pass for gRPC"
                    .to_owned(),
            ],
        })
    }
}

fn configuration(prefix: &Path, admin: SocketAddr, http: &Server<'_>, grpc: &Server<'_>) -> Result<String> {
    let mut text = String::new();
    // One process instead of master and worker: the counters of one pid are then all there is.
    writeln!(
        text,
        "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log warn;",
        prefix.display()
    )?;
    writeln!(text, "events {{ worker_connections 32768; }}\nhttp {{\n  access_log off; tcp_nodelay on;")?;
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "  {kind}_temp_path {}/{kind};", prefix.display())?;
    }
    writeln!(text, "  keepalive_requests 100000000; keepalive_time 1d;")?;
    writeln!(text, "  server {{ listen {admin}; location /ready {{ return 200; }} }}")?;
    for (name, server) in [("next", http), ("next-grpc", grpc)] {
        writeln!(
            text,
            "  upstream {name} {{ server {}; keepalive 512; keepalive_requests 100000000; keepalive_time 1d; }}",
            server.upstream
        )?;
        writeln!(
            text,
            "  server {{ listen {}; {}\n    location / {{ {} }}\n  }}",
            server.listen, server.tls, server.location
        )?;
    }
    writeln!(text, "}}")?;
    Ok(text)
}
