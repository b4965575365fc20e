//! Families about the agent's process.
//! <https://opentelemetry.io/docs/specs/semconv/system/process-metrics/>

use super::{Family, Kind};

pub(super) const FAMILIES: &[Family] = &[
    Family::of_agent(
        "process.cpu.time",
        "s",
        "CPU time of the agent.",
        &[],
        |agent, points| {
            if let Some(process) = agent.process {
                points.set([], process.cpu_seconds);
            }
        },
    )
    .of_kind(Kind::Counter),
    Family::of_agent(
        "process.memory.usage",
        "By",
        "Resident memory of the agent.",
        &[],
        |agent, points| {
            if let Some(process) = agent.process {
                points.set([], process.memory_bytes as f64);
            }
        },
    )
    .of_kind(Kind::UpDownCounter),
    Family::of_agent(
        "process.uptime",
        "s",
        "Time since the agent started.",
        &[],
        |agent, points| points.set([], agent.started.elapsed().as_secs_f64()),
    ),
];
