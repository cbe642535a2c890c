//! AuthorizationPolicies: which workloads each binds, and whether it can hold there.

use super::binding::bound;
use super::paths;
use super::population::Population;
use super::principals::{expand, warn_of_foreign};
use super::services::Services;
use super::shadow::shadowed;
use super::without_proxy::{self, Weight};
use crate::closest::did_you_mean;
use crate::report::{At, Place, Report};
use crate::schema::authorization_policy::{AuthorizationPolicy, Rule};
use crate::schema::{Document, Documents};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use weft_model::authorization::{Action, Authorization};
use weft_model::mesh::MeshConfig;
use weft_model::names::ResourceName;
use weft_model::service::Protocol;

/// Binds all policies. Those with errors are named by their workloads and not held, which denies.
pub(crate) fn bind(
    report: &Report<'_>,
    documents: &Documents<'_>,
    config: &MeshConfig,
    population: &mut Population<'_>,
    services: &Services<'_>,
) -> BTreeMap<ResourceName, Arc<Authorization>> {
    let mut held = BTreeMap::new();
    let mut reached = Vec::new();
    // The one external authorizer of each workload.
    let mut asked: HashMap<usize, At<&str>> = HashMap::new();
    for document in &documents.authorization_policies {
        let (namespace, name) = (&document.metadata.namespace.value, &document.metadata.name.value);
        let bound = bound(report, namespace, &document.spec.target, config, population, services);
        let resource = ResourceName::of("AuthorizationPolicy", namespace, name);
        for index in &bound {
            population.all[*index].authorizations.push(resource.clone());
        }
        let refuses = document.spec.action != Action::Audit && !document.spec.dry_run;
        let weight = if refuses { Weight::Refuses } else { Weight::Notes };
        without_proxy::check(report, &document.metadata, &document.spec.target, weight, &bound, population);
        let provider = document.spec.provider;
        if let Some(provider) = &provider {
            check_provider(report, provider, &bound, &mut asked, config, services);
        }
        for rule in &document.spec.rules {
            check_protocols(report, rule, document.spec.action, &bound, population);
            check_ports(report, rule, &bound, population);
            paths::check(report, &rule.paths, config.path_normalization);
            warn_of_foreign(report, &rule.trust_domains, config);
        }
        if report.failed(document.place()) {
            continue;
        }
        warn_of_shadows(report, &document.spec);
        reached.push((&**document, bound));
        held.insert(resource, model(report, document, config));
    }
    warn_of_dead(report, &reached);
    for entry in &mut population.all {
        entry.authorizations.sort();
        entry.authorizations.dedup();
    }
    held
}

// It depends on the document and on what the mesh's trust domains are: where neither changed it is the same.
fn model(
    report: &Report<'_>,
    document: &Document<'_, AuthorizationPolicy<'_>>,
    config: &MeshConfig,
) -> Arc<Authorization> {
    let own = std::iter::once(&config.trust_domain).chain(&config.trust_domain_aliases);
    let mut memo = document.spec.memo.model.borrow_mut();
    if let Some((domains, policy)) = &*memo
        && domains.iter().eq(own.clone())
    {
        return policy.clone();
    }
    let mut rules: Vec<_> = document.spec.rules.iter().map(|rule| rule.model.clone()).collect();
    rules.iter_mut().for_each(|rule| expand(rule, config));
    let policy = Arc::new(Authorization {
        namespace: document.metadata.namespace.value.clone(),
        name: document.metadata.name.value.clone(),
        action: document.spec.action,
        dry_run: document.spec.dry_run,
        provider: document.spec.provider.map(|provider| provider.value.into()),
        rules,
        provenance: report.provenance(document.place()),
    });
    *memo = Some((own.cloned().collect(), policy.clone()));
    policy
}

// A rule that matches nothing which an earlier one does not decides nothing.
fn warn_of_shadows(report: &Report<'_>, policy: &AuthorizationPolicy<'_>) {
    let found = || shadowed(&policy.rules.iter().map(|rule| &rule.model).collect::<Vec<_>>()).into();
    for (index, earlier) in policy.memo.shadowed.get_or_init(found) {
        if let Some(place) = policy.rules[*index].place {
            let line = policy.rules[*earlier].model.provenance.line;
            let message = format!("the rule never decides: rule {earlier} matches all that it matches");
            let hint = format!("remove it, or say less in rule {earlier} (line {line})");
            report.warn(place, message, hint);
        }
    }
}

// Where a DENY policy matches everything, no ALLOW policy allows anything.
fn warn_of_dead(report: &Report<'_>, all: &[(&Document<'_, AuthorizationPolicy<'_>>, Vec<usize>)]) {
    let enforced = |policy: &AuthorizationPolicy<'_>, action| policy.action == action && !policy.dry_run;
    let mut closed: HashMap<usize, Place> = HashMap::new();
    for (document, bound) in all.iter().filter(|(document, _)| enforced(&document.spec, Action::Deny)) {
        let matches_all = |rule: &Rule| {
            let Rule { model, .. } = rule;
            model.sources.is_empty() && model.operations.is_empty() && model.conditions.is_empty()
        };
        if document.spec.rules.iter().any(matches_all) {
            for index in bound {
                closed.entry(*index).or_insert(document.metadata.name.place);
            }
        }
    }
    for (document, bound) in all.iter().filter(|(document, _)| enforced(&document.spec, Action::Allow)) {
        let places: Option<Vec<&Place>> = bound.iter().map(|index| closed.get(index)).collect();
        let (Some(places), false) = (places, document.spec.rules.is_empty()) else { continue };
        if let Some(place) = places.first() {
            let message = format!(
                "the policy allows nothing: a policy in {} denies everything",
                report.location(**place)
            );
            report.warn(document.metadata.name.place, message, None);
        }
    }
}

// There must be such an authorizer, it must be one that can be called, and the only one of its workloads.
fn check_provider<'r>(
    report: &Report<'_>,
    provider: &At<&'r str>,
    bound: &[usize],
    asked: &mut HashMap<usize, At<&'r str>>,
    config: &MeshConfig,
    services: &Services<'_>,
) {
    let Some(held) = config.extension_providers.iter().find(|held| *held.name == *provider.value) else {
        let message = format!("MeshConfig has no extension provider {:?}", provider.value);
        let near = did_you_mean(provider.value, config.extension_providers.iter().map(|held| &*held.name));
        report.error_hint(provider.place, message, near);
        return;
    };
    let service = services.by_name.get(&held.service);
    match service {
        None => {
            let message = format!("there is no Service {}, which the provider names", held.service);
            report.error_hint(provider.place, message, services.near(&held.service));
        }
        Some(service) if !service.ports.iter().any(|port| port.written.port == held.port) => {
            let message =
                format!("the Service {} has no port {}, which the provider names", held.service, held.port);
            report.error(provider.place, message);
        }
        Some(service) if bound.iter().any(|index| service.selected.contains(index)) => {
            let message = "the policy binds the authorizer itself, which would have to ask itself";
            report.error_hint(provider.place, message, "select the workloads that it is to be asked for");
        }
        Some(_) => {}
    }
    for index in bound {
        let first = *asked.entry(*index).or_insert(*provider);
        if first.value != provider.value {
            let message = format!(
                "a workload has one external authorizer, and it is {:?} in {}",
                first.value,
                report.location(first.place)
            );
            report.error(provider.place, message);
            return;
        }
    }
}

// On an opaque connection an ALLOW rule with an HTTP field never matches, and any other is judged as
// if the field were not there.
fn check_protocols(
    report: &Report<'_>,
    rule: &Rule,
    action: Action,
    bound: &[usize],
    population: &Population<'_>,
) {
    let Some(http) = rule.http else { return };
    let operations = &rule.model.operations;
    let all_ports =
        operations.is_empty() || operations.iter().any(|operation| operation.ports.any.is_empty());
    let meant = |port: u16| all_ports || rule.ports.iter().any(|named| named.value == port);
    let (mut opaque, mut other) = (None, false);
    for entry in bound.iter().map(|index| &population.all[*index]) {
        for port in entry.ports.iter().filter(|port| meant(port.port)) {
            match port.protocol {
                Protocol::Tcp | Protocol::Tls => opaque = opaque.or(Some((entry, port.port))),
                _ => other = true,
            }
        }
        if opaque.is_some() && other {
            break;
        }
    }
    let Some((entry, port)) = opaque else { return };
    let effect = match action {
        Action::Allow => "allows nothing",
        Action::Deny => "denies whatever the rest of it matches",
        Action::Audit => "audits whatever the rest of it matches",
        Action::Custom => "asks about whatever the rest of it matches",
    };
    let field = http.value;
    if other {
        let message =
            format!("`{field}` needs HTTP: on port {port} of {}, which is TCP, the rule {effect}", entry.uid);
        report.warn(http.place, message, "name the HTTP ports in `ports`");
    } else {
        let message =
            format!("`{field}` needs HTTP, and all ports that the rule is for are TCP: it {effect}");
        let hint = format!("declare what is spoken on port {port} of {} (`protocol: http`)", entry.uid);
        report.error_hint(http.place, message, hint);
    }
}

// Policies see the workload's port; the Service's is what people know.
fn check_ports(report: &Report<'_>, rule: &Rule, bound: &[usize], population: &Population<'_>) {
    if bound.is_empty() {
        return;
    }
    for named in &rule.ports {
        let entries = || bound.iter().map(|index| &population.all[*index]);
        if entries().any(|entry| entry.ports.iter().any(|port| port.port == named.value)) {
            continue;
        }
        let mut ports = entries().flat_map(|entry| &entry.ports);
        let behind = ports.find(|port| port.services.iter().any(|(_, service)| *service == named.value));
        let hint = behind.map(|port| {
            format!("{} is the Service's port: policies see the workload's, {}", named.value, port.port)
        });
        report.warn(named.place, format!("no workload of this policy has a port {}", named.value), hint);
    }
}
