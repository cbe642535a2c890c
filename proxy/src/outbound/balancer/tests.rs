//! Balancing by simulation: endpoints are numbers, time is a variable, chance is seeded. No socket, no
//! task, no waiting.

use super::*;
use crate::pool::InFlight;
use std::collections::BinaryHeap;
use std::time::Duration;
use weft_model::endpoints::Health as Ready;
use weft_model::endpoints::Wire;
use weft_model::traffic::{Algorithm, HashOn, LoadBalancing, ZonePreference};

fn endpoint(number: usize, zone: &str, weight: u32) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        uid: format!("shop/cart-{number:04}").parse().unwrap(),
        address: format!("10.0.{}.{}:80", number / 250, number % 250 + 1).parse().unwrap(),
        wire: Wire::Plain,
        weight,
        zone: zone.into(),
        health: Ready::Ready,
        description: Arc::default(),
    })
}

fn set(endpoints: impl IntoIterator<Item = Arc<Endpoint>>) -> Arc<EndpointSet> {
    Arc::new(EndpointSet { endpoints: endpoints.into_iter().collect() })
}

fn traffic(load_balancing: LoadBalancing) -> Arc<Traffic> {
    Arc::new(Traffic { load_balancing, ..Traffic::default() })
}

fn by(algorithm: Algorithm) -> Arc<Traffic> {
    traffic(LoadBalancing { algorithm, ..LoadBalancing::default() })
}

/// A balancer with what drives it.
struct World {
    balancer: Balancer,
    tls: Tls,
    random: Random,
    now: Instant,
    traffic: Arc<Traffic>,
}

/// A request under way, and when it ends. Ordered by that, the first one greatest.
struct UnderWay(Instant, InFlight, Trying, Outcome);

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for UnderWay {}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

impl World {
    fn new(traffic: Arc<Traffic>, zone: &str, endpoints: impl IntoIterator<Item = Arc<Endpoint>>) -> Self {
        let now = Instant::now();
        let balancer = Balancer::new("80.cart.shop".into(), None, 0, now);
        let mut world = Self { balancer, tls: Tls::new(), random: Random::seeded(42), now, traffic };
        world.update(zone, endpoints);
        world
    }

    fn update(&mut self, zone: &str, endpoints: impl IntoIterator<Item = Arc<Endpoint>>) {
        self.balancer.update(&set(endpoints), &self.traffic, zone, &self.tls, self.now);
    }

    fn pick(&mut self) -> Rc<Replica> {
        self.balancer.pick(&[], None, &mut self.random, self.now).unwrap()
    }

    /// One request to one endpoint, over at once.
    fn answered(&mut self, replica: &Rc<Replica>, outcome: Outcome) -> Option<Change> {
        let (_in_flight, trying) = replica.begin(self.now);
        self.balancer.report(trying, outcome, self.now)
    }

    /// Requests at a steady rate; how many each endpoint got. `serve` says how long one takes and how it ends,
    /// by the endpoint's number and how many it has then.
    fn run(
        &mut self,
        requests: usize,
        every: Duration,
        mut serve: impl FnMut(usize, usize) -> (Duration, Outcome),
    ) -> Vec<usize> {
        let mut counts = vec![0; 1_000];
        let mut under_way: BinaryHeap<UnderWay> = BinaryHeap::new();
        for _ in 0..requests {
            while under_way.peek().is_some_and(|first| first.0 <= self.now) {
                let UnderWay(at, in_flight, trying, outcome) = under_way.pop().unwrap();
                self.balancer.report(trying, outcome, at);
                drop(in_flight);
            }
            let replica = self.pick();
            let number = number(&replica);
            counts[number] += 1;
            let (in_flight, trying) = replica.begin(self.now);
            let (takes, outcome) = serve(number, replica.pool.in_flight());
            under_way.push(UnderWay(self.now + takes, in_flight, trying, outcome));
            self.now += every;
        }
        counts
    }
}

fn number(replica: &Replica) -> usize {
    replica.endpoint.uid.as_str().rsplit('-').next().unwrap().parse().unwrap()
}

fn all(count: usize) -> Vec<Arc<Endpoint>> {
    (0..count).map(|number| endpoint(number, "", 1)).collect()
}

const MILLISECOND: Duration = Duration::from_millis(1);

fn steady(_: usize, _: usize) -> (Duration, Outcome) {
    (MILLISECOND, Outcome::Answered)
}

#[test]
fn equal_endpoints_get_equal_shares_by_every_rule() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random]
    {
        let mut world = World::new(by(algorithm), "", all(10));
        let mut noise = Random::seeded(3);
        let counts = world.run(20_000, MILLISECOND / 4, |_, _| {
            // A tenth of the answers take five times as long: noise, not slowness.
            let takes = if noise.below(10) == 0 { MILLISECOND * 5 } else { MILLISECOND };
            (takes, Outcome::Answered)
        });
        for count in &counts[..10] {
            assert!((1_700..2_300).contains(count), "{algorithm:?}: {:?}", &counts[..10]);
        }
    }
}

#[test]
fn an_endpoint_that_becomes_slow_gets_little_within_a_second_and_its_share_again_when_it_recovers() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(5));
    world.run(5_000, MILLISECOND, steady);
    let slow = |number, _| (MILLISECOND * if number == 0 { 50 } else { 1 }, Outcome::Answered);
    world.run(1_000, MILLISECOND, slow);
    let counts = world.run(5_000, MILLISECOND, slow);
    assert!(counts[0] < 150, "3 % of the requests, not 20: {:?}", &counts[..5]);
    world.run(20_000, MILLISECOND, steady);
    let counts = world.run(5_000, MILLISECOND, steady);
    assert!((800..1_200).contains(&counts[0]), "{:?}", &counts[..5]);
}

#[test]
fn an_endpoint_that_hangs_until_callers_give_up_is_noticed_though_it_never_fails() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(3));
    world.run(3_000, MILLISECOND, steady);
    let mut hung = 0;
    for _ in 0..3_000 {
        let replica = world.pick();
        let (in_flight, mut trying) = replica.begin(world.now);
        if number(&replica) == 0 {
            hung += 1;
            trying.give_up(world.now + MILLISECOND * 200);
        } else {
            world.balancer.report(trying, Outcome::Answered, world.now + MILLISECOND);
        }
        drop(in_flight);
        world.now += MILLISECOND * 20;
    }
    assert!(hung < 100, "{hung} of 3,000, where 1,000 would be its share");
}

#[test]
fn an_endpoint_that_sheds_at_once_does_not_draw_the_load_by_looking_fast() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(3));
    let slow = MILLISECOND * 20;
    world.run(3_000, MILLISECOND, |_, _| (slow, Outcome::Answered));
    // It is stuck, and answers for itself sixty times as fast as the others work.
    let counts = world.run(3_000, MILLISECOND, |number, _| match number {
        0 => (MILLISECOND / 3, Outcome::Busy(Duration::from_secs(1))),
        _ => (slow, Outcome::Answered),
    });
    assert!(counts[0] < 100, "{:?}", &counts[..3]);
}

#[test]
fn what_an_endpoints_proxy_answers_by_itself_is_no_latency() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(3));
    world.run(3_000, MILLISECOND, |_, _| (MILLISECOND * 20, Outcome::Answered));
    let replica = world.pick();
    let latency = |world: &World| replica.latency(world.balancer.mean.seconds(), world.now);
    let before = (latency(&world), world.balancer.mean.seconds());
    for _ in 0..100 {
        let (_in_flight, trying) = replica.begin(world.now);
        world.balancer.report(trying, Outcome::Refused, world.now + MILLISECOND / 3);
    }
    assert_eq!((latency(&world), world.balancer.mean.seconds()), before);
    world.answered(&replica, Outcome::Answered);
    assert!(latency(&world) < before.0, "an answer of its application's is one");
}

#[test]
fn turns_begin_where_they_are_told_to() {
    let first = |turn| {
        let mut world = World::new(by(Algorithm::RoundRobin), "", all(5));
        world.balancer = Balancer::new("80.cart.shop".into(), None, turn, world.now);
        world.update("", all(5));
        number(&world.pick())
    };
    assert_eq!([first(0), first(3), first(usize::MAX)], [0, 3, usize::MAX % 5]);
}

#[test]
fn a_set_that_is_told_again_by_another_view_of_the_port_changes_nothing() {
    let mut world = World::new(by(Algorithm::RoundRobin), "", all(4));
    let held = world.balancer.candidates.borrow().set.clone();
    world.pick();
    world.traffic = by(Algorithm::RoundRobin);
    world.update("", all(4));
    assert!(Arc::ptr_eq(&world.balancer.candidates.borrow().set, &held), "nothing was arranged anew");
    assert_eq!(number(&world.pick()), 1, "it goes on");
}

#[test]
fn of_many_endpoints_each_is_found_again_whatever_the_order() {
    let mut world = World::new(by(Algorithm::PeakEwma), "a", all(2_000));
    let ejected: Vec<_> = (0..50).map(|_| world.pick()).collect();
    ejected.iter().for_each(|replica| _ = world.answered(replica, Outcome::Unreachable));
    let (_, before) = world.balancer.counts();
    // Half of them move into the own zone, which comes first; one goes, one comes.
    let zone = |number: usize| if number.is_multiple_of(2) { "a" } else { "" };
    let gone = (0..2_000).find(|number| ejected.iter().all(|held| self::number(held) != *number)).unwrap();
    let moved = (0..2_001).filter(|number| *number != gone).map(|number| endpoint(number, zone(number), 2));
    world.update("a", moved);
    assert_eq!(world.balancer.counts(), (2_000, before), "all that is known of them is still known");
}

#[test]
fn least_request_does_not_mind_latency_but_what_is_under_way() {
    let mut world = World::new(by(Algorithm::LeastRequest), "", all(2));
    let held: Vec<_> = (0..5).map(|_| world.pick().begin(world.now)).collect();
    let loads: Vec<usize> =
        world.balancer.candidates.borrow().replicas.iter().map(|replica| replica.pool.in_flight()).collect();
    assert_eq!(loads.iter().max().unwrap() - loads.iter().min().unwrap(), 1, "{loads:?}");
    drop(held);
}

#[test]
fn weights_decide_shares_by_every_rule() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::Random] {
        let weights = [1, 4, 2, 1];
        let endpoints = weights.iter().enumerate().map(|(number, weight)| endpoint(number, "", *weight));
        let mut world = World::new(by(algorithm), "", endpoints);
        let counts = world.run(16_000, MILLISECOND, |_, _| (MILLISECOND / 2, Outcome::Answered));
        for (count, weight) in counts.iter().zip(weights) {
            let wanted = 2_000 * weight as usize;
            assert!(count.abs_diff(wanted) < wanted / 8, "{algorithm:?}: {:?}", &counts[..4]);
        }
    }
}

#[test]
fn an_endpoint_that_sheds_load_gets_less_for_as_long_as_it_asks_and_is_not_ejected() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(4));
    world.run(2_000, MILLISECOND, steady);
    let asked = Duration::from_secs(3);
    let busy = |number, _| match number {
        0 => (MILLISECOND / 10, Outcome::Busy(asked)),
        _ => (MILLISECOND, Outcome::Answered),
    };
    let counts = world.run(4_000, MILLISECOND, busy);
    assert!(counts[0] < 200, "its quick refusals do not attract: {:?}", &counts[..4]);
    assert_eq!(world.balancer.counts(), (4, 0));
    world.now += asked;
    world.run(20_000, MILLISECOND, steady);
    let counts = world.run(4_000, MILLISECOND, steady);
    assert!((800..1_200).contains(&counts[0]), "{:?}", &counts[..4]);
}

#[test]
fn a_new_endpoint_starts_slowly_if_its_owner_says_so() {
    for (slow_start, first, last) in
        [(Duration::from_secs(30), 100..900, 1_700..2_300), (Duration::ZERO, 1_700..2_300, 1_700..2_300)]
    {
        let balancing = LoadBalancing { slow_start, ..LoadBalancing::default() };
        let mut world = World::new(traffic(balancing), "", all(4));
        world.run(2_000, MILLISECOND, steady);
        world.update("", all(5));
        // At one request per millisecond the first ten seconds are a third of the window.
        let counts = world.run(10_000, MILLISECOND, |_, _| (MILLISECOND / 2, Outcome::Answered));
        assert!(first.contains(&counts[4]), "{slow_start:?}: {:?}", &counts[..5]);
        world.run(20_000, MILLISECOND, steady);
        let counts = world.run(10_000, MILLISECOND, |_, _| (MILLISECOND / 2, Outcome::Answered));
        assert!(last.contains(&counts[4]), "{slow_start:?}: {:?}", &counts[..5]);
    }
}

#[test]
fn a_key_leads_to_one_endpoint_and_others_go_on_when_that_is_ejected() {
    let balancing = LoadBalancing {
        algorithm: Algorithm::ConsistentHash,
        hash: Some(HashOn::Source),
        ..LoadBalancing::default()
    };
    let mut world = World::new(traffic(balancing), "", all(10));
    let key = super::super::maglev::hash::of_bytes(9, b"user-7");
    let own = world.balancer.pick(&[], Some(key), &mut world.random, world.now).unwrap();
    for _ in 0..100 {
        let again = world.balancer.pick(&[], Some(key), &mut world.random, world.now).unwrap();
        assert!(Rc::ptr_eq(&own, &again));
    }
    assert!(matches!(world.answered(&own, Outcome::Unreachable), Some(Change::Ejected(Cause::Connect, _))));
    let other = world.balancer.pick(&[], Some(key), &mut world.random, world.now).unwrap();
    assert!(!Rc::ptr_eq(&own, &other));
    let counts = world.run(1_000, MILLISECOND / 10, steady);
    assert!(counts[..10].iter().filter(|count| **count > 0).count() >= 9, "without a key all are used");
}

fn two_zones() -> Vec<Arc<Endpoint>> {
    (0..6).map(|number| endpoint(number, if number < 3 { "a" } else { "b" }, 1)).collect()
}

fn prefer() -> Arc<Traffic> {
    traffic(LoadBalancing { zone: ZonePreference::Prefer, ..LoadBalancing::default() })
}

fn near(counts: &[usize]) -> usize {
    counts[..3].iter().sum()
}

#[test]
fn the_own_zone_goes_first_while_it_is_healthy_and_only_if_the_owner_says_so() {
    let mut world = World::new(prefer(), "a", two_zones());
    assert_eq!(near(&world.run(3_000, MILLISECOND, steady)), 3_000);
    let mut world = World::new(by(Algorithm::PeakEwma), "a", two_zones());
    assert!((1_300..1_700).contains(&near(&world.run(3_000, MILLISECOND, steady))));
    let mut world = World::new(prefer(), "c", two_zones());
    assert!(
        (1_300..1_700).contains(&near(&world.run(3_000, MILLISECOND, steady))),
        "a zone without endpoints"
    );
}

#[test]
fn with_part_of_the_own_zone_ejected_the_rest_bears_no_more_than_it_can() {
    let mut world = World::new(prefer(), "a", two_zones());
    for _ in 0..2 {
        let ill = loop {
            let picked = world.pick();
            if number(&picked) < 2 {
                break picked;
            }
        };
        world.answered(&ill, Outcome::Unreachable);
    }
    // Of three one is left: 1.4 thirds stay, for the second that the ejections last.
    let counts = world.run(900, MILLISECOND, steady);
    assert!((350..500).contains(&near(&counts)), "{:?}", &counts[..6]);
}

#[test]
fn an_overloaded_zone_spills_over_and_takes_all_again_when_it_is_not() {
    let mut world = World::new(prefer(), "a", two_zones());
    world.run(5_000, MILLISECOND, steady);
    // Each serves one request per 10 ms, one after the other, and 1 ms while it has but one: three of them
    // cannot bear a thousand per second.
    let served = |number: usize, waiting: usize| {
        let takes = if number < 3 && waiting > 1 { MILLISECOND * 10 * waiting as u32 } else { MILLISECOND };
        (takes, Outcome::Answered)
    };
    world.run(2_000, MILLISECOND / 4, served);
    let counts = world.run(8_000, MILLISECOND / 4, served);
    assert!(near(&counts) < 7_200, "some go to the other zone: {:?}", &counts[..6]);
    world.run(20_000, MILLISECOND, steady);
    let counts = world.run(3_000, MILLISECOND, steady);
    assert_eq!(near(&counts), 3_000, "{:?}", &counts[..6]);
}

#[test]
fn failing_endpoints_are_ejected_up_to_the_share_and_the_last_never() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(4));
    let counts = world.run(400, MILLISECOND, |_, _| (MILLISECOND, Outcome::Failed));
    assert_eq!(world.balancer.counts(), (4, 2), "half of them: {:?}", &counts[..4]);
    let mut alone = World::new(by(Algorithm::PeakEwma), "", all(1));
    alone.run(100, MILLISECOND, |_, _| (MILLISECOND, Outcome::Failed));
    assert_eq!(alone.balancer.counts(), (1, 0));
}

#[test]
fn what_cannot_be_connected_to_is_ejected_at_once_and_when_nothing_can_all_are_tried() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(3));
    for left in [2, 1, 0] {
        let replica = world.pick();
        assert!(matches!(
            world.answered(&replica, Outcome::Unreachable),
            Some(Change::Ejected(Cause::Connect, _))
        ));
        assert_eq!(world.balancer.counts(), (3, 3 - left));
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut tried = Vec::new();
    while let Some(replica) = world.balancer.pick(&tried, None, &mut world.random, world.now) {
        seen.insert(number(&replica));
        tried.push(replica);
    }
    assert_eq!(seen.len(), 3, "a guess that everything is dead does not make it so");
    let back = tried.pop().unwrap();
    assert_eq!(
        world.answered(&back, Outcome::Answered),
        Some(Change::Returned),
        "its answer is as good as a probe's"
    );
    assert_eq!(world.balancer.counts(), (3, 2));
    for _ in 0..20 {
        assert!(Rc::ptr_eq(&world.pick(), &back));
    }
}

#[test]
fn a_failing_half_costs_few_requests_and_returns_by_probes() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(10));
    let half = |number, _| (MILLISECOND, if number < 5 { Outcome::Failed } else { Outcome::Answered });
    let counts = world.run(10_000, MILLISECOND, half);
    let failed: usize = counts[..5].iter().sum();
    // Five until each is ejected and some that were under way then, later a probe at 1, 3 and 7 seconds.
    assert!(failed <= 5 * (5 + 3 + 3), "{failed} of 10,000");
    assert_eq!(world.balancer.counts(), (10, 5));
    world.run(40_000, MILLISECOND, steady);
    assert_eq!(world.balancer.counts(), (10, 0), "what recovers is found to have recovered");
}

#[test]
fn what_is_known_of_an_endpoint_survives_every_change_but_that_of_its_identity() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(3));
    let replica = world.pick();
    let ill = number(&replica);
    world.answered(&replica, Outcome::Unreachable);
    let (in_flight, trying) = world.pick().begin(world.now);
    // Its weight changes, others come, the policy is another one.
    world.traffic = by(Algorithm::RoundRobin);
    world.update("", (0..5).map(|number| endpoint(number, "b", 7)));
    assert_eq!(world.balancer.counts(), (5, 1));
    let counts = world.run(100, MILLISECOND, steady);
    assert_eq!(counts[ill], 0, "{:?}", &counts[..5]);
    assert!(
        world.balancer.report(trying, Outcome::Unreachable, world.now).is_some(),
        "it is the same endpoint"
    );
    drop(in_flight);
    assert_eq!(world.balancer.counts(), (5, 2));
    // The address belongs to another workload now.
    let mut other = (*endpoint(ill, "b", 7)).clone();
    other.uid = "shop/other-0009".parse().unwrap();
    world.update(
        "",
        (0..5).map(|number| if number == ill { Arc::new(other.clone()) } else { endpoint(number, "b", 7) }),
    );
    assert_eq!(world.balancer.counts(), (5, 1), "nothing is known of it");
}

#[test]
fn what_was_under_way_before_an_ejection_does_not_answer_for_its_probe() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(2));
    let replica = world.pick();
    let old: Vec<_> = (0..4).map(|_| replica.begin(world.now).1).collect();
    world.answered(&replica, Outcome::Unreachable);
    world.now += Duration::from_secs(1);
    let (_in_flight, probe) = replica.begin(world.now);
    assert!(probe.is_probe());
    for (trying, outcome) in
        old.into_iter().zip([Outcome::Failed, Outcome::Answered, Outcome::Unreachable, Outcome::Refused])
    {
        assert_eq!(world.balancer.report(trying, outcome, world.now), None, "{outcome:?}");
        assert_eq!(world.balancer.counts(), (2, 1));
    }
    assert_eq!(world.balancer.report(probe, Outcome::Answered, world.now), Some(Change::Returned));
}

#[test]
fn a_probe_that_is_given_up_is_followed_by_another() {
    let mut world = World::new(by(Algorithm::PeakEwma), "", all(2));
    let replica = world.pick();
    world.answered(&replica, Outcome::Unreachable);
    // Far ahead of the real clock, which is what dropping looks at.
    world.now += Duration::from_secs(3600);
    let (_, trying) = replica.begin(world.now);
    assert!(trying.is_probe() && !replica.is_available(world.now), "one at a time");
    drop(trying);
    assert!(replica.is_available(world.now));
    let (_, another) = replica.begin(world.now);
    assert!(another.is_probe() && !replica.is_available(world.now));
}

#[test]
fn tries_of_one_request_go_to_different_endpoints() {
    let mut world = World::new(by(Algorithm::RoundRobin), "", all(4));
    let mut tried: Vec<Rc<Replica>> = Vec::new();
    while let Some(replica) = world.balancer.pick(&tried, None, &mut world.random, world.now) {
        assert!(!tried.iter().any(|held| Rc::ptr_eq(held, &replica)));
        tried.push(replica);
    }
    assert_eq!(tried.len(), 4);
}

#[test]
fn a_pick_and_its_report_allocate_nothing_by_any_rule() {
    let hashing = LoadBalancing {
        algorithm: Algorithm::ConsistentHash,
        hash: Some(HashOn::Source),
        slow_start: Duration::from_secs(1),
        zone: ZonePreference::Prefer,
    };
    let rules = [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random];
    let zone = ZonePreference::Prefer;
    let rules = rules.map(|algorithm| traffic(LoadBalancing { algorithm, zone, ..LoadBalancing::default() }));
    for rule in rules.into_iter().chain([traffic(hashing)]) {
        let endpoints = (0..1_000)
            .map(|number| endpoint(number, if number % 3 == 0 { "a" } else { "b" }, 1 + number as u32 % 2));
        let mut world = World::new(rule.clone(), "a", endpoints);
        world.run(2_000, MILLISECOND, steady);
        let counted = allocation_counter::measure(|| {
            for key in 0..1_000 {
                let picked = world.balancer.pick(&[], Some(key << 40), &mut world.random, world.now).unwrap();
                let (in_flight, trying) = picked.begin(world.now);
                world.now += MILLISECOND;
                world.balancer.report(trying, Outcome::Answered, world.now);
                drop(in_flight);
            }
        });
        assert_eq!(counted.count_total, 0, "{rule:?}: {counted:?}");
    }
}
