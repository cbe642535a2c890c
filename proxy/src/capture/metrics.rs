//! What is proven of this pod's capture, and how each probe went.

use super::proof::{Outcome, Path, Standing};
use weft_runtime::registry::{CounterFamily, GaugeFamily, Registry, RegistryError};

/// The families.
#[derive(Clone, Debug)]
pub struct CaptureMetrics {
    proven: GaugeFamily<2>,
    probes: CounterFamily<3>,
    strangers: CounterFamily<0>,
}

impl CaptureMetrics {
    /// Makes and registers them.
    pub fn new(registry: &Registry) -> Result<Self, RegistryError> {
        Ok(Self {
            proven: registry.gauge(
                "weft_capture_proven",
                "1 while it is proven that connections of this direction and family are captured.",
                ["direction", "family"],
            )?,
            probes: registry.counter(
                "weft_capture_probes_total",
                "Probes of the redirection, by what became of them.",
                ["direction", "family", "outcome"],
            )?,
            strangers: registry.counter(
                "weft_capture_strangers_total",
                "Connections to the probe port that said nothing this proxy waited for.",
                [],
            )?,
        })
    }

    pub(super) fn probed(&self, path: Path, outcome: Outcome, standing: Standing) {
        let (direction, family) = (path.direction.as_str(), path.family.as_str());
        self.probes.shared([direction, family, outcome.as_str()]).inc();
        // A path that is not there has no series: nothing is to be proven of it.
        if standing != Standing::Absent {
            self.proven.shared([direction, family]).set(i64::from(standing == Standing::Proven));
        }
    }

    pub(super) fn strangers(&self, count: u64) {
        self.strangers.shared([]).add(count);
    }
}
