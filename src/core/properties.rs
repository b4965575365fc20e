//! What must hold whatever Prefect answers, and whatever a checkpoint contains.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use super::clock::{Moment, after};
use super::counters::FLOW_RUNS_FINISHED;
use super::events::Event;
use super::saved::SavedState;
use super::tags::TagKeys;
use super::tally::{Series, Total};
use super::{Answered, Ask, Config, Core, State};
use crate::metrics::agent::Stats;
use crate::metrics::{Lingering, Options, View, read};
use crate::prefect::properties::decode;
use crate::prefect::{Id, Reply};
use crate::properties::lines::first_line;
use crate::settings::{Settings, Sources};

const PROCESSES: u64 = 2;
const CYCLES: u64 = 3;
const ROUNDS: usize = 12;
const INTERVAL: Duration = Duration::from_secs(30);
const TAG_KEY: &str = "team";

fn config() -> Config {
    Config {
        interval: INTERVAL,
        inventory_interval: INTERVAL,
        scheduled_lookahead: Some(Duration::from_secs(3_600)),
        offset: Duration::from_secs(300),
        failed_runs_offset: Some(Duration::from_secs(600_000)),
        catch_up: Duration::from_secs(86_400),
        task_runs: true,
        page_limit: 3,
        first_page_only: false,
        cardinality_limit: 20,
        tag_keys: TagKeys::new([TAG_KEY]),
        unused: Vec::new(),
    }
}

/// A checkpoint: it is refused, or it can be continued, and what is continued can be saved.
pub fn checkpoint(data: &[u8]) {
    let Ok(saved) = serde_json::from_slice::<SavedState>(data) else {
        return;
    };
    let mut core = Core::new(config(), Some(saved));
    let moment = moment(0, 0);
    core.begin(moment);
    core.finish(moment, None);
    if let Some(saved) = core.checkpoint(moment) {
        let text = serde_json::to_vec(&saved).unwrap_or_default();
        let restored = serde_json::from_slice::<SavedState>(&text);
        assert!(restored.is_ok(), "{restored:?}");
    }
}

/// Cycles: the first line is a checkpoint, each of the others the body of an answer. Each terminal
/// state is counted once, also by the process that resumes from the checkpoint, and no count
/// decreases.
pub fn cycles(data: &[u8]) {
    counted(data);
}

/// The number of terminal states that these cycles count.
fn counted(data: &[u8]) -> usize {
    let (saved, bodies) = first_line(data);
    let bodies: Vec<&[u8]> = bodies.split(|byte| *byte == b'\n').collect();
    let mut bodies = bodies.into_iter().cycle();
    let mut saved = saved.to_vec();
    let mut counted = HashSet::new();
    for process in 0..PROCESSES {
        let resumed = serde_json::from_slice(&saved).ok();
        if resumed.is_none() {
            counted.clear();
        }
        let mut core = Core::new(config(), resumed);
        let mut totals = HashMap::new();
        let mut lingering = Lingering::default();
        for cycle in 0..CYCLES {
            let moment = moment(process, cycle);
            let done = run(&mut core, moment, &mut bodies);
            count(&done.events, &mut counted);
            let state = &done.state;
            compare(state, &mut totals);
            read_families(state, &mut lingering, moment);
            core.mark_shown(state.number);
            if let Some(kept) = core.checkpoint(moment) {
                saved = serde_json::to_vec(&kept).unwrap_or_default();
            }
        }
    }
    counted.len()
}

/// The first process counts what ended in the hour before.
fn moment(process: u64, cycle: u64) -> Moment {
    let since = INTERVAL * cycle as u32;
    let now = Duration::from_secs(1_780_000_000 + process * 600) + since;
    Moment {
        uptime: Duration::from_secs(3_600) + since,
        wall: after(Timestamp::UNIX_EPOCH, now),
    }
}

fn run<'a>(
    core: &mut Core,
    moment: Moment,
    bodies: &mut impl Iterator<Item = &'a [u8]>,
) -> super::Cycle {
    core.begin(moment);
    for _ in 0..ROUNDS {
        let plan = core.plan(moment);
        if plan.is_empty() {
            break;
        }
        let answers = plan.into_iter().map(|ask| {
            let body = bodies.next().unwrap_or_default();
            answer(ask, body, moment)
        });
        let answers = answers.collect();
        core.apply(moment, answers);
    }
    core.finish(moment, None)
}

fn answer(ask: Ask, body: &[u8], moment: Moment) -> Answered {
    let reply = |answer| Reply {
        answer,
        date: Some(moment.wall),
    };
    Answered {
        result: decode(&ask.request, body).map(reply),
        ask,
        took: Duration::from_millis(10),
        at: moment,
    }
}

fn count(events: &[Event], counted: &mut HashSet<(Id, Id)>) {
    for event in events {
        if let Event::FlowRun(run) = event {
            let state = (run.run.id.clone(), run.state_id.clone());
            assert!(counted.insert(state.clone()), "counted twice: {state:?}");
        }
    }
}

/// No count is lower than before, unless counting began anew.
fn compare(state: &State, totals: &mut HashMap<Series, Total>) {
    for (series, total) in &state.counters.of(FLOW_RUNS_FINISHED).series {
        let before = totals.insert(series.clone(), *total);
        let before = before.filter(|before| before.since == total.since);
        let before = before.map_or(0, |before| before.value);
        assert!(
            total.value >= before,
            "{series:?}: {before}, then {total:?}"
        );
    }
}

/// Every family can be read, and no series of it twice.
fn read_families(state: &State, lingering: &mut Lingering, moment: Moment) {
    let settings = Settings::load(&Sources {
        environment: vec![("DEPLOYMENT_TAG_LABELS".into(), TAG_KEY.into())],
        ..Sources::default()
    });
    let Ok(options) = settings.and_then(|settings| Options::new(&settings)) else {
        return;
    };
    let stats = Stats::new(Instant::now(), SystemTime::UNIX_EPOCH);
    let tags = options.tag_attributes(&state.snapshot);
    let view = View::of(state, &options, &tags);
    let lingering = std::slice::from_mut(lingering);
    for reading in read(&[view], lingering, &stats, &options, moment.uptime) {
        let mut known = HashSet::new();
        for point in reading.points.iter() {
            let name = reading.family.name;
            let series = format!("{:?}", point.attributes);
            assert!(known.insert(series), "{name}: {:?} twice", point.attributes);
            assert!(!point.value.is_nan(), "{name}: {point:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Few ids, so that objects meet again.
    fn id() -> impl Strategy<Value = String> {
        (0..6_u32).prop_map(|number| format!("{number:08x}-0000-4000-8000-000000000000"))
    }

    fn time() -> impl Strategy<Value = Value> {
        let near = (-90_000..4_000_i64).prop_map(|seconds| {
            let time = Timestamp::from_second(1_780_000_000 + seconds).unwrap();
            json!(time.to_string())
        });
        let odd = prop::sample::select(vec![
            Value::Null,
            json!("0001-01-01T00:00:00+00:00"),
            json!("9999-12-31T23:59:59.999999+00:00"),
            json!("-009999-01-02T01:59:59Z"),
            json!("yesterday"),
        ]);
        prop_oneof![8 => near, 1 => odd]
    }

    /// An object with the fields of every list.
    fn object() -> impl Strategy<Value = Value> {
        let states = [
            "SCHEDULED",
            "PENDING",
            "RUNNING",
            "PAUSED",
            "COMPLETED",
            "COMPLETED",
            "FAILED",
            "CRASHED",
            "CANCELLED",
            "CANCELLING",
            "NEW",
        ];
        let names = ["a", "b", "Late", "\u{202e}\n\"", ""];
        let numbers = vec![
            json!(0),
            json!(1),
            json!(3),
            json!(u64::MAX),
            json!(-1.5),
            json!(1e308),
        ];
        (
            (id(), id(), id(), id()),
            prop::sample::select(states.to_vec()),
            prop::sample::select(names.to_vec()),
            (time(), time(), time()),
            prop::sample::select(numbers),
        )
            .prop_map(|((own, state, deployment, flow), kind, name, times, number)| {
                let count = number.as_u64().unwrap_or_default();
                json!({
                    "id": own, "name": name, "type": kind, "timestamp": times.0,
                    "state_id": state, "state_type": kind, "state_name": name,
                    "state": {"timestamp": times.0}, "deployment_id": deployment, "flow_id": flow,
                    "start_time": times.0, "end_time": times.1, "expected_start_time": times.2,
                    "total_run_time": number, "run_count": count, "tags": ["team:x", name],
                    "work_pool_name": name, "work_queue_name": name, "work_queue_id": flow,
                    "concurrency_limit": count, "last_polled": times.2, "priority": 1,
                })
            })
    }

    fn body() -> impl Strategy<Value = String> {
        let list = prop::collection::vec(object(), 0..5);
        prop_oneof![
            6 => list.prop_map(|list| Value::from(list).to_string()),
            1 => any::<u64>().prop_map(|count| count.to_string()),
            1 => (0..5_u64).prop_map(|count| count.to_string()),
            1 => Just("\"3.9.1\"".to_owned()),
            1 => Just("<html>".to_owned()),
        ]
    }

    #[test]
    fn the_answers_of_the_corpus_are_counted() {
        let data = include_bytes!("../../fuzz/corpus/cycles/counted");
        assert!(counted(data) > 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn each_terminal_state_is_counted_once_whatever_prefect_answers(
            bodies in prop::collection::vec(body(), 1..40),
        ) {
            cycles(format!("\n{}", bodies.join("\n")).as_bytes());
        }
    }
}
