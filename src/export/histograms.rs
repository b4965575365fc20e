//! The histograms of Prefect's objects, whose series can be dropped.
//!
//! The SDK keeps every series of a histogram for as long as its meter provider lives. So these
//! histograms have separate meter providers, one per exporter, which are replaced once most of
//! their series belong to deleted deployments. The other series start at zero again with their next
//! value: a reset, with a new start time, as after a restart.
//! <https://opentelemetry.io/docs/specs/otel/metrics/data-model/#resets-and-gaps>

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader as _;
use opentelemetry_sdk::metrics::{SdkMeterProvider, Temporality};
use prometheus::Registry;
use prometheus::proto::MetricFamily;

use super::Error;
use super::instruments::{self, Slots};
use super::reader::{self, Reader};
use crate::core::tally::Label;
use crate::metrics::compatible::{DEPLOYMENT_NAME, FLOW_NAME};
use crate::metrics::{Family, Options, Source};

/// Up to this many series of deleted deployments are not worth a reset.
const FEW: usize = 1_000;

/// The families that are measured from events, in every exporter.
pub struct Histograms {
    options: Options,
    resource: Resource,
    outlets: Vec<Arc<Outlet>>,
    recorded: Mutex<HashMap<&'static str, Recorded>>,
}

/// The series of one family since the providers were last replaced.
#[derive(Debug, Default)]
struct Recorded {
    /// Hashes of the attributes of each series, by deployment name and flow name.
    places: HashMap<[Label; 2], HashSet<u64>>,
    count: usize,
    /// Whether the limit of series was exceeded.
    is_full: bool,
}

impl Histograms {
    pub(super) fn new(options: &Options, resource: &Resource) -> Self {
        Histograms {
            options: options.clone(),
            resource: resource.clone(),
            outlets: Vec::new(),
            recorded: Mutex::default(),
        }
    }

    /// The histograms of an exporter that pushes.
    pub(super) fn pushed(
        &mut self,
        temporality: Temporality,
        exponential: bool,
    ) -> Result<Arc<Outlet>, Error> {
        self.outlet(How::Pushed(temporality), exponential)
    }

    /// The histograms on `/metrics`.
    pub(super) fn scraped(&mut self) -> Result<Arc<Outlet>, Error> {
        self.outlet(How::Scraped, false)
    }

    fn outlet(&mut self, how: How, exponential: bool) -> Result<Arc<Outlet>, Error> {
        let generation = Generation::new(how, exponential, &self.options, &self.resource)?;
        let outlet = Arc::new(Outlet {
            how,
            exponential,
            current: RwLock::new(generation),
        });
        self.outlets.push(Arc::clone(&outlet));
        Ok(outlet)
    }

    /// Records a value of the series with `attributes`. `values` are those of the attributes that
    /// `family` declares.
    pub fn record(&self, family: &Family, values: &[Label], seconds: f64, attributes: &[KeyValue]) {
        let value = |wanted| {
            let index = family.attributes.iter().position(|name| *name == wanted)?;
            values.get(index).cloned()
        };
        if let (Some(deployment), Some(flow)) = (value(DEPLOYMENT_NAME), value(FLOW_NAME)) {
            let limit = self.options.cardinality_limit;
            let mut recorded = self.recorded();
            let family = recorded.entry(family.name).or_default();
            family.note([deployment, flow], attributes, limit);
        }
        for outlet in &self.outlets {
            outlet.record(family.name, seconds, attributes);
        }
    }

    /// Drops the series of deleted deployments if there are more than 1,000 of them and they
    /// outnumber the others, or if they leave no room for new series below the limit. Returns
    /// whether it did. `is_alive` gets the deployment name and the flow name; series of families
    /// without these attributes count as alive.
    ///
    /// Everything recorded before must have been delivered: exporters that have not delivered it
    /// lose it.
    pub fn forget(&self, is_alive: impl Fn(&Label, &Label) -> bool) -> bool {
        let mut recorded = self.recorded();
        let (mut live, mut dead, mut in_the_way) = (0, 0, false);
        for family in recorded.values() {
            let gone = family.places.iter();
            let gone = gone.filter(|([deployment, flow], _)| !is_alive(deployment, flow));
            let gone: usize = gone.map(|(_, series)| series.len()).sum();
            live = family.count.saturating_sub(gone).saturating_add(live);
            dead = gone.saturating_add(dead);
            in_the_way |= family.is_full && gone > 0;
        }
        if !in_the_way && dead <= live.max(FEW) {
            return false;
        }
        for outlet in &self.outlets {
            if let Err(error) = outlet.replace(&self.options, &self.resource) {
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
    fn note(&mut self, place: [Label; 2], attributes: &[KeyValue], limit: usize) {
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

/// How an exporter reads its histograms.
#[derive(Debug, Clone, Copy)]
enum How {
    Pushed(Temporality),
    Scraped,
}

/// The histograms of one exporter, until they are replaced.
pub(super) struct Outlet {
    how: How,
    exponential: bool,
    current: RwLock<Generation>,
}

/// One meter provider with its reader and instruments.
struct Generation {
    provider: SdkMeterProvider,
    histograms: HashMap<&'static str, Histogram<f64>>,
    reader: Option<Reader>,
    registry: Registry,
}

impl Generation {
    fn new(
        how: How,
        exponential: bool,
        options: &Options,
        resource: &Resource,
    ) -> Result<Self, Error> {
        let builder = SdkMeterProvider::builder().with_resource(resource.clone());
        let registry = Registry::new();
        let (builder, reader) = match how {
            How::Pushed(temporality) => {
                let reader = Reader::new(temporality);
                (builder.with_reader(reader.clone()), Some(reader))
            }
            How::Scraped => {
                let reader = reader::bridge(&registry, false)?;
                (builder.with_reader(reader), None)
            }
        };
        let families = options.families().filter(is_measured);
        let (provider, histograms) =
            instruments::provider(builder, options, families, &Slots::default(), exponential);
        Ok(Generation {
            provider,
            histograms: histograms.into_iter().collect(),
            reader,
            registry,
        })
    }
}

/// Whether a family is measured from events.
pub(super) fn is_measured(family: &&Family) -> bool {
    matches!(family.source, Source::Measured(_))
}

impl Outlet {
    fn record(&self, name: &str, seconds: f64, attributes: &[KeyValue]) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(histogram) = current.histograms.get(name) {
            histogram.record(seconds, attributes);
        }
    }

    fn replace(&self, options: &Options, resource: &Resource) -> Result<(), Error> {
        let next = Generation::new(self.how, self.exponential, options, resource)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let last = mem::replace(&mut *current, next);
        drop(current);
        if let Err(error) = last.provider.shutdown() {
            tracing::debug!(%error, "a meter provider could not be shut down");
        }
        Ok(())
    }

    /// Collects for a push.
    pub(super) fn collect(
        &self,
    ) -> Result<ResourceMetrics, opentelemetry_sdk::error::OTelSdkError> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let mut metrics = ResourceMetrics::default();
        if let Some(reader) = &current.reader {
            reader.collect(&mut metrics)?;
        }
        Ok(metrics)
    }

    /// Collects for `/metrics`.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.registry.gather()
    }
}

#[cfg(test)]
mod tests;
