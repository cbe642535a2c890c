//! What one exchange adds up to: counted while its bodies pass, told when its answer ends.
//!
//! The answer's body carries the record. When it ends, or is dropped because the client left, the
//! request is counted and, if asked for, written to the access log; what the exchange held (its
//! place among the requests in flight) is released at the same moment.

use crate::access_log::Entry;
use crate::deadline::Deadline;
use crate::http::{Body, BodyError, Frame, Headers, Known, LocalBody, RequestHead, Response, Revocable};
use crate::inbound::judge::Marks;
use crate::inbound::revoke::Live;
use crate::metrics::{Ends, Outcome};
use crate::outbound::verdict::Verdict;
use crate::overload::limiter::Places;
use crate::pool::InFlight;
use crate::timer::Timer;
use crate::worker::Worker;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;
use weft_model::reason::Reason;

/// The most of a path that is kept for the log.
const LOGGED_PATH_BYTES_MAX: usize = 512;

/// What is known of an exchange when its answer's head is there.
pub struct Record {
    /// Whose.
    pub worker: Rc<Worker>,
    /// When its head came in.
    pub started: Instant,
    /// Who took part.
    pub ends: Rc<Ends>,
    /// The client's address.
    pub client: SocketAddr,
    /// The endpoint that answered.
    pub endpoint: Option<SocketAddr>,
    /// How many tries it took.
    pub tries: u32,
    /// Whether it is gRPC.
    pub grpc: bool,
    /// Why the proxy answered itself.
    pub reason: Option<Reason>,
    /// More of the why, for the log.
    pub detail: Option<String>,
    /// What the log says of the request; kept only where the log may want it.
    pub logged: Option<Logged>,
    /// What it says beside the verdict.
    pub marks: Marks,
    /// Bytes of the request's body.
    pub request_bytes: RequestBytes,
    /// Which kind of the kubelet's probes it is.
    pub probe: Option<&'static str>,
    /// Releases the endpoint's count.
    pub in_flight: Option<InFlight>,
    /// Says when the answer must end although it would go on.
    pub live: Option<Rc<Live>>,
    /// When it must have ended.
    pub deadline: Option<Deadline>,
    /// Its places at the application, where those are limited.
    pub places: Places,
    /// What its end says of the endpoint, where that is not known from its head.
    pub verdict: Option<Verdict>,
}

/// Bytes of a request's body.
pub enum RequestBytes {
    /// Known from the start.
    Exact(u64),
    /// Counted as they pass.
    Counted(Rc<Cell<u64>>),
}

/// What the access log says of a request: one short text, since most are never asked for.
#[derive(Default)]
pub struct Logged {
    text: String,
    method: usize,
    authority: usize,
    protocol: &'static str,
}

impl Logged {
    /// Copies what a line needs.
    pub fn new(head: &RequestHead) -> Self {
        // Methods are at most 32 bytes, authorities 255; a path is cut.
        let path = head.path_and_query();
        let path = path.get(..path.len().min(LOGGED_PATH_BYTES_MAX)).unwrap_or_default();
        let (method, authority) = (head.method.as_str(), head.authority());
        let mut text = String::with_capacity(method.len() + authority.len() + path.len());
        text.push_str(method);
        text.push_str(authority);
        text.push_str(path);
        Self {
            method: method.len(),
            authority: method.len() + authority.len(),
            text,
            protocol: head.version.as_str(),
        }
    }
}

/// Counts a request's body as it passes, if its length is not known.
pub fn count_request(body: Body) -> (Body, RequestBytes) {
    if let Some(length) = body.exact_length() {
        return (body, RequestBytes::Exact(length));
    }
    let count = Rc::new(Cell::new(0));
    let counted = count.clone();
    let body = body.inspected(move |frame| {
        if let Frame::Data(data) = frame {
            counted.set(counted.get() + data.len() as u64);
        }
    });
    (body, RequestBytes::Counted(count))
}

/// Has the answer told when it ends.
pub fn observe(mut response: Response, record: Record) -> Response {
    let status = response.head.status.as_u16();
    let grpc_status = if record.grpc { grpc_status(response.head.headers()) } else { None };
    let mut observed = Observed {
        body: std::mem::take(&mut response.body),
        record: Some(record),
        status,
        grpc_status,
        bytes: 0,
        timer: Timer::default(),
    };
    match &observed.body {
        // Nothing follows: no wrapper. A full body at hand is as good as sent.
        Body::Empty => observed.tell(None),
        Body::Full(bytes) => {
            observed.bytes = bytes.len() as u64;
            observed.tell(None);
        }
        Body::Tunnel(_) => {
            let in_flight = observed.record.as_mut().and_then(|record| record.in_flight.take());
            // It has no frames: it is told at once, and its bytes are not a body's. Under way it is until it ends.
            observed.tell(None);
            if let (Body::Tunnel(tunnel), Some(in_flight)) = (&mut observed.body, in_flight) {
                tunnel.held.push(Box::new(in_flight));
            }
        }
        _ => {
            if let Some(deadline) = observed.record.as_ref().and_then(|record| record.deadline) {
                observed.timer.set_at(deadline.at());
            }
            response.body = Body::Boxed(Box::new(observed));
            return response;
        }
    }
    response.body = std::mem::take(&mut observed.body);
    response
}

struct Observed {
    body: Body,
    record: Option<Record>,
    status: u16,
    grpc_status: Option<u8>,
    bytes: u64,
    /// Not set where there is no deadline.
    timer: Timer,
}

impl Observed {
    fn tell(&mut self, broken: Option<Reason>) {
        let Some(mut record) = self.record.take() else { return };
        // What is left of it lies with the client, who is given the time that any slow reader is.
        self.timer.clear();
        if let Some(verdict) = record.verdict.take() {
            match broken {
                Some(reason) => verdict.broken(&record.worker, reason),
                None => verdict.ended(&record.worker, self.grpc_status),
            }
        }
        let reason = record.reason.or(broken);
        let outcome =
            Outcome { status: self.status, grpc_status: self.grpc_status, reason, grpc: record.grpc };
        let duration = record.started.elapsed();
        let request_bytes = match &record.request_bytes {
            RequestBytes::Exact(length) => *length,
            RequestBytes::Counted(count) => count.get(),
        };
        let worker = &record.worker;
        match record.probe {
            // The node's business, and as steady as a clock: among requests it would only blur them.
            Some(kind) => worker.connections.probe(kind, probe_outcome(outcome)),
            None => worker.metrics.cells(&record.ends, outcome).record(duration, request_bytes, self.bytes),
        }
        let marked = !record.marks.is_empty();
        if !worker.access_log.wants(self.status, reason, marked) {
            return;
        }
        let Some(logged) = &record.logged else { return };
        worker.access_log.write(&Entry {
            direction: record.ends.direction.as_str(),
            method: &logged.text[..logged.method],
            authority: &logged.text[logged.method..logged.authority],
            path: &logged.text[logged.authority..],
            protocol: logged.protocol,
            status: self.status,
            grpc_status: self.grpc_status,
            reason,
            detail: record.detail.as_deref(),
            audit: record.marks.audit.as_deref(),
            dry_run: record.marks.dry_run.as_deref(),
            duration,
            request_bytes,
            response_bytes: self.bytes,
            client: record.client,
            source: record.ends.source_identity.as_ref().map(|id| id.as_str()),
            service: &record.ends.service.host,
            endpoint: record.endpoint,
            tries: record.tries,
            probe: record.probe,
        });
    }
}

impl Observed {
    /// Who ends it here is not its endpoint.
    fn forget_verdict(&mut self) {
        if let Some(record) = &mut self.record {
            record.verdict = None;
        }
    }

    /// Ends it here: what it came from is dropped, and so taken back from whoever still makes it.
    fn cut(&mut self, reason: Reason) -> BodyError {
        self.body = Body::Empty;
        self.forget_verdict();
        self.tell(Some(reason));
        BodyError::new(reason)
    }
}

impl LocalBody for Observed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Poll::Ready(error) = self.poll_broken(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = self.body.poll_frame(cx);
        match &frame {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                self.bytes += data.len() as u64;
                if let Some(record) = &mut self.record
                    && let Some(verdict) = record.verdict.take_if(|verdict| verdict.is_probe())
                {
                    verdict.serves(&record.worker);
                }
                if self.body.is_end() {
                    self.tell(None);
                }
            }
            Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                if self.record.as_ref().is_some_and(|record| record.grpc) {
                    self.grpc_status = grpc_status(trailers).or(self.grpc_status);
                }
                self.tell(None);
            }
            Poll::Ready(Some(Err(error))) => self.tell(Some(error.reason)),
            Poll::Ready(None) => self.tell(None),
        }
        frame
    }

    fn exact_length(&self) -> Option<u64> {
        self.body.exact_length()
    }

    fn is_end(&self) -> bool {
        self.body.is_end()
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) {
        self.body.poll_progress(cx);
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if let Some(live) = self.record.as_ref().and_then(|record| record.live.as_ref())
            && live.poll_revoked(cx).is_ready()
        {
            return Poll::Ready(self.cut(live.reason().unwrap_or(Reason::AuthorizationDenied)));
        }
        if self.timer.poll(cx).is_ready() {
            return Poll::Ready(self.cut(Reason::RequestTimeout));
        }
        Poll::Pending
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.body.poll_finish(cx)
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        // The client left before the end.
        self.forget_verdict();
        self.tell(None);
    }
}

/// As the kubelet counts it. Whether a gRPC server says that it serves is in its message, unseen.
fn probe_outcome(outcome: Outcome) -> &'static str {
    let good = (200..400).contains(&outcome.status) && outcome.reason.is_none();
    if good && (!outcome.grpc || outcome.grpc_status == Some(0)) { "succeeded" } else { "failed" }
}

fn grpc_status(headers: &Headers) -> Option<u8> {
    headers.get_str(Known::GrpcStatus).and_then(|text| text.parse().ok()).filter(|status| *status <= 16)
}
