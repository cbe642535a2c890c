//! The policies that a control API has in force, and how far the proxies on a request's way are with them.

use crate::judge::{Outcome, Prepared};
use crate::status::{self, Status, printable};
use crate::{fetch, input};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use weft_config::{Compilation, SourceFile, compile};

/// What `/policies` says.
#[derive(Deserialize)]
struct Policies {
    generation: String,
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    name: String,
    text: String,
}

/// What a control API serves.
pub(super) struct InForce {
    control: SocketAddr,
    generation: String,
    files: Vec<SourceFile>,
}

/// How the explanation stands to the running mesh.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Live {
    /// The generation that is explained.
    generation: String,
    /// The proxies that the request passes.
    proxies: Vec<Proxy>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Proxy {
    workload: String,
    connected: bool,
    generation: Option<String>,
    /// Whether it enforces all that concerns it of what is explained.
    current: bool,
    /// What it refuses, and why: it denies where that is a policy.
    refused: Vec<String>,
}

impl InForce {
    pub(super) fn fetch(control: SocketAddr) -> Result<Self, String> {
        let text = fetch::get(control, "/policies")?;
        let held: Policies = serde_json::from_str(&text)
            .map_err(|error| format!("{control}: these are no policies: {error}"))?;
        let file = |file: File| SourceFile { name: file.name, text: file.text };
        Ok(Self { control, generation: held.generation, files: held.files.into_iter().map(file).collect() })
    }

    pub(super) fn compile(&self) -> Result<Compilation, String> {
        input::sound(compile(&self.files), &self.files)
    }

    /// Asks how far the caller's and the endpoints' proxies are.
    pub(super) fn enforced(self, prepared: &Prepared<'_>, outcome: &Outcome<'_>) -> Result<Live, String> {
        let status = status::ask(self.control)?;
        let caller = prepared.caller.workload.iter().filter(|_| prepared.caller.proxied);
        let mut passed: BTreeSet<String> = caller.map(ToString::to_string).collect();
        let ends = outcome.branches.iter().flat_map(|branch| &branch.ends);
        passed.extend(ends.filter(|(end, _)| end.own.proxied).map(|(end, _)| end.endpoint.uid.to_string()));
        if status.generation != self.generation {
            return Err(format!(
                "the policies changed while they were explained ({} to {}): ask again",
                printable(&self.generation),
                printable(&status.generation)
            ));
        }
        let proxies = passed.into_iter().map(|workload| Proxy::new(workload, &status)).collect();
        Ok(Live { generation: self.generation, proxies })
    }
}

impl Proxy {
    fn new(workload: String, status: &Status) -> Self {
        let held: Vec<_> = status.proxies.iter().filter(|proxy| proxy.workload == workload).collect();
        Self {
            connected: !held.is_empty(),
            generation: held.last().and_then(|proxy| proxy.generation.clone()),
            current: !held.is_empty() && held.iter().all(|proxy| proxy.current && proxy.nacks.is_empty()),
            refused: held
                .iter()
                .flat_map(|proxy| &proxy.nacks)
                .map(|nack| format!("{}: {}", nack.name, nack.reason))
                .collect(),
            workload,
        }
    }
}

impl Live {
    pub(super) fn write(&self, text: &mut String) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  live   generation {}", printable(&self.generation));
        for proxy in &self.proxies {
            let at = proxy.generation.as_deref().unwrap_or("none");
            let stands = match (proxy.connected, proxy.refused.is_empty(), proxy.current) {
                (false, ..) => "is not connected: it enforces what it has".to_owned(),
                (true, false, _) => "does not enforce all of it".to_owned(),
                (true, true, true) => "enforces it".to_owned(),
                (true, true, false) => format!("does not enforce all of it yet: it is at {}", printable(at)),
            };
            let _ = writeln!(text, "         {} {stands}", proxy.workload);
            for refused in &proxy.refused {
                let _ = writeln!(text, "         it refuses {}", printable(refused));
            }
        }
    }
}
