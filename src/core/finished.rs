//! Flow runs that have ended: read from the cursor on, and compared with the server once an hour.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::clock::before;
use super::comparison::{Comparison, EVERY, List};
use super::counted::Unread;
use super::cursor::Cursor;
use super::sections::Section;
use super::windows::Found;
use crate::prefect::request::{FlowRunFilter, OneOf, Order};
use crate::prefect::runs::{FlowRun, StateType};
use crate::prefect::{Id, Listed, Request};

/// How far a comparison reaches back before the second-to-last one. A run that started and ended
/// between two cycles, on a worker whose clock is slow by less than this, is found by the next
/// comparison; or, if a lagging replica answers that one, by the one after it.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Runs that ended since the cursor.
    New,
    /// A part of a list of a comparison.
    Compare(List, usize),
}

/// Reads the runs that have ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) cursor: Cursor,
    finished: Comparison,
    failed: Comparison,
    /// The server's time when the last comparison of finished runs began, and the one before. They
    /// are at least an hour apart: comparisons in between, which follow restarts, are ignored.
    compared: [Option<Timestamp>; 2],
    /// Where the window of the current comparison begins.
    since: Timestamp,
    /// Whether the current comparison reaches back to the second-to-last one.
    is_complete: bool,
    /// Requests that failed in this cycle.
    failures: Vec<Purpose>,
    /// The uptime until which past slices are read in this cycle.
    catch_up_until: Duration,
}

/// The times at which readings begin.
pub(super) struct Times {
    /// The server's time.
    pub(super) now: Timestamp,
    /// The earliest time that the server's clock may show.
    pub(super) earliest: Timestamp,
    /// Where the very first reading begins.
    pub(super) start: Timestamp,
    /// Runs that ended before this time are not counted.
    pub(super) floor: Timestamp,
    /// Where the window of finished runs begins.
    pub(super) window_start: Timestamp,
    /// Where the window of failed runs begins.
    pub(super) failed_start: Option<Timestamp>,
    /// The interval between two cycles.
    pub(super) interval: Duration,
}

impl Purpose {
    /// The section that it belongs to.
    pub(super) fn section(self) -> Section {
        match self {
            Purpose::Compare(List::Failed, _) => Section::FailedRuns,
            _ => Section::FinishedRuns,
        }
    }
}

impl Finished {
    pub(super) fn new(position: Option<Timestamp>, compared: [Option<Timestamp>; 2]) -> Self {
        Finished {
            cursor: Cursor::new(position),
            finished: Comparison::default(),
            failed: Comparison::default(),
            compared,
            since: Timestamp::MIN,
            is_complete: false,
            failures: Vec::new(),
            catch_up_until: Duration::ZERO,
        }
    }

    /// Begins a cycle that may catch up until the uptime `catch_up_until`.
    pub(super) fn begin(&mut self, catch_up_until: Duration) {
        self.cursor.begin();
        self.failures.clear();
        self.catch_up_until = catch_up_until;
    }

    /// Whether past slices are read at `uptime`. Catching up must not delay a cycle for long.
    pub(super) fn catches_up(&self, uptime: Duration) -> bool {
        uptime <= self.catch_up_until
    }

    /// Opens the readings that are due, once the server's time is known.
    pub(super) fn open(&mut self, times: &Times, uptime: Duration) {
        if self.catches_up(uptime) || !self.cursor.has_opened() {
            self.cursor.open(times.start, times.earliest);
        }
        self.finished.expire(uptime);
        self.failed.expire(uptime);
        let since = self.compares_from(times.start);
        let since = since.min(before(times.now, CLOCK_SKEW));
        // The cursor reads the past from its oldest slice on, and only what is newer than its
        // position has to be remembered. A comparison would read all of it at once.
        let catches_up = self.cursor.is_behind(times.now, times.interval);
        let since = if catches_up {
            times.window_start
        } else {
            since
        };
        let since = since.max(times.floor).min(times.window_start);
        if !self.finished.is_open() {
            self.since = since;
            self.is_complete = !catches_up;
        }
        let lists = [(List::Ended, since), (List::Started, times.window_start)];
        self.finished.open(uptime, times.now, lists);
        if let Some(start) = times.failed_start {
            self.failed.open(uptime, times.now, [(List::Failed, start)]);
        }
    }

    /// From where on the lists are still to be read, if they begin at `start`.
    pub(super) fn unread(&self, start: Timestamp) -> Unread {
        let cursor = self.cursor.unread(start);
        let now = match self.finished.is_open() {
            true => cursor.min(self.since),
            false => cursor,
        };
        let later = self.compares_from(start);
        Unread { now, later }
    }

    /// Where the next comparison begins, if the lists begin at `start`.
    fn compares_from(&self, start: Timestamp) -> Timestamp {
        let [_, before_last] = self.compared;
        before(before_last.unwrap_or(start), CLOCK_SKEW)
    }

    /// The requests to send next.
    pub(super) fn plan(&self, limit: usize) -> Vec<(Purpose, Request)> {
        let comparisons = [&self.finished, &self.failed].into_iter();
        let compared = comparisons.flat_map(|comparison| comparison.plan(limit));
        let compared =
            compared.map(|(list, part, request)| (Purpose::Compare(list, part), request));
        let new = self.cursor.next(limit).map(|(range, exclude, limit)| {
            let request = Request::FlowRuns {
                filter: FlowRunFilter {
                    id: OneOf::not_any(exclude.iter().cloned()),
                    end_time: range,
                    ..FlowRunFilter::of_types(&StateType::FINAL)
                },
                order: Order::EndTime,
                limit,
            };
            (Purpose::New, request)
        });
        new.into_iter()
            .chain(compared)
            .filter(|(purpose, _)| !self.failures.contains(purpose))
            .collect()
    }

    /// Processes a page. Returns its runs that are in a terminal state.
    pub(super) fn page(
        &mut self,
        purpose: Purpose,
        request: &Request,
        listed: Listed<FlowRun>,
        first_page_only: bool,
    ) -> Vec<Run> {
        let full = !first_page_only && request.is_full_page(listed.len());
        let skipped = listed.skipped.into_iter().map(|skipped| skipped.id);
        let skipped: Vec<Id> = skipped.collect();
        let runs: Vec<Run> = listed.items.into_iter().map(Arc::new).collect();
        match purpose {
            Purpose::New => {
                let ends = runs.iter().map(|run| (Arc::clone(&run.id), run.end_time));
                self.cursor.page(ends, skipped, full);
            }
            Purpose::Compare(list @ List::Failed, part) => {
                self.failed.page(list, part, &runs, skipped, full);
            }
            Purpose::Compare(list, part) => self.finished.page(list, part, &runs, skipped, full),
        }
        runs.into_iter().filter(|run| run.is_final()).collect()
    }

    /// Notes that a request failed: its reading is resumed in the next cycle. `false` if the
    /// section does not depend on it because the window has been compared before.
    pub(super) fn fail(&mut self, purpose: Purpose, timed_out: bool) -> bool {
        match purpose {
            _ if !timed_out => {}
            Purpose::New => self.cursor.timed_out(),
            Purpose::Compare(List::Failed, _) => self.failed.timed_out(),
            Purpose::Compare(..) => self.finished.timed_out(),
        }
        self.failures.push(purpose);
        match purpose {
            Purpose::New => true,
            Purpose::Compare(List::Failed, _) => !self.failed.is_done_once(),
            Purpose::Compare(..) => !self.finished.is_done_once(),
        }
    }

    /// Notes that a run has started again: it is removed even if it was read as finished.
    pub(super) fn started_again(&mut self, id: &Id) {
        self.finished.started_again(id);
        self.failed.started_again(id);
    }

    /// The finished runs that a completed comparison has found, the beginning of its window, and
    /// when it began.
    pub(super) fn take_finished(
        &mut self,
        uptime: Duration,
    ) -> Option<(Timestamp, Timestamp, Found)> {
        let (began, found) = self.finished.take(uptime)?;
        let [last, _] = self.compared;
        // Each process makes a comparison as it starts, and a replica may lag behind all that time.
        let is_due = last.is_none_or(|last| began.duration_since(last).unsigned_abs() >= EVERY);
        if self.is_complete && is_due {
            self.compared = [Some(began), last];
        }
        Some((self.since, began, found))
    }

    /// The failed runs that a completed comparison has found, and when it began.
    pub(super) fn take_failed(&mut self, uptime: Duration) -> Option<(Timestamp, Found)> {
        self.failed.take(uptime)
    }

    /// The server's time at the last comparison of finished runs, and at the one before.
    pub(super) fn compared(&self) -> [Option<Timestamp>; 2] {
        self.compared
    }

    /// Whether a section has been read up to the present.
    pub(super) fn is_read(&self, section: Section) -> bool {
        let comparison = match section {
            Section::FailedRuns => &self.failed,
            _ => &self.finished,
        };
        self.cursor.is_up_to_date() && comparison.is_done_once()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn times(now: Timestamp) -> Times {
        Times {
            now,
            earliest: now,
            start: START,
            floor: now,
            window_start: now,
            failed_start: Some(START),
            interval: Duration::from_secs(30),
        }
    }

    #[test]
    fn a_comparison_that_takes_too_long_begins_anew_with_its_own_window() {
        let mut finished = Finished::new(None, [None; 2]);
        for hours in [0, 3] {
            let uptime = Duration::from_secs(3600 * hours);
            let now = START + uptime;
            finished.open(&times(now), uptime);
            assert_eq!(finished.since, now, "{hours} hours");
        }
    }

    #[test]
    fn with_an_interval_of_hours_each_comparison_is_complete() {
        let position = START - Duration::from_secs(7_200);
        for (interval, complete) in [(30, false), (7_200, true)] {
            let mut finished = Finished::new(Some(position), [None; 2]);
            let times = Times {
                interval: Duration::from_secs(interval),
                ..times(START)
            };
            finished.open(&times, Duration::ZERO);
            assert_eq!(finished.is_complete, complete, "{interval} s");
        }
    }

    #[test]
    fn after_a_timeout_each_list_is_read_in_smaller_pages_until_a_page_arrives() {
        let mut finished = Finished::new(None, [None; 2]);
        finished.open(&times(START), Duration::ZERO);
        let plan = finished.plan(200);
        assert_eq!(plan.len(), 4, "{plan:?}");
        for (purpose, request) in &plan {
            assert_eq!(request.limit(), Some(200), "{purpose:?}");
            finished.fail(*purpose, true);
        }
        finished.begin(Duration::MAX);
        for (purpose, request) in finished.plan(200) {
            assert!(request.limit() <= Some(100), "{purpose:?} {request:?}");
            finished.page(purpose, &request, Listed::default(), false);
        }
    }
}
