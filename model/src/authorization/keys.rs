//! Which keys a rule is kept under: of each half the narrowest that it offers.

use super::matching::Settled;
use super::texts::HOST_LENGTH_MAX;
use super::{Clause, Condition, Operation, Rule, ServiceAccount, Source};
use crate::string_match::StringMatch;

/// The most pairs of source and operation that a rule is kept by.
const PAIRS_MAX: usize = 256;

/// About the most keys that the pairs of a rule have together.
const KEYS_MAX: usize = 4096;

/// The most values of a list that keys are made of.
const VALUES_MAX: usize = 1024;

/// A beginning of a path that nearly every path has says nothing.
const PATH_PREFIX_LENGTH_MIN: usize = 2;

/// One key for one pair of a rule's sources and operations.
pub(super) struct Keys<'p> {
    /// `None`: any of them, or there are none.
    pub(super) source: Option<usize>,
    /// `None`: any of them, or there are none.
    pub(super) operation: Option<usize>,
    pub(super) who: Who<'p>,
    pub(super) what: What<'p>,
    pub(super) method: Option<&'p str>,
    /// The lists that need not be judged again for what is found under this key.
    pub(super) settled: Settled,
}

#[derive(Clone, Copy)]
pub(super) enum Who<'p> {
    Any,
    Principal(&'p str),
    PrincipalPrefix(&'p str),
    ServiceAccount(&'p ServiceAccount),
    Namespace(&'p str),
}

#[derive(Clone, Copy)]
pub(super) enum What<'p> {
    Any,
    Path(&'p str),
    PathPrefix(&'p str),
    Host(&'p str),
    Port(u16),
}

impl Who<'_> {
    pub(super) const PRINCIPAL: u32 = 1;
    pub(super) const PRINCIPAL_PREFIX: u32 = 2;
    pub(super) const SERVICE_ACCOUNT: u32 = 3;
    pub(super) const NAMESPACE: u32 = 4;

    pub(super) fn kind(&self) -> u32 {
        match self {
            Self::Any => 0,
            Self::Principal(_) => Self::PRINCIPAL,
            Self::PrincipalPrefix(_) => Self::PRINCIPAL_PREFIX,
            Self::ServiceAccount(_) => Self::SERVICE_ACCOUNT,
            Self::Namespace(_) => Self::NAMESPACE,
        }
    }
}

impl What<'_> {
    pub(super) const PATH: u32 = 1;
    pub(super) const PATH_PREFIX: u32 = 2;
    pub(super) const HOST: u32 = 3;
    pub(super) const PORT: u32 = 4;

    pub(super) fn kind(&self) -> u32 {
        match self {
            Self::Any => 0,
            Self::Path(_) => Self::PATH,
            Self::PathPrefix(_) => Self::PATH_PREFIX,
            Self::Host(_) => Self::HOST,
            Self::Port(_) => Self::PORT,
        }
    }
}

type Half<T> = Vec<(T, Settled)>;

/// Gives every key of a rule. Without `http` only what a connection has makes keys.
pub(super) fn of_rule<'p>(rule: &'p Rule, http: bool, add: &mut dyn FnMut(Keys<'p>)) {
    let sources = numbered(&rule.sources);
    let operations = numbered(&rule.operations);
    let pairs = sources.len() * operations.len();
    if pairs > PAIRS_MAX {
        for (source, written) in sources {
            for (who, settled) in who(written, rule) {
                add(Keys { source, operation: None, who, what: What::Any, method: None, settled });
            }
        }
        return;
    }
    for (source, written) in &sources {
        for (operation, asked) in &operations {
            let halves = Halves {
                who: who(*written, rule),
                what: what(*asked, rule, http),
                methods: methods(asked.filter(|_| http)),
            };
            for (who, what, method, settled) in halves.within(KEYS_MAX / pairs).product() {
                add(Keys { source: *source, operation: *operation, who, what, method, settled });
            }
        }
    }
}

struct Halves<'p> {
    who: Half<Who<'p>>,
    what: Half<What<'p>>,
    methods: Half<Option<&'p str>>,
}

impl<'p> Halves<'p> {
    // Leaves halves open until there are no more keys than that, the least telling first.
    fn within(mut self, most: usize) -> Self {
        if self.count() > most {
            self.methods = vec![(None, Settled::default())];
        }
        if self.count() > most && self.who.len() <= most {
            self.what = vec![(What::Any, Settled::default())];
        } else if self.count() > most {
            self.who = vec![(Who::Any, Settled::default())];
        }
        if self.count() > most {
            self.what = vec![(What::Any, Settled::default())];
        }
        self
    }

    fn count(&self) -> usize {
        self.who.len() * self.what.len() * self.methods.len()
    }

    fn product(&self) -> impl Iterator<Item = (Who<'p>, What<'p>, Option<&'p str>, Settled)> + '_ {
        self.who.iter().flat_map(move |(who, a)| {
            self.what.iter().flat_map(move |(what, b)| {
                self.methods.iter().map(move |(method, c)| (*who, *what, *method, a.with(*b).with(*c)))
            })
        })
    }
}

// Those of a list with their numbers; none at all is one that says nothing.
fn numbered<T>(list: &[T]) -> Vec<(Option<usize>, Option<&T>)> {
    if list.is_empty() {
        return vec![(None, None)];
    }
    list.iter().enumerate().map(|(number, item)| (Some(number), Some(item))).collect()
}

// A key for every value of a list, so that whatever matches it has one of them. `None`: a value makes
// no key, or there are none.
fn all<'p, T, K>(values: &'p [T], settled: Settled, key: impl Fn(&'p T) -> Option<K>) -> Option<Half<K>> {
    if values.is_empty() || values.len() > VALUES_MAX {
        return None;
    }
    values.iter().map(|value| Some((key(value)?, settled))).collect()
}

fn exact(pattern: &StringMatch) -> Option<&str> {
    match pattern {
        StringMatch::Exact(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn principal(pattern: &StringMatch) -> Option<Who<'_>> {
    match pattern {
        StringMatch::Prefix(text) if !text.is_empty() => Some(Who::PrincipalPrefix(text)),
        _ => exact(pattern).map(Who::Principal),
    }
}

fn who<'p>(source: Option<&'p Source>, rule: &'p Rule) -> Half<Who<'p>> {
    let namespace = |pattern| exact(pattern).map(Who::Namespace);
    let account = |account| Some(Who::ServiceAccount(account));
    let of_source = source.and_then(|source| {
        all(&source.principals.any, Settled::PRINCIPALS, principal)
            .or_else(|| all(&source.service_accounts.any, Settled::SERVICE_ACCOUNTS, account))
            .or_else(|| all(&source.namespaces.any, Settled::NAMESPACES, namespace))
    });
    // A condition narrows as well, and is judged in any case.
    let of_condition = || {
        rule.conditions.iter().find_map(|condition| match condition {
            Condition::SourcePrincipal(clause) => all(&clause.any, Settled::default(), principal),
            Condition::SourceNamespace(clause) => all(&clause.any, Settled::default(), namespace),
            Condition::SourceServiceAccount(clause) => all(&clause.any, Settled::default(), account),
            _ => None,
        })
    };
    of_source.or_else(of_condition).unwrap_or_else(|| vec![(Who::Any, Settled::default())])
}

fn what<'p>(operation: Option<&'p Operation>, rule: &'p Rule, http: bool) -> Half<What<'p>> {
    let host = |pattern| exact(pattern).filter(|host| host.len() <= HOST_LENGTH_MAX).map(What::Host);
    let port = |port: &u16| Some(What::Port(*port));
    let of_operation = operation.and_then(|operation| {
        paths(&operation.paths)
            .filter(|_| http)
            .or_else(|| all(&operation.hosts.any, Settled::HOSTS, host).filter(|_| http))
            .or_else(|| all(&operation.ports.any, Settled::PORTS, port))
    });
    let of_condition = || {
        rule.conditions.iter().find_map(|condition| match condition {
            Condition::DestinationPort(clause) => all(&clause.any, Settled::default(), port),
            _ => None,
        })
    };
    of_operation.or_else(of_condition).unwrap_or_else(|| vec![(What::Any, Settled::default())])
}

fn paths(clause: &Clause<StringMatch>) -> Option<Half<What<'_>>> {
    let telling = |text: &str| text.len() >= PATH_PREFIX_LENGTH_MIN;
    let mut half = all(&clause.any, Settled::PATHS, |pattern| match pattern {
        StringMatch::Prefix(text) => telling(text).then_some(What::PathPrefix(text)),
        StringMatch::Template(template) => {
            Some(template.literal_prefix()).filter(|text| telling(text)).map(What::PathPrefix)
        }
        _ => exact(pattern).map(What::Path),
    })?;
    for ((_, settled), pattern) in half.iter_mut().zip(&clause.any) {
        // How a template begins is not all of it.
        if matches!(pattern, StringMatch::Template(_)) {
            *settled = Settled::default();
        }
    }
    Some(half)
}

fn methods(operation: Option<&Operation>) -> Half<Option<&str>> {
    let method = |pattern| exact(pattern).map(Some);
    let of_operation = operation.and_then(|operation| all(&operation.methods.any, Settled::METHODS, method));
    of_operation.unwrap_or_else(|| vec![(None, Settled::default())])
}
