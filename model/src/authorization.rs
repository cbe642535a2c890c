//! Who may call: AuthorizationPolicy, with Istio's documented meaning.
//!
//! A policy matches if one of its rules does; a rule if one source, one operation and every
//! condition do. DENY is judged before ALLOW; with no ALLOW policy all that is not denied passes;
//! with one, only what it matches does. A policy that is named and not held denies everything.
//!
//! On an opaque connection there is no HTTP to look at: an HTTP field then never matches in an
//! ALLOW rule and always does in a DENY rule, so that not knowing never admits.

use crate::names::{Name, Namespace, ResourceName};
use crate::request::{ConnectionFacts, HttpFacts};
use crate::string_match::StringMatch;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// What a matching policy does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Admits.
    Allow,
    /// Refuses.
    Deny,
}

/// Where a user wrote something.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Provenance {
    /// The file, as the user names it.
    pub file: Box<str>,
    /// The line, from 1; 0 where it is not known.
    pub line: u32,
}

/// One policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authorization {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Name,
    /// What it does to what it matches.
    pub action: Action,
    /// None: nothing matches.
    pub rules: Vec<Rule>,
    /// Where it was written.
    pub provenance: Provenance,
}

/// One rule: sources AND operations AND conditions; an empty list is no condition.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// One must match.
    pub sources: Vec<Source>,
    /// One must match.
    pub operations: Vec<Operation>,
    /// Each must match.
    pub conditions: Vec<Condition>,
    /// Where it was written.
    pub provenance: Provenance,
}

/// A clause: its values are joined by OR; `not` excludes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clause<T> {
    /// One must match, if there are any.
    pub any: Vec<T>,
    /// None may match.
    pub not: Vec<T>,
}

impl<T> Default for Clause<T> {
    fn default() -> Self {
        Self { any: Vec::new(), not: Vec::new() }
    }
}

impl<T> Clause<T> {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.not.is_empty()
    }

    fn matches(&self, mut test: impl FnMut(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&mut test)) && !self.not.iter().any(test)
    }
}

/// A service account: of one namespace by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Name,
}

/// Who calls. Fields are joined by AND.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Source {
    /// `TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, without scheme.
    pub principals: Clause<StringMatch>,
    /// The namespace of the proven identity.
    pub namespaces: Clause<StringMatch>,
    /// The service account of the proven identity, in the mesh's own trust domain.
    pub service_accounts: Clause<ServiceAccount>,
    /// The address that the connection comes from.
    pub ip_blocks: Clause<IpNet>,
    /// The original client's address, behind trusted proxies.
    pub remote_ip_blocks: Clause<IpNet>,
}

/// What is asked for. Fields are joined by AND.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Operation {
    /// Host names, without port, compared without case.
    pub hosts: Clause<StringMatch>,
    /// Ports, as the mesh advertises them.
    pub ports: Clause<u16>,
    /// HTTP methods.
    pub methods: Clause<StringMatch>,
    /// Paths, canonical, without query.
    pub paths: Clause<StringMatch>,
}

/// A `when` clause.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Condition {
    /// `request.headers[NAME]`, by lower-case name.
    RequestHeader(Box<str>, Clause<StringMatch>),
    /// `source.principal`
    SourcePrincipal(Clause<StringMatch>),
    /// `source.namespace`
    SourceNamespace(Clause<StringMatch>),
    /// `connection.sni`
    ConnectionSni(Clause<StringMatch>),
    /// `source.ip`
    SourceIp(Clause<IpNet>),
    /// `remote.ip`
    RemoteIp(Clause<IpNet>),
    /// `destination.ip`
    DestinationIp(Clause<IpNet>),
    /// `destination.port`
    DestinationPort(Clause<u16>),
}

/// What is judged.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The connection.
    pub connection: ConnectionFacts<'a>,
    /// The request; `None` on an opaque connection.
    pub http: Option<HttpFacts<'a>>,
}

/// Which rule of which policy decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decider<'a> {
    /// The policy.
    pub policy: &'a Authorization,
    /// The index of its rule.
    pub rule: usize,
}

/// The answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict<'a> {
    /// It may pass. `None`: no ALLOW policy binds the workload.
    Allowed(Option<Decider<'a>>),
    /// A DENY policy matches.
    Denied(Decider<'a>),
    /// There are ALLOW policies and none matches.
    NotAllowed,
    /// A policy that binds the workload is not held or not understood.
    Unresolved(&'a ResourceName),
}

impl Verdict<'_> {
    /// Whether it may pass.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// All that binds one workload.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AuthorizationSet {
    deny: Vec<Arc<Authorization>>,
    allow: Vec<Arc<Authorization>>,
    unresolved: Option<ResourceName>,
    needs_canonical_path: bool,
}

impl AuthorizationSet {
    /// Joins the policies that a workload names; `None` stands for one that is not held.
    pub fn new(named: impl IntoIterator<Item = (ResourceName, Option<Arc<Authorization>>)>) -> Self {
        let mut set = Self::default();
        for (name, policy) in named {
            match policy {
                Some(policy) => {
                    set.needs_canonical_path |= policy.has_path_rule();
                    match policy.action {
                        Action::Allow => set.allow.push(policy),
                        Action::Deny => set.deny.push(policy),
                    }
                }
                None => set.unresolved = Some(name),
            }
        }
        set
    }

    /// Whether a path rule applies, so that paths must be canonical before they are judged and
    /// forwarded.
    pub fn needs_canonical_path(&self) -> bool {
        self.needs_canonical_path
    }

    /// Judges.
    pub fn decide(&self, facts: &Facts<'_>) -> Verdict<'_> {
        if let Some(name) = &self.unresolved {
            return Verdict::Unresolved(name);
        }
        for policy in &self.deny {
            if let Some(rule) = policy.matching_rule(facts) {
                return Verdict::Denied(Decider { policy, rule });
            }
        }
        if self.allow.is_empty() {
            return Verdict::Allowed(None);
        }
        for policy in &self.allow {
            if let Some(rule) = policy.matching_rule(facts) {
                return Verdict::Allowed(Some(Decider { policy, rule }));
            }
        }
        Verdict::NotAllowed
    }
}

// === impl Authorization ===

impl Authorization {
    /// The index of the first rule that matches.
    pub fn matching_rule(&self, facts: &Facts<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| rule.matches(facts, self.action))
    }

    /// Whether any rule looks at the path.
    pub fn has_path_rule(&self) -> bool {
        self.rules.iter().flat_map(|rule| &rule.operations).any(|operation| !operation.paths.is_empty())
    }
}

impl Rule {
    fn matches(&self, facts: &Facts<'_>, action: Action) -> bool {
        (self.sources.is_empty() || self.sources.iter().any(|source| source.matches(facts, action)))
            && (self.operations.is_empty()
                || self.operations.iter().any(|operation| operation.matches(facts, action)))
            && self.conditions.iter().all(|condition| condition.matches(facts, action))
    }

    /// Whether any part of it needs HTTP.
    pub fn needs_http(&self) -> bool {
        self.operations.iter().any(|operation| {
            !(operation.hosts.is_empty() && operation.methods.is_empty() && operation.paths.is_empty())
        }) || self.sources.iter().any(|source| !source.remote_ip_blocks.is_empty())
            || self
                .conditions
                .iter()
                .any(|condition| matches!(condition, Condition::RequestHeader(..) | Condition::RemoteIp(_)))
    }
}

// An attribute that only HTTP has, on a connection that has none.
fn without_http(action: Action) -> bool {
    action == Action::Deny
}

// A clause over an attribute of the proven identity. Without an identity no value matches, so `any`
// fails and `not` holds, as in Istio.
fn matches_text(clause: &Clause<StringMatch>, value: Option<&str>) -> bool {
    clause.matches(|pattern| value.is_some_and(|value| pattern.matches(value)))
}

fn matches_address(clause: &Clause<IpNet>, address: IpAddr) -> bool {
    // An IPv4 client on a dual-stack socket is an IPv4 client.
    let address = address.to_canonical();
    clause.matches(|block| block.contains(&address))
}

impl Source {
    fn matches(&self, facts: &Facts<'_>, action: Action) -> bool {
        let source = facts.connection.source;
        let remote = || match &facts.http {
            Some(http) => matches_address(&self.remote_ip_blocks, http.remote_address),
            None => without_http(action),
        };
        matches_text(&self.principals, source.map(|id| id.principal()))
            && matches_text(&self.namespaces, source.map(|id| id.namespace()))
            && self.service_accounts.matches(|account| {
                source.is_some_and(|id| {
                    id.namespace() == account.namespace.as_str()
                        && id.service_account() == account.name.as_str()
                })
            })
            && matches_address(&self.ip_blocks, facts.connection.source_address)
            && (self.remote_ip_blocks.is_empty() || remote())
    }
}

impl Operation {
    fn matches(&self, facts: &Facts<'_>, action: Action) -> bool {
        let port = facts.connection.destination.port();
        if !self.ports.matches(|wanted| *wanted == port) {
            return false;
        }
        let Some(http) = &facts.http else {
            let silent = self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty();
            return silent || without_http(action);
        };
        self.hosts.matches(|pattern| pattern.matches_ignoring_case(http.host()))
            && self.methods.matches(|pattern| pattern.matches(http.method))
            && self.paths.matches(|pattern| pattern.matches(http.path))
    }
}

impl Condition {
    fn matches(&self, facts: &Facts<'_>, action: Action) -> bool {
        let connection = &facts.connection;
        match self {
            Self::RequestHeader(name, clause) => match &facts.http {
                Some(http) => matches_header(clause, name, http, action),
                None => without_http(action),
            },
            Self::SourcePrincipal(clause) => matches_text(clause, connection.source.map(|id| id.principal())),
            Self::SourceNamespace(clause) => matches_text(clause, connection.source.map(|id| id.namespace())),
            Self::ConnectionSni(clause) => matches_text(clause, connection.sni),
            Self::SourceIp(clause) => matches_address(clause, connection.source_address),
            Self::RemoteIp(clause) => match &facts.http {
                Some(http) => matches_address(clause, http.remote_address),
                None => without_http(action),
            },
            Self::DestinationIp(clause) => matches_address(clause, connection.destination.ip()),
            Self::DestinationPort(clause) => clause.matches(|port| *port == connection.destination.port()),
        }
    }
}

// A field may come several times. A DENY matches if any of its values does, an ALLOW only if all do,
// so that adding a second value never buys admission. A value that is not UTF-8 matches no pattern
// in an ALLOW and every pattern in a DENY.
fn matches_header(clause: &Clause<StringMatch>, name: &str, http: &HttpFacts<'_>, action: Action) -> bool {
    let deny = action == Action::Deny;
    let (mut count, mut matched) = (0_usize, 0_usize);
    http.headers.visit_values(name, &mut |value| {
        count += 1;
        let matches = match std::str::from_utf8(value) {
            Ok(value) => {
                (clause.any.is_empty() || clause.any.iter().any(|pattern| pattern.matches(value)))
                    && !clause.not.iter().any(|pattern| pattern.matches(value))
            }
            Err(_) => deny,
        };
        matched += usize::from(matches);
        true
    });
    match count {
        // An absent field has no value: only exclusions can hold.
        0 => clause.any.is_empty(),
        _ if deny => matched > 0,
        _ => matched == count,
    }
}

#[cfg(test)]
mod tests;
