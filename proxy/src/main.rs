//! The program: settings, logging, the application; errors become one message and an exit code.
//!
//! 0: drained. 1: something failed while running. 2: the settings, an address or the state directory
//! are not usable as they are.

use clap::{Parser, Subcommand};
use std::io;
use std::process::ExitCode;
use weft_proxy::app::{self, AppError};
use weft_proxy::describe::chain;
use weft_proxy::rules::command::RulesCommand;
use weft_proxy::settings::{Flags, Settings};
use weft_runtime::logging;

/// Weft's sidecar proxy. Settings come from flags, then the environment, then the file.
#[derive(Debug, Parser)]
#[command(name = "weft-proxy", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install, print, check or remove the redirection of this pod's connections.
    Rules(RulesCommand),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Rules(command)) = arguments.command {
        return command.run(&mut io::stdout().lock(), &mut io::stderr().lock()).into();
    }
    let settings = match Settings::load(arguments.flags) {
        Ok(settings) => settings,
        Err(error) => return fail(2, &error.to_string()),
    };
    let log = match logging::init(&settings.log, logging::Format::Auto) {
        Ok(log) => log,
        Err(error) => return fail(1, &error.to_string()),
    };
    match app::run(settings, Some(log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (AppError::State(_) | AppError::Capture(_))) => fail(2, &chain(&error)),
        Err(error) if error.is_usage() => fail(2, &error.to_string()),
        Err(error) => {
            tracing::error!(error = chain(&error), "weft-proxy ends");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "the program's own last word, before or after there is a log")]
fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("weft-proxy: {message}");
    ExitCode::from(code)
}
