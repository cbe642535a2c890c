//! `Service` (v1): a name, its ports, and the labels of the workloads behind it.

use super::Labels;
use super::metadata::{Metadata, labels};
use super::value::{Object, Value};
use crate::document::quoted;
use crate::report::{At, Place};
use std::net::IpAddr;
use weft_model::names::{ServiceName, is_label};
use weft_model::service::Protocol;

/// What a Service's owner wrote.
#[derive(Debug, Default)]
pub(crate) struct Service<'r> {
    /// `None`: its name is not a Service's.
    pub(crate) name: Option<ServiceName>,
    pub(crate) selector: Option<At<Labels<'r>>>,
    pub(crate) addresses: Vec<At<IpAddr>>,
    pub(crate) ports: Vec<Port<'r>>,
}

#[derive(Debug)]
pub(crate) struct Port<'r> {
    pub(crate) place: Place,
    pub(crate) port: u16,
    pub(crate) name: &'r str,
    pub(crate) protocol: Protocol,
    pub(crate) target: TargetPort<'r>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum TargetPort<'r> {
    Number(u16),
    Name(&'r str),
}

pub(crate) fn read<'r>(spec: Option<&Object<'r>>, metadata: &Metadata<'r>) -> Service<'r> {
    let mut service = Service::default();
    let Some(spec) = spec else { return service };
    let name = ServiceName::new(metadata.namespace.value.as_str(), metadata.name.value.as_str());
    match name {
        Ok(name) => service.name = Some(name),
        Err(error) => spec.report().error(metadata.name.place, error.to_string()),
    }
    // Without effect on calls within the mesh.
    spec.accept(&["ipFamilies", "ipFamilyPolicy", "allocateLoadBalancerNodePorts"]);
    spec.only("type", "ClusterIP");
    spec.only("sessionAffinity", "None");
    spec.only("internalTrafficPolicy", "Cluster");
    spec.only("publishNotReadyAddresses", "false");
    spec.not_yet(&[
        "externalName",
        "externalIPs",
        "externalTrafficPolicy",
        "healthCheckNodePort",
        "loadBalancerIP",
        "loadBalancerClass",
        "loadBalancerSourceRanges",
        "sessionAffinityConfig",
        "trafficDistribution",
    ]);
    service.selector = spec.take("selector").and_then(|value| Some(value.at(labels(value)?)));
    service.selector.take_if(|labels| labels.value.is_empty());
    addresses(spec, &mut service);
    if let Some(items) = spec.require("ports").and_then(|value| value.items(256)) {
        for item in &items {
            service.ports.extend(port(*item, items.len() > 1));
        }
    }
    repeated(spec, &service.ports);
    service
}

fn addresses(spec: &Object<'_>, service: &mut Service<'_>) {
    let address = |value: Value<'_>| {
        let text = value.text()?;
        if text.value.is_empty() || text.value == "None" { None } else { value.parse::<IpAddr>() }
    };
    let several = spec.take("clusterIPs").and_then(Value::list).unwrap_or_default();
    service.addresses.extend(several.into_iter().filter_map(address));
    if let Some(one) = spec.take("clusterIP").and_then(address)
        && service.addresses.iter().all(|held| held.value != one.value)
    {
        if !service.addresses.is_empty() {
            spec.report().error(one.place, "`clusterIP` must be the first of `clusterIPs`");
        }
        service.addresses.push(one);
    }
    for address in &service.addresses {
        if !is_destination(address.value) {
            spec.report()
                .error(address.place, format!("{} is not an address that can be called", address.value));
        }
    }
}

/// Whether an address can be one workload's or one Service's.
pub(crate) fn is_destination(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(four) if four.is_broadcast());
    !(broadcast || address.is_unspecified() || address.is_multicast() || address.to_canonical() != address)
}

fn port(value: Value<'_>, named: bool) -> Option<Port<'_>> {
    let object = value.object()?;
    // Node ports are another way in, from outside of the mesh.
    object.accept(&["nodePort"]);
    let number = object.require("port").and_then(Value::port);
    let name = object.take("name").and_then(Value::text);
    if named && !object.has("name") {
        object.error("a port must have a `name` where there are several");
    }
    if let Some(name) = name.filter(|name| !is_label(name.value)) {
        value.report.error(name.place, format!("{} is not a valid name of a port", quoted(name.value)));
    }
    let transport = object
        .take("protocol")
        .and_then(|value| value.choice(&[("TCP", true), ("UDP", false), ("SCTP", false)]));
    let application = object.take("appProtocol").and_then(Value::text);
    let target = match object.take("targetPort") {
        Some(target) if target.is_number() => target.port().map(|port| TargetPort::Number(port.value)),
        Some(target) => target.text().map(|text| TargetPort::Name(text.value)),
        None => number.map(|port| TargetPort::Number(port.value)),
    };
    if let Some(transport) = transport.filter(|transport| !transport.value) {
        value.report.warn(transport.place, "the mesh carries TCP only: this port is left out", None);
        return None;
    }
    Some(Port {
        place: value.place,
        port: number?.value,
        name: name.map_or("", |name| name.value),
        protocol: protocol(value, application, name.map(|name| name.value)),
        target: target?,
    })
}

/// What is spoken: `appProtocol`, else the part of the port's name before its first `-`.
pub(crate) fn protocol(value: Value<'_>, declared: Option<At<&str>>, name: Option<&str>) -> Protocol {
    let by_name = || {
        let word = name?.split('-').next()?;
        // `grpc-web` is the one protocol with a `-` in its name.
        if name?.starts_with("grpc-web") { Some(Protocol::Grpc) } else { Protocol::from_name(word) }
    };
    if let Some(declared) = declared {
        if let Some(protocol) = Protocol::from_name(declared.value) {
            return protocol;
        }
        let message = format!("{} is not a protocol that is known: it is detected", quoted(declared.value));
        value.report.warn(
            declared.place,
            message,
            "known are http, http2, grpc, tcp, tls, https and kubernetes.io/h2c, /ws, /wss",
        );
        return Protocol::Undeclared;
    }
    by_name().unwrap_or_default()
}

fn repeated(spec: &Object<'_>, ports: &[Port<'_>]) {
    for (index, port) in ports.iter().enumerate() {
        if ports[..index].iter().any(|before| before.port == port.port) {
            spec.report().error(port.place, format!("the port {} comes twice", port.port));
        }
        if !port.name.is_empty() && ports[..index].iter().any(|before| before.name == port.name) {
            spec.report().error(port.place, format!("the port name {:?} comes twice", port.name));
        }
    }
}
