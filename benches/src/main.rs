//! `weft-bench`: a mesh hop measured side by side with other proxies.
//!
//! One binary in three roles, each its own process so that no role's CPU is charged to another:
//! `run` owns the contenders and reads their counters, `serve` is the application, `load` is the client.
//! It starts release binaries as processes and knows nothing of their insides. `micro` and `compile` are the
//! exception: they call the libraries that those binaries are made of.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod certificates;
mod compile;
mod contender;
mod counters;
mod facts;
mod histogram;
mod http1;
mod instructions;
mod load;
mod machine;
mod measure;
mod micro;
mod policies;
mod process;
mod raw;
mod report;
mod run;
mod scenario;
mod serve;
mod suite;
mod tables;

#[derive(Parser)]
#[command(name = "weft-bench", about = "Measures a mesh hop side by side with other proxies")]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Measure contenders in interleaved rounds
    Run(run::Options),
    /// Measure everything that the README shows, and print its tables
    Suite(suite::Options),
    /// Measure each function on a request's way by itself
    Micro(micro::Options),
    /// Measure what compiling policies and an edit of one costs
    Compile(compile::Options),
    /// Count the instructions of a fixed mix of requests (needs valgrind)
    Instructions(instructions::Options),
    /// List the contenders and say how to install the missing ones
    List,
    /// Be the application behind the proxies (started by `run`)
    Serve(serve::Options),
    /// Be the client before the proxies (started by `run`)
    Load(load::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().role {
        Role::Run(options) => run::run(&options),
        Role::Suite(options) => suite::suite(&options),
        Role::Micro(options) => micro::micro(&options).map(|()| true),
        Role::Compile(options) => compile::measure(&options).map(|()| true),
        Role::Instructions(options) => instructions::instructions(&options),
        Role::List => {
            report::contenders(&contender::all());
            Ok(true)
        }
        Role::Serve(options) => serve::serve(&options).map(|()| true),
        Role::Load(options) => load::load(&options).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::failure(&error);
            ExitCode::FAILURE
        }
    }
}
