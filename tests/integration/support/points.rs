//! Single data points, as a receiver gets them.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint, number_data_point,
};

use super::collected::Collection;
use super::otlp::Receiver;
use super::prefect::free_port;

/// A receiver over HTTP, and its endpoint.
pub(crate) async fn over_http() -> (Receiver, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    (Receiver::http(listener).await, endpoint)
}

/// The same over gRPC.
pub(crate) fn over_grpc() -> (Receiver, String) {
    let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    (Receiver::grpc(address), format!("http://{address}"))
}

/// A data point as received.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Got {
    pub(crate) metric: String,
    pub(crate) key: String,
    /// The value, or the count of a histogram; `None` for a mark.
    pub(crate) value: Option<f64>,
    pub(crate) start: u64,
    pub(crate) time: u64,
}

/// The points of all messages since the last call.
pub(crate) fn got(receiver: &Receiver) -> Vec<Got> {
    got_of(receiver, "test.")
}

/// The same, for metrics whose names begin with `start`.
pub(crate) fn got_of(receiver: &Receiver, start: &str) -> Vec<Got> {
    let mut points = Vec::new();
    let pushes = receiver.take_pushes();
    let metrics = pushes
        .iter()
        .flat_map(|push| &push.metrics.resource_metrics);
    let metrics = metrics.flat_map(|resource| &resource.scope_metrics);
    let metrics = metrics.flat_map(|scope| &scope.metrics);
    for metric in metrics.filter(|metric| metric.name.starts_with(start)) {
        macro_rules! take {
            ($points:expr, $value:expr) => {
                for point in $points {
                    let pair = &point.attributes[0];
                    let Some(Value::StringValue(key)) = pair.value.as_ref().unwrap().value.clone()
                    else {
                        panic!("{pair:?}")
                    };
                    let value = (point.flags & 1 == 0).then(|| $value(point));
                    points.push(Got {
                        metric: metric.name.clone(),
                        key,
                        value,
                        start: point.start_time_unix_nano,
                        time: point.time_unix_nano,
                    });
                }
            };
        }
        let number = |value| match value {
            Some(number_data_point::Value::AsDouble(value)) => value,
            other => panic!("{other:?}"),
        };
        match metric.data.as_ref().unwrap() {
            Data::Gauge(data) => take!(&data.data_points, |point: &NumberDataPoint| number(
                point.value
            )),
            Data::Sum(data) => take!(&data.data_points, |point: &NumberDataPoint| number(
                point.value
            )),
            Data::Histogram(data) => take!(&data.data_points, |point: &HistogramDataPoint| point
                .count
                as f64),
            Data::ExponentialHistogram(data) => take!(
                &data.data_points,
                |point: &ExponentialHistogramDataPoint| { point.count as f64 }
            ),
            other => panic!("{other:?}"),
        }
    }
    points.sort_by(|one, other| (&one.metric, &one.key).cmp(&(&other.metric, &other.key)));
    points
}

/// Metric, key and value of each point.
pub(crate) fn values(receiver: &Receiver) -> Vec<(String, String, Option<f64>)> {
    let points = got(receiver).into_iter();
    points
        .map(|point| (point.metric, point.key, point.value))
        .collect()
}

pub(crate) fn is(
    metric: &str,
    key: &str,
    value: impl Into<Option<f64>>,
) -> (String, String, Option<f64>) {
    (format!("test.{metric}"), key.to_owned(), value.into())
}

/// A gauge that remains, and one series of each type with the name `key`.
pub(crate) fn all_three(key: &str) -> Collection {
    let collection = Collection::default().gauge("stays", 1.0).gauge(key, 1.0);
    collection.counter(key, 5.0).histogram(key, &[0.5, 3.0])
}
