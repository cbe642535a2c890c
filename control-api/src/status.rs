//! What is known of the connected proxies, for `/status`: who is connected, which generation each
//! enforces, and what it refused and why, until it accepts or no longer needs it.

use crate::discovery::nack::Refusal;
use crate::metrics::kind_label;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;
use weft_model::mesh::Generation;
use weft_model::names::WorkloadUid;
use weft_model::wire::Kind;

/// The most refusals that are kept of one proxy.
const REFUSALS_MAX: usize = 1000;

/// The most streams of one workload: one, and another for a moment when its proxy reconnects. What one stream
/// may hold is bounded; so is thereby what one workload's identity can make the control API hold. The oldest
/// one goes first: it is the likeliest to be of a proxy that is gone.
const STREAMS_OF_ONE_MAX: usize = 4;

/// All connected proxies.
#[derive(Debug, Default)]
pub struct Proxies {
    next: AtomicU64,
    // By stream: a proxy that reconnects may for a moment have two.
    streams: Mutex<BTreeMap<u64, Proxy>>,
    // By workload, for as long as it has a stream.
    hits: Mutex<BTreeMap<WorkloadUid, Vec<Hits>>>,
}

#[derive(Debug)]
struct Proxy {
    workload: WorkloadUid,
    address: SocketAddr,
    since: Instant,
    superseded: Arc<Notify>,
    enforced: Option<Generation>,
    current: bool,
    refused: BTreeMap<(Kind, String), String>,
}

/// How often a rule decided.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Hits {
    /// `NAMESPACE/NAME` of the policy.
    pub policy: String,
    /// The index of its rule.
    pub rule: usize,
    /// What it decided.
    pub verdict: &'static str,
    /// How often.
    pub decisions: u64,
}

/// One proxy as it is shown.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// The workload.
    pub workload: String,
    /// Where it connects from.
    pub address: String,
    /// For how long it has been connected.
    pub connected_seconds: u64,
    /// The generation that it enforces; none before its first.
    pub generation: Option<String>,
    /// Whether it enforces all of the newest one that concerns it, and refused nothing of it.
    pub current: bool,
    /// What it refused.
    pub nacks: Vec<NackStatus>,
}

/// A refused resource as it is shown.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct NackStatus {
    /// Its type.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// One stream's place among them; it leaves when this is dropped.
#[derive(Debug)]
pub struct ProxyEntry {
    stream: u64,
    workload: WorkloadUid,
    superseded: Arc<Notify>,
    proxies: Arc<Proxies>,
}

impl Proxies {
    /// A stream of a proxy begins.
    pub fn enter(self: &Arc<Self>, workload: WorkloadUid, address: SocketAddr) -> ProxyEntry {
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let superseded = Arc::new(Notify::new());
        let proxy = Proxy {
            workload: workload.clone(),
            address,
            since: Instant::now(),
            superseded: superseded.clone(),
            enforced: None,
            current: false,
            refused: BTreeMap::new(),
        };
        let mut streams = self.lock();
        streams.insert(stream, proxy);
        let of_one = streams.values().rev().filter(|proxy| proxy.workload == workload);
        of_one.skip(STREAMS_OF_ONE_MAX).for_each(|oldest| oldest.superseded.notify_one());
        ProxyEntry { stream, workload, superseded, proxies: self.clone() }
    }

    /// All, by workload. A stream that has not heard of the newest generation yet is behind, whatever it said last.
    pub fn list(&self, newest: &Generation) -> Vec<ProxyStatus> {
        let streams = self.lock();
        let mut list: Vec<ProxyStatus> = streams.values().map(|proxy| proxy.show(newest)).collect();
        list.sort_by(|a, b| a.workload.cmp(&b.workload));
        list
    }

    /// A workload's proxy told how often rules decided there since it started. `false`: it has no stream,
    /// and of one that is gone nothing is kept.
    pub fn reported(&self, workload: &WorkloadUid, hits: Vec<Hits>) -> bool {
        let streams = self.lock();
        let connected = streams.values().any(|proxy| proxy.workload == *workload);
        if connected {
            self.hits().insert(workload.clone(), hits);
        }
        connected
    }

    /// How often each rule decided, at all connected proxies together.
    pub fn decisions(&self) -> Vec<Hits> {
        let mut all: BTreeMap<(String, usize, &'static str), u64> = BTreeMap::new();
        for Hits { policy, rule, verdict, decisions } in self.hits().values().flatten() {
            let sum = all.entry((policy.clone(), *rule, *verdict)).or_default();
            *sum = sum.saturating_add(*decisions);
        }
        let hits = |((policy, rule, verdict), decisions)| Hits { policy, rule, verdict, decisions };
        all.into_iter().map(hits).collect()
    }

    fn hits(&self) -> MutexGuard<'_, BTreeMap<WorkloadUid, Vec<Hits>>> {
        self.hits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Proxy>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    fn show(&self, newest: &Generation) -> ProxyStatus {
        let nack = |((kind, name), reason): (&(Kind, String), &String)| NackStatus {
            kind: kind_label(*kind),
            name: name.clone(),
            reason: reason.clone(),
        };
        ProxyStatus {
            workload: self.workload.to_string(),
            address: self.address.to_string(),
            connected_seconds: self.since.elapsed().as_secs(),
            generation: self.enforced.as_ref().map(ToString::to_string),
            // What it refused it was sent, and does not enforce.
            current: self.current && self.enforced.as_ref() == Some(newest) && self.refused.is_empty(),
            nacks: self.refused.iter().map(nack).collect(),
        }
    }
}

impl ProxyEntry {
    /// Whose it is.
    pub fn workload(&self) -> &WorkloadUid {
        &self.workload
    }

    /// Ends when newer streams of the same workload have taken this one's place.
    pub async fn superseded(&self) {
        self.superseded.notified().await;
    }

    /// Where it stands.
    pub fn update(&self, enforced: Option<&Generation>, current: bool) {
        self.change(|proxy| {
            if proxy.enforced.as_ref() != enforced {
                proxy.enforced = enforced.cloned();
            }
            proxy.current = current;
        });
    }

    /// It answered a response.
    pub fn answered(&self, accepted: &[(Kind, String)], refused: Vec<Refusal>) {
        self.change(|proxy| {
            accepted.iter().for_each(|resource| drop(proxy.refused.remove(resource)));
            for refusal in refused {
                let resource = (refusal.kind, refusal.name);
                if proxy.refused.len() < REFUSALS_MAX || proxy.refused.contains_key(&resource) {
                    proxy.refused.insert(resource, refusal.reason);
                }
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Proxy)) {
        if let Some(proxy) = self.proxies.lock().get_mut(&self.stream) {
            change(proxy);
        }
    }
}

impl Drop for ProxyEntry {
    fn drop(&mut self) {
        let mut streams = self.proxies.lock();
        streams.remove(&self.stream);
        if !streams.values().any(|proxy| proxy.workload == self.workload) {
            self.proxies.hits().remove(&self.workload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_shown_until_the_resource_is_accepted_and_a_proxy_until_it_leaves() {
        let proxies = Arc::new(Proxies::default());
        let entry = proxies.enter("shop/cart-1".parse().unwrap(), "127.0.0.1:1".parse().unwrap());
        let resource = (Kind::Route, "HTTPRoute/shop/cart".to_owned());
        let refusal = Refusal { kind: Kind::Route, name: resource.1.clone(), reason: "too new".to_owned() };
        entry.answered(&[], vec![refusal]);
        let generation = |number| Generation { epoch: "e".into(), number };
        entry.update(Some(&generation(4)), true);
        let shown = proxies.list(&generation(4));
        assert_eq!(shown[0].generation.as_deref(), Some("e.4"));
        assert!(!shown[0].current, "it does not enforce what it refused");
        assert_eq!(
            shown[0].nacks,
            [NackStatus { kind: "Route", name: resource.1.clone(), reason: "too new".to_owned() }]
        );
        entry.answered(&[resource], Vec::new());
        let shown = proxies.list(&generation(4));
        assert!(shown[0].nacks.is_empty() && shown[0].current);
        // Its stream has not heard of the next one yet.
        assert!(!proxies.list(&generation(5))[0].current);
        drop(entry);
        assert!(proxies.list(&generation(5)).is_empty());
    }

    #[test]
    fn a_workload_has_so_many_streams_and_the_oldest_give_way() {
        use futures_util::FutureExt;
        let proxies = Arc::new(Proxies::default());
        let enter = |uid: &str| proxies.enter(uid.parse().unwrap(), "127.0.0.1:1".parse().unwrap());
        let other = enter("shop/web-1");
        let mut entries: Vec<_> = (0..STREAMS_OF_ONE_MAX).map(|_| enter("shop/cart-1")).collect();
        assert!(entries.iter().all(|entry| entry.superseded().now_or_never().is_none()));
        entries.push(enter("shop/cart-1"));
        let over: Vec<_> = entries.iter().map(|entry| entry.superseded().now_or_never().is_some()).collect();
        assert_eq!(over, [true, false, false, false, false]);
        assert!(other.superseded().now_or_never().is_none());
    }

    #[test]
    fn what_proxies_report_is_added_up_and_forgotten_with_them() {
        let proxies = Arc::new(Proxies::default());
        let hits =
            |decisions| vec![Hits { policy: "shop/cart".to_owned(), rule: 0, verdict: "allow", decisions }];
        let enter = |uid: &str| proxies.enter(uid.parse().unwrap(), "127.0.0.1:1".parse().unwrap());
        let (one, two) = (enter("shop/cart-1"), enter("shop/cart-2"));
        let again = enter("shop/cart-1");
        assert!(proxies.reported(one.workload(), hits(3)));
        // It says how often it was since it started: the newest report counts.
        assert!(proxies.reported(one.workload(), hits(4)));
        assert!(proxies.reported(two.workload(), hits(10)));
        assert!(!proxies.reported(&"shop/gone".parse().unwrap(), hits(100)));
        assert_eq!(proxies.decisions(), hits(14));
        drop(again);
        assert_eq!(proxies.decisions(), hits(14), "another stream of the same is open");
        drop(one);
        assert_eq!(proxies.decisions(), hits(10));
        drop(two);
        assert_eq!(proxies.decisions(), []);
    }
}
