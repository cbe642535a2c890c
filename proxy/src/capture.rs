//! Transparent capture: what must hold before a redirected connection can be served.
//!
//! At the start, before any thread: the proxy's own connections are such as the rules let pass, and
//! the rules are in place. It serves nothing itself; [`crate::listener::redirected`] does.

use crate::rules::settings::Bypass;
use crate::rules::{self, RulesError};
use crate::settings::{CaptureSettings, Installer};
use nix::unistd::{getegid, geteuid};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;

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
    /// The rules are not in place.
    #[error("the redirection rules cannot be installed")]
    Rules(#[source] RulesError),
}

/// Makes sure that this process is who the rules let pass, and installs them if that is its task.
/// Everything listens by now, so that no connection that is redirected is refused.
pub fn prepare(settings: &CaptureSettings) -> Result<(), CaptureError> {
    check_bypass(settings.rules.settings().bypass)?;
    match settings.installer {
        Installer::Itself => rules::install(&settings.rules).map_err(CaptureError::Rules),
        Installer::Other => Ok(()),
    }
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
