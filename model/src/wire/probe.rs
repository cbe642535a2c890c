//! `weft.v1.Probe`.

use super::{Refusal, invalid, missing, port};
use crate::probe::{Check, GrpcCheck, HttpCheck, Probe};
use crate::proto::v1;
use v1::probe::Check as Message;

pub(super) fn to_wire(probe: &Probe) -> v1::Probe {
    let check = match &probe.check {
        Check::Http(http) => Message::Http(v1::HttpProbe {
            path_and_query: match http.query() {
                Some(query) => format!("{}?{query}", http.path()),
                None => http.path().to_owned(),
            },
            authority: http.authority().unwrap_or_default().to_owned(),
            headers: http
                .fields()
                .map(|(name, value)| v1::ProbeHeader { name: name.to_owned(), value: value.to_owned() })
                .collect(),
        }),
        Check::Https => Message::Https(v1::HttpsProbe {}),
        Check::Grpc(grpc) => Message::Grpc(v1::GrpcProbe { service: grpc.service().to_owned() }),
        Check::Tcp => Message::Tcp(v1::TcpProbe {}),
    };
    v1::Probe { port: probe.port.into(), check: Some(check) }
}

pub(super) fn from_wire(message: v1::Probe) -> Result<Probe, Refusal> {
    let check = match message.check.ok_or_else(|| missing("a probe"))? {
        Message::Http(http) => {
            let fields: Vec<_> =
                http.headers.iter().map(|field| (field.name.as_str(), field.value.as_str())).collect();
            let authority = Some(http.authority.as_str()).filter(|authority| !authority.is_empty());
            Check::Http(HttpCheck::new(&http.path_and_query, authority, &fields).map_err(invalid)?)
        }
        Message::Https(_) => Check::Https,
        Message::Grpc(grpc) => Check::Grpc(GrpcCheck::new(&grpc.service).map_err(invalid)?),
        Message::Tcp(_) => Check::Tcp,
    };
    Ok(Probe { port: port(message.port)?, check })
}
