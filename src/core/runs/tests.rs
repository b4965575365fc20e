//! Which runs' earlier states are read.

use super::*;
use crate::core::tags::TagKeys;

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

fn failed(state: &str, run_count: u64) -> Run {
    let json = format!(
        r#"{{"id":"r","state_id":"{state}","state_type":"FAILED","run_count":{run_count},"end_time":"{NOW}"}}"#
    );
    Arc::new(serde_json::from_str(&json).unwrap())
}

/// After a restart: these states of a run were counted, and its earlier ones not read.
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
    runs.prune(Duration::ZERO, NOW);
    assert!(runs.unread().contains("r"));
    runs.ended(&failed("last", 2), None, Duration::ZERO, NOW);
    let [Request::FlowRunStates(id)] = &runs.plan(Duration::ZERO)[..] else {
        panic!("{:?}", runs.plan(Duration::ZERO));
    };
    assert_eq!(&**id, "r");
}

#[test]
fn what_is_not_remembered_as_counted_is_not_unread() {
    let mut runs = unread(&[]);
    runs.prune(Duration::ZERO, NOW);
    assert!(runs.unread().is_empty());
}

#[test]
fn an_earlier_state_that_waits_while_a_later_one_is_counted_survives_a_restart() {
    let mut runs = unread(&[]);
    runs.prune(Duration::ZERO, NOW);
    runs.ended(&failed("last", 3), None, Duration::ZERO, NOW);
    runs.ended(&failed("first", 2), None, Duration::ZERO, NOW);
    let names = Reader::new(TagKeys::none());
    let events = runs.count(&names, true, Duration::ZERO, NOW);
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(runs.unread().contains("r"));
}
