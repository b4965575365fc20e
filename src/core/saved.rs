//! The content of a checkpoint.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::counted::Row;
use super::counters::SavedCounters;
use super::snapshot::LastRuns;
use crate::prefect::Id;

/// The core's memory, as stored in a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedState {
    /// The start of counting: runs that ended before are not counted.
    pub(super) start: Timestamp,
    pub(super) flow_runs: Position,
    pub(super) task_runs: Option<Position>,
    /// Runs that have not ended, and since when they have been known.
    pub(super) awaited: HashMap<Id, Timestamp>,
    /// Runs that were counted without their earlier states.
    #[serde(default)]
    pub(super) unread: HashSet<Id>,
    pub(super) counters: SavedCounters,
    pub(super) last_runs: HashMap<Id, LastRuns>,
}

/// How far a list of finished runs has been read and counted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) start: Timestamp,
    pub(super) cursor: Option<Timestamp>,
    /// The times of the last comparison with the server and of the one before.
    #[serde(default)]
    pub(super) compared: [Option<Timestamp>; 2],
    pub(super) counted: Vec<Row>,
    pub(super) forgotten_until: Timestamp,
}

impl SavedState {
    /// The time up to which finished flow runs have been read.
    pub fn cursor(&self) -> Option<Timestamp> {
        self.flow_runs.cursor
    }
}
