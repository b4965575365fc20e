//! The windows of the compatible families, kept in memory from what has been seen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::runs::{Id, Run};
use crate::settings::Sampling;
use crate::snapshot::{FlowRun, StateType, before};

/// How often the windows are read anew, so that deleted runs leave them.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(3600);

pub(super) struct Windows {
    /// Of finished runs.
    offset: Duration,
    /// Of failed ones; `None` is off.
    pub(super) failed_offset: Option<Duration>,
    /// Finished runs of the window, by id.
    finished: HashMap<Id, Run>,
    /// Failed runs of deployments of their own, longer window, by id.
    failed: HashMap<Id, Run>,
    reconciled_at: Option<Instant>,
}

impl Windows {
    pub(super) fn new(settings: &Sampling) -> Self {
        Windows {
            offset: settings.offset,
            failed_offset: settings.failed_runs_offset,
            finished: HashMap::new(),
            failed: HashMap::new(),
            reconciled_at: None,
        }
    }

    /// Whether it is time to read them anew.
    pub(super) fn are_due(&self) -> bool {
        self.reconciled_at
            .is_none_or(|at| at.elapsed() >= RECONCILE_INTERVAL)
    }

    /// They have been read anew.
    pub(super) fn reconciled(&mut self) {
        self.reconciled_at = Some(Instant::now());
    }

    /// Where the window of finished runs begins.
    pub(super) fn start(&self, now: Timestamp) -> Timestamp {
        before(now, self.offset)
    }

    /// The failed runs, read anew.
    pub(super) fn set_failed(&mut self, runs: HashMap<Id, Run>) {
        self.failed = runs;
    }

    /// Takes a finished run in.
    pub(super) fn add(&mut self, run: &Run) {
        if StateType::FAILURE.map(Some).contains(&run.state_type) && run.deployment_id.is_some() {
            self.failed.insert(Arc::clone(&run.id), Arc::clone(run));
        } else {
            self.failed.remove(&run.id);
        }
        self.finished.insert(Arc::clone(&run.id), Arc::clone(run));
    }

    /// Drops what is too old, and what is `again` under way: it has no end any more.
    pub(super) fn tidy(&mut self, now: Timestamp, again: impl Fn(&Id) -> bool) {
        let since = self.start(now);
        self.finished
            .retain(|id, run| !again(id) && has_finished(run, since));
        let failed_since = self.failed_since(now);
        self.failed
            .retain(|id, run| !again(id) && has_failed(run, failed_since));
    }

    /// Every run in them.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.finished.values().chain(self.failed.values())
    }

    /// The finished runs and the failed ones, as of `now`.
    pub(super) fn at(&self, now: Timestamp) -> (Vec<Run>, Vec<Run>) {
        let (since, failed_since) = (self.start(now), self.failed_since(now));
        let finished = self
            .finished
            .values()
            .filter(|run| has_finished(run, since));
        let failed = self
            .failed
            .values()
            .filter(|run| has_failed(run, failed_since));
        (finished.cloned().collect(), failed.cloned().collect())
    }

    fn failed_since(&self, now: Timestamp) -> Option<Timestamp> {
        self.failed_offset.map(|offset| before(now, offset))
    }
}

fn has_finished(run: &FlowRun, since: Timestamp) -> bool {
    let within = |time: Option<Timestamp>| time.is_some_and(|time| time >= since);
    within(run.end_time) || within(run.started_or_expected())
}

fn has_failed(run: &FlowRun, since: Option<Timestamp>) -> bool {
    let start = run.started_or_expected();
    since.is_some_and(|since| start.is_some_and(|start| start >= since))
}
