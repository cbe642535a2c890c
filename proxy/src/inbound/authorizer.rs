//! External authorizers: the action CUSTOM, by Envoy's `ext_authz` protocol (gRPC).
//!
//! The authorizer is a Service of the mesh, so the question goes out by this workload's own outbound
//! way: mutual TLS, balanced, pooled, retried while undelivered. One deadline is around all of it. No
//! answer, or one that is not understood, is no agreement, unless the provider is told to fail open.

use super::connection::Connection;
use super::token::keep_unnominated;
use crate::h1::Handler;
use crate::http::{
    Body, HeaderError, Headers, Known, Method, Request, RequestHead, Response, StatusCode, Version,
};
use crate::outbound::{Target, http::Outbound};
use crate::policy::Asked;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};
use weft_model::mesh::ExtensionProvider;
use weft_model::proto::ext_authz as wire;
use weft_model::proto::ext_authz::check_response::HttpResponse;
use weft_model::reason::Reason;

/// The largest answer that is read: a page for people, with its headers.
const ANSWER_LENGTH_MAX: usize = 256 * 1024;
/// The most fields that an authorizer may set or remove.
const EDITS_MAX: usize = 64;
/// The path of the call.
const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Fields that no authorizer may touch, beside the mesh's own: they frame or route the message.
const UNTOUCHABLE: [Known; 8] = [
    Known::Host,
    Known::ContentLength,
    Known::TransferEncoding,
    Known::Connection,
    Known::KeepAlive,
    Known::Te,
    Known::Upgrade,
    Known::ProxyConnection,
];

/// What the authorizer said.
#[derive(Debug)]
pub enum Answer {
    /// Go on, with these edits.
    Agreed(Edits),
    /// This is what the client is to get.
    Denied(Box<Response>),
    /// It said nothing that counts.
    Failed(String),
}

/// What becomes of a request that may go on.
#[derive(Debug, Default)]
pub struct Edits {
    request: Vec<Edit>,
    remove: Vec<String>,
    /// Fields for the answer.
    pub response: Vec<(String, Vec<u8>)>,
}

/// An agreement, kept for as long as what was agreed to is open: it is judged again with the same edits.
#[derive(Debug)]
pub struct Agreed {
    /// Whose it is, as MeshConfig names it.
    pub provider: Box<str>,
    /// What became of the request.
    pub edits: Edits,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Edit {
    how: How,
    name: String,
    value: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    Append,
    AddIfAbsent,
    Set,
    SetIfPresent,
}

/// Asks about a request, or about a connection of opaque bytes. `body`: its length, if that is known.
pub async fn ask(
    connection: &Connection,
    provider: &ExtensionProvider,
    head: Option<(&RequestHead, Option<u64>)>,
) -> Answer {
    let question = question(connection, head);
    let call = call(connection, provider, &question);
    match tokio::time::timeout(provider.timeout, call).await {
        Ok(Ok(response)) => understand(response),
        Ok(Err(why)) => Answer::Failed(why),
        Err(_) => Answer::Failed("it did not answer in time".to_owned()),
    }
}

async fn call(
    connection: &Connection,
    provider: &ExtensionProvider,
    question: &wire::CheckRequest,
) -> Result<wire::CheckResponse, String> {
    let target = Target::Destination { asked: Asked::Service(provider.service.clone()), port: provider.port };
    let outbound = Outbound::of_the_proxy(connection.worker().clone(), connection.local(), target);
    let request = grpc_request(provider, question).map_err(|error| error.to_string())?;
    let mut response = outbound.call(request).await;
    if let Some(reason) = response.head.headers().get_str(Known::XWeftReason) {
        return Err(format!("it could not be asked: {reason}"));
    }
    if response.head.status != StatusCode::OK {
        return Err(format!("it answered with status {}", response.head.status.as_u16()));
    }
    let (body, trailers) =
        response.body.collect(ANSWER_LENGTH_MAX).await.map_err(|error| error.to_string())?;
    let said = trailers.as_ref().unwrap_or_else(|| response.head.headers());
    match said.get_str(Known::GrpcStatus) {
        Some("0") => {}
        Some(status) => return Err(format!("its gRPC status is {status:.16?}")),
        None => return Err("its answer has no gRPC status".to_owned()),
    }
    let message = unframe(&body).ok_or("its answer is not one gRPC message")?;
    wire::CheckResponse::decode(message).map_err(|_| "its answer is not a CheckResponse".to_owned())
}

fn grpc_request(provider: &ExtensionProvider, question: &wire::CheckRequest) -> Result<Request, HeaderError> {
    let length = question.encoded_len();
    let mut framed = BytesMut::with_capacity(length + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).map_err(|_| HeaderError::TooLarge)?);
    // A buffer that grows has room.
    let _ = question.encode(&mut framed);
    let mut headers = Headers::with_capacity(4, 256);
    headers.append_known(Known::ContentType, b"application/grpc")?;
    headers.append_known(Known::Te, b"trailers")?;
    let timeout = provider.timeout.as_millis().min(99_999_999);
    headers.append("grpc-timeout", format!("{timeout}m").as_bytes())?;
    let service = &provider.service;
    let authority = format!("{}.{}:{}", service.name, service.namespace, provider.port);
    let head = RequestHead::new(Method::POST, Version::Http2, &authority, PATH, headers)?;
    Ok(Request::new(head, Body::from(framed.freeze())))
}

fn unframe(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *prefix;
    (compressed == 0 && u32::from_be_bytes(length) as usize == message.len()).then_some(message)
}

// === The question ===

fn question(connection: &Connection, head: Option<(&RequestHead, Option<u64>)>) -> wire::CheckRequest {
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
    let request = head.map(|(head, length)| wire::attribute_context::Request {
        time: Some(now()),
        http: Some(http(head, length)),
    });
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

fn http(head: &RequestHead, length: Option<u64>) -> wire::attribute_context::HttpRequest {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for field in head.headers().iter() {
        // What is not UTF-8 is shown as what it is: somebody must see that there is a value.
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
    }
}

// === The answer ===

fn understand(response: wire::CheckResponse) -> Answer {
    let code = response.status.map_or(0, |status| status.code);
    match (code, response.http_response) {
        (0, None) => Answer::Agreed(Edits::default()),
        (0, Some(HttpResponse::OkResponse(agreed))) => match edits(agreed) {
            Ok(edits) => Answer::Agreed(edits),
            Err(why) => Answer::Failed(why),
        },
        // A no stays a no, however it is worded: `failOpen` is for silence.
        (_, Some(HttpResponse::DeniedResponse(denied))) => {
            let response = denial(denied).unwrap_or_else(|why| {
                tracing::warn!(why, "an authorizer's denial is not passed on as it is worded");
                Response::local(Reason::ExternalAuthorizerDenied)
            });
            Answer::Denied(Box::new(response))
        }
        (_, None | Some(HttpResponse::OkResponse(_))) => {
            Answer::Denied(Box::new(Response::local(Reason::ExternalAuthorizerDenied)))
        }
    }
}

fn edits(agreed: wire::OkHttpResponse) -> Result<Edits, String> {
    if !(agreed.query_parameters_to_set.is_empty() && agreed.query_parameters_to_remove.is_empty()) {
        return Err("it wants to change the query, which is not supported".to_owned());
    }
    let count = agreed.headers.len() + agreed.headers_to_remove.len() + agreed.response_headers_to_add.len();
    if count > EDITS_MAX {
        return Err("it wants to change too many fields".to_owned());
    }
    for name in &agreed.headers_to_remove {
        check_name(name)?;
    }
    let mut edits = Edits { remove: agreed.headers_to_remove, ..Edits::default() };
    for option in agreed.headers {
        edits.request.push(edit(option)?);
    }
    for option in agreed.response_headers_to_add {
        let edit = edit(option)?;
        edits.response.push((edit.name, edit.value));
    }
    Ok(edits)
}

fn edit(option: wire::HeaderValueOption) -> Result<Edit, String> {
    let append = option.append.is_some_and(|append| append.value);
    let how = match (append, option.append_action) {
        (true, 0) => How::Append,
        (false, 1) => How::AddIfAbsent,
        (false, 3) => How::SetIfPresent,
        // Unlike elsewhere in Envoy, an authorizer that says nothing overwrites.
        (false, 0 | 2) => How::Set,
        _ => return Err("it says in two ways how a field is to be added".to_owned()),
    };
    let header = option.header.ok_or("it wants to set a field without a name")?;
    check_name(&header.key)?;
    let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
    if !crate::http::is_value(&value) {
        return Err("it wants to set a field to what is no value".to_owned());
    }
    Ok(Edit { how, name: header.key, value })
}

fn check_name(name: &str) -> Result<(), String> {
    let known = Known::of(name.as_bytes());
    if !crate::http::is_token(name.as_bytes())
        || crate::http::respond::is_internal(name.as_bytes())
        || UNTOUCHABLE.contains(&known)
    {
        return Err(format!("it wants to change the field {name:.64?}"));
    }
    Ok(())
}

fn denial(denied: wire::DeniedHttpResponse) -> Result<Response, String> {
    let code = denied.status.map_or(403, |status| status.code);
    let status = u16::try_from(code).ok().filter(|code| (200..600).contains(code));
    let status = status.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("its status is no status")?;
    let mut response = Response::local(Reason::ExternalAuthorizerDenied);
    response.head.set_status(status);
    if denied.headers.len() > EDITS_MAX {
        return Err("it wants to set too many fields".to_owned());
    }
    // 204 and 304 end with their head (RFC 9110, section 6.4.1).
    if matches!(status.as_u16(), 204 | 304) {
        response.body = Body::Empty;
    } else if !denied.body.is_empty() {
        response.body = Body::from(Bytes::from(denied.body));
    }
    for option in denied.headers {
        apply(response.head.headers_mut(), &edit(option)?).map_err(|error| error.to_string())?;
    }
    Ok(response)
}

impl Edits {
    /// Whether what is forwarded is to be another request than came.
    pub fn changes_the_request(&self) -> bool {
        !(self.request.is_empty() && self.remove.is_empty())
    }

    /// Edits the request. What it must not touch was refused before.
    pub fn apply(&self, headers: &mut Headers) -> Result<(), HeaderError> {
        let set =
            |name: &[u8]| self.request.iter().any(|edit| edit.name.as_bytes().eq_ignore_ascii_case(name));
        keep_unnominated(headers, set);
        for name in &self.remove {
            headers.remove_name(name);
        }
        self.request.iter().try_for_each(|edit| apply(headers, edit))
    }
}

fn apply(headers: &mut Headers, edit: &Edit) -> Result<(), HeaderError> {
    let Edit { how, name, value } = edit;
    let present = headers.find(name).is_some();
    match how {
        How::Append => headers.append(name, value),
        How::AddIfAbsent if present => Ok(()),
        How::SetIfPresent if !present => Ok(()),
        How::AddIfAbsent | How::SetIfPresent | How::Set => headers.insert(name, value),
    }
}

#[cfg(test)]
mod tests;
