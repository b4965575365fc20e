//! Counts by series.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A label's value.
pub type Label = Arc<str>;

/// The label values of a series.
pub type Series = Box<[Label]>;

/// Counts that only grow, by the labels of their series.
#[derive(Debug)]
pub struct Tally {
    series: HashMap<Series, Count>,
    limit: usize,
    overflow: u64,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    total: u64,
    /// It appeared in this cycle: it has not been published at zero yet.
    is_new: bool,
    /// Since when, as uptime, its deployment is known to be gone; negative from before a
    /// restart.
    gone_since: Option<f64>,
}

/// A tally as a checkpoint has it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    series: Vec<SavedCount>,
    #[serde(default)]
    overflow: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedCount {
    labels: Series,
    total: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_new: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone_for: Option<f64>,
}

impl Tally {
    /// A tally of at most `limit` series: states have names of any text.
    pub(super) fn new(limit: usize) -> Self {
        Tally {
            series: HashMap::new(),
            limit,
            overflow: 0,
        }
    }

    /// Adds to a series; `true` if that changes anything.
    pub(super) fn add(&mut self, series: &[Label], count: u64) -> bool {
        if let Some(entry) = self.series.get_mut(series) {
            entry.total = entry.total.saturating_add(count);
            return count > 0;
        }
        if self.series.len() >= self.limit {
            self.overflow = self.overflow.saturating_add(count);
            return count > 0;
        }
        let new = Count {
            total: count,
            is_new: true,
            gone_since: None,
        };
        self.series.insert(series.into(), new);
        true
    }

    /// What was counted beyond the limit of series.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// What was counted until now has been published.
    /// `true` if that changes anything.
    pub(super) fn mark_published(&mut self) -> bool {
        let new = self.series.values_mut().filter(|count| count.is_new);
        new.map(|count| count.is_new = false).count() > 0
    }

    /// Drops the series that have been gone for `keep`.
    pub(super) fn prune(
        &mut self,
        uptime: Duration,
        keep: Duration,
        exists: impl Fn(&[Label]) -> bool,
    ) {
        let now = uptime.as_secs_f64();
        self.series.retain(|series, count| {
            if exists(series) {
                count.gone_since = None;
                return true;
            }
            let gone_since = *count.gone_since.get_or_insert(now);
            now - gone_since < keep.as_secs_f64()
        });
    }

    /// Each series and the count to publish: zero in the cycle in which it appeared, so that
    /// `increase()` sees it grow.
    pub fn published(&self) -> impl Iterator<Item = (&[Label], u64)> {
        self.series.iter().map(|(series, count)| {
            let total = if count.is_new { 0 } else { count.total };
            (&**series, total)
        })
    }

    /// The tally as a checkpoint has it.
    pub(super) fn save(&self, uptime: Duration) -> Saved {
        let now = uptime.as_secs_f64();
        let save = |(labels, count): (&Series, &Count)| SavedCount {
            labels: labels.clone(),
            total: count.total,
            is_new: count.is_new,
            gone_for: count.gone_since.map(|since| now - since),
        };
        Saved {
            series: self.series.iter().map(save).collect(),
            overflow: self.overflow,
        }
    }

    /// Restores the counts of a checkpoint, up to the limit of series.
    pub(super) fn restore(&mut self, saved: Saved, labels: usize) {
        self.overflow = self.overflow.saturating_add(saved.overflow);
        for saved in saved.series {
            if saved.labels.len() != labels {
                continue;
            }
            if self.series.len() >= self.limit {
                self.overflow = self.overflow.saturating_add(saved.total);
                continue;
            }
            let count = Count {
                total: saved.total,
                is_new: saved.is_new,
                gone_since: saved.gone_for.map(|seconds| -seconds),
            };
            self.series.insert(saved.labels, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str) -> [Label; 1] {
        [Label::from(name)]
    }

    fn total(tally: &Tally) -> u64 {
        tally.published().map(|(_, count)| count).sum()
    }

    #[test]
    fn a_new_series_is_published_at_zero_first() {
        let mut tally = Tally::new(10);
        tally.add(&series("a"), 3);
        assert_eq!(total(&tally), 0);
        tally.mark_published();
        assert_eq!(total(&tally), 3);
    }

    #[test]
    fn beyond_the_limit_only_the_names_are_lost_and_a_restart_changes_nothing() {
        let mut tally = Tally::new(3);
        for name in ["a", "b", "c", "d", "e"] {
            tally.add(&series(name), 1);
        }
        tally.mark_published();
        assert_eq!((total(&tally), tally.overflow()), (3, 2));
        let mut restored = Tally::new(2);
        restored.restore(tally.save(Duration::ZERO), 1);
        assert_eq!((total(&restored), restored.overflow()), (2, 3));
    }

    #[test]
    fn what_is_gone_stays_for_a_while_across_restarts() {
        let keep = Duration::from_secs(100);
        let mut tally = Tally::new(3);
        tally.add(&series("a"), 1);
        tally.mark_published();
        tally.prune(Duration::from_secs(10), keep, |_| false);
        let saved = tally.save(Duration::from_secs(60));
        let mut tally = Tally::new(3);
        tally.restore(saved, 1);
        tally.prune(Duration::from_secs(40), keep, |_| false);
        assert_eq!(total(&tally), 1);
        tally.prune(Duration::from_secs(51), keep, |_| false);
        assert_eq!(total(&tally), 0);
    }
}
