//! What a publisher needs: the workspace, what the counters show, and the last runs, as of one
//! moment.

use std::collections::HashMap;
use std::sync::Arc;

use super::Core;
use super::clock::Moment;
use super::counters::AllTotals;
use super::snapshot::{LastRuns, Snapshot};
use crate::prefect::Id;

/// All that is published: plain data that no longer changes.
///
/// A counter series that appears is shown at zero, and one of a checkpoint at what was shown
/// last, until a state that showed it has been delivered ([`Core::mark_shown`]): whoever has not
/// seen it before then sees it grow, and `increase()` is exact.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Grows with each state that is made; the first is 1.
    pub number: u64,
    /// The workspace.
    pub snapshot: Snapshot,
    /// What the counters show.
    pub counters: AllTotals,
    /// The last runs of each deployment, by its id.
    pub last_runs: Arc<HashMap<Id, LastRuns>>,
}

impl Core {
    /// The state at `moment`. A checkpoint must be kept between this and its publication, so
    /// that nothing is shown that a restart does not know of.
    pub fn state(&mut self, moment: Moment) -> Arc<State> {
        self.number += 1;
        let (counters, grows) = self.counters.show(self.number, self.shown);
        // A restart must not show less.
        self.changed |= grows;
        Arc::new(State {
            number: self.number,
            snapshot: self.snapshot(moment),
            counters,
            last_runs: Arc::clone(self.last_runs.by_deployment()),
        })
    }

    /// The state with this number has been delivered: a push of it was accepted, or a page with
    /// it was scraped. Series that it or an earlier state was the first to show are shown with
    /// their totals from the next state on.
    pub fn mark_shown(&mut self, number: u64) {
        self.shown = self.shown.max(number);
    }

    /// From the next state on, every series shows its total, whether or not anybody has seen
    /// it before: no process after this one will show it.
    pub fn release(&mut self) {
        self.counters.release();
    }
}
