//! Who may call: AuthorizationPolicy, with Istio's documented meaning.
//!
//! A policy matches if one of its rules does; a rule if one source, one operation and every
//! condition do. Of all that binds a workload, CUSTOM is asked first, then DENY is judged, then
//! ALLOW; with no ALLOW policy all that is not denied passes; with one, only what it matches does.
//! AUDIT marks and decides nothing; a dry run is judged beside and decides nothing either. A policy
//! that is named and not held denies everything.
//!
//! On an opaque connection there is no HTTP to look at. As in Istio, an ALLOW rule with a field that
//! needs HTTP then never matches, and any other rule is judged as if the field were not there, so
//! that not knowing never admits.
//!
//! The types here are what users wrote. `matching` says what each part means, `header` what several
//! values of a field mean; `set` is all that binds one workload, found through `index`; `miss` says
//! what was nearest to matching.

mod hash;
mod header;
mod index;
mod keys;
mod matching;
mod miss;
mod set;
mod texts;

pub use header::is_list as is_list_header;
pub use miss::{NearestMiss, Part};
pub use set::{AuthorizationSet, Caller, Decider, Judgement, Step, Verdict};

use crate::names::{Name, Namespace};
use crate::request::{ConnectionFacts, HttpFacts};
use crate::string_match::StringMatch;
use ipnet::IpNet;
use std::fmt;

/// What a matching policy does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Admits.
    Allow,
    /// Refuses.
    Deny,
    /// Marks for the log, whatever becomes of it.
    Audit,
    /// Asks the external authorizer that [`Authorization::provider`] names.
    Custom,
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
    /// Judged, logged and counted, and never enforced. Of ALLOW and DENY only.
    pub dry_run: bool,
    /// The external authorizer of [`Action::Custom`], as MeshConfig names it.
    pub provider: Option<Box<str>>,
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

    /// How many values it has.
    fn length(&self) -> usize {
        self.any.len() + self.not.len()
    }
}

/// A service account: of one namespace by name, in any trust domain that the mesh trusts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Name,
}

/// `ISSUER/SUBJECT` of a verified token, each half a pattern of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestPrincipal {
    /// The claim `iss`.
    pub issuer: StringMatch,
    /// The claim `sub`.
    pub subject: StringMatch,
}

/// Who calls. Fields are joined by AND.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Source {
    /// `TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, without scheme.
    pub principals: Clause<StringMatch>,
    /// The namespace of the proven identity.
    pub namespaces: Clause<StringMatch>,
    /// The service account of the proven identity, in whatever trust domain the mesh trusts.
    pub service_accounts: Clause<ServiceAccount>,
    /// The address that the connection comes from.
    pub ip_blocks: Clause<IpNet>,
    /// The original client's address, behind trusted proxies.
    pub remote_ip_blocks: Clause<IpNet>,
    /// The principal of a verified token.
    pub request_principals: Clause<RequestPrincipal>,
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
    /// `source.serviceAccount`
    SourceServiceAccount(Clause<ServiceAccount>),
    /// `request.auth.principal`
    RequestPrincipal(Clause<RequestPrincipal>),
    /// `request.auth.claims[A][B]`, by the claim's path. `request.auth.audiences` is the claim `aud`,
    /// `request.auth.presenter` is `azp`.
    RequestClaim(Box<[Box<str>]>, Clause<StringMatch>),
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

// === impl Authorization ===

impl Authorization {
    /// Whether any rule looks at the path.
    pub fn has_path_rule(&self) -> bool {
        self.rules.iter().flat_map(|rule| &rule.operations).any(|operation| !operation.paths.is_empty())
    }
}

impl RequestPrincipal {
    /// Reads Istio's spelling, `ISSUER/SUBJECT`: the last `/` parts the two, since an issuer may be a
    /// URL. A `*` stands at the beginning of the issuer or at the end of the subject; without `/` it is
    /// a pattern of one half, and the other is anything. `None`: it could never match.
    pub fn parse(text: &str) -> Option<Self> {
        let (issuer, subject) = match text.rsplit_once('/') {
            Some((issuer, subject)) => (issuer, subject),
            None if text == "*" => ("*", "*"),
            None if text.starts_with('*') => ("*", text),
            None if text.ends_with('*') => (text, "*"),
            None => return None,
        };
        // One `*`, at an end of the whole, as everywhere.
        let rest = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
        if issuer.is_empty() || subject.is_empty() || rest.contains('*') {
            return None;
        }
        Some(Self { issuer: StringMatch::parse(issuer), subject: StringMatch::parse(subject) })
    }
}

impl fmt::Display for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// As users write the key.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RequestHeader(name, _) => return write!(f, "request.headers[{name}]"),
            Self::RequestClaim(path, _) => {
                f.write_str("request.auth.claims")?;
                return path.iter().try_for_each(|name| write!(f, "[{name}]"));
            }
            Self::SourcePrincipal(_) => "source.principal",
            Self::SourceNamespace(_) => "source.namespace",
            Self::SourceServiceAccount(_) => "source.serviceAccount",
            Self::RequestPrincipal(_) => "request.auth.principal",
            Self::ConnectionSni(_) => "connection.sni",
            Self::SourceIp(_) => "source.ip",
            Self::RemoteIp(_) => "remote.ip",
            Self::DestinationIp(_) => "destination.ip",
            Self::DestinationPort(_) => "destination.port",
        })
    }
}

#[cfg(test)]
mod tests;
