//! A window of finished runs, compared with the server once an hour: deleted runs leave it, and
//! runs whose end was missed are found.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::keyed::{Direction, Keyed};
use super::windows::{Found, is_failure};
use crate::prefect::request::{FlowRunFilter, OneOf, Order, Presence, Range};
use crate::prefect::runs::{FlowRun, StateType};
use crate::prefect::{Id, Request};

/// How often a window is compared.
pub(super) const EVERY: Duration = Duration::from_secs(3600);

/// A long window is read in this many parts concurrently.
const SIDE_BY_SIDE: i64 = 4;

/// A list that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// Runs that ended within the window.
    Ended,
    /// Runs that started, or were to start, within the window, and have ended. Servers before
    /// 3.5.0 leave out those that did not start.
    Started,
    /// Failed runs of deployments that started within their own window.
    Failed,
}

/// Compares a window with the server.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// When it was done last, as uptime.
    done_at: Option<Duration>,
    open: Option<Open>,
}

/// One that is under way; it may take several cycles.
#[derive(Debug)]
struct Open {
    began: Timestamp,
    lists: Vec<(List, Vec<Keyed>)>,
    found: Found,
    /// Runs that were started again meanwhile.
    again: Vec<Id>,
}

impl Comparison {
    /// Begins a comparison if one is due, with these lists and the times at which they begin.
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
            again: Vec::new(),
        });
    }

    /// Whether one is under way.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the window has been read once.
    pub(super) fn is_done_once(&self) -> bool {
        self.done_at.is_some()
    }

    /// What to ask next: the list, the part of it, and the request.
    pub(super) fn plan(&self, limit: usize) -> Vec<(List, usize, Request)> {
        let lists = self.open.iter().flat_map(|open| &open.lists);
        let parts = lists.flat_map(|(list, parts)| {
            let parts = parts.iter().enumerate();
            let open = parts.filter(|(_, keyed)| !keyed.is_done());
            open.map(|(part, keyed)| (*list, part, list.request(keyed, limit)))
        });
        parts.collect()
    }

    /// Takes a page in.
    pub(super) fn page(
        &mut self,
        list: List,
        part: usize,
        runs: &[Run],
        skipped: Vec<Id>,
        full: bool,
    ) {
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
            *parts = whole.flat_map(|keyed| keyed.divide(SIDE_BY_SIDE)).collect();
        }
        let belongs = |run: &&Run| list != List::Failed || is_failure(run);
        let found = runs.iter().filter(belongs);
        open.found
            .extend(found.map(|run| (Arc::clone(&run.id), Arc::clone(run))));
    }

    /// A run is under way again: it leaves every window, even if it was read as finished.
    pub(super) fn started_again(&mut self, id: &Id) {
        if let Some(open) = &mut self.open {
            open.again.push(Arc::clone(id));
        }
    }

    /// What was found, and when it began, once it is complete.
    pub(super) fn take(&mut self, uptime: Duration) -> Option<(Timestamp, Found)> {
        let is_done = |open: &mut Open| {
            let mut parts = open.lists.iter().flat_map(|(_, parts)| parts);
            parts.all(Keyed::is_done)
        };
        let mut done = self.open.take_if(is_done)?;
        self.done_at = Some(uptime);
        for id in &done.again {
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
