//! Families of concurrency limits.

use std::sync::Arc;

use super::compatible::SLOT_KIND;
use super::points::slots;
use super::{Family, Points, View};
use crate::core::sections::Section;

/// The prefix of tag-based limits in the list of global limits.
const TAG_PREFIX: &str = "tag:";

pub(super) const FAMILIES: &[Family] = &[Family::gauge(
    "prefect.concurrency_limit.slots",
    "{slot}",
    "Slots of each concurrency limit, global or tag-based: the limit (limit) and the slots in use (active).",
    &[
        "concurrency_limit_name",
        "concurrency_limit_kind",
        SLOT_KIND,
    ],
    &[Section::ConcurrencyLimits],
    read,
)];

fn read(view: &View<'_>, points: &mut Points<'_>) {
    for limit in view.snapshot.inventory.global_limits.iter() {
        let name = limit.name.label();
        if name.starts_with(TAG_PREFIX) {
            // It is also in the list of tag-based limits.
            continue;
        }
        for (kind, count) in slots(limit.limit, limit.active_slots) {
            points.set([Arc::clone(&name), Arc::from("global"), kind], count);
        }
    }
    for limit in view.snapshot.inventory.tag_limits.iter() {
        for (kind, count) in slots(limit.concurrency_limit, limit.active_slots) {
            points.set([limit.tag.label(), Arc::from("tag"), kind], count);
        }
    }
}
