//! The end of a cycle: its outcome, the new state, and the content of a checkpoint.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::clock::Moment;
use super::events::Event;
use super::saved::{Position, SavedState};
use super::sections::{STALE_AFTER_INTERVALS, Section};
use super::snapshot::SectionState;
use super::state::State;
use super::{CHECKPOINT_EVERY, Core, KEEP_AFTER_DELETION, Phase, Place, Snapshot};
use crate::prefect::Error;

/// The result of a cycle.
#[derive(Debug)]
pub struct Cycle {
    /// The state after the cycle.
    pub state: Arc<State>,
    /// The events, each reported once.
    pub events: Vec<Event>,
    /// The sections that cannot be read at present, and why.
    pub errors: Vec<(Section, Error)>,
    /// The sections that have been read or have failed in this cycle. Others may still have an
    /// error from an earlier one.
    pub tried: HashSet<Section>,
    /// The time spent on each section for which requests were sent.
    pub durations: Vec<(Section, Duration)>,
}

impl Cycle {
    /// The outcome.
    pub fn outcome(&self) -> Outcome {
        match self.state.snapshot.up {
            false => Outcome::Failure,
            true if self.errors.is_empty() => Outcome::Success,
            true => Outcome::Partial,
        }
    }
}

/// The outcome of a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every section can be read.
    Success,
    /// Some sections cannot be read.
    Partial,
    /// Prefect could not be read.
    Failure,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 3] = [Outcome::Success, Outcome::Partial, Outcome::Failure];

    /// The value of the attribute `outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Partial => "partial",
            Outcome::Failure => "failure",
        }
    }
}

impl Core {
    /// Ends a cycle. If it reached its deadline, `deadline` is the time that it had.
    pub fn finish(&mut self, moment: Moment, deadline: Option<Duration>) -> Cycle {
        let uptime = moment.uptime;
        for (section, error) in self.reader.take_not_found() {
            // "Not found" means that the server lacks the list only if the list has never been read
            // and other lists are answered.
            let status = self.sections.status(section);
            let never = status.is_some_and(|status| status.read_at.is_none() || status.absent);
            if never && !section.matters() && self.sections.up() {
                self.sections.absent(section, uptime);
            } else {
                self.sections.failed(section, error, uptime);
            }
        }
        if let Some(deadline) = deadline {
            self.sections
                .fail_unread(&Error::Deadline(deadline), uptime);
        }
        if !self.sections.up() {
            // Each section would wait for as long as the whole server could not be read.
            self.sections.retry_all();
        }
        self.phase = Phase::Over;
        self.prune(moment);
        self.ended_at = uptime;
        Cycle {
            state: self.state(moment),
            events: std::mem::take(&mut self.events),
            errors: self.sections.failing(),
            tried: self.sections.tried(),
            durations: self.sections.cycle_durations(),
        }
    }

    /// Drops what is no longer needed, if this cycle has read enough to determine that.
    fn prune(&mut self, moment: Moment) {
        let Some(now) = self.clock.now(moment) else {
            return;
        };
        let uptime = moment.uptime;
        let start = self.runs.start.unwrap_or(now);
        self.runs.prune(uptime, now, self.finished.unread(start));
        if let Some(tasks) = &mut self.tasks {
            let unread = tasks.unread(start);
            tasks.counted.prune(uptime, now, unread);
        }
        let read = |section| self.sections.has_read(section);
        if !read(Section::Deployments)
            || self
                .sections
                .freshness(Section::Flows, uptime)
                .is_none_or(|flows| flows.stale)
        {
            return;
        }
        let inventory = self.reader.inventory();
        let deployments = inventory.deployments.values();
        let places: HashSet<Place> = deployments
            .clone()
            .map(|deployment| self.reader.place(deployment))
            .collect();
        let since = self.counts_since(now);
        // A flow that is not known yet will be, under its name. If only first pages are read, many
        // never are.
        let first_page_only = self.config.first_page_only;
        let ready =
            deployments.filter(|deployment| first_page_only || !inventory.lacks_flow(deployment));
        for deployment in ready {
            let place = self.reader.place(deployment);
            self.changed |= self.counters.start_at_zero(&place, since);
        }
        self.begins = false;
        let keep = KEEP_AFTER_DELETION;
        self.counters.prune(uptime, keep, &places);
        self.last_runs.prune(&inventory.deployments, uptime, keep);
    }

    /// When counting begins for a series that appears now: for the first ones, at the start of the
    /// process.
    pub(super) fn counts_since(&self, now: Timestamp) -> Timestamp {
        let start = self.runs.start.filter(|_| self.begins);
        start.unwrap_or(now)
    }

    /// The workspace at `moment`.
    pub(super) fn snapshot(&self, moment: Moment) -> Snapshot {
        let now = self.clock.now(moment).unwrap_or(moment.wall);
        let (finished, failed) = self.runs.windows.at(now);
        let lag = |section| match section {
            Section::FinishedRuns => self.finished.cursor.lag(now),
            Section::TaskRuns => self.tasks.as_ref()?.cursor.lag(now),
            _ => None,
        };
        let sections = self.sections.iter().filter_map(|(section, status)| {
            let state = SectionState {
                freshness: self.sections.freshness(section, moment.uptime)?,
                stale_after: self.sections.stale_after(section),
                absent: status.absent,
                errors: status.errors,
                skipped: status.skipped,
                lag: lag(section),
            };
            Some((section, state))
        });
        let age = moment.uptime.saturating_sub(self.ended_at);
        let stale_after = self.config.interval.saturating_mul(STALE_AFTER_INTERVALS);
        Snapshot {
            now,
            up: self.sections.up() && age <= stale_after,
            age,
            stale_after,
            version: self.version.clone(),
            sections: sections.collect(),
            inventory: self.reader.inventory().clone(),
            unfinished: self.runs.unfinished.runs().cloned().collect(),
            finished: finished.into(),
            failed: failed.into(),
        }
    }

    /// The start of counting; runs that ended before are not counted. `None` until the server's
    /// time is known.
    pub fn counting_since(&self) -> Option<Timestamp> {
        self.runs.start
    }

    /// The number of terminal states that are remembered as counted.
    pub fn remembered(&self) -> usize {
        let tasks = self.tasks.as_ref().map_or(0, |tasks| tasks.counted.len());
        self.runs.counted.len().saturating_add(tasks)
    }

    /// The content of a checkpoint; `None` if it would not differ from the last one.
    pub fn checkpoint(&mut self, moment: Moment) -> Option<SavedState> {
        let cursor = self.finished.cursor.position();
        let (last, awaited_then) = self.checkpointed;
        let awaited = self.runs.unfinished.awaited_digest();
        let moved = match (last, cursor) {
            (Some(last), Some(cursor)) => {
                let moved = cursor.duration_since(last).abs();
                Duration::try_from(moved).unwrap_or_default() >= CHECKPOINT_EVERY
            }
            (last, cursor) => last != cursor,
        };
        if !self.changed && !moved && awaited == awaited_then {
            return None;
        }
        let saved = self.saved_state(moment)?;
        self.changed = false;
        self.checkpointed = (cursor, awaited);
        Some(saved)
    }

    /// Notes that the checkpoint could not be written: the next one is due immediately.
    pub fn checkpoint_failed(&mut self) {
        self.changed = true;
    }

    fn saved_state(&self, moment: Moment) -> Option<SavedState> {
        let uptime = moment.uptime;
        let now = self.clock.now(moment).unwrap_or(moment.wall);
        let start = self.runs.start?;
        let counted = &self.runs.counted;
        let tasks = self.tasks.as_ref().and_then(|tasks| {
            Some(Position {
                start: tasks.start?,
                cursor: tasks.cursor.position(),
                compared: tasks.reread_from(),
                counted: tasks.counted.rows(uptime),
                forgotten_until: tasks.counted.forgotten_until(),
            })
        });
        Some(SavedState {
            start,
            flow_runs: Position {
                start,
                cursor: self.finished.cursor.position(),
                compared: self.finished.compared(),
                counted: counted.rows(uptime),
                forgotten_until: counted.forgotten_until(),
            },
            task_runs: tasks,
            awaited: self.runs.awaited(now),
            unread: self.runs.unread(),
            counters: self.counters.save(uptime, start),
            last_runs: HashMap::clone(self.last_runs.by_deployment()),
        })
    }
}
