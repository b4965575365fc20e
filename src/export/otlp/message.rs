//! Splits metrics into messages below a size limit. The limit applies to the encoded, uncompressed
//! message, as in receivers.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::point::{DataPoint, with_points};

/// The maximum size of the tag and the length of a nested message.
const NESTING: usize = 6;

/// Fills messages one after another.
pub(super) struct Packer {
    limit: usize,
    resource: Resource,
    schema_url: String,
    scope: ScopeMetrics,
    /// The metrics of the message that is being filled.
    metrics: Vec<Metric>,
    /// An upper bound of the message's encoded size.
    size: usize,
    /// The number of points so far that exceed the limit on their own. They are not sent.
    pub(super) dropped: u64,
}

impl Packer {
    /// A packer for messages of at most `limit` bytes about `resource`.
    pub(super) fn new(resource: Resource, schema_url: String, limit: usize) -> Self {
        Packer {
            limit,
            resource,
            schema_url,
            scope: ScopeMetrics::default(),
            metrics: Vec::new(),
            size: 0,
            dropped: 0,
        }
    }

    /// Sets the scope of the metrics that follow. Returns the current message if it has metrics of
    /// another scope.
    pub(super) fn scope(&mut self, scope: ScopeMetrics) -> Option<ExportMetricsServiceRequest> {
        if scope == self.scope {
            return None;
        }
        let rest = self.rest();
        self.scope = scope;
        rest
    }

    /// Adds a metric. Returns the messages that are full.
    pub(super) fn add(&mut self, mut metric: Metric) -> Vec<ExportMetricsServiceRequest> {
        let mut full = Vec::new();
        let Some(mut data) = metric.data.take() else {
            return full;
        };
        with_points!(&mut data, points => {
            let points = std::mem::take(points);
            metric.data = Some(data);
            self.fill(&metric, points, &mut full)
        });
        full
    }

    /// The last message, if there is one.
    pub(super) fn rest(&mut self) -> Option<ExportMetricsServiceRequest> {
        self.size = 0;
        let metrics = std::mem::take(&mut self.metrics);
        (!metrics.is_empty()).then(|| ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                schema_url: self.schema_url.clone(),
                scope_metrics: vec![ScopeMetrics {
                    metrics,
                    ..self.scope.clone()
                }],
            }],
        })
    }

    /// Adds `points` to the current message, as a copy of the metric `empty`.
    fn fill<P: DataPoint>(
        &mut self,
        empty: &Metric,
        points: Vec<P>,
        full: &mut Vec<ExportMetricsServiceRequest>,
    ) {
        // One nesting each for the metric, its data, the scope and the resource.
        let header = empty.encoded_len().saturating_add(2 * NESTING);
        let base = self.empty_len();
        let alone = base.saturating_add(header);
        let mut open: Option<Vec<P>> = None;
        for point in points {
            let length = point.encoded_len();
            let prefix = prost::length_delimiter_len(length).saturating_add(1);
            let size = length.saturating_add(prefix);
            if alone.saturating_add(size) > self.limit {
                self.dropped = self.dropped.saturating_add(1);
                continue;
            }
            let before = self.size.max(base);
            let opened = if open.is_some() { 0 } else { header };
            let after = before.saturating_add(opened).saturating_add(size);
            if after > self.limit {
                self.close(empty, open.take());
                full.extend(self.rest());
                self.size = alone.saturating_add(size);
            } else {
                self.size = after;
            }
            open.get_or_insert_default().push(point);
        }
        self.close(empty, open);
    }

    fn close<P: DataPoint>(&mut self, empty: &Metric, points: Option<Vec<P>>) {
        let Some(points) = points else { return };
        let mut metric = empty.clone();
        if let Some(list) = metric.data.as_mut().and_then(P::list) {
            *list = points;
        }
        self.metrics.push(metric);
    }

    /// An upper bound for the size of a message without metrics.
    fn empty_len(&self) -> usize {
        let parts = [
            self.resource.encoded_len(),
            self.schema_url.len(),
            self.scope.encoded_len(),
            4 * NESTING,
        ];
        parts.into_iter().fold(0, usize::saturating_add)
    }
}

/// The number of points in a message.
pub(super) fn points(request: &mut ExportMetricsServiceRequest) -> u64 {
    metrics(request)
        .filter_map(|metric| metric.data.as_mut())
        .map(|data| with_points!(data, points => points.len() as u64))
        .sum()
}

/// The metrics of a message.
pub(super) fn metrics(
    request: &mut ExportMetricsServiceRequest,
) -> impl Iterator<Item = &mut Metric> {
    let scopes = request.resource_metrics.iter_mut();
    let scopes = scopes.flat_map(|resource| &mut resource.scope_metrics);
    scopes.flat_map(|scope| &mut scope.metrics)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{
        AnyValue, InstrumentationScope, KeyValue, any_value,
    };
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_proto::tonic::metrics::v1::{Gauge, NumberDataPoint, number_data_point};

    use super::*;

    fn pair(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(any_value::Value::StringValue(value.to_owned())),
            }),
            ..KeyValue::default()
        }
    }

    fn gauge(name: &str, labels: impl Iterator<Item = String>) -> Metric {
        let points = labels.map(|label| NumberDataPoint {
            attributes: vec![pair("label", &label)],
            time_unix_nano: 1,
            value: Some(number_data_point::Value::AsDouble(1.0)),
            ..NumberDataPoint::default()
        });
        Metric {
            name: name.to_owned(),
            description: "What it means. ".repeat(5),
            data: Some(Data::Gauge(Gauge {
                data_points: points.collect(),
            })),
            ..Metric::default()
        }
    }

    fn packer(limit: usize) -> Packer {
        let resource = Resource {
            attributes: vec![pair("service.name", "agent")],
            ..Resource::default()
        };
        let mut packer = Packer::new(resource, "https://schema".to_owned(), limit);
        packer.scope(ScopeMetrics {
            scope: Some(InstrumentationScope {
                name: "scope".to_owned(),
                ..InstrumentationScope::default()
            }),
            ..ScopeMetrics::default()
        });
        packer
    }

    fn labels(messages: &[ExportMetricsServiceRequest]) -> Vec<String> {
        let mut messages = messages.to_vec();
        let metrics = messages.iter_mut().flat_map(metrics);
        let mut labels = Vec::new();
        for metric in metrics {
            let list = metric.data.as_mut().and_then(NumberDataPoint::list);
            for point in list.unwrap() {
                labels.push(format!("{} {:?}", metric.name, point.attributes[0].value));
            }
        }
        labels
    }

    #[test]
    fn every_message_is_below_the_limit_and_no_point_is_lost_or_repeated() {
        let metrics = || {
            [3, 0, 500, 1, 40].iter().enumerate().map(|(number, size)| {
                let label = move |place: usize| format!("{place:0width$}", width = place % 90);
                gauge(&format!("metric.{number}"), (0..*size).map(label))
            })
        };
        let mut whole = packer(usize::MAX);
        metrics().for_each(|metric| assert!(whole.add(metric).is_empty()));
        let whole = whole.rest().unwrap();
        for limit in [600, 1_000, 4_096, 20_000, 1 << 20] {
            let mut packer = packer(limit);
            let mut messages: Vec<_> = metrics().flat_map(|metric| packer.add(metric)).collect();
            messages.extend(packer.rest());
            let sizes: Vec<_> = messages.iter().map(prost::Message::encoded_len).collect();
            assert!(
                sizes.iter().all(|size| *size <= limit),
                "{limit}: {sizes:?}"
            );
            // Messages are not much smaller than the limit either.
            let least = whole.encoded_len() / limit;
            assert!(messages.len() <= 2 * least + 1, "{limit}: {sizes:?}");
            assert_eq!(packer.dropped, 0);
            assert_eq!(labels(&messages), labels(std::slice::from_ref(&whole)));
        }
    }

    #[test]
    fn a_point_that_is_larger_than_a_message_is_left_out_alone() {
        let mut packer = packer(600);
        let names = ["before".to_owned(), "x".repeat(600), "after".to_owned()];
        let mut messages = packer.add(gauge("metric", names.into_iter()));
        messages.extend(packer.rest());
        assert_eq!(packer.dropped, 1);
        assert_eq!(labels(&messages).len(), 2);
    }
}
