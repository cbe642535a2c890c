//! What one stream asked for and was sent of one kind of resource, and so what it still lacks. Pure
//! bookkeeping: `discovery/subscription.rs` decides when a difference is sent. Everything a client can
//! make grow is bounded here.

use super::scope::Wanted;
use crate::snapshot::version::Version;
use crate::snapshot::{Encoded, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use weft_model::names::ResourceName;
use weft_model::proto::discovery::{Any, Resource};
use weft_model::wire::Kind;

/// The most names one stream may ask for, or hold: memory follows use, and use is bounded.
pub(super) const NAMES_MAX: usize = 10_000;

/// The longest name.
pub(super) const NAME_LENGTH_MAX: usize = 1024;

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

/// One kind.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    pub(super) subscribed: bool,
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<Box<str>>,
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

/// The difference for one kind between what is held and what is to be.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) resources: Vec<Resource>,
    pub(super) removed: Vec<String>,
    /// Removed only after the commit.
    pub(super) removed_later: Vec<String>,
}

// === impl Holdings ===

impl Holdings {
    /// What the client still holds from an earlier stream.
    pub(super) fn claim(&mut self, versions: &BTreeMap<String, String>) -> Result<(), Violation> {
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
    pub(super) fn subscribe(&mut self, kind: Kind, name: &str, first: bool) -> Result<bool, Violation> {
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

    pub(super) fn unsubscribe(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = false;
            return;
        }
        self.names.remove(name);
        self.told_absent.remove(name);
        self.answer_due.remove(name);
    }

    /// What is to be sent so that the client holds what it is to; counted as held from here on.
    pub(super) fn difference(&mut self, kind: Kind, wanted: &Wanted, snapshot: &Snapshot) -> Difference {
        let mut difference = Difference::default();
        if !self.subscribed {
            return difference;
        }
        let names = &wanted.names[kind as usize];
        for name in names {
            if !self.sees(kind, name.as_str()) {
                continue;
            }
            let Some(encoded) = snapshot.get(kind, name.as_str()) else { continue };
            let aliases = wanted.aliases.get(name).filter(|_| kind == Kind::Service);
            let due = self.answer_due.contains(name.as_str())
                || aliases.is_some_and(|aliases| aliases.iter().any(|alias| self.answer_due.contains(alias)));
            let held = self.held.get(name.as_str()).is_some_and(|held| {
                held.version.is(encoded.version)
                    && aliases.is_none_or(|aliases| aliases.is_subset(&held.aliases))
            });
            if held && !due {
                continue;
            }
            let aliases = aliases.cloned().unwrap_or_default();
            difference.resources.push(self.hold(kind, name, encoded, aliases));
        }
        self.answer_due.clear();
        let gone: Vec<Box<str>> = self
            .held
            .keys()
            .filter(|name| !names.contains::<str>(name) || !self.sees(kind, name))
            .cloned()
            .collect();
        let services = &wanted.names[Kind::Service as usize];
        for name in gone {
            // A slice of a destination that stays is obsolete at once; the others are still used.
            let stays = name.split_once(':').is_some_and(|(service, _)| services.contains(service));
            if kind == Kind::Endpoints && !stays {
                difference.removed_later.push(name.to_string());
            } else {
                self.held.remove(&name);
                difference.removed.push(name.to_string());
            }
        }
        let absent: BTreeSet<Box<str>> = if kind == Kind::Service {
            wanted.absent.clone()
        } else {
            self.names.iter().filter(|name| !names.contains::<str>(name)).cloned().collect()
        };
        let told: BTreeSet<&str> = difference.removed.iter().map(String::as_str).collect();
        let untold = absent.difference(&self.told_absent).filter(|name| !told.contains(&***name));
        let untold: Vec<String> = untold.map(ToString::to_string).collect();
        difference.removed.extend(untold);
        self.told_absent = absent;
        difference
    }

    /// Counts a resource as held, and makes the message of it.
    pub(super) fn hold(
        &mut self,
        kind: Kind,
        name: &ResourceName,
        encoded: &Encoded,
        aliases: BTreeSet<Box<str>>,
    ) -> Resource {
        let resource = Resource {
            version: encoded.version.to_string(),
            resource: Some(Any { type_url: kind.type_url().to_owned(), value: encoded.bytes.clone() }),
            name: name.to_string(),
            aliases: aliases.iter().map(ToString::to_string).collect(),
            ttl: None,
        };
        let version = HeldVersion::Sent(encoded.version);
        self.held.insert(name.as_str().into(), Held { version, aliases });
        resource
    }

    /// These go now: they were held back until the commit.
    pub(super) fn release(&mut self, names: &[String]) {
        for name in names {
            self.held.remove(name.as_str());
        }
    }

    /// Of Services, those asked for and where they lead were chosen already.
    fn sees(&self, kind: Kind, name: &str) -> bool {
        kind == Kind::Service || self.wildcard || self.names.contains(name)
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
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty() && self.removed_later.is_empty()
    }
}
