//! What was asked for: services and addresses, and what is answered to that.

use super::*;

#[test]
fn an_address_leads_to_what_it_is_an_alias_of() {
    let mut store = with_policy();
    let address = Asked::Address("10.1.0.1:80".parse().unwrap());
    assert_eq!(store.ask(&address).as_deref(), Some("@10.1.0.1:80"));
    assert_eq!(store.ask(&address), None);
    assert!(!commit(&mut store, 2).destinations.contains_key(&address), "not answered yet");
    let catalog = service("shop/catalog", &[]);
    let aliased = Incoming {
        aliases: vec!["@10.1.0.1:80".to_owned(), "@10.9.9.9:80".to_owned()],
        ..incoming(&catalog, "1")
    };
    store.receive(batch(Kind::Service, vec![aliased]));
    let policy = commit(&mut store, 3);
    assert_eq!(known(&policy, &address).name.as_str(), "shop/catalog");
    assert_eq!(policy.destinations.len(), 1, "an alias that nobody asked for is no destination");

    // Asked for by name as well: the same resource, the same version, another name.
    store.ask(&by_name("shop/catalog"));
    store.receive(batch(Kind::Service, vec![incoming(&catalog, "1")]));
    let policy = commit(&mut store, 4);
    assert!(Arc::ptr_eq(&known(&policy, &address), &known(&policy, &by_name("shop/catalog"))));

    // Gone under its name: gone under all.
    store.receive(removal(Kind::Service, "shop/catalog"));
    let policy = commit(&mut store, 5);
    for asked in [address, by_name("shop/catalog")] {
        assert!(matches!(policy.destinations[&asked], Resolution::Absent), "{asked:?}");
    }
}

#[test]
fn absence_is_an_answer_that_can_change() {
    let mut store = with_policy();
    let asked = by_name("shop/nothing");
    store.ask(&asked);
    store.receive(removal(Kind::Service, "shop/nothing"));
    assert!(matches!(commit(&mut store, 2).destinations[&asked], Resolution::Absent));
    put(&mut store, &service("shop/nothing", &[]), "1");
    assert_eq!(known(&commit(&mut store, 3), &asked).name.as_str(), "shop/nothing");
}

#[test]
fn addresses_outside_the_mesh_make_room_in_the_order_in_which_they_were_asked_for() {
    let mut store = store();
    let address = |number: u16| Asked::Address(format!("192.0.2.1:{number}").parse().unwrap());
    let order = [3, 1, 2];
    store.ask(&by_name("shop/nobody"));
    for number in order {
        store.ask(&address(number));
    }
    // Not answered yet: somebody waits for it.
    store.ask(&address(4));
    let mut answers = batch(Kind::Service, Vec::new());
    answers.removed = order.map(|number| address(number).wire_name()).into();
    answers.removed.push("shop/nobody".to_owned());
    store.receive(answers);
    let policy = commit(&mut store, 1);
    assert!(policy.destinations.contains_key(&address(3)));
    assert_eq!(store.forget_absent(2), ["@192.0.2.1:3", "@192.0.2.1:1"]);
    assert_eq!(store.forget_absent(9), ["@192.0.2.1:2"]);
    assert_eq!(store.names().collect::<Vec<_>>(), ["@192.0.2.1:4", "shop/nobody"]);
    assert!(!commit(&mut store, 2).destinations.contains_key(&address(3)));
    assert!(store.ask(&address(3)).is_some(), "it is asked for again");
}

#[test]
fn a_service_that_is_held_for_a_route_and_asked_for_since_is_not_claimed_to_be_held() {
    let mut store = store();
    put(&mut store, &service("shop/catalog", &[]), "1");
    commit(&mut store, 1);
    assert_eq!(store.versions(Kind::Service)["shop/catalog"], "1");
    // The stream breaks before the answer. A server that is told "held" would not answer on the next.
    store.ask(&by_name("shop/catalog"));
    store.discard_staged();
    assert!(store.versions(Kind::Service).is_empty());
    put(&mut store, &service("shop/catalog", &[]), "1");
    let policy = commit(&mut store, 1);
    assert_eq!(known(&policy, &by_name("shop/catalog")).name.as_str(), "shop/catalog");
    assert_eq!(store.versions(Kind::Service)["shop/catalog"], "1");
}
