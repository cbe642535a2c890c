//! What operators can change in a running proxy: how much it logs, and that it drains.

use super::responder::{Answer, Request};
use std::time::Duration;
use weft_runtime::drain::Trigger;
use weft_runtime::logging::{LogFilter, LogHandle};

/// The levers, pulled over the admin socket only.
#[derive(Clone, Debug)]
pub struct Levers {
    /// Changes what is logged. `None` where logging is not this process's to change.
    pub log: Option<LogHandle>,
    /// Begins a drain.
    pub drain: Trigger,
    /// How long a drain may take.
    pub drain_deadline: Duration,
}

impl Levers {
    pub(super) fn pull(&self, request: &Request) -> Answer {
        match (request.path.as_str(), request.method.as_str()) {
            ("/drain", "POST") => {
                tracing::info!(deadline = ?self.drain_deadline, "draining on request");
                self.drain.drain(self.drain_deadline);
                Answer::of(202, format!("draining, within {:?}\n", self.drain_deadline))
            }
            ("/log-level", "GET" | "HEAD") => match &self.log {
                Some(log) => Answer::ok(format!("{}\n", log.current())),
                None => Answer::of(503, "logging cannot be changed here\n".to_owned()),
            },
            ("/log-level", "POST") => self.set_log(request.body.trim()),
            _ => Answer::of(405, "POST /drain; GET or POST /log-level with a filter as body\n".to_owned()),
        }
    }

    fn set_log(&self, text: &str) -> Answer {
        let Some(log) = &self.log else {
            return Answer::of(503, "logging cannot be changed here\n".to_owned());
        };
        let filter: LogFilter = match text.parse() {
            Ok(filter) => filter,
            Err(error) => return Answer::of(400, format!("{error}\n")),
        };
        match log.set(&filter) {
            Ok(()) => {
                tracing::info!(%filter, "logging changed on request");
                Answer::ok(format!("{filter}\n"))
            }
            Err(error) => Answer::of(503, format!("{error}\n")),
        }
    }
}
