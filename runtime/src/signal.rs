//! SIGTERM and SIGINT: the first one drains, a second one forces.
//! This is the only place that listens to signals. It decides nothing about the drain itself: it pokes
//! the drain's trigger, as the admin server does, and [`crate::drain::run`] does the rest.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{self, SignalKind};

use crate::drain::Trigger;

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: the kubelet, or a service manager, stops this process.
    Terminate,
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
}

/// The signals that stop a process. From [`Signals::install`] on they no longer kill it by themselves.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

// === impl Signal ===

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

// === impl Signals ===

impl Signals {
    /// Takes over both signals. Must be called inside a runtime.
    ///
    /// # Errors
    /// What the operating system says when a handler cannot be installed.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// The next signal. Two of a kind that come before this is polled again count as one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::Terminate,
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            // Both streams end only with the runtime, and this task with it.
            else => std::future::pending().await,
        }
    }

    /// Drains within `within` at the first signal, forces at the second, and ends then.
    pub async fn drive(mut self, trigger: Trigger, within: Duration) {
        let signal = self.next().await;
        tracing::info!(%signal, deadline = ?within, "draining on a signal; a second one stops at once");
        trigger.drain(within);
        let signal = self.next().await;
        tracing::warn!(%signal, "stopping at once on a second signal");
        trigger.force();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain;
    use crate::workers::build_runtime;

    /// Signals go to the whole process, so this one test does all that needs them.
    #[test]
    fn the_first_signal_drains_and_the_second_forces() {
        let runtime = build_runtime().unwrap();
        runtime.block_on(async {
            let (trigger, watch) = drain::channel();
            let signals = Signals::install().unwrap();
            let driver = crate::spawn("signals", signals.drive(trigger, Duration::from_secs(60)));
            assert_eq!(watch.phase(), drain::Phase::Running);
            raise("TERM");
            watch.draining().await;
            assert_eq!(watch.phase(), drain::Phase::Draining);
            raise("INT");
            watch.forced().await;
            driver.await.unwrap();
        });
    }

    fn raise(signal: &str) {
        let status = std::process::Command::new("sh")
            .args(["-c", &format!("kill -{signal} {}", std::process::id())])
            .status()
            .unwrap();
        assert!(status.success());
    }
}
