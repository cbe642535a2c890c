//! Clients that come without mutual TLS, by address: who must be looked after before a port goes strict.
//!
//! Kept for the dump and told once each to the log; never a metric's label, since addresses have no end.
//! At most so many are kept; those that have not come for a while make room. Asked once per plaintext
//! connection, never by a connection of the mesh.

use crate::policy::{Policy, Resolution};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use weft_model::names::WorkloadUid;

/// The most clients that are kept.
const CLIENTS_MAX: usize = 1024;

/// Who has not come for so long makes room when it is needed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// How often room is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// What became of a plaintext connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It was let in: the port is PERMISSIVE or DISABLE.
    Admitted,
    /// It was refused: the port is STRICT.
    Refused,
}

/// One client of one port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Client {
    /// Where it comes from.
    pub address: IpAddr,
    /// The port that it calls, as the mesh advertises it.
    pub port: u16,
    /// Whose address that is, if it is a workload's that this proxy knows.
    pub workload: Option<WorkloadUid>,
    /// Connections that were let in.
    pub admitted: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// When it came last.
    pub last: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Clients {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    clients: HashMap<(IpAddr, u16), Client>,
    others: u64,
    swept: Option<Instant>,
}

// === impl Clients ===

impl Clients {
    /// Notes a connection, and tells the log of a client that is new.
    pub fn note(&self, policy: &Policy, address: IpAddr, port: u16, verdict: Verdict) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, client) = seen.note(address, port, verdict, Instant::now());
        let Some(client) = client else {
            // The first that finds no room stands for all.
            let first = seen.others == 1;
            drop(seen);
            if first {
                tracing::warn!(kept = CLIENTS_MAX, "more plaintext clients than are kept");
            }
            return;
        };
        if !new {
            return;
        }
        client.workload = workload_at(policy, address);
        let workload = client.workload.as_ref().map(ToString::to_string).unwrap_or_default();
        drop(seen);
        let verdict = if verdict == Verdict::Admitted { "admitted" } else { "refused" };
        tracing::info!(client = %address, port, workload, verdict, "a client comes without mutual TLS");
    }

    /// Those that are kept, by address, and how many connections found no room.
    pub fn list(&self) -> (Vec<Client>, u64) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut clients: Vec<Client> = seen.clients.values().cloned().collect();
        clients.sort_by_key(|client| (client.address, client.port));
        (clients, seen.others)
    }
}

impl Seen {
    // Whether the client is new, and where it is kept.
    fn note(
        &mut self,
        address: IpAddr,
        port: u16,
        verdict: Verdict,
        now: Instant,
    ) -> (bool, Option<&mut Client>) {
        let key = (address, port);
        let new = !self.clients.contains_key(&key);
        if new && self.clients.len() >= CLIENTS_MAX && !self.make_room(now) {
            self.others += 1;
            return (true, None);
        }
        let client = self.clients.entry(key).or_insert_with(|| Client {
            address,
            port,
            workload: None,
            admitted: 0,
            refused: 0,
            last: now,
        });
        client.last = now;
        match verdict {
            Verdict::Admitted => client.admitted += 1,
            Verdict::Refused => client.refused += 1,
        }
        (new, Some(client))
    }

    fn make_room(&mut self, now: Instant) -> bool {
        if self.swept.is_some_and(|swept| now.duration_since(swept) < SWEEP_INTERVAL) {
            return false;
        }
        self.swept = Some(now);
        self.clients.retain(|_, client| now.duration_since(client.last) < FORGOTTEN_AFTER);
        self.clients.len() < CLIENTS_MAX
    }
}

/// The workload at an address, among those that this proxy calls.
fn workload_at(policy: &Policy, address: IpAddr) -> Option<WorkloadUid> {
    let known = policy.destinations.values().filter_map(|resolution| match resolution {
        Resolution::Known(destination) => Some(destination),
        Resolution::Absent => None,
    });
    let mut endpoints =
        known.flat_map(|destination| &destination.ports).flat_map(|port| &port.endpoints.endpoints);
    endpoints.find(|endpoint| endpoint.address.ip() == address).map(|endpoint| endpoint.uid.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_kept_than_there_is_room_for_and_the_forgotten_make_room() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let address = |index: u32| IpAddr::from(index.to_be_bytes());
        for index in 0..CLIENTS_MAX as u32 {
            let now = start + Duration::from_secs(u64::from(index));
            assert!(seen.note(address(index), 80, Verdict::Admitted, now).1.is_some());
        }
        let now = start + Duration::from_secs(CLIENTS_MAX as u64);
        let (new, kept) = seen.note(address(9_999), 80, Verdict::Refused, now);
        assert!(new && kept.is_none());
        assert_eq!((seen.clients.len(), seen.others), (CLIENTS_MAX, 1));
        let (new, kept) = seen.note(address(7), 80, Verdict::Refused, now);
        assert!(!new);
        assert_eq!(kept.map(|client| (client.admitted, client.refused)), Some((1, 1)));
        // An hour after the first 25 only they have not come.
        let later = start + FORGOTTEN_AFTER + Duration::from_secs(24);
        assert!(seen.note(address(9_999), 80, Verdict::Refused, later).1.is_some());
        assert_eq!(seen.clients.len(), CLIENTS_MAX - 24 + 1, "0 to 24 are gone, but 7, which came again");
    }
}
