//! Families of flow runs.

use std::collections::HashMap;
use std::sync::Arc;

use super::compatible::{
    DEPLOYMENT_NAME, FLOW_NAME, FLOW_RUN_NAME, LAST_FAILED_FLOW_RUN, STATE_NAME, STATE_TYPE,
    WORK_POOL_NAME, WORK_QUEUE_NAME, family,
};
use super::points::unix_seconds;
use super::{Buckets, Family, Points, View};
use crate::core::clock::before;
use crate::core::counters::{FLOW_RUN_RETRIES, FLOW_RUNS_FINISHED};
use crate::core::events::Event;
use crate::core::sections::Section;
use crate::prefect::objects::null;
use crate::prefect::runs::{FlowRun, StateType};

const FINISHED: &[Section] = &[Section::FinishedRuns, Section::Deployments, Section::Flows];
const UNFINISHED: &[Section] = &[
    Section::ActiveRuns,
    Section::ScheduledRuns,
    Section::Deployments,
    Section::Flows,
];
const ALL: &[Section] = &[
    Section::ActiveRuns,
    Section::ScheduledRuns,
    Section::FinishedRuns,
    Section::Deployments,
    Section::Flows,
];
const FAILED: &[Section] = &[Section::FailedRuns, Section::Deployments, Section::Flows];
/// What a run belongs to, and its state.
const PLACE_AND_STATE: &[&str] = &[
    DEPLOYMENT_NAME,
    FLOW_NAME,
    WORK_POOL_NAME,
    WORK_QUEUE_NAME,
    STATE_TYPE,
    STATE_NAME,
];
const FAILED_LABELS: &[&str] = &[DEPLOYMENT_NAME, FLOW_NAME, "last_failed_run_id", STATE_NAME];
const FAILED_HELP: &str = "1 for each of the newest FAILED_RUNS_LIMIT failed or crashed runs per deployment, flow and state name, among those that started within FAILED_RUNS_OFFSET_MINUTES.";

pub(super) const FAMILIES: &[Family] = &[
    family(
        "prefect.flow_runs.total",
        "Number of flow runs that ended within OFFSET_MINUTES.",
        &[],
        &[Section::FinishedRuns],
        |view, points| points.set([], ended_in_window(view).count() as f64),
    ),
    family(
        "prefect.flow_runs.total_run_time",
        "Run time, in seconds, of the last flow run of each deployment and flow that ended within OFFSET_MINUTES.",
        &[DEPLOYMENT_NAME, FLOW_NAME],
        FINISHED,
        total_run_time,
    ),
    family(
        "prefect.flow_runs.ongoing_run_time",
        "Seconds since the start of each flow run that has started and not ended.",
        &[
            DEPLOYMENT_NAME,
            FLOW_NAME,
            STATE_NAME,
            "flow_run_id",
            FLOW_RUN_NAME,
        ],
        UNFINISHED,
        ongoing_run_time,
    ),
    family(
        "prefect.info.flow_runs",
        "Number of flow runs, in any state, whose actual or expected start time is within OFFSET_MINUTES or in the future.",
        &[
            DEPLOYMENT_NAME,
            FLOW_NAME,
            STATE_NAME,
            WORK_QUEUE_NAME,
            FLOW_RUN_NAME,
        ],
        ALL,
        info,
    )
    .lingering(),
    family(
        "prefect.deployment.failed_flow_runs",
        FAILED_HELP,
        FAILED_LABELS,
        FAILED,
        failed,
    ),
    family(
        LAST_FAILED_FLOW_RUN,
        "The series of prefect_deployment_failed_flow_runs under another name. Exported only if METRICS_INCLUDE matches this one.",
        FAILED_LABELS,
        FAILED,
        failed,
    ),
    Family::gauge(
        "prefect.flow_runs.active",
        "{run}",
        "Number of active flow runs: pending, running, paused, cancelling or awaiting retry.",
        PLACE_AND_STATE,
        UNFINISHED,
        active,
    )
    .lingering(),
    Family::gauge(
        "prefect.flow_runs.late",
        "{run}",
        "Number of late flow runs, as determined by the server.",
        &[DEPLOYMENT_NAME, FLOW_NAME, WORK_POOL_NAME, WORK_QUEUE_NAME],
        UNFINISHED,
        late,
    )
    .lingering(),
    Family::gauge(
        "prefect.flow_runs.oldest_pending.time",
        "s",
        "Time at which the flow run that has been pending the longest became pending, as Unix time.",
        &[DEPLOYMENT_NAME, FLOW_NAME, WORK_POOL_NAME, WORK_QUEUE_NAME],
        UNFINISHED,
        oldest_pending,
    ),
    Family::gauge(
        "prefect.flow_runs.by_state",
        "{run}",
        "Number of flow runs of the last 24 hours by state, as counted by the server.",
        &[STATE_TYPE, STATE_NAME],
        &[Section::RunHistory],
        by_state,
    )
    .lingering(),
    Family::counted(
        "prefect.flow_runs.finished",
        "{run}",
        "Number of flow runs that reached a terminal state. A run that is retried manually counts again when it ends again.",
        PLACE_AND_STATE,
        FLOW_RUNS_FINISHED,
    ),
    Family::counted(
        "prefect.flow_runs.retries",
        "{retry}",
        "Number of retries, automatic and manual, of finished flow runs.",
        &[DEPLOYMENT_NAME, FLOW_NAME],
        FLOW_RUN_RETRIES,
    ),
    Family::histogram(
        "prefect.flow_run.duration",
        "Run time of finished flow runs, over all attempts.",
        &[DEPLOYMENT_NAME, FLOW_NAME, STATE_TYPE],
        Buckets::RunDuration,
        |event| match event {
            Event::FlowRun(run) => {
                let state = Arc::from(run.state_type.as_str());
                Some((
                    vec![run.deployment.clone(), run.flow.clone(), state],
                    run.run_time?,
                ))
            }
            Event::TaskRun(_) => None,
        },
    ),
    Family::histogram(
        "prefect.flow_run.start_delay",
        "Time from the expected to the actual start of finished flow runs; 0 if a run started early.",
        &[DEPLOYMENT_NAME, FLOW_NAME, WORK_POOL_NAME],
        Buckets::StartDelay,
        |event| match event {
            Event::FlowRun(run) => {
                let pool = run.run.work_pool_name.label();
                Some((
                    vec![run.deployment.clone(), run.flow.clone(), pool],
                    run.start_delay()?,
                ))
            }
            Event::TaskRun(_) => None,
        },
    ),
];

fn ended_in_window<'a>(view: &'a View<'_>) -> impl Iterator<Item = &'a Arc<FlowRun>> {
    let since = view.window_start();
    view.snapshot
        .finished
        .iter()
        .filter(move |run| run.end_time.is_some_and(|end| end >= since))
}

fn total_run_time(view: &View<'_>, points: &mut Points<'_>) {
    // `set` keeps the last value: that of the run that ended last.
    let mut runs: Vec<_> = ended_in_window(view).collect();
    runs.sort_unstable_by_key(|run| (run.end_time, Arc::clone(&run.id)));
    for run in runs {
        if let Some(seconds) = run.total_run_time {
            let (deployment, flow) = view.snapshot.names(run);
            points.set([deployment, flow], seconds);
        }
    }
}

fn ongoing_run_time(view: &View<'_>, points: &mut Points<'_>) {
    const TYPES: [StateType; 3] = [StateType::Running, StateType::Pending, StateType::Scheduled];
    for run in view.snapshot.unfinished.iter() {
        let (Some(start), None) = (run.start_time, run.end_time) else {
            continue;
        };
        if !run.state_type.is_some_and(|state| TYPES.contains(&state)) {
            continue;
        }
        let (deployment, flow) = view.snapshot.names(run);
        let seconds = view
            .snapshot
            .now
            .duration_since(start)
            .as_secs_f64()
            .max(0.0);
        let labels = [
            deployment,
            flow,
            run.state_name.label(),
            Arc::clone(&run.id),
            run.name.label(),
        ];
        points.set(labels, seconds);
    }
}

fn info(view: &View<'_>, points: &mut Points<'_>) {
    let since = view.window_start();
    for run in view
        .snapshot
        .unfinished
        .iter()
        .chain(view.snapshot.finished.iter())
    {
        if run.started_or_expected().is_none_or(|start| start < since) {
            continue;
        }
        let (deployment, flow) = view.snapshot.names(run);
        let labels = [
            deployment,
            flow,
            run.state_name.label(),
            run.work_queue_name.label(),
            run.name.label(),
        ];
        points.add(labels, 1.0);
    }
}

fn failed(view: &View<'_>, points: &mut Points<'_>) {
    let mut groups: HashMap<_, Vec<&Arc<FlowRun>>> = HashMap::new();
    for run in view.snapshot.failed.iter() {
        let key = (&run.deployment_id, &run.flow_id, run.state_name.value());
        groups.entry(key).or_default().push(run);
    }
    for mut runs in groups.into_values() {
        runs.sort_unstable_by_key(|run| std::cmp::Reverse((run.started_or_expected(), &run.id)));
        for run in runs.into_iter().take(view.options.failed_runs_limit) {
            let (deployment, flow) = view.snapshot.names(run);
            let labels = [
                deployment,
                flow,
                Arc::clone(&run.id),
                run.state_name.label(),
            ];
            points.set(labels, 1.0);
        }
    }
}

fn active(view: &View<'_>, points: &mut Points<'_>) {
    for run in view.snapshot.unfinished.iter() {
        // A scheduled run that has a start time is awaiting retry.
        let Some(state) = run
            .state_type
            .filter(|state| StateType::ACTIVE.contains(state) || run.start_time.is_some())
        else {
            continue;
        };
        let [deployment, flow, pool, queue] = places(view, run);
        let (kind, name) = (Arc::from(state.as_str()), run.state_name.label());
        points.add([deployment, flow, pool, queue, kind, name], 1.0);
    }
}

fn late(view: &View<'_>, points: &mut Points<'_>) {
    for run in view.snapshot.unfinished.iter().filter(|run| run.is_late()) {
        points.add(places(view, run), 1.0);
    }
}

fn oldest_pending(view: &View<'_>, points: &mut Points<'_>) {
    let runs = view.snapshot.unfinished.iter();
    let pending = runs.filter(|run| run.state_type == Some(StateType::Pending));
    let mut pending: Vec<_> = pending
        .filter_map(|run| Some((run.state_time?, run)))
        .collect();
    // `set` keeps the last value: the oldest.
    pending.sort_unstable_by_key(|(since, _)| std::cmp::Reverse(*since));
    for (since, run) in pending {
        points.set(places(view, run), unix_seconds(since));
    }
}

fn by_state(view: &View<'_>, points: &mut Points<'_>) {
    for count in view.snapshot.inventory.run_history.iter() {
        let kind = count
            .state_type
            .map_or_else(null, |kind| Arc::from(kind.as_str()));
        points.add([kind, count.state_name.label()], count.count_runs as f64);
    }
}

/// What a run belongs to: deployment, flow, work pool and work queue.
fn places(view: &View<'_>, run: &FlowRun) -> [Arc<str>; 4] {
    let (deployment, flow) = view.snapshot.names(run);
    [
        deployment,
        flow,
        run.work_pool_name.label(),
        run.work_queue_name.label(),
    ]
}

impl View<'_> {
    /// The start of the window of `OFFSET_MINUTES`.
    fn window_start(&self) -> jiff::Timestamp {
        before(self.snapshot.now, self.options.offset)
    }
}
