//! Takes in what proxies tell of themselves: how often each rule decided there. For people alone, so
//! nothing is believed that the mesh does not know or that is not the caller's to tell, and no more is kept
//! than the mesh has rules.

use crate::discovery::scope::admit;
use crate::server::Peer;
use crate::snapshot::Snapshot;
use crate::status::{Hits, Proxies};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use weft_model::names::{ResourceName, WorkloadUid};
use weft_model::proto::v1::reports_server::Reports;
use weft_model::proto::v1::{Decisions, ReportRequest, ReportResponse};

/// The most rules of one report: as many as a proxy's metric has series.
const DECISIONS_MAX: usize = 2000;

/// What is decided, as the proxies' metric says it.
const VERDICTS: [&str; 5] = ["allow", "deny", "audit", "dry_run_allow", "dry_run_deny"];

/// The service.
#[derive(Clone)]
pub struct Reporter {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    proxies: Arc<Proxies>,
}

impl Reporter {
    /// Keeps what is told beside what else is known of the proxies.
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>, proxies: Arc<Proxies>) -> Self {
        Self { snapshots, proxies }
    }
}

#[tonic::async_trait]
impl Reports for Reporter {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let Some(certificate) = peer.as_ref().and_then(Peer::certificate) else {
            return Err(Status::unauthenticated("a report needs a client certificate of the mesh"));
        };
        let request = request.into_inner();
        let snapshot = self.snapshots.borrow().clone();
        let workload = admit(&request.workload, certificate, &snapshot)
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        if request.decisions.len() > DECISIONS_MAX {
            return Err(Status::invalid_argument("the report has too many rules"));
        }
        let known = known(request.decisions, &workload, &snapshot);
        if !self.proxies.reported(&workload, known) {
            return Err(Status::failed_precondition("the workload has no discovery stream"));
        }
        Ok(Response::new(ReportResponse {}))
    }
}

// Of rules that the mesh has, in policies that bind the workload: no proxy speaks for another. One that is a
// generation behind tells of others, too.
fn known(told: Vec<Decisions>, workload: &WorkloadUid, snapshot: &Snapshot) -> Vec<Hits> {
    let workload = snapshot.mesh().workloads.get(workload);
    let names = workload.into_iter().flat_map(|workload| &workload.authorizations);
    let bound: HashSet<&str> = names.map(ResourceName::as_str).collect();
    let known = |told: Decisions| {
        let verdict = VERDICTS.into_iter().find(|verdict| *verdict == told.verdict)?;
        let name = format!("AuthorizationPolicy/{}", told.policy);
        let policy = snapshot.mesh().authorizations.get(*bound.get(&*name)?)?;
        let rule = usize::try_from(told.rule).ok().filter(|rule| *rule < policy.rules.len())?;
        Some(Hits { policy: told.policy, rule, verdict, decisions: told.count })
    };
    told.into_iter().filter_map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use weft_model::authorization::Rule;

    #[test]
    fn only_rules_that_bind_the_caller_are_believed() {
        let mut fixture = Fixture::shop();
        let policy = fixture.mesh.authorizations.values_mut().next().unwrap();
        Arc::make_mut(policy).rules = vec![Rule::default()];
        let snapshot = fixture.snapshot();
        let told_by = |workload: &str, policy: &str, rule, verdict: &str| {
            let told = Decisions { policy: policy.to_owned(), rule, verdict: verdict.to_owned(), count: 7 };
            known(vec![told], &workload.parse().unwrap(), &snapshot).pop()
        };
        let told = |policy: &str, rule, verdict: &str| told_by("shop/cart-1", policy, rule, verdict);
        let hits = Hits { policy: "shop/cart-callers".to_owned(), rule: 0, verdict: "allow", decisions: 7 };
        assert_eq!(told("shop/cart-callers", 0, "allow"), Some(hits));
        assert_eq!(told("shop/cart-callers", 1, "allow"), None);
        assert_eq!(told("shop/other", 0, "allow"), None);
        assert_eq!(told("shop/cart-callers", 0, "perhaps"), None);
        assert_eq!(told_by("shop/web-1", "shop/cart-callers", 0, "allow"), None, "it binds another workload");
    }
}
