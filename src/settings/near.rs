//! Names that are probably misspelled.

use strsim::osa_distance;

/// Units at the end of the names of settings, which users easily omit.
const UNITS: [&str; 4] = ["_SECONDS", "_MINUTES", "_HOURS", "_BYTES"];

/// Variables of earlier versions of the OpenTelemetry specification, which other programs use.
const OBSOLETE: [&str; 3] = [
    "OTEL_EXPORTER_OTLP_METRIC_INSECURE",
    "OTEL_LOG_EXPORTER",
    "OTEL_TRACE_EXPORTER",
];

/// The name in `names` that is probably meant by the variable `written`, which is not one of them.
pub(super) fn nearest_variable<'a>(
    written: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let names = names.into_iter();
    let names = names.filter(|_| !OBSOLETE.contains(&written));
    nearest(written, names, tolerance)
}

/// The name in `names` that is probably meant by the key `written` of a file. Such a key is an
/// error in any case, so that more edits are tolerated than for a variable.
pub(super) fn nearest_key<'a>(
    written: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    nearest(written, names, |name| (name.len() / 4).clamp(1, 3))
}

fn nearest<'a>(
    written: &str,
    names: impl IntoIterator<Item = &'a str>,
    tolerance: fn(&str) -> usize,
) -> Option<&'a str> {
    let written = written.to_ascii_uppercase();
    let near = names.into_iter().filter_map(|name| {
        let distance = distance(&written, name);
        (distance <= tolerance(name)).then_some((distance, name))
    });
    near.min().map(|(_, name)| name)
}

/// The number of edits from one to the other. A missing unit counts as one, unless the rest is a
/// single word that other programs may use, too (`OFFSET`).
fn distance(written: &str, name: &str) -> usize {
    let without_unit = |unit| name.strip_suffix(unit);
    let mut without_unit = UNITS.into_iter().filter_map(without_unit);
    if written.contains('_') && without_unit.any(|rest| rest == written) {
        return 1;
    }
    osa_distance(written, name)
}

/// The maximum number of edits for a misspelt variable. Short names are similar to those of other
/// programs: `METRICS_HOST` is not meant to be `METRICS_PORT`.
fn tolerance(name: &str) -> usize {
    (name.len() / 8).clamp(1, 3)
}
