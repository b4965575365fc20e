//! Names that are probably misspelt.

use strsim::osa_distance;

/// What the name of a setting may end with, and is easily forgotten.
const UNITS: [&str; 4] = ["_SECONDS", "_MINUTES", "_HOURS", "_BYTES"];

/// The one of `names` that was probably meant by `written`, which is none of them.
pub(super) fn nearest<'a>(
    written: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let written = written.to_ascii_uppercase();
    let near = names.into_iter().filter_map(|name| {
        let distance = distance(&written, name);
        (distance <= tolerance(name)).then_some((distance, name))
    });
    near.min().map(|(_, name)| name)
}

/// The number of edits from one to the other. A missing unit is one, if what is left is more
/// than a word that other programs use as well (`OFFSET`).
fn distance(written: &str, name: &str) -> usize {
    let without_unit = |unit| name.strip_suffix(unit);
    let mut without_unit = UNITS.into_iter().filter_map(without_unit);
    if written.contains('_') && without_unit.any(|rest| rest == written) {
        return 1;
    }
    osa_distance(written, name)
}

/// How many edits may be a mistake. Short names are near to those of other programs:
/// `METRICS_HOST` is not `METRICS_PORT`.
fn tolerance(name: &str) -> usize {
    (name.len() / 8).clamp(1, 3)
}
