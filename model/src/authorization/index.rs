//! Finding the rules that can match without looking at those that cannot.
//!
//! A rule is kept under keys: values of which a request must have one for the rule to match. A key
//! joins three halves: who calls (a principal, the beginning of one, a service account, a namespace),
//! what is asked for (a path, the beginning of one, a host, a port) and the method, each of which may
//! be open. A request has few of each, so it looks under the few keys that they make and judges what
//! it finds there; a list that the key has decided is not judged again. How many policies there are
//! that cannot match makes no difference.
//!
//! A rule with many sources and operations is kept by each pair of them, and in fewer words where
//! that would be too many: a key is never more than a hint, so leaving one open is always right.

use super::hash::Map;
use super::keys::{self, Keys, What, Who};
use super::matching::{Settled, Stop};
use super::texts::{Names, Texts};
use super::{Action, Authorization, Facts, Rule};
use crate::spiffe::SpiffeId;
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
    ports: Map<u16, ()>,
    methods: Names,
    /// By key: where in `entries`.
    table: Map<Key, (u32, u32)>,
    /// By key, then by rule.
    entries: Box<[Entry]>,
    /// Which kinds of keys there are at all.
    shapes: u64,
}

/// Three halves, each 0 for "any"; see [`atom`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Key {
    who: u32,
    what: u32,
    method: u32,
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
        let who = match keys.who {
            Who::Any => 0,
            Who::Principal(text) => self.principals.add(text),
            Who::PrincipalPrefix(text) => self.principals.add_prefix(text),
            Who::ServiceAccount(held) => {
                self.service_accounts.add(&format!("ns/{}/sa/{}", held.namespace, held.name))
            }
            Who::Namespace(text) => self.namespaces.add(text),
        };
        let what = match keys.what {
            What::Any => 0,
            What::Path(text) => self.paths.add(text),
            What::PathPrefix(text) => self.paths.add_prefix(text),
            What::Host(text) => self.hosts.add(&text.to_ascii_lowercase()),
            What::Port(port) => {
                self.ports.insert(port, ());
                port.into()
            }
        };
        let method = keys.method.map_or(0, |method| self.methods.add(method));
        self.shapes |= shape(keys.who.kind(), keys.what.kind(), method);
        Key { who: atom(keys.who.kind(), who), what: atom(keys.what.kind(), what), method }
    }

    /// Policy and rule of a number.
    pub(super) fn rule(&self, number: u32) -> Option<(usize, usize)> {
        let (policy, rule) = self.rules.get(number as usize)?;
        Some((*policy as usize, *rule as usize))
    }

    /// The number of the first rule that matches, by phase.
    pub(super) fn first(&self, policies: &[Arc<Authorization>], facts: &Facts<'_>) -> [u32; PHASES] {
        let mut first = [NONE; PHASES];
        let (principal, account, namespace) = match facts.connection.source {
            Some(id) => (id.principal(), account_path(id), id.namespace()),
            None => ("", "", ""),
        };
        let port = facts.connection.destination.port();
        let (path, host, method) =
            facts.http.as_ref().map_or(("", "", ""), |http| (http.path, http.host(), http.method));
        // What is empty has no name here, and kind and 0 together mean that there is none.
        let who = [
            (0, 0),
            (Who::PRINCIPAL, self.principals.find(principal)),
            (Who::SERVICE_ACCOUNT, self.service_accounts.find(account)),
            (Who::NAMESPACE, self.namespaces.find(namespace)),
        ];
        let what = [
            (0, 0),
            (What::PATH, self.paths.find(path)),
            (What::HOST, self.hosts.find_ignoring_case(host)),
            (What::PORT, if self.ports.contains_key(&port) { port.into() } else { 0 }),
        ];
        let method = self.methods.find(method);
        let paths = self.paths.longest_prefix(path);
        let whos = self.principals.prefixes(self.principals.longest_prefix(principal));
        for (who_kind, who) in who.into_iter().chain(whos.map(|number| (Who::PRINCIPAL_PREFIX, number))) {
            if who == 0 && who_kind != 0 {
                continue;
            }
            let whats = self.paths.prefixes(paths);
            for (what_kind, what) in what.into_iter().chain(whats.map(|number| (What::PATH_PREFIX, number))) {
                if what == 0 && what_kind != 0 {
                    continue;
                }
                let (who, what) = (atom(who_kind, who), atom(what_kind, what));
                if self.shapes & shape(who_kind, what_kind, 0) != 0 {
                    self.judge(Key { who, what, method: 0 }, policies, facts, &mut first);
                }
                if method != 0 && self.shapes & shape(who_kind, what_kind, 1) != 0 {
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
            if entry.rule < *first && self.holds(entry, policies, facts) {
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

fn shape(who: u32, what: u32, method: u32) -> u64 {
    1 << ((who * 5 + what) * 2 + u32::from(method != 0))
}

/// `ns/NAMESPACE/sa/NAME` of an identity.
fn account_path(id: &SpiffeId) -> &str {
    id.principal().split_once('/').map_or("", |(_, path)| path)
}

pub(super) fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a set of policies must have fewer than four thousand million parts")
}
