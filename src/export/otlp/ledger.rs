//! What has been sent of each series, and therefore what has to be sent next.
//!
//! The SDK collects cumulative values. The ledger remembers from one collection to the next which
//! series the receiver may show, so that series that have ended can be marked. In delta
//! temporality, it also remembers how much of each value has not been accepted yet.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, KeyValueList};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric};
use prost::Message as _;

use super::attributes::{Hasher, nanoseconds};
use super::message;
use super::point::{DataPoint, with_points};
use super::saved::{Baselines, Delivered};
use super::series::{Family, Progress, Series, temporality_of, without_points};
use super::value::Value;
use crate::metrics::Point;
use crate::settings::Temporality;

/// A series that has ended is forgotten after this time even if its mark was not accepted: by then
/// it has expired in the receiver, which takes five minutes in Prometheus and in the collector.
const MARKS_FOR: Duration = Duration::from_secs(3_600);

/// All series that the receiver may show.
pub(super) struct Ledger {
    temporality: Temporality,
    /// The families whose counts the checkpoint restores, if a file stores how much was accepted.
    counted: Vec<&'static str>,
    hasher: Hasher,
    metrics: HashMap<String, Family>,
    /// What the previous process delivered; taken out family by family.
    baselines: Baselines,
    /// The number of the current collection.
    number: u64,
    /// Its time and that of the previous one, in nanoseconds since 1970.
    time: u64,
    before: Option<u64>,
    /// Whether the accepted counts have changed since they were saved.
    pub(super) changed: bool,
}

impl Ledger {
    /// `counted` are the families whose deltas continue from `baselines`.
    pub(super) fn new(
        temporality: Temporality,
        counted: Vec<&'static str>,
        baselines: Baselines,
    ) -> Self {
        Ledger {
            temporality,
            counted,
            hasher: Hasher::default(),
            metrics: HashMap::new(),
            baselines,
            number: 0,
            time: 0,
            before: None,
            changed: false,
        }
    }

    /// Begins the next collection, made at `time`.
    pub(super) fn begin(&mut self, time: SystemTime) {
        self.before = (self.number > 0).then_some(self.time);
        // A mark must be later than the point that it ends, even if the clock is set back.
        self.time = nanoseconds(time).max(self.time.saturating_add(1));
        self.number = self.number.wrapping_add(1);
    }

    /// Turns a collected metric into the metric to send. `points` are those that the instrument
    /// observed, if it is observable.
    pub(super) fn prepare(&mut self, metric: &mut Metric, points: &[Point]) {
        let delta = self.is_delta(metric);
        if let Some(temporality) = metric.data.as_mut().and_then(temporality_of)
            && delta
        {
            *temporality = AggregationTemporality::Delta.into();
        }
        let family = match self.metrics.remove(&metric.name) {
            Some(family) => family,
            None => self.family(metric, delta),
        };
        let (name, family) = (metric.name.clone(), self.observe(family, metric, points));
        self.metrics.insert(name, family);
    }

    fn family(&mut self, metric: &mut Metric, delta: bool) -> Family {
        let mut bounds = Vec::new();
        if let Some(Data::Histogram(histogram)) = &metric.data {
            let first = histogram.data_points.first();
            bounds = first.map_or(bounds, |point| point.explicit_bounds.clone());
        }
        Family {
            empty: without_points(metric),
            bounds,
            seen: 0,
            counted: delta && self.counted.contains(&metric.name.as_str()),
            delta,
            began: 0,
            series: HashMap::new(),
        }
    }

    fn observe(&mut self, mut family: Family, metric: &mut Metric, points: &[Point]) -> Family {
        let is_gauge = matches!(metric.data, Some(Data::Gauge(_)));
        let is_sum = matches!(metric.data, Some(Data::Sum(_)));
        let is_monotonic = matches!(&metric.data, Some(Data::Sum(sum)) if sum.is_monotonic);
        let starts = match is_monotonic {
            true => self.hasher.starts(points),
            false => HashMap::new(),
        };
        let is_first = family.seen == 0;
        family.seen = self.number;
        if let Some(data) = metric.data.as_mut() {
            with_points!(data, points => for point in points.iter_mut() {
                let key = self.hasher.key(point.attributes());
                let series = family.series.entry(key);
                let series = series.or_insert_with(|| self.new_series(point.attributes(), is_gauge));
                let (mut began, time) = (*point.start(), point.time());
                // All sums are observed. They continue if an instrument is created again, in order
                // to have room for more series.
                if is_sum {
                    family.began = if family.began == 0 { began } else { family.began };
                    began = family.began;
                }
                series.begin(began, starts.get(&key).copied(), time);
                series.seen = self.number;
                series.gone = 0;
                // The clock may have been set back.
                *point.start() = series.since(began).min(time);
                if family.delta && let Some(value) = point.value() {
                    let continues = family.counted.then_some((metric.name.as_str(), is_first));
                    self.owe(series, value, began, continues);
                    series.show(point);
                }
            });
        }
        if is_first && family.counted {
            // The remaining baselines belong to series that have ended.
            self.changed |= self.baselines.end(&metric.name);
        }
        family
    }

    /// A series that was not in the previous collection starts at the time of that collection, when
    /// nothing of it had been counted.
    fn new_series(&self, attributes: &[KeyValue], is_gauge: bool) -> Series {
        let attributes = KeyValueList {
            values: attributes.to_vec(),
        };
        Series {
            attributes: attributes.encode_to_vec().into(),
            seen: 0,
            gone: 0,
            start: self.before.filter(|_| !is_gauge).unwrap_or_default(),
            progress: None,
        }
    }

    /// Adds the increase in `value`, which the SDK has counted since `began`, to the part that has
    /// not been accepted. `continues` is set for a family that continues after a restart: its name,
    /// and whether this is its first collection.
    fn owe(
        &mut self,
        series: &mut Series,
        value: Value,
        began: u64,
        continues: Option<(&str, bool)>,
    ) {
        if let Some(progress) = &mut series.progress {
            // The instrument may have been re-created and have reached the same value again.
            let added = match progress.began == began {
                true => value.since(&progress.last),
                false => value.clone(),
            };
            progress.began = began;
            progress.owed = Some(match progress.owed.take() {
                Some(owed) => owed.plus(added),
                None => added,
            });
            progress.last = value;
            return;
        }
        let baseline = continues.and_then(|(name, is_first)| {
            let attributes = super::attributes::json(&series.attributes)?;
            self.baselines.take(name, &attributes, is_first)
        });
        let (accepted, since) = match baseline {
            Some(Delivered::Until(accepted, time)) => (Value::Sum(accepted), time),
            // How much was delivered is unknown: assume everything that was counted before this
            // process started.
            Some(Delivered::Unknown) => {
                self.changed = true;
                (value.clone(), self.time.saturating_sub(1))
            }
            None => (value.zero(), series.since(began)),
        };
        series.progress = Some(Box::new(Progress {
            owed: Some(value.since(&accepted)),
            last: value,
            began,
            since,
        }));
    }

    /// The marks of the series that have ended. To be called after every collected metric has been
    /// prepared.
    ///
    /// Each mark is in a separate metric, because the collector's Prometheus exporter (0.161) reads
    /// a metric only up to its first mark.
    pub(super) fn marks(&mut self) -> Vec<Metric> {
        let mut marks = Vec::new();
        for family in self.metrics.values_mut() {
            let (number, time) = (self.number, self.time);
            if family.seen == number && family.series.values().all(|series| series.seen == number) {
                continue;
            }
            let Family {
                empty,
                bounds,
                delta,
                series,
                ..
            } = family;
            series.retain(|_, series| {
                if series.seen == number {
                    return true;
                }
                if series.gone == 0 {
                    series.gone = time;
                }
                let expired = time.saturating_sub(series.gone) > MARKS_FOR.as_nanos() as u64;
                let last = match *delta {
                    true => series.last(empty, bounds, time),
                    false => series.mark(empty, bounds, time),
                };
                let last = last.filter(|_| !expired);
                let stays = last.is_some();
                marks.extend(last);
                stays
            });
        }
        self.metrics
            .retain(|_, family| !family.series.is_empty() || family.counted);
        marks
    }

    /// Takes note of an accepted message.
    pub(super) fn accepted(&mut self, request: &mut ExportMetricsServiceRequest) {
        for metric in message::metrics(request) {
            let Some(family) = self.metrics.get_mut(&metric.name) else {
                continue;
            };
            let Some(data) = metric.data.as_mut() else {
                continue;
            };
            with_points!(data, points => for point in points.iter() {
                // In cumulative temporality, every point is sent with every push.
                if !family.delta && !point.is_gone() {
                    continue;
                }
                let key = self.hasher.key(point.attributes());
                let Some(series) = family.series.get_mut(&key) else {
                    continue;
                };
                if let Some(progress) = &mut series.progress {
                    let owed = progress.owed.take();
                    progress.since = point.time();
                    self.changed |= family.counted && owed.is_some_and(|owed| !owed.is_zero());
                }
                if series.seen != self.number {
                    family.series.remove(&key);
                }
            });
        }
    }

    /// The accepted counts of the families that the checkpoint restores.
    pub(super) fn accepted_of_counted(&self) -> Baselines {
        let mut accepted = self.baselines.clone();
        let counted = self.metrics.iter().filter(|(_, family)| family.counted);
        for (name, family) in counted {
            let series = family.series.values().filter_map(|series| {
                let progress = series.progress.as_ref()?;
                let Value::Sum(last) = progress.last else {
                    return None;
                };
                let owed = match progress.owed {
                    Some(Value::Sum(owed)) => owed,
                    _ => 0.0,
                };
                let attributes = super::attributes::json(&series.attributes)?;
                (last != owed).then_some((attributes, last - owed))
            });
            accepted.set(name, series.collect(), self.time);
        }
        accepted
    }

    /// Whether the points of a metric are sent as deltas. Gauges and up-down counters never are.
    /// <https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/#additional-environment-variable-configuration>
    fn is_delta(&self, metric: &Metric) -> bool {
        match &metric.data {
            Some(Data::Histogram(_) | Data::ExponentialHistogram(_)) => {
                self.temporality != Temporality::Cumulative
            }
            // With LowMemory, asynchronous sums stay cumulative, and all of the agent's sums are
            // asynchronous.
            Some(Data::Sum(sum)) => sum.is_monotonic && self.temporality == Temporality::Delta,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
