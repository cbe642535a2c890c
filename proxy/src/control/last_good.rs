//! The last good configuration, on the state directory's tmpfs: what a restarted proxy serves by
//! while the control API is away.
//!
//! Written whole after a commit, at most once a second; while the stream lives its time is kept
//! current, so that its age is the time since the control API last stood behind it. A file that is
//! damaged, or of another workload, is ignored with a log line: starting without it is safe, since
//! nothing is admitted before there is a configuration.

use super::apply::Store;
use super::subscription::{Batch, Incoming};
use crate::describe::chain;
use crate::state::StateDirectory;
use prost::Message;
use std::time::{Duration, SystemTime};
use weft_model::names::WorkloadUid;
use weft_model::proto::discovery::DeltaDiscoveryResponse;
use weft_model::wire::Kind;

/// The file in the state directory.
const FILE: &str = "last-good";

/// Keeps the snapshot of one workload.
#[derive(Debug)]
pub struct LastGood {
    state: StateDirectory,
    uid: WorkloadUid,
}

impl LastGood {
    /// In this directory.
    pub fn new(state: StateDirectory, uid: WorkloadUid) -> Self {
        Self { state, uid }
    }

    /// Puts what was kept into the store; how long ago the control API last stood behind it. `None`:
    /// nothing usable was kept.
    pub fn restore(&self, store: &mut Store) -> Option<Duration> {
        let kept = match self.state.read(FILE) {
            Ok(kept) => kept?,
            Err(error) => {
                tracing::warn!(error = chain(&error), "the last good configuration is ignored");
                return None;
            }
        };
        let Some(responses) = self.decode(&kept.content) else {
            tracing::warn!(
                "the last good configuration is ignored: it cannot be read, or is another workload's"
            );
            return None;
        };
        for response in &responses {
            let names = response.resources.iter().flat_map(|resource| &resource.aliases);
            store.restore_names(names.chain(&response.removed_resources));
        }
        for response in responses {
            let Some(kind) = Kind::from_type_url(&response.type_url) else { continue };
            let effect = store.receive(Batch {
                kind,
                nonce: String::new(),
                resources: response.resources.into_iter().map(Incoming::from).collect(),
                removed: response.removed_resources,
            });
            for refused in effect.refused {
                tracing::warn!(name = refused.name, reason = refused.reason, "a kept resource is not taken");
            }
        }
        // A clock that was set back makes it look as if it came from the future: then it is new.
        Some(SystemTime::now().duration_since(kept.time).unwrap_or_default())
    }

    /// Keeps what the store holds.
    pub fn save(&self, store: &Store) {
        let mut content = Vec::new();
        let uid = self.uid.as_str().to_owned();
        uid.encode_length_delimited(&mut content).expect("a vector must have room");
        for response in store.snapshot() {
            response.encode_length_delimited(&mut content).expect("a vector must have room");
        }
        if let Err(error) = self.state.write(FILE, &content) {
            tracing::warn!(error = chain(&error), "the last good configuration cannot be kept");
        }
    }

    /// The control API still stands behind what was saved.
    pub fn confirm(&self) {
        if let Err(error) = self.state.confirm(FILE) {
            tracing::debug!(error = chain(&error), "the last good configuration cannot be confirmed");
        }
    }

    fn decode(&self, mut content: &[u8]) -> Option<Vec<DeltaDiscoveryResponse>> {
        let uid = String::decode_length_delimited(&mut content).ok()?;
        if uid != self.uid.as_str() {
            return None;
        }
        let mut responses = Vec::new();
        while !content.is_empty() {
            responses.push(DeltaDiscoveryResponse::decode_length_delimited(&mut content).ok()?);
        }
        Some(responses)
    }
}
