//! The workspace as last seen: plain immutable data, and how old each part of it is.
//!
//! A [`Snapshot`] is built once a cycle by the sampler and read by the catalogue. It knows
//! neither where it came from nor what is made of it.

mod objects;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use objects::{Deployment, Field, Flow, FlowRun, StateType, WorkPool, WorkQueue};

/// The moment `duration` before `time`: where a window begins.
pub fn before(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_sub(duration).unwrap_or(Timestamp::MIN)
}

/// A part of the snapshot that is read, and can fail, on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Section {
    /// The server itself: is it there, which version.
    Server,
    /// All deployments.
    Deployments,
    /// All flows.
    Flows,
    /// All work pools.
    WorkPools,
    /// All work queues.
    WorkQueues,
    /// Runs pending, running, paused, cancelling.
    ActiveRuns,
    /// Runs scheduled up to the look-ahead, late ones and those awaiting retry among them.
    ScheduledRuns,
    /// Runs that ended in the window.
    FinishedRuns,
    /// Failed and crashed runs of the failed-runs window.
    FailedRuns,
}

impl Section {
    /// Every section, in the order in which they are declared.
    pub const ALL: [Section; 9] = [
        Section::Server,
        Section::Deployments,
        Section::Flows,
        Section::WorkPools,
        Section::WorkQueues,
        Section::ActiveRuns,
        Section::ScheduledRuns,
        Section::FinishedRuns,
        Section::FailedRuns,
    ];

    /// The value of the attribute `section`.
    pub fn as_str(self) -> &'static str {
        match self {
            Section::Server => "server",
            Section::Deployments => "deployments",
            Section::Flows => "flows",
            Section::WorkPools => "work_pools",
            Section::WorkQueues => "work_queues",
            Section::ActiveRuns => "active_runs",
            Section::ScheduledRuns => "scheduled_runs",
            Section::FinishedRuns => "finished_runs",
            Section::FailedRuns => "failed_runs",
        }
    }

    /// Whether it belongs to the inventory, which is read on its own, slower interval.
    pub fn is_inventory(self) -> bool {
        matches!(
            self,
            Section::Deployments | Section::Flows | Section::WorkPools | Section::WorkQueues
        )
    }
}

/// How old a section is, and whether that is too old to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Time since it was last read.
    pub age: Duration,
    /// Past it, its gauges are withheld.
    pub stale: bool,
}

/// The workspace as last seen.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The moment of the snapshot, in the server's time.
    pub now: Timestamp,
    /// Whether Prefect could be read in this cycle.
    pub up: bool,
    /// The server's version, where it tells one.
    pub version: Option<Arc<str>>,
    /// How old each section is; one that was never read is not in it.
    pub freshness: HashMap<Section, Freshness>,
    /// Deployments by id.
    pub deployments: Arc<HashMap<Arc<str>, Deployment>>,
    /// Flows by id.
    pub flows: Arc<HashMap<Arc<str>, Flow>>,
    /// Work pools.
    pub work_pools: Arc<Vec<WorkPool>>,
    /// Work queues.
    pub work_queues: Arc<Vec<WorkQueue>>,
    /// Runs that have not ended, scheduled ones up to the look-ahead among them.
    pub unfinished: Vec<Arc<FlowRun>>,
    /// Runs that ended within the window, or that ended and were to start within it or later.
    pub finished: Vec<Arc<FlowRun>>,
    /// Failed and crashed runs of deployments within the failed-runs window.
    pub failed: Vec<Arc<FlowRun>>,
}

impl Snapshot {
    /// Whether all of `sections` have been read and none of them is stale.
    pub fn is_fresh(&self, sections: &[Section]) -> bool {
        sections.iter().all(|section| {
            self.freshness
                .get(section)
                .is_some_and(|freshness| !freshness.stale)
        })
    }
}
