//! What an exporter collects at a time, and what sends it.

use std::future::Future;

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader as _;

use tokio::sync::Notify;

use super::histograms::Outlet;
use super::push::Reader;

/// What the instruments of one exporter show at a time. Of one resource, in two parts, since
/// the SDK cannot join what two meter providers collect.
#[derive(Debug, Default)]
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

/// A push that was not accepted as a whole.
#[derive(Debug)]
pub struct NotAccepted {
    /// Why, for the user.
    pub reason: String,
    /// Whether the receiver has answered all of it all the same, so that sending it again would
    /// change nothing.
    pub is_answered: bool,
}

impl From<OTelSdkError> for NotAccepted {
    fn from(error: OTelSdkError) -> Self {
        NotAccepted {
            // Without the SDK's words around it.
            reason: match error {
                OTelSdkError::InternalFailure(reason) => reason,
                other => other.to_string(),
            },
            is_answered: false,
        }
    }
}

/// What sends the metrics of an exporter.
pub(super) trait Exporter: Send + Sync + 'static {
    /// Sends all parts: one push. Once `give_up` is notified, nothing more is sent.
    fn export(
        &self,
        collected: &Collected,
        give_up: &Notify,
    ) -> impl Future<Output = Result<(), NotAccepted>> + Send;

    /// Ends it.
    fn shutdown(&self) -> OTelSdkResult;

    /// The temporality that it collects with.
    fn temporality(&self) -> Temporality;
}
