//! What happened: tallies that only grow, each final state of a run counted once.
//!
//! The [`Ledger`] is fed by the sampler with runs that reached a final state. (run id, state
//! id) tells what is counted already; that memory reaches as far back as the sampler can read
//! again, not farther. With a [`checkpoint`], all of it survives a restart.

pub mod checkpoint;
mod tally;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::snapshot::{Deployment, FlowRun, Snapshot, StateType, TaskRun};
pub use tally::Tally;

type Id = Arc<str>;
type Label = Arc<str>;

/// The tallies of a deployment that is gone are kept for so long: it may come back.
const KEEP_AFTER_DELETION: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A run that reached a final state.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The run, as last seen.
    pub run: Arc<FlowRun>,
    /// The name of its deployment, as a label.
    pub deployment: Label,
    /// The name of its flow, as a label.
    pub flow: Label,
    /// The final state.
    pub state_id: Id,
    /// The type of that state.
    pub state_type: StateType,
    /// The name of that state, as a label.
    pub state_name: Label,
    /// When the run got into it.
    pub end: Timestamp,
    /// Seconds spent running until then, over all tries.
    pub run_time: Option<f64>,
    /// Tries since the final state before it, less the first of all.
    pub retries: u64,
    /// Whether it is the run's first final state.
    pub first: bool,
}

impl Finished {
    /// Seconds between the expected start and the start; known once for each run.
    pub fn start_delay(&self) -> Option<f64> {
        let (start, expected) = (self.run.start_time?, self.run.expected_start_time?);
        let delay = start.duration_since(expected).as_secs_f64().max(0.0);
        self.first.then_some(delay)
    }
}

/// A task run that reached a final state.
#[derive(Debug, Clone)]
pub struct FinishedTask {
    /// The name of the task.
    pub task: Label,
    /// The type of the state.
    pub state_type: StateType,
    /// Seconds spent running, over all tries.
    pub run_time: Option<f64>,
}

/// The last runs of a deployment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LastRuns {
    /// When the last run ended that ended so.
    pub ends: HashMap<StateType, Timestamp>,
    /// Seconds that the last of all was running.
    pub run_time: Option<f64>,
}

/// Tallies that only grow.
#[derive(Debug)]
pub struct Ledger {
    /// What ended before it is not counted.
    since: Option<Timestamp>,
    /// Everything that ended before it, in the server's time, has been read.
    cursor: Option<Timestamp>,
    /// The same for task runs.
    task_cursor: Option<Timestamp>,
    /// (run, final state) of all that can be read again, and when it ended or was counted,
    /// whichever is later.
    counted: HashMap<(Id, Id), Timestamp>,
    /// By deployment, flow, work pool, work queue, state type and state name.
    finished: Tally<6>,
    /// By deployment and flow.
    retries: Tally<2>,
    /// By task and state type.
    tasks: Tally<2>,
    /// By deployment id.
    last_runs: HashMap<Id, LastRuns>,
}

impl Ledger {
    /// An empty ledger of at most `limit` series a tally.
    pub fn new(limit: usize) -> Self {
        Ledger {
            since: None,
            cursor: None,
            task_cursor: None,
            counted: HashMap::new(),
            finished: Tally::new(limit),
            retries: Tally::new(limit),
            tasks: Tally::new(limit),
            last_runs: HashMap::new(),
        }
    }

    /// Begins to count, with what ends at `start` or later, unless it began before.
    pub fn begin(&mut self, start: Timestamp) {
        self.since.get_or_insert(start);
    }

    /// What ended before it is not counted.
    pub fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// Everything that ended before it has been read.
    pub fn cursor(&self) -> Option<Timestamp> {
        self.cursor
    }

    /// Everything that ended before `cursor` has been read.
    pub fn move_cursor(&mut self, cursor: Timestamp) {
        self.cursor = Some(cursor);
    }

    /// Task runs that ended before it have been read.
    pub fn task_cursor(&self) -> Option<Timestamp> {
        self.task_cursor
    }

    /// Task runs that ended before `cursor` have been read.
    pub fn move_task_cursor(&mut self, cursor: Timestamp) {
        self.task_cursor = Some(cursor);
    }

    /// Whether this final state of this run is counted already.
    pub fn has_counted(&self, run: &Id, state: &Id) -> bool {
        self.counted
            .contains_key(&(Arc::clone(run), Arc::clone(state)))
    }

    /// Counts a final state; `false` if it is counted already.
    pub fn count(&mut self, finished: &Finished, now: Timestamp) -> bool {
        let run = &finished.run;
        if !self.mark(&run.id, &finished.state_id, finished.end, now) {
            return false;
        }
        let series = [
            Arc::clone(&finished.deployment),
            Arc::clone(&finished.flow),
            run.work_pool_name.label(),
            run.work_queue_name.label(),
            Arc::from(finished.state_type.as_str()),
            Arc::clone(&finished.state_name),
        ];
        self.finished.add(series, 1, now);
        let series = [Arc::clone(&finished.deployment), Arc::clone(&finished.flow)];
        self.retries.add(series, finished.retries, now);
        self.see(run, finished.state_type, finished.end, finished.run_time);
        true
    }

    /// Counts a task run's final state; `None` if it is counted already.
    pub fn count_task(&mut self, run: &TaskRun, now: Timestamp) -> Option<FinishedTask> {
        let (state, state_type, end) = (run.state_id.as_ref()?, run.state_type?, run.end_time?);
        if !state_type.is_final() || self.since.is_none_or(|since| end < since) {
            return None;
        }
        self.mark(&run.id, state, end, now).then(|| {
            let task = run.task_name();
            let series = [Arc::clone(&task), Arc::from(state_type.as_str())];
            self.tasks.add(series, 1, now);
            FinishedTask {
                task,
                state_type,
                run_time: run.total_run_time,
            }
        })
    }

    fn mark(&mut self, run: &Id, state: &Id, end: Timestamp, now: Timestamp) -> bool {
        let key = (Arc::clone(run), Arc::clone(state));
        self.counted.insert(key, end.max(now)).is_none()
    }

    /// Notes when and how a run of a deployment ended, whether it counts or not.
    pub fn see(&mut self, run: &FlowRun, state_type: StateType, end: Timestamp, time: Option<f64>) {
        let Some(deployment) = &run.deployment_id else {
            return;
        };
        let last = self.last_runs.entry(Arc::clone(deployment)).or_default();
        if last.ends.values().all(|known| *known <= end) {
            last.run_time = time;
        }
        let known = last.ends.entry(state_type).or_insert(end);
        *known = end.max(*known);
    }

    /// What was counted until now has been published; series that come up from here on are
    /// published once at zero first, so that `increase()` sees them grow.
    pub fn settle(&mut self) {
        self.finished.settle();
        self.retries.settle();
        self.tasks.settle();
    }

    /// Starts the series of every deployment at zero, one for each final state type, and
    /// forgets what is long gone. Nothing is forgotten that can be read again.
    pub fn tidy(&mut self, snapshot: &Snapshot, horizon: Timestamp) {
        for deployment in snapshot.deployments.values() {
            self.start_at_zero(snapshot, deployment);
        }
        self.counted.retain(|_, counted| *counted >= horizon);
        let names: std::collections::HashSet<_> = snapshot
            .deployments
            .values()
            .map(|deployment| {
                let flow = snapshot.flow_name(deployment.flow_id.as_ref());
                (deployment.name.label(), flow)
            })
            .collect();
        let null = crate::snapshot::null();
        let keep = |deployment: &Label, flow: &Label, touched: Timestamp| {
            *deployment == null
                || snapshot.now.duration_since(touched) < KEEP_AFTER_DELETION
                || names.contains(&(Arc::clone(deployment), Arc::clone(flow)))
        };
        self.finished
            .retain(|[deployment, flow, ..], touched| keep(deployment, flow, touched));
        self.retries
            .retain(|[deployment, flow], touched| keep(deployment, flow, touched));
        self.last_runs.retain(|id, last| {
            let recent = |end: &Timestamp| *end >= horizon;
            snapshot.deployments.contains_key(id) || last.ends.values().any(recent)
        });
    }

    fn start_at_zero(&mut self, snapshot: &Snapshot, deployment: &Deployment) {
        let name = deployment.name.label();
        let flow = snapshot.flow_name(deployment.flow_id.as_ref());
        for state in StateType::FINAL {
            let series = [
                Arc::clone(&name),
                Arc::clone(&flow),
                deployment.work_pool_name.label(),
                deployment.work_queue_name.label(),
                Arc::from(state.as_str()),
                Arc::from(state.default_name()),
            ];
            self.finished.add(series, 0, snapshot.now);
        }
        self.retries.add([name, flow], 0, snapshot.now);
    }

    /// Finished runs by deployment, flow, work pool, work queue, state type and state name.
    pub fn finished(&self) -> &Tally<6> {
        &self.finished
    }

    /// Retries by deployment and flow.
    pub fn retries(&self) -> &Tally<2> {
        &self.retries
    }

    /// Finished task runs by task and state type.
    pub fn tasks(&self) -> &Tally<2> {
        &self.tasks
    }

    /// The last runs of each deployment, by its id.
    pub fn last_runs(&self) -> &HashMap<Id, LastRuns> {
        &self.last_runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(run: &str, state: &str, end: Timestamp) -> Finished {
        let json = format!(
            r#"{{"id":"{run}","deployment_id":"d","work_pool_name":"pool","work_queue_name":"queue"}}"#
        );
        Finished {
            run: Arc::new(serde_json::from_str(&json).unwrap()),
            deployment: Arc::from("nightly"),
            flow: Arc::from("etl"),
            state_id: Arc::from(state),
            state_type: StateType::Failed,
            state_name: Arc::from("Failed"),
            end,
            run_time: Some(1.0),
            retries: 2,
            first: true,
        }
    }

    fn total<const N: usize>(tally: &Tally<N>) -> u64 {
        tally.shown().map(|(_, count)| count).sum()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn each_final_state_counts_once_and_a_new_series_is_shown_at_zero_first() {
        let mut ledger = Ledger::new(10);
        assert!(ledger.count(&finished("r", "s1", at(0)), at(0)));
        assert!(!ledger.count(&finished("r", "s1", at(0)), at(0)));
        assert_eq!(total(ledger.finished()), 0);
        ledger.settle();
        assert_eq!((total(ledger.finished()), total(ledger.retries())), (1, 2));
        assert!(ledger.count(&finished("r", "s2", at(5)), at(5)));
        assert_eq!(total(ledger.finished()), 2);
    }

    #[test]
    fn memory_is_bounded_by_what_can_be_read_again_not_by_history() {
        let mut ledger = Ledger::new(10);
        for number in 0..10_000 {
            let run = format!("r{number}");
            ledger.count(&finished(&run, "s", at(number)), at(number));
            ledger.tidy(&Snapshot::default(), at(number - 240));
            assert!(ledger.counted.len() <= 242, "{}", ledger.counted.len());
        }
        ledger.settle();
        assert_eq!(total(ledger.finished()), 10_000);
    }

    #[test]
    fn beyond_the_limit_of_series_nothing_is_lost_but_the_names() {
        let mut ledger = Ledger::new(3);
        for number in 0..5 {
            let mut finished = finished(&format!("r{number}"), "s", at(0));
            finished.state_name = Arc::from(format!("Custom {number}"));
            ledger.count(&finished, at(0));
        }
        ledger.settle();
        assert_eq!(
            (total(ledger.finished()), ledger.finished().overflow()),
            (3, 2)
        );
    }

    #[test]
    fn the_tallies_of_a_deleted_deployment_leave_after_a_week() {
        let mut ledger = Ledger::new(10);
        ledger.count(&finished("r", "s", at(0)), at(0));
        ledger.settle();
        let later = |hours: i64| Snapshot {
            now: at(hours * 3_600),
            ..Snapshot::default()
        };
        ledger.tidy(&later(100), at(0));
        assert_eq!(total(ledger.finished()), 1);
        ledger.tidy(&later(200), at(0));
        assert_eq!(total(ledger.finished()), 0);
    }
}
