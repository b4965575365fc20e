//! Tests of the values that a tally exports.

use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const LATER: Timestamp = Timestamp::constant(60, 0);

fn series(name: &str) -> [Label; 1] {
    [Label::from(name)]
}

fn total(tally: &mut Tally, number: u64, delivered: u64) -> u64 {
    let (totals, _) = tally.show(number, delivered);
    totals.series.iter().map(|(_, total)| total.value).sum()
}

fn restored(tally: &Tally) -> Tally {
    with_keys(tally, &TagKeys::none(), &TagKeys::none())
}

fn with_keys(tally: &Tally, before: &TagKeys, now: &TagKeys) -> Tally {
    let saved = serde_json::to_string(&tally.save(Duration::ZERO, 1, before, NOW)).unwrap();
    let mut tally = Tally::new(tally.limit);
    tally.restore(serde_json::from_str(&saved).unwrap(), 1, now, NOW);
    tally
}

#[test]
fn a_new_series_stays_at_zero_until_a_state_with_it_was_delivered() {
    let mut tally = Tally::new(10);
    tally.add(&series("a"), 3, NOW);
    for number in 4..8 {
        assert_eq!(total(&mut tally, number, 3), 0);
    }
    assert_eq!(total(&mut tally, 8, 4), 3);
}

#[test]
fn a_state_delivered_before_a_series_appeared_does_not_release_it() {
    let mut tally = Tally::new(10);
    tally.add(&series("a"), 1, NOW);
    total(&mut tally, 1, 0);
    total(&mut tally, 2, 1);
    tally.add(&series("b"), 5, NOW);
    assert_eq!(total(&mut tally, 3, 2), 1);
    assert_eq!(total(&mut tally, 4, 3), 6);
}

#[test]
fn after_a_restart_the_saved_count_is_exported_before_later_events() {
    let mut tally = Tally::new(10);
    tally.add(&series("a"), 3, NOW);
    total(&mut tally, 1, 0);
    total(&mut tally, 2, 1);
    let mut tally = restored(&tally);
    assert_eq!(total(&mut tally, 1, 0), 3);
    tally.add(&series("a"), 2, LATER);
    assert_eq!(total(&mut tally, 2, 0), 3);
    // It is not delivered before the next restart either.
    let mut tally = restored(&tally);
    assert_eq!(total(&mut tally, 1, 0), 3);
    assert_eq!(total(&mut tally, 2, 1), 5);
}

#[test]
fn counts_that_were_never_exported_follow_the_value_exported_last() {
    let mut tally = Tally::new(10);
    tally.add(&series("a"), 3, NOW);
    total(&mut tally, 1, 0);
    total(&mut tally, 2, 1);
    tally.add(&series("a"), 2, LATER);
    let mut tally = restored(&tally);
    assert_eq!(total(&mut tally, 1, 0), 3);
    assert_eq!(total(&mut tally, 2, 1), 5);
}

#[test]
fn a_series_that_was_never_delivered_is_new_after_a_restart() {
    let mut tally = Tally::new(1);
    tally.add(&series("a"), 3, NOW);
    tally.add(&series("b"), 4, NOW);
    total(&mut tally, 1, 0);
    let mut tally = restored(&tally);
    let (first, _) = tally.show(1, 0);
    assert_eq!(
        (first.series[0].1.value, first.overflow.unwrap().value),
        (0, 0)
    );
    let (second, _) = tally.show(2, 1);
    assert_eq!(
        (second.series[0].1.value, second.overflow.unwrap().value),
        (3, 4)
    );
}

#[test]
fn a_checkpoint_of_an_older_version_is_read() {
    let saved = r#"{"series":[{"labels":["a"],"total":3,"is_new":true},{"labels":["b"],"total":4},{"labels":["a","b"],"total":9}],"overflow":5}"#;
    let mut tally = Tally::new(10);
    tally.restore(
        serde_json::from_str(saved).unwrap(),
        1,
        &TagKeys::none(),
        LATER,
    );
    let (first, _) = tally.show(1, 0);
    let mut values: Vec<_> = first.series.iter().map(|(_, total)| total.value).collect();
    values.sort_unstable();
    assert_eq!(values, [0, 4]);
    assert_eq!(first.overflow.map(|total| total.value), Some(5));
    assert!(first.series.iter().all(|(_, total)| total.since == LATER));
    assert_eq!(total(&mut tally, 2, 1), 7);
}

#[test]
fn totals_are_shared_while_nothing_changes() {
    let mut tally = Tally::new(10);
    tally.add(&series("a"), 1, NOW);
    tally.show(1, 0);
    let (before, grows) = tally.show(2, 1);
    assert!(grows);
    let (after, grows) = tally.show(3, 2);
    assert!(Arc::ptr_eq(&before, &after) && !grows);
    tally.add(&series("a"), 0, LATER);
    tally.prune(Duration::ZERO, Duration::ZERO, |_| true);
    assert!(Arc::ptr_eq(&after, &tally.show(4, 3).0));
}

#[test]
fn beyond_the_limit_only_the_labels_are_lost_even_across_a_restart() {
    let mut tally = Tally::new(3);
    for name in ["a", "b", "c", "d", "e"] {
        tally.add(&series(name), 1, NOW);
    }
    tally.show(1, 0);
    let (totals, _) = tally.show(2, 1);
    assert_eq!(totals.series.len(), 3);
    assert_eq!(totals.overflow.map(|total| total.value), Some(2));
    tally.limit = 2;
    let (totals, _) = restored(&tally).show(1, 0);
    assert_eq!(totals.series.len(), 2);
    assert_eq!(totals.overflow.map(|total| total.value), Some(3));
}

#[test]
fn series_of_deleted_deployments_stay_for_a_while_across_restarts() {
    let keep = Duration::from_secs(100);
    let mut tally = Tally::new(3);
    tally.add(&series("a"), 1, NOW);
    tally.show(1, 0);
    tally.show(2, 1);
    tally.prune(Duration::from_secs(10), keep, |_| false);
    let none = TagKeys::none();
    let saved = tally.save(Duration::from_secs(60), 1, &none, NOW);
    let mut tally = Tally::new(3);
    tally.restore(saved, 1, &none, NOW);
    tally.prune(Duration::from_secs(40), keep, |_| false);
    assert_eq!(total(&mut tally, 1, 0), 1);
    tally.prune(Duration::from_secs(51), keep, |_| false);
    assert_eq!(total(&mut tally, 2, 0), 0);
}

#[test]
fn what_is_counted_hours_after_a_deletion_is_exported_before_the_series_ends() {
    let hour = Duration::from_secs(3600);
    let mut tally = Tally::new(3);
    tally.add(&series("a"), 1, NOW);
    tally.prune(Duration::ZERO, hour, |_| false);
    tally.show(1, 0);
    // An outage of Prefect.
    tally.add(&series("a"), 2, LATER);
    tally.prune(hour * 7, hour, |_| false);
    assert_eq!(total(&mut tally, 2, 1), 3);
    tally.prune(hour * 8, hour, |_| false);
    assert_eq!(total(&mut tally, 3, 2), 0);
}

#[test]
fn after_a_restart_with_other_tag_keys_counts_are_kept() {
    let before = TagKeys::new(["team", "env"]);
    let mut tally = Tally::new(10);
    for (team, count) in [("x", 2), ("y", 3)] {
        let series = ["a", team, "prod"].map(Label::from);
        tally.add(&series, count, NOW);
    }
    tally.show(1, 0);
    tally.show(2, 1);
    let shown = |mut tally: Tally| {
        let (totals, _) = tally.show(1, 0);
        let text = |(series, total): &(Series, Total)| (series.join(" "), total.value);
        let mut shown: Vec<_> = totals.series.iter().map(text).collect();
        shown.sort_unstable();
        shown
    };
    let same = shown(with_keys(&tally, &before, &before));
    assert_eq!(
        same,
        [("a x prod".to_owned(), 2), ("a y prod".to_owned(), 3)]
    );
    let moved = TagKeys::new(["tier", "team"]);
    let moved = shown(with_keys(&tally, &before, &moved));
    assert_eq!(moved, [("a  x".to_owned(), 2), ("a  y".to_owned(), 3)]);
    let fewer = shown(with_keys(&tally, &before, &TagKeys::new(["env"])));
    assert_eq!(fewer, [("a prod".to_owned(), 5)]);
}

#[test]
fn a_series_that_returns_starts_over() {
    let mut tally = Tally::new(3);
    tally.add(&series("a"), 7, NOW);
    tally.show(1, 0);
    tally.show(2, 1);
    tally.prune(Duration::ZERO, Duration::ZERO, |_| false);
    assert!(tally.show(3, 2).0.series.is_empty());
    tally.add(&series("a"), 1, LATER);
    let (totals, _) = tally.show(4, 3);
    let begins = Total {
        value: 0,
        since: LATER,
    };
    assert_eq!(totals.series[0].1, begins);
    assert_eq!(total(&mut tally, 5, 4), 1);
}

#[test]
fn start_times_survive_a_restart() {
    let mut tally = Tally::new(3);
    tally.add(&series("a"), 1, NOW);
    tally.add(&series("b"), 1, LATER);
    let (totals, _) = restored(&tally).show(1, 0);
    for (series, total) in &totals.series {
        let since = if &*series[0] == "a" { NOW } else { LATER };
        assert_eq!(total.since, since, "{series:?}");
    }
}
