//! The catalogue: every family of metrics, declared once.
//!
//! One file for each Prefect resource holds a table of [`Family`]s. A family says its name,
//! kind, unit, help and attributes, and how it is read off the workspace. Nothing else in the
//! program knows a metric's name; exporters and documentation are driven by these tables.
//!
//! Families are read once a cycle into [`Reading`]s, whatever the number of exporters.

pub mod agent;
mod compatible;
mod deployments;
pub mod docs;
mod flow_runs;
mod flows;
mod points;
mod server;
mod work_pools;
mod work_queues;

use std::sync::Arc;

use crate::snapshot::{Section, Snapshot};
pub use points::{Point, Points};

/// What sort of instrument a family is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A value that only grows, from the start of the process on.
    Counter,
    /// A distribution, with these bucket boundaries.
    Histogram(&'static [f64]),
}

/// How firm a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// Equal to the Python exporter's family of the same name, and will stay so.
    Compatible,
    /// Name and attributes stay within a major version.
    Stable,
}

/// How a family's points come about.
#[derive(Clone, Copy)]
pub enum Source {
    /// Read off the workspace once a cycle. Withheld while one of the sections is stale.
    Read(&'static [Section], fn(&View<'_>, &mut Points)),
    /// Recorded when something happens (histograms).
    Recorded,
}

/// A family of metrics as declared.
#[derive(Clone, Copy)]
pub struct Family {
    /// The OpenTelemetry name.
    pub name: &'static str,
    /// What sort of instrument it is.
    pub kind: Kind,
    /// The unit (UCUM); empty for the compatible families, whose names have no suffix.
    pub unit: &'static str,
    /// What it means.
    pub help: &'static str,
    /// The attributes of each point, in the order in which their values are given.
    pub attributes: &'static [&'static str],
    /// How firm it is.
    pub stability: Stability,
    /// How its points come about.
    pub source: Source,
}

impl Family {
    /// A gauge of the workspace that the Python exporter does not have.
    const fn gauge(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
        sections: &'static [Section],
        read: fn(&View<'_>, &mut Points),
    ) -> Self {
        Family {
            name,
            kind: Kind::Gauge,
            unit,
            help,
            attributes,
            stability: Stability::Stable,
            source: Source::Read(sections, read),
        }
    }

    /// The name that Prometheus sees, by the translation of the OpenTelemetry specification.
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        if self.unit == "s" {
            name.push_str("_seconds");
        }
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }
}

/// Every family, in the order of the documentation.
pub fn catalogue() -> impl Iterator<Item = &'static Family> {
    [
        deployments::FAMILIES,
        flows::FAMILIES,
        flow_runs::FAMILIES,
        work_pools::FAMILIES,
        work_queues::FAMILIES,
        server::FAMILIES,
        agent::FAMILIES,
    ]
    .into_iter()
    .flatten()
}

/// What is chosen about the families.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Add `flow_run.name` to the families that can have it.
    pub flow_run_name_label: bool,
    /// The window of the flow-run families.
    pub offset: std::time::Duration,
    /// Newest failed runs shown for each deployment, flow and state name.
    pub failed_runs_limit: usize,
    /// Series a family.
    pub cardinality_limit: usize,
}

impl Options {
    /// Whether an attribute is left out of every family.
    fn leaves_out(&self, attribute: &str) -> bool {
        attribute == compatible::FLOW_RUN_NAME && !self.flow_run_name_label
    }
}

/// What families are read off.
pub struct View<'a> {
    /// The workspace.
    pub snapshot: &'a Snapshot,
    /// What the agent knows of itself.
    pub agent: &'a agent::Stats,
    /// What is chosen.
    pub options: &'a Options,
}

/// The points of one family in one cycle.
pub struct Reading {
    /// The family.
    pub family: &'static Family,
    /// Its points.
    pub points: Arc<Vec<Point>>,
}

/// Reads every family off `view`.
pub fn read(view: &View<'_>) -> Vec<Reading> {
    catalogue()
        .filter_map(|family| match family.source {
            Source::Recorded => None,
            Source::Read(sections, read) => {
                let mut points = Points::new(family, view.options);
                if view.snapshot.is_fresh(sections) {
                    read(view, &mut points);
                }
                Some(Reading {
                    family,
                    points: Arc::new(points.into_vec()),
                })
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_name_is_declared_twice() {
        let mut names = HashSet::new();
        assert!(catalogue().all(|family| names.insert(family.prometheus_name())));
    }

    #[test]
    fn the_fifteen_families_of_the_python_exporter_are_all_there() {
        let compatible = catalogue().filter(|family| family.stability == Stability::Compatible);
        assert_eq!(compatible.count(), 15);
    }
}
