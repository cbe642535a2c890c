//! Workloads without a proxy (`injected: false`): what binds them is enforced by nobody, and that is told.

use super::population::{Entry, Population};
use crate::report::{Place, Report};
use crate::schema::Metadata;
use crate::schema::selector::Target;

pub(crate) const HINT: &str = "give them a proxy (`injected`), or keep others from them by other means";

/// What a policy does, as far as its absence weighs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Weight {
    /// It refuses something: without it, that passes.
    Refuses,
    /// It notes something, or lets something pass.
    Notes,
}

/// Tells of the workloads that a policy binds and that have no proxy. It is an error where the policy names its
/// workloads, refuses something, and none of them has one: whoever wrote it relies on it.
pub(crate) fn check(
    report: &Report<'_>,
    metadata: &Metadata<'_>,
    target: &Target<'_>,
    weight: Weight,
    bound: &[usize],
    population: &Population<'_>,
) {
    let Some(lacking) = lacking(bound, population) else { return };
    let place: Place = target.place().unwrap_or(metadata.name.place);
    if lacking.all && weight == Weight::Refuses && target.place().is_some() {
        report.error_hint(place, format!("the policy is enforced by nobody: {lacking}"), HINT);
    } else if lacking.all {
        report.warn(place, format!("the policy is enforced by nobody: {lacking}"), HINT);
    } else if weight == Weight::Refuses {
        report.warn(place, format!("the policy is not enforced everywhere: {lacking}"), HINT);
    }
}

/// Of some workloads those without a proxy that can be called.
pub(crate) struct Lacking<'a> {
    number: usize,
    first: &'a Entry<'a>,
    /// None has one.
    all: bool,
}

/// `None`: there are none.
pub(crate) fn lacking<'a>(bound: &[usize], population: &'a Population<'_>) -> Option<Lacking<'a>> {
    if !population.has_plain {
        return None;
    }
    let entries = || bound.iter().map(|index| &population.all[*index]);
    // What has no port serves nobody.
    let mut plain = entries().filter(|entry| !entry.written.injected && !entry.ports.is_empty());
    let first = plain.next()?;
    let all = entries().all(|entry| !entry.written.injected);
    Some(Lacking { number: 1 + plain.count(), first, all })
}

impl std::fmt::Display for Lacking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let uid = &self.first.uid;
        match self.number {
            1 => write!(f, "{uid} has no proxy (`injected: false`)"),
            number => write!(f, "{number} workloads have no proxy (`injected: false`), {uid} among them"),
        }
    }
}
