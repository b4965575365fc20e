//! The readers of the meter providers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry_prometheus::PrometheusExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};
use prometheus::Registry;

use super::Error;

/// The reader that the provider owns, shared with the [`Push`](super::Push) that collects it.
#[derive(Debug, Clone)]
pub struct Reader(Arc<ManualReader>);

impl Reader {
    /// A reader that collects on demand, with `temporality`.
    pub fn new(temporality: Temporality) -> Self {
        let reader = ManualReader::builder().with_temporality(temporality);
        Reader(Arc::new(reader.build()))
    }
}

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// The bridge's reader, which `registry` gathers from.
pub(super) fn bridge(registry: &Registry) -> Result<PrometheusExporter, Error> {
    let built = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        // There is only one scope, so its labels would be the same on every series.
        .scope_info_enabled(false)
        .build();
    built.map_err(|error| Error::Prometheus(error.to_string()))
}
