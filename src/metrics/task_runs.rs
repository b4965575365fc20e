//! Families of task runs; `TASK_RUNS_ENABLED` turns them on.

use super::compatible::STATE_TYPE;
use super::{Buckets, Family};

const TASK_NAME: &str = "task.name";

/// Duration of task runs.
pub const DURATION: Family = Family::histogram(
    "prefect.task_run.duration",
    "Time that finished task runs were running (TASK_RUNS_ENABLED).",
    &[TASK_NAME, STATE_TYPE],
    Buckets::RunDuration,
);

pub(super) const FAMILIES: &[Family] = &[
    Family::counter(
        "prefect.task_runs.finished",
        "{run}",
        "Task runs that reached a final state, each once (TASK_RUNS_ENABLED).",
        &[TASK_NAME, STATE_TYPE],
        |view, points| {
            if view.has_counted() {
                points.add_tally(view.ledger.tasks());
            }
        },
    ),
    DURATION,
];
