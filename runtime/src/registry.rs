//! The process's metrics: one registry, its text form for `/metrics`, and the families that the areas
//! of a program make in their `metrics.rs` files.
//! A family gives each thread its own cell (`registry/families.rs`), so that counting costs a nanosecond and no
//! thread waits for another; a scrape sums the cells. Every family has a hard cap of series.
//! Every registry also shows the process itself (`registry/process.rs`), the build, and this crate's own counters.

use std::sync::LazyLock;

use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGauge, Opts, TextEncoder};

use process::ProcessCollector;

pub use families::{
    CounterCell, CounterFamily, GaugeCell, GaugeFamily, GaugeGuard, SharedCounter, SharedGauge,
    SharedGaugeGuard,
};
pub use histogram::{HistogramCell, HistogramFamily, SharedHistogram};

mod families;
mod histogram;
mod process;
mod series;

/// What `/metrics` is to send as its content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How many series a family may have unless told otherwise: about 20 peers of 100 combinations, or half
/// a megabyte for a family of counters on two workers.
pub const DEFAULT_SERIES_MAX: usize = 2000;

/// Look-ups that a family's cap turned away, by family. A static, because families are made before they
/// are registered; every [`Registry`] shows it.
static SERIES_DROPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    IntCounterVec::new(
        Opts::new(
            "weft_metrics_series_dropped_total",
            "Look-ups of a new series that a metric family's cap turned away, by family; what they \
             count goes to the series whose labels are all \"other\".",
        ),
        &["family"],
    )
    .expect("a constant metric must be well formed")
});

/// The process's metric registry. Cloned freely.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: prometheus::Registry,
    series_max: usize,
}

/// Why a metric could not be made or registered. All of them are mistakes in the program's constants.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A name that Prometheus does not allow, or one that is taken.
    #[error("the metric {name} is refused")]
    Refused {
        /// The family.
        name: String,
        /// What the library says.
        #[source]
        source: prometheus::Error,
    },
    /// Buckets must be finite, strictly rising, and at least one.
    #[error("the buckets of the metric {name} are not finite and strictly rising")]
    Buckets {
        /// The family.
        name: String,
    },
}

// === impl Registry ===

impl Registry {
    /// A registry that shows the process, the build and this crate's own counters.
    ///
    /// # Errors
    /// Never with a program and version that are plain text.
    pub fn new(program: &str, version: &str) -> Result<Self, RegistryError> {
        let registry = Self { inner: prometheus::Registry::new(), series_max: DEFAULT_SERIES_MAX };
        let build =
            Opts::new("weft_build_info", "Always 1; the labels say which program of which version this is.")
                .const_label("program", program)
                .const_label("version", version);
        let build = IntGauge::with_opts(build).map_err(|source| refused("weft_build_info", source))?;
        build.set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(ProcessCollector::new()?))?;
        registry.register(Box::new(crate::spawn::TASK_PANICS.clone()))?;
        registry.register(Box::new(SERIES_DROPPED.clone()))?;
        Ok(registry)
    }

    /// The cap of series for families made through this registry (or a clone of it) from here on.
    #[must_use]
    pub const fn with_series_max(mut self, series_max: usize) -> Self {
        self.series_max = series_max;
        self
    }

    /// Makes and registers a counter. Its name ends in `_total`.
    ///
    /// # Errors
    /// When the name or a label is not allowed, or the name is taken.
    pub fn counter<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
    ) -> Result<CounterFamily<N>, RegistryError> {
        let family = CounterFamily::new(name, help, labels, self.series_max)?;
        self.register(Box::new(family.clone()))?;
        Ok(family)
    }

    /// Makes and registers a gauge.
    ///
    /// # Errors
    /// As [`Self::counter`].
    pub fn gauge<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
    ) -> Result<GaugeFamily<N>, RegistryError> {
        let family = GaugeFamily::new(name, help, labels, self.series_max)?;
        self.register(Box::new(family.clone()))?;
        Ok(family)
    }

    /// Makes and registers a histogram with these upper bounds; the one of everything is added.
    ///
    /// # Errors
    /// As [`Self::counter`], and when the bounds are not finite and strictly rising.
    pub fn histogram<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        buckets: &[f64],
    ) -> Result<HistogramFamily<N>, RegistryError> {
        let family = HistogramFamily::new(name, help, labels, buckets, self.series_max)?;
        self.register(Box::new(family.clone()))?;
        Ok(family)
    }

    /// Registers any other collector.
    ///
    /// # Errors
    /// When one of its names is taken.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), RegistryError> {
        let name = collector.desc().first().map_or_else(String::new, |desc| desc.fq_name.clone());
        self.inner.register(collector).map_err(|source| refused(&name, source))
    }

    /// All metrics in Prometheus's text format, to be sent as [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Family by family: one that the encoder refuses (it has no such today) costs only itself.
        for family in self.inner.gather() {
            let length = text.len();
            if TextEncoder::new().encode_utf8(std::slice::from_ref(&family), &mut text).is_err() {
                text.truncate(length);
                tracing::error!(metric = family.name(), "a metric cannot be encoded");
            }
        }
        text
    }
}

fn refused(name: &str, source: prometheus::Error) -> RegistryError {
    RegistryError::Refused { name: name.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registry_shows_the_build_and_the_process() {
        let registry = Registry::new("weft-proxy", "1.2.3").unwrap();
        let text = registry.encode();
        assert!(text.contains("weft_build_info{program=\"weft-proxy\",version=\"1.2.3\"} 1\n"), "{text}");
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes"] {
            assert!(text.contains(&format!("# TYPE {name}")), "{name} in {text}");
        }
    }

    #[test]
    fn two_registries_can_live_in_one_process() {
        Registry::new("a", "1").unwrap();
        Registry::new("b", "1").unwrap();
    }

    #[test]
    fn a_name_can_be_taken_only_once() {
        let registry = Registry::new("weft-proxy", "1").unwrap();
        registry.counter("weft_x_total", "X.", ["a"]).unwrap();
        let error = registry.gauge("weft_x_total", "X.", ["a"]).unwrap_err();
        assert_eq!(error.to_string(), "the metric weft_x_total is refused");
    }

    #[test]
    fn names_that_prometheus_refuses_are_refused() {
        let registry = Registry::new("weft-proxy", "1").unwrap();
        assert!(registry.counter("weft-x", "X.", []).is_err());
        assert!(registry.counter("weft_y", "Y.", ["a-b"]).is_err());
        assert!(registry.counter("weft_z", "Z.", ["a", "a"]).is_err());
        assert!(registry.histogram("weft_h", "H.", ["le"], &[1.0]).is_err());
        for bad in [&[][..], &[2.0, 1.0], &[1.0, 1.0], &[1.0, f64::INFINITY], &[f64::NAN]] {
            assert!(registry.histogram("weft_b", "B.", [], bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_cap_of_a_registry_is_that_of_its_families() {
        let registry = Registry::new("weft-proxy", "1").unwrap().with_series_max(1);
        let family = registry.counter("weft_capped_total", "C.", ["a"]).unwrap();
        family.cell(["one"]).inc();
        family.cell(["two"]).inc();
        let text = registry.encode();
        assert!(text.contains("weft_capped_total{a=\"one\"} 1\n"), "{text}");
        assert!(text.contains("weft_capped_total{a=\"other\"} 1\n"), "{text}");
        assert!(
            text.contains("weft_metrics_series_dropped_total{family=\"weft_capped_total\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn label_values_cannot_forge_lines() {
        let registry = Registry::new("weft-proxy", "1").unwrap();
        let family = registry.counter("weft_evil_total", "E.", ["a"]).unwrap();
        family.cell(["x\"} 1\nforged 2\n\\\x1b"]).inc();
        let text = registry.encode();
        assert!(!text.contains("\nforged"), "{text}");
        assert!(!text.contains('\x1b'));
    }
}
