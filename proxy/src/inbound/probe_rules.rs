//! Whether the redirection lets by what is declared as a TCP probe: two places say it, since rules are
//! installed before there is a configuration, and a difference is told.
//!
//! A TCP probe that the rules do not let by meets the proxy and succeeds whatever the application does; a
//! port that they let by and nobody probes is plaintext for nothing.

use crate::policy::Policy;
use crate::rules::settings::TcpProbes;
use crate::shared::Shared;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::Arc;
use weft_model::probe::Check;

/// Tells of every difference when it appears. Ends with the process.
pub async fn follow(shared: Arc<Shared>) {
    let mut changes = shared.policy.changes();
    let mut told = Vec::new();
    loop {
        let capture = shared.settings.capture.as_ref();
        let rules = capture.map(|capture| &capture.rules.settings().tcp_probes);
        let found = differences(rules, &shared.policy.current());
        for difference in found.iter().filter(|difference| !told.contains(*difference)) {
            tracing::warn!(difference, "TCP probes are not as declared");
        }
        told = found;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// What differs, in words. `rules`: `None` where nothing is redirected.
fn differences(rules: Option<&TcpProbes>, policy: &Policy) -> Vec<String> {
    let Some(own) = &policy.own.workload else { return Vec::new() };
    let declared = own.probes.iter().filter(|probe| probe.check == Check::Tcp).map(|probe| probe.port);
    let declared: BTreeSet<u16> = declared.collect();
    let Some(rules) = rules else {
        let told = declared.iter().map(|port| {
            format!(
                "a TCP probe of port {port} meets this proxy and says nothing of the application: probe the \
                 application's own address"
            )
        });
        return told.collect();
    };
    let mut found = Vec::new();
    for port in &declared {
        if !rules.ports.contains(port) {
            found.push(format!(
                "port {port} is declared as a TCP probe and is not in rules.tcpProbes.ports: the probe meets this \
                 proxy and succeeds whatever the application does"
            ));
        }
    }
    for port in rules.ports.iter().filter(|port| !declared.contains(port)) {
        found.push(format!(
            "port {port} is in rules.tcpProbes.ports and no TCP probe of it is declared: nodes reach it in plaintext \
             for nothing"
        ));
    }
    if !rules.ports.is_empty() {
        let within = |block: &IpNet, others: &[IpNet]| others.iter().any(|other| other.contains(block));
        for block in policy.config.node_cidrs.iter().filter(|block| !within(block, &rules.nodes)) {
            found.push(format!("{block} is in nodeCidrs and not in rules.tcpProbes.nodes"));
        }
        for block in rules.nodes.iter().filter(|block| !within(block, &policy.config.node_cidrs)) {
            found.push(format!("{block} is in rules.tcpProbes.nodes and not in nodeCidrs"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbound::probe::testing::workload;
    use crate::policy::Own;
    use weft_model::mesh::MeshConfig;
    use weft_model::probe::Probe;

    fn policy(ports: &[u16], nodes: &[&str]) -> Policy {
        let probes = ports.iter().map(|port| Probe { port: *port, check: Check::Tcp }).collect();
        let own = Own { workload: Some(Arc::new(workload(probes))), ..Own::default() };
        let node_cidrs = nodes.iter().map(|node| node.parse().unwrap()).collect();
        let config = MeshConfig { node_cidrs, ..MeshConfig::default() };
        Policy { own: Arc::new(own), config: Arc::new(config), ..Policy::default() }
    }

    #[test]
    fn every_difference_is_told_and_agreement_is_silent() {
        let rules = |nodes: &[&str], ports: &[u16]| TcpProbes {
            nodes: nodes.iter().map(|node| node.parse().unwrap()).collect(),
            ports: ports.to_vec(),
        };
        let nodes = ["192.0.2.0/24"];
        let told = |rules: &TcpProbes, policy: &Policy| differences(Some(rules), policy).join("\n");
        let same = rules(&nodes, &[5432]);
        assert_eq!(told(&same, &policy(&[5432], &nodes)), "");
        assert_eq!(told(&rules(&[], &[]), &policy(&[], &nodes)), "");
        assert_eq!(differences(None, &policy(&[], &nodes)), Vec::<String>::new());
        assert!(differences(None, &policy(&[5432], &nodes))[0].contains("meets this proxy"));
        assert!(told(&rules(&[], &[]), &policy(&[5432], &nodes)).contains("port 5432 is declared"));
        assert!(told(&same, &policy(&[], &nodes)).contains("port 5432 is in rules.tcpProbes.ports"));
        let moved = told(&same, &policy(&[5432], &["198.51.100.0/24"]));
        assert!(moved.contains("198.51.100.0/24 is in nodeCidrs and not"), "{moved}");
        assert!(moved.contains("192.0.2.0/24 is in rules.tcpProbes.nodes and not"), "{moved}");
        // Before the first configuration nothing is known to differ.
        assert_eq!(differences(Some(&same), &Policy::default()), Vec::<String>::new());
    }
}
