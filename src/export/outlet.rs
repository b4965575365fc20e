//! The instruments of one exporter of pushes, in parts by where their values come from.
//!
//! Each part has meter providers of its own. The SDK reserves memory for as many series as an
//! instrument may have, and keeps the series of a histogram for as long as its meter provider
//! lives. So the provider of the observed part is replaced when it needs more room. The measured part
//! gets another provider, a layer for new series, and all of its providers are replaced when most of
//! their series belong to deleted deployments.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::instruments::{self, Common};
use super::reader::Reader;
use crate::metrics::{Family, Reading, Source};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader as _;
use opentelemetry_sdk::metrics::{SdkMeterProvider, Temporality};

/// The SDK's default limit of series per instrument.
const FEW: usize = 2_000;

/// The room of an observed family without series.
const FEWEST: usize = 16;

/// The families of one provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Read from the catalogue with each publication.
    Observed,
    /// Recorded by the agent about itself.
    Recorded,
    /// Measured from events.
    Measured,
}

impl Part {
    pub(super) fn of(family: &Family) -> Self {
        match family.source {
            Source::Read(..) | Source::Agent(_) | Source::Counted(_) => Part::Observed,
            Source::Recorded => Part::Recorded,
            Source::Measured(_) => Part::Measured,
        }
    }
}

/// How an exporter reads its instruments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct How {
    pub(super) temporality: Temporality,
    /// Whether histograms are exponential.
    pub(super) exponential: bool,
}

impl How {
    /// As `/metrics` needs it.
    pub(super) const SCRAPED: How = How {
        temporality: Temporality::Cumulative,
        exponential: false,
    };
}

/// One part of the instruments of one exporter.
pub(super) struct Outlet {
    how: How,
    part: Part,
    common: Arc<Common>,
    /// Only the measured part has more than one.
    layers: RwLock<Vec<Generation>>,
}

/// One meter provider with its reader and instruments, until it is replaced.
struct Generation {
    provider: SdkMeterProvider,
    histograms: HashMap<&'static str, Histogram<f64>>,
    reader: Reader,
    limits: Arc<HashMap<&'static str, usize>>,
}

impl Generation {
    /// The provider of a layer with room for the points of the slots, and for those of `coming`.
    fn new((how, part): (How, Part), common: &Common, coming: &[Reading], layer: usize) -> Self {
        let reader = Reader::new(how.temporality);
        let builder = SdkMeterProvider::builder()
            .with_resource(common.resource.clone())
            .with_reader(reader.clone());
        let families = common.options.families();
        let families: Vec<_> = families.filter(|family| Part::of(family) == part).collect();
        let limits = limits(&families, common, coming, layer);
        let (provider, histograms) = instruments::provider(
            builder,
            common,
            &families,
            Arc::clone(&limits),
            how.exponential,
        );
        Generation {
            provider,
            histograms,
            reader,
            limits,
        }
    }

    /// Whether there is room for `coming`.
    fn fits(&self, common: &Common, coming: &[Reading]) -> bool {
        coming.iter().all(|reading| {
            let limit = self.limits.get(reading.family.name);
            limit.is_none_or(|limit| at_once(reading.family, common, coming) <= *limit)
        })
    }
}

/// The number of series of an observed family that the SDK has at the end of a collection of
/// `coming`: those of the collection before are removed only then.
fn at_once(family: &Family, common: &Common, coming: &[Reading]) -> usize {
    let mut coming = coming.iter();
    let next = coming.find(|reading| reading.family.name == family.name);
    let next = next.map_or(0, |reading| reading.points.len());
    let now = common.slots.points(family.name).len();
    now.saturating_add(next)
}

/// The SDK's limit of series for each of `families`, by name.
pub(super) fn limits(
    families: &[&'static Family],
    common: &Common,
    coming: &[Reading],
    layer: usize,
) -> Arc<HashMap<&'static str, usize>> {
    let limits = families
        .iter()
        .map(|family| (family.name, limit(family, common, coming, layer)));
    Arc::new(limits.collect())
}

/// The SDK's limit of series for a family. `Points` applies `METRICS_CARDINALITY_LIMIT` to observed
/// families itself. The series that combines the rest does not count.
fn limit(family: &Family, common: &Common, coming: &[Reading], layer: usize) -> usize {
    match Part::of(family) {
        Part::Observed => {
            let at_once = at_once(family, common, coming);
            // A third of it for growth.
            (at_once / 2).saturating_add(at_once).max(FEWEST)
        }
        // And the series that combines the rest.
        Part::Measured => room(layer).saturating_add(1),
        Part::Recorded => FEW.saturating_mul(common.options.workspaces),
    }
}

/// The number of series of each measured family in a layer. Each layer has twice as many as the one
/// before, so that there are few.
pub(super) fn room(layer: usize) -> usize {
    let doubled = u32::try_from(layer).unwrap_or(u32::MAX);
    FEW.saturating_mul(2_usize.saturating_pow(doubled))
}

impl Outlet {
    /// How it is read.
    pub(super) fn how(&self) -> How {
        self.how
    }

    pub(super) fn new(how: How, part: Part, common: &Arc<Common>) -> Self {
        Outlet {
            how,
            part,
            common: Arc::clone(common),
            layers: RwLock::new(vec![Generation::new((how, part), common, &[], 0)]),
        }
    }

    fn layers(&self) -> RwLockReadGuard<'_, Vec<Generation>> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The histograms, by name.
    pub(super) fn histograms(&self) -> HashMap<&'static str, Histogram<f64>> {
        let layers = self.layers();
        let histograms = layers.iter().map(|layer| layer.histograms.clone());
        histograms.flatten().collect()
    }

    /// Records a value into a histogram of a layer.
    pub(super) fn record(&self, layer: usize, name: &str, seconds: f64, attributes: &[KeyValue]) {
        let layers = self.layers();
        let histogram = layers
            .get(layer)
            .and_then(|layer| layer.histograms.get(name));
        if let Some(histogram) = histogram {
            histogram.record(seconds, attributes);
        }
    }

    /// Adds layers, until there are `count`.
    pub(super) fn add_layers(&self, count: usize) {
        if self.layers().len() >= count {
            return;
        }
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        while layers.len() < count {
            let next = Generation::new((self.how, self.part), &self.common, &[], layers.len());
            layers.push(next);
        }
    }

    /// Makes room for `coming`, the next points of observed families. Their instruments have no
    /// values of their own, so nothing is lost.
    pub(super) fn fit(&self, coming: &[Reading]) {
        let fits = |layer: &Generation| layer.fits(&self.common, coming);
        let is_room = self.layers().iter().all(fits);
        if !is_room {
            self.replace_for(coming);
        }
    }

    /// Replaces all layers and their instruments by one. Histograms start at zero again.
    pub(super) fn replace(&self) {
        self.replace_for(&[]);
    }

    fn replace_for(&self, coming: &[Reading]) {
        let next = Generation::new((self.how, self.part), &self.common, coming, 0);
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        let last = mem::replace(&mut *layers, vec![next]);
        drop(layers);
        last.iter().for_each(|layer| shut_down(&layer.provider));
    }

    /// Collects the values of all layers.
    pub(super) fn collect(&self) -> Result<Vec<ResourceMetrics>, OTelSdkError> {
        let layers = self.layers();
        let collect = |layer: &Generation| {
            let mut metrics = ResourceMetrics::default();
            layer.reader.collect(&mut metrics).map(|()| metrics)
        };
        layers.iter().map(collect).collect()
    }

    pub(super) fn shutdown(&self) {
        self.layers()
            .iter()
            .for_each(|layer| shut_down(&layer.provider));
    }
}

pub(super) fn shut_down(provider: &SdkMeterProvider) {
    if let Err(error) = provider.shutdown() {
        tracing::debug!(%error, "a meter provider could not be shut down");
    }
}

/// The instruments of one exporter of pushes.
#[derive(Clone)]
pub(super) struct Outlets {
    pub(super) observed: Arc<Outlet>,
    pub(super) recorded: Arc<Outlet>,
    pub(super) measured: Arc<Outlet>,
}

impl Outlets {
    pub(super) fn new(how: How, common: &Arc<Common>) -> Self {
        let outlet = |part| Arc::new(Outlet::new(how, part, common));
        Outlets {
            observed: outlet(Part::Observed),
            recorded: outlet(Part::Recorded),
            measured: outlet(Part::Measured),
        }
    }

    fn all(&self) -> [&Outlet; 3] {
        [&self.observed, &self.recorded, &self.measured]
    }

    /// Collects for a push. No series is in two of the results.
    pub(super) fn collect(&self) -> Result<Vec<ResourceMetrics>, OTelSdkError> {
        let parts = self.all().into_iter().map(Outlet::collect);
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Shuts the meter providers down.
    pub(super) fn shutdown(&self) {
        self.all().into_iter().for_each(Outlet::shutdown);
    }
}
