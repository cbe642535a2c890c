//! Keys of token issuers, fetched for the whole mesh: proxies never ask an issuer themselves.
//!
//! [`KeyStore`] holds what is wanted and what is held, on disk too; [`keep`] fetches what is due; the
//! index fills the keys into the RequestAuthentications that name them. What was fetched last stays
//! through failures up to a maximum age; then the keys are gone, and tokens of the issuer are refused.

pub mod address;
pub mod fetch;

use crate::metrics::Metrics;
use crate::state::{StateDirectory, StateError};
use fetch::FetchError;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use weft_model::jwks::{Jwk, KeySet};
use weft_model::mesh::Mesh;
use weft_model::request_authentication::KeySource;
use weft_runtime::random::Random;

/// Fetches at a time: a slow issuer must not hold up the others.
const FETCHES_MAX: usize = 8;
/// Different key sets of a mesh; each is an issuer.
const SOURCES_MAX: usize = 1000;
/// The first wait after a failure; it doubles up to the interval.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// Where keys may be fetched, and how often.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct JwksSettings {
    /// Hosts from which keys of token issuers may be fetched: HOST or HOST:PORT, with commas
    #[arg(long, env = "WEFT_JWKS_HOSTS", value_name = "HOST", value_delimiter = ',')]
    pub jwks_hosts: Vec<String>,
    /// Those of them that may have private, link-local or loopback addresses
    #[arg(long, env = "WEFT_JWKS_PRIVATE_HOSTS", value_name = "HOST", value_delimiter = ',')]
    pub jwks_private_hosts: Vec<String>,
    /// PEM file of the roots that vouch for these hosts; read at each fetch
    #[arg(long, env = "WEFT_JWKS_ROOTS", value_name = "FILE")]
    #[arg(default_value = "/etc/ssl/certs/ca-certificates.crt")]
    pub jwks_roots: std::path::PathBuf,
    /// How often keys are fetched again (1s to 24h)
    #[arg(long, env = "WEFT_JWKS_INTERVAL", value_name = "DURATION")]
    #[arg(default_value = "5m", value_parser = interval)]
    pub jwks_interval: Duration,
    /// How long keys are used that cannot be fetched again (up to 720h)
    #[arg(long, env = "WEFT_JWKS_AGE_MAX", value_name = "DURATION")]
    #[arg(default_value = "24h", value_parser = age)]
    pub jwks_age_max: Duration,
    /// Also fetch over plain http from loopback addresses: for tests
    #[arg(long, env = "WEFT_JWKS_LOOPBACK_HTTP")]
    pub jwks_loopback_http: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    crate::settings::within(text, Duration::from_secs(1), Duration::from_secs(86_400))
}

fn age(text: &str) -> Result<Duration, String> {
    crate::settings::within(text, Duration::from_secs(1), Duration::from_secs(720 * 3600))
}

/// What is wanted, and what is held of it.
#[derive(Debug)]
pub struct KeyStore {
    settings: JwksSettings,
    state: StateDirectory,
    metrics: Arc<Metrics>,
    entries: Mutex<BTreeMap<Box<str>, Entry>>,
    // Counts the changes of what is held.
    version: AtomicU64,
    wanted: Notify,
}

#[derive(Clone, Debug)]
struct Entry {
    timeout: Duration,
    keys: Option<Arc<[Jwk]>>,
    fetched: Option<Fetched>,
    flaws: Vec<String>,
    error: Option<String>,
    failures: u32,
    due: Instant,
    fetching: bool,
}

/// When keys were fetched. How old they are is counted by the clock that never steps: one that does would
/// take keys away that are good, or keep those that are not.
#[derive(Clone, Copy, Debug)]
struct Fetched {
    /// How old they were then, if an earlier process fetched them.
    age: Duration,
    since: Instant,
}

/// One key set, for people.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// Where it comes from.
    pub uri: String,
    /// How many keys of it are in use.
    pub keys: usize,
    /// How old they are.
    pub age_seconds: Option<u64>,
    /// Why the last fetch failed, if it did.
    pub error: Option<String>,
    /// Keys that cannot be used, and why.
    pub left_out: Vec<String>,
}

// === impl KeyStore ===

impl KeyStore {
    /// Opens what an earlier process left.
    pub fn open(
        settings: JwksSettings,
        state: &StateDirectory,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StateError> {
        Ok(Self {
            settings,
            state: state.subdirectory("jwks")?,
            metrics,
            entries: Mutex::default(),
            version: AtomicU64::new(0),
            wanted: Notify::new(),
        })
    }

    /// Counts up when other keys are held.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Says what is wanted as well from now on, and puts the keys that are held into the mesh.
    pub fn fill(&self, mesh: &mut Mesh) {
        self.want(sources(mesh), SystemTime::now());
        let entries = self.lock();
        for policy in mesh.request_authentications.values_mut() {
            if policy.rules.iter().all(|rule| rule.key_source.is_none()) {
                continue;
            }
            for rule in &mut Arc::make_mut(policy).rules {
                if let Some(source) = &rule.key_source {
                    rule.keys = entries.get(&source.uri).and_then(|entry| entry.keys.clone());
                }
            }
        }
    }

    /// All key sets, for people.
    pub fn status(&self) -> Vec<KeyStatus> {
        let now = Instant::now();
        let show = |uri: &str, entry: &Entry| KeyStatus {
            uri: uri.to_owned(),
            keys: entry.keys.as_ref().map_or(0, |keys| keys.len()),
            age_seconds: entry.fetched.map(|fetched| fetched.age(now).as_secs()),
            error: entry.error.clone(),
            left_out: entry.flaws.clone(),
        };
        self.lock().iter().map(|(uri, entry)| show(uri, entry)).collect()
    }

    /// Forgets what this mesh, which is in force now, has no use for.
    pub fn forget_others(&self, mesh: &Mesh) {
        self.forget(&sources(mesh));
    }

    fn want(&self, sources: BTreeSet<KeySource>, now: SystemTime) {
        let mut entries = self.lock();
        let known = sources.iter().filter(|source| entries.contains_key(&source.uri)).count();
        let mut room = SOURCES_MAX.saturating_sub(known);
        let mut new = false;
        for source in sources {
            if let Some(entry) = entries.get_mut(&source.uri) {
                entry.timeout = source.timeout;
            } else if room > 0 {
                room -= 1;
                let entry = self.restore(&source, now);
                entries.insert(source.uri, entry);
                new = true;
            } else {
                tracing::error!(uri = %source.uri, max = SOURCES_MAX, "too many key sets: this one is not fetched");
            }
        }
        self.count(&entries);
        drop(entries);
        if new {
            self.wanted.notify_one();
        }
    }

    fn forget(&self, wanted: &BTreeSet<KeySource>) {
        let mut entries = self.lock();
        let wanted: BTreeSet<&str> = wanted.iter().map(|source| &*source.uri).collect();
        entries.retain(|uri, _| {
            let stays = wanted.contains(&**uri);
            if !stays && let Err(error) = self.state.remove(&file_name(uri)) {
                tracing::warn!(error = crate::chain(&error), "keys that nobody uses cannot be removed");
            }
            stays
        });
        self.count(&entries);
    }

    // What was fetched by an earlier process serves until it is fetched again, unless it is too old.
    fn restore(&self, source: &KeySource, now: SystemTime) -> Entry {
        let mut entry = Entry {
            timeout: source.timeout,
            keys: None,
            fetched: None,
            flaws: Vec::new(),
            error: None,
            failures: 0,
            due: Instant::now(),
            fetching: false,
        };
        // A host that may not be asked any more vouches for nothing that it said before.
        if let Err(error) = address::Target::parse(&source.uri, &self.settings) {
            entry.error = Some(error.to_string());
            tracing::error!(uri = %source.uri, %error, "keys cannot be fetched: tokens of the issuer are refused");
        } else if let Ok(Some(kept)) = self.state.read(&file_name(&source.uri))
            && let Some((fetched, text)) = unpack(&kept, &source.uri)
            && let Some(age) = age_on_disk(fetched, now, self.settings.jwks_age_max)
            && let Ok(set) = KeySet::parse(text.as_bytes())
            && !set.keys.is_empty()
        {
            entry.keys = Some(set.keys.into());
            entry.fetched = Some(Fetched { age, since: Instant::now() });
        }
        entry
    }

    // What is to be fetched now, marked as being fetched, and when to look again.
    fn due(&self, now: Instant, room: usize) -> (Vec<KeySource>, Option<Instant>) {
        let mut entries = self.lock();
        let mut due = Vec::new();
        for (uri, entry) in entries.iter_mut().filter(|(_, entry)| !entry.fetching && entry.due <= now) {
            if due.len() < room {
                entry.fetching = true;
                due.push(KeySource { uri: uri.clone(), timeout: entry.timeout });
            }
        }
        let next = entries.values().filter(|entry| !entry.fetching).map(|entry| entry.due).min();
        (due, next)
    }

    fn done(&self, uri: &str, outcome: Result<String, FetchError>, random: &mut Random) {
        let outcome = outcome.and_then(|text| match KeySet::parse(text.as_bytes()) {
            Ok(set) if set.keys.is_empty() => Err(FetchError::Unusable),
            Ok(set) => Ok((text, set)),
            Err(error) => Err(FetchError::Keys(error)),
        });
        let mut entries = self.lock();
        // Nobody wants it any more.
        let Some(entry) = entries.get_mut(uri) else { return };
        entry.fetching = false;
        let interval = self.settings.jwks_interval;
        match outcome {
            Ok((text, set)) => {
                self.metrics.jwks_fetches.shared(["fetched"]).inc();
                if entry.error.take().is_some() || entry.fetched.is_none() {
                    tracing::info!(uri, keys = set.keys.len(), "the keys of an issuer were fetched");
                }
                entry.fetched = Some(Fetched { age: Duration::ZERO, since: Instant::now() });
                entry.failures = 0;
                entry.due = Instant::now() + random.between(interval.mul_f64(0.8), interval);
                entry.flaws =
                    set.flaws.iter().map(|flaw| format!("key {}: {}", flaw.index, flaw.error)).collect();
                if entry.keys.as_deref() != Some(&*set.keys) {
                    entry.keys = Some(set.keys.into());
                    self.version.fetch_add(1, Ordering::Release);
                }
                if let Err(error) =
                    self.state.write(&file_name(uri), &pack(SystemTime::now(), uri, &text), 0o600)
                {
                    tracing::error!(error = crate::chain(&error), "keys that were fetched cannot be kept");
                }
            }
            Err(error) => {
                self.metrics.jwks_fetches.shared(["failed"]).inc();
                let said = crate::chain(&error);
                if entry.error.as_deref() != Some(&said) {
                    tracing::error!(uri, error = said, held = entry.keys.is_some(), "keys cannot be fetched");
                }
                entry.error = Some(said);
                let most = interval.max(RETRY_MIN);
                let wait = RETRY_MIN.saturating_mul(1 << entry.failures.min(16)).min(most);
                entry.failures = entry.failures.saturating_add(1);
                entry.due = Instant::now() + random.between(wait / 2, wait);
            }
        }
        self.count(&entries);
    }

    // Keys that could not be fetched again for too long are believed no more. They are asked for at once:
    // from here on each moment without them refuses somebody.
    fn expire(&self, now: Instant) {
        let mut entries = self.lock();
        for (uri, entry) in entries.iter_mut() {
            let old = entry.fetched.is_some_and(|fetched| fetched.age(now) > self.settings.jwks_age_max);
            if old && entry.keys.take().is_some() {
                tracing::error!(uri = %uri, "keys are too old: tokens of the issuer are refused");
                entry.due = entry.due.min(now);
                self.version.fetch_add(1, Ordering::Release);
            }
        }
        self.count(&entries);
    }

    fn count(&self, entries: &BTreeMap<Box<str>, Entry>) {
        let missing = entries.values().filter(|entry| entry.keys.is_none()).count();
        self.metrics.jwks_unresolved.shared([]).set(i64::try_from(missing).unwrap_or(i64::MAX));
        let failing = entries.values().filter(|entry| entry.error.is_some()).count();
        self.metrics.jwks_failing.shared([]).set(i64::try_from(failing).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fetches what is due, for ever; owned by whoever spawned it.
pub async fn keep(store: Arc<KeyStore>) {
    // The longest time between two looks at the age of what is held.
    const LOOK: Duration = Duration::from_secs(1);
    let mut random = Random::new();
    let mut fetches = FuturesUnordered::new();
    loop {
        store.expire(Instant::now());
        let (due, next) = store.due(Instant::now(), FETCHES_MAX - fetches.len());
        for source in due {
            let settings = store.settings.clone();
            fetches.push(async move {
                let fetched = fetch::fetch(&source, &settings).await;
                (source.uri, fetched)
            });
        }
        let now = Instant::now();
        let wait = next
            .map_or(LOOK, |next| next.saturating_duration_since(now))
            .clamp(Duration::from_millis(10), LOOK);
        tokio::select! {
            Some((uri, outcome)) = fetches.next() => store.done(&uri, outcome, &mut random),
            () = store.wanted.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Fetched {
    fn age(self, now: Instant) -> Duration {
        self.age + now.saturating_duration_since(self.since)
    }
}

fn sources(mesh: &Mesh) -> BTreeSet<KeySource> {
    let rules = mesh.request_authentications.values().flat_map(|policy| &policy.rules);
    rules.filter_map(|rule| rule.key_source.clone()).collect()
}

// How old keys are that an earlier process fetched; `None`: too old. A clock that stepped back has them
// fetched in what is now the future: as long ahead as they may be old they pass for new, which at most
// doubles their age.
fn age_on_disk(fetched: SystemTime, now: SystemTime, most: Duration) -> Option<Duration> {
    let age = match now.duration_since(fetched) {
        Ok(age) => age,
        Err(ahead) if ahead.duration() <= most => Duration::ZERO,
        Err(_) => return None,
    };
    (age <= most).then_some(age)
}

// The text of an issuer's URI is no file name.
fn file_name(uri: &str) -> String {
    let digest = Sha256::digest(uri.as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}.json")
}

fn pack(fetched: SystemTime, uri: &str, text: &str) -> Vec<u8> {
    let seconds = fetched.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({ "uri": uri, "fetched": seconds, "keys": text }).to_string().into_bytes()
}

fn unpack(kept: &[u8], uri: &str) -> Option<(SystemTime, String)> {
    let kept: serde_json::Value = serde_json::from_slice(kept).ok()?;
    if kept.get("uri")?.as_str()? != uri {
        return None;
    }
    let fetched = UNIX_EPOCH + Duration::from_secs(kept.get("fetched")?.as_u64()?);
    Some((fetched, kept.get("keys")?.as_str()?.to_owned()))
}

#[cfg(test)]
mod tests;
