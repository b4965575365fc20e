//! Families of deployments.

use std::sync::Arc;

use super::compatible::{
    self, DEPLOYMENT_NAME, FLOW_NAME, STATE_TYPE, STATUS, WORK_POOL_NAME, WORK_QUEUE_NAME, family,
};
use super::points::unix_seconds;
use super::{Family, Points, View};
use crate::core::sections::Section;
use crate::core::snapshot::LastRuns;
use crate::prefect::objects::Field;
use crate::prefect::runs::{FlowRun, StateType};

pub(super) const FAMILIES: &[Family] = &[
    family(
        "prefect.deployments.total",
        "Number of deployments.",
        &[],
        &[Section::Deployments],
        |view, points| points.set([], view.snapshot.inventory.deployments.len() as f64),
    ),
    family(
        "prefect.info.deployment",
        "1 for each deployment.",
        &[
            DEPLOYMENT_NAME,
            FLOW_NAME,
            "is_schedule_active",
            "path",
            "paused",
            STATUS,
            "tags",
            WORK_POOL_NAME,
            WORK_QUEUE_NAME,
        ],
        &[Section::Deployments, Section::Flows],
        info,
    ),
    Family::gauge(
        "prefect.deployment.next_run.time",
        "s",
        "Scheduled start time of the next run of each deployment within SCHEDULED_LOOKAHEAD_MINUTES, as Unix time. Late runs are ignored.",
        &[DEPLOYMENT_NAME, FLOW_NAME],
        &[Section::ScheduledRuns, Section::Deployments, Section::Flows],
        next_run,
    ),
    Family::gauge(
        "prefect.deployment.last_run.time",
        "s",
        "End time of the last run of each deployment, by terminal state type, as Unix time. Absent until the agent has seen such a run. With STATE_DIR, it is kept across restarts.",
        &[DEPLOYMENT_NAME, FLOW_NAME, STATE_TYPE],
        &[Section::FinishedRuns, Section::Deployments, Section::Flows],
        |view, points| {
            for ([deployment, flow], last) in last_runs(view) {
                for (state, end) in &last.ends {
                    let state = Arc::from(state.as_str());
                    let series = [Arc::clone(&deployment), Arc::clone(&flow), state];
                    points.set(series, unix_seconds(*end));
                }
            }
        },
    ),
    Family::gauge(
        "prefect.deployment.last_run.duration",
        "s",
        "Run time of the last finished run of each deployment.",
        &[DEPLOYMENT_NAME, FLOW_NAME],
        &[Section::FinishedRuns, Section::Deployments, Section::Flows],
        |view, points| {
            for (names, last) in last_runs(view) {
                if let Some((_, Some(seconds))) = last.last {
                    points.set(names, seconds);
                }
            }
        },
    ),
];

/// The last runs of each deployment, by deployment name and flow name.
fn last_runs<'a>(view: &'a View<'_>) -> impl Iterator<Item = ([Arc<str>; 2], &'a LastRuns)> {
    let snapshot = view.snapshot;
    view.last_runs.iter().filter_map(move |(id, last)| {
        let deployment = snapshot.inventory.deployments.get(id)?;
        let flow = snapshot.flow_name(deployment.flow_id.as_ref());
        Some(([deployment.name.label(), flow], last))
    })
}

fn info(view: &View<'_>, points: &mut Points<'_>) {
    for deployment in view.snapshot.inventory.deployments.values() {
        let is_schedule_active = match deployment.paused {
            Field::Value(paused) => compatible::boolean(!paused),
            Field::Absent | Field::Null => crate::prefect::objects::null(),
        };
        let labels: [Arc<str>; 9] = [
            deployment.name.label(),
            view.snapshot.flow_name(deployment.flow_id.as_ref()),
            is_schedule_active,
            deployment.path.label(),
            compatible::truth(&deployment.paused),
            deployment.status.label(),
            compatible::tags(&deployment.tags),
            deployment.work_pool_name.label(),
            deployment.work_queue_name.label(),
        ];
        points.set(labels, 1.0);
    }
}

fn next_run(view: &View<'_>, points: &mut Points<'_>) {
    let waiting = |run: &&Arc<FlowRun>| {
        run.state_type == Some(StateType::Scheduled) && run.start_time.is_none() && !run.is_late()
    };
    let mut runs: Vec<_> = view
        .snapshot
        .unfinished
        .iter()
        .filter(waiting)
        .filter(|run| run.deployment_id.is_some())
        .filter_map(|run| Some((run.next_scheduled_start_time?, run)))
        .collect();
    // `set` keeps the last value: the earliest start.
    runs.sort_unstable_by_key(|(start, _)| std::cmp::Reverse(*start));
    for (start, run) in runs {
        let (deployment, flow) = view.snapshot.names(run);
        points.set([deployment, flow], unix_seconds(start));
    }
}
