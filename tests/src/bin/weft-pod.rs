//! A pod that shares its pid namespace: `weft-pod SIDECAR [ARGUMENT...] --- APPLICATION [ARGUMENT...]`.
//!
//! Process 1 of the new namespace is named `pause` and does what the pause container does: it starts
//! nothing of its own and buries orphans. It starts the two programs, waits for both, and exits with the
//! sidecar's code. Its streams are the application's; the sidecar has only standard error.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{getegid, geteuid};
use std::ffi::OsString;
use std::fs;
use std::process::{Command, ExitCode, Stdio};

/// What it exits with when the machine makes no namespaces.
const NO_NAMESPACES: u8 = 125;

/// Says to process 1 that it is it.
const FIRST: &str = "WEFT_POD_FIRST";

fn main() -> ExitCode {
    let outcome = if std::env::var_os(FIRST).is_some() { pause() } else { enter() };
    outcome.unwrap_or_else(|error| fail(&error))
}

/// Makes the namespaces; their first process is this program again.
fn enter() -> Result<ExitCode, String> {
    let (user, group) = (geteuid(), getegid());
    let spaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    match unshare(CloneFlags::CLONE_NEWUSER | spaces) {
        Ok(()) => weft_pods::map_users(user.as_raw(), group.as_raw())
            .map_err(|error| format!("mapping users: {error}"))?,
        // Where user namespaces are switched off, root needs none.
        Err(_) if user.is_root() => unshare(spaces).map_err(|error| format!("pid namespace: {error}"))?,
        Err(error) => return Err(format!("user namespace: {error}")),
    }
    let program = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    let status = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(FIRST, "1")
        .status()
        .map_err(|error| format!("process 1: {error}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Process 1.
fn pause() -> Result<ExitCode, String> {
    // Whoever ends this program ends the pod.
    set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("death signal: {error}"))?;
    fs::write("/proc/self/comm", "pause").map_err(|error| format!("own name: {error}"))?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .and_then(|()| mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), nothing))
        .map_err(|error| format!("/proc: {error}"))?;
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut halves = words.splitn(2, |word| word == "---");
    let sidecar = start(halves.next(), true)?;
    let application = start(halves.next(), false)?;
    let mut code = None;
    let mut left = [sidecar, application].to_vec();
    while !left.is_empty() {
        let status = wait().map_err(|error| format!("wait: {error}"))?;
        left.retain(|id| status.pid().is_none_or(|ended| ended.as_raw() != *id));
        if let WaitStatus::Exited(id, status) = status
            && id.as_raw() == sidecar
        {
            code = u8::try_from(status).ok();
        }
    }
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn start(words: Option<&[OsString]>, sidecar: bool) -> Result<i32, String> {
    let Some((program, arguments)) = words.unwrap_or_default().split_first() else {
        return Err("which two programs?".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments).env_remove(FIRST);
    if sidecar {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    }
    let child =
        command.spawn().map_err(|error| format!("{} does not start: {error}", program.to_string_lossy()))?;
    i32::try_from(child.id()).map_err(|error| error.to_string())
}

#[allow(clippy::print_stderr, reason = "the program's only word")]
fn fail(message: &str) -> ExitCode {
    eprintln!("weft-pod: {message}");
    ExitCode::from(NO_NAMESPACES)
}
