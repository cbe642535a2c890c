//! One endpoint's answer: what the proxy beside it would say, by the same checks in the same order
//! ([`weft_proxy::inbound::checks`]).

use super::{Branch, End, Prepared};
use std::borrow::Cow;
use std::sync::Arc;
use weft_config::case::{Authorizer, Fate};
use weft_model::authentication::{TlsMode, TlsModes};
use weft_model::authorization::{
    Authorization, AuthorizationSet, Condition, Decider, Facts, Judgement, Step, Verdict,
};
use weft_model::endpoints::Wire;
use weft_model::mesh::Mesh;
use weft_model::reason::Reason;
use weft_model::request_authentication::RequestAuthenticationSet;
use weft_model::token::{Claims, VerifiedToken};
use weft_model::workload::Workload;
use weft_proxy::http::{RequestHead, TargetError};
use weft_proxy::inbound::checks::Came;
use weft_proxy::inbound::judge::Denied;
use weft_proxy::inbound::token::{self, TokenCache};
use weft_proxy::policy::{self, Policy};

/// What binds one workload.
pub(crate) struct Own {
    pub(crate) workload: Arc<Workload>,
    /// What its proxy holds.
    policy: Policy,
    cache: TokenCache,
    /// Without a proxy nothing is judged.
    pub(crate) proxied: bool,
    /// A policy that looks at the client's address.
    pub(super) looks_at_address: Option<String>,
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
    Path(TargetError),
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
        let own = policy::Own {
            workload: Some(workload.clone()),
            authorization: Arc::new(AuthorizationSet::new(held)),
            tls: TlsModes::new(mesh.config.peer_authentication_default, modes),
            tokens: Arc::new(RequestAuthenticationSet::new(tokens)),
            ..policy::Own::default()
        };
        Self {
            workload: workload.clone(),
            policy: Policy { own: Arc::new(own), config: mesh.config.clone(), ..Policy::default() },
            cache: TokenCache::default(),
            proxied: !mesh.plain.contains(&workload.uid),
            looks_at_address,
        }
    }

    /// How clients must connect to a port.
    pub(crate) fn tls_mode(&self, port: u16) -> TlsMode {
        self.policy.own.tls.of_port(port)
    }

    // Whether what the policy's authorizer says nothing about goes on.
    fn passes_unasked(&self, policy: &Authorization) -> bool {
        let mut providers = self.policy.config.extension_providers.iter().filter(|held| held.fail_open);
        policy.provider.as_ref().is_some_and(|provider| providers.any(|held| held.name == *provider))
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

impl From<Denied> for Answer<'_> {
    fn from(denied: Denied) -> Self {
        Self::Unadmitted(denied.reason)
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
        let judged = self.ask(end, head, |facts| {
            let judgement = end.own.policy.own.authorization.judge(facts);
            match judgement.step(None) {
                Step::Decided(verdict) if !verdict.is_allowed() => Err(Answer::Judged(judgement)),
                _ => Ok(judgement),
            }
        });
        let judgement = match judged {
            Ok(judgement) => judgement,
            Err(answer) => return answer,
        };
        let Step::Ask(by) = judgement.step(None) else { return Answer::Judged(judgement) };
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
        let mut nearest = None;
        let _: Result<(), Answer<'_>> = self.ask(end, head, |facts| {
            let found = end.own.policy.own.authorization.nearest_miss(facts, NEAREST_MISS_BUDGET);
            nearest = found.map(|found| found.to_string());
            Ok(())
        });
        nearest
    }

    // Asks the policies of the endpoint's proxy; or the answer, if it comes before they are asked.
    fn ask<'p, R>(
        &'p self,
        end: &'p End<'p>,
        head: Option<&RequestHead>,
        judge: impl FnOnce(&Facts<'_>) -> Result<R, Answer<'p>>,
    ) -> Result<R, Answer<'p>> {
        let own = end.own;
        if !own.proxied {
            return Err(Answer::Unjudged);
        }
        let mutual = end.is_mutual(self.caller.proxied);
        let came = Came {
            client: self.caller.address_or_none(),
            local: end.endpoint.address,
            server_name: mutual.then_some(&end.server_name),
            source: self.caller.identity.as_ref().filter(|_| mutual),
            sni: mutual.then_some(end.sni.as_str()),
        };
        let admitted = came.admit(&own.policy)?;
        let Some(head) = head else { return admitted.authorize_opaque(judge) };
        let mut head = Cow::Borrowed(head);
        let canonical = admitted.make_canonical_copy(&mut head).map_err(Answer::Path)?;
        let (checked, token) =
            canonical.authenticate(|tokens| self.authenticate(own, tokens, head.to_mut()))?;
        let judged = checked.authorize(&head, token.as_ref(), judge);
        judged.map_err(|error| Answer::Path(error.into()))?
    }

    // The token that the request carries: of the case's claims, else as the proxy itself finds it. Rules see
    // the request without the token and with the fields that its rule writes.
    fn authenticate<'p>(
        &self,
        own: &Own,
        tokens: &Arc<RequestAuthenticationSet>,
        head: &mut RequestHead,
    ) -> Result<Option<VerifiedToken>, Answer<'p>> {
        if let Some(claims) = &self.caller.claims {
            return claimed(claims, tokens, head).map(Some);
        }
        let found = token::authenticate(head, tokens, &own.cache, token::now());
        let refused = |error: token::Refused| Answer::Token(error.reason(), error.reason().text());
        found.map(|found| found.map(|accepted| accepted.token.clone())).map_err(refused)
    }
}

// A token of these claims, whose signature and time are good.
fn claimed<'p>(
    claims: &Claims,
    tokens: &RequestAuthenticationSet,
    head: &mut RequestHead,
) -> Result<VerifiedToken, Answer<'p>> {
    for name in tokens.written_headers() {
        head.headers_mut().remove_spellings(name);
    }
    let mut refused = Reason::JwtInvalid;
    for (_, rule) in tokens.rules().filter(|(_, rule)| claims.issuer() == Some(&*rule.issuer)) {
        if !(rule.audiences.is_empty() || claims.is_for(&rule.audiences)) {
            refused = Reason::JwtAudienceRefused;
            continue;
        }
        if rule.keys.is_none() && rule.key_source.is_none() {
            refused = Reason::JwtKeysUnresolved;
            continue;
        }
        let token = VerifiedToken::new(claims.all.clone(), "", rule.space_delimited.clone());
        token::write(head.headers_mut(), rule, &token);
        return Ok(token);
    }
    Err(Answer::Token(refused, refused.text()))
}
