//! Rules that never decide, because an earlier rule of the policy matches all that they match.
//!
//! What is said here is certain: a rule that is not told to be shadowed may be so all the same, since
//! only clauses of one field are compared, and only so many values: every list of every rule could
//! otherwise be held against every list of every other.

use ipnet::IpNet;
use std::cell::Cell;
use weft_model::authorization::{Clause, Operation, Rule, Source};
use weft_model::string_match::StringMatch;

/// How often a value of a policy is compared with another on average at most. A thousand rules of three values
/// each are compared in whole.
const COMPARISONS_PER_VALUE: usize = 512;

/// The rules that never decide, each with the first earlier rule that matches whatever it matches.
pub(crate) fn shadowed(rules: &[&Rule]) -> Vec<(usize, usize)> {
    let values: usize = rules.iter().map(|rule| values(rule)).sum();
    let shadows = Shadows { left: Cell::new(values.saturating_mul(COMPARISONS_PER_VALUE)) };
    (0..rules.len()).filter_map(|index| Some((index, shadows.first(rules, index)?))).collect()
}

fn values(rule: &Rule) -> usize {
    fn of<T>(clause: &Clause<T>) -> usize {
        1 + clause.any.len() + clause.not.len()
    }
    let sources = rule.sources.iter().map(|source| {
        of(&source.principals)
            + of(&source.namespaces)
            + of(&source.service_accounts)
            + of(&source.ip_blocks)
            + of(&source.remote_ip_blocks)
            + of(&source.request_principals)
    });
    let operations = rule.operations.iter().map(|operation| {
        of(&operation.hosts) + of(&operation.ports) + of(&operation.methods) + of(&operation.paths)
    });
    1 + sources.sum::<usize>() + operations.sum::<usize>() + rule.conditions.len()
}

/// Compares for as long as comparisons are left.
struct Shadows {
    left: Cell<usize>,
}

impl Shadows {
    fn first(&self, rules: &[&Rule], index: usize) -> Option<usize> {
        let (before, rest) = rules.split_at_checked(index)?;
        let rule = rest.first()?;
        before.iter().position(|earlier| self.covers(earlier, rule))
    }

    /// Whether one more comparison may be made; without one nothing covers anything.
    fn one_more(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    fn covers(&self, wide: &Rule, narrow: &Rule) -> bool {
        self.one_more()
            && self.one_of(&wide.sources, &narrow.sources, |wide, narrow| self.source(wide, narrow))
            && self.one_of(&wide.operations, &narrow.operations, |wide, narrow| self.operation(wide, narrow))
            && self.all_in(&wide.conditions, &narrow.conditions)
    }

    // Items joined by OR, of which none means no condition.
    fn one_of<T>(&self, wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
        let covered = |narrow: &T| wide.iter().any(|wide| self.one_more() && covers(wide, narrow));
        wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(covered))
    }

    fn all_in<T: PartialEq>(&self, wide: &[T], narrow: &[T]) -> bool {
        wide.iter().all(|wide| narrow.iter().any(|narrow| self.one_more() && wide == narrow))
    }

    fn clause<T: PartialEq>(
        &self,
        wide: &Clause<T>,
        narrow: &Clause<T>,
        covers: impl Fn(&T, &T) -> bool,
    ) -> bool {
        self.one_of(&wide.any, &narrow.any, covers) && self.all_in(&wide.not, &narrow.not)
    }

    fn source(&self, wide: &Source, narrow: &Source) -> bool {
        self.clause(&wide.principals, &narrow.principals, text)
            && self.clause(&wide.namespaces, &narrow.namespaces, text)
            && self.clause(&wide.service_accounts, &narrow.service_accounts, PartialEq::eq)
            && self.clause(&wide.ip_blocks, &narrow.ip_blocks, block)
            && self.clause(&wide.remote_ip_blocks, &narrow.remote_ip_blocks, block)
            && self.clause(&wide.request_principals, &narrow.request_principals, PartialEq::eq)
    }

    fn operation(&self, wide: &Operation, narrow: &Operation) -> bool {
        self.clause(&wide.hosts, &narrow.hosts, text)
            && self.clause(&wide.ports, &narrow.ports, PartialEq::eq)
            && self.clause(&wide.methods, &narrow.methods, text)
            && self.clause(&wide.paths, &narrow.paths, text)
    }
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
        let shadowed = |wide: &Rule, narrow: &Rule| shadowed(&[wide, narrow]) == [(1, 0)];
        let any = Rule::default();
        assert!(shadowed(&any, &rule(&["/a"], &[], &[])));
        assert!(shadowed(&rule(&["/a*"], &[], &[]), &rule(&["/ab", "/a/*"], &[], &["GET"])));
        assert!(shadowed(&rule(&["/a*"], &["/ab"], &[]), &rule(&["/a/*"], &["/ab", "/x"], &[])));
        assert!(!shadowed(&rule(&["/a*"], &["/ab"], &[]), &rule(&["/a*"], &[], &[])));
        assert!(!shadowed(&rule(&["/a/*"], &[], &[]), &rule(&["/a*"], &[], &[])));
        assert!(!shadowed(&rule(&["/a"], &[], &["GET"]), &rule(&["/a"], &[], &[])));
        assert!(!shadowed(&rule(&["/a"], &[], &[]), &any));
    }

    #[test]
    fn a_policy_is_compared_for_no_longer_than_its_size_allows() {
        // All rules have the same paths but for the last: it takes all comparisons to see that none covers another.
        let path = |rule: usize, path: usize| {
            StringMatch::parse(&if path < 511 { format!("/the/same/{path}") } else { format!("/own/{rule}") })
        };
        let rule = |rule: usize| {
            let paths = Clause { any: (0..512).map(|each| path(rule, each)).collect(), not: Vec::new() };
            let operation = Operation { paths, ..Operation::default() };
            Rule { operations: vec![operation], ..Rule::default() }
        };
        let rules: Vec<Rule> = (0..64).map(rule).collect();
        let rules: Vec<&Rule> = rules.iter().collect();
        let total: usize = rules.iter().map(|rule| values(rule)).sum();
        let shadows = Shadows { left: Cell::new(total * COMPARISONS_PER_VALUE) };
        let last = rules.len() - 1;
        // Whole it would be 131,000 comparisons for each of 2,016 pairs.
        assert_eq!((0..rules.len()).find_map(|index| shadows.first(&rules, index)), None);
        assert_eq!(shadows.left.get(), 0);
        // Then nothing is compared any more, not even what is the same.
        assert!(!shadows.covers(rules[last], rules[last]));
    }

    #[test]
    fn a_policy_of_a_thousand_rules_is_compared_in_whole() {
        let mut rules: Vec<Rule> =
            (0..1000).map(|number| rule(&[&format!("/{number}")], &[], &["GET"])).collect();
        rules.push(rule(&["/998"], &[], &["GET"]));
        let rules: Vec<&Rule> = rules.iter().collect();
        assert_eq!(shadowed(&rules), [(1000, 998)]);
    }
}
