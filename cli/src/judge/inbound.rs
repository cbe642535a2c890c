//! One endpoint's answer: what the proxy beside it would say.

use super::{End, Prepared};
use std::sync::Arc;
use weft_config::case::Fate;
use weft_model::authentication::{TlsMode, TlsModes};
use weft_model::authorization::{Authorization, AuthorizationSet, Condition, Decider, Facts, Verdict};
use weft_model::endpoints::Wire;
use weft_model::mesh::Mesh;
use weft_model::path::{self, PathError};
use weft_model::reason::Reason;
use weft_model::request::{ConnectionFacts, HttpFacts};
use weft_model::workload::Workload;
use weft_proxy::http::RequestHead;
use weft_proxy::inbound::judge::remote_address;

/// What binds one workload.
pub(crate) struct Own {
    pub(crate) workload: Arc<Workload>,
    pub(crate) authorization: AuthorizationSet,
    pub(crate) tls: TlsModes,
    /// Without a proxy nothing is judged.
    pub(crate) proxied: bool,
    /// A policy that looks at the client's address.
    pub(super) looks_at_address: Option<String>,
    trusted_proxies: u32,
    /// A RequestAuthentication that binds it and has errors.
    tokens_unresolved: bool,
}

/// What becomes of a request at one endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer<'p> {
    /// No proxy stands before the application: nothing is judged.
    Unjudged,
    /// It reaches the application.
    Allowed(Option<Decider<'p>>),
    /// The port does not take what came.
    Unadmitted(Reason),
    /// The path has no canonical form, and a rule looks at paths.
    Path(PathError),
    /// A policy says no, or none says yes.
    Refused(Verdict<'p>),
}

// === impl Own ===

impl Own {
    pub(super) fn new(mesh: &Mesh, workload: &Arc<Workload>) -> Self {
        let named = workload.authorizations.iter();
        let held = named.map(|name| (name.clone(), mesh.authorizations.get(name).cloned()));
        let held: Vec<_> = held.collect();
        let looks = held.iter().filter_map(|(_, policy)| policy.as_ref()).find(|held| looks_at_address(held));
        let looks_at_address = looks.map(|held| format!("{}/{}", held.namespace, held.name));
        let modes = workload.peer_authentications.iter().map(|name| mesh.peer_authentications.get(name));
        Self {
            workload: workload.clone(),
            tls: TlsModes::new(mesh.config.peer_authentication_default, modes),
            authorization: AuthorizationSet::new(held),
            proxied: !mesh.plain.contains(&workload.uid),
            looks_at_address,
            trusted_proxies: mesh.config.trusted_proxies,
            tokens_unresolved: workload
                .request_authentications
                .iter()
                .any(|name| !mesh.request_authentications.contains_key(name)),
        }
    }
}

fn looks_at_address(policy: &Authorization) -> bool {
    policy.rules.iter().any(|rule| {
        rule.sources.iter().any(|source| !(source.ip_blocks.is_empty() && source.remote_ip_blocks.is_empty()))
            || rule
                .conditions
                .iter()
                .any(|condition| matches!(condition, Condition::SourceIp(_) | Condition::RemoteIp(_)))
    })
}

// === impl Answer ===

impl Answer<'_> {
    pub(crate) fn fate(&self) -> Fate {
        match self {
            Self::Unjudged | Self::Allowed(_) => Fate::Allow,
            Self::Unadmitted(_) | Self::Path(_) | Self::Refused(_) => Fate::Deny,
        }
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Unjudged | Self::Allowed(_) => None,
            Self::Unadmitted(reason) => Some(*reason),
            Self::Path(_) => Some(Reason::RequestMalformed),
            Self::Refused(Verdict::Unresolved(_)) => Some(Reason::AuthorizationUnresolved),
            Self::Refused(_) => Some(Reason::AuthorizationDenied),
        }
    }

    /// The rule that decided, if one did.
    pub(crate) fn decider(&self) -> Option<Decider<'_>> {
        match self {
            Self::Allowed(decider) => *decider,
            Self::Refused(Verdict::Denied(decider)) => Some(*decider),
            _ => None,
        }
    }
}

// === impl End ===

impl End<'_> {
    /// Whether a caller comes to it by mutual TLS.
    pub(crate) fn is_mutual(&self, proxied: bool) -> bool {
        proxied && matches!(self.endpoint.wire, Wire::Weft(_))
    }
}

// === impl Prepared ===

impl Prepared<'_> {
    pub(super) fn at<'p>(&'p self, end: &'p End<'p>, head: Option<&RequestHead>) -> Answer<'p> {
        if !end.own.proxied {
            return Answer::Unjudged;
        }
        let port = end.endpoint.address.port();
        let mutual = end.is_mutual(self.caller.proxied);
        match end.own.tls.of_port(port) {
            TlsMode::Strict if !mutual => return Answer::Unadmitted(Reason::TlsRequired),
            TlsMode::Disable if mutual => return Answer::Unadmitted(Reason::WorkloadMismatch),
            _ => {}
        }
        if end.own.tokens_unresolved {
            return Answer::Unadmitted(Reason::AuthorizationUnresolved);
        }
        let address = self.caller.address_or_none();
        let connection = ConnectionFacts {
            source: self.caller.identity.as_ref().filter(|_| mutual),
            source_address: address,
            original_address: (end.own.trusted_proxies == 0).then_some(address),
            destination: end.endpoint.address,
            sni: mutual.then_some(end.server_name.as_str()),
        };
        let Some(head) = head else { return decide(end, &Facts { connection, http: None }) };
        let path = match head.path() {
            "*" => "*".into(),
            path if end.own.authorization.looks_at_path() => match path::canonical(path) {
                Ok(canonical) => canonical,
                Err(error) if end.own.authorization.needs_canonical_path() => return Answer::Path(error),
                // Audits and dry runs refuse nothing.
                Err(_) => path.into(),
            },
            path => path.into(),
        };
        let http = HttpFacts {
            path: &path,
            remote_address: remote_address(head, connection.source_address, end.own.trusted_proxies),
            ..self.facts(head)
        };
        decide(end, &Facts { connection, http: Some(http) })
    }
}

fn decide<'p>(end: &'p End<'p>, facts: &Facts<'_>) -> Answer<'p> {
    match end.own.authorization.decide(facts) {
        Verdict::Allowed(decider) => Answer::Allowed(decider),
        verdict => Answer::Refused(verdict),
    }
}
