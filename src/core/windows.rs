//! The windows of the compatible families, kept in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::clock::before;
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

    /// Replaces the finished runs with those that a complete reading since `since` has found:
    /// others were deleted. Runs that ended earlier are kept.
    pub(super) fn replace_finished(&mut self, since: Timestamp, found: Found) {
        let ended_before = |run: &FlowRun| run.end_time.is_some_and(|end| end < since);
        self.finished.retain(|_, run| ended_before(run));
        self.finished.extend(found);
    }

    /// Replaces the failed runs with those that a complete reading has found.
    pub(super) fn replace_failed(&mut self, found: Found) {
        self.failed = found;
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
