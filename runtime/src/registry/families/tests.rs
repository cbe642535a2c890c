//! What the families promise: exact sums over threads, one cell for the same values and thread, caps.

use std::thread;

use super::*;
use crate::registry::HistogramFamily;

fn counter<const N: usize>(labels: [&str; N], series_max: usize) -> CounterFamily<N> {
    CounterFamily::new("weft_test_total", "Test.", labels, series_max).unwrap()
}

fn histogram() -> HistogramFamily<1> {
    HistogramFamily::new("weft_test_seconds", "Test.", ["a"], &[1.0, 2.0, 5.0], 10).unwrap()
}

fn metrics(family: &impl Collector) -> Vec<Metric> {
    let mut families = family.collect();
    assert_eq!(families.len(), 1);
    families.remove(0).take_metric()
}

fn total(family: &impl Collector) -> f64 {
    let each = metrics(family);
    each.iter().map(|m| m.get_counter().get_value()).sum()
}

#[test]
fn counters_of_several_threads_add_up_exactly_while_being_scraped() {
    let family = counter(["a"], 10);
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let family = family.clone();
            thread::spawn(move || {
                let (own, common) = (family.cell([&number.to_string()]), family.cell(["all"]));
                let shared = family.shared(["all"]);
                for _ in 0..50_000 {
                    own.inc();
                    common.add(2);
                    shared.inc();
                }
            })
        })
        .collect();
    let mut last = 0.0;
    while threads.iter().any(|thread| !thread.is_finished()) {
        let now = total(&family);
        assert!(now >= last, "a counter went back from {last} to {now}");
        last = now;
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(total(&family), 4.0 * 50_000.0 * 4.0);
    assert_eq!(metrics(&family).len(), 5);
}

#[test]
fn the_same_values_on_the_same_thread_are_the_same_cell() {
    let family = counter(["a", "b"], 10);
    let (one, same) = (family.cell(["x", "y"]), family.cell(["x", "y"]));
    one.inc();
    same.inc();
    assert_eq!(one.value(), 2);
    assert_eq!(metrics(&family).len(), 1);
    // No two combinations run together, however the values are cut.
    family.cell(["xy", ""]).inc();
    family.cell(["", "xy"]).inc();
    assert_eq!(metrics(&family).len(), 3);
}

#[test]
fn what_an_ended_thread_counted_stays_and_its_memory_does_not() {
    let family = counter([], 10);
    let kept = family.cell([]);
    for _ in 0..100 {
        let family = family.clone();
        thread::spawn(move || family.cell([]).add(3)).join().unwrap();
    }
    kept.inc();
    assert_eq!(total(&family), 301.0);
    assert_eq!(total(&family), 301.0);
    kept.inc();
    assert_eq!(total(&family), 302.0);
}

#[test]
fn a_family_without_labels_shows_zero_before_its_first_use() {
    let family = counter([], 10);
    assert_eq!(metrics(&family).len(), 1);
    assert_eq!(total(&family), 0.0);
}

#[test]
fn beyond_the_cap_everything_goes_to_other() {
    let family = CounterFamily::new("weft_cap_total", "Cap.", ["a", "b"], 3).unwrap();
    for number in 0..10 {
        family.cell([&number.to_string(), "b"]).inc();
    }
    // A series that is known is served as ever.
    family.cell(["0", "b"]).inc();
    let shown = metrics(&family);
    assert_eq!(shown.len(), 4);
    let other = shown.iter().find(|m| m.get_label().iter().all(|label| label.value() == "other")).unwrap();
    assert_eq!(other.get_counter().get_value(), 7.0);
    assert_eq!(total(&family), 11.0);
    let dropped = super::super::SERIES_DROPPED.with_label_values(&["weft_cap_total"]);
    assert_eq!(dropped.get(), 7);
}

#[test]
fn values_that_really_are_other_share_that_series() {
    let family = counter(["a"], 1);
    family.cell(["other"]).inc();
    family.cell(["more"]).inc();
    assert_eq!(metrics(&family).len(), 1);
    assert_eq!(total(&family), 2.0);
}

#[test]
fn values_that_are_shown_alike_are_one_series() {
    let family = counter(["a"], 10);
    family.cell(["x\n"]).inc();
    family.cell(["x\x1b"]).inc();
    family.cell(["x\0"]).inc();
    let long = "\u{e9}".repeat(5_000);
    family.cell([&long]).inc();
    family.cell([&format!("{long}tail")]).inc();
    let shown = metrics(&family);
    assert_eq!(shown.len(), 2);
    assert!(shown.iter().all(|m| m.get_label()[0].value().len() <= 1024));
}

#[test]
fn labels_are_shown_by_name_in_order() {
    let family = counter(["b", "a"], 10);
    family.cell(["1", "2"]).inc();
    let shown = metrics(&family);
    let labels: Vec<_> = shown[0].get_label().iter().map(|label| (label.name(), label.value())).collect();
    assert_eq!(labels, [("a", "2"), ("b", "1")]);
}

#[test]
fn a_gauge_falls_when_its_guards_are_dropped_on_whatever_thread() {
    let family: GaugeFamily<0> = GaugeFamily::new("weft_test", "Test.", [], 10).unwrap();
    let value = || metrics(&family)[0].get_gauge().get_value();
    let cell = family.cell([]);
    let guards = (cell.guard(), cell.guard());
    let moved = family.shared([]).guard();
    assert_eq!(value(), 3.0);
    drop(guards.0);
    thread::spawn(move || drop(moved)).join().unwrap();
    assert_eq!(value(), 1.0);
    cell.add(-5);
    assert_eq!(value(), -4.0);
    cell.set(7);
    family.shared([]).set(-2);
    assert_eq!(value(), 5.0);
    drop(guards.1);
    assert_eq!(value(), 4.0);
}

#[test]
fn a_histogram_counts_each_value_in_the_first_bucket_that_holds_it() {
    let family = histogram();
    let cell = family.cell(["x"]);
    for value in [0.5, 1.0, 1.5, 5.0, 9.0, -1.0, f64::NAN, f64::INFINITY] {
        cell.observe(value);
    }
    family.shared(["x"]).observe(2.0);
    let shown = metrics(&family);
    let histogram = shown[0].get_histogram();
    let cumulative: Vec<_> = histogram
        .get_bucket()
        .iter()
        .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
        .collect();
    assert_eq!(cumulative, [(1.0, 3), (2.0, 5), (5.0, 6)]);
    assert_eq!(histogram.get_sample_count(), 7);
    assert_eq!(histogram.get_sample_sum(), 18.0);
}

#[test]
fn histograms_of_several_threads_add_up_exactly() {
    let family = histogram();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let family = family.clone();
            thread::spawn(move || {
                let (cell, shared) = (family.cell(["x"]), family.shared(["x"]));
                for number in 0..10_000_u32 {
                    cell.observe(f64::from(number % 8));
                    shared.observe(1.0);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let shown = metrics(&family);
    assert_eq!(shown[0].get_histogram().get_sample_count(), 80_000);
    assert_eq!(shown[0].get_histogram().get_sample_sum(), 4.0 * (35_000.0 + 10_000.0));
}

#[test]
fn the_sum_of_a_histogram_never_shrinks_when_cells_are_let_go() {
    let family = histogram();
    let sum = || metrics(&family)[0].get_histogram().get_sample_sum();
    let first = family.cell(["x"]);
    first.observe(1.0e16);
    let mut last = 0.0;
    for _ in 0..20 {
        let family = family.clone();
        thread::spawn(move || family.cell(["x"]).observe(1.0)).join().unwrap();
        assert!(sum() >= last);
        last = sum();
    }
    drop(first);
    assert!(sum() >= last);
}

#[test]
fn a_cell_fills_its_own_cache_line() {
    assert_eq!(align_of::<super::super::series::Line>(), 64);
    assert_eq!(size_of::<super::super::series::Line>(), 64);
}
