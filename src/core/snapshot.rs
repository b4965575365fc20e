//! The workspace as last read: plain immutable data, which the catalogue reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::clock::before;
use super::inventory::Inventory;
use super::sections::{Freshness, Section};
use super::tally::Label;
use crate::prefect::Id;
use crate::prefect::runs::{FlowRun, StateType};

/// The last runs of a deployment.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LastRuns {
    /// By terminal state type: when the last such run ended.
    pub ends: HashMap<StateType, Timestamp>,
    /// When the last of all ended, and how many seconds it had been running.
    pub last: Option<(Timestamp, Option<f64>)>,
}

/// The state of a section.
#[derive(Debug, Clone, Copy)]
pub struct SectionState {
    /// How old it is.
    pub freshness: Freshness,
    /// Whether the API does not have it.
    pub absent: bool,
    /// Failed reads since the start.
    pub errors: u64,
    /// Objects left out since the start because they could not be decoded.
    pub skipped: u64,
    /// How far its reading is behind the server's time, where it has a cursor.
    pub lag: Option<Duration>,
}

/// The workspace as last read.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The time of the snapshot, by the server's clock.
    pub now: Timestamp,
    /// Whether Prefect could be read in this cycle.
    pub up: bool,
    /// The server's version, where it tells one.
    pub version: Option<Arc<str>>,
    /// Every enabled section.
    pub sections: HashMap<Section, SectionState>,
    /// What changes rarely.
    pub inventory: Inventory,
    /// Runs that have not ended, including scheduled ones up to the look-ahead.
    pub unfinished: Vec<Run>,
    /// Runs that ended within the window, and runs that ended and were to start within it.
    pub finished: Vec<Run>,
    /// Failed and crashed runs of deployments within the failed-runs window.
    pub failed: Vec<Run>,
    /// Whether finished runs have been read since the start: before that, counters would show
    /// an old state.
    pub has_counted: bool,
}

impl Snapshot {
    /// Whether all of `sections` have been read, none of them is stale, and the API has them.
    pub fn is_fresh(&self, sections: &[Section]) -> bool {
        let is_fresh = |state: &SectionState| !state.freshness.stale && !state.absent;
        let mut sections = sections.iter();
        sections.all(|section| self.sections.get(section).is_some_and(is_fresh))
    }

    /// When a section was last read, by the server's clock: what its objects said was true then.
    pub fn read_time(&self, section: Section) -> Timestamp {
        let age = self.sections.get(&section).map(|state| state.freshness.age);
        before(self.now, age.unwrap_or_default())
    }

    /// The name of the flow with this id, as a label.
    pub fn flow_name(&self, id: Option<&Id>) -> Label {
        self.inventory.flow_name(id)
    }

    /// The names of a run's deployment and flow, as labels.
    pub fn names(&self, run: &FlowRun) -> (Label, Label) {
        self.inventory.names(run)
    }
}
