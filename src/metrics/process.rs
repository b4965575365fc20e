//! Families about the agent's process.
//! <https://opentelemetry.io/docs/specs/semconv/system/process-metrics/>

use super::{Family, Kind};

pub(super) const FAMILIES: &[Family] = &[
    Family::counter(
        "process.cpu.time",
        "s",
        "CPU time of the agent.",
        &[],
        |view, points| {
            if let Some(process) = view.agent.process {
                points.set([], process.cpu_seconds);
            }
        },
    ),
    Family {
        kind: Kind::UpDownCounter,
        ..Family::gauge(
            "process.memory.usage",
            "By",
            "Resident memory of the agent.",
            &[],
            &[],
            |view, points| {
                if let Some(process) = view.agent.process {
                    points.set([], process.memory_bytes as f64);
                }
            },
        )
    },
    Family::gauge(
        "process.uptime",
        "s",
        "Time since the agent started.",
        &[],
        &[],
        |view, points| points.set([], view.agent.started.elapsed().as_secs_f64()),
    ),
];
