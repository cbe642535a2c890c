//! External authorizers: the action CUSTOM, by Envoy's `ext_authz` protocol (gRPC).
//!
//! The authorizer is a Service of the mesh, so the question goes out by this workload's own outbound
//! way: mutual TLS, balanced, pooled, retried while undelivered. One deadline is around all of it. No
//! answer, or one that is not understood, is no agreement, unless the provider is told to fail open.

pub mod shown;

mod question;

use super::connection::Connection;
use crate::h1::Handler;
use crate::http::{
    Body, HeaderError, Headers, Known, Method, Request, RequestHead, Response, StatusCode, Version, respond,
};
use crate::outbound::{Target, http::Outbound};
use crate::policy::Asked;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use question::question;
use shown::Shown;
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
    /// It said something that cannot be done as it was said: a denial, also where silence would be none.
    Unfit(String),
}

/// What becomes of a request that may go on.
#[derive(Debug, Default)]
pub struct Edits {
    request: Vec<Edit>,
    remove: Vec<String>,
    /// Those of the answer.
    pub response: Vec<Edit>,
}

/// An agreement, kept for as long as what was agreed to is open: it is judged again with the same edits.
#[derive(Debug)]
pub struct Agreed {
    /// Whose it is, as MeshConfig names it.
    pub provider: Box<str>,
    /// What became of the request.
    pub edits: Edits,
}

/// What becomes of one field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edit {
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

/// A request that is asked about.
#[derive(Debug)]
pub struct About<'r> {
    /// Its head.
    pub head: &'r RequestHead,
    /// The length of its body, if that is known.
    pub length: Option<u64>,
    /// As much of its body as the authorizer is shown.
    pub body: Option<Shown>,
}

/// Asks about a request, or about a connection of opaque bytes.
pub async fn ask(connection: &Connection, provider: &ExtensionProvider, about: Option<About<'_>>) -> Answer {
    let call = call(connection, provider, question(connection, about));
    match tokio::time::timeout(provider.timeout, call).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(why)) => Answer::Failed(why),
        Err(_) => Answer::Failed("it did not answer in time".to_owned()),
    }
}

async fn call(
    connection: &Connection,
    provider: &ExtensionProvider,
    question: wire::CheckRequest,
) -> Result<Answer, String> {
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
    let (body, trailers) = match response.body.collect(ANSWER_LENGTH_MAX).await {
        Ok(whole) => whole,
        // It may have been a no.
        Err(error) if error.reason == Reason::Overloaded => {
            return Ok(Answer::Unfit("its answer is too long".to_owned()));
        }
        Err(error) => return Err(error.to_string()),
    };
    let said = trailers.as_ref().unwrap_or_else(|| response.head.headers());
    match said.get_str(Known::GrpcStatus) {
        Some("0") => {}
        // PERMISSION_DENIED and UNAUTHENTICATED: a no, in other words than a message.
        Some("7" | "16") => {
            return Ok(Answer::Denied(Box::new(Response::local(Reason::ExternalAuthorizerDenied))));
        }
        Some(status) => return Err(format!("its gRPC status is {status:.16?}")),
        None => return Err("its answer has no gRPC status".to_owned()),
    }
    let message = unframe(&body).ok_or("its answer is not one gRPC message")?;
    let answer = wire::CheckResponse::decode(message).map_err(|_| "its answer is not a CheckResponse")?;
    if !is_known(message) {
        return Ok(Answer::Unfit("its answer says what is not understood".to_owned()));
    }
    Ok(understand(answer))
}

// Whether all fields of a CheckResponse are those that are read here, or Envoy's metadata for its own filters (4):
// one that is not read may be the no.
fn is_known(message: &[u8]) -> bool {
    let mut rest = message;
    while !rest.is_empty() {
        let Ok((tag, wire)) = decode_key(&mut rest) else { return false };
        if !(1..=4).contains(&tag) || skip_field(wire, tag, &mut rest, DecodeContext::default()).is_err() {
            return false;
        }
    }
    true
}

// Takes the question: a body that is shown must not be held twice while the answer is waited for.
fn grpc_request(provider: &ExtensionProvider, question: wire::CheckRequest) -> Result<Request, HeaderError> {
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

// === The answer ===

fn understand(response: wire::CheckResponse) -> Answer {
    let said = response.status.is_some();
    let code = response.status.map_or(0, |status| status.code);
    match (code, response.http_response) {
        (0, None) if said => Answer::Agreed(Edits::default()),
        (0, None) => Answer::Failed("its answer says neither yes nor no".to_owned()),
        // What it agrees to is the request as it would have it: without the edits it is another.
        (0, Some(HttpResponse::OkResponse(agreed))) => match edits(agreed) {
            Ok(edits) => Answer::Agreed(edits),
            Err(why) => Answer::Unfit(why),
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
    // Of the request's fields one without a word on how is overwritten, as in Envoy; one of the answer's is added.
    for option in agreed.headers {
        edits.request.push(edit(option, How::Set)?);
    }
    for option in agreed.response_headers_to_add {
        edits.response.push(edit(option, How::Append)?);
    }
    Ok(edits)
}

// `unsaid`: how, where it does not say.
fn edit(option: wire::HeaderValueOption, unsaid: How) -> Result<Edit, String> {
    let append = option.append.map(|append| append.value);
    let how = match (append, option.append_action) {
        (None, 0) => unsaid,
        (Some(true), 0) => How::Append,
        (Some(false), 0) | (_, 2) if append != Some(true) => How::Set,
        (_, 1) if append != Some(true) => How::AddIfAbsent,
        (_, 3) if append != Some(true) => How::SetIfPresent,
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
        || respond::is_internal(name.as_bytes())
        || UNTOUCHABLE.contains(&known)
    {
        return Err(format!("it wants to change the field {name:.64?}"));
    }
    Ok(())
}

/// What is answered where it could not be asked.
pub fn failure(provider: &ExtensionProvider, grpc: bool) -> Response {
    let mut response = Response::local(Reason::ExternalAuthorizerFailed);
    // The reason's own grpc-status goes with the reason's own status.
    if provider.status_on_error != response.head.status.as_u16()
        && let Ok(status) = StatusCode::from_u16(provider.status_on_error)
    {
        response.head.set_status(status);
        if grpc {
            let status = respond::grpc_status(status).to_string();
            // A number follows the grammar.
            let _ = response.head.headers_mut().append_known(Known::GrpcStatus, status.as_bytes());
        }
    }
    response
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
        edit(option, How::Set)?.apply(response.head.headers_mut()).map_err(|error| error.to_string())?;
    }
    Ok(response)
}

impl Edits {
    /// Whether what is forwarded is to be another request than came.
    pub fn changes_the_request(&self) -> bool {
        !(self.request.is_empty() && self.remove.is_empty())
    }

    /// The fields of the request that it decides about.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let set = self.request.iter().filter(|edit| edit.how == How::Set).map(|edit| &*edit.name);
        set.chain(self.remove.iter().map(|name| &**name))
    }

    /// Edits the request. What it must not touch was refused before.
    pub fn apply(&self, headers: &mut Headers) -> Result<(), HeaderError> {
        for name in &self.remove {
            headers.remove_spellings(name);
        }
        self.request.iter().try_for_each(|edit| edit.apply(headers))
    }
}

impl Edit {
    /// Edits a request or an answer.
    pub fn apply(&self, headers: &mut Headers) -> Result<(), HeaderError> {
        let Self { how, name, value } = self;
        let present = headers.find(name).is_some();
        match how {
            How::Append => headers.append(name, value),
            How::AddIfAbsent if present => Ok(()),
            How::SetIfPresent if !present => Ok(()),
            How::AddIfAbsent | How::SetIfPresent | How::Set => {
                headers.insert(name, value)?;
                // What a client calls almost so would speak beside it.
                headers.keep_spelling(name);
                Ok(())
            }
        }
    }
}

/// Whether all of a request can be shown as it will be forwarded: the protocol has text alone.
pub fn is_showable(head: &RequestHead) -> bool {
    head.headers().iter().all(|field| field.value_str().is_some())
}

#[cfg(test)]
mod tests;
