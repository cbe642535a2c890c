//! `weft-proxy rules`: install, print, check, remove, why.
//!
//! Exit codes: 0: done, or all is as wanted. 1: it is not, or the kernel refused. 2: the settings make
//! no sense. What is asked for goes to standard output, what is wrong to standard error.

use super::settings::{Bypass, RulesFile, RulesFlags, RulesSettings};
use super::wanted::{RuleSet, RuleSetError};
use super::why::Question;
use super::{RulesError, text};
use crate::describe::chain;
use clap::{Args, Subcommand};
use serde::Deserialize;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

/// A settings file is a page.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The redirection of a pod's connections to the proxy.
#[derive(Debug, Args)]
pub struct RulesCommand {
    #[command(subcommand)]
    action: Action,
    /// The proxy's settings file; only its section `rules` is read.
    #[arg(long, env = "WEFT_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Put the rules in place, for IPv4 and IPv6 at once, instead of any that were there.
    Install(RulesFlags),
    /// Show the rules that would be installed, in nft's syntax. Changes nothing.
    Print(RulesFlags),
    /// Compare the kernel's rules with the wanted ones.
    Check(RulesFlags),
    /// Take the rules away.
    Remove,
    /// Say what the rules do to connections to and from an address, and which line decides.
    Why {
        /// The other side's address and the called port.
        #[arg(value_name = "ADDRESS:PORT", value_parser = address)]
        address: SocketAddr,
        #[command(flatten)]
        flags: RulesFlags,
    },
}

/// The settings file, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    rules: RulesFile,
}

/// How a command ended badly.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("{0}")]
    Usage(String),
    #[error("the rules make no sense")]
    RuleSet(#[source] RuleSetError),
    #[error("{0} failed")]
    Rules(&'static str, #[source] RulesError),
    #[error("the answer cannot be written")]
    Output(#[source] io::Error),
}

// === impl RulesCommand ===

impl RulesCommand {
    /// Does it, and says which exit code the process has.
    pub fn run(self, output: &mut dyn Write, errors: &mut dyn Write) -> u8 {
        match self.act(output, errors) {
            Ok(code) => code,
            Err(error) => {
                // Nothing is left to report a failing standard error to.
                let _ = writeln!(errors, "weft-proxy rules: {}", chain(&error));
                match error {
                    CommandError::Usage(_) | CommandError::RuleSet(_) => 2,
                    CommandError::Rules(..) | CommandError::Output(_) => 1,
                }
            }
        }
    }

    fn act(self, output: &mut dyn Write, errors: &mut dyn Write) -> Result<u8, CommandError> {
        let config = self.config;
        let wanted = |flags: RulesFlags| wanted(config.as_deref(), flags);
        match self.action {
            Action::Install(flags) => {
                let rules = wanted(flags)?;
                warn(&rules, errors);
                super::install(&rules).map_err(|error| CommandError::Rules("install", error))?;
                let settings = rules.settings();
                say(
                    output,
                    format_args!(
                        "installed: outbound to {}, inbound to {}, the proxy passes by {}, {} lines",
                        settings.outbound_port,
                        settings.inbound_port,
                        settings.bypass,
                        settings.lines.len()
                    ),
                )
            }
            Action::Print(flags) => {
                let rules = wanted(flags)?;
                warn(&rules, errors);
                output.write_all(text::render(&rules.table()).as_bytes()).map_err(CommandError::Output)?;
                Ok(0)
            }
            Action::Check(flags) => {
                let findings = super::check(&wanted(flags)?)
                    .map_err(|error| CommandError::Rules("check", error.into()))?;
                for finding in &findings {
                    say(output, format_args!("{finding}"))?;
                }
                if findings.is_empty() { say(output, format_args!("all rules are in place")) } else { Ok(1) }
            }
            Action::Remove => {
                super::remove().map_err(|error| CommandError::Rules("remove", error.into()))?;
                say(output, format_args!("removed: nothing is redirected"))
            }
            Action::Why { address, flags } => {
                let rules = wanted(flags)?;
                let local = is_local(address.ip());
                say(output, format_args!("{}", rules.why(Question::outbound(address, local))))?;
                let inbound = Question::inbound(address.ip(), address.port(), local);
                say(output, format_args!("{}", rules.why(inbound)))
            }
        }
    }
}

fn say(output: &mut dyn Write, line: std::fmt::Arguments<'_>) -> Result<u8, CommandError> {
    writeln!(output, "{line}").map_err(CommandError::Output)?;
    Ok(0)
}

/// What is allowed and rarely meant.
fn warn(rules: &RuleSet, errors: &mut dyn Write) {
    if let bypass @ (Bypass::User(0) | Bypass::Group(0)) = rules.settings().bypass {
        let _ = writeln!(
            errors,
            "weft-proxy rules: warning: with {bypass} every process of root passes by the mesh; run the proxy \
             under a user of its own"
        );
    }
}

fn wanted(config: Option<&Path>, flags: RulesFlags) -> Result<RuleSet, CommandError> {
    let file = config.map(read).transpose()?.unwrap_or_default();
    RuleSet::new(RulesSettings::join(flags, file.rules)).map_err(CommandError::RuleSet)
}

fn read(path: &Path) -> Result<File, CommandError> {
    let unreadable = |why: &dyn std::fmt::Display| {
        CommandError::Usage(format!("the settings file {} (--config) cannot be read: {why}", path.display()))
    };
    let length = std::fs::metadata(path).map_err(|error| unreadable(&error))?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(&format_args!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(File::default());
    }
    serde_yaml::from_str(&text).map_err(|error| CommandError::Usage(format!("{}: {error}", path.display())))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not ADDRESS:PORT, for instance 10.0.0.5:5432 or [2001:db8::5]:5432")
    })
}

/// Whether this namespace has the address: only then can a socket be bound to it.
fn is_local(address: IpAddr) -> bool {
    !address.is_unspecified() && UdpSocket::bind((address, 0)).is_ok()
}
