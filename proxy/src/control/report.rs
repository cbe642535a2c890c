//! Tells the control API how often each rule decided here, so that people who reach nothing but the
//! control API learn which policies are of use. Nobody waits for it, and a report that is lost is made
//! up for by the next: counts are since the start.

use super::dial::{self, LentChannel};
use crate::shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use weft_model::proto::v1::reports_client::ReportsClient;
use weft_model::proto::v1::{Decisions, ReportRequest};

/// How often the counts are looked at.
const TICK: Duration = Duration::from_secs(1);
/// The least time between reports: of ten thousand busy proxies the control API hears a thousand a second.
const INTERVAL_MIN: Duration = Duration::from_secs(10);
/// When counts that did not change are told again: the control API may have forgotten them.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// How long a report may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Reports for as long as the process lives. `channel`: the one to the control API, while there is one.
pub async fn run(shared: Arc<Shared>, channel: LentChannel) {
    let (mut told, mut told_at): (Vec<Decisions>, Option<Instant>) = (Vec::new(), None);
    loop {
        sleep(TICK).await;
        let decisions = decisions(&shared);
        let due = if decisions == told { INTERVAL_MAX } else { INTERVAL_MIN };
        let early = told_at.is_some_and(|at| at.elapsed() < due);
        let Some(channel) = channel.current().filter(|_| !early && !decisions.is_empty()) else { continue };
        let mut client = ReportsClient::with_origin(channel, http::Uri::from_static(dial::ORIGIN));
        let workload = shared.settings.workload.to_string();
        let request = ReportRequest { workload, decisions: decisions.clone() };
        match timeout(SEND_TIMEOUT, client.report(request)).await {
            Ok(Ok(_)) => (told, told_at) = (decisions, Some(Instant::now())),
            Ok(Err(status)) => tracing::debug!(code = ?status.code(), "a report was not taken"),
            Err(_) => tracing::debug!("a report took too long"),
        }
    }
}

// Of rules alone: what no rule decided has no place in a policy.
fn decisions(shared: &Shared) -> Vec<Decisions> {
    let counts = shared.families.decisions().into_iter();
    let mut all: Vec<_> = counts
        .filter_map(|([verdict, policy, rule], count)| {
            Some(Decisions { policy, rule: rule.parse().ok()?, verdict, count })
        })
        .collect();
    all.sort_by(|a, b| (&a.policy, a.rule, &a.verdict).cmp(&(&b.policy, b.rule, &b.verdict)));
    all
}
