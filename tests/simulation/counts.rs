//! The values and start times of counters, in scenarios with one deployment.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prefect_otel_agent::core::State;
use prefect_otel_agent::core::counters::FLOW_RUNS_FINISHED;
use prefect_otel_agent::core::tags::TagKeys;
use prefect_otel_agent::prefect::Id;
use prefect_otel_agent::prefect::runs::StateType;

use crate::lab::{Calm, Death, Lab};
use crate::seeds::{INTERVAL, config};

/// A workspace with one deployment, and an agent that has read it.
struct Scenario {
    lab: Lab,
    flow: Id,
    queue: Id,
    deployment: Id,
    state: Arc<State>,
}

impl Scenario {
    fn new() -> Self {
        let config = prefect_otel_agent::core::Config {
            cardinality_limit: 10_000,
            tag_keys: TagKeys::new(["team"]),
            ..config(&mut fastrand::Rng::with_seed(0))
        };
        let mut lab = Lab::new(0, config);
        let queue = lab.world.create_work_pool("pool");
        let flow = lab.world.create_flow("flow");
        let deployment = lab.world.create_deployment(&flow, "it", Some(&queue));
        lab.world.tag_deployment(&deployment, &["team:data"]);
        Scenario {
            lab,
            flow,
            queue,
            deployment,
            state: Arc::default(),
        }
    }

    fn complete(&mut self, runs: usize) {
        for _ in 0..runs {
            let now = self.lab.world.now;
            let run = self.lab.world.schedule_run(&self.deployment, now, true);
            self.lab.world.propose(&run, StateType::Running, "Running");
            self.lab
                .world
                .set_state(&run, StateType::Completed, "Completed", None);
        }
    }

    /// Runs cycles for `time`; every push arrives.
    fn pass(&mut self, time: Duration) {
        let end = self.lab.time() + time;
        while self.lab.time() < end {
            self.lab.pass(INTERVAL, &mut Calm);
            self.state = self.lab.cycle(&mut Calm).unwrap().state;
        }
    }

    /// The exported count of completed runs of the deployment by the value of `team`, with its
    /// start time.
    fn shown(&self) -> Vec<(String, u64, Timestamp)> {
        let totals = self.state.counters.of(FLOW_RUNS_FINISHED);
        let is_it = |series: &[Arc<str>]| &*series[0] == "it" && &*series[4] == "COMPLETED";
        let of_it = totals.series.iter().filter(|(series, _)| is_it(series));
        let mut shown: Vec<_> = of_it
            .map(|(series, total)| (series[6].to_string(), total.value, total.since))
            .collect();
        shown.sort();
        shown
    }

    /// The same without start times.
    fn counts(&self) -> Vec<(String, u64)> {
        let shown = self.shown().into_iter();
        shown.map(|(team, count, _)| (team, count)).collect()
    }
}

fn counts<const N: usize>(expected: [(&str, u64); N]) -> Vec<(String, u64)> {
    expected
        .map(|(team, count)| (team.to_owned(), count))
        .into()
}

#[test]
fn runs_caught_up_after_a_restart_are_in_increase_even_in_new_series() {
    let mut it = Scenario::new();
    it.pass(INTERVAL * 2);
    let since = it.shown()[0].2;
    assert_eq!(it.lab.counting_since, Some(since));
    it.complete(2);
    it.pass(INTERVAL * 2);
    it.complete(3);
    it.lab.restart(Death::Kept, &mut Calm);
    it.pass(INTERVAL * 2);
    assert_eq!(it.shown(), [("data".to_owned(), 5, since)]);
    assert_eq!(it.lab.increase(), [5, 5]);
}

#[test]
fn a_count_keeps_the_tags_that_its_deployment_had_and_ends_an_hour_after_they_change() {
    let mut it = Scenario::new();
    it.pass(INTERVAL * 2);
    it.complete(20);
    it.pass(INTERVAL * 2);
    assert_eq!(it.counts(), counts([("data", 20)]));
    let (before, changed_at) = (it.shown(), it.lab.world.now);
    it.lab.world.tag_deployment(&it.deployment, &["team:core"]);
    it.pass(INTERVAL * 2);
    assert_eq!(it.counts(), counts([("core", 0), ("data", 20)]));
    it.complete(1);
    it.pass(INTERVAL * 2);
    let after = it.shown();
    assert_eq!(it.counts(), counts([("core", 1), ("data", 20)]));
    assert!(after[0].2 >= changed_at && after[1..] == before);
    it.pass(Duration::from_secs(3_600));
    assert_eq!(it.counts(), counts([("core", 1)]));
}

#[test]
fn a_deployment_that_returns_after_an_hour_begins_at_zero() {
    let mut it = Scenario::new();
    it.pass(INTERVAL * 2);
    it.complete(7);
    it.pass(INTERVAL * 2);
    it.lab.world.delete_deployment(&it.deployment);
    it.pass(Duration::from_secs(3_600));
    assert_eq!(it.counts(), counts([("data", 7)]));
    it.pass(Duration::from_secs(120));
    assert_eq!(it.counts(), []);
    let back_at = it.lab.world.now;
    let (flow, queue) = (&it.flow, Some(&it.queue));
    it.deployment = it.lab.world.create_deployment(flow, "it", queue);
    it.lab.world.tag_deployment(&it.deployment, &["team:data"]);
    it.complete(1);
    it.pass(INTERVAL);
    assert_eq!(it.counts(), counts([("data", 0)]));
    it.pass(INTERVAL);
    assert_eq!(it.counts(), counts([("data", 1)]));
    assert!(it.shown()[0].2 >= back_at);
}
