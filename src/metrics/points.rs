//! The points of a family while it is being read. Points with equal attributes are merged.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::{HashMap, HashSet};
use opentelemetry::KeyValue;

use super::options::sorted;
use super::{Family, Lingering, Options, TagAttributes};
use crate::core::tally::{Label, Total, Totals};

/// The attribute of the series that combines all series beyond the limit.
/// <https://opentelemetry.io/docs/specs/otel/metrics/sdk/#overflow-attribute>
pub const OVERFLOW: &str = "otel.metric.overflow";

/// One series and its value.
#[derive(Debug, Clone)]
pub struct Point {
    /// The value.
    pub value: f64,
    /// The attributes; those that the family declares come first, in that order.
    pub attributes: Vec<KeyValue>,
    /// When counting began for the series, by the server's clock, if that is known.
    pub start: Option<SystemTime>,
}

impl Point {
    fn count(&mut self, total: &Total) {
        let since = SystemTime::from(total.since);
        self.value += total.value as f64;
        self.start = Some(self.start.map_or(since, |start| start.min(since)));
    }
}

/// The number of series of a family.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    /// Exported.
    pub series: usize,
    /// Beyond the limit.
    pub dropped: usize,
}

impl Size {
    /// Adds those of another workspace.
    pub(super) fn add(&mut self, other: Size) {
        self.series = self.series.saturating_add(other.series);
        self.dropped = self.dropped.saturating_add(other.dropped);
    }
}

/// Collects the points of one family.
pub struct Points<'a> {
    family: &'a Family,
    options: &'a Options,
    tags: &'a TagAttributes,
    index: HashMap<Vec<Arc<str>>, usize>,
    points: Vec<Point>,
    /// The index of the point that combines the series beyond the limit.
    overflow: Option<usize>,
    /// The series beyond the limit.
    dropped: HashSet<Vec<Arc<str>>>,
}

impl<'a> Points<'a> {
    pub(super) fn new(family: &'a Family, options: &'a Options, tags: &'a TagAttributes) -> Self {
        Points {
            family,
            options,
            tags,
            index: HashMap::default(),
            points: Vec::new(),
            overflow: None,
            dropped: HashSet::default(),
        }
    }

    /// Sets the value of a series. If several objects have equal attributes, the last value is
    /// kept.
    pub fn set<const N: usize>(&mut self, values: [Arc<str>; N], value: f64) {
        self.change(&values, None, |point| point.value = value);
    }

    /// Adds to the value of a series.
    pub fn add<const N: usize>(&mut self, values: [Arc<str>; N], value: f64) {
        self.change(&values, None, |point| point.value += value);
    }

    /// Adds the exported values of a counter.
    pub(super) fn add_totals(&mut self, totals: &Totals) {
        for (series, total) in &totals.series {
            let split = series.split_at_checked(self.family.attributes.len());
            let (values, tags) = split.unwrap_or((series, &[]));
            self.change(values, Some(tags), |point| point.count(total));
        }
        if let Some(total) = &totals.overflow
            && self.options.has_overflow()
        {
            // The number of these series is unknown, but at least one.
            self.dropped.insert(Vec::new());
            self.change_overflow(|point| point.count(total));
        }
    }

    /// Changes the point with these values. The values of its deployment's tags are the current
    /// ones, or `tags` if they were recorded when it was counted.
    fn change(
        &mut self,
        values: &[Label],
        tags: Option<&[Label]>,
        change: impl FnOnce(&mut Point),
    ) {
        debug_assert_eq!(
            values.len(),
            self.family.attributes.len(),
            "as many values as attributes are declared"
        );
        if !self.options.has_series(self.family, values) {
            return;
        }
        let kept = values.iter().zip(self.family.attributes);
        let kept = kept.filter(|(_, name)| !self.options.leaves_out(name));
        let kept = kept.map(|(value, _)| value);
        let key: Vec<_> = kept.chain(tags.unwrap_or_default()).cloned().collect();
        let known = self.index.get(&key);
        if let Some(point) = known.and_then(|index| self.points.get_mut(*index)) {
            return change(point);
        }
        if self.family.is_of_prefect() && self.index.len() >= self.options.cardinality_limit {
            self.dropped.insert(key);
            return self.change_overflow(change);
        }
        self.index.insert(key, self.points.len());
        let attributes = match tags {
            Some(tags) => self.options.counted(self.family, values, tags),
            None => self.options.series(self.family, values, self.tags),
        };
        self.begin(attributes, change);
    }

    /// Changes the point that combines the series beyond the limit.
    fn change_overflow(&mut self, change: impl FnOnce(&mut Point)) {
        let known = self.overflow;
        if let Some(point) = known.and_then(|index| self.points.get_mut(index)) {
            return change(point);
        }
        self.overflow = Some(self.points.len());
        let mut attributes = vec![KeyValue::new(OVERFLOW, true)];
        attributes.extend_from_slice(self.options.common());
        self.begin(sorted(attributes), change);
    }

    fn begin(&mut self, attributes: Vec<KeyValue>, change: impl FnOnce(&mut Point)) {
        let mut point = Point {
            value: 0.0,
            attributes,
            start: None,
        };
        change(&mut point);
        self.points.push(point);
    }

    /// Adds zeros for series that no longer have a count. They never displace other series.
    pub(super) fn add_zeros(&mut self, lingering: &mut Lingering, uptime: Duration) {
        let limit = self.options.cardinality_limit;
        lingering.add_zeros(self.family, &mut self.points, limit, uptime);
    }

    pub(super) fn size(&self) -> Size {
        Size {
            series: self.points.len(),
            dropped: self.dropped.len(),
        }
    }

    pub(super) fn into_vec(self) -> Vec<Point> {
        self.points
    }
}

/// A time as a value: seconds since 1970, with fractions.
pub(super) fn unix_seconds(time: jiff::Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

/// The limit and the active slots of an object with a concurrency limit. Nothing without a limit;
/// only the limit if the server does not report the active slots.
pub(super) fn slots(
    limit: Option<u64>,
    active: Option<u64>,
) -> impl Iterator<Item = (Arc<str>, f64)> {
    let limited = limit.map(|limit| (Arc::from("limit"), limit as f64));
    let active = active.filter(|_| limit.is_some());
    let active = active.map(|active| (Arc::from("active"), active as f64));
    limited.into_iter().chain(active)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, Sources};

    #[test]
    fn a_count_keeps_its_own_start_time_and_tags() {
        let environment = [("DEPLOYMENT_TAG_LABELS", "team,tier")];
        let settings = Settings::load(&Sources {
            environment: environment
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            ..Sources::default()
        });
        let options = Options::new(&settings.unwrap()).unwrap();
        let family =
            super::super::catalogue().find(|family| family.name == "prefect.flow_runs.retries");
        let tags = TagAttributes::new();
        let mut points = Points::new(family.unwrap(), &options, &tags);
        let total = |value, second| Total {
            value,
            since: jiff::Timestamp::constant(second, 0),
        };
        let series = |team: &str| ["it", "flow", team, ""].map(Label::from).as_slice().into();
        points.add_totals(&Totals {
            series: vec![(series("a"), total(3, 60)), (series("b"), total(4, 90))],
            overflow: Some(total(5, 30)),
        });
        let start = |second| Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second));
        let actual: Vec<_> = points
            .into_vec()
            .into_iter()
            .map(|point| (point.value, point.start, point.attributes.len()))
            .collect();
        assert_eq!(
            actual,
            [
                (3.0, start(60), 3),
                (4.0, start(90), 3),
                (5.0, start(30), 1)
            ]
        );
    }
}
