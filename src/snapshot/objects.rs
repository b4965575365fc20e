//! Prefect's objects, with the few fields that are read.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer};

/// A field of an API object that tells "absent" from "null": the compatible families print
/// the first as `null` and the second as `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Field<T> {
    /// The object does not have the field.
    #[default]
    Absent,
    /// The field is JSON `null`.
    Null,
    /// The field has a value.
    Value(T),
}

impl<T> Field<T> {
    /// The value, where there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Field::Value(value) => Some(value),
            Field::Absent | Field::Null => None,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<T>::deserialize(deserializer).map(|value| value.map_or(Field::Null, Field::Value))
    }
}

/// A deployment (`POST /deployments/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The flow that it deploys.
    #[serde(default)]
    pub flow_id: Option<Arc<str>>,
    /// Whether it is paused.
    #[serde(default)]
    pub paused: Field<bool>,
    /// Its tags.
    #[serde(default)]
    pub tags: Field<Vec<Arc<str>>>,
    /// The path of its code.
    #[serde(default)]
    pub path: Field<Arc<str>>,
    /// `READY` or `NOT_READY`.
    #[serde(default)]
    pub status: Field<Arc<str>>,
    /// The work pool that its runs are sent to.
    #[serde(default)]
    pub work_pool_name: Field<Arc<str>>,
    /// The work queue that its runs are sent to.
    #[serde(default)]
    pub work_queue_name: Field<Arc<str>>,
}

/// A flow (`POST /flows/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct Flow {
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    #[serde(default)]
    pub name: Field<Arc<str>>,
}

/// A work pool (`POST /work_pools/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct WorkPool {
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The type of its workers (`process`, `kubernetes` …).
    #[serde(default, rename = "type")]
    pub kind: Field<Arc<str>>,
    /// `READY`, `NOT_READY` or `PAUSED`.
    #[serde(default)]
    pub status: Field<Arc<str>>,
    /// Whether it is paused.
    #[serde(default)]
    pub is_paused: Field<bool>,
    /// Runs that it may have under way at one time; none is no limit.
    #[serde(default)]
    pub concurrency_limit: Option<u64>,
    /// How many of them are taken; the server counts them where there is a limit.
    #[serde(default)]
    pub active_slots: Option<u64>,
}

/// A work queue (`POST /work_queues/filter`).
#[derive(Debug, Clone, Deserialize)]
pub struct WorkQueue {
    /// Its id.
    pub id: Arc<str>,
    /// Its name, unique in its pool.
    #[serde(default)]
    pub name: Field<Arc<str>>,
    /// The pool that it belongs to.
    #[serde(default)]
    pub work_pool_name: Field<Arc<str>>,
    /// Its priority, 1 the highest.
    #[serde(default)]
    pub priority: Field<i64>,
    /// `READY`, `NOT_READY` or `PAUSED`.
    #[serde(default)]
    pub status: Field<Arc<str>>,
    /// Whether it is paused.
    #[serde(default)]
    pub is_paused: Field<bool>,
    /// Runs that it may have under way at one time; none is no limit.
    #[serde(default)]
    pub concurrency_limit: Option<u64>,
    /// How many of them are taken; the server counts them where there is a limit.
    #[serde(default)]
    pub active_slots: Option<u64>,
    /// When a worker last asked it for runs.
    #[serde(default, deserialize_with = "time")]
    pub last_polled: Option<Timestamp>,
}

/// The type of a state: Prefect's closed list. A state's *name* is free text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
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
    /// When it was to start first.
    #[serde(default, deserialize_with = "time")]
    pub expected_start_time: Option<Timestamp>,
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

/// Reads a time as Prefect writes it; one without an offset is taken for UTC.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let naive = || text.parse::<DateTime>()?.to_zoned(TimeZone::UTC);
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(Some(time)),
        Err(error) => naive()
            .map(|time: jiff::Zoned| Some(time.timestamp()))
            .map_err(|_| serde::de::Error::custom(error)),
    }
}

#[cfg(test)]
mod tests {
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
