//! The fields of `/status`. Their names are stable; `docs/deployment.md` describes them.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) status: Condition,
    pub(super) published: Timestamp,
    /// The name of the workspace that this is about, if there are several.
    pub(super) name: Option<Arc<str>>,
    /// All workspaces, if there are several.
    pub(super) workspaces: Vec<Named>,
    pub(super) problems: Vec<Problem>,
    pub(super) agent: Agent,
    pub(super) prefect: Prefect,
    pub(super) workspace: Workspace,
    pub(super) sections: Vec<Section>,
    pub(super) cycles: Cycles,
    pub(super) flow_runs: FlowRuns,
    pub(super) deployments: Option<Deployments>,
    pub(super) requests: Vec<Requests>,
    pub(super) exporters: Vec<Exporter>,
    pub(super) series: Vec<Series>,
    pub(super) links: Links,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Named {
    pub(super) name: Arc<str>,
    pub(super) status: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Condition {
    /// No cycle has been completed yet.
    Starting,
    Healthy,
    /// Prefect can be read, but there are problems.
    Degraded,
    /// Prefect cannot be read.
    Down,
}

#[derive(Debug, Serialize)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) title: String,
    /// The error, as in the log.
    pub(super) detail: Option<String>,
    pub(super) since: Option<Timestamp>,
    /// What it means, and what to do.
    pub(super) advice: &'static str,
    /// The file in `docs/runbooks`.
    pub(super) runbook: String,
    pub(super) runbook_url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    Critical,
    Warning,
    Info,
}

#[derive(Debug, Serialize)]
pub(super) struct Agent {
    pub(super) version: &'static str,
    pub(super) started: Timestamp,
    pub(super) uptime_seconds: f64,
    pub(super) sample_interval_seconds: f64,
    pub(super) inventory_interval_seconds: f64,
    pub(super) cpu_seconds: Option<f64>,
    pub(super) memory_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Prefect {
    pub(super) api_url: String,
    pub(super) version: Option<String>,
    pub(super) up: bool,
    pub(super) down_since: Option<Timestamp>,
    /// The server's clock at `published`.
    pub(super) time: Timestamp,
}

/// Numbers of objects; null if their section is not fresh.
#[derive(Debug, Serialize)]
pub(super) struct Workspace {
    pub(super) deployments: Option<usize>,
    pub(super) flows: Option<usize>,
    pub(super) work_pools: Option<usize>,
    pub(super) work_queues: Option<usize>,
    pub(super) workers_online: Option<usize>,
    pub(super) workers: Option<usize>,
    pub(super) active_runs: Option<usize>,
    pub(super) late_runs: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct Section {
    pub(super) section: &'static str,
    pub(super) state: SectionCondition,
    pub(super) age_seconds: f64,
    pub(super) stale_after_seconds: f64,
    pub(super) lag_seconds: Option<f64>,
    pub(super) errors: u64,
    pub(super) skipped_objects: u64,
    pub(super) failing_since: Option<Timestamp>,
    pub(super) error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SectionCondition {
    /// Read within three of its intervals.
    Fresh,
    /// The last read failed; the values of the previous one are still reported.
    Failing,
    /// Its gauges are withheld.
    Stale,
    /// Not read since the start.
    Unread,
    /// The API does not have it.
    Absent,
}

#[derive(Debug, Serialize)]
pub(super) struct Cycles {
    pub(super) success: u64,
    pub(super) partial: u64,
    pub(super) failure: u64,
    /// The time that an entry of `last_hour` covers.
    pub(super) entry_seconds: f64,
    pub(super) last_hour: Vec<Bar>,
}

#[derive(Debug, Serialize)]
pub(super) struct Bar {
    pub(super) ended: Timestamp,
    pub(super) success: u64,
    pub(super) partial: u64,
    pub(super) failure: u64,
    /// The duration of the longest cycle.
    pub(super) duration_seconds: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct FlowRuns {
    /// Runs that have not reached a terminal state, scheduled ones within the look-ahead.
    pub(super) unfinished: Option<States>,
    pub(super) last_24_hours: Option<States>,
}

#[derive(Debug, Serialize)]
pub(super) struct States {
    pub(super) states: Vec<State>,
    /// The number of states that are omitted, and of the runs in them.
    pub(super) omitted_states: usize,
    pub(super) omitted_runs: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct State {
    pub(super) state_type: &'static str,
    pub(super) state_name: String,
    pub(super) runs: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Deployments {
    /// Failing or late, worst first.
    pub(super) troubled: Vec<Deployment>,
    /// The number of others.
    pub(super) omitted: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Deployment {
    pub(super) deployment_name: String,
    pub(super) flow_name: String,
    pub(super) url: Option<String>,
    pub(super) late_runs: usize,
    /// When the oldest of them should have started.
    pub(super) late_since: Option<Timestamp>,
    /// The last run that the agent knows of.
    pub(super) last_run_state: Option<&'static str>,
    pub(super) last_run_ended: Option<Timestamp>,
    /// Within `FAILED_RUNS_OFFSET_MINUTES`; null if that is 0, or the section is not fresh.
    pub(super) failed_runs: Option<usize>,
    pub(super) last_failed_run_url: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Requests {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) mean_seconds: f64,
    pub(super) last_error: Option<String>,
    pub(super) last_error_time: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
pub(super) struct Exporter {
    pub(super) exporter: &'static str,
    pub(super) target: String,
    pub(super) failing: bool,
    pub(super) pushes: Option<Pushes>,
    /// The last push that was accepted, or the last scrape of `/metrics`.
    pub(super) last_success: Option<Timestamp>,
    pub(super) last_error_time: Option<Timestamp>,
    pub(super) last_error: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Pushes {
    pub(super) success: u64,
    pub(super) failure: u64,
    pub(super) skipped: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Series {
    pub(super) metric: String,
    pub(super) series: usize,
    /// Beyond `METRICS_CARDINALITY_LIMIT`.
    pub(super) dropped: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Links {
    pub(super) prefect: Option<String>,
    pub(super) metrics: Option<&'static str>,
    pub(super) documentation: Option<String>,
}
