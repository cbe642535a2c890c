//! Which workloads a policy binds that may have a selector or name Services: AuthorizationPolicy and
//! RequestAuthentication, by the very same rules.

use super::population::Population;
use super::services::Services;
use crate::report::Report;
use crate::schema::selector::Target;
use std::collections::BTreeSet;
use weft_model::mesh::MeshConfig;
use weft_model::names::Namespace;

/// The workloads, by their place in the population. A Service that is not there is an error, a selector
/// that matches nothing a warning: workloads may come later.
pub(crate) fn bound(
    report: &Report<'_>,
    namespace: &Namespace,
    target: &Target<'_>,
    config: &MeshConfig,
    population: &Population<'_>,
    services: &Services<'_>,
) -> Vec<usize> {
    if let Target::Services(names) = target {
        let mut bound = BTreeSet::new();
        for name in names {
            match services.by_name.get(&name.value) {
                Some(service) => bound.extend(&service.selected),
                None => {
                    let message = format!("there is no Service {}", name.value);
                    report.error_hint(name.place, message, services.near(&name.value));
                }
            }
        }
        return bound.into_iter().copied().collect();
    }
    let mesh_wide = *namespace == config.root_namespace;
    let bound = population.targeted(target, (!mesh_wide).then_some(namespace));
    if let (true, Some(place)) = (bound.is_empty(), target.place()) {
        let place_name = if mesh_wide { "the mesh".to_owned() } else { format!("the namespace {namespace}") };
        report.warn(place, format!("the selector matches no Workload of {place_name}"), None);
    }
    bound
}
