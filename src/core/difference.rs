//! What changed among the unfinished runs of one section: the questions of a cycle.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::Run;
use crate::prefect::request::{FlowRunFilter, OneOf, Order, Range};
use crate::prefect::runs::StateType;
use crate::prefect::{Id, Request};

/// Ids in one request: PostgreSQL binds at most 32,767 parameters, SQLite 32,766, and Prefect
/// Cloud takes bodies of 5 MiB.
pub(super) const IDS_PER_REQUEST: usize = 10_000;

/// Known runs are asked about in at most this many groups of one state name; the rest are
/// read by id.
const GROUPS: usize = 2;

/// This many runs or fewer are read by id to find out which of them is deleted.
const FEW: usize = 50;

/// If more known runs than this are missing at once, all are listed.
const MOST_MISSING: u64 = 50;

/// What is still to be asked.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Ranges of the expected start in which there may be runs that are not known.
    new: Vec<Range>,
    /// Known runs of one state name; without a name, they are read.
    changed: Vec<(Option<Arc<str>>, Vec<Id>)>,
    /// Runs that are counted, to see whether they still exist.
    exist: Vec<Vec<Id>>,
    /// Runs of which at least one is deleted: they are read.
    suspects: Vec<Vec<Id>>,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Runs that are not known.
    New,
    /// Known runs whose state has another name now, or that are read by id.
    Changed,
    /// How many of these there still are.
    Exist,
    /// Runs that may be deleted.
    Suspects,
}

impl Difference {
    /// The questions about the runs that are `known`.
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
        let all: Vec<Id> = in_order.iter().map(|run| Arc::clone(&run.id)).collect();
        Difference {
            new: ranges(known.map(|run| run.expected_start_time)),
            changed,
            exist: all.chunks(IDS_PER_REQUEST).map(<[Id]>::to_vec).collect(),
            suspects: Vec::new(),
        }
    }

    /// Whether nothing is left to be asked.
    pub(super) fn is_done(&self) -> bool {
        self.new.is_empty()
            && self.changed.is_empty()
            && self.exist.is_empty()
            && self.suspects.is_empty()
    }

    /// What to ask next, given the runs that are `known` by now. New ones are those in states
    /// of these `types`, expected until the `horizon`.
    pub(super) fn plan<'a>(
        &self,
        known: impl Iterator<Item = &'a Run> + Clone,
        unreadable: &HashSet<Id>,
        types: &[StateType],
        horizon: Option<Timestamp>,
        limit: usize,
    ) -> Vec<(Purpose, Request)> {
        let runs = |filter| Request::FlowRuns {
            filter,
            order: Order::Id,
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
            plan.push((Purpose::New, runs(filter)));
        }
        for (name, ids) in &self.changed {
            let most = if name.is_some() { ids.len() } else { limit };
            let mut filter = FlowRunFilter::of_ids(ids.iter().take(most).cloned());
            filter.state.names = OneOf::not_any(name.clone());
            plan.push((Purpose::Changed, runs(filter)));
        }
        for ids in &self.exist {
            let filter = FlowRunFilter::of_ids(ids.iter().cloned());
            plan.push((Purpose::Exist, Request::CountFlowRuns(filter)));
        }
        for ids in &self.suspects {
            let filter = FlowRunFilter::of_ids(ids.iter().take(limit).cloned());
            plan.push((Purpose::Suspects, runs(filter)));
        }
        plan
    }

    /// The runs of one page have been taken in. A page of new ones that is `full` is followed
    /// by another, which leaves out what is known by then; of a group, those that were not in
    /// a full page are asked for again. Returns the runs that do not exist any more.
    pub(super) fn answered(
        &mut self,
        purpose: Purpose,
        request: &Request,
        answered: &HashSet<Id>,
        full: bool,
    ) -> Vec<Id> {
        match purpose {
            Purpose::New if full => {}
            Purpose::New => self.drop_range(request),
            Purpose::Changed => self.changed_answered(request, answered, full),
            Purpose::Suspects => {
                let asked = ids(request);
                self.suspects
                    .iter_mut()
                    .for_each(|ids| ids.retain(|id| !asked.contains(id)));
                self.suspects.retain(|ids| !ids.is_empty());
                let gone = asked.iter().filter(|id| !answered.contains(*id));
                return gone.cloned().collect();
            }
            Purpose::Exist => {}
        }
        Vec::new()
    }

    /// Compares how many runs there still are with how many were asked for. `false` if so many
    /// are missing that a full listing is cheaper.
    pub(super) fn counted(&mut self, request: &Request, count: u64) -> bool {
        let asked = ids(request).to_vec();
        self.exist.retain(|ids| *ids != asked);
        let missing = (asked.len() as u64).saturating_sub(count);
        if missing == 0 {
            return true;
        }
        if asked.len() <= FEW {
            self.suspects.push(asked);
        } else {
            let (one, other) = asked.split_at(asked.len() / 2);
            self.exist.extend([one.to_vec(), other.to_vec()]);
        }
        missing <= MOST_MISSING
    }

    /// A question was not answered: it is asked again in the next cycle.
    pub(super) fn failed(&mut self, purpose: Purpose, request: &Request) {
        let asked = ids(request);
        match purpose {
            Purpose::New => self.drop_range(request),
            Purpose::Changed => self.changed_answered(request, &HashSet::new(), false),
            Purpose::Exist => self.exist.retain(|ids| *ids != asked),
            Purpose::Suspects => self.suspects.retain(|ids| !ids.starts_with(asked)),
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
                Some(_) if full => group.retain(|id| !answered.contains(id)),
                Some(_) => group.clear(),
                None => group.retain(|id| !asked.contains(id)),
            }
        }
        self.changed.retain(|(_, group)| !group.is_empty());
    }
}

/// The ids that a request names.
pub(super) fn ids(request: &Request) -> &[Id] {
    match request {
        Request::FlowRuns { filter, .. } | Request::CountFlowRuns(filter) => {
            filter.id.any.as_deref().unwrap_or_default()
        }
        _ => &[],
    }
}

/// Ranges of the expected start, which never changes, with a bounded number of known runs in
/// each. Both ends of a range belong to it, so one ends a microsecond before the next.
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
    fn many_known_runs_are_left_out_in_ranges_without_a_gap() {
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
