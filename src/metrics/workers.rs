//! Families of workers.

use super::compatible::{WORK_POOL_NAME, WORKER_NAME};
use super::points::unix_seconds;
use super::{Family, Points, View};
use crate::core::sections::Section;

pub(super) const FAMILIES: &[Family] = &[
    Family::gauge(
        "prefect.worker.status",
        "",
        "1 for each worker, with its status: ONLINE or OFFLINE. Workers silent for more than a day are left out.",
        &[WORK_POOL_NAME, WORKER_NAME, "worker.status"],
        &[Section::Workers],
        |view, points| {
            for worker in view.snapshot.inventory.workers.iter() {
                let (pool, name) = (worker.work_pool_name.label(), worker.name.label());
                points.set([pool, name, worker.status.label()], 1.0);
            }
        },
    ),
    Family::gauge(
        "prefect.worker.last_heartbeat.time",
        "s",
        "When each worker last said that it is there, as Unix time. Workers silent for more than a day are left out.",
        &[WORK_POOL_NAME, WORKER_NAME],
        &[Section::Workers],
        last_heartbeat,
    ),
];

fn last_heartbeat(view: &View<'_>, points: &mut Points<'_>) {
    for worker in view.snapshot.inventory.workers.iter() {
        if let Some(time) = worker.last_heartbeat_time {
            let (pool, name) = (worker.work_pool_name.label(), worker.name.label());
            points.set([pool, name], unix_seconds(time));
        }
    }
}
