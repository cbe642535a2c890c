//! Whether this pod's connections are captured, path by path: what each outcome of a probe means.
//!
//! Pure. A path is a direction and a family. What was proven stays so only while nothing speaks
//! against it; what is not known never counts as proven.

use crate::metrics::Direction;
use std::fmt;
use std::net::IpAddr;

/// An address family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// One way in or out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Path {
    /// Which way.
    pub direction: Direction,
    /// By which protocol.
    pub family: Family,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// It arrived where it should: the path is captured.
    Arrived,
    /// The pod has no address of that family: there is no such path.
    Absent,
    /// It did not arrive, though the pod was reached: what takes this path passes the proxy by.
    PassedBy,
    /// Nothing can be said: no answer in time, nobody who could reach the pod.
    Unanswered,
    /// Nothing can be said: the control API, which would knock, cannot be asked.
    NobodyToAsk,
}

/// What is held of a path.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Standing {
    /// Nothing proves that it is captured.
    #[default]
    Unproven,
    /// This process has put the rules in place and read them back from the kernel: good enough where
    /// nobody can try, and as long as nobody has tried in vain.
    ReadBack,
    /// It is captured.
    Proven,
    /// There is no such path.
    Absent,
}

// === impl Family ===

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// An address's.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The word in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

// === impl Path ===

impl Path {
    /// All, outbound first.
    pub const ALL: [Self; 4] = [
        Self { direction: Direction::Outbound, family: Family::Ipv4 },
        Self { direction: Direction::Outbound, family: Family::Ipv6 },
        Self { direction: Direction::Inbound, family: Family::Ipv4 },
        Self { direction: Direction::Inbound, family: Family::Ipv6 },
    ];

    /// What `/ready` calls its proof while it is missing.
    pub const fn missing(self) -> &'static str {
        match (self.direction, self.family) {
            (Direction::Outbound, Family::Ipv4) => "capture_outbound_ipv4",
            (Direction::Outbound, Family::Ipv6) => "capture_outbound_ipv6",
            (Direction::Inbound, Family::Ipv4) => "capture_inbound_ipv4",
            (Direction::Inbound, Family::Ipv6) => "capture_inbound_ipv6",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.direction.as_str(), self.family.as_str())
    }
}

// === impl Outcome ===

impl Outcome {
    /// The word in labels and logs.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Absent => "absent",
            Self::PassedBy => "passed_by",
            Self::Unanswered => "unanswered",
            Self::NobodyToAsk => "nobody_to_ask",
        }
    }
}

// === impl Standing ===

impl Standing {
    /// What holds after a probe. `other`: what holds of the other direction of the same family: rules
    /// come and go whole, so an inbound proof that cannot be renewed stands while the outbound one
    /// does.
    #[must_use]
    pub(super) fn after(self, outcome: Outcome, other: Self) -> Self {
        match outcome {
            Outcome::Arrived => Self::Proven,
            Outcome::Absent => Self::Absent,
            Outcome::PassedBy => Self::Unproven,
            Outcome::Unanswered | Outcome::NobodyToAsk => match (self, other) {
                (Self::Proven | Self::ReadBack, Self::Proven) => Self::Proven,
                _ => Self::Unproven,
            },
        }
    }

    /// Whether nothing is missing.
    pub(super) fn holds(self) -> bool {
        matches!(self, Self::Proven | Self::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_arrives_proves() {
        let all = [Standing::Unproven, Standing::ReadBack, Standing::Proven, Standing::Absent];
        for before in all {
            for other in all {
                assert_eq!(before.after(Outcome::Arrived, other), Standing::Proven);
                assert_eq!(before.after(Outcome::Absent, other), Standing::Absent);
                assert_eq!(before.after(Outcome::PassedBy, other), Standing::Unproven);
                for unknown in [Outcome::Unanswered, Outcome::NobodyToAsk] {
                    let evidence = matches!(before, Standing::Proven | Standing::ReadBack);
                    let stands = evidence && other == Standing::Proven;
                    assert_eq!(before.after(unknown, other).holds(), stands, "{before:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_read_back_counts_for_nothing_once_a_probe_was_passed_by() {
        let standing = Standing::ReadBack.after(Outcome::PassedBy, Standing::Proven);
        assert!(!standing.after(Outcome::NobodyToAsk, Standing::Proven).holds());
        assert!(!Standing::ReadBack.holds());
    }

    #[test]
    fn every_path_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Path::ALL.iter().map(|path| path.missing()).collect();
        assert_eq!(names.len(), 4);
        assert!(names.contains("capture_inbound_ipv6"));
        assert_eq!(Family::of("::ffff:10.0.0.1".parse().unwrap()), Family::Ipv4);
    }
}
