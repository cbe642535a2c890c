//! Runs a program as root of fresh user and network namespaces: `weft-netns PROGRAM [ARGUMENT...]`.
//!
//! Making a user namespace takes a process of one thread, which a test is not. Needs no privileges
//! where the machine allows user namespaces; with them it gives the program all of this one's users.

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// What it exits with when the machine makes no namespaces.
const NO_NAMESPACES: u8 = 125;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else { return fail("which program?") };
    if let Err(error) = enter() {
        return fail(&error);
    }
    let error = Command::new(&program).args(arguments).exec();
    fail(&format!("{} does not start: {error}", program.to_string_lossy()))
}

fn enter() -> Result<(), String> {
    let (user, group) = (geteuid(), getegid());
    match unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
        Ok(()) => {}
        // Where user namespaces are switched off, root needs none.
        Err(_) if user.is_root() => {
            return unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("network namespace: {error}"));
        }
        Err(error) => return Err(format!("user namespace: {error}")),
    }
    let all = "0 0 4294967295";
    if user.is_root() && fs::write("/proc/self/uid_map", all).is_ok() {
        return fs::write("/proc/self/gid_map", all).map_err(|error| format!("gid_map: {error}"));
    }
    // One's own group can be mapped only by who has given up changing groups.
    fs::write("/proc/self/setgroups", "deny").map_err(|error| format!("setgroups: {error}"))?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).map_err(|error| format!("uid_map: {error}"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).map_err(|error| format!("gid_map: {error}"))
}

#[allow(clippy::print_stderr, reason = "the program's only word")]
fn fail(message: &str) -> ExitCode {
    eprintln!("weft-netns: {message}");
    ExitCode::from(NO_NAMESPACES)
}
