//! The machine a run was made on: figures without it mean nothing.

use std::fs;

use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) load_average: String,
}

// === impl Machine ===

impl Machine {
    pub(crate) fn describe() -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        let trimmed = |path| fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
        let unknown = || "unknown".to_owned();
        Self {
            processor: processor.unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: trimmed("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            load_average: trimmed("/proc/loadavg").unwrap_or_else(unknown),
        }
    }
}
