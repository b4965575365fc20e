//! The windows of the compatible families, kept in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::clock::before;
use super::cursor::OVERLAP;
use crate::prefect::Id;
use crate::prefect::runs::{FlowRun, StateType};

/// Finished runs by id.
pub(super) type Found = HashMap<Id, Run>;

/// The finished runs within `OFFSET_MINUTES`, and the failed runs within
/// `FAILED_RUNS_OFFSET_MINUTES`.
#[derive(Debug)]
pub(super) struct Windows {
    offset: Duration,
    /// `None` disables the window of failed runs.
    failed_offset: Option<Duration>,
    finished: Found,
    failed: Found,
}

impl Windows {
    pub(super) fn new(offset: Duration, failed_offset: Option<Duration>) -> Self {
        Windows {
            offset,
            failed_offset,
            finished: Found::new(),
            failed: Found::new(),
        }
    }

    /// Where the window of finished runs begins.
    pub(super) fn start(&self, now: Timestamp) -> Timestamp {
        before(now, self.offset)
    }

    /// Where the window of failed runs begins; `None` if it is disabled.
    pub(super) fn failed_start(&self, now: Timestamp) -> Option<Timestamp> {
        self.failed_offset.map(|offset| before(now, offset))
    }

    /// Adds a finished run.
    pub(super) fn add(&mut self, run: &Run) {
        if is_failure(run) {
            self.failed.insert(Arc::clone(&run.id), Arc::clone(run));
        } else {
            self.failed.remove(&run.id);
        }
        self.finished.insert(Arc::clone(&run.id), Arc::clone(run));
    }

    /// Removes a run that has started again or was deleted.
    pub(super) fn remove(&mut self, id: &str) {
        self.finished.remove(id);
        self.failed.remove(id);
    }

    /// Replaces the finished runs with those that a reading from `began` on has found, of runs that
    /// ended since `since`: others were deleted. Runs that ended earlier or since then are kept.
    pub(super) fn replace_finished(&mut self, since: Timestamp, began: Timestamp, found: Found) {
        let is_older = |run: &FlowRun| run.end_time.is_some_and(|end| end < since);
        self.finished
            .retain(|_, run| is_older(run) || ended_after(run, began));
        merge(&mut self.finished, found);
    }

    /// Replaces the failed runs with those that a reading from `began` on has found. Runs that
    /// failed since then are kept.
    pub(super) fn replace_failed(&mut self, began: Timestamp, found: Found) {
        self.failed.retain(|_, run| ended_after(run, began));
        merge(&mut self.failed, found);
    }

    /// Drops runs that have become too old.
    pub(super) fn prune(&mut self, now: Timestamp) {
        let since = self.start(now);
        self.finished.retain(|_, run| has_finished(run, since));
        let failed_since = self.failed_start(now);
        self.failed.retain(|_, run| has_failed(run, failed_since));
    }

    /// Every run in the windows.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.finished.values().chain(self.failed.values())
    }

    /// The finished runs and the failed runs, as of `now`.
    pub(super) fn at(&self, now: Timestamp) -> (Vec<Run>, Vec<Run>) {
        let (since, failed_since) = (self.start(now), self.failed_start(now));
        let finished = self.finished.values();
        let failed = self.failed.values();
        (
            finished
                .filter(|run| has_finished(run, since))
                .cloned()
                .collect(),
            failed
                .filter(|run| has_failed(run, failed_since))
                .cloned()
                .collect(),
        )
    }
}

/// Whether a reading that began at `began` may have missed the end of a run.
fn ended_after(run: &FlowRun, began: Timestamp) -> bool {
    run.latest_end() >= Some(before(began, OVERLAP))
}

/// Adds runs, unless they are known in a later state.
fn merge(into: &mut Found, found: Found) {
    for (id, run) in found {
        let known = into.get(&id);
        if known.is_none_or(|known| known.latest_end() <= run.latest_end()) {
            into.insert(id, run);
        }
    }
}

/// Whether a run counts as failed in the compatible families.
pub(super) fn is_failure(run: &FlowRun) -> bool {
    StateType::FAILURE.map(Some).contains(&run.state_type) && run.deployment_id.is_some()
}

fn has_finished(run: &FlowRun, since: Timestamp) -> bool {
    let within = |time: Option<Timestamp>| time.is_some_and(|time| time >= since);
    within(run.end_time) || within(run.started_or_expected())
}

fn has_failed(run: &FlowRun, since: Option<Timestamp>) -> bool {
    let start = run.started_or_expected();
    since.is_some_and(|since| start.is_some_and(|start| start >= since))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn failed(id: &str, seconds: i64, state: &str) -> Run {
        let end = Timestamp::from_second(BEGAN.as_second() + seconds).unwrap();
        let json = format!(
            r#"{{"id":"{id}","state_id":"{state}","state_type":"FAILED","deployment_id":"d","start_time":"{end}","end_time":"{end}"}}"#
        );
        Arc::new(serde_json::from_str(&json).unwrap())
    }

    fn found(runs: &[Run]) -> Found {
        let runs = runs.iter();
        runs.map(|run| (Arc::clone(&run.id), Arc::clone(run)))
            .collect()
    }

    #[test]
    fn runs_that_end_during_a_comparison_stay_in_the_windows() {
        let hour = Duration::from_secs(3_600);
        let mut windows = Windows::new(hour, Some(hour));
        let deleted = failed("deleted", -600, "1");
        let ended = failed("ended", 300, "1");
        let retried = failed("retried", 300, "2");
        for run in [&deleted, &ended, &retried] {
            windows.add(run);
        }
        let read = found(&[failed("retried", -600, "1"), failed("there", -600, "1")]);
        let since = before(BEGAN, hour);
        windows.replace_finished(since, BEGAN, read.clone());
        windows.replace_failed(BEGAN, read);
        for window in [&windows.finished, &windows.failed] {
            let mut ids: Vec<&str> = window.keys().map(|id| &**id).collect();
            ids.sort_unstable();
            assert_eq!(ids, ["ended", "retried", "there"]);
            assert_eq!(window["retried"].state_id.as_deref(), Some("2"));
        }
    }
}
