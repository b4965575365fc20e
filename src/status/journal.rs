//! The history that the status page shows: the cycles of the last hour, current failures and when
//! they began, and the requests by call. Its size is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::core::sections::Section;
use crate::core::{Cycle, Outcome};
use crate::metrics::agent::CycleCounts;
use crate::prefect::{Error, RequestRecord};

/// How long cycles are kept.
pub const WINDOW: Duration = Duration::from_secs(3_600);

/// The minimum time that a bar of the chart covers. Cycles with a shorter interval share a bar, so
/// the number of bars is limited.
const SHORTEST_BAR: Duration = Duration::from_secs(30);
const MOST_BARS: u64 = WINDOW.as_secs() / SHORTEST_BAR.as_secs();

/// Consecutive cycles that share a bar of the chart.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// When the last of them ended.
    pub ended: Timestamp,
    /// The number of cycles by outcome.
    pub counts: CycleCounts,
    /// The duration of the longest one.
    pub duration: Duration,
}

/// A section that cannot be read.
#[derive(Debug, Clone)]
pub struct Failing {
    /// The section.
    pub section: Section,
    /// Why its last read failed.
    pub error: Error,
    /// When its reads began to fail.
    pub since: Timestamp,
}

/// The cycles so far, as the status page shows them.
#[derive(Debug, Clone)]
pub struct Journal {
    /// The cycles of the last hour, oldest first.
    pub bars: VecDeque<Bar>,
    /// The sections whose last read failed.
    pub failing: Vec<Failing>,
    /// Since when all cycles have failed.
    pub down_since: Option<Timestamp>,
    /// Every request so far, by call.
    pub calls: BTreeMap<Call, Requests>,
    per_bar: u64,
    interval: Duration,
    cycles: u64,
}

impl Journal {
    /// An empty journal for cycles every `interval`.
    pub fn new(interval: Duration) -> Self {
        let interval = interval.max(Duration::from_secs(1));
        let per_bar = SHORTEST_BAR.as_secs_f64() / interval.as_secs_f64();
        Journal {
            bars: VecDeque::new(),
            failing: Vec::new(),
            down_since: None,
            calls: BTreeMap::new(),
            per_bar: per_bar.ceil().max(1.0) as u64,
            interval,
            cycles: 0,
        }
    }

    /// The time that a bar covers.
    pub fn bar_length(&self) -> Duration {
        let cycles = u32::try_from(self.per_bar).unwrap_or(1);
        self.interval.saturating_mul(cycles)
    }

    /// Records a cycle that has ended.
    pub fn note(&mut self, cycle: &Cycle, duration: Duration, now: Timestamp, calls: &Calls) {
        let outcome = cycle.outcome();
        let down = outcome == Outcome::Failure;
        self.down_since = down.then(|| self.down_since.unwrap_or(now));
        let before = std::mem::take(&mut self.failing);
        let since = |section| {
            let before = before.iter().find(|failing| failing.section == section);
            before.map_or(now, |failing| failing.since)
        };
        let failing = cycle.errors.iter().map(|(section, error)| Failing {
            section: *section,
            error: error.clone(),
            since: since(*section),
        });
        self.failing = failing.collect();
        self.calls = calls.so_far();
        self.add(outcome, duration, now);
    }

    fn add(&mut self, outcome: Outcome, duration: Duration, now: Timestamp) {
        let shares = !self.cycles.is_multiple_of(self.per_bar);
        self.cycles = self.cycles.saturating_add(1);
        let last = if shares { self.bars.pop_back() } else { None };
        let mut bar = last.unwrap_or(Bar {
            ended: now,
            counts: CycleCounts::default(),
            duration,
        });
        bar.ended = now;
        bar.counts.count(outcome);
        bar.duration = bar.duration.max(duration);
        self.bars.push_back(bar);
        let window = SignedDuration::try_from(WINDOW).unwrap_or_default();
        while let Some(bar) = self.bars.front()
            && now.duration_since(bar.ended) > window
        {
            self.bars.pop_front();
        }
        // If the clock is set back, the number of bars must not grow.
        while self.bars.len() as u64 > MOST_BARS {
            self.bars.pop_front();
        }
    }
}

/// The error of a cycle that best explains why Prefect cannot be read.
pub fn culprit<'a>(
    errors: impl Iterator<Item = (Section, &'a Error)> + Clone,
) -> Option<&'a Error> {
    let lists = errors.clone().filter(|(section, _)| section.matters());
    lists.chain(errors).next().map(|(_, error)| error)
}

/// Method and path, without ids.
pub type Call = (String, String);

/// The requests of one call.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    /// The number of requests.
    pub count: u64,
    /// The number of failed requests.
    pub errors: u64,
    /// The sum of their durations.
    pub duration: Duration,
    /// When the last one failed, and its `error.type`.
    pub last_error: Option<(Timestamp, String)>,
}

/// Counts requests to Prefect by call. There are only a few different calls.
#[derive(Debug, Default)]
pub struct Calls(Mutex<BTreeMap<Call, Requests>>);

impl Calls {
    /// Records a request that has ended.
    pub fn note(&self, record: &RequestRecord<'_>) {
        let call = (record.method.to_owned(), record.url_template.to_owned());
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = calls.entry(call).or_default();
        requests.count = requests.count.saturating_add(1);
        requests.duration = requests.duration.saturating_add(record.duration);
        if let Some(kind) = record.error_type {
            requests.errors = requests.errors.saturating_add(1);
            requests.last_error = Some((Timestamp::now(), kind.to_owned()));
        }
    }

    fn so_far(&self) -> BTreeMap<Call, Requests> {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: i64) -> Timestamp {
        Timestamp::constant(1_800_000_000 + seconds, 0)
    }

    fn cycles(bar: &Bar) -> [u64; 3] {
        Outcome::ALL.map(|outcome| bar.counts.of(outcome))
    }

    fn journal(interval: i64, seconds: i64) -> Journal {
        let mut journal = Journal::new(Duration::from_secs(interval as u64));
        for second in (0..seconds).step_by(interval as usize) {
            let outcome = match second {
                600 => Outcome::Partial,
                630 => Outcome::Failure,
                _ => Outcome::Success,
            };
            journal.add(outcome, Duration::from_millis(second as u64), after(second));
        }
        journal
    }

    #[test]
    fn an_hour_is_kept_in_at_most_120_bars_whatever_the_interval() {
        for (interval, bars, per_bar) in [(1, 120, 30), (7, 104, 5), (30, 120, 1), (60, 61, 1)] {
            let journal = journal(interval, 20_000);
            assert!(
                journal.bars.len().abs_diff(bars) <= 2,
                "{interval}: {}",
                journal.bars.len()
            );
            assert!(journal.bars.len() <= 120, "{interval}");
            let first: u64 = cycles(&journal.bars[0]).iter().sum();
            assert_eq!(first, per_bar, "{interval}");
            let covered = journal.bar_length().as_secs();
            assert_eq!(covered, per_bar * interval as u64, "{interval}");
        }
    }

    #[test]
    fn a_bar_has_every_outcome_and_the_longest_duration_of_its_cycles() {
        let journal = journal(10, 700);
        let at = |seconds| {
            let mut bars = journal.bars.iter();
            *bars.find(|bar| bar.ended == after(seconds)).unwrap()
        };
        assert_eq!(cycles(&at(590)), [3, 0, 0]);
        assert_eq!(cycles(&at(620)), [2, 1, 0]);
        assert_eq!(cycles(&at(650)), [2, 0, 1]);
        assert_eq!(at(650).duration, Duration::from_millis(650));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_let_the_bars_grow_in_number() {
        let mut journal = Journal::new(Duration::from_secs(30));
        for second in 0..10_000 {
            journal.add(Outcome::Success, Duration::ZERO, after(-second));
        }
        assert_eq!(journal.bars.len(), 120);
    }
}
