//! Families of work pools.

use super::Family;
use super::compatible::{self, IS_PAUSED, SLOT_KIND, STATUS, TYPE, WORK_POOL_NAME, family};
use super::points::slots;
use crate::core::sections::Section;

pub(super) const FAMILIES: &[Family] = &[
    family(
        "prefect.work_pools.total",
        "Number of work pools.",
        &[],
        &[Section::WorkPools],
        |view, points| points.set([], view.snapshot.inventory.work_pools.len() as f64),
    ),
    family(
        "prefect.info.work_pools",
        "0 for each paused work pool, 1 for every other one.",
        &[IS_PAUSED, TYPE, STATUS, WORK_POOL_NAME],
        &[Section::WorkPools],
        |view, points| {
            for pool in view.snapshot.inventory.work_pools.iter() {
                let labels = [
                    compatible::truth(&pool.is_paused),
                    pool.kind.label(),
                    pool.status.label(),
                    pool.name.label(),
                ];
                points.set(labels, compatible::unless_paused(&pool.is_paused));
            }
        },
    ),
    Family::gauge(
        "prefect.work_pool.slots",
        "{slot}",
        "Slots of each work pool with a concurrency limit: the limit (limit) and the slots in use (active).",
        &[WORK_POOL_NAME, SLOT_KIND],
        &[Section::WorkPools],
        |view, points| {
            for pool in view.snapshot.inventory.work_pools.iter() {
                for (kind, slots) in slots(pool.concurrency_limit, pool.active_slots) {
                    points.set([pool.name.label(), kind], slots);
                }
            }
        },
    ),
];
