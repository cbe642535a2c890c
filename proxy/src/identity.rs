//! Who this proxy is: its certificate, from the first one to the last renewal.
//!
//! One task on the control thread owns it. [`rotation`] says when, [`certify`] does it, the result
//! goes into [`Tls`], which every connection made afterwards uses; existing connections live on. The
//! certificate is kept in the state directory, so that a restarted proxy serves while the control
//! API is down. It never stops trying, and without a valid certificate nothing is served in its
//! place: connections fail closed.

pub mod certify;
pub mod metrics;
pub mod rotation;

use crate::describe::chain;
use crate::settings::Settings;
use crate::state::{StateDirectory, StateError};
use crate::tls::Tls;
use certify::Issued;
use metrics::IdentityMetrics;
use rotation::{Action, Held, Rotation};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use weft_runtime::random::Random;
use weft_runtime::readiness::Latch;

/// The file in the state directory.
const FILE: &str = "identity";

/// A clock that is off by more than this is worth a warning: certificates begin two minutes back.
const SKEW_MAX_SECONDS: f64 = 60.0;

/// The owner of the certificate.
pub struct Identity {
    settings: Arc<Settings>,
    tls: Arc<Tls>,
    state: Option<StateDirectory>,
    latch: Latch,
    metrics: IdentityMetrics,
    rotation: Rotation,
    expired: bool,
}

impl Identity {
    /// Takes up the certificate of an earlier life, if it is kept and still valid.
    ///
    /// # Errors
    /// When the kept key is readable by others: that is to be seen by somebody, not worked around.
    pub fn new(
        settings: Arc<Settings>,
        tls: Arc<Tls>,
        state: Option<StateDirectory>,
        latch: Latch,
        metrics: IdentityMetrics,
    ) -> Result<Self, StateError> {
        let rotation = Rotation::new(None, Random::new());
        let mut identity = Self { settings, tls, state, latch, metrics, rotation, expired: false };
        if let Some(issued) = identity.restore()? {
            let held = Held { obtained: issued.obtained, not_after: issued.own.not_after() };
            if identity.install(&issued) {
                tracing::info!(
                    identity = %issued.own.identity(),
                    expires_in = ?held.not_after.duration_since(SystemTime::now()).unwrap_or_default(),
                    "using the kept certificate"
                );
                identity.rotation = Rotation::new(Some(held), Random::new());
            }
        }
        Ok(identity)
    }

    /// Gets certificates for as long as the process lives.
    pub async fn run(mut self) {
        loop {
            let now = SystemTime::now();
            match self.rotation.next(now, Instant::now()) {
                Action::Wait(wait) => {
                    self.note_expiry(now);
                    tokio::time::sleep(wait).await;
                }
                Action::Certify(proof) => {
                    let tried =
                        certify::certify(&self.settings.control, &self.settings.workload, &self.tls, proof)
                            .await;
                    match tried {
                        Ok(issued) => self.succeeded(&issued),
                        Err(error) => {
                            self.metrics.tried(error.label());
                            let retry_in = self.rotation.failed(SystemTime::now(), Instant::now());
                            tracing::warn!(
                                error = chain(&error),
                                ?retry_in,
                                valid = self.rotation.is_valid(now),
                                "no certificate was issued"
                            );
                        }
                    }
                }
            }
        }
    }

    fn restore(&self) -> Result<Option<Issued>, StateError> {
        let Some(state) = &self.state else { return Ok(None) };
        let kept = match state.read(FILE) {
            Ok(Some(kept)) => kept,
            Ok(None) => return Ok(None),
            Err(error @ StateError::Exposed { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(error = chain(&error), "the kept certificate is ignored");
                return Ok(None);
            }
        };
        match Issued::decode(&kept.content) {
            Ok(issued) if self.is_for_us(&issued) => Ok(Some(issued)),
            Ok(issued) => {
                tracing::warn!(identity = %issued.own.identity(), "the kept certificate is another workload's");
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "the kept certificate is ignored");
                Ok(None)
            }
        }
    }

    fn is_for_us(&self, issued: &Issued) -> bool {
        issued.own.uid().is_none_or(|uid| *uid == self.settings.workload)
            && issued.own.identity().namespace() == self.settings.namespace().as_str()
    }

    fn succeeded(&mut self, issued: &Issued) {
        if !self.install(issued) {
            self.metrics.tried("answer_invalid");
            self.rotation.failed(SystemTime::now(), Instant::now());
            return;
        }
        self.metrics.tried("ok");
        let not_after = issued.own.not_after();
        self.rotation.succeeded(Held { obtained: issued.obtained, not_after });
        tracing::info!(
            identity = %issued.own.identity(),
            serial = issued.own.serial(),
            expires_in = ?not_after.duration_since(issued.obtained).unwrap_or_default(),
            "a certificate was issued"
        );
        if let Some(skew) = issued.skew {
            self.metrics.skewed_by(skew);
            if skew.abs() > SKEW_MAX_SECONDS {
                tracing::warn!(
                    skew_seconds = skew,
                    "this machine's clock differs from the certificate authority's; peers may refuse \
                     certificates as expired or not valid yet"
                );
            }
        }
        if let Ok(ahead) = issued.own.not_before().duration_since(issued.obtained)
            && ahead > Duration::from_secs(1)
        {
            tracing::warn!(
                valid_in = ?ahead,
                "the certificate is not valid yet by this machine's clock, which is behind the authority's"
            );
        }
        if let Some(state) = &self.state
            && let Err(error) = state.write(FILE, &issued.encode())
        {
            tracing::warn!(
                error = chain(&error),
                "the certificate cannot be kept; a restart will need the control API"
            );
        }
    }

    fn install(&mut self, issued: &Issued) -> bool {
        if let Err(error) = self.tls.set_certificate(issued.own.clone(), issued.roots.clone()) {
            tracing::error!(error = chain(&error), "the certificate cannot be used");
            return false;
        }
        self.metrics.holds_until(issued.own.not_after());
        self.expired = false;
        self.latch.release();
        true
    }

    fn note_expiry(&mut self, now: SystemTime) {
        if self.latch.is_released() && !self.rotation.is_valid(now) && !self.expired {
            self.expired = true;
            self.latch.hold();
            tracing::error!(
                reason = "own_cert_expired",
                "this proxy's certificate has expired and no new one was issued: mesh connections fail until one is"
            );
        }
    }
}
