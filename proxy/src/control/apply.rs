//! Wire → model → [`Policy`]: what came is judged resource by resource, staged, and committed as one
//! by the Generation that ends its batch. Endpoints alone hold at once.
//!
//! A resource that is wrong is refused by name and its last good version stays; a security resource
//! that is not understood counts as not held, and what names it denies. Values that did not change
//! keep their `Arc`s through every commit: workers key pools and balancers by them (`views.rs`).
//! Pure state: no stream, no clock, no file.

use super::questions::{Answer, Questions};
use super::subscription::{Batch, Holdings, Incoming, Refused};
use super::views::{Slices, Views};
use crate::policy::{Asked, Own, Policy};
use crate::tls::verify::Trust;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_model::mesh::Generation;
use weft_model::names::{Namespace, ResourceName, WorkloadUid};
use weft_model::proto::discovery::{Any, DeltaDiscoveryResponse, Resource as WireResource};
use weft_model::service::Service;
use weft_model::spiffe::TrustDomain;
use weft_model::trust::TrustBundle;
use weft_model::wire::{Kind, Refusal, Resource};

/// Everything that is held, staged and asked for.
#[derive(Debug)]
pub struct Store {
    pub(super) uid: WorkloadUid,
    pub(super) held: [BTreeMap<ResourceName, Entry>; Kind::ALL.len()],
    /// Security resources that were refused because they are not understood.
    pub(super) not_understood: BTreeSet<(Kind, ResourceName)>,
    staged: BTreeMap<(Kind, ResourceName), Change>,
    staged_answers: Vec<(String, Answer)>,
    pub(super) questions: Questions,
    slices: Slices,
    pub(super) views: Views,
    pub(super) own: Arc<Own>,
    pub(super) stale: bool,
    pub(super) too_old: bool,
}

/// A resource that is held.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    version: Box<str>,
    bytes: Bytes,
    pub(super) resource: Resource,
}

#[derive(Debug)]
enum Change {
    Put(Entry),
    Remove,
    NotUnderstood,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Effect {
    /// What holds from now on.
    pub policy: Option<Policy>,
    /// The trust bundles, after a commit.
    pub bundles: Option<BTreeMap<TrustDomain, Option<Arc<TrustBundle>>>>,
    /// What was not taken.
    pub refused: Vec<Refused>,
    /// Whether a generation was committed.
    pub committed: bool,
}

// === impl Store ===

impl Store {
    /// Nothing is held.
    pub fn new(uid: WorkloadUid, namespace: Namespace) -> Self {
        Self {
            uid,
            held: Default::default(),
            not_understood: BTreeSet::new(),
            staged: BTreeMap::new(),
            staged_answers: Vec::new(),
            questions: Questions::default(),
            slices: Slices::default(),
            views: Views::new(namespace),
            own: Arc::default(),
            stale: false,
            too_old: false,
        }
    }

    /// Notes that a destination is wanted; its name on the wire if that is new.
    pub fn ask(&mut self, asked: &Asked) -> Option<String> {
        self.questions.ask(asked)
    }

    /// Forgets addresses at which nothing of the mesh is, at most so many, the longest known first. They
    /// are asked for again when they are dialled again.
    pub fn forget_absent(&mut self, most: usize) -> Vec<String> {
        self.questions.forget_absent(most)
    }

    /// All names that are asked for.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.questions.names()
    }

    /// Takes a batch: stages it, or commits what was staged (Generation), or applies it (Endpoints).
    pub fn receive(&mut self, batch: Batch) -> Effect {
        let mut effect = Effect::default();
        match batch.kind {
            Kind::Endpoints => self.receive_endpoints(batch, &mut effect),
            Kind::Generation => self.receive_generation(batch, &mut effect),
            _ => self.stage(batch, &mut effect),
        }
        effect
    }

    /// The stream has ended: what it began to say is forgotten, and will be said again.
    pub fn discard_staged(&mut self) {
        self.staged.clear();
        self.staged_answers.clear();
    }

    /// What is held is of an earlier life, until the control API confirms it.
    pub fn set_stale(&mut self) -> Policy {
        self.stale = true;
        self.policy()
    }

    /// What is held is too old to be believed. `None`: it already was.
    pub fn set_too_old(&mut self) -> Option<Policy> {
        if std::mem::replace(&mut self.too_old, true) {
            return None;
        }
        self.stale = true;
        Some(self.policy())
    }

    /// Whether a generation with this workload in it is held.
    pub fn is_complete(&self) -> bool {
        self.own.workload.is_some() && self.generation().is_some()
    }

    /// The generation that is held.
    pub fn generation(&self) -> Option<&Arc<Generation>> {
        self.held[Kind::Generation as usize].values().find_map(|entry| match &entry.resource {
            Resource::Generation(generation) => Some(generation),
            _ => None,
        })
    }

    /// The resources that count as not held because they are not understood.
    pub fn not_understood(&self) -> usize {
        self.not_understood.len()
    }

    /// Everything that is held, as responses that [`Self::restore`] takes. Names that were asked for
    /// stand as aliases of what they lead to, or as removed.
    pub fn snapshot(&self) -> Vec<DeltaDiscoveryResponse> {
        let (aliases, absent) = self.questions.parted();
        Kind::ALL
            .into_iter()
            .map(|kind| {
                let resources = self.held[kind as usize].iter().map(|(name, entry)| WireResource {
                    name: name.to_string(),
                    version: entry.version.to_string(),
                    aliases: match kind {
                        Kind::Service => aliases.get(name).cloned().unwrap_or_default(),
                        _ => Vec::new(),
                    },
                    resource: Some(Any { type_url: kind.type_url().to_owned(), value: entry.bytes.clone() }),
                    ttl: None,
                });
                DeltaDiscoveryResponse {
                    type_url: kind.type_url().to_owned(),
                    resources: resources.collect(),
                    removed_resources: if kind == Kind::Service { absent.clone() } else { Vec::new() },
                    ..DeltaDiscoveryResponse::default()
                }
            })
            .collect()
    }

    /// Notes the names that a snapshot was asked for, before its batches are received.
    pub fn restore_names<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        for name in names {
            self.questions.ask_by_name(name);
        }
    }

    fn receive_endpoints(&mut self, batch: Batch, effect: &mut Effect) {
        let mut touched = BTreeSet::new();
        for incoming in batch.resources {
            let name = match self.judge(Kind::Endpoints, &incoming) {
                Ok(None) => continue,
                Ok(Some((name, entry))) => {
                    if let Resource::Endpoints(endpoints) = &entry.resource {
                        touched.insert(self.slices.put(endpoints));
                    }
                    self.held[Kind::Endpoints as usize].insert(name.clone(), entry);
                    continue;
                }
                Err((_, refused)) => refused,
            };
            effect.refused.push(name);
        }
        for name in batch.removed {
            let Ok(name) = name.parse::<ResourceName>() else { continue };
            if let Some(entry) = self.held[Kind::Endpoints as usize].remove(&name)
                && let Resource::Endpoints(endpoints) = &entry.resource
            {
                touched.insert(self.slices.remove(endpoints));
            }
        }
        let mut changed = false;
        for key in touched {
            changed |= self.views.endpoints_changed(&key, &self.slices);
        }
        if changed {
            effect.policy = Some(self.policy());
        }
    }

    fn receive_generation(&mut self, batch: Batch, effect: &mut Effect) {
        let Some(incoming) = batch.resources.into_iter().next() else { return };
        match self.judge(Kind::Generation, &incoming) {
            Ok(Some((name, entry))) => {
                let held = &mut self.held[Kind::Generation as usize];
                held.clear();
                held.insert(name, entry);
            }
            // The mark again, without a new generation: an answer to what was asked for.
            Ok(None) => {}
            Err((_, refused)) => {
                effect.refused.push(refused);
                return;
            }
        }
        self.commit();
        effect.committed = true;
        effect.bundles = Some(self.bundles());
        effect.policy = Some(self.policy());
    }

    fn stage(&mut self, batch: Batch, effect: &mut Effect) {
        let kind = batch.kind;
        for incoming in batch.resources {
            match self.judge(kind, &incoming) {
                Ok(found) => {
                    let name = match found {
                        Some((name, entry)) => {
                            self.staged.insert((kind, name.clone()), Change::Put(entry));
                            name
                        }
                        None => {
                            // What is held is what is meant: an earlier change of this batch is moot.
                            let Ok(name) = incoming.name.parse::<ResourceName>() else { continue };
                            self.staged.remove(&(kind, name.clone()));
                            name
                        }
                    };
                    if kind == Kind::Service {
                        self.answered(&name, &incoming.aliases);
                    }
                }
                Err((not_understood, refused)) => {
                    if let Some(name) = not_understood {
                        self.staged.insert((kind, name), Change::NotUnderstood);
                    }
                    effect.refused.push(refused);
                }
            }
        }
        for name in batch.removed {
            if kind == Kind::Service && self.questions.contains(&name) {
                self.staged_answers.push((name.clone(), Answer::Absent));
            }
            if let Ok(name) = name.parse::<ResourceName>() {
                self.staged.insert((kind, name), Change::Remove);
            }
        }
    }

    fn answered(&mut self, name: &ResourceName, aliases: &[String]) {
        let names = aliases.iter().map(String::as_str).chain([name.as_str()]);
        for asked in names.filter(|asked| self.questions.contains(asked)) {
            self.staged_answers.push((asked.to_owned(), Answer::Named(name.clone())));
        }
    }

    /// Judges one resource. `Ok(None)`: it is held already in this version. An error carries the
    /// name under which nothing may be held any more, if that is so.
    #[allow(clippy::type_complexity, reason = "one use, just above; a type would have to be looked up")]
    fn judge(
        &self,
        kind: Kind,
        incoming: &Incoming,
    ) -> Result<Option<(ResourceName, Entry)>, (Option<ResourceName>, Refused)> {
        let refused = |reason: String| Refused { name: incoming.name.clone(), reason };
        let name: ResourceName =
            incoming.name.parse().map_err(|error| (None, refused(format!("{error}"))))?;
        if incoming.type_url != kind.type_url() {
            return Err((None, refused("it is of another type than its batch".to_owned())));
        }
        let held = self.held[kind as usize].get(&name);
        if held.is_some_and(|held| *held.version == *incoming.version) {
            return Ok(None);
        }
        let decoded = Resource::decode(kind, &incoming.name, &incoming.value)
            .and_then(|resource| self.check(&resource).map(|()| resource));
        match decoded {
            Ok(resource) => {
                let resource = match held {
                    // Only its encoding changed: the value, and all that is built of it, stays.
                    Some(held) if held.resource == resource => held.resource.clone(),
                    _ => resource,
                };
                let version = incoming.version.as_str().into();
                Ok(Some((name, Entry { version, bytes: incoming.value.clone(), resource })))
            }
            Err(refusal) => {
                let gone = matches!(refusal, Refusal::NotUnderstood(_)) && kind.is_lost_unless_understood();
                Err((gone.then_some(name), refused(refusal.to_string())))
            }
        }
    }

    fn check(&self, resource: &Resource) -> Result<(), Refusal> {
        match resource {
            Resource::TrustBundle(bundle) => {
                Trust::new([&**bundle]).map(|_| ()).map_err(|error| Refusal::Invalid(error.to_string()))
            }
            Resource::Workload(workload) if workload.uid != self.uid => {
                Err(Refusal::Invalid(format!("it is the workload {}, this is {}", workload.uid, self.uid)))
            }
            _ => Ok(()),
        }
    }

    fn commit(&mut self) {
        for ((kind, name), change) in std::mem::take(&mut self.staged) {
            let key = (kind, name);
            self.not_understood.remove(&key);
            let (kind, name) = key;
            let held = &mut self.held[kind as usize];
            match change {
                Change::Put(entry) => {
                    held.insert(name, entry);
                }
                Change::Remove => {
                    let gone = held.remove(&name).is_some();
                    if gone && kind == Kind::Service {
                        self.questions.withdraw(&name);
                    }
                }
                Change::NotUnderstood => {
                    held.remove(&name);
                    self.not_understood.insert((kind, name));
                }
            }
        }
        for (name, answer) in std::mem::take(&mut self.staged_answers) {
            self.questions.answer(&name, answer);
        }
        self.stale = false;
        self.too_old = false;
        let own = self.build_own();
        if *self.own.as_ref() != own {
            self.own = Arc::new(own);
        }
        let mut views = std::mem::take(&mut self.views);
        views.rebuild(&self.questions.known(), self, &self.slices);
        self.views = views;
    }

    pub(super) fn get<T>(
        &self,
        kind: Kind,
        name: &ResourceName,
        pick: impl FnOnce(&Resource) -> Option<&Arc<T>>,
    ) -> Option<Arc<T>> {
        self.find(kind, name.as_str(), pick)
    }

    pub(super) fn find<T>(
        &self,
        kind: Kind,
        name: &str,
        pick: impl FnOnce(&Resource) -> Option<&Arc<T>>,
    ) -> Option<Arc<T>> {
        pick(&self.held[kind as usize].get(name)?.resource).cloned()
    }

    pub(super) fn service(&self, name: &ResourceName) -> Option<Arc<Service>> {
        self.get(Kind::Service, name, |resource| match resource {
            Resource::Service(service) => Some(service),
            _ => None,
        })
    }
}

impl Holdings for Store {
    fn versions(&self, kind: Kind) -> BTreeMap<String, String> {
        // A Service that is held for a route's sake and asked for since is not claimed: the server, told
        // that it is held, would have nothing to answer.
        let waits = |name: &ResourceName| kind == Kind::Service && self.questions.is_open(name.as_str());
        let held = self.held[kind as usize].iter().filter(|(name, _)| !waits(name));
        held.map(|(name, entry)| (name.to_string(), entry.version.to_string())).collect()
    }
}
