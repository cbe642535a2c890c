//! What was nearest to matching: for the log of a denial and for people who ask why. Judged only
//! then, and never for longer than a budget allows.

use super::matching::Settled;
use super::set::Decider;
use super::{Authorization, Condition, Facts, Rule};
use std::fmt;

/// A part of a rule that can fail by itself, as users write it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part<'a> {
    /// A list of `from` or `to`, or a field that needs HTTP where there is none.
    Field(&'static str),
    /// A condition of `when`.
    Condition(&'a Condition),
}

/// The ALLOW rule that failed on least.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NearestMiss<'a> {
    /// Which rule.
    pub decider: Decider<'a>,
    /// What of it failed: never empty.
    pub parts: Vec<Part<'a>>,
    /// Whether every rule was looked at.
    pub complete: bool,
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::Condition(condition) => condition.fmt(f),
        }
    }
}

/// `shop/allow-ui rule 0 (shop.yaml:12) failed only on namespaces`
impl fmt::Display for NearestMiss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.decider)?;
        if self.parts.len() == 1 {
            f.write_str(" only")?;
        }
        for (index, part) in self.parts.iter().enumerate() {
            f.write_str(match index {
                0 => " on ",
                _ if index + 1 == self.parts.len() => " and ",
                _ => ", ",
            })?;
            part.fmt(f)?;
        }
        Ok(())
    }
}

/// Finds the rule of these policies that failed on least, the first of several. Looks at so many
/// values at most.
pub(super) fn nearest<'a>(
    policies: impl Iterator<Item = &'a Authorization>,
    facts: &Facts<'_>,
    mut budget: usize,
) -> Option<NearestMiss<'a>> {
    let mut nearest: Option<NearestMiss<'a>> = None;
    for policy in policies {
        for (rule, written) in policy.rules.iter().enumerate() {
            let Some(left) = budget.checked_sub(written.values()) else {
                return nearest.map(|nearest| NearestMiss { complete: false, ..nearest });
            };
            budget = left;
            let parts = failed(written, policy, facts);
            let least = nearest.as_ref().is_none_or(|nearest| parts.len() < nearest.parts.len());
            if !parts.is_empty() && least {
                nearest = Some(NearestMiss { decider: Decider { policy, rule }, parts, complete: true });
            }
        }
    }
    nearest
}

fn failed<'a>(rule: &'a Rule, policy: &Authorization, facts: &Facts<'_>) -> Vec<Part<'a>> {
    let action = policy.action;
    if facts.http.is_none() && !rule.can_be_opaque(action) {
        return vec![Part::Field("what needs HTTP")];
    }
    // Of several sources the one that failed on least counts, and so for operations.
    let mut parts = Vec::new();
    let sources = rule.sources.iter().map(|source| {
        let mut missed = Vec::new();
        source.holds(facts, action, Settled::default(), &mut missed);
        missed
    });
    parts.extend(sources.min_by_key(Vec::len).unwrap_or_default());
    let operations = rule.operations.iter().map(|operation| {
        let mut missed = Vec::new();
        operation.holds(facts, Settled::default(), &mut missed);
        missed
    });
    parts.extend(operations.min_by_key(Vec::len).unwrap_or_default());
    rule.conditions_hold(facts, action, &mut parts);
    parts
}
