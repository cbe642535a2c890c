//! The application as processes: the command this proxy starts itself, or the other processes of its pid
//! namespace. Both say exactly when the application is gone, which open connections only suggest.
//!
//! Once it is gone there is nobody left to serve: the process ends as soon as nothing is under way.

pub mod alone;
pub mod command;

use std::path::Path;
use std::time::Duration;
use weft_runtime::drain::Trigger;

/// How long what the application left under way may take. Its connections end with it, within
/// milliseconds; what stays open longer is a peer that does not take the last bytes.
pub const DEFAULT_AFTERMATH_MAX: Duration = Duration::from_secs(5);

/// Ends the process when the last other process of its pid namespace is gone.
pub async fn follow(trigger: Trigger) {
    alone::alone(Path::new(alone::PROC)).await;
    tracing::info!("the application's last process has ended");
    trigger.finish(DEFAULT_AFTERMATH_MAX);
}
