//! The catalogue: every metric family, declared once.
//!
//! One file per Prefect resource holds a table of [`Family`]s: name, kind, unit, help and
//! attributes, and the function that computes the points. No other module knows the name of a
//! metric; exporters and documentation are driven by these tables.
//!
//! Families are read into [`Reading`]s once per publication, however many exporters there are.

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
mod shard;
mod task_runs;
mod work_pools;
mod work_queues;
mod workers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::State;
use crate::core::counters::{AllTotals, Counter};
use crate::core::events::Event;
use crate::core::sections::Section;
use crate::core::snapshot::{LastRuns, Snapshot};
use crate::core::tally::Label;
use crate::prefect::Id;
use agent::{Checkpoints, CycleCounts};
pub use lingering::Lingering;
pub(crate) use options::WORKSPACE;
pub use options::{Options, TagAttributes};
use points::Size;
pub use points::{OVERFLOW, Point, Points};

/// The kind of instrument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A current value.
    Gauge,
    /// A sum that only increases.
    Counter,
    /// A sum that increases and decreases.
    UpDownCounter,
    /// A distribution.
    Histogram(Buckets),
}

/// The bucket boundaries of a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Buckets {
    /// Fixed boundaries.
    Fixed(&'static [f64]),
    /// `RUN_DURATION_BUCKETS_SECONDS`.
    RunDuration,
    /// `START_DELAY_BUCKETS_SECONDS`.
    StartDelay,
}

/// What users can rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// Same name, labels and values as in the Python exporter, in every version.
    Compatible,
    /// Name and attributes do not change within a major version.
    Stable,
}

/// What an event adds to a histogram, if anything: attribute values and seconds.
pub type Measure = fn(&Event) -> Option<(Vec<Label>, f64)>;

/// Where the points of a family come from.
#[derive(Clone, Copy)]
pub enum Source {
    /// Computed from the workspace once per publication. Withheld while one of the sections is
    /// stale.
    Read(&'static [Section], fn(&View<'_>, &mut Points<'_>)),
    /// Computed once per publication from the agent's statistics, whatever workspaces it reads.
    Agent(fn(&agent::Stats, &mut Points<'_>)),
    /// Counted by the core, each event once.
    Counted(Counter),
    /// Measured from each event.
    Measured(Measure),
    /// Recorded by the agent about itself.
    Recorded,
}

/// A metric family.
#[derive(Clone, Copy)]
pub struct Family {
    /// The OpenTelemetry name.
    pub name: &'static str,
    /// The kind of instrument.
    pub kind: Kind,
    /// The unit (UCUM); empty for the compatible families, whose names have no suffix.
    pub unit: &'static str,
    /// The help text.
    pub help: &'static str,
    /// The attributes of each point, in the order of the values that are passed for them.
    pub attributes: &'static [&'static str],
    /// What users can rely on.
    pub stability: Stability,
    /// Where its points come from.
    pub source: Source,
    /// Whether a series stays at zero for ten minutes after its last count.
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

    /// The same, with zeros before a series ends: for gauges that are meant to be summed.
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

    /// A gauge of the agent's process.
    const fn of_agent(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
        read: fn(&agent::Stats, &mut Points<'_>),
    ) -> Self {
        Family {
            source: Source::Agent(read),
            ..Family::gauge(name, unit, help, attributes, &[], |_, _| {})
        }
    }

    /// The same as a counter or as a sum that also decreases.
    const fn of_kind(self, kind: Kind) -> Self {
        Family { kind, ..self }
    }

    /// A counter of the agent's activity in a workspace.
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

    /// Whether it is about one agent, also if several agents read the same workspace.
    fn is_of_agent(&self) -> bool {
        let of_prefect = self.name.starts_with("prefect.");
        !of_prefect || self.name.starts_with("prefect.agent.") || self.name == server::UP
    }

    /// Whether the number of its series grows with the number of Prefect's objects.
    pub fn is_of_prefect(&self) -> bool {
        !self.is_of_agent() && !self.attributes.is_empty()
    }

    /// The value of `attribute`, given the `values` of the declared attributes. None if it is not
    /// declared.
    pub fn value<'a>(&self, values: &'a [Label], attribute: &str) -> Option<&'a Label> {
        let index = self.attributes.iter().position(|name| *name == attribute)?;
        values.get(index)
    }

    /// The name in Prometheus, by the translation that the OpenTelemetry specification defines.
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

/// Everything that the families of a workspace are computed from.
pub struct View<'a> {
    /// The workspace.
    pub snapshot: &'a Snapshot,
    /// The exported values of the counters.
    pub counters: &'a AllTotals,
    /// The last runs of each deployment, by its id.
    pub last_runs: &'a HashMap<Id, LastRuns>,
    /// The cycles so far.
    pub cycles: CycleCounts,
    /// The checkpoints so far, if they are enabled.
    pub checkpoints: Option<&'a Checkpoints>,
    /// The metrics settings.
    pub options: &'a Options,
    /// The tag values of the snapshot's deployments.
    pub tags: &'a TagAttributes,
}

impl<'a> View<'a> {
    /// A view of `state`, before the first cycle.
    pub fn of(state: &'a State, options: &'a Options, tags: &'a TagAttributes) -> Self {
        View {
            snapshot: &state.snapshot,
            counters: &state.counters,
            last_runs: &state.last_runs,
            cycles: CycleCounts::default(),
            checkpoints: None,
            options,
            tags,
        }
    }
}

/// The points of one family in one publication.
pub struct Reading {
    /// The family.
    pub family: &'static Family,
    /// Its points.
    pub points: Arc<Vec<Point>>,
}

/// Computes every exported family of `workspaces` and of the agent at `uptime`. For each workspace,
/// `lingering` remembers the series of earlier readings.
pub fn read(
    workspaces: &[View<'_>],
    lingering: &mut [Lingering],
    agent: &agent::Stats,
    options: &Options,
    uptime: Duration,
) -> Vec<Reading> {
    let mut sizes = HashMap::new();
    let mut readings: Vec<Reading> = options
        .families()
        .filter_map(|family| {
            let (mut all, mut size) = (Vec::new(), Size::default());
            let mut add = |points: Points<'_>| {
                size.add(points.size());
                // Most agents read one workspace.
                match all.is_empty() {
                    true => all = points.into_vec(),
                    false => all.extend(points.into_vec()),
                }
            };
            match family.source {
                Source::Recorded | Source::Measured(_) => return None,
                Source::Agent(read) => {
                    let no_tags = TagAttributes::new();
                    let mut points = Points::new(family, options, &no_tags);
                    read(agent, &mut points);
                    add(points);
                }
                Source::Read(..) | Source::Counted(_) => {
                    for (view, lingering) in workspaces.iter().zip(lingering.iter_mut()) {
                        add(of_workspace(family, view, lingering, uptime));
                    }
                }
            }
            sizes.insert(family.name, size);
            Some(Reading {
                family,
                points: Arc::new(all),
            })
        })
        .collect();
    for reading in &mut readings {
        if let Some(size) = agent::SIZES
            .iter()
            .find(|size| size.family == reading.family.name)
        {
            let no_tags = TagAttributes::new();
            let mut points = Points::new(reading.family, options, &no_tags);
            for (name, counted) in &sizes {
                points.set([Arc::from(*name)], (size.of)(counted));
            }
            reading.points = Arc::new(points.into_vec());
        }
    }
    readings
}

fn of_workspace<'a>(
    family: &'static Family,
    view: &View<'a>,
    lingering: &mut Lingering,
    uptime: Duration,
) -> Points<'a> {
    let mut points = Points::new(family, view.options, view.tags);
    match family.source {
        Source::Read(sections, read) if view.snapshot.is_fresh(sections) => {
            read(view, &mut points);
            if family.lingers {
                points.add_zeros(lingering, uptime);
            }
        }
        Source::Counted(counter) => points.add_totals(view.counters.of(counter)),
        _ => lingering.withhold(family, uptime),
    }
    points
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
    fn attributes_of_prefect_objects_are_named_as_their_labels() {
        let families = catalogue().filter(|family| family.name.starts_with("prefect."));
        let dotted = families
            .flat_map(|family| family.attributes)
            .find(|attribute| attribute.contains('.'));
        assert_eq!(dotted, None);
    }

    #[test]
    fn all_fifteen_families_of_the_python_exporter_are_declared() {
        let compatible = catalogue().filter(|family| family.stability == Stability::Compatible);
        assert_eq!(compatible.count(), 15);
    }
}
