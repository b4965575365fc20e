//! Families of the agent itself: can its numbers be trusted right now?

use std::sync::Arc;

use super::{Family, Kind, Source, Stability};
use crate::sampler::Outcome;
use crate::snapshot::Section;

/// Seconds, as the OpenTelemetry conventions advise for `http.client.request.duration`.
const REQUEST_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
const CYCLE_SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Duration of each request to Prefect.
pub const REQUEST_DURATION: Family = Family {
    name: "http.client.request.duration",
    kind: Kind::Histogram(REQUEST_SECONDS),
    unit: "s",
    help: "Duration of requests to Prefect.",
    attributes: &[
        "http.request.method",
        "http.response.status_code",
        "url.template",
        "error.type",
        "server.address",
        "server.port",
    ],
    stability: Stability::Stable,
    source: Source::Recorded,
};

/// Duration of each cycle.
pub const CYCLE_DURATION: Family = Family {
    name: "prefect.agent.cycle.duration",
    kind: Kind::Histogram(CYCLE_SECONDS),
    unit: "s",
    help: "Duration of the agent's cycles.",
    attributes: &["outcome"],
    stability: Stability::Stable,
    source: Source::Recorded,
};

pub(super) const FAMILIES: &[Family] = &[
    CYCLE_DURATION,
    Family {
        name: "prefect.agent.cycles",
        kind: Kind::Counter,
        unit: "{cycle}",
        help: "The agent's cycles: all sections read (success), some (partial), none (failure).",
        attributes: &["outcome"],
        stability: Stability::Stable,
        source: Source::Read(&[], |view, points| {
            for outcome in Outcome::ALL {
                points.set(
                    [Arc::from(outcome.as_str())],
                    view.agent.cycles(outcome) as f64,
                );
            }
        }),
    },
    Family {
        name: "prefect.agent.section.age",
        kind: Kind::Gauge,
        unit: "s",
        help: "Time since each part of the workspace was last read. Past three of its intervals its gauges are withheld.",
        attributes: &["section"],
        stability: Stability::Stable,
        source: Source::Read(&[], |view, points| {
            for section in Section::ALL {
                if let Some(freshness) = view.snapshot.freshness.get(&section) {
                    points.set([Arc::from(section.as_str())], freshness.age.as_secs_f64());
                }
            }
        }),
    },
    REQUEST_DURATION,
];

/// What the agent knows of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    cycles: [u64; Outcome::ALL.len()],
}

impl Stats {
    /// Counts a cycle.
    pub fn count_cycle(&mut self, outcome: Outcome) {
        self.cycles[outcome as usize] += 1;
    }

    /// Cycles that went so.
    pub fn cycles(&self, outcome: Outcome) -> u64 {
        self.cycles[outcome as usize]
    }

    /// Whether there was a cycle at all.
    pub fn has_cycled(&self) -> bool {
        self.cycles.iter().any(|count| *count > 0)
    }
}
