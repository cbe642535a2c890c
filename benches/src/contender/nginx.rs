//! A pair of nginx doing TLS only: both sides show certificates and check them against the authority, but no identity
//! is authorized, nothing is retried, nothing counted. A floor to be measured against, not an equal.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{Contender, Missing, Role, Running, Setting, debian_command, debian_program, start_member};
use crate::{
    certificates::SERVER_NAME,
    process::{free_port, write_private},
};

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

pub(super) struct Nginx;

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
        let (outbound, outbound_http2, inbound) =
            (free_port(LOOPBACK)?, free_port(LOOPBACK)?, free_port(LOOPBACK)?);
        let certificates = setting.certificates;
        let authority = certificates.authority.display();
        let start = |role, side: &str, listen: &str, upstream: &str, server: &str, location: &str| {
            let admin = free_port(LOOPBACK)?;
            let prefix = setting.directory.join(side);
            std::fs::create_dir_all(&prefix)?;
            let file = prefix.join("nginx.conf");
            let text = configuration(&prefix, admin, listen, upstream, server, location)?;
            write_private(&file, &text)?;
            let mut command = debian_command(&program);
            command.arg("-p").arg(&prefix).arg("-e").arg(prefix.join("error.log")).arg("-c").arg(&file);
            start_member(role, &format!("nginx-{side}"), setting.directory, &mut command, admin, "/ready")
        };
        let server = start(
            Role::ServerProxy,
            "server",
            &format!("{inbound} ssl"),
            &setting.application.to_string(),
            &format!(
                "ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {authority}; ssl_verify_client on;",
                certificates.server.certificate.display(),
                certificates.server.key.display(),
            ),
            "proxy_pass http://next;",
        )?;
        let client = start(
            Role::ClientProxy,
            "client",
            // It does not tell cleartext HTTP/2 from HTTP/1.1 by itself: a port for each.
            &format!("{outbound}; listen {outbound_http2} http2"),
            &inbound.to_string(),
            "",
            &format!(
                "proxy_pass https://next; proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {}; proxy_ssl_certificate_key {}; \
                 proxy_ssl_trusted_certificate {authority}; proxy_ssl_verify on; proxy_ssl_name {SERVER_NAME}; proxy_ssl_server_name on;",
                certificates.client.certificate.display(),
                certificates.client.key.display(),
            ),
        )?;
        Ok(Running {
            target: outbound,
            http2_target: outbound_http2,
            // Debian's nginx has no stream module unless another package brings it.
            tcp_target: None,
            host: SERVER_NAME.to_owned(),
            members: vec![client, server],
            inbound: Some(inbound),
            authorizes: false,
            policy: None,
            restart: None,
            configuration: vec!["one process, access log off, keepalive to the next hop, TLS 1.3".to_owned()],
        })
    }
}

fn configuration(
    prefix: &Path,
    admin: std::net::SocketAddr,
    listen: &str,
    upstream: &str,
    server: &str,
    location: &str,
) -> Result<String> {
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
    writeln!(
        text,
        "  upstream next {{ server {upstream}; keepalive 512; keepalive_requests 100000000; keepalive_time 1d; }}"
    )?;
    writeln!(text, "  server {{ listen {admin}; location /ready {{ return 200; }} }}")?;
    writeln!(text, "  server {{ listen {listen}; {server}\n    location / {{")?;
    writeln!(
        text,
        "      proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;"
    )?;
    writeln!(text, "      {location}\n    }}\n  }}\n}}")?;
    Ok(text)
}
