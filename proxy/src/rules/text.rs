//! The wanted rules as text, in the syntax of `nft -f`: what would be installed, for people and for
//! machines that have `nft`. Loading it gives the same table as installing does.

use super::netlink::TABLE;
use super::settings::Bypass;
use super::table::{Chain, Family, Match, Rule, Set, SetKind, Side, Table, Verdict};
use crate::metrics::Direction;
use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The whole table.
pub fn render(table: &Table) -> String {
    let mut text = String::new();
    write(&mut text, table).expect("writing to a string must succeed");
    text
}

/// One rule, on one line.
pub fn rule(rule: &Rule, direction: Direction) -> String {
    let mut text = String::new();
    for one in &rule.matches {
        // `tcp dport` says it already, and nft would drop the repetition.
        if !(*one == Match::Tcp && rule.matches.iter().any(|other| matches!(other, Match::Port(_)))) {
            text.push_str(&condition(one, direction));
            text.push(' ');
        }
    }
    match rule.verdict {
        Verdict::Redirect(port) => text.push_str(&format!("redirect to :{port}")),
        Verdict::Pass => text.push_str("return"),
    }
    text
}

fn write(text: &mut String, table: &Table) -> fmt::Result {
    // Added, deleted, added: whatever was there is replaced, also when nothing was.
    writeln!(text, "add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{")?;
    for set in &table.sets {
        writeln!(
            text,
            "    set {} {{\n        type {}\n        flags interval\n        elements = {{ {} }}\n    }}",
            set.name,
            match set.kind {
                SetKind::Ipv4 => "ipv4_addr",
                SetKind::Ipv6 => "ipv6_addr",
                SetKind::Port => "inet_service",
            },
            elements(set)
        )?;
    }
    for chain in &table.chains {
        write_chain(text, chain)?;
    }
    writeln!(text, "}}")
}

fn write_chain(text: &mut String, chain: &Chain) -> fmt::Result {
    let hook = match chain.direction {
        Direction::Outbound => "output",
        Direction::Inbound => "prerouting",
    };
    writeln!(
        text,
        "    chain {} {{\n        type nat hook {hook} priority -100; policy accept;",
        chain.direction.as_str()
    )?;
    for one in &chain.rules {
        writeln!(text, "        {} comment \"{}\"", rule(one, chain.direction), one.origin)?;
    }
    writeln!(text, "    }}")
}

fn condition(one: &Match, direction: Direction) -> String {
    match one {
        Match::Tcp => "meta l4proto tcp".to_owned(),
        Match::Loopback => match direction {
            Direction::Outbound => "oifname \"lo\"".to_owned(),
            Direction::Inbound => "iifname \"lo\"".to_owned(),
        },
        Match::Bypass(Bypass::Mark(mark)) => format!("meta mark {mark:#x}"),
        Match::Bypass(Bypass::User(user)) => format!("meta skuid {user}"),
        Match::Bypass(Bypass::Group(group)) => format!("meta skgid {group}"),
        Match::Address { side, family, set, negated } => format!(
            "{} {} {}@{set}",
            match family {
                Family::Ipv4 => "ip",
                Family::Ipv6 => "ip6",
            },
            match side {
                Side::Source => "saddr",
                Side::Destination => "daddr",
            },
            if *negated { "!= " } else { "" }
        ),
        Match::Port(set) => format!("tcp dport @{set}"),
    }
}

/// The ranges of a set, as nft writes them.
pub fn elements(set: &Set) -> String {
    let value = |value: u128| match set.kind {
        SetKind::Ipv4 => Ipv4Addr::from(u32::try_from(value).unwrap_or(u32::MAX)).to_string(),
        SetKind::Ipv6 => Ipv6Addr::from(value).to_string(),
        SetKind::Port => value.to_string(),
    };
    let range = |(first, last): &(u128, u128)| {
        if first == last { value(*first) } else { format!("{}-{}", value(*first), value(*last)) }
    };
    set.ranges.iter().map(range).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::settings::RulesSettings;
    use super::super::wanted::RuleSet;
    use super::*;

    #[test]
    fn the_text_is_what_nft_reads() {
        let lines = ["exclude 10.0.0.0/8,2001:db8::/32 port 5432,8000-8080", "include inbound port 80"]
            .map(|line| line.parse().unwrap())
            .to_vec();
        let settings = RulesSettings { bypass: Bypass::Mark(0x77), lines, ..RulesSettings::default() };
        let text = render(&RuleSet::new(settings).unwrap().table());
        for said in [
            "elements = { 127.0.0.0-127.255.255.255 }",
            "elements = { 15006, 15020 }",
            "elements = { 2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff }",
            "elements = { 5432, 8000-8080 }",
            "type nat hook output priority -100; policy accept;",
            "meta l4proto tcp oifname \"lo\" meta mark 0x77 ip saddr @loopback_ipv4 ip daddr != @loopback_ipv4 \
             redirect to :15006 comment \"the proxy calls its own workload\"",
            "meta mark 0x77 return",
            "ip daddr @line1_ipv4 tcp dport @line1_ports return comment \"line 1\"",
            "ip6 saddr @line1_ipv6 tcp dport @line1_ports return comment \"line 1\"",
            "tcp dport @line2_ports redirect to :15006 comment \"line 2\"",
            "meta l4proto tcp redirect to :15001 comment \"no line matches\"",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
    }
}
