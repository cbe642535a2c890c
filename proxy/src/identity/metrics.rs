//! What is known about this proxy's certificate and clock, as metrics: the alarms before the cliff.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Opts};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weft_runtime::registry::{CounterFamily, Registry, RegistryError};

/// The families.
#[derive(Clone)]
pub struct IdentityMetrics {
    expiry: Expiry,
    skew: Gauge,
    tries: CounterFamily<1>,
}

/// Seconds that are left, counted when they are asked for.
#[derive(Clone)]
struct Expiry {
    gauge: Gauge,
    /// Seconds since 1970; 0: no certificate.
    not_after: Arc<AtomicU64>,
}

impl IdentityMetrics {
    /// Makes and registers them.
    pub fn new(registry: &Registry) -> Result<Self, RegistryError> {
        let gauge = |name: &str, help: &str| {
            Gauge::with_opts(Opts::new(name, help)).expect("a constant metric must be well formed")
        };
        let expiry = Expiry {
            gauge: gauge(
                "weft_identity_certificate_expiry_seconds",
                "Until this proxy's certificate expires; negative afterwards, and 0 before there is one.",
            ),
            not_after: Arc::default(),
        };
        let skew = gauge(
            "weft_identity_clock_skew_seconds",
            "How far the certificate authority's clock is ahead of this machine's, when it last answered.",
        );
        registry.register(Box::new(expiry.clone()))?;
        registry.register(Box::new(skew.clone()))?;
        let tries = registry.counter(
            "weft_identity_certify_total",
            "Tries to get a certificate, by how they went.",
            ["outcome"],
        )?;
        Ok(Self { expiry, skew, tries })
    }

    pub(super) fn holds_until(&self, not_after: SystemTime) {
        let seconds = not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.expiry.not_after.store(seconds, Ordering::Relaxed);
    }

    pub(super) fn skewed_by(&self, seconds: f64) {
        self.skew.set(seconds);
    }

    pub(super) fn tried(&self, outcome: &'static str) {
        self.tries.shared([outcome]).inc();
    }
}

impl Collector for Expiry {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let not_after = self.not_after.load(Ordering::Relaxed);
        let left = match not_after {
            0 => 0.0,
            _ => {
                let end = UNIX_EPOCH + Duration::from_secs(not_after);
                let now = SystemTime::now();
                end.duration_since(now)
                    .map_or_else(|past| -past.duration().as_secs_f64(), |left| left.as_secs_f64())
            }
        };
        self.gauge.set(left);
        self.gauge.collect()
    }
}
