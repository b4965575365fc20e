//! Families of task runs, enabled by `TASK_RUNS_ENABLED`.

use std::sync::Arc;

use super::compatible::STATE_TYPE;
use super::{Buckets, Family};
use crate::core::counters::TASK_RUNS_FINISHED;
use crate::core::events::Event;

const TASK_NAME: &str = "task_name";

pub(super) const FAMILIES: &[Family] = &[
    Family::counted(
        "prefect.task_runs.finished",
        "{run}",
        "Number of task runs that reached a terminal state. Requires TASK_RUNS_ENABLED.",
        &[TASK_NAME, STATE_TYPE],
        TASK_RUNS_FINISHED,
    ),
    Family::histogram(
        "prefect.task_run.duration",
        "Run time of finished task runs, over all attempts. Requires TASK_RUNS_ENABLED.",
        &[TASK_NAME, STATE_TYPE],
        Buckets::RunDuration,
        |event| match event {
            Event::TaskRun(task) => {
                let state = Arc::from(task.state_type.as_str());
                Some((vec![task.task.clone(), state], task.run_time?))
            }
            Event::FlowRun(_) => None,
        },
    ),
];
