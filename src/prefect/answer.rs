//! The API's answers.

use std::sync::Arc;

use serde::Deserialize;

use super::decode::{Listed, Skipped, objects};
use super::objects::{Objects, Worker};
use super::request::Request;
use super::runs::{FlowRun, RunState, StateCount, TaskRun};

/// An answer to a [`Request`].
#[derive(Debug, Clone)]
pub enum Answer {
    /// The server's version.
    Version(Arc<str>),
    /// Objects of a list.
    Objects(Objects),
    /// A count.
    Count(u64),
    /// Workers.
    Workers(Listed<Worker>),
    /// Counts of runs by state.
    RunHistory(Vec<StateCount>),
    /// Flow runs.
    FlowRuns(Listed<FlowRun>),
    /// The states of a flow run, ordered by timestamp.
    FlowRunStates(Listed<RunState>),
    /// Task runs.
    TaskRuns(Listed<TaskRun>),
}

#[derive(Deserialize)]
struct Interval {
    #[serde(default)]
    states: Vec<StateCount>,
}

impl Answer {
    /// The objects that could not be decoded.
    pub fn skipped(&self) -> &[Skipped] {
        match self {
            Answer::Objects(objects) => objects.skipped(),
            Answer::Workers(listed) => &listed.skipped,
            Answer::FlowRuns(listed) => &listed.skipped,
            Answer::FlowRunStates(listed) => &listed.skipped,
            Answer::TaskRuns(listed) => &listed.skipped,
            Answer::Version(_) | Answer::Count(_) | Answer::RunHistory(_) => &[],
        }
    }

    /// Decodes the body of the answer to `request`.
    pub(super) fn decode(request: &Request, body: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(match request {
            Request::Version => Answer::Version(serde_json::from_slice(body)?),
            Request::List { resource, .. } | Request::ByIds { resource, .. } => {
                Answer::Objects(resource.decode(body)?)
            }
            Request::Count(_) | Request::CountFlowRuns(_) => {
                Answer::Count(serde_json::from_slice(body)?)
            }
            Request::Workers { .. } => Answer::Workers(objects(body)?),
            Request::RunHistory { .. } => {
                let intervals: Vec<Interval> = serde_json::from_slice(body)?;
                let states = intervals.into_iter().flat_map(|interval| interval.states);
                Answer::RunHistory(states.collect())
            }
            Request::FlowRuns { .. } => Answer::FlowRuns(objects(body)?),
            Request::FlowRunStates(_) => Answer::FlowRunStates(objects(body)?),
            Request::TaskRuns { .. } => Answer::TaskRuns(objects(body)?),
        })
    }
}
