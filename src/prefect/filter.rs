//! The filters that the agent sends.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::snapshot::StateType;

/// A filter on flow runs, built condition by condition; all of them must hold.
#[derive(Debug, Clone, Default)]
pub struct FlowRuns(Map<String, Value>);

impl FlowRuns {
    /// In a state of one of these types.
    pub fn of_types(mut self, types: &[StateType]) -> Self {
        let types: Vec<_> = types.iter().map(|state| state.as_str()).collect();
        self.0
            .insert("state".into(), json!({"type": {"any_": types}}));
        self
    }

    /// With one of these ids.
    pub fn with_ids<'a>(mut self, ids: impl IntoIterator<Item = &'a str>) -> Self {
        let ids: Vec<_> = ids.into_iter().collect();
        self.0.insert("id".into(), json!({"any_": ids}));
        self
    }

    /// That ended at `since` or later, and, where it is given, at `until` or before.
    pub fn ended_between(mut self, since: Timestamp, until: Option<Timestamp>) -> Self {
        self.0.insert("end_time".into(), between(since, until));
        self
    }

    /// That started, or, not started yet, are expected to start, at `time` or later: the
    /// server compares `coalesce(start_time, expected_start_time)`.
    pub fn started_or_expected_since(mut self, time: Timestamp) -> Self {
        self.0
            .insert("start_time".into(), json!({"after_": time.to_string()}));
        self
    }

    /// That were first expected to start at `time` or before.
    pub fn expected_by(mut self, time: Timestamp) -> Self {
        self.0.insert(
            "expected_start_time".into(),
            json!({"before_": time.to_string()}),
        );
        self
    }

    /// Of some deployment.
    pub fn of_deployments(mut self) -> Self {
        self.0
            .insert("deployment_id".into(), json!({"is_null_": false}));
        self
    }

    /// The body of a request.
    pub fn into_body(self) -> Value {
        json!({ "flow_runs": self.0 })
    }
}

/// Objects of the kind `name` (`deployments`, `flows`) with one of these ids.
pub fn by_id<'a>(name: &str, ids: impl IntoIterator<Item = &'a str>) -> Value {
    let ids: Vec<_> = ids.into_iter().collect();
    json!({ name: {"id": {"any_": ids}} })
}

/// The body of a request for task runs of these types that ended at `since` or later, and,
/// where it is given, at `until` or before.
pub fn task_runs(types: &[StateType], since: Timestamp, until: Option<Timestamp>) -> Value {
    let types: Vec<_> = types.iter().map(|state| state.as_str()).collect();
    json!({ "task_runs": {
        "state": {"type": {"any_": types}},
        "end_time": between(since, until),
    } })
}

fn between(since: Timestamp, until: Option<Timestamp>) -> Value {
    let mut range = json!({"after_": since.to_string()});
    if let Some(until) = until {
        range["before_"] = json!(until.to_string());
    }
    range
}
