//! `weft.v1.Endpoints`.

use super::service::{reference_to_wire, target_from_wire};
use super::{
    Refusal, description_from_wire, description_to_wire, each, invalid, level, missing, parse, port,
};
use crate::endpoints::{Endpoint, Endpoints, Health, SLICE_SIZE_MAX, Wire};
use crate::proto::v1;
use crate::service::ServiceTarget;
use crate::workload::Description;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn to_wire(endpoints: &Endpoints) -> v1::Endpoints {
    // Numbered in sorted order, so that equal slices have equal bytes.
    let mut table: BTreeMap<&Description, u32> = BTreeMap::new();
    for endpoint in &endpoints.endpoints {
        table.insert(&endpoint.description, 0);
    }
    for (number, index) in (0..).zip(table.values_mut()) {
        *index = number;
    }
    let (service, direct) = match &endpoints.target {
        ServiceTarget::Service(name) => (Some(reference_to_wire(name)), String::new()),
        ServiceTarget::Workload(uid) => (None, uid.to_string()),
    };
    v1::Endpoints {
        needs_level: 1,
        service,
        direct_uid: direct,
        port: endpoints.port.into(),
        slice: endpoints.slice,
        endpoints: endpoints
            .endpoints
            .iter()
            .map(|endpoint| {
                let (wire, identity) = match &endpoint.wire {
                    Wire::Weft(identity) => (v1::Wire::Weft, identity.to_string()),
                    Wire::Plain => (v1::Wire::Plain, String::new()),
                };
                let health = match endpoint.health {
                    Health::Ready => v1::Health::Ready,
                    Health::Draining => v1::Health::Draining,
                    Health::Unready => v1::Health::Unready,
                };
                v1::Endpoint {
                    uid: endpoint.uid.to_string(),
                    address: endpoint.address.to_string(),
                    wire: wire.into(),
                    identity,
                    weight: endpoint.weight,
                    zone: endpoint.zone.to_string(),
                    health: health.into(),
                    description: table.get(&*endpoint.description).copied().unwrap_or_default(),
                }
            })
            .collect(),
        descriptions: table.into_keys().map(description_to_wire).collect(),
    }
}

pub(super) fn from_wire(message: v1::Endpoints) -> Result<Endpoints, Refusal> {
    level(message.needs_level)?;
    if message.endpoints.len() > SLICE_SIZE_MAX {
        return Err(invalid("a slice holds more than 100 endpoints"));
    }
    let table: Vec<Arc<Description>> =
        message.descriptions.into_iter().map(|held| Arc::new(description_from_wire(held))).collect();
    Ok(Endpoints {
        target: target_from_wire(message.service, &message.direct_uid)?,
        port: port(message.port)?,
        slice: message.slice,
        endpoints: each(message.endpoints, |held| endpoint(held, &table))?,
    })
}

fn endpoint(message: v1::Endpoint, table: &[Arc<Description>]) -> Result<Endpoint, Refusal> {
    let wire = match v1::Wire::try_from(message.wire) {
        Ok(v1::Wire::Weft) => Wire::Weft(parse(&message.identity)?),
        Ok(v1::Wire::Plain) if message.identity.is_empty() => Wire::Plain,
        Ok(v1::Wire::Plain) => return Err(invalid("a plain endpoint has an identity")),
        Ok(v1::Wire::Unspecified) | Err(_) => return Err(missing("an endpoint's wire")),
    };
    let health = match v1::Health::try_from(message.health) {
        Ok(v1::Health::Ready) => Health::Ready,
        Ok(v1::Health::Draining) => Health::Draining,
        Ok(v1::Health::Unready) => Health::Unready,
        Ok(v1::Health::Unspecified) | Err(_) => return Err(missing("an endpoint's health")),
    };
    let description = usize::try_from(message.description)
        .ok()
        .and_then(|index| table.get(index))
        .ok_or_else(|| invalid("an endpoint's description is not in the table"))?;
    Ok(Endpoint {
        uid: parse(&message.uid)?,
        address: parse(&message.address)?,
        wire,
        weight: message.weight,
        zone: message.zone.into(),
        health,
        description: description.clone(),
    })
}
