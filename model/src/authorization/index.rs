//! Finding the rules that can match without looking at those that cannot.
//!
//! A rule is kept under keys: values of which a request must have one for the rule to match. A key
//! joins three halves: who calls (a principal, the beginning of one, a service account, a namespace),
//! what is asked for (a path, the beginning of one, a host, a port) and the method, each of which may
//! be open. A request has few of each, so it looks under the few keys that they make and judges what
//! it finds there; a list that the key has decided is not judged again, and a rule that says nothing
//! else matches by being found. How many policies there are that cannot match makes no difference.
//!
//! A rule with many sources and operations is kept by each pair of them, and in fewer words where
//! that would be too many: a key is never more than a hint, so leaving one open is always right.

use super::hash::Map;
use super::keys::{self, Keys, What, Who};
use super::matching::{Settled, Stop};
use super::texts::{Found, Names, Texts};
use super::{Action, Authorization, Facts, Rule};
use crate::spiffe::SpiffeId;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// In what a rule may be the first to match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    Custom,
    Deny,
    Allow,
    Audit,
    DryRunDeny,
    DryRunAllow,
}

const PHASES: usize = 6;

/// No rule, or no one source or operation.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Policy and rule, in order.
    rules: Box<[(u32, u32)]>,
    principals: Texts,
    /// By `ns/NAMESPACE/sa/NAME`.
    service_accounts: Names,
    namespaces: Names,
    paths: Texts,
    /// In lower case.
    hosts: Names,
    ports: Map<u16, u16>,
    methods: Names,
    /// By key: where in `entries`.
    table: Map<Key, (u32, u32)>,
    /// By key, then by rule.
    entries: Box<[Entry]>,
    /// With what "any caller" makes keys.
    anybody: u16,
    /// With what "anything asked for" makes keys.
    anything: u16,
}

/// Three halves, each 0 for "any"; see [`atom`].
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    who: u32,
    what: u32,
    method: u32,
}

/// What a caller is among the values that rules name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Caller {
    anybody: Found,
    principal: Found,
    service_account: Found,
    namespace: Found,
    /// Where the beginnings of its principal begin.
    prefix: u32,
}

/// A rule under a key: one pair of its sources and operations.
#[derive(Clone, Copy, Debug)]
struct Entry {
    rule: u32,
    /// `NONE`: any of them, or there are none.
    source: u32,
    /// `NONE`: any of them, or there are none.
    operation: u32,
    phase: Phase,
    settled: Settled,
    /// The key settles all that the rule says.
    certain: bool,
}

/// In two words instead of three.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64((u64::from(self.who) << 32) | u64::from(self.what));
        state.write_u32(self.method);
    }
}

// === impl Index ===

impl Index {
    /// For requests.
    pub(super) fn of_requests(policies: &[Arc<Authorization>]) -> Self {
        Self::build(policies, true)
    }

    /// For opaque connections: nothing that needs HTTP is a key.
    pub(super) fn of_connections(policies: &[Arc<Authorization>]) -> Self {
        Self::build(policies, false)
    }

    fn build(policies: &[Arc<Authorization>], http: bool) -> Self {
        let mut index = Self::default();
        let mut rules = Vec::new();
        let mut keyed: Vec<(Key, Entry)> = Vec::new();
        for (number, policy) in (0..).zip(policies) {
            let Some(phase) = phase(policy) else { continue };
            for (place, written) in (0..).zip(&policy.rules) {
                if !http && !written.can_be_opaque(policy.action) {
                    continue;
                }
                let rule = length(rules.len());
                rules.push((number, place));
                keys::of_rule(written, http, &mut |keys: Keys<'_>| {
                    let entry = Entry {
                        rule,
                        source: keys.source.map_or(NONE, length),
                        operation: keys.operation.map_or(NONE, length),
                        phase,
                        settled: keys.settled,
                        certain: is_certain(written, &keys, http),
                    };
                    keyed.push((index.key(&keys), entry));
                });
            }
        }
        keyed.sort_by_key(|(key, entry)| (*key, entry.rule));
        let mut start = 0;
        for group in keyed.chunk_by(|(a, _), (b, _)| a == b) {
            let end = start + length(group.len());
            index.table.insert(group[0].0, (start, end));
            start = end;
        }
        index.entries = keyed.into_iter().map(|(_, entry)| entry).collect();
        index.rules = rules.into();
        index.principals.seal();
        index.paths.seal();
        index
    }

    fn key(&mut self, keys: &Keys<'_>) -> Key {
        let method = keys.method.map_or(0, |method| self.methods.add(method, 1));
        let (of_who, of_what) = (shape(keys.what.kind(), method), shape(keys.who.kind(), method));
        let who = match keys.who {
            Who::Any => {
                self.anybody |= of_who;
                0
            }
            Who::Principal(text) => self.principals.add(text, of_who),
            Who::PrincipalPrefix(text) => self.principals.add_prefix(text, of_who),
            Who::ServiceAccount(held) => {
                self.service_accounts.add(&format!("ns/{}/sa/{}", held.namespace, held.name), of_who)
            }
            Who::Namespace(text) => self.namespaces.add(text, of_who),
        };
        let what = match keys.what {
            What::Any => {
                self.anything |= of_what;
                0
            }
            What::Path(text) => self.paths.add(text, of_what),
            What::PathPrefix(text) => self.paths.add_prefix(text, of_what),
            What::Host(text) => self.hosts.add(&text.to_ascii_lowercase(), of_what),
            What::Port(port) => {
                *self.ports.entry(port).or_default() |= of_what;
                port.into()
            }
        };
        Key { who: atom(keys.who.kind(), who), what: atom(keys.what.kind(), what), method }
    }

    /// Policy and rule of a number.
    pub(super) fn rule(&self, number: u32) -> Option<(usize, usize)> {
        let (policy, rule) = self.rules.get(number as usize)?;
        Some((*policy as usize, *rule as usize))
    }

    /// What a caller is here. It stays the same for as long as its identity and the index do.
    pub(super) fn caller(&self, source: Option<&SpiffeId>) -> Caller {
        let anybody = Found { number: 0, shapes: self.anybody };
        // Whoever proves nothing is none of them.
        let Some(id) = source else { return Caller { anybody, ..Caller::default() } };
        Caller {
            anybody,
            principal: self.principals.find(id.principal()),
            service_account: self.service_accounts.find(account_path(id)),
            namespace: self.namespaces.find(id.namespace()),
            prefix: self.principals.longest_prefix(id.principal()),
        }
    }

    /// The number of the first rule that matches, by phase. `caller`: what the facts' caller is here.
    pub(super) fn first(
        &self,
        policies: &[Arc<Authorization>],
        caller: &Caller,
        facts: &Facts<'_>,
    ) -> [u32; PHASES] {
        let mut first = [NONE; PHASES];
        let port = facts.connection.destination.port();
        let (path, method) = facts.http.as_ref().map_or(("", ""), |http| (http.path, http.method));
        // A host is cut out of the authority, which is only worth it where one is asked for.
        let host = match &facts.http {
            Some(http) if !self.hosts.is_empty() => self.hosts.find_ignoring_case(http.host()),
            _ => Found::default(),
        };
        let port = self.ports.get(&port).map(|shapes| Found { number: port.into(), shapes: *shapes });
        let who = [
            (0, caller.anybody),
            (Who::PRINCIPAL, caller.principal),
            (Who::SERVICE_ACCOUNT, caller.service_account),
            (Who::NAMESPACE, caller.namespace),
        ];
        // What is empty is none of them.
        let what = [
            (0, Found { number: 0, shapes: self.anything }),
            (What::PATH, self.paths.find(path)),
            (What::HOST, host),
            (What::PORT, port.unwrap_or_default()),
        ];
        let method = self.methods.find(method).number;
        let paths = self.paths.longest_prefix(path);
        let whos = self.principals.prefixes(caller.prefix);
        for (who_kind, who) in who.into_iter().chain(whos.map(|found| (Who::PRINCIPAL_PREFIX, found))) {
            if who.shapes == 0 {
                continue;
            }
            let whats = self.paths.prefixes(paths).map(|found| (What::PATH_PREFIX, found));
            for (what_kind, what) in what.into_iter().chain(whats) {
                let shapes = (who.shapes >> (2 * what_kind)) & (what.shapes >> (2 * who_kind));
                let (who, what) = (atom(who_kind, who.number), atom(what_kind, what.number));
                if shapes & 1 != 0 {
                    self.judge(Key { who, what, method: 0 }, policies, facts, &mut first);
                }
                if shapes & 2 != 0 && method != 0 {
                    self.judge(Key { who, what, method }, policies, facts, &mut first);
                }
            }
        }
        first
    }

    fn judge(&self, key: Key, policies: &[Arc<Authorization>], facts: &Facts<'_>, first: &mut [u32; PHASES]) {
        let Some((start, end)) = self.table.get(&key) else { return };
        for entry in &self.entries[*start as usize..*end as usize] {
            let first = &mut first[entry.phase as usize];
            if entry.rule < *first && (entry.certain || self.holds(entry, policies, facts)) {
                *first = entry.rule;
            }
        }
    }

    fn holds(&self, entry: &Entry, policies: &[Arc<Authorization>], facts: &Facts<'_>) -> bool {
        let (policy, rule) = self.rules[entry.rule as usize];
        let policy = &policies[policy as usize];
        let (rule, action): (&Rule, Action) = (&policy.rules[rule as usize], policy.action);
        let source = match rule.sources.get(entry.source as usize) {
            Some(source) => source.holds(facts, action, entry.settled, &mut Stop),
            None => {
                let mut sources = rule.sources.iter();
                rule.sources.is_empty()
                    || sources.any(|source| source.holds(facts, action, Settled::default(), &mut Stop))
            }
        };
        let operation = || match rule.operations.get(entry.operation as usize) {
            Some(operation) => operation.holds(facts, entry.settled, &mut Stop),
            None => {
                let mut operations = rule.operations.iter();
                rule.operations.is_empty()
                    || operations.any(|operation| operation.holds(facts, Settled::default(), &mut Stop))
            }
        };
        source && operation() && rule.conditions_hold(facts, action, &mut Stop)
    }
}

fn phase(policy: &Authorization) -> Option<Phase> {
    match (policy.action, policy.dry_run) {
        (Action::Custom, false) => Some(Phase::Custom),
        (Action::Deny, false) => Some(Phase::Deny),
        (Action::Allow, false) => Some(Phase::Allow),
        (Action::Audit, false) => Some(Phase::Audit),
        (Action::Deny, true) => Some(Phase::DryRunDeny),
        (Action::Allow, true) => Some(Phase::DryRunAllow),
        // Neither decides anything by itself, so there is nothing to try out.
        (Action::Audit | Action::Custom, true) => None,
    }
}

/// A half of a key: the number of a value among those of its kind, and the kind.
fn atom(kind: u32, number: u32) -> u32 {
    (number << 3) | kind
}

/// The kind of keys that a half makes with another half of this kind, with or without a method, as a bit.
fn shape(other: u32, method: u32) -> u16 {
    1 << (2 * other + u32::from(method != 0))
}

// Whether nothing of the rule is left to judge where it is found under the key.
fn is_certain(rule: &Rule, keys: &Keys<'_>, http: bool) -> bool {
    let source = match keys.source {
        Some(number) => rule.sources.get(number).is_some_and(|source| source.is_settled(keys.settled, http)),
        None => rule.sources.is_empty(),
    };
    let operation = match keys.operation {
        Some(number) => {
            rule.operations.get(number).is_some_and(|operation| operation.is_settled(keys.settled, http))
        }
        None => rule.operations.is_empty(),
    };
    source && operation && rule.conditions.is_empty()
}

/// `ns/NAMESPACE/sa/NAME` of an identity.
fn account_path(id: &SpiffeId) -> &str {
    id.principal().split_once('/').map_or("", |(_, path)| path)
}

pub(super) fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a set of policies must have fewer than four thousand million parts")
}
