//! Families of workers.

use std::sync::Arc;

use super::compatible::{WORK_POOL_NAME, WORKER_NAME};
use super::points::unix_seconds;
use super::{Family, Points, View};
use crate::core::sections::Section;

/// The statuses that Prefect defines: `WorkerStatus` in `server/schemas/statuses.py`.
const STATUSES: [&str; 2] = ["ONLINE", "OFFLINE"];

pub(super) const FAMILIES: &[Family] = &[
    Family::gauge(
        "prefect.worker.status",
        "",
        "1 for the current status of each worker (ONLINE or OFFLINE), 0 for the other status. Workers without a heartbeat for more than a day are left out.",
        &[WORK_POOL_NAME, WORKER_NAME, "worker_status"],
        &[Section::Workers],
        status,
    ),
    Family::gauge(
        "prefect.worker.last_heartbeat.time",
        "s",
        "Time of the last heartbeat of each worker, as Unix time. Workers without a heartbeat for more than a day are left out.",
        &[WORK_POOL_NAME, WORKER_NAME],
        &[Section::Workers],
        last_heartbeat,
    ),
];

/// A state set, as OpenMetrics defines it: at most one status of a worker is 1 at any time, even in
/// a receiver that still has a series that has ended.
/// <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md#stateset>
fn status(view: &View<'_>, points: &mut Points<'_>) {
    for worker in view.snapshot.inventory.workers.iter() {
        let status = worker.status.label();
        let mut set = |status: Arc<str>, value| {
            let (pool, name) = (worker.work_pool_name.label(), worker.name.label());
            points.set([pool, name, status], value);
        };
        for known in STATUSES.into_iter().filter(|known| **known != *status) {
            set(Arc::from(known), 0.0);
        }
        set(status, 1.0);
    }
}

fn last_heartbeat(view: &View<'_>, points: &mut Points<'_>) {
    for worker in view.snapshot.inventory.workers.iter() {
        if let Some(time) = worker.last_heartbeat_time {
            let (pool, name) = (worker.work_pool_name.label(), worker.name.label());
            points.set([pool, name], unix_seconds(time));
        }
    }
}
