//! Families of the Prefect server itself.

use std::sync::Arc;

use super::{Family, Kind, Source, Stability};
use crate::snapshot::Section;

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "prefect.up",
        kind: Kind::Gauge,
        unit: "",
        help: "1 while the last cycle could read Prefect, else 0.",
        attributes: &[],
        stability: Stability::Stable,
        // No cycle, no answer; a cycle that failed is one.
        source: Source::Read(&[], |view, points| {
            if view.agent.has_cycled() {
                points.set([], if view.snapshot.up { 1.0 } else { 0.0 });
            }
        }),
    },
    Family {
        name: "prefect.server.info",
        kind: Kind::Gauge,
        unit: "",
        help: "1, with the version of the Prefect server. Prefect Cloud does not tell one.",
        attributes: &["version"],
        stability: Stability::Stable,
        source: Source::Read(&[Section::Server], |view, points| {
            if let Some(version) = &view.snapshot.version {
                points.set([Arc::clone(version)], 1.0);
            }
        }),
    },
];
