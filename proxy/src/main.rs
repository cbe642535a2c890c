//! The program: settings, logging, the application; errors become one message and an exit code.
//!
//! 0: drained. 1: something failed while running. 2: the settings, an address or the state directory
//! are not usable as they are. With a command after `--`: the command's own, 128 and the signal's number
//! if it was killed, 125 if the proxy failed, 126 or 127 if the command could not be started.

mod memory;

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use weft_proxy::admin::client::{Question, Running};
use weft_proxy::app::{self, AppError};
use weft_proxy::application::command::{CommandLine, EXIT_OWN_FAILURE};
use weft_proxy::describe::chain;
use weft_proxy::rules::command::RulesCommand;
use weft_proxy::rules::settings::Bypass;
use weft_proxy::settings::{Flags, Settings};
use weft_runtime::logging;

/// Gives back what connections held when they are gone (`docs/decisions/0044-allocator.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Weft's sidecar proxy. Settings come from flags, then the environment, then the file.
#[derive(Debug, Parser)]
#[command(name = "weft-proxy", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
    /// A command to run once the proxy is ready: it gets this process's standard streams and signals, its
    /// exit code becomes this process's, and the proxy ends with it.
    #[arg(last = true, value_name = "COMMAND")]
    run: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install, print, check or remove the redirection of this pod's connections.
    Rules(RulesCommand),
    /// Ask the running proxy to drain, as SIGTERM does: for a preStop hook.
    Drain {
        #[command(flatten)]
        running: Running,
    },
    /// Show what the running proxy logs, or change it.
    LogLevel {
        #[command(flatten)]
        running: Running,
        /// The new filter, for instance info,weft_proxy=debug.
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        None => {}
        Some(Command::Rules(command)) => {
            return command.run(&mut io::stdout().lock(), &mut io::stderr().lock()).into();
        }
        Some(Command::Drain { running }) => return ask(&running, &Question::Drain),
        Some(Command::LogLevel { running, filter: None }) => return ask(&running, &Question::LogLevel),
        Some(Command::LogLevel { running, filter: Some(filter) }) => {
            return ask(&running, &Question::SetLogLevel(filter));
        }
    }
    let command = CommandLine::new(arguments.run);
    // What the proxy says by its code must not be taken for the command's.
    let own = |code| if command.is_some() { EXIT_OWN_FAILURE } else { code };
    let settings = match Settings::load(arguments.flags) {
        Ok(settings) => settings,
        Err(error) => return fail(own(2), &error.to_string()),
    };
    if command.is_some() && settings.exit_when_alone {
        return fail(
            own(2),
            "exitWhenAlone: the proxy ends with the command after -- already; leave one of them out",
        );
    }
    if command.is_some() && matches!(settings.control.bypass, Some(Bypass::User(_) | Bypass::Group(_))) {
        return fail(
            own(2),
            "rules.bypass: the command after -- runs as the proxy's own user and would bypass the mesh; use a mark, or \
             --exit-when-alone beside an application of another user",
        );
    }
    let log = match logging::init(&settings.log, logging::Format::Auto) {
        Ok(log) => log,
        Err(error) => return fail(own(1), &error.to_string()),
    };
    let (unusable, failed) = (own(2), own(1));
    match app::run(settings, Some(log), command, memory::give_back) {
        Ok(code) => code.map_or(ExitCode::SUCCESS, ExitCode::from),
        Err(AppError::Command(error)) => fail(error.exit_code(), &chain(&error)),
        Err(error @ (AppError::State(_) | AppError::Capture(_))) => fail(unusable, &chain(&error)),
        Err(error) if error.is_usage() => fail(unusable, &error.to_string()),
        Err(error) => {
            tracing::error!(error = chain(&error), "weft-proxy ends");
            ExitCode::from(failed)
        }
    }
}

/// Asks the running proxy and prints what it says.
fn ask(running: &Running, question: &Question) -> ExitCode {
    match running.ask(question) {
        Ok(text) => match io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => fail(1, &error),
    }
}

#[allow(clippy::print_stderr, reason = "the program's own last word, before or after there is a log")]
fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("weft-proxy: {message}");
    ExitCode::from(code)
}
