//! The table of rules as one value, from which everything else is made: what the kernel gets
//! ([`super::netlink`]), what people read ([`super::text`]) and what `why` answers ([`super::why`]).
//!
//! Two chains, one for connections this pod opens and one for those it gets, each a sequence of rules
//! of which the first that matches decides. [`super::wanted`] makes it.

use super::settings::Bypass;
use crate::metrics::Direction;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// The table: its sets and its two chains.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    /// Named sets, which rules refer to.
    pub sets: Vec<Set>,
    /// Outbound first.
    pub chains: [Chain; 2],
}

/// A named set of ranges.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: SetKind,
    /// First and last of each range, ascending, neither overlapping nor touching.
    pub ranges: Vec<(u128, u128)>,
}

/// What a set holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetKind {
    /// IPv4 addresses.
    Ipv4,
    /// IPv6 addresses.
    Ipv6,
    /// Ports.
    Port,
}

/// Rules of one direction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chain {
    /// Which.
    pub direction: Direction,
    /// In order; the first whose matches all hold decides.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// Then.
    pub verdict: Verdict,
    /// Where it comes from.
    pub origin: Origin,
}

/// A condition on a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Match {
    /// It is TCP.
    Tcp,
    /// It stays within this network namespace.
    Loopback,
    /// It is the proxy's own.
    Bypass(Bypass),
    /// One of its addresses is, or is not, in a set.
    Address {
        /// Which of the two.
        side: Side,
        /// Of which family; the other family does not match.
        family: Family,
        /// The set's name.
        set: String,
        /// Whether it must not be in it.
        negated: bool,
    },
    /// The called port is in a set.
    Port(String),
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Who called.
    Source,
    /// Who is called.
    Destination,
}

/// An address family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// To the proxy, on this port.
    Redirect(u16),
    /// To where it was meant.
    Pass,
}

/// Why a rule is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The proxy looks whether the rules are in place.
    Probe,
    /// The proxy calls its own workload through the mesh.
    Itself,
    /// The proxy's own connections must not come back to it.
    Bypass,
    /// What stays in the pod is the pod's own affair.
    Loopback,
    /// Ports on which the proxy itself answers others.
    OwnPort,
    /// A node tries whether the application takes connections.
    TcpProbe,
    /// A line of the list, counted from 1.
    Line(usize),
    /// No line matches.
    Default,
}

// === impl Table ===

impl Table {
    /// The set of that name.
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }
}

// === impl Set ===

impl Set {
    /// A set of addresses.
    pub(super) fn addresses(name: &str, kind: SetKind, networks: &[IpNet]) -> Self {
        let ranges = networks.iter().map(|network| (bits(network.network()), bits(network.broadcast())));
        Self { name: name.to_owned(), kind, ranges: merged(ranges.collect()) }
    }

    /// A set of ports.
    pub(super) fn ports(name: &str, ranges: Vec<(u16, u16)>) -> Self {
        let ranges = ranges.into_iter().map(|(first, last)| (first.into(), last.into())).collect();
        Self { name: name.to_owned(), kind: SetKind::Port, ranges: merged(ranges) }
    }

    /// Whether a value is in one of the ranges.
    pub fn holds(&self, value: u128) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&value))
    }
}

// === impl SetKind ===

impl SetKind {
    /// The highest value.
    pub const fn last(self) -> u128 {
        match self {
            Self::Ipv4 => u32::MAX as u128,
            Self::Ipv6 => u128::MAX,
            Self::Port => u16::MAX as u128,
        }
    }
}

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe => f.write_str("the proxy tries its rules"),
            Self::Itself => f.write_str("the proxy calls its own workload"),
            Self::Bypass => f.write_str("the proxy's own connections"),
            Self::Loopback => f.write_str("within this pod"),
            Self::OwnPort => f.write_str("the proxy's own ports"),
            Self::TcpProbe => f.write_str("TCP probes of nodes: plaintext, past every policy"),
            Self::Line(number) => write!(f, "line {number}"),
            Self::Default => f.write_str("no line matches"),
        }
    }
}

/// An address as a number.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The kernel refuses ranges that overlap, and reads two that touch as one.
pub(super) fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::merged;

    #[test]
    fn ranges_that_overlap_or_touch_are_one() {
        assert_eq!(
            merged(vec![(5, 6), (1, 2), (3, 3), (6, 9), (20, 30), (22, 23)]),
            [(1, 3), (5, 9), (20, 30)]
        );
        assert_eq!(merged(vec![(0, u128::MAX), (7, 8)]), [(0, u128::MAX)]);
    }
}
