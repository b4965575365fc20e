//! Runs and their states, with the few fields that are read.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::objects::{Field, time};

/// The type of a state: Prefect's closed list. A state's *name* is free text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StateType {
    /// Waiting for its time, late, or awaiting retry.
    Scheduled,
    /// About to run.
    Pending,
    /// Running.
    Running,
    /// Paused by its own code or by hand.
    Paused,
    /// On its way to cancelled.
    Cancelling,
    /// Final: success.
    Completed,
    /// Final: the flow raised or returned a failure.
    Failed,
    /// Final: cancelled.
    Cancelled,
    /// Final: the infrastructure failed.
    Crashed,
    /// A type that this version does not know.
    #[serde(other)]
    Unknown,
}

impl StateType {
    /// The types of runs that are under way, other than SCHEDULED.
    pub const ACTIVE: [StateType; 4] = [
        StateType::Pending,
        StateType::Running,
        StateType::Paused,
        StateType::Cancelling,
    ];
    /// The types after which a run changes no more, unless somebody retries it.
    pub const FINAL: [StateType; 4] = [
        StateType::Completed,
        StateType::Failed,
        StateType::Cancelled,
        StateType::Crashed,
    ];
    /// The types that the compatible families call a failure.
    pub const FAILURE: [StateType; 2] = [StateType::Failed, StateType::Crashed];

    /// Prefect's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            StateType::Scheduled => "SCHEDULED",
            StateType::Pending => "PENDING",
            StateType::Running => "RUNNING",
            StateType::Paused => "PAUSED",
            StateType::Cancelling => "CANCELLING",
            StateType::Completed => "COMPLETED",
            StateType::Failed => "FAILED",
            StateType::Cancelled => "CANCELLED",
            StateType::Crashed => "CRASHED",
            StateType::Unknown => "UNKNOWN",
        }
    }

    /// Prefect's default name for a state of this type.
    pub fn default_name(self) -> String {
        let text = self.as_str();
        text[..1].to_owned() + &text[1..].to_ascii_lowercase()
    }

    /// Whether a run in such a state has ended.
    pub fn is_final(self) -> bool {
        StateType::FINAL.contains(&self)
    }
}

/// A flow run (`POST /flow_runs/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct FlowRun {
    /// Its id.
    pub id: Arc<str>,
    /// Its name, made up by Prefect or by the user.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The flow that runs.
    #[serde(default)]
    pub flow_id: Option<Arc<str>>,
    /// The deployment that it is a run of.
    #[serde(default)]
    pub deployment_id: Option<Arc<str>>,
    /// New at every transition.
    #[serde(default)]
    pub state_id: Option<Arc<str>>,
    /// The type of its state; a run can be without one.
    #[serde(default)]
    pub state_type: Option<StateType>,
    /// The name of its state: free text.
    #[serde(default)]
    pub state_name: Field<Arc<str>>,
    /// When it entered its state, by the clock of the process that proposed it.
    #[serde(default, rename = "state", deserialize_with = "entered")]
    pub state_time: Option<Timestamp>,
    /// When it was to start first.
    #[serde(default, deserialize_with = "time")]
    pub expected_start_time: Option<Timestamp>,
    /// How often it has started.
    #[serde(default)]
    pub run_count: Option<u64>,
    /// When it is to start next, while it is scheduled.
    #[serde(default, deserialize_with = "time")]
    pub next_scheduled_start_time: Option<Timestamp>,
    /// When it started first.
    #[serde(default, deserialize_with = "time")]
    pub start_time: Option<Timestamp>,
    /// When it ended; null again once it is retried.
    #[serde(default, deserialize_with = "time")]
    pub end_time: Option<Timestamp>,
    /// Seconds spent in RUNNING, over all its tries.
    #[serde(default)]
    pub total_run_time: Option<f64>,
    /// The work queue that it was sent to.
    #[serde(default)]
    pub work_queue_name: Field<Arc<str>>,
    /// The id of that queue.
    #[serde(default)]
    pub work_queue_id: Option<Arc<str>>,
    /// The pool of that queue.
    #[serde(default)]
    pub work_pool_name: Field<Arc<str>>,
}

/// The time of the state that is part of a run.
fn entered<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    #[derive(Deserialize)]
    struct State {
        #[serde(default, deserialize_with = "time")]
        timestamp: Option<Timestamp>,
    }
    let state = Option::<State>::deserialize(deserializer)?;
    Ok(state.and_then(|state| state.timestamp))
}

impl FlowRun {
    /// Whether it has ended.
    pub fn is_final(&self) -> bool {
        self.state_type.is_some_and(StateType::is_final)
    }

    /// `start_time`, or `expected_start_time` for a run that has not started: what the
    /// server's `start_time` filter compares.
    pub fn started_or_expected(&self) -> Option<Timestamp> {
        self.start_time.or(self.expected_start_time)
    }

    /// Whether the server calls it late (it renames the state of a scheduled run).
    pub fn is_late(&self) -> bool {
        self.state_type == Some(StateType::Scheduled)
            && self
                .state_name
                .value()
                .is_some_and(|name| &**name == "Late")
    }
}

/// A state that a run is or has been in (`GET /flow_run_states/`).
#[derive(Debug, Clone, Deserialize)]
pub struct RunState {
    /// Its id.
    pub id: Arc<str>,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: StateType,
    /// Its name: free text.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// When the run entered it, by the clock of the process that proposed it.
    #[serde(default, deserialize_with = "time")]
    pub timestamp: Option<Timestamp>,
}

/// A task run (`POST /task_runs/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct TaskRun {
    /// Its id.
    pub id: Arc<str>,
    /// The task's name, a dash and the start of `dynamic_key`, unless the task names its runs.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The task's function, a dash and a hash of its code.
    #[serde(default)]
    pub task_key: Field<Arc<str>>,
    /// Sets the runs of one task in one flow run apart.
    #[serde(default)]
    pub dynamic_key: Field<Arc<str>>,
    /// New at every transition.
    #[serde(default)]
    pub state_id: Option<Arc<str>>,
    /// The type of its state.
    #[serde(default)]
    pub state_type: Option<StateType>,
    /// When it ended.
    #[serde(default, deserialize_with = "time")]
    pub end_time: Option<Timestamp>,
    /// Seconds spent in RUNNING, over all its tries.
    #[serde(default)]
    pub total_run_time: Option<f64>,
}

impl TaskRun {
    /// The name of its task. Of a run that has a name of its own (`task_run_name`), the name
    /// of the task's function: names of runs can be without number.
    pub fn task_name(&self) -> Arc<str> {
        let by_name = || {
            let key = self.dynamic_key.value()?.get(..3)?;
            let name = self.name.value()?.strip_suffix(key)?.strip_suffix('-')?;
            Some(Arc::from(name))
        };
        let by_key = || {
            let (function, hash) = self.task_key.value()?.rsplit_once('-')?;
            let is_hash = hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hash.then(|| Arc::from(function))
        };
        by_name()
            .or_else(by_key)
            .unwrap_or_else(|| self.task_key.label())
    }
}

/// How many runs of the workspace are in a state (`POST /flow_runs/history`).
#[derive(Debug, Clone, Deserialize)]
pub struct StateCount {
    /// The state's type.
    #[serde(default)]
    pub state_type: Option<StateType>,
    /// The state's name.
    #[serde(default)]
    pub state_name: Field<Arc<str>>,
    /// How many.
    #[serde(default)]
    pub count_runs: u64,
}

#[cfg(test)]
mod tests {
    use super::super::objects::Flow;
    use super::*;

    fn run(json: &str) -> Result<FlowRun, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn absent_and_null_are_told_apart() {
        let flow: Flow = serde_json::from_str(r#"{"id":"f","name":null}"#).unwrap();
        assert_eq!(flow.name, Field::Null);
        let flow: Flow = serde_json::from_str(r#"{"id":"f"}"#).unwrap();
        assert_eq!(flow.name, Field::Absent);
    }

    #[test]
    fn times_are_read_with_an_offset_with_z_and_naive() {
        for text in [
            "2026-06-01T10:00:00Z",
            "2026-06-01T12:00:00+02:00",
            "2026-06-01T10:00:00",
        ] {
            let run = run(&format!(r#"{{"id":"r","start_time":"{text}"}}"#)).unwrap();
            assert_eq!(
                run.start_time.unwrap().to_string(),
                "2026-06-01T10:00:00Z",
                "{text}"
            );
        }
        assert!(run(r#"{"id":"r","start_time":"yesterday"}"#).is_err());
    }

    #[test]
    fn unknown_fields_state_types_and_a_run_without_a_state_are_fine() {
        let unknown = run(r#"{"id":"r","state_type":"DREAMING","new_field":[1]}"#).unwrap();
        assert_eq!(unknown.state_type, Some(StateType::Unknown));
        assert!(
            run(r#"{"id":"r","state_type":null,"state_name":null}"#)
                .unwrap()
                .state_type
                .is_none()
        );
    }
}
