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
use std::sync::{Arc, Mutex, PoisonError};

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
    recorded: Mutex<HashMap<&'static str, Recorded>>,
}

/// A deployment: the place of its workspace, its name and the name of its flow.
type Place = (usize, [Label; 2]);

/// The series of one family since the providers were last replaced.
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

    /// Records a value of the series with `attributes`, of the workspace at `place`. `values` are
    /// those of the attributes that `family` declares.
    pub fn record(
        &self,
        family: &Family,
        place: usize,
        values: &[Label],
        seconds: f64,
        attributes: &[KeyValue],
    ) {
        let value = |attribute| family.value(values, attribute).cloned();
        let names = value(DEPLOYMENT_NAME).zip(value(FLOW_NAME));
        let place = names.map(|(deployment, flow)| (place, [deployment, flow]));
        let mut recorded = self.recorded();
        let of_family = recorded.entry(family.name).or_default();
        let layer = of_family.layer(place, attributes, self.limit);
        drop(recorded);
        let layers = layer.unwrap_or_default().saturating_add(1);
        for outlet in &self.outlets {
            outlet.add_layers(layers);
            match layer {
                Some(layer) => outlet.record(layer, family.name, seconds, attributes),
                None => outlet.record(0, family.name, seconds, &[KeyValue::new(OVERFLOW, true)]),
            }
        }
    }

    /// Drops the series of deleted deployments of the workspace at `place` if there are more than
    /// 1,000 of them and they outnumber the others, or if they leave no room for new series below
    /// the limit. Returns whether it did. `is_alive` gets the deployment name and the flow name;
    /// series of families without these attributes count as alive.
    ///
    /// Everything recorded before must have been delivered: exporters that have not delivered it
    /// lose it.
    pub fn forget(&self, place: usize, is_alive: impl Fn(&Label, &Label) -> bool) -> bool {
        let mut recorded = self.recorded();
        let (mut live, mut dead, mut in_the_way) = (0, 0, false);
        for family in recorded.values() {
            let gone = family.places.iter().filter(|(of, _)| {
                of.as_ref().is_some_and(|(of, [deployment, flow])| {
                    *of == place && !is_alive(deployment, flow)
                })
            });
            let gone: usize = gone.map(|(_, series)| series.len()).sum();
            live = family.count.saturating_sub(gone).saturating_add(live);
            dead = gone.saturating_add(dead);
            in_the_way |= family.is_full && gone > 0;
        }
        if !in_the_way && dead <= live.max(FEW) {
            return false;
        }
        self.outlets.iter().for_each(|outlet| outlet.replace());
        recorded.clear();
        tracing::debug!(
            live,
            dead,
            "histograms of runs were reset to drop the series of deleted deployments"
        );
        true
    }

    fn recorded(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Recorded>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
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
