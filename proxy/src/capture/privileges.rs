//! What this process may still do once the rules are in place: next to nothing.
//!
//! Given up before any thread starts, since the kernel keeps capabilities for each thread. It cannot
//! be undone, which is the point.

use crate::rules::settings::Bypass;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::io;

/// What the process still needs for as long as it lives: to mark its own connections, NET_RAW, if that
/// is how the rules know them.
pub(super) fn needed(bypass: Bypass) -> CapabilitySet {
    match bypass {
        Bypass::Mark(_) => CapabilitySet::NET_RAW,
        Bypass::User(_) | Bypass::Group(_) => CapabilitySet::empty(),
    }
}

/// Does something as it would be done later, with nothing but what is needed, and gets the rest back.
pub(super) fn as_if_given_up<T>(needed: CapabilitySet, job: impl FnOnce() -> T) -> io::Result<T> {
    let before = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: before.permitted & needed, ..before })?;
    let done = job();
    set_capabilities(None, before)?;
    Ok(done)
}

/// Gives up everything else, for this thread and all that it starts.
pub(super) fn give_up_all_but(needed: CapabilitySet) -> io::Result<()> {
    let kept = capabilities(None)?.permitted & needed;
    // What is ambient goes with what is inheritable.
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(())
}
