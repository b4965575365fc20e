//! Families of automations.

use super::Family;
use super::compatible::boolean;
use crate::core::sections::Section;

pub(super) const FAMILIES: &[Family] = &[Family::gauge(
    "prefect.automations",
    "{automation}",
    "Number of automations, by whether they are enabled.",
    &["enabled"],
    &[Section::Automations],
    |view, points| {
        for enabled in [true, false] {
            let automations = view.snapshot.inventory.automations.iter();
            let count = automations
                .filter(|automation| automation.enabled.value() == Some(&enabled))
                .count();
            points.set([boolean(enabled)], count as f64);
        }
    },
)];
