//! One line of the user's list: which connections the mesh takes, which it leaves alone.
//!
//! `exclude port 5432`, `include 10.0.0.0/8 port 80,8000-8080`, `exclude inbound 192.0.2.0/24`. The
//! address is always the other side's and the port always the called one, so that a line reads the
//! same in both directions. It refuses what has more than one reading; it decides nothing by itself.

use crate::metrics::Direction;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Ports and CIDRs one line may name. A line is read by people; more is a mistake.
const PARTS_MAX: usize = 64;

/// What becomes of a connection that a line matches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// It goes through the mesh.
    Include,
    /// It passes by.
    Exclude,
}

/// A line of the list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// What it does.
    pub effect: Effect,
    /// In which direction; `None`: in both.
    pub direction: Option<Direction>,
    /// The other side's address is in one of these; empty: any.
    pub networks: Vec<IpNet>,
    /// The called port is in one of these; empty: any.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// Why a line cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct LineError(String);

// === impl Line ===

impl Line {
    /// Whether it applies in this direction.
    pub fn applies(&self, direction: Direction) -> bool {
        self.direction.is_none_or(|only| only == direction)
    }
}

impl FromStr for Line {
    type Err = LineError;

    fn from_str(text: &str) -> Result<Self, LineError> {
        let mut words = text.split_whitespace().peekable();
        let effect = match words.next() {
            Some("include") => Effect::Include,
            Some("exclude") => Effect::Exclude,
            other => {
                return Err(LineError(format!(
                    "a line begins with include or exclude, not with {:?}; for instance: exclude port 5432",
                    other.unwrap_or_default()
                )));
            }
        };
        let direction = match words.peek() {
            Some(&"outbound") => Some(Direction::Outbound),
            Some(&"inbound") => Some(Direction::Inbound),
            _ => None,
        };
        if direction.is_some() {
            words.next();
        }
        let mut line = Self { effect, direction, networks: Vec::new(), ports: Vec::new() };
        let mut all = false;
        while let Some(word) = words.next() {
            match word {
                "all" if !all => all = true,
                "port" if line.ports.is_empty() => {
                    let list = words
                        .next()
                        .ok_or_else(|| LineError("port is followed by a number or 8000-8080".to_owned()))?;
                    line.ports = list.split(',').map(port_range).collect::<Result<_, _>>()?;
                }
                "port" | "all" | "include" | "exclude" | "inbound" | "outbound" => {
                    return Err(LineError(format!(
                        "{word:?} comes at the wrong place; a line is: include|exclude [inbound|outbound] \
                         [CIDR,...] [port NUMBER,...]"
                    )));
                }
                _ if line.networks.is_empty() && line.ports.is_empty() => {
                    line.networks = word.split(',').map(network).collect::<Result<_, _>>()?;
                }
                _ => {
                    return Err(LineError(format!(
                        "{word:?} is one word too many; separate CIDRs and ports with commas and no spaces"
                    )));
                }
            }
        }
        if line.networks.is_empty() && line.ports.is_empty() && !all {
            return Err(LineError(
                "the line names neither a CIDR nor a port; write `all` for every connection".to_owned(),
            ));
        }
        if all && !line.networks.is_empty() {
            return Err(LineError("`all` and a CIDR exclude each other".to_owned()));
        }
        if line.networks.len() > PARTS_MAX || line.ports.len() > PARTS_MAX {
            return Err(LineError(format!("more than {PARTS_MAX} CIDRs or ports in one line; use several")));
        }
        Ok(line)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.effect {
            Effect::Include => "include",
            Effect::Exclude => "exclude",
        })?;
        if let Some(direction) = self.direction {
            write!(f, " {}", direction.as_str())?;
        }
        for (index, network) in self.networks.iter().enumerate() {
            write!(f, "{}{network}", if index == 0 { " " } else { "," })?;
        }
        for (index, ports) in self.ports.iter().enumerate() {
            f.write_str(if index == 0 { " port " } else { "," })?;
            write!(f, "{}", ports.start())?;
            if ports.end() != ports.start() {
                write!(f, "-{}", ports.end())?;
            }
        }
        if self.networks.is_empty() && self.ports.is_empty() {
            f.write_str(" all")?;
        }
        Ok(())
    }
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, LineError> {
    let wrong = || LineError(format!("{text:?} is no port; write a number from 1 to 65535, or 8000-8080"));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong);
    let range = match text.split_once('-') {
        Some((first, last)) => port(first)?..=port(last)?,
        None => port(text)?..=port(text)?,
    };
    if range.is_empty() { Err(wrong()) } else { Ok(range) }
}

pub(super) fn network(text: &str) -> Result<IpNet, LineError> {
    let network: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().map_err(|_| {
            LineError(format!("{text:?} is no address; write 10.0.0.0/8, 2001:db8::/32 or one address"))
        })?,
    };
    if let IpAddr::V6(address) = network.network()
        && address.to_ipv4_mapped().is_some()
        && network.prefix_len() >= 96
    {
        return Err(LineError(format!("{text:?} is an IPv4 address in IPv6 clothes; write it as IPv4")));
    }
    if network.trunc() != network {
        return Err(LineError(format!(
            "{text:?} has bits behind its prefix; {} would be the whole network",
            network.trunc()
        )));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_it_is_written() {
        for text in [
            "exclude port 5432",
            "include all",
            "exclude inbound all",
            "include outbound 10.0.0.0/8 port 80,8000-8080",
            "exclude 10.0.0.0/8,2001:db8::/32",
            "exclude inbound 192.0.2.7/32 port 8080",
            "exclude ::/0",
        ] {
            assert_eq!(text.parse::<Line>().unwrap().to_string(), text);
        }
        assert_eq!("  exclude   10.0.0.1  ".parse::<Line>().unwrap().to_string(), "exclude 10.0.0.1/32");
        assert_eq!("exclude all port 22".parse::<Line>().unwrap().to_string(), "exclude port 22");
    }

    #[test]
    fn a_line_with_two_readings_is_refused_with_what_to_write() {
        for (text, said) in [
            ("", "begins with include or exclude"),
            ("allow port 1", "not with \"allow\""),
            ("exclude", "neither a CIDR nor a port"),
            ("exclude port", "followed by a number"),
            ("exclude port 0", "no port"),
            ("exclude port 90-80", "no port"),
            ("exclude port 70000", "no port"),
            ("exclude 10.0.0.1/8", "10.0.0.0/8 would be"),
            ("exclude 10.0.0.0/33", "is no address"),
            ("exclude example.org", "is no address"),
            ("exclude ::ffff:10.0.0.0/104", "as IPv4"),
            ("exclude 10.0.0.0/8 10.1.0.0/16", "one word too many"),
            ("exclude port 80 port 81", "wrong place"),
            ("exclude port 80 10.0.0.0/8", "one word too many"),
            ("exclude all 10.0.0.0/8", "exclude each other"),
            ("exclude 10.0.0.0/8 inbound", "wrong place"),
        ] {
            let error = text.parse::<Line>().expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
