//! A stream of requests in the background while a test does something to the mesh.

use crate::client::{CUT, Client, Connection, Request, Response};
use crate::wait;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Requests that go on until they are stopped.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    completed: AtomicU64,
    outcomes: Mutex<Outcomes>,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    /// How many ended in which way: `200 NAME`, `503 connect_failed`, `lost: …`.
    pub counts: BTreeMap<String, u64>,
    /// The ids of requests that ended with 200.
    pub succeeded: Vec<String>,
    /// The ids of all others.
    pub failed: Vec<String>,
}

impl Traffic {
    /// `connections` kept connections, each sending what `request` makes of an id, one after
    /// another. A connection that was closed between two requests is opened again, as every client
    /// does.
    pub fn start(
        client: Client,
        connections: usize,
        request: impl Fn(&str) -> Request + Clone + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let run = |worker: usize| {
            let (shared, request) = (shared.clone(), request.clone());
            wait::spawn(async move {
                let mut connection = None;
                let mut number = 0;
                while !shared.stop.load(Ordering::Relaxed) {
                    let id = format!("{worker}-{number}");
                    number += 1;
                    let answer = exchange(client, &mut connection, &request(&id)).await;
                    shared.record(&id, &answer);
                }
            })
        };
        let tasks = (0..connections).map(run).collect();
        Self { shared, tasks }
    }

    /// How many requests have ended.
    pub fn completed(&self) -> u64 {
        self.shared.completed.load(Ordering::Relaxed)
    }

    /// Waits until `count` more requests have ended.
    pub async fn more(&self, count: u64) {
        self.reach(self.completed() + count).await;
    }

    /// Waits until `count` requests have ended, as long as there is one now and then: a busy machine is slow,
    /// and not stuck.
    pub async fn reach(&self, count: u64) {
        loop {
            let completed = self.completed();
            if completed >= count {
                return;
            }
            wait::until("one more request ends", async || self.completed() > completed).await;
        }
    }

    /// Ends it and says what became of the requests.
    pub async fn stop(self) -> Outcomes {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            wait::within("a stream of requests ends", task).await.expect("no panic in a client");
        }
        self.shared.outcomes.lock().expect("no panic while recording").clone()
    }
}

impl Outcomes {
    /// Panics unless every request ended with 200.
    #[track_caller]
    pub fn all_succeeded(&self) {
        assert!(self.failed.is_empty(), "{} requests failed: {:?}", self.failed.len(), self.counts);
        assert!(!self.succeeded.is_empty(), "no request was made");
    }

    /// Panics unless every request ended with 200, but for answers that had begun when whoever made them was
    /// killed: at most one for each connection.
    #[track_caller]
    pub fn all_succeeded_but_what_was_cut(&self, connections: usize) {
        let cut = self.counts.get(&format!("lost: {CUT}")).map_or(0, |count| *count as usize);
        assert!(cut <= connections, "more than one for each connection: {:?}", self.counts);
        assert_eq!(self.failed.len(), cut, "{:?}", self.counts);
        assert!(!self.succeeded.is_empty(), "no request was made");
    }

    /// How many ended with 200 from this application.
    pub fn from(&self, application: &str) -> u64 {
        self.counts.get(&format!("200 {application}")).copied().unwrap_or(0)
    }
}

impl Shared {
    fn record(&self, id: &str, answer: &io::Result<Response>) {
        let (word, success) = match answer {
            Ok(response) => {
                let detail = match response.reason() {
                    Some(reason) => reason.label(),
                    None => response.application(),
                };
                (format!("{} {detail}", response.status()), response.status() == 200)
            }
            Err(error) => (format!("lost: {error}"), false),
        };
        let mut outcomes = self.outcomes.lock().expect("no panic while recording");
        *outcomes.counts.entry(word).or_default() += 1;
        let ids = if success { &mut outcomes.succeeded } else { &mut outcomes.failed };
        ids.push(id.to_owned());
        self.completed.fetch_add(1, Ordering::Relaxed);
    }
}

async fn exchange(client: Client, kept: &mut Option<Connection>, request: &Request) -> io::Result<Response> {
    let mut connection = match kept.take().filter(Connection::is_open) {
        Some(connection) => connection,
        None => client.connect().await?,
    };
    let response = connection.send(request).await?;
    *kept = Some(connection);
    Ok(response)
}
