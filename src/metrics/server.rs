//! Families of the Prefect server itself.

use std::sync::Arc;

use super::Family;
use crate::core::sections::Section;

pub(super) const FAMILIES: &[Family] = &[
    // No cycle, no answer; a cycle that failed is one.
    Family::gauge(
        "prefect.up",
        "",
        "1 if the last cycle could read Prefect, else 0. 0 too once no cycle has ended for three intervals.",
        &[],
        &[],
        |view, points| {
            if view.agent.cycles.any() {
                points.set([], if view.snapshot.up { 1.0 } else { 0.0 });
            }
        },
    ),
    Family::gauge(
        "prefect.server.info",
        "",
        "1, with the version of the Prefect server. Prefect Cloud does not report one.",
        &["version"],
        &[Section::Server],
        |view, points| {
            if let Some(version) = &view.snapshot.version {
                points.set([Arc::clone(version)], 1.0);
            }
        },
    ),
];
