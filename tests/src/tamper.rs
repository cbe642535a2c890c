//! Stands between a proxy and the control API and spoils what is pushed: for what a right control API
//! never sends.
//!
//! It shows the proxy a certificate of the control API's own identity and the control API one of the
//! workload's, both from the mesh's own authority; passes every call on; and lets a test change each
//! response on its way.

use crate::certificate::{Authority, Shape, handshake};
use crate::http2::send_all;
use crate::mesh::TRUST_DOMAIN;
use crate::wait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use prost::Message;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use weft_model::proto::discovery::DeltaDiscoveryResponse;
use weft_model::proto::v1::CertifyResponse;

/// What is done to a response.
type Change<M> = Box<dyn FnMut(&mut M) + Send>;

/// What is done to responses.
#[derive(Default)]
struct Changes {
    discovery: Option<Change<DeltaDiscoveryResponse>>,
    certificate: Option<Change<CertifyResponse>>,
}

/// Which kind of response a call brings.
#[derive(Clone, Copy)]
enum Call {
    Discovery,
    Certificate,
}

/// A control API with a hand on its mouth.
pub struct Tamper {
    address: SocketAddr,
    changes: Arc<Mutex<Changes>>,
    task: tokio::task::JoinHandle<()>,
}

impl Tamper {
    /// Between the workload of this identity and the control API at `control`.
    pub async fn start(authority: &Authority, identity: &str, control: SocketAddr) -> Self {
        let server = format!("spiffe://{TRUST_DOMAIN}/ns/weft-system/sa/weft-control");
        let acceptor = TlsAcceptor::from(authority.issue(&Shape::svid(&server)).server(b"h2"));
        let svid = Arc::new(authority.issue(&Shape::svid(identity)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let changes = Arc::<Mutex<Changes>>::default();
        let shared = changes.clone();
        let task = wait::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, svid, changes) = (acceptor.clone(), svid.clone(), shared.clone());
                wait::spawn(async move {
                    let upstream = handshake(control, Some(&svid), "control.invalid", &[b"h2"]);
                    let Ok(upstream) = upstream.await else { return };
                    let Ok((sender, connection)) = h2::client::handshake(upstream).await else { return };
                    wait::spawn(connection);
                    // What breaks here, the proxy tries again.
                    let _ = serve(stream, acceptor, sender, changes).await;
                });
            }
        });
        Self { address, changes, task }
    }

    /// Where the proxy is to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, does this to every discovery response.
    pub fn change(&self, change: impl FnMut(&mut DeltaDiscoveryResponse) + Send + 'static) {
        self.changes.lock().expect("no panic in a change").discovery = Some(Box::new(change));
    }

    /// From now on, does this to every certificate's response.
    pub fn change_certificates(&self, change: impl FnMut(&mut CertifyResponse) + Send + 'static) {
        self.changes.lock().expect("no panic in a change").certificate = Some(Box::new(change));
    }
}

impl Drop for Tamper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    upstream: SendRequest<Bytes>,
    changes: Arc<Mutex<Changes>>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = acceptor.accept(stream).await?;
    let mut server = h2::server::handshake(stream).await?;
    while let Some(call) = server.accept().await {
        let (request, respond) = call?;
        let (upstream, changes) = (upstream.clone(), changes.clone());
        wait::spawn(async move {
            let _ = pass(request, respond, upstream, changes).await;
        });
    }
    Ok(())
}

/// One call, both ways.
async fn pass(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    changes: Arc<Mutex<Changes>>,
) -> Result<(), h2::Error> {
    let (parts, up) = request.into_parts();
    let call = match parts.uri.path().rsplit('/').next() {
        Some("DeltaAggregatedResources") => Some(Call::Discovery),
        Some("Certify") => Some(Call::Certificate),
        _ => None,
    };
    let (response, send) = upstream.ready().await?.send_request(Request::from_parts(parts, ()), false)?;
    let uploading = wait::spawn(copy(up, send, None));
    let (parts, down) = response.await?.into_parts();
    let send = respond.send_response(Response::from_parts(parts, ()), false)?;
    copy(down, send, call.map(|call| (call, changes))).await?;
    uploading.abort();
    Ok(())
}

/// Passes a body on, message by message where they are changed.
async fn copy(
    mut from: RecvStream,
    mut to: SendStream<Bytes>,
    changed: Option<(Call, Arc<Mutex<Changes>>)>,
) -> Result<(), h2::Error> {
    let mut buffer = BytesMut::new();
    while let Some(data) = from.data().await {
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        let Some((call, changes)) = &changed else {
            send_all(&mut to, data, false).await?;
            continue;
        };
        buffer.put(data);
        while let Some(message) = next_message(&mut buffer) {
            let message = change(&message, *call, &mut changes.lock().expect("no panic in a change"));
            send_all(&mut to, message, false).await?;
        }
    }
    match from.trailers().await? {
        Some(trailers) => to.send_trailers(trailers),
        None => to.send_data(Bytes::new(), true),
    }
}

fn next_message(buffer: &mut BytesMut) -> Option<BytesMut> {
    let prefix = buffer.first_chunk::<5>()?;
    assert_eq!(prefix[0], 0, "messages are not compressed here");
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if buffer.len() < 5 + length {
        return None;
    }
    buffer.advance(5);
    Some(buffer.split_to(length))
}

fn change(message: &[u8], call: Call, changes: &mut Changes) -> Bytes {
    let message = match call {
        Call::Discovery => spoil(message, changes.discovery.as_mut()),
        Call::Certificate => spoil(message, changes.certificate.as_mut()),
    };
    crate::http2::frame(&message)
}

fn spoil<M: Message + Default>(message: &[u8], change: Option<&mut Change<M>>) -> Vec<u8> {
    let mut decoded = M::decode(message).expect("a response of the control API");
    if let Some(change) = change {
        change(&mut decoded);
    }
    decoded.encode_to_vec()
}
