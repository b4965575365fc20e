//! Counts by series.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Counts that only grow, by the labels of their series.
#[derive(Debug)]
pub struct Tally<const N: usize> {
    series: HashMap<[Arc<str>; N], Count>,
    limit: usize,
    overflow: u64,
}

/// A series as it stands in a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    series: Vec<Arc<str>>,
    total: u64,
    /// Perhaps nobody has seen it at zero before the process died: it is shown so once more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_new: bool,
    touched: Timestamp,
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

    /// Each series as it stands in a checkpoint.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row> {
        self.series.iter().map(|(series, count)| Row {
            series: series.to_vec(),
            total: count.total,
            is_new: count.is_new,
            touched: count.touched,
        })
    }

    /// Takes up a count from before a restart; a row of another form is left out.
    pub(super) fn restore(&mut self, row: Row) {
        let Ok(series) = row.series.try_into() else {
            return;
        };
        let count = Count {
            total: row.total,
            is_new: row.is_new,
            touched: row.touched,
        };
        self.series.insert(series, count);
    }
}
