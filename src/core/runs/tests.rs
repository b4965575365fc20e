//! Tests of the runs whose earlier states are read.

use super::*;
use crate::core::tags::TagKeys;

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

fn failed(state: &str, run_count: u64) -> Run {
    let json = format!(
        r#"{{"id":"r","state_id":"{state}","state_type":"FAILED","run_count":{run_count},"end_time":"{NOW}"}}"#
    );
    Arc::new(serde_json::from_str(&json).unwrap())
}

/// The state after a restart: these states of a run have been counted, and its earlier states have
/// not been read.
fn unread(counted: &[&str]) -> Runs {
    let mut pairs = Counted::default();
    for state in counted {
        pairs.insert("r", state, NOW, Duration::ZERO);
    }
    let unfinished = Unfinished::new(None, HashMap::new());
    let windows = Windows::new(Duration::from_secs(300), None);
    let start = Some(before(NOW, LONGEST_WAIT));
    Runs::new(unfinished, windows, pairs, start, [Id::from("r")].into())
}

#[test]
fn a_lagging_replica_does_not_keep_earlier_states_from_being_read_after_a_restart() {
    let mut runs = unread(&["first", "last"]);
    runs.ended(&failed("first", 1), None, Duration::ZERO, NOW);
    runs.prune(Duration::ZERO, NOW, Unread::from(Timestamp::MAX));
    assert!(runs.unread().contains("r"));
    runs.ended(&failed("last", 2), None, Duration::ZERO, NOW);
    let [Request::FlowRunStates(id)] = &runs.plan(Duration::ZERO)[..] else {
        panic!("{:?}", runs.plan(Duration::ZERO));
    };
    assert_eq!(&**id, "r");
}

#[test]
fn a_run_that_is_not_remembered_as_counted_is_not_unread() {
    let mut runs = unread(&[]);
    runs.prune(Duration::ZERO, NOW, Unread::from(Timestamp::MAX));
    assert!(runs.unread().is_empty());
}

#[test]
fn an_earlier_state_that_is_shown_after_a_later_one_leaves_its_states_to_be_read() {
    let mut runs = unread(&[]);
    runs.prune(Duration::ZERO, NOW, Unread::from(Timestamp::MAX));
    runs.ended(&failed("last", 3), None, Duration::ZERO, NOW);
    runs.ended(&failed("first", 2), None, Duration::ZERO, NOW);
    let names = Reader::new(TagKeys::none());
    let events = runs.count(&names, true, Duration::ZERO, NOW);
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(runs.unread().contains("r"));
}

#[test]
fn on_servers_before_3_6_14_a_run_that_never_started_is_counted_if_it_was_known() {
    let names = Reader::new(TagKeys::none());
    for (state_time, known) in [
        ("", true),
        ("", false),
        (r#","state":{"timestamp":"NOW"}"#, true),
    ] {
        let state_time = state_time.replace("NOW", &NOW.to_string());
        let json = format!(
            r#"{{"id":"r","state_id":"s","state_type":"CANCELLED","run_count":0{state_time}}}"#
        );
        let run: Run = Arc::new(serde_json::from_str(&json).unwrap());
        let mut runs = unread(&[]);
        runs.ended(&run, known.then_some(NOW), Duration::ZERO, NOW);
        let events = runs.count(&names, true, Duration::ZERO, NOW);
        assert_eq!(events.len(), usize::from(known), "{json}");
    }
}

fn states(ids: &[&str]) -> Vec<RunState> {
    let numbered = ids.iter().enumerate();
    numbered
        .map(|(minute, id)| {
            let json = format!(
                r#"{{"id":"{id}","type":"FAILED","name":"Failed","timestamp":"2027-01-15T07:{minute:02}:00Z"}}"#
            );
            serde_json::from_str(&json).unwrap()
        })
        .collect()
}

#[test]
fn states_from_a_lagging_replica_that_lack_what_is_counted_are_read_again() {
    let mut runs = unread(&["last"]);
    // A lagging replica answers both requests.
    runs.ended(&failed("second", 2), None, Duration::ZERO, NOW);
    let (id, interval) = (Id::from("r"), Duration::from_secs(30));
    let of_replica = Some(states(&["first", "second"]));
    runs.states(&id, of_replica, Duration::ZERO, interval, NOW);
    runs.prune(Duration::ZERO, NOW, Unread::from(Timestamp::MAX));
    runs.ended(&failed("last", 4), None, Duration::ZERO, NOW);
    assert_eq!(runs.plan(Duration::ZERO).len(), 1);
    let all = Some(states(&["first", "second", "third", "last"]));
    runs.states(&id, all, Duration::ZERO, interval, NOW);
    let names = Reader::new(TagKeys::none());
    let events = runs.count(&names, true, Duration::ZERO, NOW);
    assert_eq!(events.len(), 3, "{events:?}");
    runs.prune(Duration::ZERO, NOW, Unread::from(Timestamp::MAX));
    assert!(runs.unread().is_empty());
}

#[test]
fn an_older_answer_does_not_replace_one_whose_earlier_states_are_still_to_be_read() {
    let mut runs = unread(&[]);
    runs.ended(&failed("last", 4), None, Duration::ZERO, NOW);
    let (id, interval) = (Id::from("r"), Duration::from_secs(30));
    // Its states cannot be read, so its current state is counted.
    runs.states(&id, None, Duration::ZERO, interval, NOW);
    let names = Reader::new(TagKeys::none());
    assert_eq!(runs.count(&names, true, Duration::ZERO, NOW).len(), 1);
    runs.ended(&failed("second", 2), None, Duration::ZERO, NOW);
    let of_replica = Some(states(&["first", "second"]));
    runs.states(&id, of_replica, Duration::ZERO, interval, NOW);
    assert_eq!(runs.count(&names, true, Duration::ZERO, NOW).len(), 1);
    runs.prune(Duration::ZERO, NOW, Unread::from(Timestamp::MAX));
    let later = interval * 2;
    assert_eq!(runs.plan(later).len(), 1);
    let all = Some(states(&["first", "second", "third", "last"]));
    runs.states(&id, all, later, interval, NOW);
    assert_eq!(runs.count(&names, true, later, NOW).len(), 2);
}

#[test]
fn an_older_answer_does_not_hide_states_before_one_that_waits_for_its_names() {
    let mut runs = unread(&[]);
    runs.ended(&failed("last", 2), None, Duration::ZERO, NOW);
    // A lagging replica answers. The run did not start between the two states.
    runs.ended(&failed("second", 2), None, Duration::ZERO, NOW);
    let (id, interval) = (Id::from("r"), Duration::from_secs(30));
    let of_replica = Some(states(&["first", "second"]));
    runs.states(&id, of_replica, Duration::ZERO, interval, NOW);
    let names = Reader::new(TagKeys::none());
    assert_eq!(runs.count(&names, true, Duration::ZERO, NOW).len(), 3);
    runs.prune(Duration::ZERO, NOW, Unread::from(Timestamp::MAX));
    assert!(runs.unread().contains("r"));
}

const HOUR: Duration = Duration::from_secs(3600);

fn later(hours: u32) -> (Duration, Timestamp) {
    let uptime = HOUR * hours;
    (uptime, super::super::clock::after(NOW, uptime))
}

#[test]
fn the_last_run_before_an_outage_of_hours_is_not_counted_again() {
    let mut runs = unread(&["last"]);
    let (uptime, now) = later(7);
    runs.prune(uptime, now, Unread::from(now));
    runs.ended(&failed("last", 1), None, uptime, now);
    let names = Reader::new(TagKeys::none());
    assert!(runs.count(&names, true, uptime, now).is_empty());
}

#[test]
fn an_old_state_that_a_lagging_replica_shows_of_a_retried_run_is_not_counted_again() {
    let mut runs = unread(&["last"]);
    let (uptime, now) = later(7);
    runs.prune(uptime, now, Unread::from(now));
    runs.ended(&failed("last", 1), Some(now), uptime, now);
    let names = Reader::new(TagKeys::none());
    assert!(runs.count(&names, true, uptime, now).is_empty());
}

#[test]
fn what_was_counted_of_an_unfinished_run_is_remembered_for_as_long_as_it_runs() {
    let mut runs = unread(&["first"]);
    let running = r#"{"id":"r","state_id":"now","state_type":"RUNNING","run_count":2}"#;
    let running: FlowRun = serde_json::from_str(running).unwrap();
    runs.unfinished.insert(running, NOW);
    for hours in 1..12 {
        let (uptime, now) = later(hours);
        runs.prune(uptime, now, Unread::from(now));
    }
    assert!(runs.counted.contains_run("r"));
}

#[test]
fn an_end_before_the_first_start_is_found_after_a_retry() {
    let json = |end: &str, total: f64| {
        let json = format!(
            r#"{{"id":"r","state_id":"last","state_type":"COMPLETED","run_count":1,"total_run_time":{total},
                "start_time":"2027-01-15T07:00:00Z","end_time":"2027-01-15T{end}Z"}}"#
        );
        serde_json::from_str::<FlowRun>(&json).unwrap()
    };
    assert!(!terminal::needs_history(&json("07:00:10", 10.0), None));
    assert!(terminal::needs_history(&json("07:05:00", 10.0), None));
    assert!(!terminal::needs_history(&json("07:05:00", 10.0), Some(1)));
}

#[test]
fn a_replaced_terminal_state_that_is_forgotten_is_not_counted_again_after_a_retry() {
    let mut runs = unread(&[]);
    let replacement = format!(
        r#"{{"id":"r","state_id":"second","state_type":"COMPLETED","run_count":1,"end_time":"2027-01-15T07:00:00Z",
            "state":{{"timestamp":"2027-01-15T07:01:00Z"}},"now":"{NOW}"}}"#
    );
    let replacement: FlowRun = serde_json::from_str(&replacement).unwrap();
    runs.ended(&Arc::new(replacement), Some(NOW), Duration::ZERO, NOW);
    let names = Reader::new(TagKeys::none());
    assert_eq!(runs.count(&names, true, Duration::ZERO, NOW).len(), 1);
    let (uptime, now) = later(7);
    runs.prune(uptime, now, Unread::from(now));
    runs.ended(&failed("third", 2), Some(now), uptime, now);
    let all = Some(states(&["first", "second", "third"]));
    runs.states(&Id::from("r"), all, uptime, Duration::from_secs(30), now);
    assert_eq!(runs.count(&names, true, uptime, now).len(), 1);
}

#[test]
fn an_outage_of_hours_does_not_use_up_the_tries_to_read_earlier_states() {
    let mut runs = unread(&[]);
    runs.ended(&failed("last", 2), None, Duration::ZERO, NOW);
    let (id, interval) = (Id::from("r"), Duration::from_secs(30));
    for minute in 0..600 {
        let uptime = Duration::from_secs(60 * minute);
        runs.begin(uptime, false, minute == 0);
        if !runs.plan(uptime).is_empty() {
            runs.states(&id, None, uptime, interval, NOW);
        }
    }
    let (uptime, now) = later(11);
    runs.begin(uptime, false, true);
    assert_eq!(runs.plan(uptime).len(), 1);
    runs.states(&id, Some(states(&["first", "last"])), uptime, interval, now);
    let names = Reader::new(TagKeys::none());
    assert_eq!(runs.count(&names, true, uptime, now).len(), 2);
}
