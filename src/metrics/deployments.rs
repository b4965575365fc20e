//! Families of deployments.

use std::sync::Arc;

use super::compatible::{
    self, DEPLOYMENT_NAME, FLOW_NAME, STATUS, WORK_POOL_NAME, WORK_QUEUE_NAME, family,
};
use super::points::unix_seconds;
use super::{Family, Points, View};
use crate::snapshot::{Field, FlowRun, Section, StateType};

pub(super) const FAMILIES: &[Family] = &[
    family(
        "prefect.deployments.total",
        "Number of deployments.",
        &[],
        &[Section::Deployments],
        |view, points| points.set([], view.snapshot.deployments.len() as f64),
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
        "When the next run of each deployment is to start, as Unix time. Within SCHEDULED_LOOKAHEAD_MINUTES; late runs do not count.",
        &[DEPLOYMENT_NAME, FLOW_NAME],
        &[Section::ScheduledRuns, Section::Deployments, Section::Flows],
        next_run,
    ),
];

fn info(view: &View<'_>, points: &mut Points) {
    for deployment in view.snapshot.deployments.values() {
        let is_schedule_active = match deployment.paused {
            Field::Value(paused) => compatible::boolean(!paused),
            Field::Absent | Field::Null => compatible::null(),
        };
        let labels: [Arc<str>; 9] = [
            compatible::text(&deployment.name),
            compatible::flow_name(view.snapshot, deployment.flow_id.as_ref()),
            is_schedule_active,
            compatible::text(&deployment.path),
            compatible::truth(&deployment.paused),
            compatible::text(&deployment.status),
            compatible::tags(&deployment.tags),
            compatible::text(&deployment.work_pool_name),
            compatible::text(&deployment.work_queue_name),
        ];
        points.set(labels, 1.0);
    }
}

fn next_run(view: &View<'_>, points: &mut Points) {
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
    // The earliest is set last.
    runs.sort_unstable_by_key(|(start, _)| std::cmp::Reverse(*start));
    for (start, run) in runs {
        let (deployment, flow) = compatible::names(view.snapshot, run);
        points.set([deployment, flow], unix_seconds(start));
    }
}
