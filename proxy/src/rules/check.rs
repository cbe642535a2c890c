//! Whether the kernel holds exactly the wanted rules, and if not, what is wrong, in words.
//!
//! Exactly: a rule too many is as wrong as one too few, for it may let traffic past the mesh. Rules of
//! other tables count only where they redirect connections themselves.

use super::kernel::{Held, Place};
use super::netlink::{CHAIN_TYPE, Expression, PRIORITY, TABLE, expressions, hook};
use super::table::{Chain, Table};
use super::{decode, text};
use crate::metrics::Direction;
use netlink_packet_netfilter::NetfilterProtoFamily;
use std::fmt;

/// Something that is not as it should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finding {
    /// There are no rules.
    NoTable,
    /// There is a table of our name, but for one family alone.
    OneFamily(&'static str),
    /// The table is switched off.
    Dormant,
    /// A chain is missing, or hangs elsewhere than it should.
    Chain(Direction),
    /// A rule is missing.
    RuleMissing(Direction, String),
    /// A rule is there that is not ours.
    RuleForeign(Direction, String),
    /// The rules are all there, in another order.
    RuleOrder(Direction),
    /// A chain is in our table that is not ours.
    ChainForeign(String),
    /// A set does not hold what it should.
    Set {
        /// Its name.
        name: String,
        /// What it should hold.
        wanted: String,
    },
    /// Another table redirects connections.
    Elsewhere {
        /// Family and name.
        table: String,
        /// In which chain.
        chain: String,
    },
}

/// Compares.
pub(super) fn compare(wanted: &Table, held: &Held) -> Vec<Finding> {
    let mut findings = ours(wanted, held);
    findings.extend(elsewhere(held));
    findings
}

/// Redirections that are not ours: two of them on one connection cannot both have their way.
pub(super) fn elsewhere(held: &Held) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in &held.rules {
        if rule.place != Place::ours() && decode::redirects(&rule.expressions) {
            let finding = Finding::Elsewhere {
                table: format!("{} {}", family(rule.place.family), rule.place.table.escape_debug()),
                chain: rule.chain.escape_debug().to_string(),
            };
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

fn ours(wanted: &Table, held: &Held) -> Vec<Finding> {
    let Some(table) = held.tables.iter().find(|table| table.place == Place::ours()) else {
        let other = held.tables.iter().find(|table| table.place.table == TABLE);
        return vec![other.map_or(Finding::NoTable, |other| Finding::OneFamily(family(other.place.family)))];
    };
    let mut findings = Vec::new();
    if table.dormant {
        findings.push(Finding::Dormant);
    }
    for chain in &wanted.chains {
        compare_chain(chain, held, &mut findings);
    }
    for chain in held.chains.iter().filter(|chain| chain.place == Place::ours()) {
        if !wanted.chains.iter().any(|own| own.direction.as_str() == chain.name) {
            findings.push(Finding::ChainForeign(chain.name.escape_debug().to_string()));
        }
    }
    for set in &wanted.sets {
        let ranges = held
            .sets
            .iter()
            .find(|candidate| candidate.name == set.name)
            .and_then(|candidate| decode::ranges(set.kind, &candidate.elements));
        if ranges.as_ref() != Some(&set.ranges) {
            findings.push(Finding::Set { name: set.name.clone(), wanted: text::elements(set) });
        }
    }
    findings
}

fn compare_chain(wanted: &Chain, held: &Held, findings: &mut Vec<Finding>) {
    let direction = wanted.direction;
    let right = held.chains.iter().any(|chain| {
        chain.place == Place::ours()
            && chain.name == direction.as_str()
            && chain.kind.as_deref() == Some(CHAIN_TYPE)
            && chain.hook == Some(hook(direction).into())
            && chain.priority == Some(PRIORITY)
    });
    if !right {
        findings.push(Finding::Chain(direction));
        return;
    }
    let mut left: Vec<&[Expression]> = held
        .rules
        .iter()
        .filter(|rule| rule.place == Place::ours() && rule.chain == direction.as_str())
        .map(|rule| &rule.expressions[..])
        .collect();
    let own: Vec<_> = wanted.rules.iter().map(|rule| expressions(direction, rule)).collect();
    if own == left {
        return;
    }
    let before = findings.len();
    for (rule, expressions) in wanted.rules.iter().zip(&own) {
        match left.iter().position(|candidate| candidate == expressions) {
            Some(index) => {
                left.remove(index);
            }
            None => findings.push(Finding::RuleMissing(direction, text::rule(rule, direction))),
        }
    }
    for foreign in left {
        findings.push(Finding::RuleForeign(direction, describe(foreign)));
    }
    if findings.len() == before {
        findings.push(Finding::RuleOrder(direction));
    }
}

/// A rule that is not ours, as far as it can be told: names from the kernel, escaped.
fn describe(expressions: &[Expression]) -> String {
    let words = expressions.iter().map(|one| match one {
        Expression::Meta(_) => "meta".to_owned(),
        Expression::Payload { .. } => "payload".to_owned(),
        Expression::Compare { equal, data } => format!("{}{data:02x?}", if *equal { "= " } else { "!= " }),
        Expression::Lookup { set, .. } => format!("@{}", set.escape_debug()),
        Expression::Value(value) => format!("{value:02x?}"),
        Expression::Return => "return".to_owned(),
        Expression::Redirect => "redirect".to_owned(),
        Expression::Other(name) => name.escape_debug().to_string(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn family(family: NetfilterProtoFamily) -> &'static str {
    match family {
        NetfilterProtoFamily::IPv4 => "ip",
        NetfilterProtoFamily::IPv6 => "ip6",
        NetfilterProtoFamily::Inet => "inet",
        NetfilterProtoFamily::ARP => "arp",
        NetfilterProtoFamily::Bridge => "bridge",
        NetfilterProtoFamily::NetDev => "netdev",
        _ => "of an unknown family",
    }
}

// === impl Finding ===

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTable => {
                write!(f, "there is no table inet {TABLE}: nothing is redirected, neither IPv4 nor IPv6")
            }
            Self::OneFamily(family) => write!(
                f,
                "the table {TABLE} is there as {family} alone: {} passes by",
                match *family {
                    "ip" => "IPv6",
                    "ip6" => "IPv4",
                    _ => "everything",
                }
            ),
            Self::Dormant => write!(f, "the table inet {TABLE} is dormant: nothing is redirected"),
            Self::Chain(direction) => write!(
                f,
                "{}: the chain is missing, or not at its hook: nothing {} is redirected",
                direction.as_str(),
                direction.as_str()
            ),
            Self::RuleMissing(direction, text) => write!(f, "{}: missing: {text}", direction.as_str()),
            Self::RuleForeign(direction, text) => write!(f, "{}: not ours: {text}", direction.as_str()),
            Self::RuleOrder(direction) => write!(f, "{}: the rules are out of order", direction.as_str()),
            Self::ChainForeign(name) => write!(f, "the chain {name} is in our table and not ours"),
            Self::Set { name, wanted } => write!(f, "the set {name} does not hold: {wanted}"),
            Self::Elsewhere { table, chain } => write!(
                f,
                "the table {table} redirects connections in its chain {chain}: another mesh or an earlier rule \
                 set; remove it first"
            ),
        }
    }
}
