//! The catalogue: every family of metrics, declared once.
//!
//! One file for each Prefect resource holds a table of [`Family`]s. A family has a name, kind,
//! unit, help and attributes, and a function that reads it from the workspace. Nothing else in the
//! program knows a metric's name; exporters and documentation are driven by these tables.
//!
//! Families are read into [`Reading`]s once for each publication, whatever the number of exporters.

pub mod agent;
mod automations;
pub(crate) mod compatible;
mod deployments;
pub mod docs;
mod flow_runs;
mod flows;
mod limits;
mod lingering;
mod options;
mod points;
mod process;
mod server;
mod task_runs;
mod work_pools;
mod work_queues;
mod workers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::counters::{AllTotals, Counter};
use crate::core::events::Event;
use crate::core::sections::Section;
use crate::core::snapshot::{LastRuns, Snapshot};
use crate::core::tally::Label;
use crate::prefect::Id;
pub use lingering::Lingering;
pub use options::{Options, TagAttributes};
pub use points::{Point, Points};

/// What sort of instrument a family is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A value that only grows.
    Counter,
    /// A sum that goes up and down.
    UpDownCounter,
    /// A distribution.
    Histogram(Buckets),
}

/// The bucket boundaries of a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Buckets {
    /// These.
    Fixed(&'static [f64]),
    /// `RUN_DURATION_BUCKETS_SECONDS`.
    RunDuration,
    /// `START_DELAY_BUCKETS_SECONDS`.
    StartDelay,
}

/// How firm a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// Equal to the Python exporter's family of the same name, and will stay so.
    Compatible,
    /// Name and attributes stay within a major version.
    Stable,
}

/// What an event adds to a histogram, if anything: the values of the attributes, and seconds.
pub type Measure = fn(&Event) -> Option<(Vec<Label>, f64)>;

/// How a family's points come about.
#[derive(Clone, Copy)]
pub enum Source {
    /// Read off the workspace once a cycle. Withheld while one of the sections is stale.
    Read(&'static [Section], fn(&View<'_>, &mut Points<'_>)),
    /// Counted by the core, each event once.
    Counted(Counter),
    /// Measured from each event.
    Measured(Measure),
    /// Recorded by the agent about itself.
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
    /// Whether a series that nothing is counted for any more is shown at zero for ten minutes.
    pub lingers: bool,
}

impl Family {
    /// A gauge of the workspace that the Python exporter does not have.
    const fn gauge(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
        sections: &'static [Section],
        read: fn(&View<'_>, &mut Points<'_>),
    ) -> Self {
        Family {
            name,
            kind: Kind::Gauge,
            unit,
            help,
            attributes,
            stability: Stability::Stable,
            source: Source::Read(sections, read),
            lingers: false,
        }
    }

    /// The same, with zeros before a series goes away: for gauges that are summed up.
    const fn lingering(self) -> Self {
        Family {
            lingers: true,
            ..self
        }
    }

    /// A counter of events.
    const fn counted(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
        counter: Counter,
    ) -> Self {
        Family {
            name,
            kind: Kind::Counter,
            unit,
            help,
            attributes,
            stability: Stability::Stable,
            source: Source::Counted(counter),
            lingers: false,
        }
    }

    /// A counter of what the agent itself did.
    const fn counter(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
        read: fn(&View<'_>, &mut Points<'_>),
    ) -> Self {
        Family {
            kind: Kind::Counter,
            ..Family::gauge(name, unit, help, attributes, &[], read)
        }
    }

    /// A distribution of seconds, one for each event for which `measure` returns a value.
    const fn histogram(
        name: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
        buckets: Buckets,
        measure: Measure,
    ) -> Self {
        Family {
            source: Source::Measured(measure),
            ..Family::recorded(name, help, attributes, buckets)
        }
    }

    /// A distribution of seconds, recorded by the agent about itself.
    const fn recorded(
        name: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
        buckets: Buckets,
    ) -> Self {
        Family {
            name,
            kind: Kind::Histogram(buckets),
            unit: "s",
            help,
            attributes,
            stability: Stability::Stable,
            source: Source::Recorded,
            lingers: false,
        }
    }

    fn is_of_task_runs(&self) -> bool {
        task_runs::FAMILIES
            .iter()
            .any(|family| family.name == self.name)
    }

    /// Whether its series are as many as Prefect's objects.
    pub fn is_of_prefect(&self) -> bool {
        self.name.starts_with("prefect.")
            && !self.name.starts_with("prefect.agent.")
            && !self.attributes.is_empty()
    }

    /// The name that Prometheus sees, by the translation of the OpenTelemetry specification.
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        match self.unit {
            "s" => name.push_str("_seconds"),
            "By" => name.push_str("_bytes"),
            _ => {}
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
        task_runs::FAMILIES,
        work_pools::FAMILIES,
        work_queues::FAMILIES,
        workers::FAMILIES,
        limits::FAMILIES,
        automations::FAMILIES,
        server::FAMILIES,
        agent::FAMILIES,
        process::FAMILIES,
    ]
    .into_iter()
    .flatten()
}

/// What families are read off.
pub struct View<'a> {
    /// The workspace.
    pub snapshot: &'a Snapshot,
    /// What the counters show.
    pub counters: &'a AllTotals,
    /// The last runs of each deployment, by its id.
    pub last_runs: &'a HashMap<Id, LastRuns>,
    /// What the agent knows of itself.
    pub agent: &'a agent::Stats,
    /// What is chosen.
    pub options: &'a Options,
    /// The values of the tags of the snapshot's deployments.
    pub tags: &'a TagAttributes,
}

/// The points of one family in one cycle.
pub struct Reading {
    /// The family.
    pub family: &'static Family,
    /// Its points.
    pub points: Arc<Vec<Point>>,
}

/// Reads every exported family off `view`. `uptime` is the time of the reading; `lingering` is
/// what the readings before it have shown.
pub fn read(view: &View<'_>, lingering: &mut Lingering, uptime: Duration) -> Vec<Reading> {
    let mut sizes = HashMap::new();
    let mut readings: Vec<Reading> = view
        .options
        .families()
        .filter_map(|family| {
            let mut points = Points::new(family, view.options, view.tags);
            match family.source {
                Source::Recorded | Source::Measured(_) => return None,
                Source::Read(sections, read) if view.snapshot.is_fresh(sections) => {
                    read(view, &mut points);
                    if family.lingers {
                        points.add_zeros(lingering, uptime);
                    }
                }
                Source::Counted(counter) => points.add_totals(view.counters.of(counter)),
                Source::Read(..) => lingering.withhold(family, uptime),
            }
            sizes.insert(family.name, points.size());
            Some(Reading {
                family,
                points: Arc::new(points.into_vec()),
            })
        })
        .collect();
    for reading in &mut readings {
        if let Some(size) = agent::SIZES
            .iter()
            .find(|size| size.family == reading.family.name)
        {
            let mut points = Points::new(reading.family, view.options, view.tags);
            for (name, counted) in &sizes {
                points.set([Arc::from(*name)], (size.of)(counted));
            }
            reading.points = Arc::new(points.into_vec());
        }
    }
    readings
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
