//! Transparent capture: what must hold before a redirected connection can be served.
//!
//! At the start, before any thread: the proxy's own connections are such as the rules let pass, the
//! rules are in place, and the capability for that is given up ([`privileges`]). From then on: proof,
//! again and again ([`probe`]), of which readiness is a part. It serves nothing itself;
//! [`crate::listener::redirected`] does.

mod arrivals;
mod metrics;
mod privileges;
mod probe;
mod proof;

pub use arrivals::Arrivals;
pub use metrics::CaptureMetrics;
pub use probe::Prober;
pub use proof::Path;

use crate::rules::settings::Bypass;
use crate::rules::wanted::PROBE_PORT;
use crate::rules::{self, RulesError};
use crate::settings::{CaptureSettings, Installer};
use nix::unistd::{getegid, geteuid};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why connections cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The rules would redirect the proxy's own connections.
    #[error(
        "rules.bypass is {bypass}, but this process runs as {actual}: its own connections would come back to it. \
         Run it as {wanted} (runAsUser, runAsGroup), or set rules.bypass to what it runs as"
    )]
    Identity {
        /// What the rules let pass.
        bypass: Bypass,
        /// What the process is.
        actual: String,
        /// What it would have to be.
        wanted: String,
    },
    /// The mark cannot be set.
    #[error(
        "rules.bypass is {0}, and this process may not set marks on its connections: give it the capability \
         NET_ADMIN or NET_RAW, or use uid:NUMBER and run it as that user"
    )]
    Mark(Bypass, #[source] io::Error),
    /// The mark could not be set any more once NET_ADMIN is given up.
    #[error(
        "rules.bypass is {0}, and this process could not set marks any more once it has given up NET_ADMIN, which it does \
         when the rules are in place: give it the capability NET_RAW (enough from Linux 5.17 on), or use uid:NUMBER and \
         run it as that user"
    )]
    MarkLater(Bypass, #[source] io::Error),
    /// Capabilities cannot be given up.
    #[error("the capabilities of this process cannot be given up")]
    Privileges(#[source] io::Error),
    /// The probe port is somebody else's.
    #[error(
        "port {PROBE_PORT} is needed to try the redirection, and another process of this pod has it; stop it, or \
         have it use another port"
    )]
    ProbePort(#[source] io::Error),
    /// The rules are not in place.
    #[error("the redirection rules cannot be installed")]
    Rules(#[source] RulesError),
}

/// What is held for as long as the process captures.
#[derive(Debug)]
pub struct Prepared {
    /// Bound and not listening: a call to the probe port that is not redirected finds nobody.
    _probe_port: Vec<Socket>,
}

/// Makes sure that this process is who the rules let pass, installs them if that is its task, and
/// gives up what it needed for it. Everything listens by now, so that no connection that is
/// redirected is refused. Must come before any thread is started.
pub fn prepare(settings: &CaptureSettings) -> Result<Prepared, CaptureError> {
    let bypass = settings.rules.settings().bypass;
    check_bypass(bypass)?;
    let needed = privileges::needed(bypass);
    // Before anything is changed: rules without a proxy that can work would only close the pod.
    match privileges::as_if_given_up(needed, || check_bypass(bypass)).map_err(CaptureError::Privileges)? {
        Err(CaptureError::Mark(bypass, error)) => return Err(CaptureError::MarkLater(bypass, error)),
        checked => checked?,
    }
    let probe_port = hold_probe_port().map_err(CaptureError::ProbePort)?;
    if settings.installer == Installer::Itself {
        rules::install(&settings.rules).map_err(CaptureError::Rules)?;
    }
    privileges::give_up_all_but(needed).map_err(CaptureError::Privileges)?;
    Ok(Prepared { _probe_port: probe_port })
}

fn hold_probe_port() -> io::Result<Vec<Socket>> {
    let mut held = Vec::new();
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(ip, PROBE_PORT);
        let bound = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
            .and_then(|socket| socket.bind(&address.into()).map(|()| socket));
        match bound {
            Ok(socket) => held.push(socket),
            // Without IPv6 nobody else can have it either.
            Err(error) if ip.is_ipv6() && error.kind() != io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Ok(held)
}

fn check_bypass(bypass: Bypass) -> Result<(), CaptureError> {
    let wrong = |actual, wanted| Err(CaptureError::Identity { bypass, actual, wanted });
    match bypass {
        Bypass::User(user) if geteuid().as_raw() != user => {
            wrong(format!("user {}", geteuid()), format!("user {user}"))
        }
        Bypass::Group(group) if getegid().as_raw() != group => {
            wrong(format!("group {}", getegid()), format!("group {group}"))
        }
        Bypass::Mark(mark) => Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
            .and_then(|socket| socket.set_mark(mark))
            .map_err(|error| CaptureError::Mark(bypass, error)),
        Bypass::User(_) | Bypass::Group(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_the_rules_do_not_know_is_told_what_to_run_as() {
        let other = geteuid().as_raw() + 1;
        let said = check_bypass(Bypass::User(other)).unwrap_err().to_string();
        assert!(said.contains(&format!("uid:{other}")) && said.contains("runAsUser"), "{said}");
        assert!(check_bypass(Bypass::User(geteuid().as_raw())).is_ok());
        let other = getegid().as_raw() + 1;
        assert!(check_bypass(Bypass::Group(other)).is_err());
        assert!(check_bypass(Bypass::Group(getegid().as_raw())).is_ok());
    }
}
