//! A common interface for the three types of data points.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    DataPointFlags, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram,
    HistogramDataPoint, NumberDataPoint, Sum, number_data_point,
};

use super::value::{self, Value};

/// The flag *no recorded value*: the series no longer has a value.
/// <https://opentelemetry.io/docs/specs/otel/metrics/data-model/#no-recorded-value>
pub(super) const GONE: u32 = DataPointFlags::NoRecordedValueMask as u32;

/// A data point of one type.
pub(super) trait DataPoint: prost::Message + Default {
    /// The points of a metric, if they are of this type.
    fn list(data: &mut Data) -> Option<&mut Vec<Self>>;
    fn attributes(&self) -> &[KeyValue];
    /// A point with attributes and a time, but without a value.
    fn bare(attributes: Vec<KeyValue>, time: u64) -> Self;
    fn start(&mut self) -> &mut u64;
    fn time(&self) -> u64;
    fn flags(&mut self) -> &mut u32;
    /// Whether it has the flag *no recorded value*.
    fn is_gone(&self) -> bool;
    fn value(&self) -> Option<Value>;
    /// Sets the value. Removes minimum and maximum, which are valid only for cumulative values.
    fn set(&mut self, value: &Value);
}

macro_rules! common {
    () => {
        fn attributes(&self) -> &[KeyValue] {
            &self.attributes
        }

        fn bare(attributes: Vec<KeyValue>, time: u64) -> Self {
            Self {
                attributes,
                time_unix_nano: time,
                ..Self::default()
            }
        }

        fn start(&mut self) -> &mut u64 {
            &mut self.start_time_unix_nano
        }

        fn time(&self) -> u64 {
            self.time_unix_nano
        }

        fn flags(&mut self) -> &mut u32 {
            &mut self.flags
        }

        fn is_gone(&self) -> bool {
            self.flags & GONE != 0
        }
    };
}

impl DataPoint for NumberDataPoint {
    common!();

    fn list(data: &mut Data) -> Option<&mut Vec<Self>> {
        match data {
            Data::Gauge(Gauge { data_points }) | Data::Sum(Sum { data_points, .. }) => {
                Some(data_points)
            }
            _ => None,
        }
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Sum(match self.value? {
            number_data_point::Value::AsDouble(value) => value,
            number_data_point::Value::AsInt(value) => value as f64,
        }))
    }

    fn set(&mut self, value: &Value) {
        if let Value::Sum(value) = value {
            self.value = Some(number_data_point::Value::AsDouble(*value));
        }
    }
}

impl DataPoint for HistogramDataPoint {
    common!();

    fn list(data: &mut Data) -> Option<&mut Vec<Self>> {
        match data {
            Data::Histogram(Histogram { data_points, .. }) => Some(data_points),
            _ => None,
        }
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Histogram(value::Histogram {
            count: self.count,
            sum: self.sum.unwrap_or_default(),
            buckets: self.bucket_counts.clone(),
        }))
    }

    fn set(&mut self, value: &Value) {
        if let Value::Histogram(value) = value {
            self.count = value.count;
            self.sum = Some(value.sum);
            self.bucket_counts.clone_from(&value.buckets);
            (self.min, self.max) = (None, None);
        }
    }
}

impl DataPoint for ExponentialHistogramDataPoint {
    common!();

    fn list(data: &mut Data) -> Option<&mut Vec<Self>> {
        match data {
            Data::ExponentialHistogram(ExponentialHistogram { data_points, .. }) => {
                Some(data_points)
            }
            _ => None,
        }
    }

    fn value(&self) -> Option<Value> {
        let buckets = |buckets: &Option<Buckets>| buckets.clone().unwrap_or_default();
        Some(Value::Exponential(value::Exponential {
            count: self.count,
            sum: self.sum.unwrap_or_default(),
            zero_count: self.zero_count,
            scale: self.scale,
            positive: buckets(&self.positive),
            negative: buckets(&self.negative),
        }))
    }

    fn set(&mut self, value: &Value) {
        if let Value::Exponential(value) = value {
            self.count = value.count;
            self.sum = Some(value.sum);
            self.zero_count = value.zero_count;
            self.scale = value.scale;
            self.positive = Some(value.positive.clone());
            self.negative = Some(value.negative.clone());
            (self.min, self.max) = (None, None);
        }
    }
}

/// Calls a generic function with the points of `$data`, whatever their type.
macro_rules! with_points {
    ($data:expr, $points:ident => $call:expr) => {{
        use opentelemetry_proto::tonic::metrics::v1::metric::Data;
        match $data {
            Data::Gauge(gauge) => {
                let $points = &mut gauge.data_points;
                $call
            }
            Data::Sum(sum) => {
                let $points = &mut sum.data_points;
                $call
            }
            Data::Histogram(histogram) => {
                let $points = &mut histogram.data_points;
                $call
            }
            Data::ExponentialHistogram(histogram) => {
                let $points = &mut histogram.data_points;
                $call
            }
            // The SDK does not produce summaries.
            Data::Summary(_) => Default::default(),
        }
    }};
}
pub(super) use with_points;
