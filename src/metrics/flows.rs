//! Families of flows.

use super::Family;
use super::compatible::{FLOW_NAME, family};
use crate::core::sections::Section;

pub(super) const FAMILIES: &[Family] = &[
    family(
        "prefect.flows.total",
        "Number of flows.",
        &[],
        &[Section::Flows],
        |view, points| points.set([], view.snapshot.inventory.flows.len() as f64),
    ),
    family(
        "prefect.info.flows",
        "1 for each flow.",
        &[FLOW_NAME],
        &[Section::Flows],
        |view, points| {
            for flow in view.snapshot.inventory.flows.values() {
                points.set([flow.name.label()], 1.0);
            }
        },
    ),
];
