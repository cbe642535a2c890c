//! Runs a program as root of fresh user and network namespaces: `weft-netns PROGRAM [ARGUMENT...]`.
//!
//! Making a user namespace takes a process of one thread, which a test is not. Needs no privileges
//! where the machine allows user namespaces; with them it gives the program all of this one's users.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// What it exits with when the machine makes no namespaces.
const NO_NAMESPACES: u8 = 125;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else { return fail("which program?") };
    if let Err(error) = weft_pods::enter() {
        return fail(&error.to_string());
    }
    let error = Command::new(&program).args(arguments).exec();
    fail(&format!("{} does not start: {error}", program.to_string_lossy()))
}

#[allow(clippy::print_stderr, reason = "the program's only word")]
fn fail(message: &str) -> ExitCode {
    eprintln!("weft-netns: {message}");
    ExitCode::from(NO_NAMESPACES)
}
