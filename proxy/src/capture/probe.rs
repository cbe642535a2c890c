//! The prober: tries every path, again and again, and says in readiness which one is not captured.
//!
//! Outbound the proxy calls a loopback address that its rules redirect to it, in each family. Inbound
//! no packet of this machine passes the redirection, so another has to call: the control API knocks at
//! the pod's addresses when it is asked to. Both carry a nonce that only who is meant knows. One task
//! on the control thread; it dials nobody but loopback and the control API.

use super::arrivals::{Arrivals, Nonce};
use super::metrics::CaptureMetrics;
use super::proof::{Family, Outcome, Path, Standing};
use crate::control::dial::{self, LentChannel};
use crate::dial::Dialler;
use crate::metrics::Direction;
use crate::rules::wanted::PROBE_PORT;
use crate::settings::{CaptureSettings, Installer};
use crate::shared::Shared;
use nix::errno::Errno;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use weft_model::proto::v1::capture_client::CaptureClient;
use weft_model::proto::v1::knocked::Outcome as Knock;
use weft_model::proto::v1::{KnockRequest, Knocked};
use weft_model::workload::Workload;
use weft_runtime::readiness::Latch;

/// How long a probe over loopback may take: a worker that is so late is overloaded, not bypassed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the control API may take to knock at two addresses and to tell.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a knock that was made may take to be heard by a worker.
const HEAR_TIMEOUT: Duration = Duration::from_secs(2);

/// How soon it is tried again while something is unproven.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long ago somebody else's connection may have come in to count where nobody can knock. Short:
/// what is older may be older than what went wrong.
const PASSIVE_AGE_MAX: Duration = Duration::from_secs(3);

/// The prober.
pub struct Prober {
    shared: Arc<Shared>,
    arrivals: Arc<Arrivals>,
    channel: LentChannel,
    metrics: CaptureMetrics,
    interval: Duration,
    paths: [Tried; 4],
}

struct Tried {
    path: Path,
    latch: Latch,
    standing: Standing,
    last: Option<Outcome>,
}

// === impl Prober ===

impl Prober {
    /// For a process that captures. `latches`: in the order of [`Path::ALL`].
    pub fn new(
        shared: Arc<Shared>,
        arrivals: Arc<Arrivals>,
        channel: LentChannel,
        metrics: CaptureMetrics,
        capture: &CaptureSettings,
        latches: [Latch; 4],
    ) -> Self {
        let mut paths = Path::ALL.into_iter();
        let paths = latches.map(|latch| {
            let path = paths.next().expect("there must be as many paths as latches");
            // What goes out is tried here, so nothing else need vouch for it.
            let read_back = capture.installer == Installer::Itself && path.direction == Direction::Inbound;
            let standing = if read_back { Standing::ReadBack } else { Standing::Unproven };
            Tried { path, latch, standing, last: None }
        });
        Self { shared, arrivals, channel, metrics, interval: capture.probe_interval, paths }
    }

    /// Tries until the process drains.
    pub async fn run(mut self) {
        let drain = self.shared.drain.clone();
        let rounds = async {
            // Before that nothing accepts, and a probe would wait as everything does.
            self.shared.admitted().await;
            loop {
                self.round().await;
                let holds = self.paths.iter().all(|tried| tried.standing.holds());
                let wait = if holds { self.interval } else { self.interval.min(RETRY_INTERVAL) };
                tokio::time::sleep(wait).await;
            }
        };
        tokio::select! {
            biased;
            () = drain.draining() => {}
            () = rounds => {}
        }
    }

    async fn round(&mut self) {
        let [ipv4, ipv6] = Family::ALL.map(|family| self.call_itself(family));
        let (ipv4, ipv6) = tokio::join!(ipv4, ipv6);
        for (index, outcome) in [ipv4, ipv6].into_iter().enumerate() {
            // What is redirected while the proxy's own calls are not let pass may be its own.
            self.arrivals.set_returning(Family::ALL[index], outcome == Outcome::PassedBy);
            let standing = self.paths[index].standing;
            self.note(index, outcome, standing);
        }
        let inbound = self.be_called().await;
        for (index, outcome) in inbound.into_iter().enumerate() {
            let outbound = self.paths[index].standing;
            self.note(index + 2, outcome, outbound);
        }
        self.metrics.strangers(self.arrivals.take_strangers());
    }

    fn note(&mut self, index: usize, outcome: Outcome, other: Standing) {
        let tried = &mut self.paths[index];
        let before = tried.standing;
        tried.standing = before.after(outcome, other);
        self.metrics.probed(tried.path, outcome, tried.standing);
        let changed = tried.last.replace(outcome) != Some(outcome) || before != tried.standing;
        if tried.standing.holds() {
            tried.latch.release();
            if changed {
                tracing::info!(path = %tried.path, outcome = outcome.as_str(), "capture is in order");
            }
        } else {
            tried.latch.hold();
            if changed {
                tracing::warn!(
                    path = %tried.path,
                    outcome = outcome.as_str(),
                    detail = advice(tried.path.direction, outcome),
                    "not ready: it is not proven that these connections are captured"
                );
            }
        }
    }

    /// Calls the probe port of loopback, as the rules know this proxy.
    async fn call_itself(&self, family: Family) -> Outcome {
        let Some(nonce) = Nonce::random() else { return Outcome::Unanswered };
        let path = Path { direction: Direction::Outbound, family };
        let arrived = self.arrivals.expect(path, nonce);
        let ip = match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let dialler = Dialler::new(self.shared.settings.control.bypass, self.shared.settings.tcp);
        let call = async {
            let mut stream = match dialler.connect(SocketAddr::new(ip, PROBE_PORT)).await {
                Ok(stream) => stream,
                Err(error) => return outcome_of(&error, family),
            };
            // A connection that is closed early is told by what does not arrive.
            let _ = stream.write_all(nonce.as_bytes()).await;
            if arrived.await.is_ok() { Outcome::Arrived } else { Outcome::Unanswered }
        };
        tokio::time::timeout(PROBE_TIMEOUT, call).await.unwrap_or(Outcome::Unanswered)
    }

    /// Has the control API call this pod, at one address of each family that it has.
    async fn be_called(&self) -> [Outcome; 2] {
        let policy = self.shared.policy.current();
        let (Some(own), Some(nonce)) = (&policy.own.workload, Nonce::random()) else {
            return [Outcome::NobodyToAsk; 2];
        };
        let mut arrivals = Family::ALL
            .map(|family| self.arrivals.expect(Path { direction: Direction::Inbound, family }, nonce));
        let answer = tokio::time::timeout(KNOCK_TIMEOUT, self.ask(own, nonce)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if let Err(error) = &answer {
            tracing::debug!(%error, "the control API was not asked to knock");
        }
        let mut outcomes = [Outcome::Absent; 2];
        for (index, family) in Family::ALL.into_iter().enumerate() {
            if !own.addresses.iter().any(|ip| Family::of(*ip) == family) {
                continue;
            }
            let arrived = &mut arrivals[index];
            outcomes[index] = match answer.as_deref().map(|knocked| knock_at(knocked, family)) {
                _ if arrived.try_recv().is_ok() => Outcome::Arrived,
                Ok(Knock::Connected | Knock::Refused) => {
                    match tokio::time::timeout(HEAR_TIMEOUT, arrived).await {
                        Ok(Ok(())) => Outcome::Arrived,
                        _ => Outcome::PassedBy,
                    }
                }
                Ok(Knock::Unspecified | Knock::Unreachable) => Outcome::Unanswered,
                Err(_) => Outcome::NobodyToAsk,
            };
            let unknown = matches!(outcomes[index], Outcome::Unanswered | Outcome::NobodyToAsk);
            let since = self.arrivals.since_inbound(family);
            if unknown && since.is_some_and(|since| since <= PASSIVE_AGE_MAX) {
                outcomes[index] = Outcome::Arrived;
            }
        }
        outcomes
    }

    async fn ask(&self, own: &Workload, nonce: Nonce) -> Result<Vec<Knocked>, String> {
        let channel = match self.channel.current() {
            Some(channel) => channel,
            // The stream is down; the control API need not be.
            None => dial::dial(&self.shared.settings.control, self.shared.tls.certificate())
                .await
                .map_err(|error| crate::describe::chain(&error))?,
        };
        let mut client = CaptureClient::with_origin(channel, http::Uri::from_static(dial::ORIGIN));
        let request = KnockRequest { workload: own.uid.to_string(), nonce: nonce.as_bytes().to_vec() };
        let answer = client.knock(request).await.map_err(|status| format!("{:?}", status.code()))?;
        Ok(answer.into_inner().knocked)
    }
}

impl Drop for Prober {
    /// Nobody tries any more: nothing is proven any more, whatever ended it.
    fn drop(&mut self) {
        self.paths.iter().for_each(|tried| tried.latch.hold());
    }
}

fn knock_at(knocked: &[Knocked], family: Family) -> Knock {
    let of_family = |one: &&Knocked| one.address.parse().is_ok_and(|ip| Family::of(ip) == family);
    knocked.iter().find(of_family).map_or(Knock::Unspecified, Knocked::outcome)
}

fn outcome_of(error: &io::Error, family: Family) -> Outcome {
    match error.raw_os_error().map(Errno::from_raw) {
        // Nobody can listen there, for this process has the port bound: it was not redirected.
        Some(Errno::ECONNREFUSED) => Outcome::PassedBy,
        // The error does not tell: want of ports looks like want of addresses.
        _ if family == Family::Ipv6 && !has_ipv6() => Outcome::Absent,
        _ => Outcome::Unanswered,
    }
}

/// Whether any interface of the pod has an IPv6 address. What cannot be read counts as yes.
fn has_ipv6() -> bool {
    match std::fs::read_to_string("/proc/self/net/if_inet6") {
        Ok(addresses) => !addresses.trim().is_empty(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn advice(direction: Direction, outcome: Outcome) -> &'static str {
    match (direction, outcome) {
        (Direction::Outbound, Outcome::PassedBy) => {
            "the rules are missing, incomplete, or know this proxy by something else than rules.bypass; see \
             `weft-proxy rules check`"
        }
        (Direction::Inbound, Outcome::PassedBy) => {
            "the control API reached this pod and the proxy did not see it: the rules are missing or incomplete; see \
             `weft-proxy rules check`"
        }
        (Direction::Inbound, Outcome::Unanswered) => {
            "the control API cannot reach this pod: let it call TCP port 15002 (NetworkPolicy); until then any \
             redirected connection from another machine proves it as well"
        }
        (_, Outcome::NobodyToAsk) => "the control API, which would call this pod, cannot be asked",
        _ => "the probe was not answered in time",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::DEFAULT_PROBE_INTERVAL;

    #[test]
    fn rules_that_are_gone_are_noticed_within_35_seconds_at_the_default() {
        // The worst: just after a round, inbound alone, with somebody silent at the port: the control
        // API waits as long for them as this side does for a worker.
        assert!(DEFAULT_PROBE_INTERVAL + 2 * HEAR_TIMEOUT < Duration::from_secs(35));
        assert!(PASSIVE_AGE_MAX < DEFAULT_PROBE_INTERVAL);
    }

    #[test]
    fn want_of_anything_else_is_not_want_of_a_family() {
        let of = |errno: Errno, family| outcome_of(&io::Error::from_raw_os_error(errno as i32), family);
        assert_eq!(of(Errno::ECONNREFUSED, Family::Ipv6), Outcome::PassedBy);
        for errno in [Errno::EADDRNOTAVAIL, Errno::ENETUNREACH, Errno::EMFILE, Errno::EPERM] {
            assert_eq!(of(errno, Family::Ipv4), Outcome::Unanswered, "{errno}");
        }
    }
}
