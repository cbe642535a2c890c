//! RequestAuthentications: which workloads each binds.

use super::binding::bound;
use super::population::{Entry, Population};
use super::services::Services;
use super::without_proxy::{self, Weight};
use crate::report::Report;
use crate::schema::Documents;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use weft_model::mesh::MeshConfig;
use weft_model::names::ResourceName;
use weft_model::request_authentication::RequestAuthentication;
use weft_model::service::Protocol;

/// Binds all policies. Those with errors are named by their workloads and not held, which denies.
pub(crate) fn bind(
    report: &Report<'_>,
    documents: &Documents<'_>,
    config: &MeshConfig,
    population: &mut Population<'_>,
    services: &Services<'_>,
) -> BTreeMap<ResourceName, Arc<RequestAuthentication>> {
    let mut held = BTreeMap::new();
    for document in &documents.request_authentications {
        let (namespace, name) = (&document.metadata.namespace.value, &document.metadata.name);
        let spec = &document.spec;
        let bound = bound(report, namespace, &spec.target, config, population, services);
        let resource = ResourceName::of("RequestAuthentication", namespace, &name.value);
        for index in &bound {
            population.all[*index].request_authentications.push(resource.clone());
        }
        without_proxy::check(report, &document.metadata, &spec.target, Weight::Refuses, &bound, population);
        let failed = report.failed(document.place());
        if spec.rules.is_empty() && !failed {
            let hint = "write `jwtRules`, or leave the document out";
            report.warn(name.place, "there are no `jwtRules`: nothing is checked", hint);
        }
        let mut ports = bound.iter().flat_map(|index| &population.all[*index].ports).peekable();
        if ports.peek().is_some() && ports.all(|port| matches!(port.protocol, Protocol::Tcp | Protocol::Tls))
        {
            let message =
                "tokens need HTTP, and all ports of the bound workloads are TCP: nothing is checked";
            report.warn(name.place, message, "declare what is spoken there (`protocol: http`)");
        }
        if !failed {
            let policy = RequestAuthentication {
                namespace: namespace.clone(),
                name: name.value.clone(),
                rules: spec.rules.clone(),
                provenance: report.provenance(document.place()),
            };
            held.insert(resource, Arc::new(policy));
        }
    }
    warn_of_tokens_nobody_reads(report, documents, population);
    for entry in &mut population.all {
        entry.request_authentications.sort();
        entry.request_authentications.dedup();
    }
    held
}

// A rule that looks at tokens, where no workload that it is for reads any: it never matches.
fn warn_of_tokens_nobody_reads(report: &Report<'_>, documents: &Documents<'_>, population: &Population<'_>) {
    let reading = |entry: &&Entry<'_>| !entry.request_authentications.is_empty();
    let (mut bound, mut read): (HashSet<&ResourceName>, HashSet<&ResourceName>) = Default::default();
    population.all.iter().for_each(|entry| bound.extend(&entry.authorizations));
    population.all.iter().filter(reading).for_each(|entry| read.extend(&entry.authorizations));
    for document in &documents.authorization_policies {
        let (namespace, name) = (&document.metadata.namespace.value, &document.metadata.name.value);
        let field = document.spec.rules.iter().find_map(|rule| rule.token);
        let Some(field) = field.filter(|_| !report.failed(document.place())) else { continue };
        let resource = ResourceName::of("AuthorizationPolicy", namespace, name);
        if bound.contains(&resource) && !read.contains(&resource) {
            let message =
                format!("`{}` looks at a token, and no workload of this policy accepts any", field.value);
            report.warn(field.place, message, "write a RequestAuthentication for them");
        }
    }
}
