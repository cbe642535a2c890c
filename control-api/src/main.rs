//! The program `weft-control`: arguments in, exit code out. 0 after a drain, 2 for what its caller can
//! repair (flags, files, ports), 1 for everything else.

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::Write;
use std::process::ExitCode;
use weft_control::app::{self, App, DRAIN_DEADLINE, StartupError};
use weft_control::settings::{Invocation, ServeSettings, TokenSettings};
use weft_runtime::logging::{self, Format};
use weft_runtime::signal::Signals;
use weft_runtime::workers::build_runtime;

fn main() -> ExitCode {
    let outcome = match Invocation::parse() {
        Invocation::Serve(settings) => serve(&settings),
        Invocation::Token(settings) => token(&settings),
    };
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    // The log may be off; whoever started the program is still to be told.
    let _ = writeln!(std::io::stderr(), "weft-control: {error:#}");
    ExitCode::from(if error.is::<StartupError>() { 2 } else { 1 })
}

fn token(settings: &TokenSettings) -> anyhow::Result<()> {
    let token = app::token(settings)?;
    writeln!(std::io::stdout(), "{token}").context("the token cannot be printed")
}

fn serve(settings: &ServeSettings) -> anyhow::Result<()> {
    logging::init(&settings.log, Format::Auto).context("logging cannot be set up")?;
    raise_file_limit();
    let app = App::build(settings)?;
    let runtime = build_runtime().context("the runtime cannot be set up")?;
    runtime.block_on(async {
        let signals = Signals::install().context("signals cannot be handled")?;
        weft_runtime::spawn("signals", signals.drive(app.trigger(), DRAIN_DEADLINE));
        let _ = writeln!(
            std::io::stderr(),
            "weft-control is ready: proxies on {}, admin on {}, generation {}",
            app.address()?,
            app.admin_address()?,
            app.generation()
        );
        Ok(app.run().await?)
    })
}

/// A connection is a file, and the usual soft limit is far below what the hard one allows.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
