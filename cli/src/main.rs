//! `weft`: the command line.
//!
//! Each subcommand lives in its own module and says its own exit code; what is shared is in the
//! library crates, so that the command judges exactly as the control API and the proxies do.

#![forbid(unsafe_code)]

mod check;
mod demo;
mod diff;
mod explain;
mod fetch;
#[cfg(test)]
mod fixture;
mod input;
mod judge;
mod query;
mod status;
mod test;
mod who_can;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "weft", version, about = "Weft, a service mesh", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile the policies of a directory and say what is wrong with them
    Check(check::Arguments),
    /// Judge the cases of every PolicyTest and say which do not hold
    Test(test::Arguments),
    /// Say what becomes of one request, and why
    Explain(explain::Arguments),
    /// Say who may make a request, and by which rule
    WhoCan(who_can::Arguments),
    /// Say which verdicts change between two policy sets
    Diff(diff::Arguments),
    /// Say where the control API and its proxies stand
    Status(status::Arguments),
    /// Wait until a generation is enforced everywhere
    Wait(status::WaitArguments),
    /// Start a small mesh on this machine and show it at work
    Demo(demo::Arguments),
    /// One application of the demo
    #[command(name = demo::app::SUBCOMMAND, hide = true)]
    DemoApp(demo::app::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check(arguments) => check::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::WhoCan(arguments) => who_can::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Wait(arguments) => status::run_wait(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoApp(arguments) => demo::app::run(&arguments),
    }
}
