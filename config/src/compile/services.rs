//! Services and the workloads behind each of their ports.

use super::population::Population;
use crate::closest::closest;
use crate::report::{Place, Report};
use crate::schema::Document;
use crate::schema::service::{Port as WrittenPort, Service as Written, TargetPort};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use weft_model::names::{ResourceName, ServiceName};
use weft_model::service::Protocol;

pub(crate) struct Services<'r> {
    pub(crate) by_name: BTreeMap<ServiceName, Entry<'r>>,
}

pub(crate) struct Entry<'r> {
    pub(crate) place: Place,
    pub(crate) written: &'r Written<'r>,
    /// The workloads that its selector names.
    pub(crate) selected: Vec<usize>,
    pub(crate) ports: Vec<Port<'r>>,
    pub(crate) traffic_policies: Vec<ResourceName>,
}

pub(crate) struct Port<'r> {
    pub(crate) written: &'r WrittenPort<'r>,
    /// Workloads and their ports.
    pub(crate) endpoints: Vec<(usize, u16)>,
    pub(crate) routes: Vec<ResourceName>,
}

impl<'r> Services<'r> {
    pub(crate) fn new(
        report: &Report<'_>,
        documents: &'r [Rc<Document<'r, Written<'r>>>],
        population: &mut Population<'r>,
    ) -> Self {
        let mut by_name = BTreeMap::new();
        for document in documents {
            let Some(name) = &document.spec.name else { continue };
            let selected = match &document.spec.selector {
                Some(labels) => population.select(Some(&name.namespace), &labels.value),
                None => Vec::new(),
            };
            let ports = document.spec.ports.iter().map(|port| Port {
                written: port,
                endpoints: endpoints(port, &selected, population),
                routes: Vec::new(),
            });
            let ports = ports.collect();
            let entry = Entry {
                place: document.place(),
                written: &document.spec,
                selected,
                ports,
                traffic_policies: Vec::new(),
            };
            by_name.insert(name.clone(), entry);
        }
        let services = Self { by_name };
        services.tell_workloads(report, population);
        services
    }

    // Each workload's port learns which Services lead to it, and what they say is spoken on it.
    fn tell_workloads(&self, report: &Report<'_>, population: &mut Population<'_>) {
        let mut said: BTreeMap<(usize, u16), (Protocol, Place)> = BTreeMap::new();
        for (name, entry) in &self.by_name {
            if report.failed(entry.place) {
                continue;
            }
            for port in &entry.ports {
                for (workload, target) in &port.endpoints {
                    let ports = &mut population.all[*workload].ports;
                    let Some(held) = ports.iter_mut().find(|held| held.port == *target) else { continue };
                    held.services.push((name.clone(), port.written.port));
                    let protocol = port.written.protocol;
                    if protocol == Protocol::Undeclared {
                        continue;
                    }
                    let declared = held.protocol != Protocol::Undeclared;
                    let before = said.insert((*workload, *target), (protocol, port.written.place));
                    if !declared {
                        held.protocol = protocol;
                    } else if held.protocol.is_http() != protocol.is_http() {
                        let other = match before {
                            Some((_, place)) => report.location(place),
                            None => format!("the Workload {}", population.all[*workload].uid),
                        };
                        let message =
                            format!("the port is declared otherwise in {other}, for the same workload");
                        report.warn(port.written.place, message, "a workload's port speaks one protocol");
                    }
                }
            }
        }
    }

    /// Warns of Services that lead nowhere.
    pub(crate) fn warn_of_empty(&self, report: &Report<'_>) {
        for (name, entry) in &self.by_name {
            if report.failed(entry.place) {
                continue;
            }
            match &entry.written.selector {
                None if entry.ports.iter().all(|port| !port.routes.is_empty()) => {}
                None => {
                    let hint = "add a selector, or an HTTPRoute with backends for each port";
                    report.warn(
                        entry.place,
                        format!("the Service {name} has no selector: it leads nowhere"),
                        hint,
                    );
                }
                Some(labels) if entry.selected.is_empty() => {
                    let message =
                        format!("the selector matches no Workload of the namespace {}", name.namespace);
                    report.warn(labels.place, message, None);
                }
                Some(_) => {
                    for port in entry.ports.iter().filter(|port| port.endpoints.is_empty()) {
                        let wanted = match port.written.target {
                            TargetPort::Number(number) => number.to_string(),
                            TargetPort::Name(name) => format!("{name:?}"),
                        };
                        let message = format!("no workload behind the Service has a port {wanted}");
                        report.warn(
                            port.written.place,
                            message,
                            "`targetPort` says which port of the workload is meant",
                        );
                    }
                }
            }
        }
    }

    /// A hint for a Service that does not exist.
    pub(crate) fn near(&self, name: &ServiceName) -> Option<String> {
        let elsewhere = self.by_name.keys().find(|held| held.name == name.name);
        let own = self.by_name.keys().filter(|held| held.namespace == name.namespace);
        let near = closest(name.name.as_str(), own.map(|held| held.name.as_str()));
        match (near, elsewhere) {
            (Some(near), _) => Some(format!("did you mean `{near}`?")),
            (None, Some(elsewhere)) => Some(format!("there is a Service {elsewhere}")),
            (None, None) => None,
        }
    }
}

impl Entry<'_> {
    /// The virtual addresses.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.written.addresses.iter().map(|address| address.value).collect()
    }

    pub(crate) fn has_port(&self, number: u16) -> Option<&Port<'_>> {
        self.ports.iter().find(|port| port.written.port == number)
    }
}

fn endpoints(port: &WrittenPort<'_>, selected: &[usize], population: &Population<'_>) -> Vec<(usize, u16)> {
    let target = |index: &usize| {
        let mut ports = population.all[*index].written.ports.iter();
        let found = match port.target {
            TargetPort::Number(number) => ports.find(|held| held.port == number),
            TargetPort::Name(name) => ports.find(|held| held.name == name),
        };
        Some((*index, found?.port))
    };
    selected.iter().filter_map(target).collect()
}
