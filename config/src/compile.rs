//! Documents → the mesh: joins what refers to each other, binds policies, spreads endpoints.
//!
//! In this order, since each needs what is before it: names, MeshConfig, workloads, Services,
//! PeerAuthentications, AuthorizationPolicies, RequestAuthentications, routes, TrafficPolicies. A document with errors is left out; a
//! security policy with errors is still named by what it binds, and a policy that is named and not
//! held denies.

mod assemble;
mod authentication;
mod authorization;
mod binding;
mod names;
mod paths;
mod population;
mod principals;
mod probes;
mod request_authentication;
mod routes;
mod services;
mod shadow;
mod traffic;
mod without_proxy;

use crate::report::Report;
use crate::schema::Documents;
use population::Population;
use services::Services;
use weft_model::mesh::{Mesh, MeshConfig};

/// Joins all documents.
pub(crate) fn mesh<'r>(report: &'r Report<'r>, documents: &'r Documents<'r>) -> Mesh {
    names::each_once(report, documents);
    let config = config(report, documents);
    let mut population = Population::new(report, &documents.workloads, &config);
    let mut services = Services::new(report, &documents.services, &mut population);
    names::addresses_once(report, documents, &config);
    probes::warn(report, documents, &config);
    let peer_authentications = authentication::bind(report, documents, &config, &mut population);
    let authorizations = authorization::bind(report, documents, &config, &mut population, &services);
    let request_authentications =
        request_authentication::bind(report, documents, &config, &mut population, &services);
    let routes = routes::attach(report, documents, &config, &mut services);
    let traffic_policies = traffic::bind(report, documents, &config, &mut population, &mut services, &routes);
    services.warn_of_empty(report);
    let held = assemble::Held {
        peer_authentications,
        authorizations,
        request_authentications,
        routes,
        traffic_policies,
    };
    assemble::mesh(report, config, &population, &services, held)
}

fn config(report: &Report<'_>, documents: &Documents<'_>) -> MeshConfig {
    let mut configs = documents.mesh_configs.iter();
    let Some(first) = configs.next() else { return MeshConfig::default() };
    for other in configs {
        let first = report.location(first.metadata.name.place);
        report.error(
            other.metadata.name.place,
            format!("there can be one MeshConfig, and there is one in {first}"),
        );
    }
    first.spec.model.clone()
}
