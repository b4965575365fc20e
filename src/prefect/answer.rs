//! The API's answers, decoded leniently.
//!
//! An object that cannot be decoded is skipped and reported; the rest of the list is used. An
//! answer that is not a list of objects with ids does not come from Prefect and is an error.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::objects::{Objects, Worker};
use super::request::{Id, Request};
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

/// The objects of one answer.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    /// The objects that could be decoded.
    pub items: Vec<T>,
    /// The objects that could not be decoded.
    pub skipped: Vec<Skipped>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed {
            items: Vec::new(),
            skipped: Vec::new(),
        }
    }
}

impl<T> From<Vec<T>> for Listed<T> {
    fn from(items: Vec<T>) -> Self {
        Listed {
            items,
            skipped: Vec::new(),
        }
    }
}

impl<T> Listed<T> {
    /// The number of objects in the answer, decodable or not: a page with fewer than its limit is
    /// the last one.
    pub fn len(&self) -> usize {
        self.items.len() + self.skipped.len()
    }

    /// Whether the answer has no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An object that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its id.
    pub id: Id,
    /// Why it could not be decoded.
    pub reason: String,
}

#[derive(Deserialize)]
struct Interval {
    #[serde(default)]
    states: Vec<StateCount>,
}

#[derive(Deserialize)]
struct Identified {
    id: Id,
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

/// Decodes a list, object by object if it cannot be decoded as a whole.
pub(super) fn objects<T: DeserializeOwned>(body: &[u8]) -> Result<Listed<T>, serde_json::Error> {
    if let Ok(items) = serde_json::from_slice::<Vec<T>>(body) {
        return Ok(Listed::from(items));
    }
    let mut listed = Listed::default();
    for raw in serde_json::from_slice::<Vec<&RawValue>>(body)? {
        match serde_json::from_str(raw.get()) {
            Ok(item) => listed.items.push(item),
            Err(error) => {
                let Identified { id } = serde_json::from_str(raw.get())?;
                let reason = error.to_string();
                listed.skipped.push(Skipped { id, reason });
            }
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_cannot_be_decoded_is_skipped_and_reported() {
        let body = br#"[{"id":"a"},{"id":"b","start_time":"yesterday"},{"id":"c"}]"#;
        let listed: Listed<FlowRun> = objects(body).unwrap();
        let ids: Vec<_> = listed.items.iter().map(|run| &*run.id).collect();
        assert_eq!((ids, listed.len()), (vec!["a", "c"], 3));
        assert_eq!(&*listed.skipped[0].id, "b");
    }

    #[test]
    fn an_answer_that_is_not_a_list_of_objects_is_an_error() {
        for body in ["{}", "[7]", "[{\"id\":7}]", "[{}]", "<html>", "", "null"] {
            assert!(objects::<FlowRun>(body.as_bytes()).is_err(), "{body}");
        }
    }
}
