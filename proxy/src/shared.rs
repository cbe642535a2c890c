//! What all threads of the process share: made once by `app`, handed to every worker.
//!
//! Everything here is read through an `Arc`, an atomic or a channel; nothing here is locked on a
//! request's way.

use crate::access_log::AccessLog;
use crate::capture::Arrivals;
use crate::detect::guess::Told;
use crate::inbound::plaintext_clients;
use crate::inbound::probe::Probes;
use crate::metrics::Families;
use crate::outbound::budget::Budgets;
use crate::outbound::limits::Limits;
use crate::overload::Guards;
use crate::policy;
use crate::settings::Settings;
use crate::spending::Spending;
use crate::tls::Tls;
use std::sync::Arc;
use tokio::sync::watch;
use weft_model::names::Namespace;
use weft_runtime::drain;
use weft_runtime::readiness::Readiness;
use weft_runtime::registry::Registry;

/// What a process has once.
pub struct Shared {
    /// What the user wrote.
    pub settings: Arc<Settings>,
    /// The workload's namespace: short host names are names in it.
    pub namespace: Namespace,
    /// What the mesh says; each worker makes its own reader.
    pub policy: policy::Handle,
    /// Mutual TLS.
    pub tls: Arc<Tls>,
    /// The metric registry.
    pub registry: Registry,
    /// The families of requests and connections.
    pub families: Families,
    /// Where requests are written down.
    pub access_log: AccessLog,
    /// Which guesses of undeclared protocols were told.
    pub told: Told,
    /// What is under way to each Service. Locked once per port and worker.
    pub limits: Limits,
    /// How far the shutdown is.
    pub drain: drain::Watch,
    /// What probes need to know of each other; no other request asks.
    pub probes: Probes,
    /// What came by redirection. `None` in the explicit mode.
    pub arrivals: Option<Arc<Arrivals>>,
    /// Who comes without mutual TLS. Locked once per plaintext connection.
    pub plaintext_clients: plaintext_clients::Clients,
    /// What retries each destination can bear.
    pub budgets: Budgets,
    /// What is counted for the limits of this workload.
    pub guards: Guards,
    /// What retries were spent on.
    pub spending: Spending,
    /// What is missing before this proxy is ready.
    pub readiness: Readiness,
    /// Set once connections may be accepted.
    pub admitting: watch::Receiver<bool>,
}

impl Shared {
    /// Resolves when connections may be accepted: the certificate and the first configuration are
    /// there, or the time for starting is over. Until then they wait in the listeners' backlogs;
    /// after that time they are accepted and refused with a reason, while the process keeps trying.
    pub async fn admitted(&self) {
        let mut admitting = self.admitting.clone();
        // A sender that is gone means a process that ends: nothing is admitted any more.
        if admitting.wait_for(|admitting| *admitting).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
