//! One series in the ledger, and the points that are made from it alone.

use std::collections::HashMap;

use opentelemetry_proto::tonic::common::v1::KeyValueList;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use prost::Message as _;

use super::point::{DataPoint, GONE, with_points};
use super::value::Value;

/// The series of one metric.
pub(super) struct Family {
    /// The metric without points.
    pub(super) empty: Metric,
    /// The bounds of its buckets.
    pub(super) bounds: Vec<f64>,
    /// The last collection that had it.
    pub(super) seen: u64,
    pub(super) counted: bool,
    pub(super) delta: bool,
    pub(super) series: HashMap<u64, Series>,
}

pub(super) struct Series {
    /// Encoded: read only when the series has ended.
    pub(super) attributes: Box<[u8]>,
    /// The last collection that had it.
    pub(super) seen: u64,
    /// When it ended; 0 if it has not.
    pub(super) gone: u64,
    /// Its start time, if it is not the SDK's; else 0.
    pub(super) start: u64,
    pub(super) progress: Option<Box<Progress>>,
}

/// In delta temporality.
pub(super) struct Progress {
    /// The value of the last collection.
    pub(super) last: Value,
    /// Since when the SDK has counted it: a later time is a reset.
    pub(super) began: u64,
    /// The part of it that has not been accepted.
    pub(super) owed: Option<Value>,
    /// The start time of that part.
    pub(super) since: u64,
}

impl Series {
    /// Takes in since when the series counts, at a point of `time`: since `began` by the SDK,
    /// since `observed` by what its instrument observed. That is by another clock, which may be
    /// ahead of the SDK's. The start stays then: a later one would be a reset.
    pub(super) fn begin(&mut self, began: u64, observed: Option<u64>, time: u64) {
        let is_new = self.seen == 0 || self.gone != 0 || self.start == 0;
        self.start = match observed {
            Some(start) if is_new => start.min(time),
            Some(start) => start.min(self.start),
            // The instrument was made anew.
            None if self.start < began => 0,
            None => self.start,
        };
    }

    /// Since when it counts, if it has counted since `began` by the SDK.
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

    /// The mark: a point with the flag *no recorded value*. It has the shape of the others, since
    /// receivers end the sum, the count and each bucket that they find in it; its values mean
    /// nothing.
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

    /// The last delta of a series that has ended, if some of it was not accepted. No mark follows: a
    /// delta has no meaning beyond its own interval.
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

/// Gives the histogram points of a metric their bounds.
fn shape(metric: &mut Metric, bounds: &[f64]) {
    match &mut metric.data {
        Some(Data::Histogram(histogram)) => {
            for point in &mut histogram.data_points {
                point.explicit_bounds = bounds.to_vec();
                point.bucket_counts = vec![0; bounds.len() + 1];
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

/// A metric without its points, which it keeps.
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

/// The temporality of what has one.
pub(super) fn temporality_of(data: &mut Data) -> Option<&mut i32> {
    match data {
        Data::Sum(sum) => Some(&mut sum.aggregation_temporality),
        Data::Histogram(histogram) => Some(&mut histogram.aggregation_temporality),
        Data::ExponentialHistogram(histogram) => Some(&mut histogram.aggregation_temporality),
        _ => None,
    }
}
