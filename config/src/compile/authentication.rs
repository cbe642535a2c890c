//! PeerAuthentications: which workloads each binds, and what each workload's ports then accept.

use super::population::Population;
use super::without_proxy::{self, Weight};
use crate::report::{Place, Report};
use crate::schema::Documents;
use crate::schema::selector::Target;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use weft_model::authentication::{PeerAuthentication, PolicyScope, TlsMode, TlsModes};
use weft_model::mesh::MeshConfig;
use weft_model::names::{Namespace, ResourceName};

/// Binds all policies. Those with errors are named by their workloads and not held, which is STRICT.
pub(crate) fn bind(
    report: &Report<'_>,
    documents: &Documents<'_>,
    config: &MeshConfig,
    population: &mut Population<'_>,
) -> BTreeMap<ResourceName, Arc<PeerAuthentication>> {
    let mut held = BTreeMap::new();
    let mut wide: HashMap<(PolicyScope, &Namespace), Place> = HashMap::new();
    let mut narrow: HashMap<usize, Place> = HashMap::new();
    for document in &documents.peer_authentications {
        let (namespace, name) = (&document.metadata.namespace.value, &document.metadata.name);
        let spec = &document.spec;
        let scope = match &spec.target {
            Target::Labels(_) | Target::Services(_) => PolicyScope::Workload,
            Target::All if *namespace == config.root_namespace => PolicyScope::Mesh,
            Target::All => PolicyScope::Namespace,
        };
        let bound = population.targeted(&spec.target, (scope != PolicyScope::Mesh).then_some(namespace));
        let resource = ResourceName::of("PeerAuthentication", namespace, &name.value);
        for index in &bound {
            population.all[*index].peer_authentications.push(resource.clone());
        }
        if let (true, Some(place)) = (bound.is_empty(), spec.target.place()) {
            report.warn(
                place,
                format!("the selector matches no Workload of the namespace {namespace}"),
                None,
            );
        }
        let strict = Some(TlsMode::Strict);
        let refuses = spec.mode == strict || spec.ports.iter().any(|(_, mode)| *mode == strict);
        let weight = if refuses { Weight::Refuses } else { Weight::Notes };
        without_proxy::check(report, &document.metadata, &spec.target, weight, &bound, population);
        let before = match scope {
            PolicyScope::Workload => {
                bound.iter().filter_map(|index| narrow.insert(*index, name.place)).next()
            }
            _ => wide.insert((scope, namespace), name.place),
        };
        if let Some(before) = before {
            let message =
                format!("{} binds the same workloads: the stricter mode holds", report.location(before));
            report.warn(name.place, message, None);
        }
        for (port, _) in &spec.ports {
            let known =
                |index: &usize| population.all[*index].ports.iter().any(|held| held.port == port.value);
            if !bound.is_empty() && !bound.iter().any(known) {
                let message = format!("no selected workload has a port {}", port.value);
                report.warn(port.place, message, "ports here are the workload's, not the Service's");
            }
        }
        if !report.failed(document.place()) {
            let policy = PeerAuthentication {
                namespace: namespace.clone(),
                name: name.value.clone(),
                scope,
                mode: spec.mode,
                ports: spec.ports.iter().map(|(port, mode)| (port.value, *mode)).collect(),
                provenance: report.provenance(document.place()),
            };
            held.insert(resource, Arc::new(policy));
        }
    }
    for entry in &mut population.all {
        entry.peer_authentications.sort();
        entry.peer_authentications.dedup();
        let named = entry.peer_authentications.iter().map(|name| held.get(name));
        entry.modes = TlsModes::new(config.peer_authentication_default, named);
    }
    held
}
