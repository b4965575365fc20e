//! OpenTelemetry: meter providers, instruments and readers.
//!
//! With each publication, the readings of the catalogue are stored for the instruments' callbacks,
//! and a push is queued; the text of `/metrics` is rendered when it is asked for. Every exporter gets
//! the same readings; `shown` keeps track of which have been delivered.

mod collected;
pub mod console;
mod histograms;
mod instruments;
pub mod otlp;
mod outlet;
pub mod prometheus;
mod push;
mod reader;
mod resource;
pub mod shown;
mod text;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::Histogram;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::metrics::Temporality;

use crate::core::events::Event;
use crate::metrics::{Family, Options, Reading, Source};
use crate::settings::Settings;
pub use collected::NotAccepted;
use collected::{Collected, Exporter as _};
use histograms::Recording;
pub use histograms::{Forgotten, Histograms};
pub use instruments::Recorder;
use instruments::{Common, Slots};
use otlp::PointCounts;
use outlet::{How, Outlet, Outlets, Part};
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
    outlets: Outlets,
    slots: Slots,
}

impl Collector {
    /// The metrics that were published last, with cumulative temporality.
    ///
    /// # Errors
    ///
    /// If the SDK cannot collect them.
    pub fn collect(&self) -> Result<ExportMetricsServiceRequest, Error> {
        let collected = Collected::from(&self.outlets);
        let collected = collected.map_err(|error| Error::Otlp(error.to_string()))?;
        let parts: Vec<_> = collected.parts().collect();
        let slots = self.slots.clone();
        let points: otlp::PointsOf = Arc::new(move |name| slots.points(name));
        Ok(otlp::first_push(&parts, &points))
    }
}

/// All exporters with their data. Each has its own instruments, since histograms may differ between
/// exporters; `/metrics` shares those of a push that are equal.
pub struct Exporters {
    common: Arc<Common>,
    outlets: Vec<Outlets>,
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
        let mut exporters = Exporters::none(settings, options);
        if let Some(otlp) = &settings.otel.otlp_metrics {
            let config = delivery(settings, options, exporters.common.slots.clone());
            let exporter = otlp::Delivery::new(otlp, config)?;
            exporters.points = Some(exporter.counts());
            let patience = exporter.patience();
            let exponential = settings.otel.exponential_histograms;
            let outlets = exporters.outlets(How {
                temporality: exporter.temporality(),
                exponential,
            });
            let target = &otlp.shown_endpoint();
            let push = Push::start("otlp", target, exporter, outlets, patience);
            exporters.pushes.push(push);
        }
        if settings.otel.metrics.console {
            let exporter = console::Console::default();
            let outlets = exporters.outlets(How {
                temporality: exporter.temporality(),
                exponential: false,
            });
            let patience = Duration::from_secs(10);
            let push = Push::start("console", "stdout", exporter, outlets, patience);
            exporters.pushes.push(push);
        }
        if settings.otel.metrics.prometheus {
            exporters.add_bridge()?;
        }
        Ok(exporters)
    }

    /// Exporters that send and serve nothing: the page of `/metrics`, and a collector.
    ///
    /// # Errors
    ///
    /// When the page cannot be had.
    pub fn collecting(settings: &Settings, options: &Options) -> Result<(Self, Collector), Error> {
        let mut exporters = Exporters::none(settings, options);
        let outlets = exporters.outlets(How {
            temporality: Temporality::Cumulative,
            exponential: settings.otel.exponential_histograms,
        });
        exporters.add_bridge()?;
        let slots = exporters.common.slots.clone();
        Ok((exporters, Collector { outlets, slots }))
    }

    fn none(settings: &Settings, options: &Options) -> Self {
        let common = Common {
            options: options.clone(),
            resource: resource(settings),
            slots: Slots::new(options),
        };
        Exporters {
            common: Arc::new(common),
            outlets: Vec::new(),
            recorders: HashMap::new(),
            histograms: Histograms::new(options.histogram_limit()),
            bridge: None,
            pushes: Vec::new(),
            points: None,
        }
    }

    fn add_bridge(&mut self) -> Result<(), Error> {
        // Histograms take most memory per series, so they are shared with pushes where possible.
        let shared = self.histograms.read_as(How::SCRAPED);
        let measured = shared.unwrap_or_else(|| {
            let own = Arc::new(Outlet::new(How::SCRAPED, Part::Measured, &self.common));
            self.histograms.add(&own);
            own
        });
        let (bridge, recorded) = Bridge::new(&self.common, measured)?;
        self.add_recorders(recorded);
        self.bridge = Some(bridge);
        Ok(())
    }

    /// The instruments of another exporter of pushes.
    fn outlets(&mut self, how: How) -> Outlets {
        let outlets = Outlets::new(how, &self.common);
        self.histograms.add(&outlets.measured);
        self.add_recorders(outlets.recorded.histograms());
        self.outlets.push(outlets.clone());
        outlets
    }

    fn add_recorders(&mut self, histograms: HashMap<&'static str, Histogram<f64>>) {
        for (name, histogram) in histograms {
            self.recorders.entry(name).or_default().add(histogram);
        }
    }

    /// Returns a recorder for a family that the agent records directly.
    pub fn recorder(&self, family: &Family) -> Recorder {
        self.recorders.get(family.name).cloned().unwrap_or_default()
    }

    /// Records the events of a cycle of the workspace at `place` into the families that are measured
    /// from them. Then `note` is called, before anything recorded can be dropped.
    pub fn measure(&self, place: usize, options: &Options, events: &[Event], note: impl FnOnce()) {
        let measure = |recording: &mut Recording<'_>| {
            for family in options.families() {
                let Source::Measured(measure) = family.source else {
                    continue;
                };
                for event in events {
                    if let Some((values, seconds)) = measure(event)
                        && options.has_series(family, &values)
                    {
                        let attributes = options.counted(family, &values, event.tags());
                        recording.add(family, place, &values, seconds, &attributes);
                    }
                }
            }
        };
        self.histograms.record(measure, note);
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

    /// Publishes the readings of the publication `number` to every exporter.
    pub fn publish(&self, number: u64, readings: Vec<Reading>) {
        self.set(number, readings);
        for push in &self.pushes {
            push.offer(number);
        }
    }

    fn set(&self, number: u64, readings: Vec<Reading>) {
        // A push may be collected at any time: before it can contain new points, there is room for
        // them.
        for outlets in &self.outlets {
            outlets.observed.fit(&readings);
        }
        let replace = || {
            for reading in readings {
                self.common.slots.set(reading.family.name, reading.points);
            }
        };
        match &self.bridge {
            Some(bridge) => bridge.publish(number, replace),
            None => replace(),
        }
    }

    /// The latest publication that every exporter in use has delivered, by a push that was accepted
    /// or by a scrape. An exporter is in use if it has delivered one within `window`.
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

    /// Pushes the readings of the publication `number` and shuts the exporters down, within `patience`.
    /// `/metrics` is no longer served.
    pub async fn shutdown(&self, number: u64, readings: Vec<Reading>, patience: Duration) {
        self.set(number, readings);
        let ends = self.pushes.iter().map(|push| push.finish(number, patience));
        futures_util::future::join_all(ends).await;
        self.outlets.iter().for_each(Outlets::shutdown);
        if let Some(bridge) = &self.bridge {
            bridge.shutdown();
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
        file: settings.state_dir.as_ref().map(|folder| {
            let workspaces = settings.workspaces.iter();
            let names: Vec<_> = workspaces.map(|one| Arc::clone(&one.name)).collect();
            let identity = format!("{} {}", options.identity(), names.is_empty());
            otlp::DeliveredFile::new(folder, api, identity, names)
        }),
    }
}

#[cfg(test)]
mod tests;
