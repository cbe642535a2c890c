//! One endpoint's answer: what the proxy beside it would say.

use super::{Branch, End, Prepared};
use std::sync::Arc;
use weft_config::case::{Authorizer, Fate};
use weft_model::authentication::{TlsMode, TlsModes};
use weft_model::authorization::{
    Authorization, AuthorizationSet, Condition, Decider, Facts, Judgement, Step, Verdict,
};
use weft_model::endpoints::Wire;
use weft_model::mesh::Mesh;
use weft_model::path::{Normalization, PathError};
use weft_model::reason::Reason;
use weft_model::request::{ConnectionFacts, HttpFacts};
use weft_model::request_authentication::RequestAuthenticationSet;
use weft_model::token::VerifiedToken;
use weft_model::workload::Workload;
use weft_proxy::http::RequestHead;
use weft_proxy::inbound::judge::remote_address;
use weft_proxy::inbound::token::{self, TokenCache};

/// What binds one workload.
pub(crate) struct Own {
    pub(crate) workload: Arc<Workload>,
    pub(crate) authorization: AuthorizationSet,
    pub(crate) tls: TlsModes,
    tokens: Arc<RequestAuthenticationSet>,
    cache: TokenCache,
    /// Without a proxy nothing is judged.
    pub(crate) proxied: bool,
    /// A policy that looks at the client's address.
    pub(super) looks_at_address: Option<String>,
    trusted_proxies: u32,
    /// External authorizers without whose answer requests pass.
    fail_open: Vec<Box<str>>,
    path_normalization: Normalization,
}

/// What becomes of a request at one endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer<'p> {
    /// No proxy stands before the application: nothing is judged.
    Unjudged,
    /// The port does not take what came.
    Unadmitted(Reason),
    /// The token that the request carries is not accepted.
    Token(Reason, &'static str),
    /// The path has no canonical form, and a rule looks at paths.
    Path(PathError),
    /// The policy's external authorizer is asked, and its answer is not known.
    Asks(Decider<'p>, Judgement<'p>),
    /// The policy's external authorizer has not agreed.
    Disagreed(Decider<'p>, Reason),
    /// What the policies say.
    Judged(Judgement<'p>),
}

/// How many parts of rules are looked at for the nearest miss: nobody waits behind.
const NEAREST_MISS_BUDGET: usize = 1_000_000;

// === impl Own ===

impl Own {
    pub(super) fn new(mesh: &Mesh, workload: &Arc<Workload>) -> Self {
        let named = workload.authorizations.iter();
        let held = named.map(|name| (name.clone(), mesh.authorizations.get(name).cloned()));
        let held: Vec<_> = held.collect();
        let looks = held.iter().filter_map(|(_, policy)| policy.as_ref()).find(|held| looks_at_address(held));
        let looks_at_address = looks.map(|held| format!("{}/{}", held.namespace, held.name));
        let modes = workload.peer_authentications.iter().map(|name| mesh.peer_authentications.get(name));
        let tokens = workload.request_authentications.iter();
        let tokens = tokens.map(|name| (name.clone(), mesh.request_authentications.get(name).cloned()));
        Self {
            workload: workload.clone(),
            tls: TlsModes::new(mesh.config.peer_authentication_default, modes),
            authorization: AuthorizationSet::new(held),
            tokens: Arc::new(RequestAuthenticationSet::new(tokens)),
            cache: TokenCache::default(),
            proxied: !mesh.plain.contains(&workload.uid),
            looks_at_address,
            trusted_proxies: mesh.config.trusted_proxies,
            fail_open: {
                let providers = mesh.config.extension_providers.iter();
                providers.filter(|held| held.fail_open).map(|held| held.name.clone()).collect()
            },
            path_normalization: mesh.config.path_normalization,
        }
    }

    // Whether what the policy's authorizer says nothing about goes on.
    fn passes_unasked(&self, policy: &Authorization) -> bool {
        policy.provider.as_ref().is_some_and(|provider| self.fail_open.contains(provider))
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

impl<'p> Answer<'p> {
    pub(crate) fn fate(&self) -> Fate {
        match self {
            Self::Asks(..) => Fate::Ask,
            _ if self.reason().is_some() => Fate::Deny,
            _ => Fate::Allow,
        }
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Unjudged | Self::Asks(..) => None,
            Self::Unadmitted(reason) | Self::Token(reason, _) | Self::Disagreed(_, reason) => Some(*reason),
            Self::Path(_) => Some(Reason::RequestMalformed),
            Self::Judged(judgement) => match judgement.verdict {
                Verdict::Allowed(_) => None,
                Verdict::Denied(_) | Verdict::NotAllowed => Some(Reason::AuthorizationDenied),
                Verdict::Unresolved(_) => Some(Reason::AuthorizationUnresolved),
            },
        }
    }

    /// The rule that decided, if one did.
    pub(crate) fn decider(&self) -> Option<Decider<'p>> {
        match self {
            Self::Judged(judgement) => judgement.verdict.decider(),
            Self::Asks(by, _) | Self::Disagreed(by, _) => Some(*by),
            _ => None,
        }
    }

    /// The rule because of which an external authorizer is asked.
    pub(crate) fn asks(&self) -> Option<Decider<'p>> {
        match self {
            Self::Asks(by, _) | Self::Disagreed(by, _) => Some(*by),
            Self::Judged(judgement) => judgement.custom,
            _ => None,
        }
    }

    /// Every rule that matched and counts: the one that decided, audits, and what dry runs would say.
    pub(crate) fn matched(&self) -> impl Iterator<Item = Decider<'p>> {
        let (audit, shadow, custom) = match self {
            Self::Judged(held) => (held.audit, held.shadow.and_then(|held| held.decider()), held.custom),
            _ => (None, None, None),
        };
        [self.decider(), audit, shadow, custom].into_iter().flatten()
    }

    /// What would become of it with the dry runs enforced.
    pub(crate) fn dry_run(&self) -> Fate {
        let allowed = match self {
            Self::Judged(Judgement { verdict, shadow, .. }) => shadow.unwrap_or(*verdict).is_allowed(),
            _ => return self.fate(),
        };
        if allowed { Fate::Allow } else { Fate::Deny }
    }

    /// The AUDIT rule that matched.
    pub(crate) fn audit(&self) -> Option<Decider<'p>> {
        match self {
            Self::Judged(judgement) | Self::Asks(_, judgement) => judgement.audit,
            _ => None,
        }
    }

    fn is_nowhere_allowed(&self) -> bool {
        matches!(
            self,
            Self::Judged(Judgement { verdict: Verdict::NotAllowed, .. })
                | Self::Asks(_, Judgement { verdict: Verdict::NotAllowed, .. })
        )
    }
}

// === impl End ===

impl End<'_> {
    // Whether its port may carry what nobody can look into.
    fn takes_opaque(&self) -> bool {
        let port = self.endpoint.address.port();
        let protocol = self.own.workload.port(port).map(|held| held.protocol).unwrap_or_default();
        let looked_into = self.own.authorization.needs_http(port) || !self.own.tokens.is_empty();
        protocol.is_opaque() || !(protocol.is_http() || looked_into)
    }

    /// Whether a caller comes to it by mutual TLS.
    pub(crate) fn is_mutual(&self, proxied: bool) -> bool {
        proxied && matches!(self.endpoint.wire, Wire::Weft(_))
    }
}

// === impl Prepared ===

impl Prepared<'_> {
    pub(super) fn at<'p>(&'p self, end: &'p End<'p>, head: Option<&RequestHead>) -> Answer<'p> {
        match self.with_facts(end, head, |facts| end.own.authorization.judge(facts)) {
            Ok(judgement) => self.decide(end, judgement, head.is_none()),
            Err(answer) => answer,
        }
    }

    // In the proxy's order: what cannot be looked into is refused before anybody is asked about it.
    fn decide<'p>(&self, end: &End<'_>, judgement: Judgement<'p>, opaque: bool) -> Answer<'p> {
        let next = judgement.step(None);
        let denied = matches!(next, Step::Decided(verdict) if !verdict.is_allowed());
        if opaque && !denied && !end.takes_opaque() {
            return Answer::Unadmitted(Reason::HttpRequired);
        }
        let Step::Ask(by) = next else { return Answer::Judged(judgement) };
        match self.authorizer {
            None => Answer::Asks(by, judgement),
            Some(Authorizer::Deny) => Answer::Disagreed(by, Reason::ExternalAuthorizerDenied),
            Some(Authorizer::Fail) if !end.own.passes_unasked(by.policy) => {
                Answer::Disagreed(by, Reason::ExternalAuthorizerFailed)
            }
            Some(Authorizer::Allow | Authorizer::Fail) => Answer::Judged(judgement),
        }
    }

    /// The ALLOW rule that failed on least, where none matched.
    pub(crate) fn nearest_miss(
        &self,
        branch: &Branch<'_>,
        end: &End<'_>,
        answer: &Answer<'_>,
    ) -> Option<String> {
        if !answer.is_nowhere_allowed() {
            return None;
        }
        let head = branch.head.as_ref().or(self.head.as_ref());
        let nearest = |facts: &Facts<'_>| {
            let found = end.own.authorization.nearest_miss(facts, NEAREST_MISS_BUDGET);
            found.map(|found| found.to_string())
        };
        self.with_facts(end, head, nearest).ok().flatten()
    }

    // The token that the request carries: of the case's claims, else as the proxy itself finds it. `edited`:
    // the request as rules see it, without the token and with the fields that its rule writes.
    fn authenticate<'p>(
        &self,
        own: &Own,
        head: &RequestHead,
        edited: &mut Option<RequestHead>,
    ) -> Result<Option<VerifiedToken>, Answer<'p>> {
        if own.tokens.is_empty() {
            return Ok(None);
        }
        let head = edited.insert(head.clone());
        let Some(claims) = &self.caller.claims else {
            let found = token::authenticate(head, &own.tokens, &own.cache, token::now());
            let refused = |error: token::Refused| Answer::Token(error.reason(), error.reason().text());
            return found.map(|found| found.map(|accepted| accepted.token.clone())).map_err(refused);
        };
        for name in own.tokens.written_headers() {
            head.headers_mut().remove_name(name);
        }
        let mut refused = Reason::JwtInvalid;
        for (_, rule) in own.tokens.rules().filter(|(_, rule)| claims.issuer() == Some(&*rule.issuer)) {
            if !(rule.audiences.is_empty() || claims.is_for(&rule.audiences)) {
                refused = Reason::JwtAudienceRefused;
                continue;
            }
            if rule.keys.is_none() && rule.key_source.is_none() {
                refused = Reason::JwtKeysUnresolved;
                continue;
            }
            let token = VerifiedToken::new(claims.all.clone(), "", rule.space_delimited.clone());
            for held in &rule.claim_headers {
                if let Some(value) = token.claim_value(&held.claim) {
                    // A claim that is no field's value is left out, as the proxy does.
                    let _ = head.headers_mut().append(&held.header, value.as_bytes());
                }
            }
            return Ok(Some(token));
        }
        Err(Answer::Token(refused, refused.text()))
    }

    // What the endpoint's proxy knows of the request; or the answer, if it asks no policy.
    fn with_facts<'p, R>(
        &self,
        end: &End<'_>,
        head: Option<&RequestHead>,
        then: impl FnOnce(&Facts<'_>) -> R,
    ) -> Result<R, Answer<'p>> {
        if !end.own.proxied {
            return Err(Answer::Unjudged);
        }
        let port = end.endpoint.address.port();
        let mutual = end.is_mutual(self.caller.proxied);
        match end.own.tls.of_port(port) {
            TlsMode::Strict if !mutual => return Err(Answer::Unadmitted(Reason::TlsRequired)),
            TlsMode::Disable if mutual => return Err(Answer::Unadmitted(Reason::WorkloadMismatch)),
            _ => {}
        }
        if end.own.tokens.unresolved().is_some() {
            return Err(Answer::Unadmitted(Reason::AuthorizationUnresolved));
        }
        let address = self.caller.address_or_none();
        let connection = ConnectionFacts {
            source: self.caller.identity.as_ref().filter(|_| mutual),
            source_address: address,
            original_address: (end.own.trusted_proxies == 0).then_some(address),
            destination: end.endpoint.address,
            sni: mutual.then_some(end.server_name.as_str()),
        };
        let Some(head) = head else { return Ok(then(&Facts { connection, http: None })) };
        let mut edited = None;
        let token = self.authenticate(end.own, head, &mut edited)?;
        let head = edited.as_ref().unwrap_or(head);
        let path = match head.path() {
            "*" => "*".into(),
            path if end.own.authorization.looks_at_path() => match end.own.path_normalization.canonical(path)
            {
                Ok(canonical) => canonical,
                Err(error) if end.own.authorization.needs_canonical_path() => {
                    return Err(Answer::Path(error));
                }
                // Audits and dry runs refuse nothing.
                Err(_) => path.into(),
            },
            path => path.into(),
        };
        let http = HttpFacts {
            path: &path,
            remote_address: remote_address(head, connection.source_address, end.own.trusted_proxies),
            token: token.as_ref(),
            ..self.facts(head)
        };
        Ok(then(&Facts { connection, http: Some(http) }))
    }
}
