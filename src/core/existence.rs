//! Finds out which known runs were deleted: the server counts how many of them still exist.

use std::collections::HashSet;

use super::difference::{IDS_PER_REQUEST, ids};
use crate::prefect::request::{FlowRunFilter, Order};
use crate::prefect::{Id, Request};

/// If one of at most this many runs is missing, they are read by id to find out which one was
/// deleted.
const FEW: usize = 50;

/// If more known runs than this are missing at once, all runs are listed.
const MOST_MISSING: u64 = 50;

/// The requests that are still to be sent.
#[derive(Debug, Default)]
pub(super) struct Existence {
    /// Runs that are counted by the server.
    counts: Vec<Vec<Id>>,
    /// Runs of which at least one was deleted; they are read by id.
    suspects: Vec<Vec<Id>>,
}

impl Existence {
    /// The requests for the runs with these ids, of any state.
    pub(super) fn new(mut known: Vec<Id>) -> Self {
        known.sort_unstable();
        let blocks = known.chunks(IDS_PER_REQUEST);
        Existence {
            counts: blocks.map(<[Id]>::to_vec).collect(),
            suspects: Vec::new(),
        }
    }

    /// Whether no requests are left.
    pub(super) fn is_done(&self) -> bool {
        self.counts.is_empty() && self.suspects.is_empty()
    }

    /// The requests to send next.
    pub(super) fn plan(&self, limit: usize) -> impl Iterator<Item = Request> {
        let counts = self.counts.iter().map(|ids| {
            let filter = FlowRunFilter::of_ids(ids.iter().cloned());
            Request::CountFlowRuns(filter)
        });
        let suspects = self.suspects.iter().map(move |ids| Request::FlowRuns {
            filter: FlowRunFilter::of_ids(ids.iter().take(limit).cloned()),
            order: Order::Id,
            limit,
        });
        counts.chain(suspects)
    }

    /// Compares how many runs exist with how many were requested. `false` if so many are missing
    /// that a full listing is cheaper.
    pub(super) fn counted(&mut self, request: &Request, count: u64) -> bool {
        let asked = ids(request).to_vec();
        self.counts.retain(|ids| *ids != asked);
        let missing = (asked.len() as u64).saturating_sub(count);
        if missing == 0 {
            return true;
        }
        if asked.len() <= FEW {
            self.suspects.push(asked);
        } else {
            let (one, other) = asked.split_at(asked.len() / 2);
            self.counts.extend([one.to_vec(), other.to_vec()]);
        }
        missing <= MOST_MISSING
    }

    /// Notes that suspects have been read by id. Returns those that no longer exist.
    pub(super) fn answered(&mut self, request: &Request, answered: &HashSet<Id>) -> Vec<Id> {
        let asked = ids(request);
        self.suspects
            .iter_mut()
            .for_each(|ids| ids.retain(|id| !asked.contains(id)));
        self.suspects.retain(|ids| !ids.is_empty());
        let gone = asked.iter().filter(|id| !answered.contains(*id));
        gone.cloned().collect()
    }

    /// Notes that a request failed: it is repeated in the next cycle.
    pub(super) fn failed(&mut self, request: &Request) {
        let asked = ids(request);
        self.counts.retain(|ids| *ids != asked);
        self.suspects.retain(|ids| !ids.starts_with(asked));
    }
}
