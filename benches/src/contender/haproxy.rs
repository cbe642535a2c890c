//! A pair of HAProxy doing TLS only, HTTP/2 between: both sides show certificates and check them against the
//! authority, but no identity is authorized, nothing is retried beyond its default, and nothing labelled is counted.

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
        let certificates = setting.certificates;
        let authority = certificates.authority.display();
        let start = |role, side: &str, bind: &str, server: &str| {
            let admin = free_port(LOOPBACK)?;
            let file = setting.directory.join(format!("{side}.cfg"));
            write_private(
                &file,
                &format!(
                    "global\n  nbthread 1\n  maxconn 4096\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n\
                     defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n\
                     frontend admin\n  bind {admin}\n  monitor-uri /ready\n\
                     frontend in\n  bind {bind}\n  default_backend next\n\
                     backend next\n  server next {server}\n"
                ),
            )?;
            let mut command = debian_command(&program);
            command.arg("-db").arg("-f").arg(&file);
            start_member(role, &format!("haproxy-{side}"), setting.directory, &mut command, admin, "/ready")
        };
        let server = start(
            Role::ServerProxy,
            "server",
            &format!(
                "{inbound} ssl crt {} ca-file {authority} verify required alpn h2",
                certificates.server.both.display()
            ),
            &setting.application.to_string(),
        )?;
        let client = start(
            Role::ClientProxy,
            "client",
            &outbound.to_string(),
            &format!(
                "{inbound} ssl crt {} ca-file {authority} verify required verifyhost {SERVER_NAME} sni str({SERVER_NAME}) alpn h2",
                certificates.client.both.display()
            ),
        )?;
        Ok(Running {
            target: outbound,
            http2_target: outbound,
            host: SERVER_NAME.to_owned(),
            members: vec![client, server],
            inbound: Some(inbound),
            authorizes: false,
            policy: None,
            configuration: vec!["nbthread 1, no log, http-reuse always, TLS 1.3".to_owned()],
        })
    }
}
