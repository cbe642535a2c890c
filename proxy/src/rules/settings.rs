//! What the user decides about the redirection: flags and environment over a section of the file.
//!
//! The same settings serve the proxy that installs its own rules and the init container that installs
//! them for it. They say nothing about where the proxy listens beyond the two ports.

use super::line::{Line, network};
use ipnet::IpNet;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// Where what the application calls goes.
pub const DEFAULT_OUTBOUND_PORT: u16 = 15001;
/// Where what others call goes.
pub const DEFAULT_INBOUND_PORT: u16 = 15006;
/// Metrics and readiness: Prometheus and the kubelet reach them past the mesh.
pub const DEFAULT_OWN_PORT: u16 = 15020;
/// The user the sidecar runs under: it needs no capability, and nothing else in a pod uses it.
pub const DEFAULT_BYPASS: Bypass = Bypass::User(2102);

/// How the proxy's own connections are known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bypass {
    /// By a mark on the socket, which needs NET_ADMIN or NET_RAW to set.
    Mark(u32),
    /// By the user that opened the socket.
    User(u32),
    /// By the group that opened the socket.
    Group(u32),
}

/// The redirection, as asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RulesSettings {
    /// Where outbound connections go, on loopback.
    pub outbound_port: u16,
    /// Where inbound connections go.
    pub inbound_port: u16,
    /// Ports on which the proxy itself answers others: never redirected.
    pub own_ports: Vec<u16>,
    /// How the proxy's own connections are known.
    pub bypass: Bypass,
    /// What the mesh takes and leaves; the last line that matches decides.
    pub lines: Vec<Line>,
    /// TCP probes, which pass by the proxy.
    pub tcp_probes: TcpProbes,
}

/// TCP probes of the kubelet. One that met the proxy would succeed whatever the application does, so
/// connections from nodes to these ports reach the application, in plaintext and past every policy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TcpProbes {
    /// Where the kubelets are.
    pub nodes: Vec<IpNet>,
    /// What they probe.
    pub ports: Vec<u16>,
}

/// Flags of every `rules` command; each has an environment variable.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RulesFlags {
    /// Where the proxy takes the pod's own calls [default: 15001].
    #[arg(long, env = "WEFT_RULES_OUTBOUND_PORT", value_name = "PORT")]
    pub outbound_port: Option<u16>,
    /// Where the proxy takes calls to the pod [default: 15006].
    #[arg(long, env = "WEFT_RULES_INBOUND_PORT", value_name = "PORT")]
    pub inbound_port: Option<u16>,
    /// A port of the proxy that others reach, never redirected (repeatable) [default: 15020].
    #[arg(long, env = "WEFT_RULES_OWN_PORT", value_delimiter = ',', value_name = "PORT")]
    pub own_port: Vec<u16>,
    /// How the proxy's own connections are known: mark:NUMBER, uid:NUMBER or gid:NUMBER
    /// [default: uid:2102].
    #[arg(long, env = "WEFT_RULES_BYPASS", value_name = "HOW")]
    pub bypass: Option<Bypass>,
    /// A line of the list (repeatable; the last that matches decides): `exclude port 5432`,
    /// `include outbound 10.0.0.0/8 port 80,8000-8080`.
    /// Where TCP probes come from, an address or a block (repeatable); needs --tcp-probe-port.
    #[arg(long, env = "WEFT_RULES_TCP_PROBE_NODES", value_delimiter = ',', value_name = "CIDR",
        value_parser = node)]
    pub tcp_probe_node: Vec<IpNet>,
    /// A port that nodes probe with a bare connection (repeatable): from nodes it is reached in plaintext
    /// and past every policy.
    #[arg(long, env = "WEFT_RULES_TCP_PROBE_PORTS", value_delimiter = ',', value_name = "PORT")]
    pub tcp_probe_port: Vec<u16>,
    #[arg(long = "line", env = "WEFT_RULES_LINES", value_delimiter = ';', value_name = "LINE")]
    pub lines: Vec<Line>,
}

/// The section `rules` of the settings file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RulesFile {
    /// See [`RulesSettings::outbound_port`].
    pub outbound_port: Option<u16>,
    /// See [`RulesSettings::inbound_port`].
    pub inbound_port: Option<u16>,
    /// See [`RulesSettings::own_ports`].
    pub own_ports: Option<Vec<u16>>,
    /// See [`RulesSettings::bypass`].
    #[serde(deserialize_with = "parsed")]
    pub bypass: Option<Bypass>,
    /// See [`RulesSettings::lines`].
    #[serde(deserialize_with = "parsed_list")]
    pub lines: Vec<Line>,
    /// See [`RulesSettings::tcp_probes`].
    pub tcp_probes: TcpProbesFile,
}

/// See [`TcpProbes`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TcpProbesFile {
    #[serde(deserialize_with = "nodes")]
    nodes: Vec<IpNet>,
    ports: Vec<u16>,
}

// === impl Bypass ===

impl FromStr for Bypass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not mark:NUMBER, uid:NUMBER or gid:NUMBER, for instance uid:2102");
        let (kind, number) = text.split_once(':').ok_or_else(wrong)?;
        let number = match number.strip_prefix("0x") {
            Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
            None => number.parse(),
        }
        .map_err(|_| wrong())?;
        match kind {
            "mark" => Ok(Self::Mark(number)),
            "uid" => Ok(Self::User(number)),
            "gid" => Ok(Self::Group(number)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(mark) => write!(f, "mark:{mark:#x}"),
            Self::User(user) => write!(f, "uid:{user}"),
            Self::Group(group) => write!(f, "gid:{group}"),
        }
    }
}

// === impl RulesSettings ===

impl Default for RulesSettings {
    fn default() -> Self {
        Self {
            outbound_port: DEFAULT_OUTBOUND_PORT,
            inbound_port: DEFAULT_INBOUND_PORT,
            own_ports: vec![DEFAULT_OWN_PORT],
            bypass: DEFAULT_BYPASS,
            lines: Vec::new(),
            tcp_probes: TcpProbes::default(),
        }
    }
}

impl RulesSettings {
    /// Lays flags over the file's section, and both over the defaults.
    pub fn join(flags: RulesFlags, file: RulesFile) -> Self {
        let or = |flags: Vec<u16>, file: Option<Vec<u16>>| if flags.is_empty() { file } else { Some(flags) };
        Self {
            outbound_port: flags.outbound_port.or(file.outbound_port).unwrap_or(DEFAULT_OUTBOUND_PORT),
            inbound_port: flags.inbound_port.or(file.inbound_port).unwrap_or(DEFAULT_INBOUND_PORT),
            own_ports: or(flags.own_port, file.own_ports).unwrap_or_else(|| vec![DEFAULT_OWN_PORT]),
            bypass: flags.bypass.or(file.bypass).unwrap_or(DEFAULT_BYPASS),
            lines: if flags.lines.is_empty() { file.lines } else { flags.lines },
            tcp_probes: TcpProbes {
                nodes: either(flags.tcp_probe_node, file.tcp_probes.nodes),
                ports: either(flags.tcp_probe_port, file.tcp_probes.ports),
            },
        }
    }
}

fn either<T>(flags: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flags.is_empty() { file } else { flags }
}

fn node(text: &str) -> Result<IpNet, String> {
    network(text).map_err(|error| error.to_string())
}

fn nodes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| node(text).map_err(serde::de::Error::custom)).collect()
}

fn parsed<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Bypass>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn parsed_list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Line>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts
        .iter()
        .map(|text| text.parse().map_err(|error| serde::de::Error::custom(format_args!("{text:?}: {error}"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bypass_reads_as_it_is_written() {
        for text in ["mark:0x77", "uid:2102", "gid:0"] {
            assert_eq!(text.parse::<Bypass>().unwrap().to_string(), text);
        }
        assert_eq!("mark:119".parse::<Bypass>(), Ok(Bypass::Mark(0x77)));
        for text in ["2102", "user:1", "uid:-1", "uid:", "mark:0xg"] {
            assert!(text.parse::<Bypass>().unwrap_err().contains("uid:2102"), "{text}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let file: RulesFile = serde_yaml::from_str(
            "outboundPort: 1\nbypass: gid:7\nlines:\n- exclude port 5432\n- include all\n",
        )
        .unwrap();
        let flags = RulesFlags { bypass: Some(Bypass::User(3)), ..RulesFlags::default() };
        let joined = RulesSettings::join(flags, file);
        assert_eq!((joined.outbound_port, joined.inbound_port), (1, 15006));
        assert_eq!((joined.bypass, joined.lines.len()), (Bypass::User(3), 2));
        let error = serde_yaml::from_str::<RulesFile>("lines: [exclude port x]").unwrap_err().to_string();
        assert!(error.contains("exclude port x"), "{error}");
        assert!(serde_yaml::from_str::<RulesFile>("line: []").is_err());
        let probes = "tcpProbes: { nodes: [192.0.2.0/24, 'fd00::7'], ports: [5432] }";
        let joined = RulesSettings::join(RulesFlags::default(), serde_yaml::from_str(probes).unwrap());
        assert_eq!((joined.tcp_probes.nodes.len(), &joined.tcp_probes.ports[..]), (2, &[5432][..]));
        let error = serde_yaml::from_str::<RulesFile>("tcpProbes: { nodes: [x] }").unwrap_err().to_string();
        assert!(error.contains('x'), "{error}");
    }
}
