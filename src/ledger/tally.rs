//! Counts by series.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

/// Counts that only grow, by the labels of their series.
#[derive(Debug)]
pub struct Tally<const N: usize> {
    series: HashMap<[Arc<str>; N], Count>,
    limit: usize,
    overflow: u64,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    total: u64,
    /// It came up in this cycle: nobody has seen it at zero yet.
    is_new: bool,
    /// When it last grew, or was known to be still there.
    touched: Timestamp,
}

impl<const N: usize> Tally<N> {
    /// A tally of at most `limit` series: states have names of any text.
    pub(super) fn new(limit: usize) -> Self {
        Tally {
            series: HashMap::new(),
            limit,
            overflow: 0,
        }
    }

    pub(super) fn add(&mut self, series: [Arc<str>; N], count: u64, now: Timestamp) {
        if self.series.len() >= self.limit && !self.series.contains_key(&series) {
            self.overflow += count;
            return;
        }
        let new = Count {
            total: 0,
            is_new: true,
            touched: now,
        };
        let entry = self.series.entry(series).or_insert(new);
        entry.total += count;
        entry.touched = now;
    }

    /// What was counted beyond the limit.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    pub(super) fn settle(&mut self) {
        self.series
            .values_mut()
            .for_each(|count| count.is_new = false);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&[Arc<str>; N], Timestamp) -> bool) {
        self.series
            .retain(|series, count| keep(series, count.touched));
    }

    /// Each series and what is to be shown of it: zero in the cycle in which it came up.
    pub fn shown(&self) -> impl Iterator<Item = (&[Arc<str>; N], u64)> {
        self.series
            .iter()
            .map(|(series, count)| (series, if count.is_new { 0 } else { count.total }))
    }

    /// Each series, its count and when it was last touched.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&[Arc<str>; N], u64, Timestamp)> {
        self.series
            .iter()
            .map(|(series, count)| (series, count.total, count.touched))
    }

    /// Takes up a count from before a restart.
    pub(super) fn restore(&mut self, series: [Arc<str>; N], total: u64, touched: Timestamp) {
        let count = Count {
            total,
            is_new: false,
            touched,
        };
        self.series.insert(series, count);
    }
}
