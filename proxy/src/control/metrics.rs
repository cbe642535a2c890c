//! How this proxy stands to the control API, as metrics: connected, how old what it knows is, what it
//! refused.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge, Opts};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use weft_model::wire::Kind;
use weft_runtime::registry::{CounterFamily, Registry, RegistryError};

/// The families.
#[derive(Clone)]
pub struct ControlMetrics {
    connected: IntGauge,
    generation: IntGauge,
    stale: IntGauge,
    destinations: IntGauge,
    age: Age,
    sessions: CounterFamily<1>,
    resources: CounterFamily<2>,
    commits: CounterFamily<0>,
}

/// Seconds since the control API last stood behind what is held, counted when they are asked for.
#[derive(Clone)]
struct Age {
    gauge: Gauge,
    since: Arc<Mutex<Since>>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Since {
    /// Nothing is held.
    #[default]
    Never,
    /// The stream lives: its heartbeats confirm what is held.
    Connected,
    Lost(Instant),
}

impl ControlMetrics {
    /// Makes and registers them.
    pub fn new(registry: &Registry) -> Result<Self, RegistryError> {
        let int = |name: &str, help: &str| {
            let gauge =
                IntGauge::with_opts(Opts::new(name, help)).expect("a constant metric must be well formed");
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let age = Opts::new(
            "weft_policy_age_seconds",
            "Since the control API last confirmed what this proxy holds; 0 while connected.",
        );
        let gauge = Gauge::with_opts(age).expect("a constant metric must be well formed");
        let age = Age { gauge, since: Arc::default() };
        registry.register(Box::new(age.clone()))?;
        Ok(Self {
            connected: int("weft_policy_connected", "1 while the stream from the control API lives.")?,
            generation: int("weft_policy_generation", "The number of the generation that is enforced.")?,
            stale: int("weft_policy_stale", "1 while what is enforced is of before this process's start.")?,
            destinations: int("weft_policy_destinations", "Destinations that are subscribed to.")?,
            age,
            sessions: registry.counter(
                "weft_policy_sessions_total",
                "Streams from the control API, by how they ended.",
                ["outcome"],
            )?,
            resources: registry.counter(
                "weft_policy_resources_total",
                "Resources that came, by kind and whether they were taken.",
                ["kind", "outcome"],
            )?,
            commits: registry.counter("weft_policy_commits_total", "Generations that were committed.", [])?,
        })
    }

    pub(super) fn connected(&self) {
        self.connected.set(1);
        self.age.set(Since::Connected);
    }

    pub(super) fn disconnected(&self, outcome: &'static str) {
        if self.connected.get() == 1 {
            self.connected.set(0);
            self.age.set(Since::Lost(Instant::now()));
        }
        self.sessions.shared([outcome]).inc();
    }

    pub(super) fn restored(&self, confirmed: Instant) {
        self.age.set(Since::Lost(confirmed));
        self.stale.set(1);
    }

    pub(super) fn taken(&self, kind: Kind, taken: usize, refused: usize) {
        let kind = kind.type_url().rsplit('.').next().unwrap_or_default();
        self.resources.shared([kind, "taken"]).add(taken as u64);
        if refused > 0 {
            self.resources.shared([kind, "refused"]).add(refused as u64);
        }
    }

    pub(super) fn committed(&self, generation: u64) {
        self.commits.shared([]).inc();
        self.stale.set(0);
        self.generation.set(generation.try_into().unwrap_or(i64::MAX));
    }

    pub(super) fn subscribed(&self, destinations: usize) {
        self.destinations.set(destinations.try_into().unwrap_or(i64::MAX));
    }
}

impl Age {
    fn set(&self, since: Since) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

impl Collector for Age {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        self.gauge.set(match since {
            Since::Never | Since::Connected => 0.0,
            Since::Lost(at) => at.elapsed().as_secs_f64(),
        });
        self.gauge.collect()
    }
}
