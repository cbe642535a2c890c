//! Rules that never decide, because an earlier rule of the policy matches all that they match.
//!
//! What is said here is certain: a rule that is not told to be shadowed may be so all the same, since
//! only clauses of one field are compared.

use ipnet::IpNet;
use weft_model::authorization::{Clause, Operation, Rule, Source};
use weft_model::string_match::StringMatch;

/// The first earlier rule that matches whatever this one matches.
pub(crate) fn shadowing(rules: &[&Rule], index: usize) -> Option<usize> {
    let (before, rest) = rules.split_at_checked(index)?;
    let rule = rest.first()?;
    before.iter().position(|earlier| covers(earlier, rule))
}

fn covers(wide: &Rule, narrow: &Rule) -> bool {
    one_of(&wide.sources, &narrow.sources, source)
        && one_of(&wide.operations, &narrow.operations, operation)
        && wide.conditions.iter().all(|condition| narrow.conditions.contains(condition))
}

// Items joined by OR, of which none means no condition.
fn one_of<T>(wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    wide.is_empty()
        || (!narrow.is_empty() && narrow.iter().all(|narrow| wide.iter().any(|wide| covers(wide, narrow))))
}

fn clause<T: PartialEq>(wide: &Clause<T>, narrow: &Clause<T>, covers: impl Fn(&T, &T) -> bool) -> bool {
    one_of(&wide.any, &narrow.any, covers) && wide.not.iter().all(|value| narrow.not.contains(value))
}

fn source(wide: &Source, narrow: &Source) -> bool {
    clause(&wide.principals, &narrow.principals, text)
        && clause(&wide.namespaces, &narrow.namespaces, text)
        && clause(&wide.service_accounts, &narrow.service_accounts, PartialEq::eq)
        && clause(&wide.ip_blocks, &narrow.ip_blocks, block)
        && clause(&wide.remote_ip_blocks, &narrow.remote_ip_blocks, block)
        && clause(&wide.request_principals, &narrow.request_principals, PartialEq::eq)
}

fn operation(wide: &Operation, narrow: &Operation) -> bool {
    clause(&wide.hosts, &narrow.hosts, text)
        && clause(&wide.ports, &narrow.ports, PartialEq::eq)
        && clause(&wide.methods, &narrow.methods, text)
        && clause(&wide.paths, &narrow.paths, text)
}

fn text(wide: &StringMatch, narrow: &StringMatch) -> bool {
    match (wide, narrow) {
        (StringMatch::Presence, _) => true,
        (StringMatch::Prefix(wide), StringMatch::Exact(narrow) | StringMatch::Prefix(narrow)) => {
            narrow.starts_with(&**wide)
        }
        (StringMatch::Suffix(wide), StringMatch::Exact(narrow) | StringMatch::Suffix(narrow)) => {
            narrow.ends_with(&**wide)
        }
        _ => wide == narrow,
    }
}

fn block(wide: &IpNet, narrow: &IpNet) -> bool {
    wide.contains(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(paths: &[&str], not: &[&str], methods: &[&str]) -> Rule {
        let texts = |all: &[&str]| all.iter().map(|text| StringMatch::parse(text)).collect::<Vec<_>>();
        let operation = Operation {
            paths: Clause { any: texts(paths), not: texts(not) },
            methods: Clause { any: texts(methods), not: Vec::new() },
            ..Operation::default()
        };
        Rule { operations: vec![operation], ..Rule::default() }
    }

    #[test]
    fn a_rule_is_shadowed_by_one_that_matches_all_that_it_matches() {
        let shadowed = |wide: &Rule, narrow: &Rule| shadowing(&[wide, narrow], 1).is_some();
        let any = Rule::default();
        assert!(shadowed(&any, &rule(&["/a"], &[], &[])));
        assert!(shadowed(&rule(&["/a*"], &[], &[]), &rule(&["/ab", "/a/*"], &[], &["GET"])));
        assert!(shadowed(&rule(&["/a*"], &["/ab"], &[]), &rule(&["/a/*"], &["/ab", "/x"], &[])));
        assert!(!shadowed(&rule(&["/a*"], &["/ab"], &[]), &rule(&["/a*"], &[], &[])));
        assert!(!shadowed(&rule(&["/a/*"], &[], &[]), &rule(&["/a*"], &[], &[])));
        assert!(!shadowed(&rule(&["/a"], &[], &["GET"]), &rule(&["/a"], &[], &[])));
        assert!(!shadowed(&rule(&["/a"], &[], &[]), &any));
    }
}
