//! The server's half of one incremental xDS stream, without input or output: requests, snapshots and
//! the time go in, responses come out. It knows what the proxy asked for and what it was sent, and so
//! what it still lacks.
//!
//! Two lanes, so that a proxy is never sent more than it can take. The configuration lane holds one
//! batch at a time: all that changed, in the order of [`Kind::ALL`], the Generation last as the mark
//! that commits it. The endpoints lane holds one change of endpoints at a time, which waits for nothing
//! else. What happens while a lane is full is not queued: the next batch is made from the newest
//! snapshot. Endpoints of a destination that is left go after the commit, since until then requests may
//! still be sent there.

use super::holdings::{Difference, Holdings, Violation};
use super::nack::{self, Refusal};
use super::scope;
use crate::snapshot::Snapshot;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_model::mesh::Generation;
use weft_model::names::WorkloadUid;
use weft_model::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use weft_model::wire::Kind;

/// How long a fresh stream waits for the rest of its subscriptions, so that the first commit is whole.
const OPENING: Duration = Duration::from_millis(250);

/// How long a proxy may take to answer. One that does not is stuck, and does better anew.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// How much one response holds; gRPC clients take 4 MiB.
const RESPONSE_LENGTH_MAX: usize = 512 * 1024;

/// What a request told.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// Refused resources.
    pub refused: Vec<Refusal>,
    /// Resources of which a refusal on record is over: they were accepted since.
    pub accepted: Vec<(Kind, String)>,
    /// The request accepted or refused a response.
    pub answered: bool,
    /// The type asked for is not one of ours.
    pub unknown_type: bool,
}

/// One stream.
#[derive(Debug)]
pub struct Subscription {
    workload: WorkloadUid,
    snapshot: Arc<Snapshot>,
    kinds: [Holdings; Kind::ALL.len()],
    opened: Instant,
    nonce: u64,
    outstanding: BTreeMap<u64, Outstanding>,
    /// A commit mark is due although nothing may have changed: the stream is new, or an on-demand
    /// subscription is to be answered.
    commit_due: bool,
    /// The newest generation whose commit mark was accepted, and whether the newest mark was refused.
    enforced: Option<Generation>,
    commit_refused: bool,
    /// Something may be due: saves the comparison while nothing happened.
    dirty: bool,
}

#[derive(Debug)]
struct Outstanding {
    kind: Kind,
    names: Vec<String>,
    generation: Option<Generation>,
    sent: Instant,
}

// === impl Subscription ===

impl Subscription {
    /// A stream of the workload's proxy, which has been admitted.
    pub fn new(workload: WorkloadUid, snapshot: Arc<Snapshot>, now: Instant) -> Self {
        Self {
            workload,
            snapshot,
            kinds: Default::default(),
            opened: now,
            nonce: 0,
            outstanding: BTreeMap::new(),
            commit_due: true,
            enforced: None,
            commit_refused: false,
            dirty: false,
        }
    }

    /// The newest state of the mesh.
    pub fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
        self.dirty = true;
    }

    /// What the client sent.
    pub fn on_request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Told, Violation> {
        let Some(kind) = Kind::from_type_url(&request.type_url) else {
            return Ok(Told { unknown_type: true, ..Told::default() });
        };
        let told = self.on_answer(kind, request);
        let state = &mut self.kinds[kind as usize];
        let first = !state.subscribed;
        state.subscribed = true;
        if first {
            self.dirty = true;
            state.claim(&request.initial_resource_versions)?;
        }
        for name in &request.resource_names_subscribe {
            self.dirty = true;
            self.commit_due |= state.subscribe(kind, name, first)?;
        }
        for name in &request.resource_names_unsubscribe {
            self.dirty = true;
            state.unsubscribe(name);
        }
        // The xDS form of old: a first request without names wants them all.
        if first && request.resource_names_subscribe.is_empty() && kind != Kind::Service {
            state.wildcard = true;
        }
        Ok(told)
    }

    fn on_answer(&mut self, kind: Kind, request: &DeltaDiscoveryRequest) -> Told {
        let mut told = Told::default();
        let nonce = request.response_nonce.parse::<u64>().ok();
        let answered =
            nonce.filter(|nonce| self.outstanding.get(nonce).is_some_and(|sent| sent.kind == kind));
        let Some(sent) = answered.and_then(|nonce| self.outstanding.remove(&nonce)) else { return told };
        self.dirty = true;
        told.answered = true;
        if let Some(status) = &request.error_detail {
            told.refused = nack::read(kind, &status.message, &sent.names);
        }
        if sent.generation.is_some() {
            self.commit_refused = request.error_detail.is_some();
            if !self.commit_refused {
                self.enforced = sent.generation;
            }
        }
        let refused: BTreeSet<&str> = told.refused.iter().map(|held| held.name.as_str()).collect();
        told.accepted = sent
            .names
            .iter()
            .filter(|name| !refused.contains(name.as_str()))
            .map(|name| (kind, name.clone()))
            .collect();
        told
    }

    /// When to call [`Self::poll`] again though nothing happened; `None`: when something does.
    pub fn deadline(&self) -> Option<Instant> {
        let opening = (!self.is_whole()).then(|| self.opened + OPENING);
        let stuck = self.outstanding.values().map(|sent| sent.sent + ACK_TIMEOUT).min();
        match opening.filter(|_| self.dirty) {
            Some(opening) => Some(stuck.map_or(opening, |stuck| stuck.min(opening))),
            None => stuck,
        }
    }

    /// Whether the proxy has not answered for so long that it will not.
    pub fn is_stuck(&self, now: Instant) -> bool {
        self.outstanding.values().any(|sent| now >= sent.sent + ACK_TIMEOUT)
    }

    /// Whether the proxy holds and enforces all of the current snapshot that concerns it, as of the
    /// last [`Self::poll`].
    pub fn is_current(&self) -> bool {
        self.outstanding.is_empty() && !self.dirty && !self.commit_due && !self.commit_refused
    }

    /// The generation that the proxy enforces. One that it has nothing to change for counts as
    /// enforced without a word.
    pub fn enforced(&self) -> Option<&Generation> {
        match &self.enforced {
            Some(_) if self.is_current() => Some(self.snapshot.generation()),
            enforced => enforced.as_ref(),
        }
    }

    /// What to send now, in order; empty: nothing.
    pub fn poll(&mut self, now: Instant) -> Vec<DeltaDiscoveryResponse> {
        let opening = !self.is_whole() && now < self.opened + OPENING;
        if !self.dirty || opening {
            return Vec::new();
        }
        let in_flight = |endpoints: bool| {
            self.outstanding.values().any(|sent| (sent.kind == Kind::Endpoints) == endpoints)
        };
        let (configuration_full, endpoints_full) = (in_flight(false), in_flight(true));
        if endpoints_full {
            return Vec::new();
        }
        let services = &self.kinds[Kind::Service as usize].names;
        let wanted = scope::wanted(&self.workload, services, &self.snapshot);
        let mut differences: Vec<(Kind, Difference)> = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Generation) {
            if configuration_full && kind != Kind::Endpoints {
                continue;
            }
            let difference = self.kinds[kind as usize].difference(kind, &wanted, &self.snapshot);
            if !difference.is_empty() {
                differences.push((kind, difference));
            }
        }
        let configuration = differences.iter().any(|(kind, _)| *kind != Kind::Endpoints);
        let commit = !configuration_full && (configuration || self.commit_due);
        let mut responses = Vec::new();
        let mut later = Vec::new();
        for (kind, mut difference) in differences {
            let held_back = std::mem::take(&mut difference.removed_later);
            if commit {
                later.extend(held_back);
            } else if !configuration_full {
                difference.removed.extend(held_back);
            }
            self.send(kind, difference, now, &mut responses);
        }
        if commit {
            // Who subscribes to the mark late is owed one, whatever was sent before.
            self.commit_due = !self.kinds[Kind::Generation as usize].subscribed;
            self.commit(now, &mut responses);
        }
        let leaving = Difference { removed: later, ..Difference::default() };
        self.send(Kind::Endpoints, leaving, now, &mut responses);
        // A full lane is looked at again when it empties: the answer makes this dirty.
        self.dirty = false;
        responses
    }

    /// Whether everything is subscribed to that a commit must be whole in.
    fn is_whole(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| kind == Kind::Service || self.kinds[kind as usize].subscribed)
    }

    fn commit(&mut self, now: Instant, responses: &mut Vec<DeltaDiscoveryResponse>) {
        let state = &mut self.kinds[Kind::Generation as usize];
        if !state.subscribed {
            return;
        }
        let marks = self.snapshot.of_kind(Kind::Generation);
        let resources = marks
            .iter()
            .map(|(name, encoded)| state.hold(Kind::Generation, name, encoded, BTreeSet::new()))
            .collect();
        self.send(Kind::Generation, Difference { resources, ..Difference::default() }, now, responses);
    }

    /// Cuts a difference into responses of bounded size.
    fn send(
        &mut self,
        kind: Kind,
        difference: Difference,
        now: Instant,
        responses: &mut Vec<DeltaDiscoveryResponse>,
    ) {
        if kind == Kind::Endpoints {
            self.kinds[kind as usize].release(&difference.removed);
        }
        let mut resources = difference.resources.into_iter().peekable();
        let mut removed = difference.removed;
        while resources.peek().is_some() || !removed.is_empty() {
            let mut chunk = Vec::new();
            let mut length = 0;
            while let Some(resource) =
                resources.next_if(|next| chunk.is_empty() || length + size(next) <= RESPONSE_LENGTH_MAX)
            {
                length += size(&resource);
                chunk.push(resource);
            }
            // Names are short; ten thousand fit.
            let removed = std::mem::take(&mut removed);
            self.nonce += 1;
            let names =
                chunk.iter().map(|resource| resource.name.clone()).chain(removed.iter().cloned()).collect();
            let generation = (kind == Kind::Generation).then(|| self.snapshot.generation().clone());
            self.outstanding.insert(self.nonce, Outstanding { kind, names, generation, sent: now });
            responses.push(DeltaDiscoveryResponse {
                system_version_info: self.snapshot.generation().to_string(),
                resources: chunk,
                type_url: kind.type_url().to_owned(),
                nonce: self.nonce.to_string(),
                removed_resources: removed,
            });
        }
    }
}

fn size(resource: &Resource) -> usize {
    resource.resource.as_ref().map_or(0, |any| Bytes::len(&any.value)) + resource.name.len() + 128
}

#[cfg(test)]
mod tests;
