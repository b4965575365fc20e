//! Families of work queues.
//!
//! The server reports a queue's health only per queue, with one request each, so its rule is
//! applied here instead. Source: `read_work_queue_status` and `WorkQueueHealthPolicy` in Prefect's
//! server, unchanged since 3.0.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::SignedDuration;

use super::compatible::{
    self, IS_PAUSED, SLOT_KIND, STATUS, TYPE, WORK_POOL_NAME, WORK_QUEUE_NAME, family,
};
use super::points::{slots, unix_seconds};
use super::{Family, Points, View};
use crate::core::sections::Section;
use crate::prefect::objects::WorkQueue;

/// More late runs than this make a queue unhealthy.
const MAXIMUM_LATE_RUNS: i64 = 0;
/// A last poll longer ago than this makes a queue unhealthy.
const MAXIMUM_SECONDS_SINCE_LAST_POLLED: i64 = 60;

const LABELS: &[&str] = &[
    IS_PAUSED,
    WORK_QUEUE_NAME,
    "priority",
    TYPE,
    WORK_POOL_NAME,
    STATUS,
    "healthy",
    "health_check_policy_maximum_late_runs",
    "health_check_policy_maximum_seconds_since_last_polled",
];

pub(super) const FAMILIES: &[Family] = &[
    family(
        "prefect.work_queues.total",
        "Number of work queues.",
        &[],
        &[Section::WorkQueues],
        |view, points| points.set([], view.snapshot.inventory.work_queues.len() as f64),
    ),
    family(
        "prefect.info.work_queues",
        "0 for each paused work queue, 1 for every other one.",
        LABELS,
        &[Section::WorkQueues, Section::ScheduledRuns],
        |view, points| {
            let late_runs = late_runs(view);
            for queue in view.snapshot.inventory.work_queues.iter() {
                let late_runs = late_runs_of(queue, &late_runs);
                let labels = labels(view, queue, late_runs);
                points.set(labels, compatible::unless_paused(&queue.is_paused));
            }
        },
    ),
    family(
        "prefect.work_queues.late_runs_count",
        "Number of late flow runs in each work queue.",
        LABELS,
        &[Section::WorkQueues, Section::ScheduledRuns],
        |view: &View<'_>, points: &mut Points<'_>| {
            let late_runs = late_runs(view);
            for queue in view.snapshot.inventory.work_queues.iter() {
                let late_runs = late_runs_of(queue, &late_runs);
                points.add(labels(view, queue, late_runs), f64::from(late_runs));
            }
        },
    ),
    Family::gauge(
        "prefect.work_queue.slots",
        "{slot}",
        "Slots of each work queue with a concurrency limit: the limit (limit) and the slots in use (active).",
        &[WORK_POOL_NAME, WORK_QUEUE_NAME, SLOT_KIND],
        &[Section::WorkQueues],
        |view, points| {
            for queue in view.snapshot.inventory.work_queues.iter() {
                for (kind, slots) in slots(queue.concurrency_limit, queue.active_slots) {
                    let pool = queue.work_pool_name.label();
                    points.set([pool, queue.name.label(), kind], slots);
                }
            }
        },
    ),
    Family::gauge(
        "prefect.work_queue.last_polled.time",
        "s",
        "Time at which a worker last polled each work queue, as Unix time.",
        &[WORK_POOL_NAME, WORK_QUEUE_NAME],
        &[Section::WorkQueues],
        |view, points| {
            for queue in view.snapshot.inventory.work_queues.iter() {
                if let Some(polled) = queue.last_polled {
                    let pool = queue.work_pool_name.label();
                    points.set([pool, queue.name.label()], unix_seconds(polled));
                }
            }
        },
    ),
];

/// Number of late runs by work queue id.
fn late_runs(view: &View<'_>) -> HashMap<Arc<str>, u32> {
    let mut count = HashMap::new();
    for run in view.snapshot.unfinished.iter().filter(|run| run.is_late()) {
        if let Some(queue) = &run.work_queue_id {
            let runs: &mut u32 = count.entry(Arc::clone(queue)).or_default();
            *runs = runs.saturating_add(1);
        }
    }
    count
}

fn late_runs_of(queue: &WorkQueue, late_runs: &HashMap<Arc<str>, u32>) -> u32 {
    late_runs.get(&queue.id).copied().unwrap_or_default()
}

fn labels(view: &View<'_>, queue: &WorkQueue, late_runs: u32) -> [Arc<str>; 9] {
    let longest = SignedDuration::from_secs(MAXIMUM_SECONDS_SINCE_LAST_POLLED);
    let read = view.snapshot.read_time(Section::WorkQueues);
    let polled = queue
        .last_polled
        .is_some_and(|polled| read.duration_since(polled) <= longest);
    [
        compatible::truth(&queue.is_paused),
        queue.name.label(),
        compatible::number(&queue.priority),
        // Work queues have no type in the API, but the Python exporter has the label.
        crate::prefect::objects::null(),
        queue.work_pool_name.label(),
        queue.status.label(),
        compatible::boolean(i64::from(late_runs) <= MAXIMUM_LATE_RUNS && polled),
        Arc::from(MAXIMUM_LATE_RUNS.to_string()),
        Arc::from(MAXIMUM_SECONDS_SINCE_LAST_POLLED.to_string()),
    ]
}
