//! What a case expects, held against what became of its request.

use crate::judge::{Answer, Outcome, Prepared, describe};
use std::collections::BTreeSet;
use weft_config::case::Expectation;
use weft_proxy::http::RequestHead;

/// Everything that is not as expected.
pub(crate) fn verify(expect: &Expectation, prepared: &Prepared<'_>, outcome: &Outcome<'_>) -> Vec<String> {
    let mut failures = Vec::new();
    let fate = outcome.fate();
    if fate != Some(expect.fate) {
        let got = fate.map_or("a different answer by endpoint", |fate| fate.word());
        failures.push(format!("expected {}, got {got}: {}", expect.fate.word(), why(prepared, outcome)));
        if prepared.authorizer.is_none()
            && let Some(by) = outcome.answers().find_map(Answer::asks)
        {
            let provider = by.policy.provider.as_deref().unwrap_or_default();
            failures.push(format!(
                "the answer depends on the authorizer {provider}: say what it answers (`authorizer: allow`, `deny` or \
                 `fail`), or expect `ask`"
            ));
        }
    }
    let mut differs = |what: &str, wanted: &str, got: &str| {
        if wanted != got {
            failures.push(format!("expected {what} {wanted}, got {got}"));
        }
    };
    if let Some(reason) = expect.reason {
        let got = outcome.reason().map_or("none", |reason| reason.label());
        differs("reason", reason.label(), got);
    }
    if let Some(policy) = &expect.policy {
        let deciders: BTreeSet<_> = outcome.answers().map(decider).collect();
        let wanted = match expect.rule {
            Some(rule) => format!("{policy} rule {rule}"),
            None => policy.clone(),
        };
        let shown = |(name, rule): &(String, Option<usize>)| match (expect.rule, rule) {
            (Some(_), Some(rule)) => format!("{name} rule {rule}"),
            _ => name.clone(),
        };
        differs("policy", &wanted, &each_once(deciders.iter().map(shown)));
    }
    if let Some(dry_run) = expect.dry_run {
        let got = each_once(outcome.answers().map(|answer| answer.dry_run().word().to_owned()));
        differs("with the dry runs enforced", dry_run.word(), &got);
    }
    if let Some(audit) = &expect.audit {
        let named =
            |answer: &Answer<'_>| answer.audit().map_or("none".to_owned(), |held| held.policy.to_string());
        differs("audit by", audit, &each_once(outcome.answers().map(named)));
    }
    if let Some(route) = &expect.route {
        let chosen = outcome.chosen.as_ref();
        let name = chosen.map(|chosen| format!("{}/{}", chosen.route.namespace, chosen.route.name));
        differs("route", route, name.as_deref().unwrap_or("none"));
        if let Some(rule) = expect.route_rule {
            let got = chosen.map_or("none".to_owned(), |chosen| chosen.index.to_string());
            differs("rule of the route", &rule.to_string(), &got);
        }
    }
    if let Some(backends) = &expect.backends {
        differs("backends", &backends.join(", "), &backends_of(outcome).join(", "));
    }
    let answered = outcome.answered();
    if let Some(status) = expect.status {
        let got = answered.as_ref().map_or("none".to_owned(), |local| local.status.to_string());
        differs("status", &status.to_string(), &got);
    }
    if let Some(location) = &expect.location {
        differs("location", location, answered.and_then(|local| local.location).as_deref().unwrap_or("none"));
    }
    verify_sent(expect, prepared, outcome, &mut differs);
    failures
}

fn verify_sent(
    expect: &Expectation,
    prepared: &Prepared<'_>,
    outcome: &Outcome<'_>,
    differs: &mut impl FnMut(&str, &str, &str),
) {
    let heads: Vec<&RequestHead> = outcome
        .branches
        .iter()
        .filter(|branch| branch.local.is_none())
        .filter_map(|branch| branch.head.as_ref().or(prepared.head.as_ref()))
        .collect();
    let mut each = |what: &str, wanted: &str, of: &dyn Fn(&RequestHead) -> String| {
        differs(what, wanted, &each_once(heads.iter().map(|head| of(head))));
    };
    if let Some(path) = &expect.sent_path {
        each("a sent path", path, &|head| head.path_and_query().to_owned());
    }
    if let Some(host) = &expect.sent_host {
        each("a sent host", host, &|head| head.authority().to_owned());
    }
    for (name, value) in &expect.sent_headers {
        let wanted = value.as_deref().unwrap_or("(absent)");
        each(&format!("a sent field {name}"), wanted, &|head| {
            let all = head.headers().find_all(name).map(String::from_utf8_lossy).collect::<Vec<_>>();
            if all.is_empty() { "(absent)".to_owned() } else { all.join(", ") }
        });
    }
}

fn each_once(all: impl Iterator<Item = String>) -> String {
    let all: BTreeSet<String> = all.collect();
    if all.is_empty() { "none".to_owned() } else { all.into_iter().collect::<Vec<_>>().join(" or ") }
}

fn decider(answer: &Answer<'_>) -> (String, Option<usize>) {
    match answer.decider() {
        Some(decider) => {
            (format!("{}/{}", decider.policy.namespace, decider.policy.name), Some(decider.rule))
        }
        None => ("none".to_owned(), None),
    }
}

/// Every Service that the request may be sent to, sorted.
pub(crate) fn backends_of(outcome: &Outcome<'_>) -> Vec<String> {
    let named = outcome.branches.iter().filter_map(|branch| branch.backend);
    let named = named.map(|backend| match &backend.service {
        Some((name, port)) => format!("{name}:{port}"),
        None => "nowhere".to_owned(),
    });
    let mut all: Vec<_> = named.collect();
    all.sort();
    all.dedup();
    all
}

// Each different answer once.
fn why(prepared: &Prepared<'_>, outcome: &Outcome<'_>) -> String {
    let mut all: BTreeSet<String> = outcome.answers().map(describe).collect();
    for branch in &outcome.branches {
        let nearest =
            branch.ends.iter().filter_map(|(end, answer)| prepared.nearest_miss(branch, end, answer));
        all.extend(nearest.map(|nearest| format!("nearest: {nearest}")));
    }
    all.extend(outcome.locals().map(|local| local.reason.text().to_owned()));
    all.into_iter().collect::<Vec<_>>().join("; ")
}
