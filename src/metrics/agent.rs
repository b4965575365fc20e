//! Families about the agent itself: whether its numbers can be trusted right now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::points::Size;
use super::{Buckets, Family, Kind, Points, View};
use crate::core::Outcome;
use crate::core::snapshot::SectionState;
use crate::failure::Failure;

/// The boundaries that the semantic conventions advise for `http.client.request.duration`.
const REQUEST_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
const CYCLE_SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Duration of each request to the Prefect API.
pub const REQUEST_DURATION: Family = Family::recorded(
    "http.client.request.duration",
    "Duration of requests to the Prefect API.",
    &[
        "http.request.method",
        "http.response.status_code",
        "url.template",
        "error.type",
        "server.address",
        "server.port",
    ],
    Buckets::Fixed(REQUEST_SECONDS),
);

/// Duration of each request to the agent.
pub const SERVED_DURATION: Family = Family::recorded(
    "http.server.request.duration",
    "Duration of requests to the agent's HTTP endpoints.",
    &[
        "http.request.method",
        "http.route",
        "http.response.status_code",
    ],
    Buckets::Fixed(REQUEST_SECONDS),
);

/// Duration of each cycle.
pub const CYCLE_DURATION: Family = Family::recorded(
    "prefect.agent.cycle.duration",
    "Duration of the agent's cycles, by outcome.",
    &["outcome"],
    Buckets::Fixed(CYCLE_SECONDS),
);

/// Time spent on each section in a cycle.
pub const SECTION_DURATION: Family = Family::recorded(
    "prefect.agent.section.duration",
    "Time spent waiting for answers from Prefect in each cycle, by section.",
    &["section"],
    Buckets::Fixed(CYCLE_SECONDS),
);

const SERIES: Family = Family::of_agent(
    "prefect.agent.series",
    "{series}",
    "Number of series exported for each metric, except histograms.",
    &["metric"],
    |_, _| {},
);

/// Series beyond the limit, by metric.
pub const SERIES_DROPPED: Family = Family::of_agent(
    "prefect.agent.series.dropped",
    "{series}",
    "Number of series of each metric beyond METRICS_CARDINALITY_LIMIT. They are combined into one series with otel_metric_overflow=\"true\".",
    &["metric"],
    |_, _| {},
);

/// A family that describes how many series the other families have.
pub(super) struct OfSizes {
    pub(super) family: &'static str,
    pub(super) of: fn(&Size) -> f64,
}

/// Computed after all other families have been read.
pub(super) const SIZES: [OfSizes; 2] = [
    OfSizes {
        family: SERIES.name,
        of: |size| size.series as f64,
    },
    OfSizes {
        family: SERIES_DROPPED.name,
        of: |size| size.dropped as f64,
    },
];

pub(super) const FAMILIES: &[Family] = &[
    CYCLE_DURATION,
    Family::counter(
        "prefect.agent.cycles",
        "{cycle}",
        "Number of cycles by outcome: success (every section could be read), partial (some could not), failure (Prefect could not be read).",
        &["outcome"],
        |view, points| {
            for outcome in Outcome::ALL {
                let cycles = view.cycles.of(outcome) as f64;
                points.set([Arc::from(outcome.as_str())], cycles);
            }
        },
    ),
    Family::gauge(
        "prefect.agent.section.age",
        "s",
        "Time since each section was last read, or since the agent started if it never was. The gauges of a section are withheld once this exceeds three of its intervals.",
        &["section"],
        &[],
        |view, points| {
            of_sections(view, points, |state| {
                Some(state.freshness.age.as_secs_f64())
            });
        },
    ),
    Family::of_agent(
        "prefect.agent.last_published.time",
        "s",
        "Time at which the agent last published its metrics, as Unix time: at least every 1.25 SAMPLE_INTERVAL_SECONDS, even if a cycle hangs. If it no longer advances, the agent is not running or its pushes do not arrive.",
        &[],
        |agent, points| {
            if let Ok(time) = agent.published.duration_since(UNIX_EPOCH) {
                points.set([], time.as_secs_f64());
            }
        },
    ),
    SECTION_DURATION,
    Family::counter(
        "prefect.agent.section.errors",
        "{error}",
        "Number of failed reads of each section.",
        &["section"],
        |view, points| of_sections(view, points, |state| Some(state.errors as f64)),
    ),
    Family::counter(
        "prefect.agent.objects.skipped",
        "{object}",
        "Number of objects in answers from Prefect that could not be decoded and were left out, by section.",
        &["section"],
        |view, points| of_sections(view, points, |state| Some(state.skipped as f64)),
    ),
    Family::gauge(
        "prefect.agent.cursor.lag",
        "s",
        "How far the agent is behind the server's time in reading finished runs. High while it catches up after a restart or an outage.",
        &["section"],
        &[],
        |view, points| {
            of_sections(view, points, |state| Some(state.lag?.as_secs_f64()));
        },
    ),
    Family::of_agent(
        "prefect.agent.exports",
        "{export}",
        "Number of pushes of each exporter by outcome: success (accepted), failure (refused or not delivered), skipped (replaced by a newer push while another one was being sent).",
        &["exporter", "outcome"],
        |agent, points| {
            for (exporter, outcome, count) in &agent.exports {
                points.set([Arc::from(*exporter), Arc::from(*outcome)], *count as f64);
            }
        },
    )
    .of_kind(Kind::Counter),
    Family::of_agent(
        "prefect.agent.export.points",
        "{point}",
        "Number of data points pushed over OTLP by outcome: accepted, rejected (by the receiver, in a partial success), failed (the message was refused or not delivered; the next push includes their values), dropped (a single point is larger than OTLP_MAX_MESSAGE_BYTES).",
        &["exporter", "outcome"],
        |agent, points| {
            for (exporter, outcome, count) in &agent.points {
                points.set([Arc::from(*exporter), Arc::from(*outcome)], *count as f64);
            }
        },
    )
    .of_kind(Kind::Counter),
    Family::counter(
        "prefect.agent.checkpoints",
        "{checkpoint}",
        "Number of checkpoints by outcome: success (written to STATE_DIR), failure (could not be written; the previous one is kept). Only with STATE_DIR.",
        &["outcome"],
        |view, points| {
            if let Some(checkpoints) = view.checkpoints {
                points.set([Arc::from("success")], checkpoints.written as f64);
                points.set([Arc::from("failure")], checkpoints.failed as f64);
            }
        },
    ),
    Family::of_agent(
        "prefect.agent.last_reload.successful",
        "",
        "1 if the file in this setting could be read and used when it was last read; 0 if not: the agent uses its previous content. Only for settings whose files are read again while the agent runs.",
        &["setting"],
        |agent, points| {
            for (setting, failure) in &agent.reloads {
                let value = if failure.is_none() { 1.0 } else { 0.0 };
                points.set([Arc::clone(setting)], value);
            }
        },
    ),
    SERIES,
    SERIES_DROPPED,
    REQUEST_DURATION,
    SERVED_DURATION,
    Family::of_agent(
        "http.server.active_requests",
        "{request}",
        "Number of requests to the agent's HTTP endpoints that are being served.",
        &[],
        |agent, points| points.set([], agent.active_requests as f64),
    )
    .of_kind(Kind::UpDownCounter),
];

fn of_sections(
    view: &View<'_>,
    points: &mut Points<'_>,
    value: impl Fn(&SectionState) -> Option<f64>,
) {
    for (section, state) in &view.snapshot.sections {
        if let Some(value) = value(state) {
            points.set([Arc::from(section.as_str())], value);
        }
    }
}

/// The cycles of a workspace by their outcome.
#[derive(Debug, Clone, Copy, Default)]
pub struct CycleCounts([u64; Outcome::ALL.len()]);

impl CycleCounts {
    /// Counts a cycle.
    pub fn count(&mut self, outcome: Outcome) {
        if let Some(count) = self.0.get_mut(outcome as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// The number of cycles with this outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0.get(outcome as usize).copied().unwrap_or_default()
    }

    /// Whether any cycle has been completed.
    pub fn any(&self) -> bool {
        self.0.iter().any(|count| *count > 0)
    }
}

/// The checkpoints of a workspace in this process.
#[derive(Debug, Clone, Default)]
pub struct Checkpoints {
    /// The number of those that were written.
    pub written: u64,
    /// The number of those that could not be written.
    pub failed: u64,
    /// Since when and why they cannot be written.
    pub failure: Option<Failure>,
}

impl Checkpoints {
    /// Counts one that was written. Returns whether the one before could not be written.
    pub fn note_success(&mut self) -> bool {
        self.written = self.written.saturating_add(1);
        self.failure.take().is_some()
    }

    /// Counts one that could not be written. Returns whether it is the first since one was written.
    pub fn note_failure(&mut self, error: &impl ToString) -> bool {
        self.failed = self.failed.saturating_add(1);
        Failure::note(&mut self.failure, error.to_string()).is_none()
    }
}

/// The agent's statistics about itself.
#[derive(Debug, Clone)]
pub struct Stats {
    /// The settings whose files are read again; since when, and why, this fails.
    pub reloads: BTreeMap<Arc<str>, Option<Failure>>,
    /// When it started.
    pub started: Instant,
    /// The time of this publication, by the host's clock.
    pub published: SystemTime,
    /// Its resource usage, if the system reports it.
    pub process: Option<Process>,
    /// Pushes by exporter and outcome.
    pub exports: Vec<(&'static str, &'static str, u64)>,
    /// Data points pushed by exporter and outcome.
    pub points: Vec<(&'static str, &'static str, u64)>,
    /// Requests that it is serving.
    pub active_requests: i64,
}

impl Stats {
    /// Those of an agent that has done nothing yet.
    pub fn new(started: Instant, published: SystemTime) -> Self {
        Stats {
            reloads: BTreeMap::new(),
            started,
            published,
            process: None,
            exports: Vec::new(),
            points: Vec::new(),
            active_requests: 0,
        }
    }
}

/// The agent's resource usage.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Memory in RAM, in bytes.
    pub memory_bytes: u64,
}
