//! What has come through the redirection, as far as it proves something.
//!
//! The prober awaits connections that say a nonce; a worker that accepts one on the probe port reports
//! it here. Shared by the control thread and all workers: what every redirected connection touches is
//! one atomic, the lock is for probes alone.

use super::proof::{Family, Path};
use crate::metrics::Direction;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use weft_model::workload::PROBE_NONCE_LENGTH;

/// What a probe says: random, new for each, known to who asked and who was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Nonce([u8; PROBE_NONCE_LENGTH]);

/// How long somebody on the probe port may take to say a nonce. They have nothing else to do.
const SAY_TIMEOUT: Duration = Duration::from_secs(5);

/// Nonces that may be awaited at once: one for each path, with room.
const AWAITED_MAX: usize = 8;

/// What the process keeps of it.
#[derive(Debug)]
pub struct Arrivals {
    began: Instant,
    awaited: Mutex<Vec<Awaited>>,
    /// Milliseconds since `began`, and one: when another's connection last came in, by family.
    last_inbound: [AtomicU64; 2],
    /// Whether the proxy's own connections are redirected back to it, by family.
    returning: [AtomicBool; 2],
    strangers: AtomicU64,
}

#[derive(Debug)]
struct Awaited {
    nonce: Nonce,
    path: Path,
    arrived: oneshot::Sender<()>,
}

// === impl Nonce ===

impl Nonce {
    /// A new one. `None`: the machine has no randomness, so nothing can be proven.
    pub(super) fn random() -> Option<Self> {
        let mut bytes = [0; PROBE_NONCE_LENGTH];
        aws_lc_rs::rand::fill(&mut bytes).ok().map(|()| Self(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

// === impl Arrivals ===

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            awaited: Mutex::default(),
            last_inbound: Default::default(),
            returning: Default::default(),
            strangers: AtomicU64::new(0),
        }
    }
}

impl Arrivals {
    /// Resolves when a connection on that path has said the nonce.
    pub(super) fn expect(&self, path: Path, nonce: Nonce) -> oneshot::Receiver<()> {
        let (arrived, receiver) = oneshot::channel();
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.retain(|one| !one.arrived.is_closed());
        // Only the prober adds, and drops what it no longer waits for.
        awaited.truncate(AWAITED_MAX - 1);
        awaited.push(Awaited { nonce, path, arrived });
        receiver
    }

    /// Another's connection came in by redirection: so it is in place for that family.
    pub fn came_in(&self, local: SocketAddr, client: SocketAddr) {
        // The proxy that calls its own workload comes by another rule.
        if !client.ip().is_loopback() {
            self.last_inbound[Family::of(local.ip()) as usize].store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// How long ago one came in.
    pub(super) fn since_inbound(&self, family: Family) -> Option<Duration> {
        let at = self.last_inbound[family as usize].load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.now().saturating_sub(at)))
    }

    /// Whether what is redirected outbound is, or may be, this proxy's own.
    pub fn returns(&self, ip: IpAddr) -> bool {
        self.returning[Family::of(ip) as usize].load(Ordering::Relaxed)
    }

    pub(super) fn set_returning(&self, family: Family, returning: bool) {
        self.returning[family as usize].store(returning, Ordering::Relaxed);
    }

    /// Probe connections of others since the last time: nonces that nobody awaits.
    pub(super) fn take_strangers(&self) -> u64 {
        self.strangers.swap(0, Ordering::Relaxed)
    }

    /// Hears what a connection on the probe port has to say.
    pub async fn hear(&self, mut stream: TcpStream, direction: Direction, local: SocketAddr) {
        let mut nonce = [0; PROBE_NONCE_LENGTH];
        let said = tokio::time::timeout(SAY_TIMEOUT, stream.read_exact(&mut nonce)).await;
        let path = Path { direction, family: Family::of(local.ip()) };
        if !matches!(said, Ok(Ok(_))) || !self.arrived(path, &Nonce(nonce)) {
            self.strangers.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn arrived(&self, path: Path, nonce: &Nonce) -> bool {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let found = awaited.iter().position(|one| one.path == path && one.nonce == *nonce);
        // Said once: a repetition is a stranger's.
        found.is_some_and(|index| awaited.swap_remove(index).arrived.send(()).is_ok())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(direction: Direction, family: Family) -> Path {
        Path { direction, family }
    }

    #[test]
    fn a_nonce_counts_once_and_only_on_its_own_path() {
        let arrivals = Arrivals::default();
        let inbound = path(Direction::Inbound, Family::Ipv4);
        let mut awaited = arrivals.expect(inbound, Nonce([7; PROBE_NONCE_LENGTH]));
        assert!(!arrivals.arrived(path(Direction::Outbound, Family::Ipv4), &Nonce([7; PROBE_NONCE_LENGTH])));
        assert!(!arrivals.arrived(path(Direction::Inbound, Family::Ipv6), &Nonce([7; PROBE_NONCE_LENGTH])));
        assert!(!arrivals.arrived(inbound, &Nonce([8; PROBE_NONCE_LENGTH])));
        assert!(awaited.try_recv().is_err());
        assert!(arrivals.arrived(inbound, &Nonce([7; PROBE_NONCE_LENGTH])));
        assert_eq!(awaited.try_recv(), Ok(()));
        assert!(!arrivals.arrived(inbound, &Nonce([7; PROBE_NONCE_LENGTH])));
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_forgotten() {
        let arrivals = Arrivals::default();
        let inbound = path(Direction::Inbound, Family::Ipv6);
        drop(arrivals.expect(inbound, Nonce([7; PROBE_NONCE_LENGTH])));
        assert!(!arrivals.arrived(inbound, &Nonce([7; PROBE_NONCE_LENGTH])));
        let kept: Vec<_> =
            (0..100).map(|number| arrivals.expect(inbound, Nonce([number; PROBE_NONCE_LENGTH]))).collect();
        assert!(arrivals.awaited.lock().unwrap().len() <= AWAITED_MAX);
        drop(kept);
    }

    #[test]
    fn only_another_machines_connection_shows_that_inbound_is_redirected() {
        let arrivals = Arrivals::default();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        arrivals.came_in(at("10.0.0.1:80"), at("127.0.0.1:9"));
        assert_eq!(arrivals.since_inbound(Family::Ipv4), None);
        arrivals.came_in(at("10.0.0.1:80"), at("10.0.0.2:9"));
        assert!(arrivals.since_inbound(Family::Ipv4).is_some());
        assert_eq!(arrivals.since_inbound(Family::Ipv6), None);
    }
}
