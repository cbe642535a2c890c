//! `weft.v1.Workload`.

use super::probe;
use super::service::{protocol_from_wire, protocol_to_wire, reference_from_wire, reference_to_wire};
use super::{
    Refusal, description_from_wire, description_to_wire, each, invalid, level, missing, parse, port,
};
use crate::probe::{PROBES_MAX, Probe};
use crate::proto::v1;
use crate::workload::{Workload, WorkloadPort};

pub(super) fn to_wire(workload: &Workload) -> v1::Workload {
    let names = |names: &[crate::names::ResourceName]| names.iter().map(ToString::to_string).collect();
    v1::Workload {
        needs_level: 1,
        uid: workload.uid.to_string(),
        description: Some(v1::Description {
            // The identity's parts are carried here, so they must be the identity's.
            namespace: workload.namespace.to_string(),
            service_account: workload.service_account.to_string(),
            ..description_to_wire(&workload.description)
        }),
        trust_domain: workload.trust_domain.to_string(),
        addresses: workload.addresses.iter().map(ToString::to_string).collect(),
        ports: workload
            .ports
            .iter()
            .map(|held| v1::WorkloadPort {
                port: held.port.into(),
                protocol: protocol_to_wire(held.protocol).into(),
                services: held
                    .services
                    .iter()
                    .map(|(service, port)| v1::WorkloadService {
                        service: Some(reference_to_wire(service)),
                        port: (*port).into(),
                    })
                    .collect(),
                traffic_policies: names(&held.traffic_policies),
            })
            .collect(),
        authorizations: names(&workload.authorizations),
        peer_authentications: names(&workload.peer_authentications),
        request_authentications: names(&workload.request_authentications),
        zone: workload.zone.to_string(),
        probes: workload.probes.iter().map(probe::to_wire).collect(),
    }
}

pub(super) fn from_wire(message: v1::Workload) -> Result<Workload, Refusal> {
    level(message.needs_level)?;
    let description = message.description.ok_or_else(|| missing("the description"))?;
    Ok(Workload {
        uid: parse(&message.uid)?,
        namespace: parse(&description.namespace)?,
        service_account: parse(&description.service_account)?,
        trust_domain: parse(&message.trust_domain)?,
        description: description_from_wire(description),
        addresses: each(message.addresses, |address| parse(&address))?,
        ports: each(message.ports, |held| {
            Ok(WorkloadPort {
                port: port(held.port)?,
                protocol: protocol_from_wire(held.protocol)?,
                services: each(held.services, |held| {
                    let service = held.service.ok_or_else(|| missing("a service's name"))?;
                    Ok((reference_from_wire(&service)?, port(held.port)?))
                })?,
                traffic_policies: each(held.traffic_policies, |name| parse(&name))?,
            })
        })?,
        authorizations: each(message.authorizations, |name| parse(&name))?,
        peer_authentications: each(message.peer_authentications, |name| parse(&name))?,
        request_authentications: each(message.request_authentications, |name| parse(&name))?,
        zone: message.zone.into(),
        probes: probes(message.probes)?,
    })
}

fn probes(messages: Vec<v1::Probe>) -> Result<Vec<Probe>, Refusal> {
    if messages.len() > PROBES_MAX {
        return Err(invalid(format!("{} probes are more than {PROBES_MAX}", messages.len())));
    }
    each(messages, probe::from_wire)
}
