//! All collected metrics as one message.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::metrics::data::ResourceMetrics;

use super::ledger::Ledger;
use super::saved::Baselines;
use super::{PointsOf, delivery, message};
use crate::settings::Temporality;

/// The metrics of all `parts`, which are of one resource and one scope.
pub(in crate::export) fn merged(parts: &[&ResourceMetrics]) -> ExportMetricsServiceRequest {
    let mut messages = parts
        .iter()
        .map(|part| ExportMetricsServiceRequest::from(*part));
    let mut all = messages.next().unwrap_or_default();
    let scope = all.resource_metrics.first_mut();
    if let Some(scope) = scope.and_then(|resource| resource.scope_metrics.first_mut()) {
        for mut message in messages {
            let metrics = message::metrics(&mut message);
            scope.metrics.extend(metrics.map(std::mem::take));
        }
    }
    all
}

/// What a first push would contain: the metrics of all `parts`, with the start times of `points`.
pub(in crate::export) fn first_push(
    parts: &[&ResourceMetrics],
    points: &PointsOf,
) -> ExportMetricsServiceRequest {
    let mut ledger = Ledger::new(Temporality::Cumulative, Vec::new(), Baselines::default());
    ledger.begin(delivery::collected_at(parts));
    let mut push = merged(parts);
    for metric in message::metrics(&mut push) {
        let points = points(&metric.name);
        ledger.prepare(metric, &points);
    }
    push
}
