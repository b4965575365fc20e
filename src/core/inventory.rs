//! The inventory: deployments, flows, work pools, work queues, workers, concurrency limits,
//! automations, run history.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::sections::Section;
use super::tally::Label;
use crate::prefect::Id;
use crate::prefect::objects::{
    Automation, Deployment, Flow, GlobalLimit, TagLimit, WorkPool, WorkQueue, Worker, null,
};
use crate::prefect::runs::{FlowRun, StateCount};

/// The objects of the workspace that change rarely.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Deployments by id.
    pub deployments: Arc<HashMap<Id, Deployment>>,
    /// Flows by id.
    pub flows: Arc<HashMap<Id, Flow>>,
    /// Work pools.
    pub work_pools: Arc<Vec<WorkPool>>,
    /// Work queues.
    pub work_queues: Arc<Vec<WorkQueue>>,
    /// Workers that sent a heartbeat within the last day.
    pub workers: Arc<Vec<Worker>>,
    /// Global concurrency limits, which may include tag-based ones as `tag:NAME`.
    pub global_limits: Arc<Vec<GlobalLimit>>,
    /// Tag-based concurrency limits.
    pub tag_limits: Arc<Vec<TagLimit>>,
    /// Automations.
    pub automations: Arc<Vec<Automation>>,
    /// Runs of the last 24 hours by state, as counted by the server.
    pub run_history: Arc<Vec<StateCount>>,
    /// The pools without workers, by id.
    pub(super) vacant: Arc<HashMap<Id, Vacant>>,
}

/// A work pool without workers, when it was last asked for them.
#[derive(Debug, Clone)]
pub(super) struct Vacant {
    /// When the pool was last changed.
    pub(super) updated: Timestamp,
    /// When it was asked.
    pub(super) read: Timestamp,
}

impl Inventory {
    /// The number of objects of a section that may have very many. Deployments and flows are read
    /// equally often, since the series of a deployment have the name of its flow.
    pub(super) fn size(&self, section: Section) -> usize {
        match section {
            Section::Deployments | Section::Flows => self.deployments.len().max(self.flows.len()),
            _ => 0,
        }
    }

    /// Whether the flow of a deployment is not known yet.
    pub(super) fn lacks_flow(&self, deployment: &Deployment) -> bool {
        let flow = deployment.flow_id.as_ref();
        flow.is_some_and(|id| !self.flows.contains_key(id))
    }

    /// The name of the flow with this id, as a label.
    pub fn flow_name(&self, id: Option<&Id>) -> Label {
        id.and_then(|id| self.flows.get(id))
            .map_or_else(null, |flow| flow.name.label())
    }

    /// The names of a run's deployment and flow, as labels.
    pub fn names(&self, run: &FlowRun) -> (Label, Label) {
        let deployment = run.deployment_id.as_ref();
        let deployment = deployment.and_then(|id| self.deployments.get(id));
        (
            deployment.map_or_else(null, |deployment| deployment.name.label()),
            self.flow_name(run.flow_id.as_ref()),
        )
    }
}
