//! The last runs of each deployment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::events::Event;
use super::snapshot::LastRuns;
use crate::prefect::Id;
use crate::prefect::objects::Deployment;
use crate::prefect::runs::{FlowRun, StateType};

/// The last runs of each deployment, by its id.
#[derive(Debug, Default)]
pub(super) struct AllLastRuns {
    /// Shared with the states; copied when it changes.
    by_deployment: Arc<HashMap<Id, LastRuns>>,
    /// Deployments that have been deleted, and since when, as uptime.
    gone: HashMap<Id, Duration>,
}

impl AllLastRuns {
    pub(super) fn restore(by_deployment: HashMap<Id, LastRuns>) -> Self {
        AllLastRuns {
            by_deployment: Arc::new(by_deployment),
            gone: HashMap::new(),
        }
    }

    /// The last runs of each deployment.
    pub(super) fn by_deployment(&self) -> &Arc<HashMap<Id, LastRuns>> {
        &self.by_deployment
    }

    /// Takes note of a run that ended.
    pub(super) fn note(&mut self, event: &Event) {
        if let Event::FlowRun(finished) = event {
            let (end, time) = (finished.end, finished.run_time);
            self.ended(&finished.run, finished.state_type, end);
            self.was_last(&finished.run, end, time);
        }
    }

    /// Takes note of a finished run that a comparison found. It can be the deployment's last run
    /// only if it ended at `complete_since` or later.
    pub(super) fn seen(&mut self, run: &FlowRun, complete_since: Timestamp) {
        let (Some(state), Some(end)) = (run.state_type, run.end_time) else {
            return;
        };
        self.ended(run, state, end);
        if end >= complete_since {
            self.was_last(run, end, run.total_run_time);
        }
    }

    fn ended(&mut self, run: &FlowRun, state: StateType, end: Timestamp) {
        if let Some(last) = self.of(run) {
            let known = last.ends.entry(state).or_insert(end);
            *known = end.max(*known);
        }
    }

    fn was_last(&mut self, run: &FlowRun, end: Timestamp, time: Option<f64>) {
        if let Some(last) = self.of(run)
            && last.last.is_none_or(|(known, _)| end >= known)
        {
            last.last = Some((end, time));
        }
    }

    /// The last runs of the deployment that `run` belongs to, if it belongs to one.
    fn of(&mut self, run: &FlowRun) -> Option<&mut LastRuns> {
        let deployment = run.deployment_id.as_ref()?;
        Some(
            Arc::make_mut(&mut self.by_deployment)
                .entry(Arc::clone(deployment))
                .or_default(),
        )
    }

    /// Drops deployments that have been missing from `deployments`, which have just been read, for
    /// `keep`.
    pub(super) fn prune(
        &mut self,
        deployments: &HashMap<Id, Deployment>,
        uptime: Duration,
        keep: Duration,
    ) {
        let known = &self.by_deployment;
        self.gone
            .retain(|id, _| known.contains_key(id) && !deployments.contains_key(id));
        for id in known.keys().filter(|id| !deployments.contains_key(*id)) {
            self.gone.entry(Arc::clone(id)).or_insert(uptime);
        }
        let forgotten = self.gone.iter();
        let forgotten = forgotten.filter(|(_, since)| uptime.saturating_sub(**since) >= keep);
        for (id, _) in forgotten {
            Arc::make_mut(&mut self.by_deployment).remove(id);
        }
    }
}
