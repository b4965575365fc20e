//! Compares a window of finished runs with the server once an hour: removes deleted runs, and finds
//! runs whose end was missed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::keyed::{Direction, Keyed};
use super::page_size::PageSize;
use super::windows::{Found, is_failure};
use crate::prefect::request::{FlowRunFilter, OneOf, Order, Presence, Range};
use crate::prefect::runs::{FlowRun, StateType};
use crate::prefect::{Id, Request};

/// How often a window is compared.
pub(super) const EVERY: Duration = Duration::from_secs(3600);

/// A comparison that takes longer begins anew.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// A long window is read in this many parts concurrently.
const CONCURRENT_PARTS: i64 = 4;

/// A list of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// Runs that ended within the window.
    Ended,
    /// Runs whose actual or expected start is within the window and that have ended. Servers before
    /// 3.5.0 leave out those that did not start.
    Started,
    /// Failed runs of deployments, within the window of failed runs.
    Failed,
}

/// Compares a window with the server.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// When the last comparison was completed, as uptime.
    done_at: Option<Duration>,
    open: Option<Open>,
    page_size: PageSize,
}

/// A comparison in progress, which may take several cycles.
#[derive(Debug)]
struct Open {
    began: Timestamp,
    lists: Vec<(List, Vec<Keyed>)>,
    found: Found,
    /// Runs that have started again in the meantime.
    restarted: HashSet<Id>,
    /// When it was opened, as uptime.
    opened_at: Duration,
}

impl Comparison {
    /// Drops a comparison that takes too long: what changes after its beginning would be kept
    /// without a bound.
    pub(super) fn expire(&mut self, uptime: Duration) {
        let expired = |open: &mut Open| uptime.saturating_sub(open.opened_at) >= LONGEST;
        self.open.take_if(expired);
    }

    /// Begins a comparison if one is due, of these lists from these times on.
    pub(super) fn open(
        &mut self,
        uptime: Duration,
        now: Timestamp,
        lists: impl IntoIterator<Item = (List, Timestamp)>,
    ) {
        let due = self
            .done_at
            .is_none_or(|at| uptime.saturating_sub(at) >= EVERY);
        if !due || self.open.is_some() {
            return;
        }
        let keyed = |since| vec![Keyed::new(Direction::Descending, Range::after(since))];
        let lists = lists.into_iter();
        self.open = Some(Open {
            began: now,
            lists: lists.map(|(list, since)| (list, keyed(since))).collect(),
            found: Found::new(),
            restarted: HashSet::new(),
            opened_at: uptime,
        });
    }

    /// Whether a comparison is in progress.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the window has been read at least once.
    pub(super) fn is_done_once(&self) -> bool {
        self.done_at.is_some()
    }

    /// The requests to send next, each with its list and the part of the list.
    pub(super) fn plan(&self, limit: usize) -> Vec<(List, usize, Request)> {
        let limit = self.page_size.of(limit);
        let lists = self.open.iter().flat_map(|open| &open.lists);
        let parts = lists.flat_map(|(list, parts)| {
            let parts = parts.iter().enumerate();
            let open = parts.filter(|(_, keyed)| !keyed.is_done());
            open.map(|(part, keyed)| (*list, part, list.request(keyed, limit)))
        });
        parts.collect()
    }

    /// Processes a page.
    pub(super) fn page(
        &mut self,
        list: List,
        part: usize,
        runs: &[Run],
        skipped: Vec<Id>,
        full: bool,
    ) {
        self.page_size.arrived();
        let Some(open) = &mut self.open else { return };
        let mut lists = open.lists.iter_mut();
        let Some((_, parts)) = lists.find(|(other, _)| *other == list) else {
            return;
        };
        let Some(keyed) = parts.get_mut(part) else {
            return;
        };
        keyed.page(
            runs.iter().map(|run| (Arc::clone(&run.id), list.key(run))),
            full,
        );
        keyed.skip(skipped);
        if full && parts.len() == 1 {
            let whole = std::mem::take(parts).into_iter();
            *parts = whole
                .flat_map(|keyed| keyed.divide(CONCURRENT_PARTS))
                .collect();
        }
        let belongs = |run: &&Run| list != List::Failed || is_failure(run);
        let found = runs.iter().filter(belongs);
        open.found
            .extend(found.map(|run| (Arc::clone(&run.id), Arc::clone(run))));
    }

    /// Notes that a page timed out: the next ones are smaller.
    pub(super) fn timed_out(&mut self) {
        self.page_size.timed_out();
    }

    /// Notes that a run has started again: it is removed even if it was read as finished.
    pub(super) fn started_again(&mut self, id: &Id) {
        if let Some(open) = &mut self.open {
            open.restarted.insert(Arc::clone(id));
        }
    }

    /// The result of a completed comparison, and the server's time when it began.
    pub(super) fn take(&mut self, uptime: Duration) -> Option<(Timestamp, Found)> {
        let is_done = |open: &mut Open| {
            let mut parts = open.lists.iter().flat_map(|(_, parts)| parts);
            parts.all(Keyed::is_done)
        };
        let mut done = self.open.take_if(is_done)?;
        self.done_at = Some(uptime);
        for id in &done.restarted {
            done.found.remove(id);
        }
        Some((done.began, done.found))
    }
}

impl List {
    fn request(self, keyed: &Keyed, limit: usize) -> Request {
        let types: &[StateType] = match self {
            List::Ended | List::Started => &StateType::FINAL,
            List::Failed => &StateType::FAILURE,
        };
        let mut filter = FlowRunFilter {
            id: OneOf::not_any(keyed.exclude().iter().cloned()),
            ..FlowRunFilter::of_types(types)
        };
        match self {
            List::Ended => filter.end_time = keyed.range(),
            List::Started => filter.start_time = keyed.range(),
            List::Failed => {
                filter.start_time = keyed.range();
                filter.deployment_id = Presence {
                    is_null: Some(false),
                };
            }
        }
        let order = match self {
            List::Ended => Order::EndTime,
            List::Started | List::Failed => Order::StartTime,
        };
        Request::FlowRuns {
            filter,
            order,
            limit,
        }
    }

    fn key(self, run: &FlowRun) -> Option<Timestamp> {
        match self {
            List::Ended => run.end_time,
            List::Started | List::Failed => run.started_or_expected(),
        }
    }
}
