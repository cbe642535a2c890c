use super::*;
use weft_model::traffic::{Concurrency, RetryBudget, Traffic, TrafficKind};

fn policy(traffic: Traffic) -> Arc<TrafficPolicy> {
    Arc::new(TrafficPolicy {
        kind: TrafficKind::Weft,
        namespace: "shop".parse().unwrap(),
        name: "cart".parse().unwrap(),
        traffic: Arc::new(traffic),
        provenance: Default::default(),
    })
}

fn adaptive(max: u32) -> Option<Concurrency> {
    Some(Concurrency { min: 1, max, queue: 0, wait: Duration::from_secs(1) })
}

fn limit(guards: &Guards) -> u32 {
    u32::try_from(guards.places()).unwrap()
}

#[test]
fn an_edit_of_something_else_keeps_what_an_adaptive_limit_has_learned() {
    let guards = Guards::new(Instant::now());
    let first = policy(Traffic { concurrency: adaptive(1000), ..Traffic::default() });
    let admission = guards.admission(&[first], "web");
    let begun = limit(&guards);
    // Every place is in use, so that the limit follows what is learned at each step.
    while limit(&guards) == begun {
        let places: Vec<_> = std::iter::from_fn(|| admission.places_at_once()).collect();
        places.iter().for_each(Places::answered);
    }
    let learned = limit(&guards);
    let budget = RetryBudget { percent: 50, ..RetryBudget::default() };
    let edited = Traffic { concurrency: adaptive(1000), retry_budget: Some(budget), ..Traffic::default() };
    guards.admission(&[policy(edited)], "web");
    assert_eq!(limit(&guards), learned);
    // Other bounds hold at once, and what lies within them stays.
    guards.admission(&[policy(Traffic { concurrency: adaptive(2000), ..Traffic::default() })], "web");
    assert_eq!(limit(&guards), learned);
    guards.admission(&[policy(Traffic { concurrency: adaptive(5), ..Traffic::default() })], "web");
    assert_eq!(limit(&guards), 5);
}

#[test]
fn only_an_answer_that_the_application_meant_says_how_long_it_takes() {
    for status in [200, 204, 302, 404] {
        assert!(tells_pace(status, None), "{status}");
    }
    for status in [429, 500, 502, 503] {
        assert!(!tells_pace(status, None), "{status}");
    }
    assert!(tells_pace(200, Some(b"0")));
    assert!(!tells_pace(200, Some(b"14")));
}
