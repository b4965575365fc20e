//! The instruments of one meter provider, created from the catalogue.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Histogram, MeterProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{
    Aggregation, Instrument, InstrumentKind, MeterProviderBuilder, SdkMeterProvider, Stream,
};

use super::SCOPE;
use crate::metrics::{Family, Kind, Options, Point};

/// The specification's defaults.
/// <https://opentelemetry.io/docs/specs/otel/metrics/sdk/#base2-exponential-bucket-histogram-aggregation>
const EXPONENTIAL: Aggregation = Aggregation::Base2ExponentialHistogram {
    max_size: 160,
    max_scale: 20,
    record_min_max: true,
};

/// The latest points of every family, which the instruments' callbacks read.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots(Arc<HashMap<&'static str, Slot>>);

type Slot = RwLock<Arc<Vec<Point>>>;

impl Slots {
    pub(super) fn new(options: &Options) -> Self {
        let of_each = options
            .families()
            .map(|family| (family.name, Slot::default()));
        Slots(Arc::new(of_each.collect()))
    }

    pub(super) fn set(&self, name: &str, points: Arc<Vec<Point>>) {
        if let Some(slot) = self.0.get(name) {
            *slot.write().unwrap_or_else(PoisonError::into_inner) = points;
        }
    }

    /// The latest points of a family; empty for a histogram.
    pub(super) fn points(&self, name: &str) -> Arc<Vec<Point>> {
        let slot = self.0.get(name);
        let points =
            slot.map(|slot| Arc::clone(&slot.read().unwrap_or_else(PoisonError::into_inner)));
        points.unwrap_or_default()
    }

    fn observe(&self, name: &str, observer: &dyn AsyncInstrument<f64>) {
        for point in self.points(name).iter() {
            observer.observe(point.value, &point.attributes);
        }
    }
}

/// What the instruments of every exporter have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) options: Options,
    pub(super) resource: Resource,
    pub(super) slots: Slots,
}

/// Records into the histograms of every provider.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Vec<Histogram<f64>>);

impl Recorder {
    /// Records one value.
    pub fn record(&self, value: f64, attributes: &[KeyValue]) {
        for histogram in &self.0 {
            histogram.record(value, attributes);
        }
    }

    pub(super) fn add(&mut self, histogram: Histogram<f64>) {
        self.0.push(histogram);
    }
}

/// A meter provider built by `builder`, with the instruments of `families`, each with its limit of
/// series; and its histograms by name.
pub(super) fn provider(
    builder: MeterProviderBuilder,
    common: &Common,
    families: &[&'static Family],
    limits: Arc<HashMap<&'static str, usize>>,
    exponential: bool,
) -> (SdkMeterProvider, HashMap<&'static str, Histogram<f64>>) {
    let provider = builder
        .with_view(move |instrument: &Instrument| {
            let limit = limits.get(instrument.name())?;
            stream(instrument, *limit, exponential)
        })
        .build();
    let meter = provider.meter(SCOPE);
    let mut histograms = HashMap::new();
    for family in families.iter().copied() {
        let slots = common.slots.clone();
        let observe =
            move |observer: &dyn AsyncInstrument<f64>| slots.observe(family.name, observer);
        match family.kind {
            Kind::Histogram(buckets) => {
                let histogram = meter
                    .f64_histogram(family.name)
                    .with_description(family.help)
                    .with_unit(family.unit)
                    .with_boundaries(common.options.boundaries(buckets))
                    .build();
                histograms.insert(family.name, histogram);
            }
            Kind::Counter => {
                meter
                    .f64_observable_counter(family.name)
                    .with_description(family.help)
                    .with_unit(family.unit)
                    .with_callback(observe)
                    .build();
            }
            Kind::UpDownCounter => {
                meter
                    .f64_observable_up_down_counter(family.name)
                    .with_description(family.help)
                    .with_unit(family.unit)
                    .with_callback(observe)
                    .build();
            }
            Kind::Gauge => {
                meter
                    .f64_observable_gauge(family.name)
                    .with_description(family.help)
                    .with_unit(family.unit)
                    .with_callback(observe)
                    .build();
            }
        }
    }
    (provider, histograms)
}

fn stream(instrument: &Instrument, limit: usize, exponential: bool) -> Option<Stream> {
    let mut stream = Stream::builder().with_cardinality_limit(limit);
    if exponential && instrument.kind() == InstrumentKind::Histogram {
        stream = stream.with_aggregation(EXPONENTIAL);
    }
    stream.build().ok()
}
