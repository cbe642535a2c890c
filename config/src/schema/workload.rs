//! `Workload` (weft.dev/v1alpha1): a process with an identity, where no cluster says so.

use super::probe;
use super::service::{is_destination, protocol};
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::{At, Place};
use std::net::IpAddr;
use weft_model::names::{Name, is_label};
use weft_model::probe::Probe;
use weft_model::service::Protocol;

/// The service account of workloads that name none, as in Kubernetes.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// The largest weight, as for a route's backends.
pub(crate) const WEIGHT_MAX: u32 = 1_000_000;

/// What a workload's owner wrote.
#[derive(Debug)]
pub(crate) struct Workload<'r> {
    pub(crate) addresses: Vec<At<IpAddr>>,
    pub(crate) ports: Vec<Port<'r>>,
    pub(crate) service_account: Name,
    pub(crate) zone: &'r str,
    pub(crate) weight: u32,
    pub(crate) injected: bool,
    pub(crate) workload: Option<&'r str>,
    pub(crate) probes: Vec<At<Probe>>,
}

#[derive(Debug)]
pub(crate) struct Port<'r> {
    pub(crate) place: Place,
    pub(crate) port: u16,
    pub(crate) name: &'r str,
    pub(crate) protocol: Protocol,
}

pub(crate) fn read<'r>(spec: Option<&Object<'r>>) -> Workload<'r> {
    let default_account = || DEFAULT_SERVICE_ACCOUNT.parse().expect("the default service account must parse");
    let mut workload = Workload {
        addresses: Vec::new(),
        ports: Vec::new(),
        service_account: default_account(),
        zone: "",
        weight: 1,
        injected: true,
        workload: None,
        probes: Vec::new(),
    };
    let Some(spec) = spec else { return workload };
    addresses(spec, &mut workload);
    if let Some(items) = spec.take("ports").and_then(|value| value.items(256)) {
        workload.ports.extend(items.into_iter().filter_map(port));
    }
    for (index, port) in workload.ports.iter().enumerate() {
        let before = &workload.ports[..index];
        if before.iter().any(|before| before.port == port.port) {
            spec.report().error(port.place, format!("the port {} comes twice", port.port));
        }
        if !port.name.is_empty() && before.iter().any(|before| before.name == port.name) {
            spec.report().error(port.place, format!("the port name {:?} comes twice", port.name));
        }
    }
    if !workload.ports.is_empty() && !spec.has("address") && !spec.has("addresses") {
        spec.error("`address` is missing: a workload with ports must say where it is");
    }
    if let Some(account) = spec.take("serviceAccount").and_then(Value::parse::<Name>) {
        workload.service_account = account.value;
    }
    if let Some(zone) = word(spec, "zone") {
        workload.zone = zone;
    }
    if let Some(weight) = spec.take("weight").and_then(|value| value.number(0..=WEIGHT_MAX)) {
        workload.weight = weight.value;
    }
    if let Some(injected) = spec.take("injected").and_then(Value::flag) {
        workload.injected = injected.value;
    }
    workload.workload = word(spec, "workload");
    workload.probes = probe::read(spec, &workload);
    workload
}

fn addresses(spec: &Object<'_>, workload: &mut Workload<'_>) {
    let one = spec.take("address");
    let several = spec.take("addresses").and_then(|value| value.items(16));
    if spec.has("address") && spec.has("addresses") {
        spec.error("only one of `address` and `addresses` may be given");
    }
    for value in one.into_iter().chain(several.into_iter().flatten()) {
        let Some(address) = value.parse::<IpAddr>() else { continue };
        if !is_destination(address.value) {
            value.error(format!("{} is not an address that can be called", address.value));
        } else if workload.addresses.iter().any(|held| held.value == address.value) {
            value.error(format!("the address {} comes twice", address.value));
        } else {
            workload.addresses.push(address);
        }
    }
}

// A word that becomes a metric label.
fn word<'r>(spec: &Object<'r>, key: &'static str) -> Option<&'r str> {
    let text = spec.take(key).and_then(Value::text)?;
    let fits =
        (1..=253).contains(&text.value.len()) && text.value.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits {
        spec.report()
            .error(text.place, format!("{} is not a word of 1 to 253 printable letters", quoted(text.value)));
        return None;
    }
    Some(text.value)
}

fn port(value: Value<'_>) -> Option<Port<'_>> {
    let object = value.object()?;
    let number = object.require("port").and_then(Value::port);
    let name = object.take("name").and_then(Value::text);
    if let Some(name) = name.filter(|name| !is_label(name.value)) {
        value.report.error(name.place, format!("{} is not a valid name of a port", quoted(name.value)));
    }
    // Here the protocol is ours to define, so an unknown one is a mistake.
    let declared = object.take("protocol").and_then(|value| {
        value.choice(&[
            ("http", Protocol::Http),
            ("http2", Protocol::Http2),
            ("grpc", Protocol::Grpc),
            ("tcp", Protocol::Tcp),
            ("tls", Protocol::Tls),
        ])
    });
    Some(Port {
        place: value.place,
        port: number?.value,
        name: name.map_or("", |name| name.value),
        protocol: match declared {
            Some(declared) => declared.value,
            None => protocol(value, None, name.map(|name| name.value)),
        },
    })
}
