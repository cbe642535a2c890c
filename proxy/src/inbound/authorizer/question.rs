//! What an external authorizer is told: the ends of the connection, and the request.

use super::About;
use super::shown::{Content, Shown};
use crate::http::Known;
use crate::inbound::connection::Connection;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};
use weft_model::proto::ext_authz as wire;

/// Says whether a body that is shown is only its beginning.
const PARTIAL: &str = "x-envoy-auth-partial-body";

/// What an authorizer is told.
pub(super) fn question(connection: &Connection, about: Option<About<'_>>) -> wire::CheckRequest {
    let identity = |id: &weft_model::spiffe::SpiffeId| id.as_str().to_owned();
    let source = wire::attribute_context::Peer {
        address: Some(address(connection.client())),
        principal: connection.peer().map(|peer| identity(&peer.identity)).unwrap_or_default(),
        ..Default::default()
    };
    let own = connection.worker().policy.current().own.workload.clone();
    let destination = wire::attribute_context::Peer {
        address: Some(address(connection.local())),
        principal: own.map(|own| identity(&own.identity())).unwrap_or_default(),
        ..Default::default()
    };
    let tls_session = connection.sni().map(|sni| wire::attribute_context::TlsSession { sni: sni.to_owned() });
    let request =
        about.map(|about| wire::attribute_context::Request { time: Some(now()), http: Some(http(about)) });
    let attributes = wire::AttributeContext {
        source: Some(source),
        destination: Some(destination),
        request,
        context_extensions: BTreeMap::new(),
        tls_session,
    };
    wire::CheckRequest { attributes: Some(attributes) }
}

fn address(address: SocketAddr) -> wire::Address {
    wire::Address {
        socket_address: Some(wire::SocketAddress {
            protocol: 0,
            address: address.ip().to_canonical().to_string(),
            port_value: address.port().into(),
        }),
    }
}

fn now() -> wire::Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    wire::Timestamp {
        seconds: i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX),
        nanos: elapsed.subsec_nanos().cast_signed(),
    }
}

fn http(about: About<'_>) -> wire::attribute_context::HttpRequest {
    let About { head, length, body } = about;
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for field in head.headers().iter() {
        // It is UTF-8: other requests were refused.
        let value = String::from_utf8_lossy(field.value);
        headers
            .entry(field.name_str().to_ascii_lowercase())
            .and_modify(|held| {
                held.push(',');
                held.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    // As HTTP/2 has them, and Envoy shows them.
    headers.remove("host");
    headers.insert(":method".to_owned(), head.method.as_str().to_owned());
    headers.insert(":path".to_owned(), head.path_and_query().to_owned());
    headers.insert(":authority".to_owned(), head.authority().to_owned());
    headers.insert(":scheme".to_owned(), head.scheme.as_str().to_owned());
    // Our word for it: what a client says of it is nobody's.
    headers.remove(PARTIAL);
    let (mut text, mut bytes) = (String::new(), Vec::new());
    if let Some(Shown { content, partial }) = body {
        headers.insert(PARTIAL.to_owned(), partial.to_string());
        match content {
            Content::Text(shown) => text = shown,
            Content::Bytes(shown) => bytes = shown,
        }
    }
    wire::attribute_context::HttpRequest {
        id: head.headers().get_str(Known::XRequestId).unwrap_or_default().to_owned(),
        method: head.method.as_str().to_owned(),
        headers,
        path: head.path_and_query().to_owned(),
        host: head.authority().to_owned(),
        scheme: head.scheme.as_str().to_owned(),
        query: String::new(),
        size: length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1),
        protocol: head.version.as_str().to_owned(),
        body: text,
        raw_body: bytes,
    }
}
