//! The deployments that are failing or have late runs, worst first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::format::{millis, name};
use super::links::Ui;
use super::model::{Deployment as Row, Deployments};
use crate::core::sections::Section;
use crate::core::snapshot::Snapshot;
use crate::core::tally::Label;
use crate::metrics::View;
use crate::prefect::Id;
use crate::prefect::objects::Deployment;
use crate::prefect::runs::{FlowRun, StateType};

/// Maximum number of deployments in the list.
const MOST: usize = 25;

const SECTIONS: &[Section] = &[
    Section::Deployments,
    Section::Flows,
    Section::ScheduledRuns,
    Section::FinishedRuns,
];

/// A deployment whose last run failed, or that has late runs.
struct Troubled<'a> {
    deployment: &'a Deployment,
    late: Vec<&'a FlowRun>,
    failed: Vec<&'a FlowRun>,
    /// How the last run ended, and when.
    last: Option<(StateType, Timestamp)>,
}

impl Troubled<'_> {
    fn is_failing(&self) -> bool {
        let state = self.last.map(|(state, _)| state);
        state.is_some_and(|state| StateType::FAILURE.contains(&state))
    }

    /// The sort key: the worst deployment has the smallest.
    fn rank(&self) -> (Reverse<(usize, usize, usize)>, Label) {
        let troubles = [self.is_failing(), !self.late.is_empty()];
        let troubles = troubles.into_iter().filter(|trouble| *trouble).count();
        let many = (troubles, self.late.len(), self.failed.len());
        (Reverse(many), self.deployment.name.label())
    }

    fn row(&self, snapshot: &Snapshot, knows_failed: bool, ui: &Ui) -> Row {
        let newest = self
            .failed
            .iter()
            .max_by_key(|run| run.started_or_expected());
        let expected = self.late.iter().filter_map(|run| run.expected_start_time);
        Row {
            deployment_name: name(self.deployment.name.label()),
            flow_name: name(snapshot.flow_name(self.deployment.flow_id.as_ref())),
            url: ui.deployment(&self.deployment.id),
            late_runs: self.late.len(),
            late_since: expected.min(),
            last_run_state: self.last.map(|(state, _)| state.as_str()),
            last_run_ended: self.last.map(|(_, ended)| millis(ended)),
            failed_runs: knows_failed.then_some(self.failed.len()),
            last_failed_run_url: newest.and_then(|run| ui.flow_run(&run.id)),
        }
    }
}

/// `None` if one of the required sections has not been read recently.
pub(super) fn troubled(view: &View<'_>, ui: &Ui) -> Option<Deployments> {
    let snapshot = view.snapshot;
    if !snapshot.is_fresh(SECTIONS) {
        return None;
    }
    let knows_failed = snapshot.is_fresh(&[Section::FailedRuns]);
    let mut late = by_deployment(snapshot.unfinished.iter().filter(|run| run.is_late()));
    let mut failed = by_deployment(snapshot.failed.iter().filter(|_| knows_failed));
    let last = |id: &Id| {
        let ends = view.last_runs.get(id)?.ends.iter();
        ends.map(|(state, ended)| (*state, *ended))
            .max_by_key(|(_, ended)| *ended)
    };
    let deployments = snapshot.inventory.deployments.values();
    let mut all: Vec<_> = deployments
        .map(|deployment| Troubled {
            deployment,
            late: late.remove(&deployment.id).unwrap_or_default(),
            failed: failed.remove(&deployment.id).unwrap_or_default(),
            last: last(&deployment.id),
        })
        .filter(|troubled| troubled.is_failing() || !troubled.late.is_empty())
        .collect();
    all.sort_by_cached_key(Troubled::rank);
    let omitted = all.len().saturating_sub(MOST);
    let listed = all.iter().take(MOST);
    Some(Deployments {
        troubled: listed
            .map(|troubled| troubled.row(snapshot, knows_failed, ui))
            .collect(),
        omitted,
    })
}

fn by_deployment<'a>(
    runs: impl Iterator<Item = &'a Arc<FlowRun>>,
) -> HashMap<&'a Id, Vec<&'a FlowRun>> {
    let mut groups: HashMap<_, Vec<_>> = HashMap::new();
    for run in runs {
        if let Some(deployment) = &run.deployment_id {
            groups.entry(deployment).or_default().push(&**run);
        }
    }
    groups
}
