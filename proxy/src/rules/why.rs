//! What the rules do to one connection, and which of them does it.
//!
//! It walks the same value that the kernel gets, so that an answer cannot differ from what happens.

use super::table::{Family, Match, Origin, Side, Table, Verdict, bits};
use super::wanted::RuleSet;
use crate::metrics::Direction;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A connection to ask about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Question {
    /// Whether the pod opens it or gets it.
    pub direction: Direction,
    /// Who calls.
    pub source: IpAddr,
    /// Who is called.
    pub destination: SocketAddr,
    /// Whether both ends are in this pod.
    pub loopback: bool,
    /// Whether the proxy itself opens it.
    pub by_proxy: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// The verdict.
    pub verdict: Verdict,
    /// Why there is the rule that decided.
    pub origin: Origin,
    /// The text of the line, if a line decided.
    pub line: Option<String>,
}

// === impl Question ===

impl Question {
    /// The application opens a connection. `local`: the address is one of this pod's.
    pub fn outbound(destination: SocketAddr, local: bool) -> Self {
        let unspecified = match destination {
            SocketAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        let loopback = local || destination.ip().is_loopback();
        Self { direction: Direction::Outbound, source: unspecified, destination, loopback, by_proxy: false }
    }

    /// Another pod, at `source`, calls a port of this one.
    pub fn inbound(source: IpAddr, port: u16, local: bool) -> Self {
        let loopback = local || source.is_loopback();
        let destination = SocketAddr::new(source, port);
        Self { direction: Direction::Inbound, source, destination, loopback, by_proxy: false }
    }

    fn meets(&self, one: &Match, table: &Table) -> bool {
        match one {
            Match::Tcp => true,
            Match::Loopback => self.loopback,
            Match::Bypass(_) => self.by_proxy,
            Match::Address { side, family, set, negated } => {
                let address = match side {
                    Side::Source => self.source,
                    Side::Destination => self.destination.ip(),
                };
                address.is_ipv4() == (*family == Family::Ipv4)
                    && table.set(set).is_some_and(|set| set.holds(bits(address))) != *negated
            }
            Match::Port(set) => table.set(set).is_some_and(|set| set.holds(self.destination.port().into())),
        }
    }
}

// === impl RuleSet ===

impl RuleSet {
    /// What becomes of a connection.
    pub fn why(&self, question: Question) -> Answer {
        let question = Question {
            source: question.source.to_canonical(),
            destination: SocketAddr::new(
                question.destination.ip().to_canonical(),
                question.destination.port(),
            ),
            ..question
        };
        let table = self.table();
        let chain = match question.direction {
            Direction::Outbound => &table.chains[0],
            Direction::Inbound => &table.chains[1],
        };
        let decided =
            chain.rules.iter().find(|rule| rule.matches.iter().all(|one| question.meets(one, &table)));
        // The last rule of a chain has no condition but TCP; the policy behind it is never reached.
        let (verdict, origin) =
            decided.map_or((Verdict::Pass, Origin::Default), |rule| (rule.verdict, rule.origin));
        let line = match origin {
            Origin::Line(number) => self.line(number).map(ToString::to_string),
            _ => None,
        };
        Answer { question, verdict, origin, line }
    }
}

// === impl Answer ===

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.question.direction {
            Direction::Outbound => write!(f, "outbound to {}: ", self.question.destination)?,
            Direction::Inbound => write!(
                f,
                "inbound from {} to port {}: ",
                self.question.source,
                self.question.destination.port()
            )?,
        }
        match self.verdict {
            Verdict::Redirect(port) => write!(f, "redirected to {port}")?,
            Verdict::Pass => f.write_str("passes by")?,
        }
        write!(f, " ({}", self.origin)?;
        if let Some(line) = &self.line {
            write!(f, ": {line}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{RulesSettings, TcpProbes};
    use super::*;

    fn rules(lines: &[&str]) -> RuleSet {
        let lines = lines.iter().map(|line| line.parse().unwrap()).collect();
        RuleSet::new(RulesSettings { lines, ..RulesSettings::default() }).unwrap()
    }

    fn out(rules: &RuleSet, address: &str) -> String {
        rules.why(Question::outbound(address.parse().unwrap(), false)).to_string()
    }

    fn from(rules: &RuleSet, source: &str, port: u16) -> String {
        rules.why(Question::inbound(source.parse().unwrap(), port, false)).to_string()
    }

    #[test]
    fn the_last_line_that_matches_decides() {
        let rules = rules(&["exclude 10.0.0.0/8", "include 10.1.0.0/16", "exclude outbound port 5432"]);
        assert_eq!(
            out(&rules, "10.0.0.5:80"),
            "outbound to 10.0.0.5:80: passes by (line 1: exclude 10.0.0.0/8)"
        );
        assert_eq!(
            out(&rules, "10.1.0.5:80"),
            "outbound to 10.1.0.5:80: redirected to 15001 (line 2: include 10.1.0.0/16)"
        );
        assert_eq!(
            out(&rules, "[2001:db8::1]:5432"),
            "outbound to [2001:db8::1]:5432: passes by (line 3: exclude outbound port 5432)"
        );
        assert_eq!(
            from(&rules, "10.0.0.5", 5432),
            "inbound from 10.0.0.5 to port 5432: passes by (line 1: exclude 10.0.0.0/8)"
        );
        assert_eq!(
            from(&rules, "192.0.2.1", 80),
            "inbound from 192.0.2.1 to port 80: redirected to 15006 (no line matches)"
        );
        // An address in its mapped form is the same address.
        assert!(out(&rules, "[::ffff:10.0.0.5]:80").contains("line 1"));
    }

    #[test]
    fn tcp_probes_of_nodes_pass_by_whatever_the_list_says() {
        let tcp_probes = TcpProbes { nodes: vec!["192.0.2.0/24".parse().unwrap()], ports: vec![5432] };
        let lines = vec!["include all".parse().unwrap()];
        let rules = RuleSet::new(RulesSettings { tcp_probes, lines, ..RulesSettings::default() }).unwrap();
        assert_eq!(
            from(&rules, "192.0.2.7", 5432),
            "inbound from 192.0.2.7 to port 5432: passes by (TCP probes of nodes: plaintext, past every policy)"
        );
        assert!(from(&rules, "192.0.2.7", 5433).contains("redirected to 15006 (line 1: include all)"));
        assert!(from(&rules, "192.0.3.7", 5432).contains("redirected to 15006 (line 1: include all)"));
        assert!(from(&rules, "2001:db8::1", 5432).contains("redirected to 15006"));
        assert!(out(&rules, "192.0.2.7:5432").contains("redirected to 15001"));
    }

    #[test]
    fn what_stays_in_the_pod_and_the_proxys_own_are_left_alone() {
        let rules = rules(&["include all"]);
        assert!(out(&rules, "127.0.0.1:80").contains("passes by (within this pod)"));
        assert!(out(&rules, "[::1]:80").contains("passes by (within this pod)"));
        assert!(from(&rules, "192.0.2.1", 15020).contains("passes by (the proxy's own ports)"));
        assert!(from(&rules, "192.0.2.1", 15006).contains("passes by (the proxy's own ports)"));
        // Loopback only: not the proxy's towards others.
        assert!(from(&rules, "192.0.2.1", 15000).contains("redirected to 15006"));
        let proxy = Question { by_proxy: true, ..Question::outbound("192.0.2.1:80".parse().unwrap(), false) };
        assert_eq!(rules.why(proxy).origin, Origin::Bypass);
        let own = Question { by_proxy: true, ..Question::outbound("10.9.9.9:80".parse().unwrap(), true) };
        assert_eq!(rules.why(own).origin, Origin::Bypass);
        let probe = Question { by_proxy: true, ..Question::outbound("[::1]:15002".parse().unwrap(), true) };
        assert_eq!(rules.why(probe).verdict, Verdict::Redirect(15001));
        assert!(out(&rules, "[::1]:15002").contains("within this pod"));
        let itself = Question { source: "127.0.0.1".parse().unwrap(), ..own };
        assert_eq!(rules.why(itself).verdict, Verdict::Redirect(15006));
    }
}
