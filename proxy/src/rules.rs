//! Redirection: which connections of the pod the proxy gets, and how the kernel is told.
//!
//! [`settings`] and [`line`] are what users write; [`wanted`] makes of it one value, the [`table`], which
//! `netlink` writes for the kernel, [`text`] for people, and [`why`] answers from. [`check`] reads the
//! kernel's table back. One transaction covers IPv4 and IPv6, so that there is no moment with half of
//! the rules. It knows nothing of sockets that listen: who installs rules listens first.

mod check;
pub mod command;
mod decode;
mod kernel;
pub mod line;
mod netlink;
pub mod settings;
pub mod table;
pub mod text;
pub mod wanted;
pub mod why;

pub use check::Finding;
pub use kernel::KernelError;

use std::fmt;
use wanted::RuleSet;

/// Why rules were not installed.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Others redirect already.
    #[error("connections are already redirected: {0}")]
    Taken(Listed),
    /// The kernel did not do it.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel did it, and something is still wrong.
    #[error("the rules were installed and are not as they should be: {0}")]
    NotInPlace(Listed),
}

/// Findings in one line.
#[derive(Debug)]
pub struct Listed(pub Vec<Finding>);

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            write!(f, "{}{finding}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Puts the rules in place of any that were there, and reads them back. Needs NET_ADMIN.
pub fn install(rules: &RuleSet) -> Result<(), RulesError> {
    let others = check::elsewhere(&kernel::read()?);
    if !others.is_empty() {
        return Err(RulesError::Taken(Listed(others)));
    }
    let table = rules.table();
    kernel::transact(&netlink::install(&table))?;
    let findings = check::compare(&table, &kernel::read()?);
    if findings.is_empty() { Ok(()) } else { Err(RulesError::NotInPlace(Listed(findings))) }
}

/// Takes the rules away, if there are any. Needs NET_ADMIN.
pub fn remove() -> Result<(), KernelError> {
    kernel::transact(&netlink::remove())
}

/// What of the kernel's rules is not as wanted; empty: all is. Needs NET_ADMIN.
pub fn check(rules: &RuleSet) -> Result<Vec<Finding>, KernelError> {
    Ok(check::compare(&rules.table(), &kernel::read()?))
}
