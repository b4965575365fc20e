//! Families of deployments.

use std::sync::Arc;

use super::compatible::{
    self, DEPLOYMENT_NAME, FLOW_NAME, STATUS, WORK_POOL_NAME, WORK_QUEUE_NAME, family,
};
use super::{Family, Points, View};
use crate::snapshot::{Field, Section};

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
