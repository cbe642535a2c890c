//! The wanted rules: the settings, checked, and the table made of them.
//!
//! It touches no kernel, and refuses settings under which the proxy would call itself.

use super::line::{Effect, Line};
use super::settings::{Bypass, RulesSettings, TcpProbes};
use super::table::{Chain, Family, Match, Origin, Rule, Set, SetKind, Side, Table, Verdict};
use crate::metrics::Direction;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_model::mesh::NODE_PREFIX_MIN;

/// Lines a list may have. Two directions of three rules each at about 350 bytes stay within what one
/// netlink message may carry.
pub const LINES_MAX: usize = 128;

/// CIDRs and port ranges of all lines together, for the same reason.
pub const PARTS_MAX: usize = 1024;

/// Where the proxy, and it alone, calls loopback to see that its rules are in place: it arrives at the
/// outbound port. And where another machine calls this pod for the same: it arrives at the inbound
/// port, whatever the list says. Nothing listens here, nothing need be routed, and both families can
/// be tried.
pub const PROBE_PORT: u16 = weft_model::workload::PROBE_PORT;

/// The set of the ports of TCP probes.
const TCP_PROBE_PORTS: &str = "tcp_probe_ports";

/// The checked settings of the redirection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleSet {
    settings: RulesSettings,
}

/// Why settings cannot become rules.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct RuleSetError(String);

// === impl RuleSet ===

impl RuleSet {
    /// Checks that the settings make sense together.
    pub fn new(settings: RulesSettings) -> Result<Self, RuleSetError> {
        let (outbound, inbound) = (settings.outbound_port, settings.inbound_port);
        if outbound == 0 || inbound == 0 || settings.own_ports.contains(&0) {
            return Err(RuleSetError("port 0 is no port to redirect to or to leave out".to_owned()));
        }
        if outbound == inbound {
            return Err(RuleSetError(format!(
                "outboundPort and inboundPort are both {outbound}: the proxy could not tell what the application \
                 calls from what it is called with; choose two ports"
            )));
        }
        if settings.own_ports.contains(&outbound) || settings.own_ports.contains(&inbound) {
            return Err(RuleSetError(format!(
                "ownPorts: connections are redirected to {outbound} and {inbound}, so neither can be a port on \
                 which the proxy serves metrics"
            )));
        }
        if [outbound, inbound].contains(&PROBE_PORT) || settings.own_ports.contains(&PROBE_PORT) {
            return Err(RuleSetError(format!(
                "port {PROBE_PORT} is what the proxy tries its rules with; choose another"
            )));
        }
        if settings.bypass == Bypass::Mark(0) {
            return Err(RuleSetError(
                "bypass: every connection without a mark has mark 0, so all would pass by; choose another"
                    .to_owned(),
            ));
        }
        check_tcp_probes(&settings)?;
        let parts: usize = settings.lines.iter().map(|line| line.networks.len() + line.ports.len()).sum();
        let parts = parts + settings.tcp_probes.nodes.len() + settings.tcp_probes.ports.len();
        if settings.lines.len() > LINES_MAX || parts > PARTS_MAX {
            return Err(RuleSetError(format!(
                "the list has {} lines with {parts} CIDRs and ports; at most {LINES_MAX} and {PARTS_MAX} are \
                 supported",
                settings.lines.len()
            )));
        }
        Ok(Self { settings })
    }

    /// What it was made from.
    pub fn settings(&self) -> &RulesSettings {
        &self.settings
    }

    /// The list's line with this number, counted from 1.
    pub fn line(&self, number: usize) -> Option<&Line> {
        number.checked_sub(1).and_then(|index| self.settings.lines.get(index))
    }

    /// The wanted table.
    pub fn table(&self) -> Table {
        let mut sets = vec![
            Set::addresses("loopback_ipv4", SetKind::Ipv4, &[loopback_ipv4()]),
            Set::addresses("loopback_ipv6", SetKind::Ipv6, &[IpAddr::V6(Ipv6Addr::LOCALHOST).into()]),
            self.own_ports(),
            Set::ports("probe_port", vec![(PROBE_PORT, PROBE_PORT)]),
        ];
        sets.extend(self.tcp_probe_sets());
        for (index, line) in self.settings.lines.iter().enumerate() {
            sets.extend(line_sets(index + 1, line));
        }
        Table { sets, chains: [self.outbound(), self.inbound()] }
    }

    /// Only ports on which the proxy listens beyond loopback. On 15000 and 15001 it does not, and an
    /// application that took such a port on the pod's address must not be reachable past the mesh.
    fn own_ports(&self) -> Set {
        let mut ranges: Vec<_> = self.settings.own_ports.iter().map(|port| (*port, *port)).collect();
        ranges.push((self.settings.inbound_port, self.settings.inbound_port));
        Set::ports("own_ports", ranges)
    }

    fn outbound(&self) -> Chain {
        let bypass = Match::Bypass(self.settings.bypass);
        let mut rules = Vec::new();
        for (family, set) in [(Family::Ipv4, "loopback_ipv4"), (Family::Ipv6, "loopback_ipv6")] {
            let set = set.to_owned();
            rules.push(Rule {
                matches: vec![
                    Match::Loopback,
                    bypass.clone(),
                    Match::Address { side: Side::Destination, family, set, negated: false },
                    Match::Tcp,
                    Match::Port("probe_port".to_owned()),
                ],
                verdict: Verdict::Redirect(self.settings.outbound_port),
                origin: Origin::Probe,
            });
        }
        // The proxy, calling its own workload as a peer would, binds a loopback address; its other leg,
        // to the application, does not. This is how the two are told apart without a second mark.
        for (family, set) in [(Family::Ipv4, "loopback_ipv4"), (Family::Ipv6, "loopback_ipv6")] {
            let address = |side, negated| Match::Address { side, family, set: set.to_owned(), negated };
            rules.push(Rule {
                matches: vec![
                    Match::Tcp,
                    Match::Loopback,
                    bypass.clone(),
                    address(Side::Source, false),
                    address(Side::Destination, true),
                ],
                verdict: Verdict::Redirect(self.settings.inbound_port),
                origin: Origin::Itself,
            });
        }
        rules.push(Rule { matches: vec![bypass], verdict: Verdict::Pass, origin: Origin::Bypass });
        rules.push(Rule { matches: vec![Match::Loopback], verdict: Verdict::Pass, origin: Origin::Loopback });
        self.list(Direction::Outbound, self.settings.outbound_port, &mut rules);
        Chain { direction: Direction::Outbound, rules }
    }

    fn inbound(&self) -> Chain {
        let mut rules = vec![
            Rule { matches: vec![Match::Loopback], verdict: Verdict::Pass, origin: Origin::Loopback },
            Rule {
                matches: vec![Match::Tcp, Match::Port("probe_port".to_owned())],
                verdict: Verdict::Redirect(self.settings.inbound_port),
                origin: Origin::Probe,
            },
            Rule {
                matches: vec![Match::Tcp, Match::Port("own_ports".to_owned())],
                verdict: Verdict::Pass,
                origin: Origin::OwnPort,
            },
        ];
        // Before the list, which is about what the mesh takes: a probe is not meant for the mesh at all.
        for set in self.tcp_probe_sets() {
            let family = match set.kind {
                SetKind::Ipv4 => Family::Ipv4,
                SetKind::Ipv6 => Family::Ipv6,
                SetKind::Port => continue,
            };
            rules.push(Rule {
                matches: vec![
                    Match::Address { side: Side::Source, family, set: set.name, negated: false },
                    Match::Tcp,
                    Match::Port(TCP_PROBE_PORTS.to_owned()),
                ],
                verdict: Verdict::Pass,
                origin: Origin::TcpProbe,
            });
        }
        self.list(Direction::Inbound, self.settings.inbound_port, &mut rules);
        Chain { direction: Direction::Inbound, rules }
    }

    /// None at all where there are no TCP probes.
    fn tcp_probe_sets(&self) -> Vec<Set> {
        let probes = &self.settings.tcp_probes;
        if probes.ports.is_empty() {
            return Vec::new();
        }
        let mut sets = networks_sets(&probes.nodes, |kind| match kind {
            SetKind::Ipv4 => "tcp_probe_nodes_ipv4".to_owned(),
            SetKind::Ipv6 | SetKind::Port => "tcp_probe_nodes_ipv6".to_owned(),
        });
        sets.push(Set::ports(TCP_PROBE_PORTS, probes.ports.iter().map(|port| (*port, *port)).collect()));
        sets
    }

    /// The kernel takes the first rule that matches, users mean the last line: so they stand in
    /// reverse, and what no line names comes at the end.
    fn list(&self, direction: Direction, port: u16, rules: &mut Vec<Rule>) {
        // Inbound the destination is always this pod, so a line's address can only mean the caller.
        let side = match direction {
            Direction::Outbound => Side::Destination,
            Direction::Inbound => Side::Source,
        };
        for (index, line) in self.settings.lines.iter().enumerate().rev() {
            if !line.applies(direction) {
                continue;
            }
            let number = index + 1;
            let verdict = match line.effect {
                Effect::Include => Verdict::Redirect(port),
                Effect::Exclude => Verdict::Pass,
            };
            let families: Vec<Option<SetKind>> = if line.networks.is_empty() {
                vec![None]
            } else {
                let sets = line_sets(number, line);
                sets.iter().map(|set| set.kind).filter(|kind| *kind != SetKind::Port).map(Some).collect()
            };
            for kind in families {
                let mut matches = Vec::new();
                if let Some(kind) = kind {
                    let family = if kind == SetKind::Ipv4 { Family::Ipv4 } else { Family::Ipv6 };
                    let set = set_name(number, kind);
                    matches.push(Match::Address { side, family, set, negated: false });
                }
                if line.ports.is_empty() {
                    matches.insert(0, Match::Tcp);
                } else {
                    // In the order in which `nft` makes them of the text.
                    matches.extend([Match::Tcp, Match::Port(set_name(number, SetKind::Port))]);
                }
                rules.push(Rule { matches, verdict, origin: Origin::Line(number) });
            }
        }
        rules.push(Rule {
            matches: vec![Match::Tcp],
            verdict: Verdict::Redirect(port),
            origin: Origin::Default,
        });
    }
}

fn check_tcp_probes(settings: &RulesSettings) -> Result<(), RuleSetError> {
    let TcpProbes { nodes, ports } = &settings.tcp_probes;
    if nodes.is_empty() != ports.is_empty() {
        return Err(RuleSetError(
            "tcpProbes: `nodes` and `ports` belong together: from where, and to which ports".to_owned(),
        ));
    }
    let own = |port: &&u16| {
        **port == 0
            || **port == settings.inbound_port
            || **port == settings.outbound_port
            || settings.own_ports.contains(*port)
    };
    if let Some(port) = ports.iter().find(own) {
        return Err(RuleSetError(format!("tcpProbes: {port} is no port of an application")));
    }
    if let Some(node) = nodes.iter().find(|node| node.prefix_len() < NODE_PREFIX_MIN) {
        return Err(RuleSetError(format!(
            "tcpProbes: {node} is no block of nodes, it holds far too many addresses; the shortest prefix is \
             /{NODE_PREFIX_MIN}"
        )));
    }
    Ok(())
}

fn loopback_ipv4() -> IpNet {
    IpNet::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8).expect("8 must be a prefix length of IPv4")
}

fn set_name(number: usize, kind: SetKind) -> String {
    let suffix = match kind {
        SetKind::Ipv4 => "ipv4",
        SetKind::Ipv6 => "ipv6",
        SetKind::Port => "ports",
    };
    format!("line{number}_{suffix}")
}

fn networks_sets(networks: &[IpNet], name: impl Fn(SetKind) -> String) -> Vec<Set> {
    let mut sets = Vec::new();
    for (kind, ipv4) in [(SetKind::Ipv4, true), (SetKind::Ipv6, false)] {
        let of_kind: Vec<_> =
            networks.iter().filter(|network| network.network().is_ipv4() == ipv4).copied().collect();
        if !of_kind.is_empty() {
            sets.push(Set::addresses(&name(kind), kind, &of_kind));
        }
    }
    sets
}

fn line_sets(number: usize, line: &Line) -> Vec<Set> {
    let mut sets = networks_sets(&line.networks, |kind| set_name(number, kind));
    if !line.ports.is_empty() {
        let ranges = line.ports.iter().map(|range| (*range.start(), *range.end())).collect();
        sets.push(Set::ports(&set_name(number, SetKind::Port), ranges));
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule_set(lines: &[&str]) -> RuleSet {
        let lines = lines.iter().map(|line| line.parse().unwrap()).collect();
        RuleSet::new(RulesSettings { lines, ..RulesSettings::default() }).unwrap()
    }

    #[test]
    fn lines_stand_in_reverse_before_the_default() {
        let table = rule_set(&["exclude 10.0.0.0/8,fd00::/8", "include inbound port 80"]).table();
        let origins = |chain: &Chain| chain.rules.iter().map(|rule| rule.origin).collect::<Vec<_>>();
        use Origin::{Bypass, Default, Itself, Line, Loopback, OwnPort, Probe};
        assert_eq!(
            origins(&table.chains[0]),
            [Probe, Probe, Itself, Itself, Bypass, Loopback, Line(1), Line(1), Default]
        );
        assert_eq!(origins(&table.chains[1]), [Loopback, Probe, OwnPort, Line(2), Line(1), Line(1), Default]);
        assert_eq!(
            table.sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>(),
            [
                "loopback_ipv4",
                "loopback_ipv6",
                "own_ports",
                "probe_port",
                "line1_ipv4",
                "line1_ipv6",
                "line2_ports"
            ]
        );
    }

    #[test]
    fn settings_under_which_the_proxy_would_call_itself_are_refused() {
        let refused = |settings| RuleSet::new(settings).unwrap_err().to_string();
        let settings = RulesSettings::default;
        assert!(refused(RulesSettings { inbound_port: 15001, ..settings() }).contains("both 15001"));
        assert!(refused(RulesSettings { inbound_port: 0, ..settings() }).contains("port 0"));
        assert!(refused(RulesSettings { own_ports: vec![15006], ..settings() }).contains("ownPorts"));
        assert!(refused(RulesSettings { bypass: Bypass::Mark(0), ..settings() }).contains("mark 0"));
        let probes = |nodes: &[&str], ports: &[u16]| {
            let nodes = nodes.iter().map(|node| node.parse().unwrap()).collect();
            refused(RulesSettings { tcp_probes: TcpProbes { nodes, ports: ports.to_vec() }, ..settings() })
        };
        assert!(probes(&[], &[5432]).contains("belong together"));
        assert!(probes(&["192.0.2.0/24"], &[]).contains("belong together"));
        assert!(probes(&["192.0.2.0/24"], &[5432, 15006]).contains("15006 is no port of an application"));
        assert!(probes(&["0.0.0.0/0"], &[5432]).contains("far too many"));
        let line: Line = "exclude port 1".parse().unwrap();
        let lines = vec![line; LINES_MAX + 1];
        assert!(refused(RulesSettings { lines, ..settings() }).contains("at most 128"));
    }
}
