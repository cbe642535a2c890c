//! An external authorizer: a gRPC server that speaks Envoy's `ext_authz`, and answers as the request's own
//! header `x-ask` says, or as [`Authorizer::wishes`] where there is none, as about opaque bytes.
//!
//! | wish | answer |
//! |---|---|
//! | `deny` | 429 with a field and a body |
//! | `huge` | the same with 300 KiB |
//! | `edit` | agreed, with edits of request and answer |
//! | `smuggle` | agreed, with an edit that frames the message |
//! | `error` | gRPC status 13 |
//! | `status N` | gRPC status N, and an agreement |
//! | `nothing` | an empty message |
//! | `garbage` | no message |
//! | `silence` | none |
//! | `wait W` | W, once [`Authorizer::release`] is called |
//! | anything else | agreed |

use crate::http2::send_all;
use crate::wait;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use weft_model::proto::ext_authz as wire;

/// A running authorizer.
#[derive(Debug)]
pub struct Authorizer {
    address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    asked: Mutex<Vec<Asked>>,
    wish: Mutex<String>,
    released: watch::Sender<u64>,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The path of the call, and the identity that its proxy proved.
    pub call: (String, String),
    /// What it is about.
    pub attributes: wire::AttributeContext,
    /// The message as it came.
    pub message: Vec<u8>,
}

impl Asked {
    /// What it says of the request.
    pub fn http(&self) -> &wire::attribute_context::HttpRequest {
        let request = self.attributes.request.as_ref().expect("the question is about a request");
        request.http.as_ref().expect("the request is HTTP")
    }
}

impl Authorizer {
    /// Starts one.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state: Arc<State> = Arc::default();
        let shared = state.clone();
        let task = wait::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                wait::spawn(serve(stream, shared.clone()));
            }
        });
        Self { address, state, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All questions so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().expect("no panic while it is held").clone()
    }

    /// Waits until so many questions have come.
    pub async fn arrived(&self, count: usize) {
        wait::until("the authorizer is asked", async || self.asked().len() >= count).await;
    }

    /// What it does about questions that bring no wish of their own.
    pub fn wishes(&self, wish: &str) {
        wish.clone_into(&mut self.state.wish.lock().expect("no panic while it is held"));
    }

    /// Answers what waits now.
    pub fn release(&self) {
        self.state.released.send_modify(|count| *count += 1);
    }
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let Ok(mut server) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = server.accept().await {
        let state = state.clone();
        wait::spawn(async move {
            let _ = answer(request, respond, &state).await;
        });
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: &State,
) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let mut framed = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        framed.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    let message = framed.get(5..).unwrap_or_default().to_vec();
    let question = wire::CheckRequest::decode(&*message).unwrap_or_default();
    let attributes = question.attributes.unwrap_or_default();
    let certificate = parts.headers.get("x-forwarded-client-cert");
    let certificate = certificate.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let call = (parts.uri.path().to_owned(), certificate);
    let heard = Asked { call, attributes, message };
    let http = heard.attributes.request.as_ref().and_then(|request| request.http.as_ref());
    let own = http.and_then(|http| http.headers.get("x-ask")).cloned();
    let wish = own.unwrap_or_else(|| state.wish.lock().expect("no panic while it is held").clone());
    let mut released = state.released.subscribe();
    let before = *released.borrow();
    state.asked.lock().expect("no panic while it is held").push(heard);
    let wish = match wish.strip_prefix("wait ") {
        Some(wish) => {
            // The sender lives in the state, so this ends only by a release.
            let _ = released.wait_for(|count| *count > before).await;
            wish
        }
        None => wish.as_str(),
    };
    let message = match wish {
        "silence" => std::future::pending().await,
        "garbage" => vec![0xff; 20],
        "nothing" => Vec::new(),
        wish => say(wish).encode_to_vec(),
    };
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
    let mut send = respond.send_response(head, false)?;
    send_all(&mut send, crate::http2::frame(&message), false).await?;
    let mut trailers = HeaderMap::new();
    let status = if wish == "error" { "13" } else { wish.strip_prefix("status ").unwrap_or("0") };
    trailers.insert("grpc-status", HeaderValue::from_str(status).expect("a number"));
    send.send_trailers(trailers)
}

fn say(wish: &str) -> wire::CheckResponse {
    use wire::check_response::HttpResponse;
    let option = |key: &str, value: &str| wire::HeaderValueOption {
        header: Some(wire::HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() }),
        ..Default::default()
    };
    let code = |code| Some(wire::Status { code, message: String::new() });
    match wish {
        "deny" | "huge" => wire::CheckResponse {
            status: code(7),
            http_response: Some(HttpResponse::DeniedResponse(wire::DeniedHttpResponse {
                status: Some(wire::HttpStatus { code: 429 }),
                headers: vec![option("x-why", "not today")],
                body: if wish == "huge" { "x".repeat(300 << 10) } else { "come back tomorrow".into() },
            })),
        },
        "edit" => wire::CheckResponse {
            status: None,
            http_response: Some(HttpResponse::OkResponse(wire::OkHttpResponse {
                headers: vec![option("x-user", "joe")],
                headers_to_remove: vec!["x-ask".into()],
                response_headers_to_add: vec![option("x-judged", "yes")],
                ..Default::default()
            })),
        },
        "smuggle" => wire::CheckResponse {
            status: None,
            http_response: Some(HttpResponse::OkResponse(wire::OkHttpResponse {
                headers: vec![option("content-length", "5")],
                ..Default::default()
            })),
        },
        _ => wire::CheckResponse { status: code(0), http_response: None },
    }
}
