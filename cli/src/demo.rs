//! `weft demo`: a small shop behind real proxies on this machine, and what the mesh does for it.
//!
//! Starts `weft-control`, one `weft-proxy` per workload and the applications as processes of their own,
//! on loopback and without privileges; walks through the story of [`story`]; checks every claim it
//! prints; and ends everything it started, also on Ctrl-C.
//!
//! With `--transparent` the same shop runs in pods, see [`transparent`].
//!
//! Exit code 0: every claim held; 1: one did not, or something did not start; 130: interrupted.

pub(crate) mod app;
mod http;
mod mesh;
mod metrics;
mod plan;
mod pods;
mod report;
mod story;
mod stream;
mod transparent;

use mesh::Mesh;
use report::{Output, Report};
use std::io::Write;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// What a shell gives a process that ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Settings of the demo.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Show it in pods (network namespaces), with programs that know nothing of a mesh
    #[arg(long)]
    transparent: bool,
    /// Leave the mesh running at the end, with what to try, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// How to say it
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs the demo.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    // Before there is a second thread.
    if arguments.transparent
        && let Err(error) = weft_pods::enter()
    {
        return failed(&error.into());
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    runtime.block_on(async {
        let mut report = Report::new(arguments.output);
        tokio::select! {
            // Whatever is dropped here ends its processes and removes its files.
            told = tell(arguments, &mut report) => match told {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => failed(&error),
            },
            () = interrupted() => {
                let _ = writeln!(std::io::stderr(), "\nweft demo: interrupted; all it started has been ended");
                ExitCode::from(INTERRUPTED)
            }
        }
    })
}

async fn tell(arguments: &Arguments, report: &mut Report) -> anyhow::Result<bool> {
    if arguments.transparent {
        return transparent::tell(arguments.keep && arguments.output == Output::Text, report).await;
    }
    report.title("weft demo: a shop whose workloads talk through a mesh, on this machine alone");
    report.step("A mesh starts");
    let mut mesh = Mesh::start().await?;
    story::started(&mesh, report);
    story::identities(&mesh, report).await?;
    story::authorization(&mesh, report).await?;
    story::routing(&mesh, report).await?;
    story::failure(&mut mesh, report).await?;
    story::orders(&mut mesh, report).await?;
    story::edit(&mesh, report).await?;
    story::measured(&mesh, report).await?;
    let held = report.finish();
    if arguments.keep && arguments.output == Output::Text {
        story::invitation(&mesh, report)?;
        // Until Ctrl-C, which drops the mesh.
        std::future::pending::<()>().await;
    }
    Ok(held)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // The whole chain: what failed, and why.
    let _ = writeln!(std::io::stderr(), "weft demo: {error:#}");
    ExitCode::FAILURE
}

/// Ctrl-C, or what `kill` sends.
async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
