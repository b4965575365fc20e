//! Flow runs that ended: read since the cursor, and compared with the whole now and then.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::clock::before;
use super::cursor::Cursor;
use super::keyed::{Direction, Keyed};
use super::sections::Section;
use super::windows::{Found, is_failure};
use crate::prefect::request::{FlowRunFilter, OneOf, Order, Presence, Range};
use crate::prefect::runs::{FlowRun, StateType};
use crate::prefect::{Id, Listed, Request};

/// How often the windows are compared with the server.
const RECONCILE: Duration = Duration::from_secs(3600);

/// How far back before the last comparison: a run that started and ended between two cycles,
/// by a clock that is behind by less than this, is found at the latest now.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// A long window is read in so many parts side by side.
const SIDE_BY_SIDE: i64 = 4;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Runs that ended since the cursor.
    New,
    /// Runs that ended within the window: a part of them.
    Ended(usize),
    /// Runs that started, or were to start, within the window, and have ended: a part of them.
    Started(usize),
    /// Failed runs of their own window: a part of them.
    Failed(usize),
}

/// Reads the runs that ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) cursor: Cursor,
    reconciled_at: Option<Duration>,
    /// The time at the server when the last comparison began.
    compared: Option<Timestamp>,
    reconciliation: Option<Reconciliation>,
    /// Parts that failed in this cycle.
    failed: Vec<Purpose>,
    /// Uptime until which past slices are read in this cycle.
    catch_up_until: Duration,
}

/// A reading of the whole windows.
#[derive(Debug)]
struct Reconciliation {
    began: Timestamp,
    since: Timestamp,
    ended: Vec<Keyed>,
    started: Vec<Keyed>,
    failed: Option<Vec<Keyed>>,
    found: Found,
    found_failed: Found,
    /// Runs that were started again while it was read.
    again: Vec<Id>,
}

/// A full reading of the windows.
#[derive(Debug)]
pub(super) struct Reconciled {
    /// From when on it is complete.
    pub(super) since: Timestamp,
    /// Finished runs.
    pub(super) finished: Found,
    /// Failed runs; `None` if they are not wanted.
    pub(super) failed: Option<Found>,
}

impl Purpose {
    /// The section that it belongs to.
    pub(super) fn section(self) -> Section {
        match self {
            Purpose::Failed(_) => Section::FailedRuns,
            _ => Section::FinishedRuns,
        }
    }
}

impl Finished {
    pub(super) fn new(position: Option<Timestamp>, compared: Option<Timestamp>) -> Self {
        Finished {
            cursor: Cursor::new(position),
            reconciled_at: None,
            compared,
            reconciliation: None,
            failed: Vec::new(),
            catch_up_until: Duration::ZERO,
        }
    }

    /// Begins a cycle that may catch up until the uptime `catch_up_until`.
    pub(super) fn begin(&mut self, catch_up_until: Duration) {
        self.cursor.begin();
        self.failed.clear();
        self.catch_up_until = catch_up_until;
    }

    /// Until when, as uptime, past slices are read in this cycle.
    pub(super) fn catch_up_until(&self) -> Duration {
        self.catch_up_until
    }

    /// Opens what is due, once the time is known: `start` is where the very first reading
    /// begins, `oldest` the end of what may be caught up.
    pub(super) fn open(&mut self, times: &Times, uptime: Duration) {
        let catches_up = uptime <= self.catch_up_until || self.cursor.position().is_none();
        if catches_up {
            self.cursor.open(times.start, times.earliest);
        }
        let due = self
            .reconciled_at
            .is_none_or(|at| uptime.saturating_sub(at) >= RECONCILE);
        if due && self.reconciliation.is_none() {
            let last = self.compared.or(self.cursor.position());
            let since = before(last.unwrap_or(times.now).min(times.now), CLOCK_SKEW);
            let since = since.max(times.floor).min(times.window_start);
            let keyed = |since| vec![Keyed::new(Direction::Descending, Range::after(since))];
            self.reconciliation = Some(Reconciliation {
                began: times.now,
                since,
                ended: keyed(since),
                started: keyed(times.window_start),
                failed: times.failed_start.map(keyed),
                found: Found::new(),
                found_failed: Found::new(),
                again: Vec::new(),
            });
        }
    }

    /// What to ask next.
    pub(super) fn plan(&self, limit: usize) -> Vec<(Purpose, Request)> {
        let mut plan = Vec::new();
        if let Some((range, exclude, limit)) = self.cursor.next(limit) {
            let filter = ended(range, exclude);
            plan.push((Purpose::New, runs(filter, Order::EndTime, limit)));
        }
        if let Some(reconciliation) = &self.reconciliation {
            reconciliation.plan(limit, &mut plan);
        }
        plan.retain(|(purpose, _)| !self.failed.contains(purpose));
        plan
    }

    /// Takes a page in. Returns its runs that are in a terminal state.
    pub(super) fn page(
        &mut self,
        purpose: Purpose,
        request: &Request,
        listed: Listed<FlowRun>,
        first_page_only: bool,
    ) -> Vec<Run> {
        let full = !first_page_only
            && matches!(request, Request::FlowRuns { limit, .. } if listed.len() >= *limit);
        let skipped: Vec<Id> = listed
            .skipped
            .into_iter()
            .map(|skipped| skipped.id)
            .collect();
        let runs: Vec<Run> = listed.items.into_iter().map(Arc::new).collect();
        let keys = runs.iter().map(|run| {
            let key = match purpose {
                Purpose::New | Purpose::Ended(_) => run.end_time,
                Purpose::Started(_) | Purpose::Failed(_) => run.started_or_expected(),
            };
            (Arc::clone(&run.id), key)
        });
        match purpose {
            Purpose::New => self.cursor.page(keys, skipped, full),
            purpose => {
                if let Some(reconciliation) = &mut self.reconciliation {
                    reconciliation.page(purpose, keys, skipped, full, &runs);
                }
            }
        }
        runs.into_iter().filter(|run| run.is_final()).collect()
    }

    /// A part could not be read: it is resumed in the next cycle.
    pub(super) fn fail(&mut self, purpose: Purpose, timed_out: bool) {
        if purpose == Purpose::New && timed_out {
            self.cursor.timed_out();
        }
        self.failed.push(purpose);
    }

    /// A run is under way again: it is in no window, whatever was read before.
    pub(super) fn started_again(&mut self, id: &Id) {
        if let Some(reconciliation) = &mut self.reconciliation {
            reconciliation.again.push(Arc::clone(id));
        }
    }

    /// What a full reading of the windows found, once it is complete.
    pub(super) fn take_reconciled(&mut self, uptime: Duration) -> Option<Reconciled> {
        let mut done = self
            .reconciliation
            .take_if(|reconciliation| reconciliation.is_done())?;
        self.reconciled_at = Some(uptime);
        self.compared = Some(done.began);
        for id in &done.again {
            done.found.remove(id);
            done.found_failed.remove(id);
        }
        Some(Reconciled {
            since: done.since,
            finished: done.found,
            failed: done.failed.is_some().then_some(done.found_failed),
        })
    }

    /// When the windows were last compared with the server, by its clock.
    pub(super) fn compared(&self) -> Option<Timestamp> {
        self.compared
    }

    /// Whether the windows have been read once.
    pub(super) fn has_reconciled(&self) -> bool {
        self.reconciled_at.is_some()
    }
}

/// The times that a reading begins at.
pub(super) struct Times {
    /// The time at the server.
    pub(super) now: Timestamp,
    /// The same at the least.
    pub(super) earliest: Timestamp,
    /// Where the very first reading begins.
    pub(super) start: Timestamp,
    /// What ended before it is not counted.
    pub(super) floor: Timestamp,
    /// Where the window of finished runs begins.
    pub(super) window_start: Timestamp,
    /// Where the window of failed runs begins.
    pub(super) failed_start: Option<Timestamp>,
}

impl Reconciliation {
    fn plan(&self, limit: usize, plan: &mut Vec<(Purpose, Request)>) {
        for (part, keyed) in open(&self.ended) {
            let filter = ended(keyed.range(), keyed.exclude());
            plan.push((Purpose::Ended(part), runs(filter, Order::EndTime, limit)));
        }
        for (part, keyed) in open(&self.started) {
            let filter = started(keyed, &StateType::FINAL);
            let request = runs(filter, Order::StartTime, limit);
            plan.push((Purpose::Started(part), request));
        }
        for (part, keyed) in open(self.failed.as_deref().unwrap_or_default()) {
            let filter = FlowRunFilter {
                deployment_id: Presence {
                    is_null: Some(false),
                },
                ..started(keyed, &StateType::FAILURE)
            };
            let request = runs(filter, Order::StartTime, limit);
            plan.push((Purpose::Failed(part), request));
        }
    }

    fn page(
        &mut self,
        purpose: Purpose,
        keys: impl Iterator<Item = (Id, Option<Timestamp>)>,
        skipped: Vec<Id>,
        full: bool,
        runs: &[Run],
    ) {
        let (parts, part) = match purpose {
            Purpose::Ended(part) => (&mut self.ended, part),
            Purpose::Started(part) => (&mut self.started, part),
            Purpose::Failed(part) => match &mut self.failed {
                Some(failed) => (failed, part),
                None => return,
            },
            Purpose::New => return,
        };
        let Some(keyed) = parts.get_mut(part) else {
            return;
        };
        keyed.page(keys, full);
        keyed.skip(skipped);
        if full && parts.len() == 1 {
            *parts = std::mem::take(parts)
                .into_iter()
                .flat_map(|keyed| keyed.divide(SIDE_BY_SIDE))
                .collect();
        }
        for run in runs {
            let found = match purpose {
                Purpose::Failed(_) if is_failure(run) => &mut self.found_failed,
                _ => &mut self.found,
            };
            found.insert(Arc::clone(&run.id), Arc::clone(run));
        }
    }

    fn is_done(&self) -> bool {
        let failed = self.failed.iter().flatten();
        let mut all = self.ended.iter().chain(&self.started).chain(failed);
        all.all(Keyed::is_done)
    }
}

/// The parts of a list that are still to be read.
fn open(parts: &[Keyed]) -> impl Iterator<Item = (usize, &Keyed)> {
    let parts = parts.iter().enumerate();
    parts.filter(|(_, keyed)| !keyed.is_done())
}

fn runs(filter: FlowRunFilter, order: Order, limit: usize) -> Request {
    Request::FlowRuns {
        filter,
        order,
        limit,
    }
}

fn ended(range: Range, exclude: &[Id]) -> FlowRunFilter {
    FlowRunFilter {
        id: OneOf::not_any(exclude.iter().cloned()),
        end_time: range,
        ..FlowRunFilter::of_types(&StateType::FINAL)
    }
}

fn started(keyed: &Keyed, types: &[StateType]) -> FlowRunFilter {
    FlowRunFilter {
        id: OneOf::not_any(keyed.exclude().iter().cloned()),
        start_time: keyed.range(),
        ..FlowRunFilter::of_types(types)
    }
}
