//! The API's answers.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::Error as _;

use super::bounded::{Items, MOST_UNASKED, Within};
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
    states: Option<Items<StateCount>>,
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
    ///
    /// # Errors
    ///
    /// If it is not such an answer.
    pub fn decode(request: &Request, body: &[u8]) -> Result<Self, serde_json::Error> {
        let most = request.limit().unwrap_or(MOST_UNASKED);
        Ok(match request {
            Request::Version => {
                let Within::<Arc<str>>(version) = serde_json::from_slice(body)?;
                match is_version(&version) {
                    true => Answer::Version(version),
                    false => return Err(serde_json::Error::custom("not a version")),
                }
            }
            Request::List { resource, .. } | Request::ByIds { resource, .. } => {
                Answer::Objects(resource.decode(body, most)?)
            }
            Request::Count(_) | Request::CountFlowRuns(_) => {
                Answer::Count(serde_json::from_slice(body)?)
            }
            Request::Workers { .. } => Answer::Workers(objects(body, most)?),
            Request::RunHistory { .. } => {
                let Items(intervals) = serde_json::from_slice::<Items<Interval>>(body)?;
                let states = intervals.into_iter().filter_map(|interval| interval.states);
                let states = states.flat_map(|Items(states)| states);
                Answer::RunHistory(states.take(MOST_UNASKED).collect())
            }
            Request::FlowRuns { .. } => Answer::FlowRuns(objects(body, most)?),
            Request::FlowRunStates(_) => Answer::FlowRunStates(objects(body, most)?),
            Request::TaskRuns { .. } => Answer::TaskRuns(objects(body, most)?),
        })
    }
}

/// Whether a text can be a version, such as `3.8.8`, `3.9.0.dev1` or `0+unknown`. Any other text does
/// not come from Prefect, and may repeat the request with its credentials.
/// <https://packaging.python.org/en/latest/specifications/version-specifiers/>
fn is_version(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || ".+-_!".contains(c);
    text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_repeats_the_request_is_not_a_version() {
        let decode = |text: &str| {
            let body = serde_json::to_vec(text).unwrap();
            Answer::decode(&Request::Version, &body)
        };
        for version in [
            "3.8.8",
            "3.0.4+7.g1a2b3c",
            "3.9.0.dev1",
            "0+unknown",
            "2.20.9",
        ] {
            assert!(decode(version).is_ok(), "{version}");
        }
        let long = "3".repeat(65);
        for text in [
            "",
            "{\"authorization\": \"Basic YWRtaW46\"}",
            "pnu_0123",
            "3.8.8 <b>",
            &long,
        ] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
