//! The counters, one per row. Their names and help texts are in the catalogue.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::events::{Event, FinishedRun, FinishedTask};
use super::tags::TagKeys;
use super::tally::{Label, Saved, Series, Tally, Totals};
use crate::prefect::objects::null;
use crate::prefect::runs::StateType;

/// A counter of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter(usize);

/// Finished flow runs by deployment, flow, work pool, work queue, state type and state name.
pub const FLOW_RUNS_FINISHED: Counter = Counter(0);
/// Retries of finished flow runs by deployment and flow.
pub const FLOW_RUN_RETRIES: Counter = Counter(1);
/// Finished task runs by task and state type.
pub const TASK_RUNS_FINISHED: Counter = Counter(2);

/// The label values of a series.
type Labels = Vec<Label>;

/// How a counter is derived from events.
struct Row {
    /// Its name in a checkpoint.
    name: &'static str,
    /// The number of labels of a series. If the series belong to deployments, the first two are the
    /// names of deployment and flow, and the tag values follow the labels.
    labels: usize,
    of_deployments: bool,
    /// The series that an event adds to, and the amount.
    count: fn(&Event) -> Option<(Labels, u64)>,
    /// The series of a deployment that start at zero, so that `increase()` includes their first
    /// event.
    zeros: fn(&Place) -> Vec<Vec<Label>>,
}

impl Row {
    /// The keys of the tag values that follow the labels of a series.
    fn tag_keys<'a>(&self, keys: &'a TagKeys) -> &'a TagKeys {
        match self.of_deployments {
            true => keys,
            false => &NO_KEYS,
        }
    }
}

static NO_KEYS: TagKeys = TagKeys::none();

const ROWS: [Row; 3] = [
    Row {
        name: "flow_runs_finished",
        labels: 6,
        of_deployments: true,
        count: |event| flow_run(event).map(|run| (finished(run), 1)),
        zeros: |place| StateType::FINAL.map(|state| place.in_state(state)).into(),
    },
    Row {
        name: "flow_run_retries",
        labels: 2,
        of_deployments: true,
        count: |event| {
            flow_run(event).map(|run| (vec![run.deployment.clone(), run.flow.clone()], run.retries))
        },
        zeros: |place| vec![vec![place.deployment.clone(), place.flow.clone()]],
    },
    Row {
        name: "task_runs_finished",
        labels: 2,
        of_deployments: false,
        count: |event| {
            task_run(event).map(|task| (vec![task.task.clone(), state(task.state_type)], 1))
        },
        zeros: |_| Vec::new(),
    },
];

/// The labels of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) deployment: Label,
    pub(super) flow: Label,
    pub(super) work_pool: Label,
    pub(super) work_queue: Label,
    /// The values of its tags, one per key.
    pub(super) tags: Series,
}

impl Place {
    fn in_state(&self, state_type: StateType) -> Vec<Label> {
        vec![
            self.deployment.clone(),
            self.flow.clone(),
            self.work_pool.clone(),
            self.work_queue.clone(),
            state(state_type),
            Arc::from(state_type.default_name()),
        ]
    }
}

fn flow_run(event: &Event) -> Option<&FinishedRun> {
    match event {
        Event::FlowRun(run) => Some(run),
        Event::TaskRun(_) => None,
    }
}

fn task_run(event: &Event) -> Option<&FinishedTask> {
    match event {
        Event::TaskRun(task) => Some(task),
        Event::FlowRun(_) => None,
    }
}

fn state(state_type: StateType) -> Label {
    Arc::from(state_type.as_str())
}

fn finished(run: &FinishedRun) -> Vec<Label> {
    vec![
        run.deployment.clone(),
        run.flow.clone(),
        run.run.work_pool_name.label(),
        run.run.work_queue_name.label(),
        state(run.state_type),
        run.state_name.clone(),
    ]
}

/// The exported values of every counter.
#[derive(Debug, Clone, Default)]
pub struct AllTotals([Arc<Totals>; ROWS.len()]);

impl AllTotals {
    /// The exported values of a counter.
    pub fn of(&self, counter: Counter) -> &Arc<Totals> {
        // A `Counter` is one of the constants above.
        self.0.get(counter.0).unwrap_or(&self.0[0])
    }
}

/// The tallies of all counters.
#[derive(Debug)]
pub(super) struct Counters {
    tallies: [Tally; ROWS.len()],
    tag_keys: TagKeys,
}

/// The counters in a checkpoint, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedCounters(std::collections::BTreeMap<String, Saved>);

impl Counters {
    /// Counters with at most `limit` series each; the series of deployments have values for
    /// `tag_keys`.
    pub(super) fn new(limit: usize, tag_keys: TagKeys) -> Self {
        Counters {
            tag_keys,
            tallies: std::array::from_fn(|_| Tally::new(limit)),
        }
    }

    fn rows(&mut self) -> impl Iterator<Item = (&'static Row, &mut Tally)> {
        ROWS.iter().zip(&mut self.tallies)
    }

    /// Counts an event. If it is the first of a series, the series begins at `now`.
    pub(super) fn count(&mut self, event: &Event, now: Timestamp) {
        for (row, tally) in self.rows() {
            if let Some((mut series, amount)) = (row.count)(event) {
                series.extend_from_slice(event.tags());
                tally.add(&series, amount, now);
            }
        }
    }

    /// Starts the series of a deployment at zero; `true` if one of them is new.
    pub(super) fn start_at_zero(&mut self, place: &Place, now: Timestamp) -> bool {
        let mut new = false;
        for (row, tally) in self.rows() {
            for mut series in (row.zeros)(place) {
                series.extend_from_slice(&place.tags);
                new |= tally.add(&series, 0, now);
            }
        }
        new
    }

    /// The values for the state with this number, given that those up to `delivered` have been
    /// delivered; and whether any value has grown since the last state.
    pub(super) fn show(&mut self, number: u64, delivered: u64) -> (AllTotals, bool) {
        let mut any = false;
        let totals = self.tallies.each_mut().map(|tally| {
            let (totals, grows) = tally.show(number, delivered);
            any |= grows;
            totals
        });
        (AllTotals(totals), any)
    }

    /// From the next state on, every series is exported with its total.
    pub(super) fn release(&mut self) {
        self.tallies.iter_mut().for_each(Tally::release);
    }

    /// Drops the series of deployments that have not been among `places`, with the same tags, for
    /// `keep`.
    pub(super) fn prune(&mut self, uptime: Duration, keep: Duration, places: &HashSet<Place>) {
        let null = null();
        let known: HashSet<_> = places
            .iter()
            .map(|place| (&place.deployment, &place.flow, &*place.tags))
            .collect();
        for (row, tally) in self.rows().filter(|(row, _)| row.of_deployments) {
            tally.prune(uptime, keep, |series: &[Label]| match series {
                [deployment, flow, ..] => {
                    let tags = series.get(row.labels..).unwrap_or_default();
                    *deployment == null || known.contains(&(deployment, flow, tags))
                }
                _ => true,
            });
        }
    }

    /// The counters, for a checkpoint. Start times equal to `start` are omitted.
    pub(super) fn save(&self, uptime: Duration, start: Timestamp) -> SavedCounters {
        let save = |(row, tally): (&Row, &Tally)| {
            let saved = tally.save(uptime, row.labels, row.tag_keys(&self.tag_keys), start);
            (row.name.to_owned(), saved)
        };
        SavedCounters(ROWS.iter().zip(&self.tallies).map(save).collect())
    }

    /// Restores the counters of a checkpoint. Series without a start time began at `start`.
    pub(super) fn restore(&mut self, mut saved: SavedCounters, start: Timestamp) {
        for (row, tally) in ROWS.iter().zip(&mut self.tallies) {
            if let Some(saved) = saved.0.remove(row.name) {
                tally.restore(saved, row.labels, row.tag_keys(&self.tag_keys), start);
            }
        }
    }
}
