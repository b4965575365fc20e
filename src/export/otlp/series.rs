//! One series in the ledger, and the points that are created from it without a collected value.

use std::collections::HashMap;

use opentelemetry_proto::tonic::common::v1::KeyValueList;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message as _;

use super::point::{DataPoint, GONE, with_points};
use super::value::Value;

/// The series of one metric.
pub(super) struct Family {
    /// The metric without its points.
    pub(super) empty: Metric,
    /// The bounds of its buckets.
    pub(super) bounds: Vec<f64>,
    /// The last collection that had it.
    pub(super) seen: u64,
    pub(super) counted: bool,
    pub(super) delta: bool,
    /// The start time of its first instrument, if it is a sum, or 0.
    pub(super) began: u64,
    pub(super) series: HashMap<u64, Series>,
}

pub(super) struct Series {
    /// The encoded attributes, which are needed only when the series has ended.
    pub(super) attributes: Box<[u8]>,
    /// The last collection that had it.
    pub(super) seen: u64,
    /// When it ended, or 0.
    pub(super) gone: u64,
    /// Its start time if that differs from the SDK's, or 0.
    pub(super) start: u64,
    pub(super) progress: Option<Box<Progress>>,
}

/// The progress of a series in delta temporality.
pub(super) struct Progress {
    /// The value of the last collection.
    pub(super) last: Value,
    /// The start time by the SDK. A later one is a reset.
    pub(super) began: u64,
    /// The part of the value that has not been accepted.
    pub(super) owed: Option<Value>,
    /// The start time of that part.
    pub(super) since: u64,
}

impl Series {
    /// Updates the start time, at a point with time `time`. `began` is the start time by the SDK,
    /// `observed` the one of the observed point. The latter comes from the server's clock, which
    /// may be ahead of the SDK's. In that case the start time is kept, because a later one would be
    /// a reset.
    pub(super) fn begin(&mut self, began: u64, observed: Option<u64>, time: u64) {
        let is_new = self.seen == 0 || self.gone != 0 || self.start == 0;
        self.start = match observed {
            Some(start) if is_new => start.min(time),
            Some(start) => start.min(self.start),
            // The instrument was re-created.
            None if self.start < began => 0,
            None => self.start,
        };
    }

    /// The start time of the series, if `began` is the one by the SDK.
    pub(super) fn since(&self, began: u64) -> u64 {
        match self.start {
            0 => began,
            start => start,
        }
    }

    /// Sets a point to the part that has not been accepted.
    pub(super) fn show<P: DataPoint>(&self, point: &mut P) {
        let Some(progress) = &self.progress else {
            return;
        };
        *point.start() = progress.since.min(point.time());
        match &progress.owed {
            Some(owed) => point.set(owed),
            None => point.set(&progress.last.zero()),
        }
    }

    /// The mark: a point with the flag *no recorded value*. It has the buckets of the other points,
    /// because receivers end the sum, the count and each bucket that they find in it. Its values
    /// have no meaning.
    pub(super) fn mark(&self, empty: &Metric, bounds: &[f64], time: u64) -> Option<Metric> {
        let attributes = KeyValueList::decode(&*self.attributes).ok()?.values;
        let mut metric = empty.clone();
        with_points!(metric.data.as_mut()?, points => {
            let mut point = DataPoint::bare(attributes, time);
            points.push(std::mem::take(&mut point));
            if let Some(point) = points.last_mut() {
                *point.flags() |= GONE;
            }
        });
        shape(&mut metric, bounds);
        Some(metric)
    }

    /// The last delta of a series that has ended, if a part of it was not accepted. No mark
    /// follows, because a delta is valid only for its own interval.
    pub(super) fn last(&self, empty: &Metric, bounds: &[f64], time: u64) -> Option<Metric> {
        let owed = self.progress.as_ref()?.owed.as_ref();
        owed.filter(|owed| !owed.is_zero())?;
        let attributes = KeyValueList::decode(&*self.attributes).ok()?.values;
        let mut metric = empty.clone();
        with_points!(metric.data.as_mut()?, points => {
            points.push(DataPoint::bare(attributes, time));
        });
        shape(&mut metric, bounds);
        with_points!(metric.data.as_mut()?, points => for point in points.iter_mut() {
            self.show(point);
        });
        Some(metric)
    }
}

/// Sets the bucket bounds of the histogram points of a metric.
fn shape(metric: &mut Metric, bounds: &[f64]) {
    match &mut metric.data {
        Some(Data::Histogram(histogram)) => {
            for point in &mut histogram.data_points {
                point.explicit_bounds = bounds.to_vec();
                point.bucket_counts = vec![0; bounds.len().saturating_add(1)];
                point.sum = Some(0.0);
            }
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            for point in &mut histogram.data_points {
                point.sum = Some(0.0);
            }
        }
        _ => {}
    }
}

/// A copy of a metric without its points.
pub(super) fn without_points(metric: &mut Metric) -> Metric {
    let Some(data) = metric.data.as_mut() else {
        return metric.clone();
    };
    let mut empty = Metric::default();
    with_points!(data, points => {
        let kept = std::mem::take(points);
        empty = metric.clone();
        if let Some(list) = metric.data.as_mut().and_then(DataPoint::list) {
            *list = kept;
        }
    });
    empty
}

/// The temporality, if the type of the metric has one.
pub(super) fn temporality_of(data: &mut Data) -> Option<&mut i32> {
    match data {
        Data::Sum(sum) => Some(&mut sum.aggregation_temporality),
        Data::Histogram(histogram) => Some(&mut histogram.aggregation_temporality),
        Data::ExponentialHistogram(histogram) => Some(&mut histogram.aggregation_temporality),
        _ => None,
    }
}
