//! Tallies: counts by series, and the values that are exported.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use super::labels::{Label, Series};
use super::tags::TagKeys;

/// The exported values of a counter, shared between states until they change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Each series and its count.
    pub series: Vec<(Series, Total)>,
    /// The count beyond the limit of series, if there is any.
    pub overflow: Option<Total>,
}

/// The exported value of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// The count.
    pub value: u64,
    /// When counting began for the series, by the server's clock: the start time of a cumulative
    /// sum.
    /// <https://opentelemetry.io/docs/specs/otel/metrics/data-model/#resets-and-gaps>
    pub since: Timestamp,
}

/// Counts that only increase, by series.
#[derive(Debug)]
pub(super) struct Tally {
    series: HashMap<Series, Count>,
    limit: usize,
    /// The count beyond the limit, exported as one additional series.
    overflow: Option<Count>,
    shown: Arc<Totals>,
    /// Whether the series differ from those in `shown`.
    changed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    total: u64,
    /// The value in the last state.
    shown: u64,
    hold: Hold,
    since: Timestamp,
    /// Since when its deployment has been known to be deleted and nothing has been counted, as
    /// uptime; negative if that was before a restart.
    gone_since: Option<f64>,
}

/// Until a state with a series has been delivered, the exported value is held, because `increase()`
/// ignores the value of the first sample of a series.
#[derive(Debug, Clone, Copy)]
enum Hold {
    /// The series has not been in a state yet.
    New,
    /// The state with this number was the first with the series.
    ShownIn(u64),
    /// A state with the series has been delivered.
    Released,
}

/// A tally in a checkpoint.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    series: Vec<SavedCount>,
    /// The keys of the tag values of every series.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tag_keys: Vec<Label>,
    /// The overflow as written by older versions: only its total.
    #[serde(default, skip_serializing_if = "is_zero")]
    overflow: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beyond_limit: Option<SavedCount>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedCount {
    #[serde(default, skip_serializing_if = "<[Label]>::is_empty")]
    labels: Series,
    /// The values of its deployment's tags, one per key.
    #[serde(default, skip_serializing_if = "<[Label]>::is_empty")]
    tags: Series,
    total: u64,
    /// The value in the last state, if that is lower than the total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shown: Option<u64>,
    /// Written by older versions if that value is zero.
    #[serde(default, skip_serializing)]
    is_new: bool,
    /// The start time, if it differs from the start of all counting. Missing in older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone_for: Option<f64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Count {
    fn new(total: u64, since: Timestamp) -> Self {
        Count {
            total,
            shown: 0,
            hold: Hold::New,
            since,
            gone_since: None,
        }
    }

    /// Restores a count. The value exported last is exported again first, since the series may be
    /// new to the receiver. Without its own start time, the series began at `start`.
    fn restore(saved: &SavedCount, start: Timestamp) -> Self {
        let shown = if saved.is_new { 0 } else { saved.total };
        Count {
            total: saved.total,
            shown: saved.shown.unwrap_or(shown),
            hold: Hold::New,
            since: saved.since.unwrap_or(start),
            gone_since: saved.gone_for.map(|seconds| -seconds),
        }
    }

    fn save(
        &self,
        (labels, tags): (&[Label], &[Label]),
        start: Timestamp,
        uptime: Duration,
    ) -> SavedCount {
        SavedCount {
            labels: labels.into(),
            tags: tags.into(),
            total: self.total,
            shown: (self.shown != self.total).then_some(self.shown),
            is_new: false,
            since: (self.since != start).then_some(self.since),
            gone_for: self.gone_since.map(|since| uptime.as_secs_f64() - since),
        }
    }

    /// Adds events. Those of a deleted deployment may be read hours after its deletion, and are
    /// exported for as long as those before it.
    fn add(&mut self, count: u64) {
        self.total = self.total.saturating_add(count);
        self.gone_since = None;
    }

    /// Adds the count of a series that now has the same labels.
    fn merge(&mut self, other: Count) {
        self.total = self.total.saturating_add(other.total);
        self.shown = self.shown.saturating_add(other.shown);
        self.since = self.since.min(other.since);
        self.gone_since = other.gone_since.and(self.gone_since);
    }

    /// Advances to the state with this number; `true` if the exported value has grown.
    fn advance(&mut self, number: u64, delivered: u64) -> bool {
        match self.hold {
            Hold::New => self.hold = Hold::ShownIn(number),
            Hold::ShownIn(first) if first <= delivered => self.hold = Hold::Released,
            Hold::ShownIn(_) | Hold::Released => {}
        }
        let is_released = matches!(self.hold, Hold::Released);
        let grows = is_released && self.shown != self.total;
        if grows {
            self.shown = self.total;
        }
        grows
    }

    fn shown(&self) -> Total {
        Total {
            value: self.shown,
            since: self.since,
        }
    }
}

impl Tally {
    /// A tally of at most `limit` series, since state names can be arbitrary.
    pub(super) fn new(limit: usize) -> Self {
        Tally {
            series: HashMap::new(),
            limit,
            overflow: None,
            shown: Arc::default(),
            changed: false,
        }
    }

    /// Adds to a series, which begins at `now` if it is new; `true` if anything changes.
    pub(super) fn add(&mut self, series: &[Label], count: u64, now: Timestamp) -> bool {
        let is_known = self.series.contains_key(series);
        if count == 0 && (is_known || self.series.len() >= self.limit) {
            return false;
        }
        match self.find(series) {
            Some(known) => known.add(count),
            None => self.insert(series.into(), Count::new(count, now)),
        }
        true
    }

    /// The count that a series is added to, if there is one: its own, or the one beyond the limit.
    fn find(&mut self, series: &[Label]) -> Option<&mut Count> {
        let is_full = self.series.len() >= self.limit;
        match self.series.get_mut(series) {
            None if is_full => self.overflow.as_mut(),
            known => known,
        }
    }

    fn insert(&mut self, series: Series, count: Count) {
        self.changed = true;
        match self.series.len() >= self.limit {
            true => self.overflow = Some(count),
            false => _ = self.series.insert(series, count),
        }
    }

    fn counts(&mut self) -> impl Iterator<Item = &mut Count> {
        self.series.values_mut().chain(&mut self.overflow)
    }

    /// From the next state on, every series is exported with its total.
    pub(super) fn release(&mut self) {
        self.counts().for_each(|count| count.hold = Hold::Released);
    }

    /// Drops the series whose deployments have been deleted, and which have not changed, for `keep`.
    pub(super) fn prune(
        &mut self,
        uptime: Duration,
        keep: Duration,
        exists: impl Fn(&[Label]) -> bool,
    ) {
        let now = uptime.as_secs_f64();
        let before = self.series.len();
        self.series.retain(|series, count| {
            if exists(series) {
                count.gone_since = None;
                return true;
            }
            let gone_since = *count.gone_since.get_or_insert(now);
            now - gone_since < keep.as_secs_f64()
        });
        self.changed |= self.series.len() != before;
    }

    /// The values for the state with this number, given that those up to `delivered` have been
    /// delivered; and whether any value has grown since the last state.
    pub(super) fn show(&mut self, number: u64, delivered: u64) -> (Arc<Totals>, bool) {
        let mut grows = false;
        for count in self.counts() {
            grows |= count.advance(number, delivered);
        }
        if self.changed || grows {
            let series = self.series.iter();
            self.shown = Arc::new(Totals {
                series: series
                    .map(|(series, count)| (Arc::clone(series), count.shown()))
                    .collect(),
                overflow: self.overflow.as_ref().map(Count::shown),
            });
            self.changed = false;
        }
        (Arc::clone(&self.shown), grows)
    }

    /// The tally, for a checkpoint. A series has `labels` labels, and a value for each of
    /// `tag_keys`. Start times equal to `start` are omitted.
    pub(super) fn save(
        &self,
        uptime: Duration,
        labels: usize,
        tag_keys: &TagKeys,
        start: Timestamp,
    ) -> Saved {
        let save = |(series, count): (&Series, &Count)| {
            let split = series.split_at_checked(labels);
            count.save(split.unwrap_or((series, &[])), start, uptime)
        };
        Saved {
            series: self.series.iter().map(save).collect(),
            tag_keys: tag_keys.as_slice().to_vec(),
            overflow: 0,
            beyond_limit: self
                .overflow
                .map(|count| count.save((&[], &[]), start, uptime)),
        }
    }

    /// Restores the counts of a checkpoint, up to the limit of series. Those without a start
    /// time began at `start`.
    pub(super) fn restore(
        &mut self,
        saved: Saved,
        labels: usize,
        tag_keys: &TagKeys,
        start: Timestamp,
    ) {
        let before = saved.tag_keys;
        let beyond = (saved.overflow > 0).then(|| SavedCount {
            total: saved.overflow,
            ..SavedCount::default()
        });
        self.overflow = saved
            .beyond_limit
            .or(beyond)
            .map(|saved| Count::restore(&saved, start));
        for saved in saved.series {
            if saved.labels.len() != labels {
                continue;
            }
            let count = Count::restore(&saved, start);
            let tags = tag_keys.translate(&before, &saved.tags);
            let series: Series = saved.labels.iter().chain(&*tags).cloned().collect();
            match self.find(&series) {
                Some(known) => known.merge(count),
                None => self.insert(series, count),
            }
        }
        self.changed = true;
    }
}

#[cfg(test)]
mod tests;
