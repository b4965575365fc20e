//! A row of the suite: a fault, where it strikes, and what must hold.

use crate::support::front::{On, Play};
use crate::support::otlp::Answer;
use crate::support::stub::Contents;

use super::attack::Attack;
use super::host::Host;
use super::signals::Signal;

/// A fault, and what the agent must do about it.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// The fault in words, for the documentation.
    pub(super) fault: &'static str,
    pub(super) strike: Strike,
    pub(super) effect: Effect,
    /// Settings of the agent besides those of every row.
    pub(super) settings: &'static [(&'static str, &'static str)],
}

/// Where a fault strikes.
#[derive(Clone, Copy)]
pub(super) enum Strike {
    /// Answers of Prefect, from some cycle on.
    Prefect(&'static [(On, Play)]),
    /// The same, before the first cycle.
    AtStart(&'static [(On, Play)]),
    /// Objects of Prefect.
    Contents(fn(&mut Contents)),
    /// Answers of a collector over HTTP.
    Http(&'static [(On, Play)]),
    /// Connections of a collector over gRPC.
    Grpc(&'static [(On, Play)]),
    /// Answers of a collector over gRPC.
    GrpcAnswer(fn() -> Answer),
    /// The agent's own port.
    Port(Attack),
    /// Disks, streams and limits.
    Host(Host),
    /// A signal.
    Signal(Signal),
}

/// What must be seen while the fault lasts. What must hold in every row is in `run.rs`.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    /// Prefect counts as down, with one warning that contains this.
    Down(&'static str),
    /// The same, soon after it has begun: gauges are not stale yet.
    Refused(&'static str),
    /// Prefect counts as down, and asks for a pause that is longer than a row may take.
    Silenced(&'static str),
    /// These sections fail, each with one warning that contains this. The others stay current.
    Sections(&'static [&'static str], &'static str),
    /// No run can be read, with one warning for each of the three lists that contains this.
    Runs(&'static str),
    /// Objects are skipped and counted, with one warning that contains this.
    Skipped(&'static str),
    /// Pushes fail, with one warning that contains this.
    Unpushed(&'static str),
    /// The same, and the collector asks for a pause that is longer than a row may take.
    Muted(&'static str),
    /// Points are rejected, with one warning that contains this.
    Rejected(&'static str),
    /// The checkpoint cannot be written, with one warning that contains this.
    Unsaved(&'static str),
    /// One warning that contains this; everything else works.
    Warning(&'static str),
    /// Nothing but what holds in every row.
    Nothing,
    /// The process ends with this exit code, and a message that contains this.
    Exits(i32, &'static str),
    /// The checkpoint cannot be read, with one warning that contains this.
    Unread(&'static str),
    /// The process ends in time, after a last push; the next one has every count.
    Ends,
    /// The same without a last push: there is nothing to push, or nobody accepts it.
    EndsUnpushed,
    /// The process ends in time, before it has done anything.
    EndsAtOnce,
    /// The process cannot do anything about its end; the next one has every count.
    Dies,
}

impl Effect {
    /// What the agent does, for the documentation.
    pub(super) fn does(&self) -> &'static str {
        match self {
            Effect::Down(_) => {
                "asks again in every cycle, keeps its counts, withholds gauges once they are stale"
            }
            Effect::Refused(_) => "tries again, keeps its counts",
            Effect::Silenced(_) => {
                "sends no request for at most five minutes, keeps its counts, withholds gauges once they are stale"
            }
            Effect::Sections(..) | Effect::Runs(_) => {
                "reads everything else, tries again, withholds the gauges of that part"
            }
            Effect::Skipped(_) => "skips the object and uses the others",
            Effect::Unpushed(_) => {
                "goes on with cycles and `/metrics`, pushes again after every cycle, with all counts"
            }
            Effect::Muted(_) => {
                "goes on with cycles and `/metrics`, pushes again after at most ten minutes, with all counts"
            }
            Effect::Rejected(_) => "counts the rejected points and does not send them again",
            Effect::Unsaved(_) => {
                "goes on without a new checkpoint, keeps the previous one, tries again"
            }
            Effect::Warning(_) => "goes on",
            Effect::Nothing => "goes on, and answers probes",
            Effect::Exits(..) => "does not start",
            Effect::Unread(_) => {
                "starts without the checkpoint: counters start at zero; a damaged file is renamed, not overwritten"
            }
            Effect::Ends => {
                "ends in at most 5 s, with a last push; the next process has every count"
            }
            Effect::EndsUnpushed => "ends in at most 5 s; the next process has every count",
            Effect::EndsAtOnce => "ends in at most 5 s",
            Effect::Dies => "ends; the next process has every count",
        }
    }

    /// What the operator sees, for the documentation.
    pub(super) fn sees(&self) -> String {
        let warning = |says: &str| match says {
            "" => "one warning".to_owned(),
            says => format!("one warning with `{says}`"),
        };
        match self {
            Effect::Down(says) | Effect::Refused(says) | Effect::Silenced(says) => {
                format!("`prefect_up` 0, growing ages, {}", warning(says))
            }
            Effect::Sections(sections, says) => format!(
                "the age of {} grows, {} each",
                sections.join(", "),
                warning(says)
            ),
            Effect::Runs(says) => format!("the ages of runs grow, {} each", warning(says)),
            Effect::Skipped(says) => {
                format!("`prefect_agent_objects_skipped_total`, {}", warning(says))
            }
            Effect::Unpushed(says) | Effect::Muted(says) => format!(
                "`prefect_agent_exports_total{{outcome=\"failure\"}}`, {}",
                warning(says)
            ),
            Effect::Rejected(says) => {
                format!("`prefect_agent_export_points_total`, {}", warning(says))
            }
            Effect::Unsaved(says) => format!(
                "`prefect_agent_checkpoints_total{{outcome=\"failure\"}}`, {}",
                warning(says)
            ),
            Effect::Warning(says) | Effect::Unread(says) => warning(says),
            Effect::Nothing => "nothing".to_owned(),
            Effect::Ends | Effect::EndsUnpushed => "exit code 0".to_owned(),
            Effect::EndsAtOnce | Effect::Dies => "the end of the process".to_owned(),
            Effect::Exits(code, "") => format!("exit code {code}"),
            Effect::Exits(code, says) => format!("exit code {code}, `{says}`"),
        }
    }
}

impl Row {
    pub(super) const fn new(
        name: &'static str,
        fault: &'static str,
        strike: Strike,
        effect: Effect,
    ) -> Self {
        Row {
            name,
            fault,
            strike,
            effect,
            settings: &[],
        }
    }

    /// With these settings of the agent.
    pub(super) const fn with(mut self, settings: &'static [(&'static str, &'static str)]) -> Self {
        self.settings = settings;
        self
    }
}
