use super::*;
use weft_runtime::registry::Registry;

const URI: &str = "https://id.example/keys";
const SET: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn store(directory: &tempfile::TempDir, hosts: &[&str]) -> KeyStore {
    let settings = JwksSettings {
        jwks_hosts: hosts.iter().map(ToString::to_string).collect(),
        jwks_interval: Duration::from_secs(300),
        jwks_age_max: Duration::from_secs(3600),
        ..JwksSettings::default()
    };
    let metrics = Arc::new(Metrics::new(&Registry::new("weft-control", "1").unwrap()).unwrap());
    let state = StateDirectory::open_shared(directory.path()).unwrap();
    KeyStore::open(settings, &state, metrics).unwrap()
}

fn want(store: &KeyStore, uris: &[&str]) {
    let source = |uri: &&str| KeySource { uri: (*uri).into(), timeout: Duration::from_secs(5) };
    let sources: BTreeSet<KeySource> = uris.iter().map(source).collect();
    store.want(sources.clone(), SystemTime::now());
    store.forget(&sources);
}

fn held(store: &KeyStore) -> usize {
    store.status()[0].keys
}

#[test]
fn keys_survive_failures_and_restarts_until_they_are_too_old() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random::seeded(1);
    let first = store(&directory, &["id.example"]);
    want(&first, &[URI]);
    assert_eq!((held(&first), first.version()), (0, 0));
    let (due, _) = first.due(Instant::now(), 8);
    assert_eq!(due.len(), 1);
    assert_eq!(first.due(Instant::now(), 8).0, [], "one fetch at a time");
    first.done(URI, Ok(SET.to_owned()), &mut random);
    assert_eq!((held(&first), first.version()), (1, 1));
    // The same again is no change; a failure changes nothing that is held.
    first.done(URI, Ok(SET.to_owned()), &mut random);
    for outcome in [Err(FetchError::Status(302)), Ok("<html>".to_owned()), Ok(r#"{"keys":[]}"#.to_owned())] {
        first.done(URI, outcome, &mut random);
        assert_eq!((held(&first), first.version()), (1, 1));
        assert!(first.status()[0].error.is_some());
    }
    first.expire(Instant::now() + Duration::from_secs(3000));
    assert_eq!(held(&first), 1);
    first.expire(Instant::now() + Duration::from_secs(3700));
    assert_eq!((held(&first), first.version()), (0, 2));

    let second = store(&directory, &["id.example"]);
    want(&second, &[URI]);
    assert_eq!(held(&second), 1, "the last good keys are on disk");
    // A host that is allowed no more vouches for nothing.
    let third = store(&directory, &["other.example"]);
    want(&third, &[URI]);
    assert_eq!(held(&third), 0);
    assert!(third.status()[0].error.as_ref().unwrap().contains("--jwks-hosts"));
    // What nobody wants is forgotten.
    want(&third, &[]);
    let fourth = store(&directory, &["id.example"]);
    want(&fourth, &[URI]);
    assert_eq!(held(&fourth), 0);
}

#[test]
fn a_set_with_a_private_key_is_refused_and_the_last_good_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, &["id.example"]);
    want(&store, &[URI]);
    let mut random = Random::seeded(1);
    store.done(URI, Ok(SET.to_owned()), &mut random);
    store.done(URI, Ok(SET.replace(r#""kty""#, r#""d":"AA","kty""#)), &mut random);
    assert_eq!(held(&store), 1);
    assert!(store.status()[0].error.as_ref().unwrap().contains("not a key set"));
}

#[test]
fn failures_are_tried_again_ever_more_slowly() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, &["id.example"]);
    want(&store, &[URI]);
    let mut random = Random::seeded(1);
    let mut waits = Vec::new();
    for _ in 0..12 {
        store.done(URI, Err(FetchError::Timeout), &mut random);
        waits.push(store.due(Instant::now(), 0).1.unwrap().saturating_duration_since(Instant::now()));
    }
    assert!(waits[0] <= RETRY_MIN && waits[11] > waits[0]);
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(300)), "{waits:?}");
}

#[test]
fn a_clock_that_steps_back_takes_no_keys_away() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(&directory, &["id.example"]);
    want(&first, &[URI]);
    first.done(URI, Ok(SET.to_owned()), &mut Random::seeded(1));
    // As a process that starts before what the file says is the time of the fetch.
    let restored = |now: SystemTime| {
        let again = store(&directory, &["id.example"]);
        let source = KeySource { uri: URI.into(), timeout: Duration::from_secs(5) };
        again.want(BTreeSet::from([source]), now);
        // They are judged by their age from here on, not by that clock.
        again.expire(Instant::now() + Duration::from_secs(3500));
        held(&again)
    };
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    assert_eq!(restored(SystemTime::now() - minute), 1);
    assert_eq!(restored(SystemTime::now() - hour * 2), 0, "so far ahead nobody knows their age");
    assert_eq!(restored(SystemTime::now() + hour * 2), 0, "too old");
}

#[test]
fn keys_that_are_too_old_are_asked_for_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = store(&directory, &["id.example"]);
    store.settings.jwks_interval = Duration::from_secs(86_400);
    want(&store, &[URI]);
    store.done(URI, Ok(SET.to_owned()), &mut Random::seeded(1));
    let late = Instant::now() + Duration::from_secs(3700);
    assert_eq!(store.due(late, 8).0, []);
    store.expire(late);
    assert_eq!(store.due(late, 8).0.len(), 1);
}

#[test]
fn what_is_wanted_as_well_takes_nothing_from_what_is_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory, &["id.example"]);
    want(&store, &[URI]);
    store.done(URI, Ok(SET.to_owned()), &mut Random::seeded(1));
    let other = KeySource { uri: "https://id.example/other".into(), timeout: Duration::from_secs(5) };
    // A change that is not in force yet, because it cannot be written, has other sources.
    store.want(BTreeSet::from([other.clone()]), SystemTime::now());
    let keys = |store: &KeyStore| store.status().iter().map(|held| held.keys).collect::<Vec<_>>();
    assert_eq!(keys(&store), [1, 0]);
    store.forget(&BTreeSet::from([other]));
    assert_eq!(keys(&store), [0]);
}
