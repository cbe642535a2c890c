//! What this proxy knows and believes, as JSON for people and tools. Certificates without keys,
//! tokens not at all.

use crate::policy::{Destination, DestinationPort, Policy, Resolution};
use crate::shared::Shared;
use crate::tls::own::OwnResolver;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use weft_model::endpoints::{Endpoint, Health, Wire};
use weft_model::names::{ResourceName, WorkloadUid};
use weft_model::probe::{Check, Probe};
use weft_model::service::Protocol;

/// Everything.
pub fn dump(shared: &Shared) -> Value {
    let policy = shared.policy.current();
    let listeners: Vec<Value> = shared
        .settings
        .listeners()
        .into_iter()
        .map(|(setting, address)| json!({ "setting": setting, "address": address.to_string() }))
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "workload": shared.settings.workload.as_str(),
        "ready": shared.readiness.is_ready(),
        "missing": shared.readiness.missing(),
        "drain": format!("{:?}", shared.drain.phase()).to_lowercase(),
        "open": shared.drain.open(),
        "listeners": listeners,
        "certificate": shared.tls.certificate().map(|own| certificate(&own)),
        "trustDomains": shared.tls.trust_domains().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "policy": own(&policy),
        "plaintextClients": plaintext_clients(shared),
        "destinations": destinations(&policy),
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn certificate(own: &OwnResolver) -> Value {
    let own = own.own();
    json!({
        "identity": own.identity().as_str(),
        "serial": own.serial(),
        "workload": own.uid().map(ToString::to_string),
        "notBefore": seconds(own.not_before()),
        "notAfter": seconds(own.not_after()),
    })
}

fn names(names: &[ResourceName]) -> Vec<&str> {
    names.iter().map(ResourceName::as_str).collect()
}

fn own(policy: &Policy) -> Value {
    let workload = policy.own.workload.as_ref().map(|workload| {
        let modes: Vec<Value> = workload
            .ports
            .iter()
            .map(|held| {
                json!({
                    "port": held.port,
                    "protocol": protocol(held.protocol),
                    "tls": format!("{:?}", policy.own.tls.of_port(held.port)).to_uppercase(),
                    "services": held
                        .services
                        .iter()
                        .map(|(service, port)| format!("{service}:{port}"))
                        .collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "uid": workload.uid.as_str(),
            "identity": workload.identity().as_str(),
            "ports": modes,
            "authorizations": names(&workload.authorizations),
            "peerAuthentications": names(&workload.peer_authentications),
            "requestAuthentications": names(&workload.request_authentications),
            "probes": workload.probes.iter().map(probe).collect::<Vec<_>>(),
        })
    });
    json!({
        "generation": policy.generation.as_ref().map(ToString::to_string),
        "stale": policy.stale,
        "tooOld": policy.too_old,
        "nodeCidrs": policy.config.node_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "workload": workload,
    })
}

fn probe(probe: &Probe) -> Value {
    let port = probe.port;
    match &probe.check {
        Check::Http(check) => json!({
            "port": port,
            "kind": "http",
            "path": check.path(),
            "query": check.query(),
            "host": check.authority(),
            // Their values may be secrets.
            "headers": check.fields().map(|(name, _)| name).collect::<Vec<_>>(),
        }),
        Check::Https => json!({ "port": port, "kind": "https" }),
        Check::Grpc(check) => json!({ "port": port, "kind": "grpc", "service": check.service() }),
        Check::Tcp => json!({ "port": port, "kind": "tcp" }),
    }
}

fn plaintext_clients(shared: &Shared) -> Value {
    let (clients, others) = shared.plaintext_clients.list();
    let clients: Vec<Value> = clients
        .iter()
        .map(|client| {
            json!({
                "address": client.address.to_string(),
                "port": client.port,
                "workload": client.workload.as_ref().map(WorkloadUid::as_str),
                "admitted": client.admitted,
                "refused": client.refused,
                "secondsAgo": client.last.elapsed().as_secs(),
            })
        })
        .collect();
    json!({ "clients": clients, "connectionsOfOthers": others })
}

fn destinations(policy: &Policy) -> Vec<Value> {
    let mut all: Vec<(String, Value)> = policy
        .destinations
        .iter()
        .map(|(asked, resolution)| {
            let asked = asked.wire_name();
            let found = match resolution {
                Resolution::Absent => json!({ "asked": asked, "absent": true }),
                Resolution::Known(destination) => json!({
                    "asked": asked,
                    "name": destination.name.as_str(),
                    "ports": destination.ports.iter().map(|held| port(destination, held)).collect::<Vec<_>>(),
                }),
            };
            (asked, found)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, value)| value).collect()
}

fn port(destination: &Destination, held: &DestinationPort) -> Value {
    let routes = destination.service.port(held.port).map(|port| names(&port.routes)).unwrap_or_default();
    let mut backends: Vec<Value> = held
        .backends
        .iter()
        .map(|((service, port), view)| {
            json!({ "service": format!("{service}:{port}"), "endpoints": endpoints(view) })
        })
        .collect();
    backends.sort_by_key(|backend| backend["service"].as_str().map(str::to_owned));
    json!({
        "port": held.port,
        "protocol": protocol(held.protocol),
        "routes": routes,
        "unresolved": held.unresolved.as_ref().map(ResourceName::as_str),
        "endpoints": endpoints(held),
        "backends": backends,
    })
}

fn endpoints(held: &DestinationPort) -> Vec<Value> {
    held.endpoints.endpoints.iter().map(|endpoint| self::endpoint(endpoint)).collect()
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let identity = match &endpoint.wire {
        Wire::Weft(identity) => Some(identity.as_str()),
        Wire::Plain => None,
    };
    json!({
        "uid": endpoint.uid.as_str(),
        "address": endpoint.address.to_string(),
        "identity": identity,
        "weight": endpoint.weight,
        "zone": &*endpoint.zone,
        "health": match endpoint.health {
            Health::Ready => "ready",
            Health::Draining => "draining",
            Health::Unready => "unready",
        },
    })
}

fn protocol(protocol: Protocol) -> String {
    format!("{protocol:?}").to_lowercase()
}
