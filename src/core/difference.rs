//! Finds out what has changed among the unfinished runs of one section.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::Run;
use crate::prefect::request::{FlowRunFilter, OneOf, Order, Range};
use crate::prefect::runs::StateType;
use crate::prefect::{Id, Request};

/// The maximum number of ids in a request: PostgreSQL binds at most 32,767 parameters, SQLite
/// 32,766, and Prefect Cloud accepts bodies of up to 5 MiB.
pub(super) const IDS_PER_REQUEST: usize = 10_000;

/// Changes are requested for at most this many groups of runs with the same state name; the other
/// known runs are read by id.
const GROUPS: usize = 2;

/// The requests that are still to be sent.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Ranges of the expected start time in which there may be unknown runs.
    new: Vec<Range>,
    /// Known runs with the same state name; those without a name are read by id.
    changed: Vec<(Option<Arc<str>>, Vec<Id>)>,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Unknown runs.
    New,
    /// Known runs whose state name has changed, or that are read by id.
    Changed,
}

impl Difference {
    /// The requests to send, given the runs that are `known`.
    pub(super) fn new<'a>(known: impl Iterator<Item = &'a Run> + Clone) -> Self {
        let mut groups: HashMap<Option<Arc<str>>, Vec<Id>> = HashMap::new();
        let mut in_order: Vec<_> = known.clone().collect();
        in_order.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        for run in &in_order {
            let name = run.state_name.value().cloned();
            groups.entry(name).or_default().push(Arc::clone(&run.id));
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_unstable_by_key(|(name, ids)| (std::cmp::Reverse(ids.len()), name.clone()));
        let (mut changed, mut rest) = (Vec::new(), Vec::new());
        for (name, ids) in groups {
            if name.is_some() && changed.len() < GROUPS {
                let blocks = ids.chunks(IDS_PER_REQUEST);
                changed.extend(blocks.map(|ids| (name.clone(), ids.to_vec())));
            } else {
                rest.extend(ids);
            }
        }
        if !rest.is_empty() {
            changed.push((None, rest));
        }
        Difference {
            new: ranges(known.map(|run| run.expected_start_time)),
            changed,
        }
    }

    /// Whether no requests are left.
    pub(super) fn is_done(&self) -> bool {
        self.new.is_empty() && self.changed.is_empty()
    }

    /// The requests to send next, given the runs that are `known` by now. New runs are in a state
    /// of these `types`, and expected until the `horizon`.
    pub(super) fn plan<'a>(
        &self,
        known: impl Iterator<Item = &'a Run> + Clone,
        unreadable: &HashSet<Id>,
        types: &[StateType],
        horizon: Option<Timestamp>,
        limit: usize,
    ) -> Vec<(Purpose, Request)> {
        let runs = |filter, order| Request::FlowRuns {
            filter,
            order,
            limit,
        };
        let mut plan = Vec::new();
        for range in &self.new {
            let within = known
                .clone()
                .filter(|run| is_within(run.expected_start_time, range));
            let ids = within.map(|run| &run.id).chain(unreadable).cloned();
            let filter = FlowRunFilter {
                id: OneOf::not_any(ids),
                expected_start_time: Range {
                    after: range.after,
                    before: range.before.or(horizon),
                },
                ..FlowRunFilter::of_types(types)
            };
            // PostgreSQL reads the runs in this order with an index, and only those in the range. In
            // the order of their ids, it would read every run that has ever been.
            plan.push((Purpose::New, runs(filter, Order::ExpectedStartTime)));
        }
        for (name, ids) in &self.changed {
            let most = if name.is_some() { ids.len() } else { limit };
            let mut filter = FlowRunFilter::of_ids(ids.iter().take(most).cloned());
            filter.state.names = OneOf::not_any(name.clone());
            plan.push((Purpose::Changed, runs(filter, Order::Id)));
        }
        plan
    }

    /// Notes that the runs of a page have been processed. A `full` page of new runs is followed by
    /// another one, which excludes the runs that are known by then; after a full page of a group,
    /// the runs that were not in it are requested again.
    pub(super) fn answered(
        &mut self,
        purpose: Purpose,
        request: &Request,
        answered: &HashSet<Id>,
        full: bool,
    ) {
        match purpose {
            Purpose::New if full => {}
            Purpose::New => self.drop_range(request),
            Purpose::Changed => self.changed_answered(request, answered, full),
        }
    }

    /// Notes that a request failed: it is repeated in the next cycle.
    pub(super) fn failed(&mut self, purpose: Purpose, request: &Request) {
        match purpose {
            Purpose::New => self.drop_range(request),
            Purpose::Changed => self.changed_answered(request, &HashSet::new(), false),
        }
    }

    fn drop_range(&mut self, request: &Request) {
        if let Request::FlowRuns { filter, .. } = request {
            let after = filter.expected_start_time.after;
            self.new.retain(|range| range.after != after);
        }
    }

    fn changed_answered(&mut self, request: &Request, answered: &HashSet<Id>, full: bool) {
        let asked: HashSet<&Id> = ids(request).iter().collect();
        for (name, group) in &mut self.changed {
            if !group.first().is_some_and(|first| asked.contains(first)) {
                continue;
            }
            match name {
                Some(_) if full => {
                    let before = group.len();
                    group.retain(|id| !answered.contains(id));
                    if group.len() == before {
                        // The server ignores the filter: the next page would be the same.
                        group.clear();
                    }
                }
                Some(_) => group.clear(),
                None => group.retain(|id| !asked.contains(id)),
            }
        }
        self.changed.retain(|(_, group)| !group.is_empty());
    }
}

/// The ids in a request.
pub(super) fn ids(request: &Request) -> &[Id] {
    match request {
        Request::FlowRuns { filter, .. } | Request::CountFlowRuns(filter) => {
            filter.id.any.as_deref().unwrap_or_default()
        }
        _ => &[],
    }
}

/// Ranges of the expected start time, which never changes, each with a bounded number of known
/// runs. Ranges are inclusive at both ends, so each ends a microsecond before the next begins.
fn ranges(known: impl Iterator<Item = Option<Timestamp>>) -> Vec<Range> {
    let mut times: Vec<_> = known.collect();
    times.sort_unstable();
    let mut ranges = vec![Range::default()];
    let edges = times.chunks(IDS_PER_REQUEST).skip(1);
    for edge in edges.filter_map(|chunk| *chunk.first()?) {
        let before = edge.checked_sub(std::time::Duration::from_micros(1)).ok();
        if let Some(last) = ranges.last_mut()
            && before > last.after
        {
            last.before = before;
            ranges.push(Range::after(edge));
        }
    }
    ranges
}

fn is_within(time: Option<Timestamp>, range: &Range) -> bool {
    time.is_none_or(|time| range.contains(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_known_runs_are_excluded_in_ranges_without_a_gap() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let times = (0..25_000).map(|number| Some(at(number / 7)));
        let ranges = ranges(times.clone());
        assert_eq!(ranges.len(), 3);
        assert_eq!((ranges[0].after, ranges[2].before), (None, None));
        for pair in ranges.windows(2) {
            let (before, after) = (pair[0].before.unwrap(), pair[1].after.unwrap());
            assert_eq!(after.as_microsecond() - before.as_microsecond(), 1);
        }
        for range in &ranges {
            let within = times.clone().filter(|time| is_within(*time, range));
            assert!(within.count() < 3 * IDS_PER_REQUEST / 2);
        }
    }
}
