//! A stream of requests in the background, with what became of each.

use super::http::{Connection, Response};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long to wait for an answer count before looking again.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Requests that go on until they are stopped.
#[derive(Debug)]
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    outcomes: Arc<Mutex<Outcomes>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcomes {
    /// Ids of those that the application answered with 200.
    pub(crate) succeeded: Vec<String>,
    /// Ids of the others, by how they ended.
    pub(crate) failed: BTreeMap<String, Vec<String>>,
    /// Answers by application.
    pub(crate) by_application: BTreeMap<String, usize>,
}

impl Outcomes {
    /// How many requests ended.
    pub(crate) fn total(&self) -> usize {
        self.succeeded.len() + self.failures()
    }

    /// How many of them failed.
    pub(crate) fn failures(&self) -> usize {
        self.failed.values().map(Vec::len).sum()
    }

    fn record(&mut self, id: String, answer: &anyhow::Result<Response>) {
        let how = match answer {
            Ok(response) if response.status == 200 => {
                *self.by_application.entry(response.field("x-application").to_owned()).or_default() += 1;
                return self.succeeded.push(id);
            }
            Ok(response) => format!("{} {}", response.status, response.reason()),
            Err(error) => format!("{error:#}"),
        };
        self.failed.entry(how).or_default().push(id);
    }
}

impl Stream {
    /// `clients` kept connections to the proxy at `proxy`, each sending one request after another.
    pub(crate) fn start(proxy: SocketAddr, clients: usize, method: &'static str, url: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let outcomes = Arc::new(Mutex::new(Outcomes::default()));
        let client = |number: usize| {
            let (stop, outcomes) = (stop.clone(), outcomes.clone());
            weft_runtime::spawn("demo-client", async move {
                let mut kept = None;
                for count in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let id = format!("{method}-{number}-{count}");
                    let answer = exchange(proxy, &mut kept, method, url, &id).await;
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).record(id, &answer);
                }
            })
        };
        let tasks = (0..clients).map(client).collect();
        Self { stop, outcomes, tasks }
    }

    /// Waits until `count` more requests have ended.
    pub(crate) async fn more(&self, count: usize) {
        let total = || self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).total();
        let goal = total() + count;
        while total() < goal {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Ends it.
    pub(crate) async fn stop(self) -> anyhow::Result<Outcomes> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await?;
        }
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(outcomes)
    }
}

async fn exchange(
    proxy: SocketAddr,
    kept: &mut Option<Connection>,
    method: &str,
    url: &str,
    id: &str,
) -> anyhow::Result<Response> {
    let mut connection = match kept.take().filter(Connection::is_open) {
        Some(connection) => connection,
        None => Connection::open(proxy).await?,
    };
    let response = connection.send(method, url, &[("x-request-id", id)]).await?;
    *kept = Some(connection);
    Ok(response)
}
