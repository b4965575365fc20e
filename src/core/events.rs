//! Events: runs that reached a terminal state, each reported once.

use std::sync::Arc;

use jiff::Timestamp;

use super::tally::{Label, Series};
use crate::prefect::Id;
use crate::prefect::runs::{FlowRun, StateType};

/// An event, reported once.
#[derive(Debug, Clone)]
pub enum Event {
    /// A flow run reached a terminal state.
    FlowRun(FinishedRun),
    /// A task run reached a terminal state.
    TaskRun(FinishedTask),
}

impl Event {
    /// The values of its deployment's tags, one per key; empty if it has no deployment.
    pub fn tags(&self) -> &[Label] {
        match self {
            Event::FlowRun(run) => &run.tags,
            Event::TaskRun(_) => &[],
        }
    }
}

/// A flow run that reached a terminal state.
#[derive(Debug, Clone)]
pub struct FinishedRun {
    /// The run, as last seen.
    pub run: Arc<FlowRun>,
    /// The name of its deployment, as a label.
    pub deployment: Label,
    /// The name of its flow, as a label.
    pub flow: Label,
    /// The values of its deployment's tags when it was counted, one per key.
    pub tags: Series,
    /// The id of the terminal state.
    pub state_id: Id,
    /// The type of that state.
    pub state_type: StateType,
    /// The name of that state, as a label.
    pub state_name: Label,
    /// When the run reached the state, in the server's time.
    pub end: Timestamp,
    /// The run time until then in seconds, over all attempts.
    pub run_time: Option<f64>,
    /// The number of starts since the previous terminal state, without the first start of the run.
    pub retries: u64,
    /// Whether it is the run's first terminal state.
    pub first: bool,
}

impl FinishedRun {
    /// Seconds from the expected to the actual start, once per run. For a run that never started,
    /// the server sets the start time to its end time, so such runs are left out.
    pub fn start_delay(&self) -> Option<f64> {
        self.run.run_count.filter(|count| *count > 0)?;
        let (start, expected) = (self.run.start_time?, self.run.expected_start_time?);
        let delay = start.duration_since(expected).as_secs_f64().max(0.0);
        self.first.then_some(delay)
    }
}

/// A task run that reached a terminal state.
#[derive(Debug, Clone)]
pub struct FinishedTask {
    /// The name of the task.
    pub task: Label,
    /// The type of the state.
    pub state_type: StateType,
    /// The run time in seconds, over all attempts.
    pub run_time: Option<f64>,
}
