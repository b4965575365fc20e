//! The state that is published: the workspace, the values of the counters, and the last runs at one
//! moment.

use std::collections::HashMap;
use std::sync::Arc;

use super::Core;
use super::clock::Moment;
use super::counters::AllTotals;
use super::snapshot::{LastRuns, Snapshot};
use crate::prefect::Id;

/// Everything that is published, as immutable data.
///
/// A new counter series stays at zero, and one from a checkpoint at the value exported last, until
/// a state with it has been delivered ([`Core::mark_shown`]). `increase()` then starts from that
/// sample and misses no event.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The number of the state, counted from 1.
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
    /// no value is lower after a restart.
    pub fn state(&mut self, moment: Moment) -> Arc<State> {
        self.number = self.number.saturating_add(1);
        let (counters, grows) = self.counters.show(self.number, self.shown);
        // No value may be lower after a restart.
        self.changed |= grows;
        Arc::new(State {
            number: self.number,
            snapshot: self.snapshot(moment),
            counters,
            last_runs: Arc::clone(self.last_runs.by_deployment()),
        })
    }

    /// Notes that the state with this number has been delivered: a push of it was accepted, or it
    /// was scraped. From the next state on, series that first appeared in this or an earlier state
    /// are exported with their totals.
    pub fn mark_shown(&mut self, number: u64) {
        self.shown = self.shown.max(number);
    }

    /// From the next state on, every series is exported with its total, delivered or not. For the
    /// last state of a process without a checkpoint.
    pub fn release(&mut self) {
        self.counters.release();
    }
}
