//! What an exporter collects at a time, and what sends it.

use std::future::Future;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader as _;

use super::histograms::Outlet;
use super::push::Reader;

/// What the instruments of one exporter show at a time. Of one resource, in two parts, since
/// the SDK cannot join what two meter providers collect.
#[derive(Debug)]
pub(super) struct Collected([ResourceMetrics; 2]);

impl Collected {
    /// Collects from an exporter's provider, and its histograms.
    pub(super) fn from(
        reader: &Reader,
        histograms: &Outlet,
    ) -> Result<Self, opentelemetry_sdk::error::OTelSdkError> {
        let mut metrics = ResourceMetrics::default();
        reader.collect(&mut metrics)?;
        Ok(Collected([metrics, histograms.collect()?]))
    }

    /// The parts that are not empty. No metric is in two of them.
    pub(super) fn parts(&self) -> impl Iterator<Item = &ResourceMetrics> {
        let has_metrics = |part: &&ResourceMetrics| {
            let mut scopes = part.scope_metrics();
            scopes.any(|scope| scope.metrics().next().is_some())
        };
        self.0.iter().filter(has_metrics)
    }
}

/// What sends the metrics of an exporter.
pub(super) trait Exporter: Send + Sync + 'static {
    /// Sends all parts: one push.
    fn export(&self, collected: &Collected) -> impl Future<Output = OTelSdkResult> + Send;

    /// Ends it.
    fn shutdown(&self) -> OTelSdkResult;

    /// The temporality that it collects with.
    fn temporality(&self) -> Temporality;
}

/// The SDK's exporters send each part by itself.
impl<E: PushMetricExporter> Exporter for E {
    async fn export(&self, collected: &Collected) -> OTelSdkResult {
        for part in collected.parts() {
            PushMetricExporter::export(self, part).await?;
        }
        Ok(())
    }

    fn shutdown(&self) -> OTelSdkResult {
        PushMetricExporter::shutdown(self)
    }

    fn temporality(&self) -> Temporality {
        PushMetricExporter::temporality(self)
    }
}
