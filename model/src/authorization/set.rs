//! All that binds one workload, and the verdict on what is asked of it.

use super::index::{self, Index, Phase};
use super::miss::{self, NearestMiss};
use super::{Action, Authorization, Facts, Operation, Provenance};
use crate::names::ResourceName;
use crate::spiffe::SpiffeId;
use std::fmt;
use std::sync::Arc;

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

/// The answer, and what goes with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Judgement<'a> {
    /// What DENY and ALLOW policies say.
    pub verdict: Verdict<'a>,
    /// A CUSTOM policy that matches: whatever the verdict is, its authorizer must agree first.
    pub custom: Option<Decider<'a>>,
    /// An AUDIT policy that matches.
    pub audit: Option<Decider<'a>>,
    /// What the verdict would be if the dry runs were enforced; `None` where there are none.
    pub shadow: Option<Verdict<'a>>,
}

/// What comes next in judging something, in the order that Istio documents: what is not held denies
/// before all, then the authorizer of a CUSTOM policy is asked, then DENY and ALLOW decide.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step<'a> {
    /// The authorizer that this policy names must agree first.
    Ask(Decider<'a>),
    /// Nobody is left to ask.
    Decided(Verdict<'a>),
}

/// A caller as one set of policies knows it: what its identity makes of their keys.
#[derive(Clone, Copy, Debug)]
pub struct Caller(index::Caller);

/// All that binds one workload. Built once per change and immutable; judging takes no lock and
/// allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct AuthorizationSet {
    policies: Vec<Arc<Authorization>>,
    unresolved: Option<ResourceName>,
    kinds: Kinds,
    http: Index,
    opaque: Index,
}

// What there is among the policies.
#[derive(Clone, Copy, Debug, Default)]
struct Kinds {
    allow: bool,
    dry_run: bool,
    dry_run_allow: bool,
    path: bool,
    enforced_path: bool,
}

// === impl Judgement ===

impl<'a> Judgement<'a> {
    /// What comes next. `agreed`: the provider that has agreed already, as MeshConfig names it.
    pub fn step(&self, agreed: Option<&str>) -> Step<'a> {
        match (self.verdict, self.custom) {
            (Verdict::Unresolved(_), _) | (_, None) => Step::Decided(self.verdict),
            // A workload has one provider, so one agreement is all that can be wanted.
            (_, Some(custom)) if agreed.is_some() && custom.policy.provider.as_deref() == agreed => {
                Step::Decided(self.verdict)
            }
            (_, Some(custom)) => Step::Ask(custom),
        }
    }
}

// === impl Verdict ===

impl<'a> Verdict<'a> {
    /// Whether it may pass.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// The rule that decided, if one did.
    pub fn decider(&self) -> Option<Decider<'a>> {
        match self {
            Self::Allowed(decider) => *decider,
            Self::Denied(decider) => Some(*decider),
            Self::NotAllowed | Self::Unresolved(_) => None,
        }
    }
}

// === impl Decider ===

impl<'a> Decider<'a> {
    /// Where the rule was written, or the policy where that is not known.
    pub fn provenance(&self) -> &'a Provenance {
        let rule = self.policy.rules.get(self.rule).map(|rule| &rule.provenance);
        rule.filter(|place| place.line > 0).unwrap_or(&self.policy.provenance)
    }
}

/// `shop/allow-ui rule 0 (shop.yaml:12)`
impl fmt::Display for Decider<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {} ({})", self.policy, self.rule, self.provenance())
    }
}

// === impl AuthorizationSet ===

impl AuthorizationSet {
    /// Joins the policies that a workload names; `None` stands for one that is not held.
    pub fn new(named: impl IntoIterator<Item = (ResourceName, Option<Arc<Authorization>>)>) -> Self {
        let (mut policies, mut unresolved) = (Vec::new(), None);
        for (name, policy) in named {
            match policy {
                Some(policy) => policies.push(policy),
                None => unresolved = Some(name),
            }
        }
        let mut kinds = Kinds::default();
        for policy in &policies {
            let enforced = !policy.dry_run;
            kinds.allow |= enforced && policy.action == Action::Allow;
            kinds.dry_run |= !enforced;
            kinds.dry_run_allow |= !enforced && policy.action == Action::Allow;
            // An external authorizer is shown the path, and may look at it.
            let shown = policy.action == Action::Custom && !policy.rules.is_empty();
            let looks = policy.has_path_rule() || shown;
            kinds.path |= looks;
            kinds.enforced_path |= enforced && policy.action != Action::Audit && looks;
        }
        let (http, opaque) = (Index::of_requests(&policies), Index::of_connections(&policies));
        Self { policies, unresolved, kinds, http, opaque }
    }

    /// Whether these are the very policies that it was built of.
    pub fn is_of(&self, named: &[(ResourceName, Option<Arc<Authorization>>)]) -> bool {
        let held = named.iter().filter_map(|(_, policy)| policy.as_ref());
        let missing = named.iter().rev().find(|(_, policy)| policy.is_none()).map(|(name, _)| name);
        held.clone().count() == self.policies.len()
            && held.zip(&self.policies).all(|(a, b)| Arc::ptr_eq(a, b))
            && missing == self.unresolved.as_ref()
    }

    /// The policies, in the order in which they were named.
    pub fn policies(&self) -> &[Arc<Authorization>] {
        &self.policies
    }

    /// The name of a policy that is not held: everything is denied.
    pub fn unresolved(&self) -> Option<&ResourceName> {
        self.unresolved.as_ref()
    }

    /// Whether an enforced path rule applies, so that paths must be canonical before they are judged
    /// and forwarded.
    pub fn needs_canonical_path(&self) -> bool {
        self.kinds.enforced_path
    }

    /// Whether any rule looks at the path, be it only to audit or as a dry run.
    pub fn looks_at_path(&self) -> bool {
        self.kinds.path
    }

    /// Whether an enforced rule looks at HTTP on this port of the workload, so that what cannot be looked
    /// at must not pass there.
    pub fn needs_http(&self, port: u16) -> bool {
        let of_port = |operation: &Operation| {
            let ports = &operation.ports;
            (ports.any.is_empty() || ports.any.contains(&port)) && !ports.not.contains(&port)
        };
        self.policies
            .iter()
            .filter(|policy| !policy.dry_run && policy.action != Action::Audit)
            .flat_map(|policy| policy.rules.iter().map(move |rule| (policy.action == Action::Custom, rule)))
            .any(|(custom, rule)| {
                // An external authorizer is asked about requests, whatever its rule looks at.
                (custom || rule.needs_http())
                    && (rule.operations.is_empty() || rule.operations.iter().any(of_port))
            })
    }

    /// What DENY and ALLOW policies say.
    pub fn decide(&self, facts: &Facts<'_>) -> Verdict<'_> {
        self.judge(facts).verdict
    }

    /// Judges. The rule that is named is the first that matches, by policies' order and then its own.
    pub fn judge<'a>(&'a self, facts: &Facts<'_>) -> Judgement<'a> {
        let index = if facts.http.is_some() { &self.http } else { &self.opaque };
        self.judge_in(index, &index.caller(facts.connection.source), facts)
    }

    /// Looks up once what is the same for all requests of a caller.
    pub fn caller(&self, source: Option<&SpiffeId>) -> Caller {
        Caller(self.http.caller(source))
    }

    /// Judges a request of that caller, as [`Self::judge`] does. `caller`: of these very policies and of the
    /// facts' own identity.
    pub fn judge_of<'a>(&'a self, caller: &Caller, facts: &Facts<'_>) -> Judgement<'a> {
        match facts.http {
            Some(_) => self.judge_in(&self.http, &caller.0, facts),
            None => self.judge(facts),
        }
    }

    fn judge_in<'a>(&'a self, index: &'a Index, caller: &index::Caller, facts: &Facts<'_>) -> Judgement<'a> {
        if let Some(name) = &self.unresolved {
            let verdict = Verdict::Unresolved(name);
            return Judgement { verdict, custom: None, audit: None, shadow: None };
        }
        let first = index.first(&self.policies, caller, facts);
        let decider = |phase: Phase| {
            let (policy, rule) = index.rule(first[phase as usize])?;
            Some(Decider { policy: self.policies.get(policy)?, rule })
        };
        let verdict = |deny: Option<Decider<'a>>, any_allow: bool, allow: Option<Decider<'a>>| match deny {
            Some(decider) => Verdict::Denied(decider),
            None if !any_allow => Verdict::Allowed(None),
            None => allow.map_or(Verdict::NotAllowed, |decider| Verdict::Allowed(Some(decider))),
        };
        let (deny, allow) = (decider(Phase::Deny), decider(Phase::Allow));
        Judgement {
            verdict: verdict(deny, self.kinds.allow, allow),
            custom: decider(Phase::Custom),
            audit: decider(Phase::Audit),
            shadow: self.kinds.dry_run.then(|| {
                let any_allow = self.kinds.allow || self.kinds.dry_run_allow;
                let deny = deny.or_else(|| decider(Phase::DryRunDeny));
                verdict(deny, any_allow, allow.or_else(|| decider(Phase::DryRunAllow)))
            }),
        }
    }

    /// Every rule that matches, whatever its policy does, by looking at each: for tools.
    pub fn matching<'a>(&'a self, facts: &Facts<'_>) -> impl Iterator<Item = Decider<'a>> {
        self.policies.iter().flat_map(move |policy| {
            let rules = policy.rules.iter().enumerate();
            let matching = rules.filter(|(_, rule)| rule.matches(facts, policy.action));
            matching.map(|(rule, _)| Decider { policy, rule })
        })
    }

    /// Of the enforced ALLOW rules the one that failed on least: why something is not allowed. Looks
    /// at so many values at most.
    pub fn nearest_miss(&self, facts: &Facts<'_>, budget: usize) -> Option<NearestMiss<'_>> {
        let enforced = |policy: &&Authorization| policy.action == Action::Allow && !policy.dry_run;
        miss::nearest(self.policies.iter().map(|policy| &**policy).filter(enforced), facts, budget)
    }
}

/// Of the same policies, in the same order: all else follows from them.
impl PartialEq for AuthorizationSet {
    fn eq(&self, other: &Self) -> bool {
        self.policies == other.policies && self.unresolved == other.unresolved
    }
}

impl Eq for AuthorizationSet {}
