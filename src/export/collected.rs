//! What one exporter collects for a push, and the interface that sends it.

use std::future::Future;

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use tokio::sync::Notify;

use super::outlet::Outlets;

/// The values of all instruments of one exporter at one moment. All parts have the same resource and
/// scope; they are separate because the SDK cannot merge the collections of meter providers.
#[derive(Debug, Default)]
pub(super) struct Collected(Vec<ResourceMetrics>);

impl Collected {
    /// Collects from all meter providers of an exporter.
    pub(super) fn from(outlets: &Outlets) -> Result<Self, OTelSdkError> {
        outlets.collect().map(Collected)
    }

    /// All parts. No series is in two of them, but a histogram may be.
    pub(super) fn all(&self) -> Vec<&ResourceMetrics> {
        self.0.iter().collect()
    }

    /// The parts that are not empty.
    pub(super) fn parts(&self) -> impl Iterator<Item = &ResourceMetrics> {
        let has_metrics = |part: &&ResourceMetrics| {
            let mut scopes = part.scope_metrics();
            scopes.any(|scope| scope.metrics().next().is_some())
        };
        self.0.iter().filter(has_metrics)
    }
}

/// A push of which at least one message was not accepted.
#[derive(Debug)]
pub struct NotAccepted {
    /// The reason, for the user.
    pub reason: String,
    /// Whether the receiver has answered every message, so that sending them again would not change
    /// anything.
    pub is_answered: bool,
}

impl From<OTelSdkError> for NotAccepted {
    fn from(error: OTelSdkError) -> Self {
        NotAccepted {
            // Omit the prefix that the SDK adds to the message.
            reason: match error {
                OTelSdkError::InternalFailure(reason) => reason,
                other => other.to_string(),
            },
            is_answered: false,
        }
    }
}

/// Sends the metrics of an exporter.
pub(super) trait Exporter: Send + Sync + 'static {
    /// Sends all parts as one push. Once `give_up` is notified, nothing more is sent.
    fn export(
        &self,
        collected: &Collected,
        give_up: &Notify,
    ) -> impl Future<Output = Result<(), NotAccepted>> + Send;

    /// Shuts the exporter down.
    fn shutdown(&self) -> OTelSdkResult;

    /// The temporality to collect with.
    fn temporality(&self) -> Temporality;
}
