//! Families about the Prefect server.

use std::sync::Arc;

use super::Family;
use crate::core::sections::Section;

/// Whether an agent can read Prefect.
pub(super) const UP: &str = "prefect.up";

pub(super) const FAMILIES: &[Family] = &[
    // Absent before the first cycle has been completed, whether it succeeds or fails.
    Family::gauge(
        UP,
        "",
        "1 if Prefect could be read in the last cycle; 0 if not, or if no cycle has been completed for three intervals.",
        &[],
        &[],
        |view, points| {
            if view.cycles.any() {
                points.set([], if view.snapshot.up { 1.0 } else { 0.0 });
            }
        },
    ),
    Family::gauge(
        "prefect.server.info",
        "",
        "1, with the version of the Prefect server. Absent on Prefect Cloud, which does not report a version.",
        &["version"],
        &[Section::Server],
        |view, points| {
            if let Some(version) = &view.snapshot.version {
                points.set([Arc::clone(version)], 1.0);
            }
        },
    ),
];
