//! The histograms of Prefect's objects, whose series can be dropped.
//!
//! The SDK keeps every series of a histogram for as long as its meter provider lives. So the meter
//! providers of these histograms are replaced once most of their series belong to deleted
//! deployments. The other series start at zero again with their next value: a reset, with a new
//! start time, as after a restart.
//! <https://opentelemetry.io/docs/specs/otel/metrics/data-model/#resets-and-gaps>

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::KeyValue;

use super::outlet::Outlet;
use crate::core::tally::Label;
use crate::metrics::Family;
use crate::metrics::compatible::{DEPLOYMENT_NAME, FLOW_NAME};

/// Up to this many series of deleted deployments are not worth a reset.
const FEW: usize = 1_000;

/// The families that are measured from events, in every exporter.
pub struct Histograms {
    limit: usize,
    outlets: Vec<Arc<Outlet>>,
    recorded: Mutex<HashMap<&'static str, Recorded>>,
}

/// The series of one family since the providers were last replaced.
#[derive(Debug, Default)]
struct Recorded {
    /// Hashes of the attributes of each series, by the workspace's place, deployment name and flow
    /// name.
    places: HashMap<(usize, [Label; 2]), HashSet<u64>>,
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
        if let (Some(deployment), Some(flow)) = (value(DEPLOYMENT_NAME), value(FLOW_NAME)) {
            let mut recorded = self.recorded();
            let family = recorded.entry(family.name).or_default();
            family.note((place, [deployment, flow]), attributes, self.limit);
        }
        for outlet in &self.outlets {
            outlet.record(family.name, seconds, attributes);
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
            let gone = family.places.iter();
            let gone = gone.filter(|((of, [deployment, flow]), _)| {
                *of == place && !is_alive(deployment, flow)
            });
            let gone: usize = gone.map(|(_, series)| series.len()).sum();
            live = family.count.saturating_sub(gone).saturating_add(live);
            dead = gone.saturating_add(dead);
            in_the_way |= family.is_full && gone > 0;
        }
        if !in_the_way && dead <= live.max(FEW) {
            return false;
        }
        for outlet in &self.outlets {
            if let Err(error) = outlet.replace() {
                tracing::error!(%error, "cannot drop the histogram series of deleted deployments");
                return false;
            }
        }
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
    fn note(&mut self, place: (usize, [Label; 2]), attributes: &[KeyValue], limit: usize) {
        let mut hasher = DefaultHasher::new();
        attributes.hash(&mut hasher);
        let series = hasher.finish();
        if self
            .places
            .get(&place)
            .is_some_and(|all| all.contains(&series))
        {
            return;
        }
        if self.count >= limit {
            self.is_full = true;
            return;
        }
        self.count = self.count.saturating_add(1);
        self.places.entry(place).or_default().insert(series);
    }
}

#[cfg(test)]
mod tests;
