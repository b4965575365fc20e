//! What the publisher needs: the workspace, the values of the counters, and the last runs, at one
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
/// A new counter series stays at zero, and one from a checkpoint at the value exported last, until
/// a state that shows it has been delivered ([`Core::mark_shown`]): its first sample is then what
/// `increase()` starts from, and no event is missed.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Grows with each state that is made; the first is 1.
    pub number: u64,
    /// The workspace.
    pub snapshot: Snapshot,
    /// The values of the counters.
    pub counters: AllTotals,
    /// The last runs of each deployment, by its id.
    pub last_runs: Arc<HashMap<Id, LastRuns>>,
}

impl Core {
    /// The state at `moment`. A checkpoint must be written before the state is published, so that
    /// a restart never shows less.
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

    /// From the next state on, every series shows its total, delivered or not: no later process
    /// will show it.
    pub fn release(&mut self) {
        self.counters.release();
    }
}
