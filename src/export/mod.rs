//! OpenTelemetry: meter providers, instruments and readers.
//!
//! With each publication, the readings of the catalogue are stored for the instruments' callbacks,
//! the text of `/metrics` is rendered, and a push is queued. Every exporter gets the same readings;
//! `shown` keeps track of which have been delivered.

mod collected;
pub mod console;
mod histograms;
mod instruments;
pub mod otlp;
pub mod prometheus;
mod push;
mod reader;
mod resource;
pub mod shown;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{MeterProviderBuilder, SdkMeterProvider, Temporality};

use crate::metrics::{Family, Options, Reading, Source};
use crate::settings::Settings;
pub use collected::NotAccepted;
use collected::{Collected, Exporter as _};
pub use histograms::Histograms;
use histograms::Outlet;
pub use instruments::Recorder;
use instruments::Slots;
use otlp::PointCounts;
use prometheus::Bridge;
pub use push::{Delivered, Push};
pub use reader::Reader;
pub use resource::resource;

/// The scope of every instrument.
const SCOPE: &str = env!("CARGO_PKG_NAME");

/// Why an exporter cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The OTLP exporter cannot be built from its settings.
    #[error("OTEL_EXPORTER_OTLP_*: {0}")]
    Otlp(String),
    /// The Prometheus bridge cannot be built.
    #[error("the Prometheus bridge cannot be built: {0}")]
    Prometheus(String),
}

/// Collects the content of a push.
pub struct Collector {
    reader: Reader,
    histograms: Arc<Outlet>,
    slots: Slots,
}

impl Collector {
    /// The metrics that were published last, with cumulative temporality.
    ///
    /// # Errors
    ///
    /// If the SDK cannot collect them.
    pub fn collect(&self) -> Result<ExportMetricsServiceRequest, Error> {
        let collected = Collected::from(&self.reader, &self.histograms);
        let collected = collected.map_err(|error| Error::Otlp(error.to_string()))?;
        let parts: Vec<_> = collected.parts().collect();
        let slots = self.slots.clone();
        let points: otlp::PointsOf = Arc::new(move |name| slots.points(name));
        Ok(otlp::whole(&parts, &points))
    }
}

/// All exporters with their data. Each has its own meter provider, since histograms may differ
/// between exporters.
pub struct Exporters {
    providers: Vec<SdkMeterProvider>,
    slots: Slots,
    recorders: HashMap<&'static str, Recorder>,
    histograms: Histograms,
    bridge: Option<Bridge>,
    pushes: Vec<Push>,
    points: Option<Arc<PointCounts>>,
}

impl Exporters {
    /// The exporters that are enabled in `settings`.
    ///
    /// # Errors
    ///
    /// If one of them cannot be built.
    pub fn new(settings: &Settings, options: &Options) -> Result<Self, Error> {
        let resource = resource(settings);
        let mut exporters = Exporters::none(options, &resource);
        let builder = || SdkMeterProvider::builder().with_resource(resource.clone());
        if let Some(otlp) = &settings.otel.otlp_metrics {
            let config = delivery(settings, options, exporters.slots.clone());
            let exporter = otlp::Delivery::new(otlp, config)?;
            exporters.points = Some(exporter.counts());
            let patience = exporter.patience();
            let exponential = settings.otel.exponential_histograms;
            let own = &mut exporters.histograms;
            let own = own.pushed(exporter.temporality(), exponential)?;
            let target = &otlp.shown_endpoint();
            let (push, reader) = Push::start("otlp", target, exporter, own, patience);
            exporters.add(builder().with_reader(reader), options, exponential);
            exporters.pushes.push(push);
        }
        if settings.otel.metrics.console {
            let exporter = console::Console::default();
            let own = exporters.histograms.pushed(exporter.temporality(), false)?;
            let patience = Duration::from_secs(10);
            let (push, reader) = Push::start("console", "stdout", exporter, own, patience);
            exporters.add(builder().with_reader(reader), options, false);
            exporters.pushes.push(push);
        }
        if settings.otel.metrics.prometheus {
            exporters.add_bridge(options, &resource)?;
        }
        Ok(exporters)
    }

    /// Exporters that send and serve nothing: the page of `/metrics`, and a collector.
    ///
    /// # Errors
    ///
    /// When the page cannot be had.
    pub fn collecting(settings: &Settings, options: &Options) -> Result<(Self, Collector), Error> {
        let resource = resource(settings);
        let mut exporters = Exporters::none(options, &resource);
        exporters.add_bridge(options, &resource)?;
        let exponential = settings.otel.exponential_histograms;
        let histograms = exporters
            .histograms
            .pushed(Temporality::Cumulative, exponential)?;
        let reader = Reader::new(Temporality::Cumulative);
        let builder = SdkMeterProvider::builder().with_resource(resource);
        exporters.add(builder.with_reader(reader.clone()), options, exponential);
        let slots = exporters.slots.clone();
        Ok((
            exporters,
            Collector {
                reader,
                histograms,
                slots,
            },
        ))
    }

    fn none(options: &Options, resource: &Resource) -> Self {
        Exporters {
            histograms: Histograms::new(options, resource),
            providers: Vec::new(),
            slots: Slots::new(options),
            recorders: HashMap::new(),
            bridge: None,
            pushes: Vec::new(),
            points: None,
        }
    }

    fn add_bridge(&mut self, options: &Options, resource: &Resource) -> Result<(), Error> {
        let (bridge, reader) = Bridge::new(self.histograms.scraped()?)?;
        let builder = SdkMeterProvider::builder().with_resource(resource.clone());
        self.add(builder.with_reader(reader), options, false);
        self.bridge = Some(bridge);
        Ok(())
    }

    fn add(&mut self, builder: MeterProviderBuilder, options: &Options, exponential: bool) {
        let families = options.families();
        let families = families.filter(|family| !histograms::is_measured(family));
        let (provider, histograms) =
            instruments::provider(builder, options, families, &self.slots, exponential);
        self.providers.push(provider);
        for (name, histogram) in histograms {
            self.recorders.entry(name).or_default().add(histogram);
        }
    }

    /// Returns a recorder for a family that the agent records directly.
    pub fn recorder(&self, family: &Family) -> Recorder {
        self.recorders.get(family.name).cloned().unwrap_or_default()
    }

    /// The families that are measured from events.
    pub fn histograms(&self) -> &Histograms {
        &self.histograms
    }

    /// Pushes so far, by exporter and outcome.
    pub fn pushes(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.pushes.iter().flat_map(Push::counts).collect()
    }

    /// Data points pushed so far, by exporter and outcome.
    pub fn points(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counts = self.points.iter().flat_map(|points| points.by_outcome());
        counts
            .map(|(outcome, count)| ("otlp", outcome, count))
            .collect()
    }

    /// Publishes the readings of state `number` to every exporter.
    pub fn publish(&self, number: u64, readings: Vec<Reading>) {
        self.set(readings);
        if let Some(bridge) = &self.bridge {
            bridge.render(number);
        }
        for push in &self.pushes {
            push.offer(number);
        }
    }

    fn set(&self, readings: Vec<Reading>) {
        for reading in readings {
            self.slots.set(reading.family.name, reading.points);
        }
    }

    /// The latest state that every exporter in use has delivered, by a push that was accepted or by
    /// a scrape. An exporter is in use if it has delivered a state within `window`.
    pub fn shown(&self, window: Duration) -> u64 {
        let pushes = self.pushes.iter().map(Push::shown);
        shown::by_all(
            pushes.chain(self.bridge.as_ref().map(Bridge::shown)),
            window,
        )
    }

    /// The condition of each exporter.
    pub fn delivered(&self) -> Vec<Delivered> {
        let pushes = self.pushes.iter().map(Push::delivered);
        pushes
            .chain(self.bridge.as_ref().map(Bridge::delivered))
            .collect()
    }

    /// The page for `/metrics`, if it is enabled.
    pub fn page(&self) -> Option<prometheus::Page> {
        self.bridge.as_ref().map(Bridge::page)
    }

    /// Pushes the readings of state `number` and shuts the exporters down, within `patience`.
    /// `/metrics` is no longer served.
    pub async fn shutdown(&self, number: u64, readings: Vec<Reading>, patience: Duration) {
        self.set(readings);
        let ends = self.pushes.iter().map(|push| push.finish(number, patience));
        futures_util::future::join_all(ends).await;
        for provider in &self.providers {
            if let Err(error) = provider.shutdown() {
                tracing::debug!(%error, "a meter provider could not be shut down");
            }
        }
    }
}

fn delivery(settings: &Settings, options: &Options, slots: Slots) -> otlp::DeliveryConfig {
    let counted = options.families();
    let counted = counted.filter(|family| matches!(family.source, Source::Counted(_)));
    let api = settings.prefect.api_url.as_str();
    otlp::DeliveryConfig {
        temporality: settings.otel.temporality,
        max_message_bytes: settings.otel.max_message_bytes,
        interval: settings.sampling.interval,
        points: Arc::new(move |name| slots.points(name)),
        counted: counted.map(|family| family.name).collect(),
        file: settings
            .state_dir
            .as_ref()
            .map(|folder| otlp::DeliveredFile::new(folder, api)),
    }
}
