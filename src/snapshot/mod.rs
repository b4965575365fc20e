//! The workspace as last seen: plain immutable data, and how old each part of it is.
//!
//! A [`Snapshot`] is built once a cycle by the sampler and read by the catalogue. It knows
//! neither where it came from nor what is made of it.

mod objects;
mod runs;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use objects::{
    Automation, Deployment, Field, Flow, GlobalLimit, TagLimit, WorkPool, WorkQueue, Worker, null,
};
pub use runs::{FlowRun, State, StateCount, StateType, TaskRun};

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
    /// The workers of all work pools.
    Workers,
    /// Concurrency limits, global and by tag.
    ConcurrencyLimits,
    /// All automations.
    Automations,
    /// The server's own counts of the last day's runs.
    RunHistory,
    /// Runs pending, running, paused, cancelling.
    ActiveRuns,
    /// Runs scheduled up to the look-ahead, late ones and those awaiting retry among them.
    ScheduledRuns,
    /// Runs that ended in the window.
    FinishedRuns,
    /// Failed and crashed runs of the failed-runs window.
    FailedRuns,
    /// Task runs that ended, where they are asked for.
    TaskRuns,
}

impl Section {
    /// Every section, in the order in which they are declared.
    pub const ALL: [Section; 14] = [
        Section::Server,
        Section::Deployments,
        Section::Flows,
        Section::WorkPools,
        Section::WorkQueues,
        Section::Workers,
        Section::ConcurrencyLimits,
        Section::Automations,
        Section::RunHistory,
        Section::ActiveRuns,
        Section::ScheduledRuns,
        Section::FinishedRuns,
        Section::FailedRuns,
        Section::TaskRuns,
    ];

    /// The value of the attribute `section`.
    pub fn as_str(self) -> &'static str {
        match self {
            Section::Server => "server",
            Section::Deployments => "deployments",
            Section::Flows => "flows",
            Section::WorkPools => "work_pools",
            Section::WorkQueues => "work_queues",
            Section::Workers => "workers",
            Section::ConcurrencyLimits => "concurrency_limits",
            Section::Automations => "automations",
            Section::RunHistory => "run_history",
            Section::ActiveRuns => "active_runs",
            Section::ScheduledRuns => "scheduled_runs",
            Section::FinishedRuns => "finished_runs",
            Section::FailedRuns => "failed_runs",
            Section::TaskRuns => "task_runs",
        }
    }

    /// Whether it belongs to the inventory, which is read on its own, slower interval.
    pub fn is_inventory(self) -> bool {
        matches!(
            self,
            Section::Deployments
                | Section::Flows
                | Section::WorkPools
                | Section::WorkQueues
                | Section::Workers
                | Section::ConcurrencyLimits
                | Section::Automations
                | Section::RunHistory
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
    /// Workers that were there within the last day.
    pub workers: Arc<Vec<Worker>>,
    /// Global concurrency limits; those by tag may be among them, as `tag:NAME`.
    pub global_limits: Arc<Vec<GlobalLimit>>,
    /// Concurrency limits by tag.
    pub tag_limits: Arc<Vec<TagLimit>>,
    /// Automations.
    pub automations: Arc<Vec<Automation>>,
    /// Runs of the last day by state, as the server counts them.
    pub run_history: Arc<Vec<StateCount>>,
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

    /// Whether a section has ever been read.
    pub fn has_read(&self, section: Section) -> bool {
        self.freshness.contains_key(&section)
    }

    /// The name of the flow with this id, as a label.
    pub fn flow_name(&self, id: Option<&Arc<str>>) -> Arc<str> {
        id.and_then(|id| self.flows.get(id))
            .map_or_else(null, |flow| flow.name.label())
    }

    /// The names of a run's deployment and flow, as labels.
    pub fn names(&self, run: &FlowRun) -> (Arc<str>, Arc<str>) {
        let deployment = run.deployment_id.as_ref();
        let deployment = deployment.and_then(|id| self.deployments.get(id));
        (
            deployment.map_or_else(null, |deployment| deployment.name.label()),
            self.flow_name(run.flow_id.as_ref()),
        )
    }
}
