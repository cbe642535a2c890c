//! The connection to the control API: dials, resumes, and turns what comes into what workers read.
//!
//! One task on the control thread owns it all. It never blocks the data path: what workers ask for
//! comes over a queue, what they read is published whole. Losing the stream costs nothing but news;
//! what is held stays, up to a maximum age, and the next stream says what is held already. Protocol
//! and state are pure and next door (`subscription`, `apply`, `questions`, `views`); this is their shell.

pub mod apply;
mod compose;
pub mod dial;
pub mod last_good;
pub mod metrics;
mod questions;
pub mod report;
pub mod subscription;
#[cfg(test)]
mod tests;
mod views;

use crate::describe::chain;
use crate::policy::{Asked, Policy, Publisher};
use crate::settings::Settings;
use crate::state::StateDirectory;
use crate::tls::Tls;
use crate::tls::own::OwnResolver;
use apply::Store;
use dial::{Channel, DialError, LentChannel};
use last_good::LastGood;
use metrics::ControlMetrics;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use subscription::{NAMES_MAX, Subscription};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use weft_model::proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_model::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_runtime::backoff::Backoff;
use weft_runtime::random::Random;
use weft_runtime::readiness::Latch;

/// The first wait after a stream was lost.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// The longest wait between tries.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A stream that lived so long counts as one that worked.
const WORKED: Duration = Duration::from_secs(10);
/// The largest message: a Service of thousands of endpoints comes in slices of 100.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Requests that may wait to be written. There is one per batch, and batches come one by one.
const REQUESTS_MAX: usize = 256;
/// Names that are asked for in one request.
const NAMES_AT_ONCE: usize = 256;
/// Addresses outside the mesh that are forgotten at once where no more names may be asked for: few
/// requests then make room for many.
const FORGOTTEN_AT_ONCE: usize = NAMES_MAX / 10;
/// How long the opening may take: a server that accepts and says nothing is as good as gone.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long changes are collected before the last good configuration is written.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the written one is confirmed.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(60);

/// The owner of what is known.
pub struct Control {
    settings: Arc<Settings>,
    tls: Arc<Tls>,
    publisher: Publisher,
    demands: mpsc::Receiver<Asked>,
    latch: Latch,
    metrics: ControlMetrics,
    store: Store,
    subscription: Subscription,
    last_good: Option<LastGood>,
    /// Lent to who else has a question for the control API.
    channel: LentChannel,
    /// When the control API last stood behind what is held.
    confirmed: Option<Instant>,
    save_at: Option<Instant>,
    random: Random,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("no connection to the control API")]
    Dial(#[source] DialError),
    #[error("the control API ended the stream: {0}")]
    Status(String),
    #[error("the control API closed the stream")]
    Closed,
    #[error("the control API does not read what this proxy says")]
    Stuck,
    #[error("the control API did not answer within {OPEN_TIMEOUT:?}")]
    Silent,
}

/// One open stream.
struct Session {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// The certificate that was shown.
    own: Option<Arc<OwnResolver>>,
    certificates: watch::Receiver<u64>,
    /// When to dial anew to show a renewed certificate.
    redial_at: Option<Instant>,
    confirm_at: Instant,
}

impl SessionError {
    fn label(&self) -> &'static str {
        match self {
            Self::Dial(_) => "unreachable",
            Self::Status(_) => "status",
            Self::Closed => "closed",
            Self::Stuck => "stuck",
            Self::Silent => "silent",
        }
    }
}

impl Control {
    /// Takes up the last good configuration, if one is kept.
    pub fn new(
        settings: Arc<Settings>,
        tls: Arc<Tls>,
        state: Option<StateDirectory>,
        publisher: Publisher,
        demands: mpsc::Receiver<Asked>,
        latch: Latch,
        metrics: ControlMetrics,
    ) -> Self {
        let store = Store::new(settings.workload.clone(), settings.namespace());
        let subscription = Subscription::new(settings.workload.to_string());
        let last_good = state.map(|state| LastGood::new(state, settings.workload.clone()));
        let mut control = Self {
            settings,
            tls,
            publisher,
            demands,
            latch,
            metrics,
            store,
            subscription,
            last_good,
            confirmed: None,
            save_at: None,
            channel: LentChannel::default(),
            random: Random::new(),
        };
        control.restore();
        control
    }

    /// The connection, for who else has a question for the control API.
    pub fn channel(&self) -> LentChannel {
        self.channel.clone()
    }

    /// Keeps a stream open for as long as the process lives.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            self.certified().await;
            let began = Instant::now();
            match self.session().await {
                Ok(()) => {
                    tracing::debug!("dialling the control API anew under the renewed certificate");
                    self.metrics.disconnected("renewed");
                    backoff.reset();
                    continue;
                }
                Err(error) => {
                    if self.store.is_complete() && began.elapsed() >= WORKED {
                        backoff.reset();
                    }
                    let retry_in = backoff.next_delay();
                    self.metrics.disconnected(error.label());
                    tracing::warn!(
                        error = chain(&error),
                        ?retry_in,
                        configured = self.store.is_complete(),
                        "no stream from the control API; what is held stays in force"
                    );
                    self.until(tokio::time::sleep(retry_in)).await;
                }
            }
        }
    }

    fn restore(&mut self) {
        let Some(age) = self.last_good.as_ref().and_then(|last_good| last_good.restore(&mut self.store))
        else {
            return;
        };
        let names: Vec<String> = self.store.names().cloned().collect();
        self.subscription.ask(names, &self.store);
        let mut policy = self.store.set_stale();
        if age > self.settings.last_good_age_max {
            tracing::warn!(
                reason = "policy_too_old",
                ?age,
                "the last good configuration is too old: everything is denied until there is news"
            );
            policy = self.store.set_too_old().unwrap_or(policy);
        }
        let now = Instant::now();
        self.confirmed = Some(now.checked_sub(age).unwrap_or(now));
        self.metrics.restored(now.checked_sub(age).unwrap_or(now).into_std());
        self.metrics.subscribed(self.store.names().count());
        let generation = policy.generation.as_deref().map(tracing::field::display);
        tracing::info!(?age, generation, "serving by the last good configuration");
        self.publish(policy);
    }

    fn publish(&self, policy: Policy) {
        let complete = self.store.is_complete() && !policy.too_old;
        // Told before it is counted as ready: who waits for the latch finds what it stands for.
        self.publisher.publish(policy);
        if complete {
            self.latch.release();
        } else {
            self.latch.hold();
        }
    }

    /// Waits until there is a certificate to show.
    async fn certified(&mut self) {
        let mut changes = self.tls.changes();
        while self.tls.certificate().is_none() {
            self.until(async {
                // The sender lives in `tls`, which lives as long as this.
                let _ = changes.changed().await;
            })
            .await;
        }
    }

    /// Waits for something without a stream, noting what is asked for meanwhile.
    async fn until(&mut self, wait: impl Future<Output = ()>) {
        tokio::pin!(wait);
        loop {
            let deadline = self.confirmed.map(|at| at + self.settings.last_good_age_max);
            let save_at = self.save_at;
            tokio::select! {
                () = &mut wait => return,
                Some(asked) = self.demands.recv() => {
                    self.collect(asked);
                }
                () = at(deadline) => self.expire(),
                () = at(save_at) => self.save(),
            }
        }
    }

    fn expire(&mut self) {
        self.confirmed = None;
        if let Some(policy) = self.store.set_too_old() {
            tracing::error!(
                reason = "policy_too_old",
                age_max = ?self.settings.last_good_age_max,
                "the control API has been away for too long: everything is denied until there is news"
            );
            self.publish(policy);
        }
    }

    fn save(&mut self) {
        self.save_at = None;
        if let Some(last_good) = &self.last_good {
            last_good.save(&self.store);
        }
    }

    /// Takes what is asked for off the queue, at most so much at once; the names to subscribe to.
    fn collect(&mut self, first: Asked) -> Option<DeltaDiscoveryRequest> {
        let mut names = Vec::new();
        let mut forgotten = None;
        if self.subscription.is_full() {
            // An application that calls half the world must not lose the mesh for it.
            let absent = self.store.forget_absent(FORGOTTEN_AT_ONCE);
            forgotten = self.subscription.forget(absent);
        }
        let mut next = Some(first);
        while let Some(asked) = next {
            if self.subscription.is_full() {
                tracing::warn!(
                    name = asked.wire_name(),
                    "too many destinations are in use; this one is not looked up"
                );
            } else {
                names.extend(self.store.ask(&asked));
            }
            next = if names.len() < NAMES_AT_ONCE { self.demands.try_recv().ok() } else { None };
        }
        let mut request = self.subscription.ask(names, &self.store);
        self.metrics.subscribed(self.store.names().count());
        match (&mut request, forgotten) {
            (Some(request), Some(forgotten)) => {
                request.resource_names_unsubscribe = forgotten.resource_names_unsubscribe;
            }
            (request, forgotten) => *request = request.take().or(forgotten),
        }
        request
    }

    /// One stream, to its end. `Ok`: it was ended to be dialled anew.
    async fn session(&mut self) -> Result<(), SessionError> {
        let mut opened = self.open().await;
        if let Ok(session) = &mut opened {
            self.metrics.connected();
            let ended = self.serve(session).await;
            self.confirmed = Some(Instant::now());
            // Its age counts from here, also for the next life of this process.
            if let Some(last_good) = &self.last_good {
                last_good.confirm();
            }
            opened = ended.and(opened);
        }
        self.channel.set(None);
        self.subscription.closed();
        self.store.discard_staged();
        opened.map(|_| ())
    }

    async fn open(&mut self) -> Result<Session, SessionError> {
        let settings = self.settings.clone();
        let certificates = self.tls.changes();
        let own = self.tls.certificate();
        let dialled = {
            let dialling = dial::dial(&settings.control, own.clone());
            tokio::pin!(dialling);
            let mut channel: Option<Result<Channel, DialError>> = None;
            self.until(async { channel = Some(dialling.await) }).await;
            channel.expect("what was waited for must be there")
        };
        let channel = dialled.map_err(SessionError::Dial)?;
        self.channel.set(Some(channel.clone()));
        let origin = http::Uri::from_static(dial::ORIGIN);
        let mut client = AggregatedDiscoveryServiceClient::with_origin(channel, origin)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        for request in self.subscription.open(&self.store) {
            requests.try_send(request).map_err(|_| SessionError::Stuck)?;
        }
        let opening = client.delta_aggregated_resources(ReceiverStream::new(queue));
        let responses = tokio::time::timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_| SessionError::Silent)?
            .map_err(|status| ended(&status))?
            .into_inner();
        tracing::info!(address = %self.settings.control.address, "connected to the control API");
        let confirm_at = Instant::now() + CONFIRM_INTERVAL;
        Ok(Session { requests, responses, own, certificates, redial_at: None, confirm_at })
    }

    async fn serve(&mut self, session: &mut Session) -> Result<(), SessionError> {
        loop {
            let save_at = self.save_at;
            tokio::select! {
                received = session.responses.message() => {
                    let response = received.map_err(|status| ended(&status))?.ok_or(SessionError::Closed)?;
                    let answer = self.receive(response);
                    session.send(answer)?;
                }
                Some(asked) = self.demands.recv() => {
                    if let Some(request) = self.collect(asked) {
                        session.send(request)?;
                    }
                }
                Ok(()) = session.certificates.changed() => {
                    let held = self.tls.certificate();
                    if held.as_ref().map(Arc::as_ptr) == session.own.as_ref().map(Arc::as_ptr) {
                        continue;
                    }
                    // The old certificate vouches for this stream for a while yet: a fleet that
                    // renews together need not return together.
                    session.redial_at.get_or_insert(Instant::now() + self.redial_after());
                }
                () = at(session.redial_at) => return Ok(()),
                () = at(save_at) => self.save(),
                () = tokio::time::sleep_until(session.confirm_at) => {
                    session.confirm_at = Instant::now() + CONFIRM_INTERVAL;
                    if let Some(last_good) = &self.last_good {
                        last_good.confirm();
                    }
                }
            }
        }
    }

    fn redial_after(&mut self) -> Duration {
        let left = self
            .tls
            .certificate()
            .and_then(|own| own.own().not_after().duration_since(self.tls.now()).ok())
            .unwrap_or_default();
        // Renewal is at half of life, so the old one has about as long as this fifth is of the new.
        self.random.between(left / 20, left / 5)
    }

    /// Takes one response: what it says holds before it is answered.
    fn receive(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let batch = match self.subscription.receive(response) {
            Ok(batch) => batch,
            Err(refusal) => {
                tracing::warn!(
                    type_url = refusal.type_url,
                    "the control API sent a type that is not known here"
                );
                return *refusal;
            }
        };
        let (kind, nonce) = (batch.kind, batch.nonce.clone());
        let count = batch.resources.len();
        let effect = self.store.receive(batch);
        self.metrics.taken(kind, count.saturating_sub(effect.refused.len()), effect.refused.len());
        for refused in &effect.refused {
            tracing::warn!(?kind, name = refused.name, reason = refused.reason, "a resource is refused");
        }
        if let Some(bundles) = effect.bundles
            && let Err(error) = self.tls.set_bundles(bundles)
        {
            tracing::error!(error = chain(&error), "the trust bundles cannot be used");
        }
        if let Some(policy) = effect.policy {
            if effect.committed {
                let number = policy.generation.as_ref().map_or(0, |generation| generation.number);
                self.metrics.committed(number);
                let generation = policy.generation.as_deref().map(tracing::field::display);
                tracing::debug!(generation, "a generation holds");
            }
            self.publish(policy);
            if self.last_good.is_some() {
                self.save_at.get_or_insert(Instant::now() + SAVE_INTERVAL);
            }
        }
        self.subscription.answer(kind, nonce, &effect.refused)
    }
}

impl Session {
    fn send(&self, request: DeltaDiscoveryRequest) -> Result<(), SessionError> {
        self.requests.try_send(request).map_err(|_| SessionError::Stuck)
    }
}

fn ended(status: &tonic::Status) -> SessionError {
    let message: String = status.message().chars().take(512).collect();
    SessionError::Status(format!("{:?}: {message}", status.code()))
}

/// Resolves at that time; never without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
