//! How often each policy's rules decided: as the control API says it, or from proxies' own metrics.

use super::printable;
use crate::fetch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

const METRIC: &str = "weft_authorization_decisions_total{";

/// The decisions of one rule, over all proxies that were asked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hits {
    policy: String,
    rule: usize,
    verdict: String,
    decisions: u64,
}

/// Asks all.
pub(crate) fn of(proxies: &[SocketAddr]) -> Result<Vec<Hits>, String> {
    let mut all: BTreeMap<(String, usize, String), u64> = BTreeMap::new();
    for proxy in proxies {
        count(&fetch::get(*proxy, "/metrics")?, &mut all);
    }
    let hits =
        all.into_iter().map(|((policy, rule, verdict), decisions)| Hits { policy, rule, verdict, decisions });
    Ok(hits.collect())
}

fn count(metrics: &str, all: &mut BTreeMap<(String, usize, String), u64>) {
    for line in metrics.lines().filter_map(|line| line.strip_prefix(METRIC)) {
        let Some((labels, value)) = line.rsplit_once("} ") else { continue };
        let label = |name: &str| {
            let start = labels.find(&format!("{name}=\""))? + name.len() + 2;
            Some(labels[start..].split('"').next()?.to_owned())
        };
        // What no rule decided has none.
        let rule = label("rule").and_then(|rule| rule.parse().ok());
        let found = label("policy").zip(rule).zip(label("verdict")).zip(value.parse::<u64>().ok());
        if let Some((((policy, rule), verdict), value)) = found {
            *all.entry((policy, rule, verdict)).or_default() += value;
        }
    }
}

pub(crate) fn text(hits: &[Hits]) -> String {
    let mut text = String::new();
    for Hits { policy, rule, verdict, decisions } in hits {
        // Writing to a String cannot fail.
        let (policy, verdict) = (printable(policy), printable(verdict));
        let _ = writeln!(text, "{policy} rule {rule}: {verdict} {decisions}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_added_up_over_proxies() {
        let mut all = BTreeMap::new();
        let metrics = "# TYPE weft_authorization_decisions_total counter\n\
                       weft_authorization_decisions_total{verdict=\"allow\",policy=\"shop/cart\",rule=\"0\"} 7\n\
                       weft_other{policy=\"x\"} 1\n";
        count(metrics, &mut all);
        count(metrics, &mut all);
        let key = ("shop/cart".to_owned(), 0, "allow".to_owned());
        assert_eq!(all.into_iter().collect::<Vec<_>>(), [(key, 14)]);
    }
}
