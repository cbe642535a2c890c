//! A pair of HAProxy doing TLS only, HTTP/2 between, and opaque bytes in tcp mode: both sides show certificates and
//! check them against the authority, but no identity is authorized, nothing is retried beyond its default, and nothing
//! labelled is counted.

use anyhow::{Context as _, Result};

use super::{Contender, Missing, Role, Running, Setting, debian_command, debian_program, start_member};
use crate::{
    certificates::SERVER_NAME,
    process::{free_port, write_private},
};

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

pub(super) struct Haproxy;

// === impl Haproxy ===

impl Contender for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn job(&self) -> &'static str {
        "TLS with certificates on both sides, no authorization; HTTP/2 between"
    }

    fn missing(&self) -> Option<Missing> {
        let what = "no haproxy in PATH or target/peers".to_owned();
        debian_program("haproxy")
            .is_none()
            .then_some(Missing { what, install: "benches/install-peers.sh debian" })
    }

    fn start(&self, setting: &Setting<'_>) -> Result<Running> {
        let program = debian_program("haproxy").context("haproxy is missing")?;
        let (outbound, inbound) = (free_port(LOOPBACK)?, free_port(LOOPBACK)?);
        let (outbound_raw, inbound_raw) = (free_port(LOOPBACK)?, free_port(LOOPBACK)?);
        let (workers, connections) = (setting.workers, setting.connections_max);
        let (tickets, reuse) =
            if setting.resumption { ("", "") } else { (" no-tls-tickets", " no-ssl-reuse") };
        let cache = if setting.resumption { "" } else { "  tune.ssl.cachesize 0\n" };
        let certificates = setting.certificates;
        let authority = certificates.authority.display();
        let start = |role, side: &str, http: [&str; 3], raw: [&str; 2]| {
            let ([bind, server, grpc], [raw_bind, raw_server]) = (http, raw);
            let admin = free_port(LOOPBACK)?;
            let file = setting.directory.join(format!("{side}.cfg"));
            write_private(
                &file,
                &format!(
                    "global\n  nbthread {workers}\n  maxconn {connections}\n  no strict-limits\n{cache}  ssl-default-bind-options ssl-min-ver TLSv1.3\n\
                     defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n\
                     frontend admin\n  bind {admin}\n  monitor-uri /ready\n\
                     frontend in\n  bind {bind}\n  use_backend grpc if {{ req.hdr(content-type) -m beg application/grpc }}\n  default_backend next\n\
                     backend next\n  server next {server}\n\
                     backend grpc\n  server next {grpc}\n\
                     frontend raw\n  mode tcp\n  bind {raw_bind}\n  default_backend raw\n\
                     backend raw\n  mode tcp\n  server next {raw_server}\n"
                ),
            )?;
            let mut command = debian_command(&program);
            command.arg("-db").arg("-f").arg(&file);
            start_member(role, &format!("haproxy-{side}"), setting.directory, &mut command, admin, "/ready")
        };
        let (server_leaf, client_leaf) =
            (certificates.server.both.display(), certificates.client.both.display());
        let accept = format!("ssl crt {server_leaf} ca-file {authority} verify required{tickets}");
        let connect = format!(
            "ssl crt {client_leaf} ca-file {authority} verify required verifyhost {SERVER_NAME} sni str({SERVER_NAME}){reuse}"
        );
        let server = start(
            Role::ServerProxy,
            "server",
            [
                &format!("{inbound} {accept} alpn h2"),
                &setting.application.to_string(),
                &format!("{} proto h2", setting.application),
            ],
            [&format!("{inbound_raw} {accept}"), &setting.application_raw.to_string()],
        )?;
        let next = format!("{inbound} {connect} alpn h2");
        let client = start(
            Role::ClientProxy,
            "client",
            [&outbound.to_string(), &next, &next],
            [&outbound_raw.to_string(), &format!("{inbound_raw} {connect}")],
        )?;
        Ok(Running {
            target: outbound,
            http2_target: outbound,
            grpc_target: Some(outbound),
            also: Vec::new(),
            tcp_target: Some(outbound_raw),
            host: SERVER_NAME.to_owned(),
            members: vec![client, server],
            inbound: Some(inbound),
            authorizes: false,
            policy: None,
            restart: None,
            configuration: vec![format!(
                "nbthread {workers}, no log, http-reuse always, TLS 1.3, sessions {}",
                if setting.resumption { "resumed" } else { "not resumed" }
            )],
        })
    }
}
