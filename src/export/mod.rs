//! OpenTelemetry: the meter provider, its instruments and readers.
//!
//! Once a cycle the catalogue's readings are published: they are put where the instruments'
//! callbacks find them, the text of `/metrics` is rendered, and a push is handed over. Every
//! exporter sees the same readings.

pub mod otlp;
pub mod prometheus;
mod push;
mod resource;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use opentelemetry::metrics::{AsyncInstrument, Histogram, Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};

use crate::metrics::{Family, Kind, Point, Reading, Source, catalogue};
use crate::settings::Settings;
use prometheus::Bridge;
pub use push::Push;
pub use resource::resource;

/// The scope of every instrument.
const SCOPE: &str = env!("CARGO_PKG_NAME");

/// Why an exporter cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The OTLP exporter refuses its settings.
    #[error("OTEL_EXPORTER_OTLP_*: {0}")]
    Otlp(String),
    /// The Prometheus bridge cannot be built.
    #[error("the Prometheus bridge cannot be built: {0}")]
    Prometheus(String),
}

/// The latest points of one family, where its instrument's callback finds them.
type Slot = Arc<RwLock<Arc<Vec<Point>>>>;

/// All exporters and what feeds them.
pub struct Exporters {
    provider: SdkMeterProvider,
    slots: HashMap<&'static str, Slot>,
    histograms: HashMap<&'static str, Histogram<f64>>,
    bridge: Option<Bridge>,
    pushes: Vec<Push>,
}

impl Exporters {
    /// The exporters that `settings` ask for.
    ///
    /// # Errors
    ///
    /// When one of them cannot be built.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let limit = settings.cardinality_limit;
        let mut builder = SdkMeterProvider::builder()
            .with_resource(resource(settings))
            .with_view(move |instrument: &Instrument| stream(instrument, limit));
        let mut pushes = Vec::new();
        if let Some(otlp) = &settings.otel.otlp_metrics {
            let exporter = otlp::metrics(otlp, settings.otel.temporality)?;
            let (push, reader) =
                Push::start("otlp", otlp.endpoint.as_str(), exporter, otlp.timeout);
            builder = builder.with_reader(reader);
            pushes.push(push);
        }
        if settings.otel.metrics.console {
            let exporter = opentelemetry_stdout::MetricExporter::default();
            let (push, reader) =
                Push::start("console", "stdout", exporter, Duration::from_secs(10));
            builder = builder.with_reader(reader);
            pushes.push(push);
        }
        let mut bridge = None;
        if settings.otel.metrics.prometheus {
            let (built, reader) = Bridge::new()?;
            builder = builder.with_reader(reader);
            bridge = Some(built);
        }
        let provider = builder.build();
        let meter = provider.meter(SCOPE);
        let mut exporters = Exporters {
            provider,
            slots: HashMap::new(),
            histograms: HashMap::new(),
            bridge,
            pushes,
        };
        for family in catalogue() {
            exporters.register(&meter, family);
        }
        Ok(exporters)
    }

    fn register(&mut self, meter: &Meter, family: &'static Family) {
        if let (Kind::Histogram(boundaries), Source::Recorded) = (family.kind, family.source) {
            let histogram = meter
                .f64_histogram(family.name)
                .with_description(family.help)
                .with_unit(family.unit)
                .with_boundaries(boundaries.to_vec())
                .build();
            self.histograms.insert(family.name, histogram);
            return;
        }
        let slot = Slot::default();
        self.slots.insert(family.name, Arc::clone(&slot));
        match family.kind {
            Kind::Counter => {
                meter
                    .f64_observable_counter(family.name)
                    .with_description(family.help)
                    .with_unit(family.unit)
                    .with_callback(move |observer| observe(&slot, observer))
                    .build();
            }
            Kind::Gauge | Kind::Histogram(_) => {
                meter
                    .f64_observable_gauge(family.name)
                    .with_description(family.help)
                    .with_unit(family.unit)
                    .with_callback(move |observer| observe(&slot, observer))
                    .build();
            }
        }
    }

    /// The instrument of a family whose points are recorded as they happen.
    pub fn histogram(&self, family: &Family) -> Option<Histogram<f64>> {
        self.histograms.get(family.name).cloned()
    }

    /// Publishes the readings of a cycle to every exporter.
    pub fn publish(&self, readings: Vec<Reading>) {
        for reading in readings {
            if let Some(slot) = self.slots.get(reading.family.name) {
                *slot.write().unwrap_or_else(PoisonError::into_inner) = reading.points;
            }
        }
        if let Some(bridge) = &self.bridge {
            bridge.render();
        }
        for push in &self.pushes {
            push.offer();
        }
    }

    /// The page of `/metrics`, where it is served.
    pub fn page(&self) -> Option<prometheus::Page> {
        self.bridge.as_ref().map(Bridge::page)
    }

    /// Pushes what was published last once more and ends the exporters, within `patience`.
    pub async fn shutdown(&self, patience: Duration) {
        let ends = self.pushes.iter().map(|push| push.finish(patience));
        futures_util::future::join_all(ends).await;
        if let Err(error) = self.provider.shutdown() {
            tracing::debug!(%error, "the meter provider did not end well");
        }
    }
}

fn observe(slot: &Slot, observer: &dyn AsyncInstrument<f64>) {
    let points = Arc::clone(&slot.read().unwrap_or_else(PoisonError::into_inner));
    for point in points.iter() {
        observer.observe(point.value, &point.attributes);
    }
}

/// Raises the SDK's limit of 2,000 series for the families of Prefect's objects. It reserves
/// memory by the limit, so the others keep theirs.
fn stream(instrument: &Instrument, limit: usize) -> Option<Stream> {
    let family = catalogue().find(|family| family.name == instrument.name())?;
    let of_prefect = !family.attributes.is_empty() && matches!(family.source, Source::Read(..));
    let limit = if of_prefect { limit } else { limit.min(2_000) };
    Stream::builder().with_cardinality_limit(limit).build().ok()
}
