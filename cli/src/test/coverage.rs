//! Which rules decided a case: a rule that never does is untested, or can never decide anything.

use crate::judge::Outcome;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use weft_model::authorization::{Action, Authorization, Provenance};
use weft_model::mesh::Mesh;
use weft_model::route::Route;

/// Every rule, and whether it was hit.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Coverage {
    rules: usize,
    hit: usize,
    #[serde(serialize_with = "missed")]
    never: BTreeMap<Rule, Option<String>>,
}

// Kind, NAMESPACE/NAME, index.
type Rule = (&'static str, String, usize);

const POLICY: &str = "AuthorizationPolicy";

fn missed<S: serde::Serializer>(never: &BTreeMap<Rule, Option<String>>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Missed<'a> {
        kind: &'static str,
        name: &'a str,
        rule: usize,
        place: &'a str,
    }
    let shown = never.iter().filter_map(|((kind, name, rule), place)| {
        Some(Missed { kind, name, rule: *rule, place: place.as_deref()? })
    });
    to.collect_seq(shown)
}

impl Coverage {
    pub(crate) fn new(mesh: &Mesh) -> Self {
        let mut never = BTreeMap::new();
        let place = |place: &Provenance| Some(format!("{}:{}", place.file, place.line));
        // Audits and dry runs decide nothing.
        let decides = |policy: &&Arc<Authorization>| !policy.dry_run && policy.action != Action::Audit;
        for policy in mesh.authorizations.values().filter(decides) {
            for (index, rule) in policy.rules.iter().enumerate() {
                never.insert((POLICY, policy_name(policy), index), place(&rule.provenance));
            }
        }
        for route in mesh.routes.values() {
            for (index, rule) in route.rules.iter().enumerate() {
                never.insert((route.kind.as_str(), route_name(route), index), place(&rule.provenance));
            }
        }
        Self { rules: never.len(), hit: 0, never }
    }

    /// The rules that decided a request.
    pub(crate) fn count(&mut self, outcome: &Outcome<'_>) {
        if let Some(chosen) = &outcome.chosen {
            self.hit((chosen.route.kind.as_str(), route_name(chosen.route), chosen.index));
        }
        for answer in outcome.answers() {
            for decider in answer.matched() {
                self.hit((POLICY, policy_name(decider.policy), decider.rule));
            }
        }
    }

    fn hit(&mut self, rule: Rule) {
        self.hit += usize::from(self.never.remove(&rule).is_some());
    }

    /// Whether that percentage of rules was hit.
    pub(crate) fn reaches(&self, least: u8) -> bool {
        self.hit * 100 >= self.rules * usize::from(least)
    }

    pub(crate) fn text(&self) -> String {
        let percent = (self.hit * 100).checked_div(self.rules).unwrap_or(100);
        let mut text = format!("{} of {} rules hit ({percent} %)\n", self.hit, self.rules);
        for ((kind, name, rule), place) in &self.never {
            let place = place.as_deref().unwrap_or_default();
            let _ = writeln!(text, "never hit: {kind} {name} rule {rule} ({place})");
        }
        text
    }
}

fn policy_name(policy: &Authorization) -> String {
    format!("{}/{}", policy.namespace, policy.name)
}

fn route_name(route: &Route) -> String {
    format!("{}/{}", route.namespace, route.name)
}
