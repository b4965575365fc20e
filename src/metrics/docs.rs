//! The reference of the families, made from their declarations.

use super::{Kind, Stability, catalogue};
use crate::docgen::{Field, Reference, Row};

const INTRODUCTION: &str = "\
Written by `prefect-otel-agent metrics --format markdown`, from the declarations in `src/metrics`.

A dot in an OpenTelemetry attribute is an underscore in the Prometheus label: `deployment.name` is `deployment_name`.
*compatible* families equal those of the Python exporter in name, labels and values; *stable* ones keep name and
attributes within a major version. [recipes.md](recipes.md) has queries in PromQL.

- **Gauges** of a part of the workspace that could not be read for three of its intervals are withheld, not frozen.
  `prefect_agent_section_age_seconds` is the age of each part. `prefect_up` is 1 if at least one list of deployments,
  flows, work pools, work queues or flow runs was answered in the last cycle, and 0 if no cycle has ended for three
  intervals. Gauges of a list that the server does not have are not exported.
- **Gauges that are summed up** (active, late, by state) show a combination of attributes at 0 for ten minutes after the
  last run left it, since receivers keep the last value of a series that is no longer sent. Select `> 0` where each series
  is a row. At `METRICS_CARDINALITY_LIMIT`, zeros make room for counts.
- **Counters** of runs count each terminal state once. Every deployment's series exist at zero before its first run
  ends; a series that appears later stays at zero until a push or a scrape has delivered it, so that `increase()` includes
  its first event. With `STATE_DIR` counters resume after a restart: first with the value exported last, then with the
  runs that were caught up, in delta temporality too; without it they start at zero with the process. The series of a
  deployment that is deleted, or has other tags now, end after an hour.
- **Histograms** start at zero with the process. Those of runs are reset, as by a restart, once more than 1,000 of their
  series, and more than half, are of deleted deployments, or when these keep new series out at
  `METRICS_CARDINALITY_LIMIT`. `RUN_DURATION_BUCKETS_SECONDS` and `START_DELAY_BUCKETS_SECONDS` set their buckets.
- **Slots in use** need Prefect 3.6.23. Before 3.6.14, a run that never started has no end time and is counted only if it
  was seen unfinished.
- `METRICS_INCLUDE` and `METRICS_EXCLUDE` choose among the families, `METRICS_ATTRIBUTES` adds attributes to all of
  them, `DEPLOYMENT_TAG_LABELS` adds those that a deployment's tags hold to every series that names it.";

/// The reference of every family.
pub fn reference() -> Reference {
    Reference {
        title: "Metrics",
        introduction: INTRODUCTION,
        rows: catalogue().map(row).collect(),
    }
}

fn row(family: &super::Family) -> Row {
    let kind = match family.kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::UpDownCounter => "updowncounter",
        Kind::Histogram(_) => "histogram",
    };
    let stability = match family.stability {
        Stability::Compatible => "compatible",
        Stability::Stable => "stable",
    };
    let attributes = family.attributes.iter().map(|name| (*name).to_owned());
    let unit = (!family.unit.is_empty()).then(|| family.unit.to_owned());
    let meaning = match family.lingers {
        true => format!(
            "{} 0 for ten minutes before a series goes away.",
            family.help
        ),
        false => family.help.to_owned(),
    };
    vec![
        ("prometheus", Field::Name(Some(family.prometheus_name()))),
        ("opentelemetry", Field::Name(Some(family.name.to_owned()))),
        ("kind", Field::Text(kind.to_owned())),
        ("unit", Field::Name(unit)),
        ("attributes", Field::Names(attributes.collect())),
        ("stability", Field::Text(stability.to_owned())),
        ("meaning", Field::Text(meaning)),
    ]
}
