//! Into namespaces of one's own: users, network and mounts.
//!
//! Needs no privileges where the machine allows user namespaces. Making one takes a process of one
//! thread, so this comes before any runtime.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use std::fs;
use std::io;
use std::path::Path;

/// Where programs look names up first.
const HOSTS: &str = "/etc/hosts";

/// The machine makes no namespaces.
#[derive(Debug, thiserror::Error)]
#[error("this machine makes no network namespaces ({what}): allow user namespaces, or run as root")]
pub struct EnterError {
    what: &'static str,
    #[source]
    source: io::Error,
}

/// Makes this process root of namespaces of its own.
pub fn enter() -> Result<(), EnterError> {
    let failed = |what: &'static str| move |error: io::Error| EnterError { what, source: error };
    let (user, group) = (geteuid(), getegid());
    let all = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    match unshare(all) {
        Ok(()) => map_users(user.as_raw(), group.as_raw()).map_err(failed("mapping users"))?,
        // Where user namespaces are switched off, root needs none.
        Err(_) if user.is_root() => unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .map_err(|error| failed("a network namespace")(error.into()))?,
        Err(error) => return Err(failed("a user namespace")(error.into())),
    }
    // What is mounted from here on is nobody else's.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|error| failed("mounts of its own")(error.into()))
}

/// Has every program that is started from here on find these names: `file` takes the place of the list
/// of hosts, for this process and its children alone.
pub fn show_names(file: &Path) -> io::Result<()> {
    Ok(mount(Some(file), HOSTS, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Makes that user and group root of a user namespace that this process has just made, with all other users
/// where that may be.
pub fn map_users(user: u32, group: u32) -> io::Result<()> {
    let all = "0 0 4294967295";
    if user == 0 && fs::write("/proc/self/uid_map", all).is_ok() {
        return fs::write("/proc/self/gid_map", all);
    }
    // One's own group can be mapped only by who has given up changing groups.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}
