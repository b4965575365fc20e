//! Task runs that have ended, if they are counted (`TASK_RUNS_ENABLED`).

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;

use super::clock::before;
use super::counted::{Counted, Unread};
use super::cursor::Cursor;
use super::events::{Event, FinishedTask};
use super::saved::Position;
use crate::prefect::request::{OneOf, Page, Presence, Range, StateFilter, TaskRunFilter};
use crate::prefect::runs::{StateType, TaskRun};
use crate::prefect::{Error, Id, Listed, Request};

/// Pages that are read by offset overlap by one tenth, because objects that leave the list in the
/// meantime move the others up.
const PAGE_OVERLAP: usize = 10;

/// How often an additional period is read again.
const REREAD: Duration = Duration::from_secs(3600);

/// The additional period: no task run is missed if its worker's clock is slow by less than this.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Reads the task runs that have ended.
#[derive(Debug)]
pub(super) struct TaskRuns {
    pub(super) cursor: Cursor,
    pub(super) counted: Counted,
    pub(super) start: Option<Timestamp>,
    /// Task runs that ended within this range ended before counting began, although the server's
    /// clock now indicates otherwise.
    pub(super) before_start: Option<Range>,
    /// Servers before 3.6.22 cannot filter by end time: the list is read by offset, newest first.
    unfiltered: Option<Unfiltered>,
    failed: bool,
    /// When the additional period was last read, as uptime; and the position of the cursor then and
    /// the time before.
    reread_at: Duration,
    reread_from: [Option<Timestamp>; 2],
}

/// A reading without a filter by end time.
#[derive(Debug, Default)]
struct Unfiltered {
    offset: usize,
    since: Option<Timestamp>,
}

impl TaskRuns {
    /// Resumes at the position of a checkpoint, if there is one.
    pub(super) fn new(position: Option<Position>) -> Self {
        let (start, cursor, reread_from) = match &position {
            Some(position) => (Some(position.start), position.cursor, position.compared),
            None => (None, None, [None; 2]),
        };
        let counted = position.map_or_else(Counted::default, |position| {
            Counted::restore(position.counted, position.forgotten_until)
        });
        TaskRuns {
            cursor: Cursor::new(cursor),
            counted,
            start,
            before_start: None,
            unfiltered: None,
            failed: false,
            reread_at: Duration::ZERO,
            reread_from,
        }
    }

    /// The position of the cursor when the additional period was last read, and the time before.
    pub(super) fn reread_from(&self) -> [Option<Timestamp>; 2] {
        self.reread_from
    }

    /// Everything that ended before this time has been counted already, or ended before counting
    /// began.
    fn floor(&self) -> Timestamp {
        let start = self.start.unwrap_or(Timestamp::MAX);
        start.max(self.counted.forgotten_until())
    }

    /// From where on the list is still to be read, if it begins at `start`.
    pub(super) fn unread(&self, start: Timestamp) -> Unread {
        Unread {
            now: self.cursor.unread(start),
            later: before(self.reread_from[1].unwrap_or(start), CLOCK_SKEW),
        }
    }

    /// Begins a cycle. Once an hour, an additional period is read again, because the end time of a
    /// task run is set by its worker's clock.
    pub(super) fn begin(&mut self, uptime: Duration) {
        self.failed = false;
        // Otherwise, the cursor might never catch up.
        let is_up_to_date = self.cursor.is_up_to_date();
        self.cursor.begin();
        let due = uptime.saturating_sub(self.reread_at) >= REREAD;
        if due && is_up_to_date && self.cursor.is_idle() {
            self.reread_at = uptime;
            let position = self.cursor.position();
            self.cursor
                .rewind(self.reread_from[1].or(self.start), CLOCK_SKEW);
            self.reread_from = [position, self.reread_from[0]];
        }
    }

    /// The request to send next.
    pub(super) fn plan(&self, limit: usize) -> Option<Request> {
        if self.failed {
            return None;
        }
        let (range, exclude, limit) = self.cursor.next(limit)?;
        let (end_time, offset) = match &self.unfiltered {
            Some(unfiltered) => (Range::default(), unfiltered.offset),
            // The filter cannot exclude ids. An offset is needed only if more task runs ended at
            // the same time than fit on a page.
            None if exclude.len() >= limit => (range, exclude.len()),
            None => (range, 0),
        };
        Some(Request::TaskRuns {
            filter: TaskRunFilter {
                state: StateFilter {
                    types: OneOf::any(StateType::FINAL),
                    names: OneOf::default(),
                },
                end_time,
                // Before 3.6.14, a task run that never started has no end time, and PostgreSQL
                // lists it first.
                start_time: Presence {
                    is_null: self.unfiltered.is_some().then_some(false),
                },
            },
            page: Page { offset, limit },
        })
    }

    /// Processes a page, and returns the events.
    pub(super) fn page(
        &mut self,
        request: &Request,
        listed: Listed<TaskRun>,
        uptime: Duration,
        now: Timestamp,
    ) -> Vec<Event> {
        let Request::TaskRuns { page, .. } = request else {
            return Vec::new();
        };
        let full = listed.len() >= page.limit;
        let skipped: Vec<Id> = listed
            .skipped
            .into_iter()
            .map(|skipped| skipped.id)
            .collect();
        let oldest = listed.items.iter().filter_map(|task| task.end_time).min();
        match &mut self.unfiltered {
            None => {
                let known: HashSet<&Id> = self
                    .cursor
                    .next(page.limit)
                    .into_iter()
                    .flat_map(|(_, ids, _)| ids)
                    .collect();
                let new = listed.items.iter().filter(|task| !known.contains(&task.id));
                let keys: Vec<_> = new.map(|task| (task.id.clone(), task.end_time)).collect();
                self.cursor.page(keys, skipped, full);
            }
            Some(unfiltered) => {
                let since = *unfiltered.since.get_or_insert_with(|| {
                    let (range, ..) = self.cursor.next(page.limit).unwrap_or_default();
                    range.after.unwrap_or(now)
                });
                let continues = full && oldest.is_none_or(|oldest| oldest >= since);
                let step = page.limit.saturating_sub(page.limit / PAGE_OVERLAP);
                unfiltered.offset = unfiltered.offset.saturating_add(step);
                if !continues {
                    *unfiltered = Unfiltered::default();
                    self.cursor.read_all();
                }
            }
        }
        let floor = self.floor();
        let tasks = listed.items.iter();
        tasks
            .filter_map(|task| self.count(task, floor, uptime))
            .collect()
    }

    fn count(&mut self, task: &TaskRun, floor: Timestamp, uptime: Duration) -> Option<Event> {
        let (state, state_type, end) = (task.state_id.as_ref()?, task.state_type?, task.end_time?);
        let counted = self.counted.contains(&task.id, state, uptime);
        if counted || !state_type.is_final() || end < floor {
            return None;
        }
        self.counted.insert(&task.id, state, end, uptime);
        if self.before_start.is_some_and(|range| range.contains(end)) {
            return None;
        }
        Some(Event::TaskRun(FinishedTask {
            task: task.task_name(),
            state_type,
            run_time: task.total_run_time,
        }))
    }

    /// Notes that the list could not be read. If the server refuses the filter, it is read without
    /// one.
    pub(super) fn fail(&mut self, error: &Error) -> bool {
        if error.is_refused() && self.unfiltered.is_none() {
            self.unfiltered = Some(Unfiltered::default());
            return false;
        }
        if error.asks_for_less() {
            self.cursor.timed_out();
        }
        self.failed = true;
        true
    }
}
