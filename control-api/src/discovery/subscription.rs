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

use super::nack::{self, Refusal};
use super::scope::{self, Wanted};
use crate::snapshot::Snapshot;
use crate::snapshot::version::Version;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weft_model::mesh::Generation;
use weft_model::names::WorkloadUid;
use weft_model::proto::discovery::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use weft_model::wire::Kind;

/// How long a fresh stream waits for the rest of its subscriptions, so that the first commit is whole.
const OPENING: Duration = Duration::from_millis(250);

/// How long a proxy may take to answer. One that does not is stuck, and does better anew.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// The most names one stream may ask for, or hold: memory follows use, and use is bounded.
const NAMES_MAX: usize = 10_000;

/// The longest name.
const NAME_LENGTH_MAX: usize = 1024;

/// How much one response holds; gRPC clients take 4 MiB.
const RESPONSE_LENGTH_MAX: usize = 512 * 1024;

const WILDCARD: &str = "*";

/// What ends the stream: the client breaks the protocol.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Violation {
    /// Services are many: nobody gets them all.
    #[error("Services are subscribed to by name, not by wildcard")]
    ServiceWildcard,
    /// More than can be held for one stream.
    #[error("more than {NAMES_MAX} names on one stream")]
    TooManyNames,
    /// A name that cannot be one.
    #[error("a name of more than {NAME_LENGTH_MAX} bytes")]
    LongName,
}

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
    kinds: [KindState; Kind::ALL.len()],
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

#[derive(Debug, Default)]
struct KindState {
    subscribed: bool,
    wildcard: bool,
    names: BTreeSet<Box<str>>,
    /// By canonical name.
    held: BTreeMap<Box<str>, Held>,
    /// Names asked for that the proxy was told are not there.
    told_absent: BTreeSet<Box<str>>,
    /// Names that are to be answered even if the proxy holds what they lead to.
    answer_due: BTreeSet<Box<str>>,
}

#[derive(Debug)]
struct Held {
    version: HeldVersion,
    aliases: BTreeSet<Box<str>>,
}

#[derive(Debug, Eq, PartialEq)]
enum HeldVersion {
    Sent(Version),
    /// What the client says it holds from an earlier stream.
    Claimed(Box<str>),
}

#[derive(Debug)]
struct Outstanding {
    kind: Kind,
    names: Vec<String>,
    generation: Option<Generation>,
    sent: Instant,
}

/// The difference for one kind between what is held and what is to be.
#[derive(Debug, Default)]
struct Difference {
    resources: Vec<Resource>,
    removed: Vec<String>,
    /// Removed only after the commit.
    removed_later: Vec<String>,
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
        self.outstanding.is_empty() && !self.dirty && !self.commit_due
    }

    /// The generation that the proxy enforces. One that it has nothing to change for counts as
    /// enforced without a word.
    pub fn enforced(&self) -> Option<&Generation> {
        match &self.enforced {
            Some(_) if self.is_current() && !self.commit_refused => Some(self.snapshot.generation()),
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
            let difference = self.difference(kind, &wanted);
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
            self.commit_due = false;
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

    fn difference(&mut self, kind: Kind, wanted: &Wanted) -> Difference {
        let mut difference = Difference::default();
        let state = &mut self.kinds[kind as usize];
        if !state.subscribed {
            return difference;
        }
        let names = &wanted.names[kind as usize];
        let visible = |name: &str| kind == Kind::Service || state.wildcard || state.names.contains(name);
        for name in names.iter().filter(|name| visible(name.as_str())) {
            let Some(encoded) = self.snapshot.get(kind, name.as_str()) else { continue };
            let aliases = wanted.aliases.get(name).filter(|_| kind == Kind::Service);
            let due = state.answer_due.contains(name.as_str())
                || aliases
                    .is_some_and(|aliases| aliases.iter().any(|alias| state.answer_due.contains(alias)));
            let held = state.held.get(name.as_str()).is_some_and(|held| {
                held.version.is(encoded.version)
                    && aliases.is_none_or(|aliases| aliases.is_subset(&held.aliases))
            });
            if held && !due {
                continue;
            }
            let aliases = aliases.cloned().unwrap_or_default();
            difference.resources.push(Resource {
                version: encoded.version.to_string(),
                resource: Some(Any { type_url: kind.type_url().to_owned(), value: encoded.bytes.clone() }),
                name: name.to_string(),
                aliases: aliases.iter().map(ToString::to_string).collect(),
                ttl: None,
            });
            let version = HeldVersion::Sent(encoded.version);
            state.held.insert(name.as_str().into(), Held { version, aliases });
        }
        state.answer_due.clear();
        let gone: Vec<Box<str>> = state
            .held
            .keys()
            .filter(|name| !names.contains::<str>(name) || !visible(name))
            .cloned()
            .collect();
        let services = &wanted.names[Kind::Service as usize];
        for name in gone {
            // A slice of a destination that stays is obsolete at once; the others are still used.
            let stays = name.split_once(':').is_some_and(|(service, _)| services.contains(service));
            if kind == Kind::Endpoints && !stays {
                difference.removed_later.push(name.to_string());
            } else {
                state.held.remove(&name);
                difference.removed.push(name.to_string());
            }
        }
        let absent: BTreeSet<Box<str>> = if kind == Kind::Service {
            wanted.absent.clone()
        } else {
            state.names.iter().filter(|name| !names.contains::<str>(name)).cloned().collect()
        };
        for name in absent.difference(&state.told_absent) {
            if !difference.removed.iter().any(|removed| **removed == **name) {
                difference.removed.push(name.to_string());
            }
        }
        state.told_absent = absent;
        difference
    }

    fn commit(&mut self, now: Instant, responses: &mut Vec<DeltaDiscoveryResponse>) {
        let state = &mut self.kinds[Kind::Generation as usize];
        if !state.subscribed {
            return;
        }
        let mut resources = Vec::new();
        for (name, encoded) in self.snapshot.of_kind(Kind::Generation) {
            let aliases = BTreeSet::new();
            let version = HeldVersion::Sent(encoded.version);
            state.held.insert(name.as_str().into(), Held { version, aliases });
            resources.push(Resource {
                version: encoded.version.to_string(),
                resource: Some(Any {
                    type_url: Kind::Generation.type_url().to_owned(),
                    value: encoded.bytes.clone(),
                }),
                name: name.to_string(),
                aliases: Vec::new(),
                ttl: None,
            });
        }
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
            // Of those that were held back, the ones that go now are no longer held.
            let state = &mut self.kinds[kind as usize];
            difference.removed.iter().for_each(|name| drop(state.held.remove(name.as_str())));
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

// === impl KindState ===

impl KindState {
    /// What the client still holds from an earlier stream.
    fn claim(&mut self, versions: &BTreeMap<String, String>) -> Result<(), Violation> {
        if versions.len() > NAMES_MAX {
            return Err(Violation::TooManyNames);
        }
        for (name, version) in versions {
            if name.len() > NAME_LENGTH_MAX || version.len() > NAME_LENGTH_MAX {
                return Err(Violation::LongName);
            }
            let version = HeldVersion::Claimed(version.as_str().into());
            self.held.insert(name.as_str().into(), Held { version, aliases: BTreeSet::new() });
        }
        Ok(())
    }

    /// Whether a commit mark is to follow.
    fn subscribe(&mut self, kind: Kind, name: &str, first: bool) -> Result<bool, Violation> {
        if name == WILDCARD {
            if kind == Kind::Service {
                return Err(Violation::ServiceWildcard);
            }
            self.wildcard = true;
            return Ok(false);
        }
        if name.len() > NAME_LENGTH_MAX {
            return Err(Violation::LongName);
        }
        self.names.insert(name.into());
        if self.names.len() > NAMES_MAX {
            return Err(Violation::TooManyNames);
        }
        self.told_absent.remove(name);
        // On resume the client says what it holds: that needs no answer if it is still right.
        if !(first && self.held.contains_key(name)) {
            self.answer_due.insert(name.into());
        }
        Ok(kind == Kind::Service)
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = false;
            return;
        }
        self.names.remove(name);
        self.told_absent.remove(name);
        self.answer_due.remove(name);
        for held in self.held.values_mut() {
            held.aliases.remove(name);
        }
    }
}

// === impl HeldVersion ===

impl HeldVersion {
    fn is(&self, version: Version) -> bool {
        match self {
            Self::Sent(held) => *held == version,
            Self::Claimed(text) => **text == *version.to_string(),
        }
    }
}

// === impl Difference ===

impl Difference {
    fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty() && self.removed_later.is_empty()
    }
}

#[cfg(test)]
mod tests;
