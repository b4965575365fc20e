//! What a first push would contain, as one message.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::metrics::data::ResourceMetrics;

use super::ledger::Ledger;
use super::saved::Baselines;
use super::{PointsOf, delivery};
use crate::settings::Temporality;

/// The metrics of all `parts`, which are of one resource, with the start times of `points`.
pub(in crate::export) fn whole(
    parts: &[&ResourceMetrics],
    points: &PointsOf,
) -> ExportMetricsServiceRequest {
    let mut ledger = Ledger::new(Temporality::Cumulative, Vec::new(), Baselines::default());
    ledger.begin(delivery::collected_at(parts));
    let messages = parts
        .iter()
        .map(|part| ExportMetricsServiceRequest::from(*part));
    let mut resource_metrics: Vec<_> = messages.flat_map(|one| one.resource_metrics).collect();
    let scopes = resource_metrics.iter_mut();
    let scopes = scopes.flat_map(|resource| &mut resource.scope_metrics);
    for metric in scopes.flat_map(|scope| &mut scope.metrics) {
        let points = points(&metric.name);
        ledger.prepare(metric, &points);
    }
    ExportMetricsServiceRequest { resource_metrics }
}
