//! What a restart finds, and how old it may be.

use super::*;

#[test]
fn what_is_too_old_says_so_until_a_generation_confirms_it() {
    let mut store = with_policy();
    assert!(store.set_stale().stale);
    assert!(store.set_too_old().unwrap().too_old);
    assert!(store.set_too_old().is_none());
    let policy = commit(&mut store, 1);
    assert!(!policy.stale && !policy.too_old);
}

fn kept() -> Kept {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(directory.path()).unwrap();
    let last_good = LastGood::new(state, "shop/cart-1".parse().unwrap());
    let mut store = with_policy();
    let asked =
        [by_name("shop/catalog"), by_name("shop/nothing"), Asked::Address("10.1.0.1:80".parse().unwrap())];
    for asked in &asked {
        store.ask(asked);
    }
    let aliased =
        Incoming { aliases: vec!["@10.1.0.1:80".to_owned()], ..incoming(&service("shop/catalog", &[]), "1") };
    store.receive(batch(Kind::Service, vec![aliased]));
    store.receive(removal(Kind::Service, "shop/nothing"));
    put(&mut store, &endpoints("shop/catalog", 0, &[1]), "1");
    commit(&mut store, 2);
    last_good.save(&store);
    Kept { directory, last_good }
}

#[test]
fn a_restart_serves_by_what_was_kept_and_says_that_it_is_stale() {
    let kept = kept();
    let mut store = store();
    let age = kept.last_good.restore(&mut store).unwrap();
    assert!(age < Duration::from_secs(60));
    assert!(store.is_complete());
    let policy = store.set_stale();
    assert!(policy.stale);
    assert_eq!(policy.generation.as_ref().unwrap().to_string(), "e.2");
    assert_eq!(verdict(&policy), "allowed");
    assert_eq!(port(&policy, "shop/catalog").endpoints.endpoints.len(), 1);
    let address = Asked::Address("10.1.0.1:80".parse().unwrap());
    assert_eq!(known(&policy, &address).name.as_str(), "shop/catalog");
    assert!(matches!(policy.destinations[&by_name("shop/nothing")], Resolution::Absent));
    // The next stream resumes from there.
    assert_eq!(store.versions(Kind::Service)["shop/catalog"], "1");
    assert_eq!(store.names().count(), 3);
}

#[test]
fn a_kept_configuration_that_is_damaged_or_of_another_workload_is_ignored() {
    let kept = kept();
    let path = kept.directory.path().join("last-good");
    let whole = std::fs::read(&path).unwrap();
    for end in [0, 1, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..end]).unwrap();
        let mut store = store();
        assert!(kept.last_good.restore(&mut store).is_none(), "{end}");
        assert!(!store.is_complete());
    }
    // Whole, but not what it should be.
    let state = StateDirectory::open(kept.directory.path()).unwrap();
    for content in [&b""[..], b"\xff\xff\xff", b"\x0bshop/cart-1\xff"] {
        state.write("last-good", content).unwrap();
        assert!(!{
            let mut store = store();
            kept.last_good.restore(&mut store);
            store.is_complete()
        });
    }
    std::fs::write(&path, &whole).unwrap();
    let other = LastGood::new(state, "shop/web-1".parse::<WorkloadUid>().unwrap());
    assert!(other.restore(&mut store()).is_none());
    assert!(kept.last_good.restore(&mut store()).is_some());
}

#[test]
fn the_age_is_the_time_since_the_last_confirmation() {
    let kept = kept();
    let path = kept.directory.path().join("last-good");
    let old = std::time::SystemTime::now() - Duration::from_secs(100_000);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    let age = |kept: &Kept| kept.last_good.restore(&mut store()).unwrap();
    assert!(age(&kept) >= Duration::from_secs(100_000));
    kept.last_good.confirm();
    assert!(age(&kept) < Duration::from_secs(60));
}
