//! Requests to the API, as data.
//!
//! [`super::Client`] turns a [`Request`] into HTTP. The core, which plans requests, and the
//! in-memory Prefect of the tests, which answers them, are independent of HTTP.

use std::sync::Arc;

use jiff::Timestamp;
use reqwest::Method;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::decode::Id;
use super::objects::Resource;
use super::runs::StateType;

/// A request to the API.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum Request {
    /// `GET /admin/version`, which needs no database. Prefect Cloud does not have it.
    Version,
    /// A page of a list.
    List {
        /// The list.
        resource: Resource,
        /// The page.
        page: Page,
    },
    /// The number of objects in a list, if the API has such a count.
    Count(Resource),
    /// Objects by id; those that do not exist are missing from the answer.
    ByIds {
        /// The list.
        resource: Resource,
        /// The ids, at most as many as fit on a page.
        ids: Vec<Id>,
    },
    /// The workers of a work pool that sent a heartbeat at `since` or later.
    Workers {
        /// The pool's name.
        pool: Arc<str>,
        /// The time of the oldest heartbeat.
        since: Timestamp,
        /// The page.
        page: Page,
    },
    /// The server's counts of flow runs by state.
    RunHistory {
        /// The start of the period.
        since: Timestamp,
        /// The end of the period.
        until: Timestamp,
    },
    /// Flow runs.
    FlowRuns {
        /// The filter.
        filter: FlowRunFilter,
        /// The order.
        order: Order,
        /// The maximum number of runs.
        limit: usize,
    },
    /// The number of flow runs that the filter matches.
    CountFlowRuns(FlowRunFilter),
    /// Every state that a flow run has been in.
    FlowRunStates(Id),
    /// Task runs, latest end time first.
    TaskRuns {
        /// The filter.
        filter: TaskRunFilter,
        /// The page.
        page: Page,
    },
}

/// A page of a list that is read by offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Page {
    /// The number of objects to skip.
    pub offset: usize,
    /// The maximum number of objects. The server refuses more than its own limit (200 by default).
    pub limit: usize,
}

/// The order of flow runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Order {
    /// `ID_DESC`.
    #[default]
    Id,
    /// `END_TIME_DESC`: latest end time first.
    EndTime,
    /// `START_TIME_DESC`: latest `coalesce(start_time, expected_start_time)` first.
    StartTime,
    /// `EXPECTED_START_TIME_ASC`: earliest expected start time first.
    ExpectedStartTime,
}

impl Order {
    /// Prefect's name for the order.
    pub fn as_str(self) -> &'static str {
        match self {
            Order::Id => "ID_DESC",
            Order::EndTime => "END_TIME_DESC",
            Order::StartTime => "START_TIME_DESC",
            Order::ExpectedStartTime => "EXPECTED_START_TIME_ASC",
        }
    }
}

/// A filter on flow runs; all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Hash)]
pub struct FlowRunFilter {
    /// By id.
    #[serde(skip_serializing_if = "is_default")]
    pub id: OneOf<Id>,
    /// By state.
    #[serde(skip_serializing_if = "is_default")]
    pub state: StateFilter,
    /// By `coalesce(start_time, expected_start_time)`, which is what the server compares.
    #[serde(skip_serializing_if = "is_default")]
    pub start_time: Range,
    /// By end time. Runs that have not ended do not match.
    #[serde(skip_serializing_if = "is_default")]
    pub end_time: Range,
    /// By the original expected start time.
    #[serde(skip_serializing_if = "is_default")]
    pub expected_start_time: Range,
    /// By deployment.
    #[serde(skip_serializing_if = "is_default")]
    pub deployment_id: Presence,
}

impl FlowRunFilter {
    /// Runs in a state of one of these types.
    pub fn of_types(types: &[StateType]) -> Self {
        FlowRunFilter {
            state: StateFilter {
                types: OneOf::any(types.iter().copied()),
                names: OneOf::default(),
            },
            ..FlowRunFilter::default()
        }
    }

    /// Runs with one of these ids.
    pub fn of_ids(ids: impl IntoIterator<Item = Id>) -> Self {
        FlowRunFilter {
            id: OneOf::any(ids),
            ..FlowRunFilter::default()
        }
    }
}

/// A filter on task runs; all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Hash)]
pub struct TaskRunFilter {
    /// By state.
    #[serde(skip_serializing_if = "is_default")]
    pub state: StateFilter,
    /// By end time. Servers before 3.6.22 answer 422.
    #[serde(skip_serializing_if = "is_default")]
    pub end_time: Range,
    /// By whether they have started.
    #[serde(skip_serializing_if = "is_default")]
    pub start_time: Presence,
}

/// A condition on a state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Hash)]
pub struct StateFilter {
    /// By type.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub types: OneOf<StateType>,
    /// By name.
    #[serde(rename = "name", skip_serializing_if = "is_default")]
    pub names: OneOf<Arc<str>>,
}

/// A condition that a value is one of `any` and none of `not_any`. With `None`, `any` is not a
/// condition; an empty `any` matches nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Hash)]
pub struct OneOf<T> {
    /// One of these.
    #[serde(rename = "any_", skip_serializing_if = "Option::is_none")]
    pub any: Option<Vec<T>>,
    /// None of these.
    #[serde(rename = "not_any_", skip_serializing_if = "Vec::is_empty")]
    pub not_any: Vec<T>,
}

impl<T> Default for OneOf<T> {
    fn default() -> Self {
        OneOf {
            any: None,
            not_any: Vec::new(),
        }
    }
}

impl<T> OneOf<T> {
    /// One of `values`.
    pub fn any(values: impl IntoIterator<Item = T>) -> Self {
        OneOf {
            any: Some(values.into_iter().collect()),
            not_any: Vec::new(),
        }
    }

    /// None of `values`.
    pub fn not_any(values: impl IntoIterator<Item = T>) -> Self {
        OneOf {
            any: None,
            not_any: values.into_iter().collect(),
        }
    }
}

/// A time range, inclusive at both ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Hash)]
pub struct Range {
    /// At this time or later.
    #[serde(
        rename = "after_",
        serialize_with = "time",
        skip_serializing_if = "Option::is_none"
    )]
    pub after: Option<Timestamp>,
    /// At this time or before.
    #[serde(
        rename = "before_",
        serialize_with = "time",
        skip_serializing_if = "Option::is_none"
    )]
    pub before: Option<Timestamp>,
}

impl Range {
    /// At `time` or later.
    pub fn after(time: Timestamp) -> Self {
        Range {
            after: Some(time),
            before: None,
        }
    }

    /// Whether `time` is in the range.
    pub fn contains(&self, time: Timestamp) -> bool {
        self.after.is_none_or(|after| time >= after)
            && self.before.is_none_or(|before| time <= before)
    }
}

/// A condition that a field is null or not null; `None` is no condition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Hash)]
pub struct Presence {
    /// Whether the field has to be null.
    #[serde(rename = "is_null_", skip_serializing_if = "Option::is_none")]
    pub is_null: Option<bool>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Prefect expects times in ISO 8601.
fn time<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// A request as an HTTP call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// The path, in which `{name}` is a placeholder for `name`.
    pub(super) template: &'static str,
    pub(super) name: Arc<str>,
    pub(super) query: Vec<(&'static str, Arc<str>)>,
    pub(super) body: Option<Value>,
}

impl Call {
    pub(super) fn get(template: &'static str) -> Self {
        Call {
            method: Method::GET,
            template,
            name: Arc::from(""),
            query: Vec::new(),
            body: None,
        }
    }

    fn post(template: &'static str, body: Value) -> Self {
        Call {
            method: Method::POST,
            body: Some(body),
            ..Call::get(template)
        }
    }
}

impl Request {
    /// The maximum number of objects, if it requests a list.
    pub fn limit(&self) -> Option<usize> {
        match self {
            Request::List { page, .. }
            | Request::Workers { page, .. }
            | Request::TaskRuns { page, .. } => Some(page.limit),
            Request::ByIds { ids, .. } => Some(ids.len()),
            Request::FlowRuns { limit, .. } => Some(*limit),
            Request::Version
            | Request::Count(_)
            | Request::RunHistory { .. }
            | Request::CountFlowRuns(_)
            | Request::FlowRunStates(_) => None,
        }
    }

    /// Whether an answer with this many objects is a full page, so that there may be another one.
    pub fn is_full_page(&self, objects: usize) -> bool {
        self.limit().is_some_and(|limit| objects >= limit)
    }

    /// The HTTP call for this request.
    pub(super) fn call(&self) -> Call {
        match self {
            Request::Version => Call::get("/admin/version"),
            Request::List { resource, page } => Call::post(
                resource.filter_path(),
                json!({"limit": page.limit, "offset": page.offset}),
            ),
            Request::Count(resource) => {
                Call::post(resource.count_path().unwrap_or_default(), json!({}))
            }
            Request::ByIds { resource, ids } => Call::post(
                resource.filter_path(),
                json!({resource.filter_name(): {"id": {"any_": ids}}, "limit": ids.len().max(1), "offset": 0}),
            ),
            Request::Workers { pool, since, page } => Call {
                name: Arc::clone(pool),
                ..Call::post(
                    "/work_pools/{name}/workers/filter",
                    json!({
                        "workers": {"last_heartbeat_time": {"after_": since.to_string()}},
                        "limit": page.limit,
                        "offset": page.offset,
                    }),
                )
            },
            Request::RunHistory { since, until } => Call::post(
                "/flow_runs/history",
                json!({
                    "history_start": since.to_string(),
                    "history_end": until.to_string(),
                    "history_interval_seconds": until.duration_since(*since).as_secs().max(1),
                }),
            ),
            Request::FlowRuns {
                filter,
                order,
                limit,
            } => Call::post(
                "/flow_runs/filter",
                json!({"flow_runs": filter, "sort": order.as_str(), "limit": limit, "offset": 0}),
            ),
            Request::CountFlowRuns(filter) => {
                Call::post("/flow_runs/count", json!({"flow_runs": filter}))
            }
            Request::FlowRunStates(id) => Call {
                query: vec![("flow_run_id", Arc::clone(id))],
                ..Call::get("/flow_run_states/")
            },
            Request::TaskRuns { filter, page } => Call::post(
                "/task_runs/filter",
                json!({
                    "task_runs": filter,
                    "sort": Order::EndTime.as_str(),
                    "limit": page.limit,
                    "offset": page.offset,
                }),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(request: &Request) -> Value {
        request.call().body.unwrap()
    }

    #[test]
    fn a_filter_contains_only_the_conditions_that_are_set() {
        let request = Request::CountFlowRuns(FlowRunFilter::default());
        assert_eq!(body(&request), json!({"flow_runs": {}}));
        let filter = FlowRunFilter {
            id: OneOf::not_any([Arc::from("a")]),
            end_time: Range::after(Timestamp::UNIX_EPOCH),
            ..FlowRunFilter::of_types(&[StateType::Running])
        };
        let expected = json!({"flow_runs": {
            "id": {"not_any_": ["a"]},
            "state": {"type": {"any_": ["RUNNING"]}},
            "end_time": {"after_": "1970-01-01T00:00:00Z"},
        }});
        assert_eq!(body(&Request::CountFlowRuns(filter)), expected);
    }

    #[test]
    fn an_empty_list_of_ids_is_sent_and_matches_nothing() {
        let request = Request::CountFlowRuns(FlowRunFilter::of_ids([]));
        assert_eq!(body(&request), json!({"flow_runs": {"id": {"any_": []}}}));
    }
}
