//! Probes and nodes: what is declared in one place and of no use without the other.

use crate::report::Report;
use crate::schema::{Documents, probe};
use weft_model::mesh::MeshConfig;

/// Warns of probes that come from nowhere, and of workloads that would pass for nodes.
pub(crate) fn warn(report: &Report<'_>, documents: &Documents<'_>, config: &MeshConfig) {
    // A block that could not be read is missing from them, and the error is told already.
    let broken = documents.mesh_configs.iter().any(|document| report.failed(document.place()));
    for workload in &documents.workloads {
        if let Some(place) = probe::first(&workload.spec.probes)
            && config.node_cidrs.is_empty()
            && !broken
        {
            let message = "probes are let through from nodes alone, and the MeshConfig names none";
            report.warn(place, message, "add `nodeCidrs` to the MeshConfig");
        }
        for address in &workload.spec.addresses {
            if config.node_cidrs.iter().any(|block| block.contains(&address.value)) {
                let message = format!(
                    "{} lies in `nodeCidrs`: what runs there can send the probes of every workload",
                    address.value
                );
                report.warn(address.place, message, "name the nodes' own addresses only");
            }
        }
    }
}
