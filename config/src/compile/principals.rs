//! Trust domain aliases: a principal of any of the mesh's trust domains is meant as of all of them,
//! and `cluster.local` always means the mesh's own, as in Istio.

use crate::report::{At, Report};
use weft_model::authorization::{Clause, Condition, Rule};
use weft_model::mesh::MeshConfig;
use weft_model::spiffe::SpiffeId;
use weft_model::string_match::StringMatch;

/// What Istio calls "my own trust domain", whatever its name is.
const OWN: &str = "cluster.local";

/// Rewrites the principals of a rule.
pub(crate) fn expand(rule: &mut Rule, config: &MeshConfig) {
    if config.trust_domain_aliases.is_empty() && config.trust_domain.as_str() == OWN {
        return;
    }
    for source in &mut rule.sources {
        expand_clause(&mut source.principals, config);
    }
    for condition in &mut rule.conditions {
        if let Condition::SourcePrincipal(clause) = condition {
            expand_clause(clause, config);
        }
    }
}

/// Rewrites whole principals.
pub(crate) fn expand_identities(identities: &mut Vec<SpiffeId>, config: &MeshConfig) {
    let mut expanded: Vec<SpiffeId> = Vec::with_capacity(identities.len());
    for identity in identities.drain(..) {
        if is_own(identity.trust_domain(), config) {
            let rest = (identity.namespace(), identity.service_account());
            let of = |domain: &str| format!("spiffe://{domain}/ns/{}/sa/{}", rest.0, rest.1).parse();
            let each =
                own(config).map(|domain| of(domain).expect("an identity of a trust domain must parse"));
            for variant in each {
                if !expanded.contains(&variant) {
                    expanded.push(variant);
                }
            }
        } else {
            expanded.push(identity);
        }
    }
    *identities = expanded;
}

/// Warns of trust domains that are not the mesh's.
pub(crate) fn warn_of_foreign(report: &Report<'_>, domains: &[At<Box<str>>], config: &MeshConfig) {
    for domain in domains.iter().filter(|domain| !is_own(&domain.value, config)) {
        let message =
            format!("{} is not a trust domain of this mesh: nobody has such a principal", domain.value);
        let hint = format!("the mesh's is {}, and {OWN} always means it", config.trust_domain);
        report.warn(domain.place, message, hint);
    }
}

// Whether identities of the trust domain can be the mesh's.
fn is_own(domain: &str, config: &MeshConfig) -> bool {
    domain == OWN || own(config).any(|held| held == domain)
}

fn own(config: &MeshConfig) -> impl Iterator<Item = &str> {
    std::iter::once(&config.trust_domain).chain(&config.trust_domain_aliases).map(|domain| domain.as_str())
}

fn expand_clause(clause: &mut Clause<StringMatch>, config: &MeshConfig) {
    for list in [&mut clause.any, &mut clause.not] {
        let mut expanded = Vec::with_capacity(list.len());
        for pattern in list.drain(..) {
            for variant in variants(pattern, config) {
                if !expanded.contains(&variant) {
                    expanded.push(variant);
                }
            }
        }
        *list = expanded;
    }
}

fn variants(pattern: StringMatch, config: &MeshConfig) -> Vec<StringMatch> {
    let in_each = |rest: &str, make: fn(Box<str>) -> StringMatch| {
        own(config).map(|domain| make(format!("{domain}/{rest}").into())).collect::<Vec<_>>()
    };
    match &pattern {
        StringMatch::Exact(text) => match text.split_once('/') {
            Some((domain, rest)) if is_own(domain, config) => in_each(rest, StringMatch::Exact),
            _ => vec![pattern],
        },
        StringMatch::Prefix(text) => match text.split_once('/') {
            Some((domain, rest)) if is_own(domain, config) => in_each(rest, StringMatch::Prefix),
            _ => vec![pattern],
        },
        // `*local/ns/…`: the end of a trust domain, and a whole rest.
        StringMatch::Suffix(text) => match text.split_once('/') {
            Some((end, rest))
                if !end.is_empty()
                    && rest.starts_with("ns/")
                    && (OWN.ends_with(end) || own(config).any(|domain| domain.ends_with(end))) =>
            {
                let mut all = in_each(rest, StringMatch::Exact);
                all.push(pattern);
                all
            }
            _ => vec![pattern],
        },
        StringMatch::Presence | StringMatch::Template(_) => vec![pattern],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_of_one_own_trust_domain_is_one_of_all() {
        let config = MeshConfig {
            trust_domain: "new.example".parse().unwrap(),
            trust_domain_aliases: vec!["old.example".parse().unwrap()],
            ..MeshConfig::default()
        };
        let of = |text: &str| {
            let all = variants(StringMatch::parse(text), &config);
            all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let both = "new.example/ns/a/sa/b old.example/ns/a/sa/b";
        assert_eq!(of("new.example/ns/a/sa/b"), both);
        assert_eq!(of("old.example/ns/a/sa/b"), both);
        assert_eq!(of("cluster.local/ns/a/sa/b"), both);
        assert_eq!(of("old.example/ns/a/*"), "new.example/ns/a/* old.example/ns/a/*");
        assert_eq!(of("*new.example/ns/a/sa/b"), format!("{both} *new.example/ns/a/sa/b"));
        assert_eq!(of("third.example/ns/a/sa/b"), "third.example/ns/a/sa/b");
        assert_eq!(of("*/sa/b"), "*/sa/b");
        assert_eq!(of("*"), "*");
    }
}
