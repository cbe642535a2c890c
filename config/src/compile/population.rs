//! All workloads, found by their labels.

use crate::report::{Place, Report};
use crate::schema::selector::Target;
use crate::schema::workload::Workload as Written;
use crate::schema::{Document, Labels};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use weft_model::authentication::TlsModes;
use weft_model::mesh::MeshConfig;
use weft_model::names::{Namespace, ResourceName, WorkloadUid};
use weft_model::spiffe::SpiffeId;
use weft_model::workload::{Description, UNKNOWN, WorkloadPort};

/// The cluster that metrics name, as Istio's default.
const CLUSTER: &str = "Kubernetes";

/// The longest namespace and name together: `PORT.NAME.NAMESPACE.workload` is a server name of TLS,
/// which has 253 letters at most.
const NAMES_LENGTH_MAX: usize = 253 - "65535...workload".len();

pub(crate) struct Population<'r> {
    pub(crate) all: Vec<Entry<'r>>,
    /// Whether there is a workload without a proxy.
    pub(crate) has_plain: bool,
    by_namespace: HashMap<&'r str, Vec<usize>>,
    by_label: HashMap<(&'r str, &'r str), Vec<usize>>,
}

/// One workload with what has been joined to it.
pub(crate) struct Entry<'r> {
    pub(crate) place: Place,
    pub(crate) uid: WorkloadUid,
    pub(crate) namespace: &'r Namespace,
    pub(crate) labels: &'r Labels<'r>,
    pub(crate) written: &'r Written<'r>,
    pub(crate) identity: SpiffeId,
    pub(crate) description: Arc<Description>,
    pub(crate) ports: Vec<WorkloadPort>,
    pub(crate) authorizations: Vec<ResourceName>,
    pub(crate) peer_authentications: Vec<ResourceName>,
    pub(crate) request_authentications: Vec<ResourceName>,
    pub(crate) modes: TlsModes,
}

impl<'r> Population<'r> {
    pub(crate) fn new(
        report: &Report<'_>,
        workloads: &'r [Rc<Document<'r, Written<'r>>>],
        config: &MeshConfig,
    ) -> Self {
        let mut population = Self {
            all: Vec::new(),
            has_plain: workloads.iter().any(|document| !document.spec.injected),
            by_namespace: HashMap::new(),
            by_label: HashMap::new(),
        };
        for document in workloads {
            let (namespace, name) = (&document.metadata.namespace.value, &document.metadata.name);
            let Ok(uid) = format!("{namespace}/{}", name.value).parse() else {
                report.error(name.place, "this name cannot be a workload's");
                continue;
            };
            if namespace.as_str().len() + name.value.as_str().len() > NAMES_LENGTH_MAX {
                let message =
                    format!("namespace and name must have at most {NAMES_LENGTH_MAX} letters together");
                report.error(name.place, message);
            }
            let index = population.all.len();
            population.by_namespace.entry(namespace.as_str()).or_default().push(index);
            for (key, value) in &document.metadata.labels {
                population.by_label.entry((*key, *value)).or_default().push(index);
            }
            let written = &document.spec;
            let ports = written.ports.iter().map(|port| WorkloadPort {
                port: port.port,
                protocol: port.protocol,
                services: Vec::new(),
                traffic_policies: Vec::new(),
            });
            population.all.push(Entry {
                place: document.place(),
                uid,
                namespace,
                labels: &document.metadata.labels,
                written,
                identity: SpiffeId::new(&config.trust_domain, namespace, &written.service_account),
                description: Arc::new(description(document)),
                ports: ports.collect(),
                authorizations: Vec::new(),
                peer_authentications: Vec::new(),
                request_authentications: Vec::new(),
                modes: TlsModes::default(),
            });
        }
        population
    }

    /// The workloads with all of the labels, in the namespace if one is given.
    pub(crate) fn select(&self, namespace: Option<&Namespace>, labels: &Labels<'_>) -> Vec<usize> {
        if labels.is_empty() {
            return Vec::new();
        }
        // The rarest label, or the namespace where that is smaller, leads: the others only confirm.
        let by_label = labels.iter().map(|(key, value)| self.by_label.get(&(*key, *value)));
        let lists = by_label.chain(namespace.map(|namespace| self.by_namespace.get(namespace.as_str())));
        let Some(Some(shortest)) = lists.min_by_key(|list| list.map_or(0, Vec::len)) else {
            return Vec::new();
        };
        let held = |entry: &Entry<'_>| labels.iter().all(|(key, value)| entry.labels.get(key) == Some(value));
        let within = |entry: &Entry<'_>| namespace.is_none_or(|namespace| namespace == entry.namespace);
        let fits = |index: &&usize| within(&self.all[**index]) && held(&self.all[**index]);
        shortest.iter().filter(fits).copied().collect()
    }

    /// The workloads of a namespace, or all.
    pub(crate) fn within(&self, namespace: Option<&Namespace>) -> Vec<usize> {
        match namespace {
            Some(namespace) => self.by_namespace.get(namespace.as_str()).cloned().unwrap_or_default(),
            None => (0..self.all.len()).collect(),
        }
    }

    /// What a selector or its absence means for a policy that reaches as far as `namespace`.
    pub(crate) fn targeted(&self, target: &Target<'_>, namespace: Option<&Namespace>) -> Vec<usize> {
        match target {
            Target::Labels(labels) => self.select(namespace, &labels.value),
            Target::All | Target::Services(_) => self.within(namespace),
        }
    }
}

fn description(document: &Document<'_, Written<'_>>) -> Description {
    let label = |key: &str| document.metadata.labels.get(key).copied().filter(|value| !value.is_empty());
    let name = document.metadata.name.value.as_str();
    let app = label("app");
    let workload = document.spec.workload.or(app).unwrap_or(name);
    let service = label("service.istio.io/canonical-name")
        .or(label("app.kubernetes.io/name"))
        .or(app)
        .unwrap_or(workload);
    let revision = label("service.istio.io/canonical-revision")
        .or(label("app.kubernetes.io/version"))
        .or(label("version"))
        .unwrap_or("latest");
    Description {
        workload: workload.into(),
        namespace: document.metadata.namespace.value.as_str().into(),
        service_account: document.spec.service_account.as_str().into(),
        app: app.unwrap_or(UNKNOWN).into(),
        version: label("version").unwrap_or(UNKNOWN).into(),
        canonical_service: service.into(),
        canonical_revision: revision.into(),
        cluster: CLUSTER.into(),
    }
}
