//! `weft.v1.Service`.

use super::{Refusal, each, invalid, level, missing, parse, port};
use crate::names::ServiceName;
use crate::proto::v1;
use crate::service::{Protocol, Service, ServicePort, ServiceTarget};
use std::collections::BTreeSet;

pub(super) fn to_wire(service: &Service) -> v1::Service {
    let (named, direct_uid) = match &service.target {
        ServiceTarget::Service(name) => (Some(reference_to_wire(name)), String::new()),
        ServiceTarget::Workload(uid) => (None, uid.to_string()),
    };
    v1::Service {
        needs_level: 1,
        service: named,
        addresses: service.addresses.iter().map(ToString::to_string).collect(),
        ports: service
            .ports
            .iter()
            .map(|port| v1::ServicePort {
                port: port.port.into(),
                protocol: protocol_to_wire(port.protocol).into(),
                name: port.name.to_string(),
                routes: port.routes.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        traffic_policies: service.traffic_policies.iter().map(ToString::to_string).collect(),
        direct_uid,
    }
}

pub(super) fn from_wire(message: v1::Service) -> Result<Service, Refusal> {
    level(message.needs_level)?;
    let ports = each(message.ports, |held| {
        Ok(ServicePort {
            port: port(held.port)?,
            protocol: protocol_from_wire(held.protocol)?,
            name: held.name.into(),
            routes: each(held.routes, |name| parse(&name))?,
        })
    })?;
    let numbers: BTreeSet<u16> = ports.iter().map(|port| port.port).collect();
    if numbers.len() != ports.len() {
        return Err(invalid("a port comes twice"));
    }
    Ok(Service {
        target: target_from_wire(message.service, &message.direct_uid)?,
        addresses: each(message.addresses, |address| parse(&address))?,
        ports,
        traffic_policies: each(message.traffic_policies, |name| parse(&name))?,
    })
}

pub(super) fn target_from_wire(
    named: Option<v1::ServiceRef>,
    direct: &str,
) -> Result<ServiceTarget, Refusal> {
    match (named, direct) {
        (Some(name), "") => Ok(ServiceTarget::Service(reference_from_wire(&name)?)),
        (None, uid) if !uid.is_empty() => Ok(ServiceTarget::Workload(parse(uid)?)),
        _ => Err(missing("the destination")),
    }
}

pub(super) fn reference_to_wire(name: &ServiceName) -> v1::ServiceRef {
    v1::ServiceRef { namespace: name.namespace.to_string(), name: name.name.to_string() }
}

pub(super) fn reference_from_wire(message: &v1::ServiceRef) -> Result<ServiceName, Refusal> {
    ServiceName::new(&message.namespace, &message.name).map_err(invalid)
}

pub(super) fn protocol_to_wire(protocol: Protocol) -> v1::Protocol {
    match protocol {
        Protocol::Undeclared => v1::Protocol::Undeclared,
        Protocol::Http => v1::Protocol::Http,
        Protocol::Http2 => v1::Protocol::Http2,
        Protocol::Grpc => v1::Protocol::Grpc,
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Tls => v1::Protocol::Tls,
    }
}

pub(super) fn protocol_from_wire(number: i32) -> Result<Protocol, Refusal> {
    Ok(match v1::Protocol::try_from(number) {
        Ok(v1::Protocol::Undeclared) => Protocol::Undeclared,
        Ok(v1::Protocol::Http) => Protocol::Http,
        Ok(v1::Protocol::Http2) => Protocol::Http2,
        Ok(v1::Protocol::Grpc) => Protocol::Grpc,
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Tls) => Protocol::Tls,
        Ok(v1::Protocol::Unspecified) | Err(_) => return Err(missing("the protocol")),
    })
}
