//! The judgement of what comes over a connection: facts in, an admission or a reason out, counted and
//! told to whoever looks after the mesh. What is asked, and in which order, is in [`super::checks`].
//!
//! A denial names the policy and rule that decided, or the rule that was nearest to matching: never to
//! the client, who must not learn the rules by trying.

use super::authorizer::Agreed;
use super::checks::Authenticated;
use super::connection::Connection;
use super::token;
use crate::http::RequestHead;
use crate::policy::Policy;
use std::borrow::Cow;
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use weft_model::authorization::{Authorization, Decider, Facts, Judgement, Step, Verdict};
use weft_model::reason::Reason;
use weft_model::request_authentication::{Accepted, RequestAuthenticationSet};

/// How many values are looked at for the nearest miss of a denial: what a client can make the proxy do by
/// being denied.
const NEAREST_MISS_BUDGET: usize = 2_000;

/// Why something is not let through.
#[derive(Debug)]
pub struct Denied {
    /// Why.
    pub reason: Reason,
    /// More of the why, for the log.
    pub detail: Option<String>,
    /// Nothing of it reached the application, and another endpoint may take it.
    pub undelivered: bool,
}

/// What the log says beside the verdict.
#[derive(Debug, Default)]
pub struct Marks {
    /// The AUDIT policy that matches.
    pub audit: Option<String>,
    /// What would be different if the dry runs were enforced.
    pub dry_run: Option<String>,
}

/// What is to be done before something may pass.
#[derive(Debug, Eq, PartialEq)]
pub enum Next {
    /// Nothing.
    Pass,
    /// An external authorizer is to be asked.
    Ask(Question),
}

/// An external authorizer's task.
#[derive(Debug, Eq, PartialEq)]
pub struct Question {
    /// Whom to ask, as MeshConfig names it.
    pub provider: Box<str>,
    /// The policy and rule that want it.
    pub by: String,
}

/// When something is judged, and which external authorizer has agreed to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Occasion<'a> {
    /// Nobody knows yet what it is: nothing is counted, and nothing told.
    Trial(Option<&'a str>),
    /// It has just come.
    First(Option<&'a str>),
    /// The policy has changed: what is still admitted was counted before.
    Again(Option<&'a str>),
}

/// A request that another policy admits, too.
#[derive(Debug)]
pub struct Rejudged<'h>(Cow<'h, RequestHead>);

// === impl Occasion ===

impl<'a> Occasion<'a> {
    fn agreed(self) -> Option<&'a str> {
        let (Self::Trial(agreed) | Self::First(agreed) | Self::Again(agreed)) = self;
        agreed
    }
}

// === impl Denied ===

impl Denied {
    /// Refused for good, or so that another endpoint may take it.
    pub fn new(reason: Reason, detail: Option<String>, undelivered: bool) -> Self {
        Self { reason, detail, undelivered }
    }
}

// === impl Rejudged ===

impl Rejudged<'_> {
    /// What is forwarded under that policy.
    pub fn into_head(self) -> RequestHead {
        self.0.into_owned()
    }
}

// === impl Marks ===

impl Marks {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.audit.is_none() && self.dry_run.is_none()
    }
}

// === impl Connection ===

impl Connection {
    /// Judges a request that has just come, at that time (seconds since 1970), and makes of it what is
    /// forwarded: its token is taken out and the claims put in that a rule asks for; where a path rule
    /// applies its path is put into canonical form, or it is refused.
    pub fn judge_request(
        &self,
        head: &mut RequestHead,
        policy: &Policy,
        at: i64,
        marks: &mut Marks,
    ) -> Result<(Next, Option<Rc<Accepted>>), Denied> {
        // Before anything of it is looked at: what is not for this workload is not malformed.
        let admitted = self.came().admit(policy)?;
        let canonical = admitted.make_canonical(head).map_err(malformed)?;
        let (checked, token) = canonical.authenticate(|tokens| self.authenticate(head, tokens, at))?;
        let next = self.authorize(checked, head, policy, token.as_deref(), Occasion::First(None), marks)?;
        Ok((next, token))
    }

    /// Judges the rest of a request to which the authorizer has agreed: DENY and ALLOW see it as the
    /// authorizer has edited it.
    pub fn judge_agreed(
        &self,
        head: &RequestHead,
        policy: &Policy,
        token: Option<&Accepted>,
        agreed: &str,
        marks: &mut Marks,
    ) -> Result<(), Denied> {
        let checked = self.came().authenticated_before(policy);
        unasked(self.authorize(checked, head, policy, token, Occasion::First(Some(agreed)), marks)?)
    }

    /// Judges a request again that was admitted at that time, with what an authorizer made of it. `head`:
    /// as it came; copied only where something of it must be changed to be judged.
    pub fn judge_request_again<'h>(
        &self,
        head: &'h RequestHead,
        policy: &Policy,
        at: i64,
        agreed: Option<&Agreed>,
    ) -> Result<Rejudged<'h>, Denied> {
        let admitted = self.came().admit(policy)?;
        let mut head = Cow::Borrowed(head);
        let canonical = admitted.make_canonical_copy(&mut head).map_err(malformed)?;
        let (checked, token) =
            canonical.authenticate(|tokens| self.authenticate(head.to_mut(), tokens, at))?;
        if let Some(agreed) = agreed {
            let applied = agreed.edits.apply(head.to_mut().headers_mut());
            applied.map_err(malformed)?;
        }
        let occasion = Occasion::Again(agreed.map(|agreed| &*agreed.provider));
        let marks = &mut Marks::default();
        unasked(self.authorize(checked, &head, policy, token.as_deref(), occasion, marks)?)?;
        Ok(Rejudged(head))
    }

    fn authenticate(
        &self,
        head: &mut RequestHead,
        tokens: &Arc<RequestAuthenticationSet>,
        at: i64,
    ) -> Result<Option<Rc<Accepted>>, Denied> {
        let token = token::authenticate(head, tokens, &self.worker().tokens, at);
        token.map_err(|error| Denied::new(error.reason(), Some(error.to_string()), false))
    }

    /// What would become of a connection if it carried opaque bytes. Nothing is counted.
    pub fn try_opaque(&self, policy: &Policy) -> Result<Next, Denied> {
        self.judge_opaque_at(policy, Occasion::Trial(self.agreed().as_deref()), &mut Marks::default())
    }

    /// Judges a connection of opaque bytes that has just come.
    pub fn judge_opaque(&self, policy: &Policy, marks: &mut Marks) -> Result<Next, Denied> {
        self.judge_opaque_at(policy, Occasion::First(self.agreed().as_deref()), marks)
    }

    /// Judges a connection of opaque bytes again that was admitted.
    pub fn judge_opaque_again(&self, policy: &Policy) -> Result<(), Denied> {
        let agreed = self.agreed();
        let occasion = Occasion::Again(agreed.as_deref());
        self.judge_opaque_at(policy, occasion, &mut Marks::default()).and_then(unasked)
    }

    fn judge_opaque_at(
        &self,
        policy: &Policy,
        occasion: Occasion<'_>,
        marks: &mut Marks,
    ) -> Result<Next, Denied> {
        let admitted = self.came().admit(policy)?;
        admitted.authorize_opaque(|facts| self.judge_facts(facts, policy, occasion, marks))
    }

    fn authorize(
        &self,
        checked: Authenticated<'_>,
        head: &RequestHead,
        policy: &Policy,
        token: Option<&Accepted>,
        occasion: Occasion<'_>,
        marks: &mut Marks,
    ) -> Result<Next, Denied> {
        let token = token.map(|accepted| &accepted.token);
        let judged = checked.authorize(head, token, |facts| self.judge_facts(facts, policy, occasion, marks));
        judged.map_err(malformed)?
    }

    fn judge_facts(
        &self,
        facts: &Facts<'_>,
        policy: &Policy,
        occasion: Occasion<'_>,
        marks: &mut Marks,
    ) -> Result<Next, Denied> {
        let rules = &policy.own.authorization;
        let judgement = rules.judge_of(&self.caller(policy), facts);
        if let Step::Ask(decider) = judgement.step(occasion.agreed()) {
            let provider = decider.policy.provider.clone().unwrap_or_default();
            return Ok(Next::Ask(Question { provider, by: decider.to_string() }));
        }
        let (first, counts) =
            (matches!(occasion, Occasion::First(_)), !matches!(occasion, Occasion::Trial(_)));
        if first {
            self.note(policy, &judgement, marks);
        }
        let denied = |detail| Err(Denied::new(Reason::AuthorizationDenied, Some(detail), false));
        match judgement.verdict {
            Verdict::Allowed(decider) => {
                if first && let Some(decider) = decider {
                    self.decided(policy, "allow", Some(decider));
                }
                Ok(Next::Pass)
            }
            Verdict::Denied(decider) => {
                if counts {
                    self.decided(policy, "deny", Some(decider));
                }
                denied(decider.to_string())
            }
            Verdict::NotAllowed => {
                if counts {
                    self.decided(policy, "deny", None);
                }
                denied(match rules.nearest_miss(facts, NEAREST_MISS_BUDGET) {
                    Some(nearest) => format!("no ALLOW policy matches; {nearest}"),
                    None => "no ALLOW policy matches".to_owned(),
                })
            }
            Verdict::Unresolved(missing) => {
                if counts {
                    let metrics = &self.worker().metrics;
                    metrics.decided(policy.version, "deny", 0, 1, || "unresolved".to_owned());
                }
                let detail = Some(format!("{missing} is not held"));
                Err(Denied::new(Reason::AuthorizationUnresolved, detail, false))
            }
        }
    }

    // What decides nothing: audits, and what the dry runs would have said.
    fn note(&self, policy: &Policy, judgement: &Judgement<'_>, marks: &mut Marks) {
        if let Some(decider) = judgement.audit {
            self.decided(policy, "audit", Some(decider));
            marks.audit = Some(decider.to_string());
        }
        let Some(shadow) = judgement.shadow else { return };
        let verdict = if shadow.is_allowed() { "dry_run_allow" } else { "dry_run_deny" };
        self.decided(policy, verdict, shadow.decider());
        if shadow.is_allowed() != judgement.verdict.is_allowed() {
            let word = if shadow.is_allowed() { "allowed" } else { "denied" };
            marks.dry_run = Some(match shadow.decider() {
                Some(decider) => format!("{word} by {decider}"),
                None => format!("{word}: no ALLOW policy matches"),
            });
        }
    }

    fn decided(&self, policy: &Policy, verdict: &'static str, decider: Option<Decider<'_>>) {
        let metrics = &self.worker().metrics;
        match decider {
            Some(Decider { policy: by, rule }) => {
                metrics.decided(policy.version, verdict, address(by), rule, || by.to_string());
            }
            None => metrics.decided(policy.version, verdict, 0, 0, || "none matches".to_owned()),
        }
    }
}

// What an authorizer would have to be asked about, where nobody can be asked any more.
fn unasked(next: Next) -> Result<(), Denied> {
    match next {
        Next::Pass => Ok(()),
        Next::Ask(Question { by, .. }) => {
            let detail = Some(format!("{by} wants an authorizer that has not agreed"));
            Err(Denied::new(Reason::AuthorizationUnresolved, detail, false))
        }
    }
}

fn malformed(error: impl Display) -> Denied {
    Denied::new(Reason::RequestMalformed, Some(error.to_string()), false)
}

fn address(policy: &Authorization) -> usize {
    std::ptr::from_ref(policy).addr()
}
