//! The histograms of Prefect's objects, whose series can be dropped.
//!
//! The SDK keeps every series of a histogram for as long as its meter provider lives. So the meter
//! providers of these histograms are replaced once most of their series belong to deleted
//! deployments. The other series start at zero again with their next value: a reset, with a new
//! start time, as after a restart.
//! <https://opentelemetry.io/docs/specs/otel/metrics/data-model/#resets-and-gaps>
//!
//! The SDK also reserves memory for as many series as a histogram may have. So series are recorded in
//! layers, each with a meter provider for a part of them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::KeyValue;

use super::outlet::{How, Outlet, room};
use crate::core::tally::Label;
use crate::metrics::compatible::{DEPLOYMENT_NAME, FLOW_NAME};
use crate::metrics::{Family, OVERFLOW};

/// Up to this many series of deleted deployments are not worth a reset.
const FEW: usize = 1_000;

/// The families that are measured from events, in every exporter.
pub struct Histograms {
    limit: usize,
    outlets: Vec<Arc<Outlet>>,
    recorded: Mutex<All>,
}

/// What is recorded, since the providers were last replaced.
#[derive(Debug, Default)]
struct All {
    families: HashMap<&'static str, Recorded>,
    /// The number of series of deleted deployments, by the place of their workspace.
    deleted: HashMap<usize, usize>,
}

/// Whether the series of deleted deployments were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// There are too few of them.
    Nothing,
    /// Something has not been delivered.
    NotYet,
    /// They were.
    Deleted,
}

/// Records values, while no series is dropped.
pub(super) struct Recording<'a> {
    histograms: &'a Histograms,
    all: MutexGuard<'a, All>,
}

/// A deployment: the place of its workspace, its name and the name of its flow.
type Place = (usize, [Label; 2]);

/// The series of one family.
#[derive(Debug, Default)]
struct Recorded {
    /// The layer of each series by the hash of its attributes, by deployment; `None` for those of
    /// families without deployments.
    places: HashMap<Option<Place>, HashMap<u64, usize>>,
    count: usize,
    /// Whether the limit of series was exceeded.
    is_full: bool,
}

impl Histograms {
    /// Histograms of at most `limit` series per family.
    pub(super) fn new(limit: usize) -> Self {
        Histograms {
            limit,
            outlets: Vec::new(),
            recorded: Mutex::default(),
        }
    }

    /// Adds those of another exporter.
    pub(super) fn add(&mut self, measured: &Arc<Outlet>) {
        self.outlets.push(Arc::clone(measured));
    }

    /// Those of an exporter that reads them in this way, if there is one.
    pub(super) fn read_as(&self, how: How) -> Option<Arc<Outlet>> {
        let mut outlets = self.outlets.iter();
        outlets.find(|outlet| outlet.how() == how).cloned()
    }

    /// Records what `measure` measures. Nothing is dropped in the meantime, and what was measured is
    /// noted by `note` before anything can be.
    pub(super) fn record(&self, measure: impl FnOnce(&mut Recording<'_>), note: impl FnOnce()) {
        let mut recording = Recording {
            histograms: self,
            all: self.recorded(),
        };
        measure(&mut recording);
        note();
    }

    /// Drops the series of deleted deployments of all workspaces if there are more than 1,000 of them
    /// and they outnumber the others, or if they leave no room for new series below the limit.
    /// `is_alive` gets the deployment name and the flow name of the workspace
    /// at `place`; series of families without these attributes count as alive. For the other
    /// workspaces, the deleted deployments are those that were found the last time.
    ///
    /// Everything recorded before must have been delivered, which `is_delivered` tells: exporters
    /// that have not delivered it lose it.
    pub fn forget(
        &self,
        place: usize,
        is_delivered: impl FnOnce() -> bool,
        is_alive: impl Fn(&Label, &Label) -> bool,
    ) -> Forgotten {
        let mut recorded = self.recorded();
        let All { families, deleted } = &mut *recorded;
        let (mut gone_here, mut in_the_way) = (0_usize, false);
        for family in families.values() {
            let gone = family.places.iter().filter(|(of, _)| {
                of.as_ref().is_some_and(|(of, [deployment, flow])| {
                    *of == place && !is_alive(deployment, flow)
                })
            });
            let gone: usize = gone.map(|(_, series)| series.len()).sum();
            gone_here = gone_here.saturating_add(gone);
            in_the_way |= family.is_full && gone > 0;
        }
        deleted.insert(place, gone_here);
        let all: usize = families.values().map(|family| family.count).sum();
        let dead: usize = deleted.values().sum();
        let live = all.saturating_sub(dead);
        if !in_the_way && dead <= live.max(FEW) {
            return Forgotten::Nothing;
        }
        if !is_delivered() {
            return Forgotten::NotYet;
        }
        self.outlets.iter().for_each(|outlet| outlet.replace());
        *recorded = All::default();
        tracing::debug!(
            live,
            dead,
            "histograms of runs were reset to drop the series of deleted deployments"
        );
        Forgotten::Deleted
    }

    fn recorded(&self) -> MutexGuard<'_, All> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recording<'_> {
    /// Records a value of the series with `attributes`, of the workspace at `place`. `values` are
    /// those of the attributes that `family` declares.
    pub(super) fn add(
        &mut self,
        family: &Family,
        place: usize,
        values: &[Label],
        seconds: f64,
        attributes: &[KeyValue],
    ) {
        let value = |attribute| family.value(values, attribute).cloned();
        let names = value(DEPLOYMENT_NAME).zip(value(FLOW_NAME));
        let place = names.map(|(deployment, flow)| (place, [deployment, flow]));
        let of_family = self.all.families.entry(family.name).or_default();
        let layer = of_family.layer(place, attributes, self.histograms.limit);
        let layers = layer.unwrap_or_default().saturating_add(1);
        for outlet in &self.histograms.outlets {
            outlet.add_layers(layers);
            match layer {
                Some(layer) => outlet.record(layer, family.name, seconds, attributes),
                None => outlet.record(0, family.name, seconds, &[KeyValue::new(OVERFLOW, true)]),
            }
        }
    }
}

impl Recorded {
    /// The layer of a series; `None` if it is beyond the limit.
    fn layer(
        &mut self,
        place: Option<Place>,
        attributes: &[KeyValue],
        limit: usize,
    ) -> Option<usize> {
        let mut hasher = DefaultHasher::new();
        attributes.hash(&mut hasher);
        let series = hasher.finish();
        let known = self.places.get(&place).and_then(|all| all.get(&series));
        if let Some(layer) = known {
            return Some(*layer);
        }
        if self.count >= limit {
            self.is_full = true;
            return None;
        }
        let layer = layer_of(self.count);
        self.count = self.count.saturating_add(1);
        self.places.entry(place).or_default().insert(series, layer);
        Some(layer)
    }
}

/// The layer of the series with this number: the first one that those before it have not filled.
fn layer_of(number: usize) -> usize {
    let (mut layer, mut before) = (0_usize, room(0));
    while before <= number {
        layer = layer.saturating_add(1);
        before = before.saturating_add(room(layer));
    }
    layer
}

#[cfg(test)]
mod tests;
