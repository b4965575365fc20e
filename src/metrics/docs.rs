//! The documentation of the families, generated from their declarations.

use std::fmt::Write as _;

use super::{Kind, Stability, catalogue};

/// A Markdown table of every family.
pub fn markdown() -> String {
    let mut text = String::from(
        "| Prometheus | OpenTelemetry | kind | unit | attributes | meaning |\n|---|---|---|---|---|---|\n",
    );
    for family in catalogue() {
        let kind = match (family.stability, family.kind) {
            (Stability::Compatible, _) => "gauge, compatible",
            (Stability::Stable, Kind::Gauge) => "gauge",
            (Stability::Stable, Kind::Counter) => "counter",
            (Stability::Stable, Kind::Histogram(_)) => "histogram",
        };
        let attributes: Vec<_> = family
            .attributes
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let unit = if family.unit.is_empty() {
            String::new()
        } else {
            format!("`{}`", family.unit)
        };
        let _ = writeln!(
            text,
            "| `{}` | `{}` | {kind} | {unit} | {} | {} |",
            family.prometheus_name(),
            family.name,
            attributes.join(" "),
            family.help
        );
    }
    text
}
