//! What a first push would hold, as one message.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_sdk::metrics::data::ResourceMetrics;

use super::ledger::Ledger;
use super::message::Packer;
use super::round::header;
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
    let mut request = ExportMetricsServiceRequest::default();
    for part in parts {
        let resource = part.resource();
        let schema_url = resource.schema_url().unwrap_or_default().to_owned();
        let mut packer = Packer::new(resource.into(), schema_url, usize::MAX);
        for scope in part.scope_metrics() {
            let last = packer.scope(header(scope));
            let full = scope.metrics().flat_map(|metric| {
                let mut metric = Metric::from(metric);
                let points = points(&metric.name);
                ledger.prepare(&mut metric, &points);
                packer.add(metric)
            });
            let full: Vec<_> = full.collect();
            let messages = last.into_iter().chain(full).chain(packer.rest());
            request
                .resource_metrics
                .extend(messages.flat_map(|message| message.resource_metrics));
        }
    }
    request
}
