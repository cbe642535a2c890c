//! No proxy at all: what the client and the application cost by themselves, and the latency that is nobody's.

use anyhow::Result;

use super::{Contender, Missing, Running, Setting};

pub(super) struct Direct;

// === impl Direct ===

impl Contender for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn job(&self) -> &'static str {
        "none: the client talks to the application"
    }

    fn missing(&self) -> Option<Missing> {
        None
    }

    fn start(&self, setting: &Setting<'_>) -> Result<Running> {
        Ok(Running {
            target: setting.application,
            http2_target: setting.application,
            grpc_target: Some(setting.application),
            also: Vec::new(),
            tcp_target: Some(setting.application_raw),
            host: "catalog".to_owned(),
            members: Vec::new(),
            inbound: None,
            authorizes: false,
            policy: None,
            restart: None,
            configuration: Vec::new(),
        })
    }
}
