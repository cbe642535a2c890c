//! Process scaffolding shared by `weft-control` and `weft-proxy`: how a program starts its threads,
//! says what it does, says whether it is ready, and stops. No policy and no HTTP parsing in here.
//!
//! A program's life, in the order in which `app.rs` meets these modules:
//!
//! | step | module | what it gives |
//! |---|---|---|
//! | 1 | [`logging`] | lines on stderr, escaped, with a level that can be changed while running |
//! | 2 | [`registry`] | the metric registry: process and build metrics, and families with a cell per thread |
//! | 3 | [`readiness`] | latches; ready when all are released, otherwise the missing ones by name |
//! | 4 | [`drain`] | trigger and watch: the shutdown's phases, and the count of what is open |
//! | 5 | [`workers`] | how many, and the threads themselves, each with a single-threaded runtime |
//! | 6 | [`spawn`](mod@spawn) | the only door to tokio's task spawning: every task has a name |
//! | 7 | [`backoff`], [`random`] | waits between attempts that failed; cheap randomness for jitter and picks |
//! | 8 | [`signal`] | SIGTERM and SIGINT drain, a second one forces |
//!
//! A main function therefore reads, in outline:
//!
//! ```no_run
//! use std::time::Duration;
//! use weft_runtime::{
//!     drain, logging, readiness::Readiness, registry::Registry, signal::Signals, spawn, workers,
//! };
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let log = logging::init(&"info".parse()?, logging::Format::Auto)?;
//!     let registry = Registry::new("weft-proxy", env!("CARGO_PKG_VERSION"))?;
//!     let (readiness, configuration) = Readiness::new("configuration");
//!     let listeners = readiness.latch("listeners");
//!     let (trigger, watch) = drain::channel();
//!
//!     let quota = workers::Cgroup::default().cpu_quota();
//!     let count = workers::worker_count(quota, 2);
//!     let mut workers = workers::start(count, "weft-worker", move |_index| async move {
//!         // Accept until the listeners close; spawn_local a task for each connection.
//!         watch.closing().await;
//!     })?;
//!
//!     // The main thread carries what is not a worker's: control client, admin, the shutdown.
//!     workers::build_runtime()?.block_on(async move {
//!         let signals = Signals::install()?;
//!         spawn("signals", signals.drive(trigger.clone(), Duration::from_secs(25)));
//!         configuration.release();
//!         listeners.release();
//!         tokio::select! {
//!             outcome = drain::run(&trigger, &readiness, Duration::from_secs(5)) => {
//!                 tracing::info!(?outcome, "drained");
//!             }
//!             Some(end) = workers.ended() => {
//!                 tracing::error!(worker = %end.index, "a worker ended by itself");
//!             }
//!         }
//!         workers.join(tokio::time::Instant::now() + Duration::from_secs(1)).await;
//!         drop((log, registry));
//!         Ok(())
//!     })
//! }
//! ```

pub mod backoff;
pub mod drain;
pub mod logging;
pub mod random;
pub mod readiness;
pub mod registry;
pub mod signal;
pub mod spawn;
pub mod workers;

pub use spawn::{spawn, spawn_local};
