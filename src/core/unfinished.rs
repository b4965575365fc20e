//! Flow runs that have not ended, asked for by difference.
//!
//! Listing thousands of runs in every cycle is most of what a cycle would cost the server.
//! So it is asked only for what changed: runs that are not known (`id.not_any_`), known ones
//! whose state has another name now (`id.any_` with `state.name.not_any_`), and how many of
//! the known ones there still are (a count). All servers since 3.0 have these filters. A full
//! listing is read at the start, hourly, and where the difference does not add up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::clock::after;
use super::keyed::{Direction, Keyed};
use super::sections::Section;
use crate::prefect::request::{FlowRunFilter, OneOf, Order, Range};
use crate::prefect::runs::{FlowRun, StateType};
use crate::prefect::{Answer, Error, Id, Listed, Request};

/// How often all of them are listed, whatever the difference says.
const FULL_LISTING: Duration = Duration::from_secs(3600);

/// Ids in one request: databases bind some 32,000 parameters, and Prefect Cloud takes bodies
/// of 5 MiB.
const IDS_PER_REQUEST: usize = 10_000;

/// Known runs are asked about in so many groups of one state at the most; the rest is read.
const GROUPS: usize = 5;

/// Where more known runs than this are missing at once, all are listed.
const MOST_MISSING: u64 = 50;

/// A run that has not ended.
#[derive(Debug, Clone)]
struct Known {
    run: Run,
    /// When it was first seen unfinished, in the server's time.
    since: Timestamp,
}

/// What the reading of unfinished runs brought.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Runs that were unfinished and have ended, and since when they were known.
    pub(super) ended: Vec<(Run, Timestamp)>,
    /// Runs that are unfinished and were not known.
    pub(super) new: Vec<Run>,
    /// Sections that have been read completely, and those that failed.
    pub(super) outcomes: Vec<(Section, Result<(), Error>)>,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A page of a full listing.
    List(Section),
    /// Runs that are not known.
    New(Section),
    /// Known runs whose state has another name now, or that are read by id.
    Changed(Section),
    /// How many of these there still are.
    Exist,
    /// Runs that may be deleted, by id.
    Suspects,
    /// Runs that a full listing lacks, by id.
    LookUp,
}

impl Purpose {
    /// The section that it belongs to.
    pub(super) fn section(self) -> Section {
        match self {
            Purpose::List(section) | Purpose::New(section) | Purpose::Changed(section) => section,
            Purpose::Exist | Purpose::Suspects | Purpose::LookUp => Section::ActiveRuns,
        }
    }
}

/// The runs that have not ended.
#[derive(Debug)]
pub(super) struct Unfinished {
    lookahead: Option<Duration>,
    known: HashMap<Id, Known>,
    /// Runs that could not be decoded: left out of the questions, until the next full listing.
    unreadable: HashSet<Id>,
    /// Runs that were known and that a full listing lacked, and since when they were known.
    missing: HashMap<Id, Timestamp>,
    listed_at: Option<Duration>,
    job: Job,
    /// Whether `PAGINATION_ENABLED` is off.
    first_page_only: bool,
    look_up_failed: bool,
    /// Runs that ended while a full listing was being read.
    ended_meanwhile: HashSet<Id>,
}

/// The work of a cycle.
#[derive(Debug, Default)]
enum Job {
    #[default]
    Idle,
    /// A full listing; it may go on over several cycles.
    Listing(Box<[Listing; 2]>),
    /// The difference: what is still to be asked.
    Difference(Difference),
}

#[derive(Debug)]
struct Listing {
    section: Section,
    keyed: Keyed,
    found: HashMap<Id, Run>,
    unreadable: HashSet<Id>,
    failed: bool,
}

#[derive(Debug, Default)]
struct Difference {
    new: Vec<Section>,
    changed: Vec<(Section, Option<Arc<str>>, Vec<Id>)>,
    exist: Vec<Vec<Id>>,
    suspects: Vec<Vec<Id>>,
    failed: HashSet<Section>,
}

const SECTIONS: [Section; 2] = [Section::ActiveRuns, Section::ScheduledRuns];

/// Which section a run belongs to.
fn section(run: &FlowRun) -> Section {
    match run.state_type {
        Some(StateType::Scheduled) => Section::ScheduledRuns,
        _ => Section::ActiveRuns,
    }
}

fn types(section: Section) -> &'static [StateType] {
    match section {
        Section::ScheduledRuns => &[StateType::Scheduled],
        _ => &StateType::ACTIVE,
    }
}

impl Unfinished {
    /// Nothing is known but the ids of runs that had not ended when the last process did.
    pub(super) fn new(lookahead: Option<Duration>, awaited: HashMap<Id, Timestamp>) -> Self {
        Unfinished {
            lookahead,
            known: HashMap::new(),
            unreadable: HashSet::new(),
            missing: awaited,
            listed_at: None,
            job: Job::Idle,
            first_page_only: false,
            look_up_failed: false,
            ended_meanwhile: HashSet::new(),
        }
    }

    /// The runs that have not ended.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.known.values().map(|known| &known.run)
    }

    /// Since when a run has been known to be unfinished.
    pub(super) fn known_since(&self, id: &str) -> Option<Timestamp> {
        self.known.get(id).map(|known| known.since)
    }

    /// Runs under way, or lost sight of, and since when they are known: a restart looks for
    /// them.
    pub(super) fn awaited(&self) -> HashMap<Id, Timestamp> {
        let under_way = |(_, known): &(&Id, &Known)| section(&known.run) == Section::ActiveRuns;
        let known = self.known.iter().filter(under_way);
        known
            .map(|(id, known)| (Arc::clone(id), known.since))
            .chain(self.missing.clone())
            .collect()
    }

    /// A number that changes with the runs of [`Unfinished::awaited`].
    pub(super) fn awaited_digest(&self) -> u64 {
        use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let under_way = |(_, known): &(&Id, &Known)| section(&known.run) == Section::ActiveRuns;
        let known = self.known.iter().filter(under_way).map(|(id, _)| id);
        let digests = known
            .chain(self.missing.keys())
            .map(|id| hasher.hash_one(id));
        digests.fold(0, u64::wrapping_add)
    }

    /// A run has ended, as another list says. Returns since when it was known.
    pub(super) fn remove(&mut self, id: &Id) -> Option<Timestamp> {
        if matches!(self.job, Job::Listing(_)) {
            self.ended_meanwhile.insert(Arc::clone(id));
        }
        let missing = self.missing.remove(id);
        self.known.remove(id).map(|known| known.since).or(missing)
    }

    /// Begins a cycle. With `first_page_only`, the first page is listed each time.
    pub(super) fn begin(&mut self, uptime: Duration, first_page_only: bool) {
        self.look_up_failed = false;
        self.first_page_only = first_page_only;
        if let Job::Listing(listings) = &mut self.job {
            listings
                .iter_mut()
                .for_each(|listing| listing.failed = false);
            return;
        }
        let due = self
            .listed_at
            .is_none_or(|at| uptime.saturating_sub(at) >= FULL_LISTING);
        if due || first_page_only {
            self.list_all();
        } else {
            self.job = Job::Difference(self.difference());
        }
    }

    fn list_all(&mut self) {
        self.ended_meanwhile.clear();
        self.job = Job::Listing(Box::new(SECTIONS.map(Listing::new)));
    }

    /// The questions of a cycle.
    fn difference(&self) -> Difference {
        let mut groups: HashMap<(Section, Option<Arc<str>>), Vec<Id>> = HashMap::new();
        for (id, known) in &self.known {
            let name = known.run.state_name.value().cloned();
            let group = (section(&known.run), name);
            groups.entry(group).or_default().push(Arc::clone(id));
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_unstable_by_key(|(group, ids)| (std::cmp::Reverse(ids.len()), group.clone()));
        let mut changed = Vec::new();
        let mut rest: HashMap<Section, Vec<Id>> = HashMap::new();
        for (index, ((section, name), ids)) in groups.into_iter().enumerate() {
            if index < GROUPS && name.is_some() {
                let blocks = ids.chunks(IDS_PER_REQUEST);
                changed.extend(blocks.map(|ids| (section, name.clone(), ids.to_vec())));
            } else {
                rest.entry(section).or_default().extend(ids);
            }
        }
        changed.extend(rest.into_iter().map(|(section, ids)| (section, None, ids)));
        let all: Vec<Id> = self.known.keys().cloned().collect();
        Difference {
            new: SECTIONS.to_vec(),
            changed,
            exist: all.chunks(IDS_PER_REQUEST).map(<[Id]>::to_vec).collect(),
            suspects: Vec::new(),
            failed: HashSet::new(),
        }
    }

    /// What to ask next. The scheduled runs are those expected until `now` plus the look-ahead.
    pub(super) fn plan(&self, now: Timestamp, limit: usize) -> Vec<(Purpose, Request)> {
        match &self.job {
            Job::Idle => self.plan_look_up(limit),
            Job::Listing(listings) => {
                let open = listings.iter().filter(|listing| !listing.is_settled());
                open.map(|listing| {
                    (
                        Purpose::List(listing.section),
                        self.plan_page(listing, now, limit),
                    )
                })
                .collect()
            }
            Job::Difference(difference) => self.plan_difference(difference, now, limit),
        }
    }

    fn horizon(&self, section: Section, now: Timestamp) -> Option<Timestamp> {
        let lookahead = self.lookahead.filter(|_| section == Section::ScheduledRuns);
        lookahead.map(|lookahead| after(now, lookahead))
    }

    fn plan_page(&self, listing: &Listing, now: Timestamp, limit: usize) -> Request {
        let range = listing.keyed.range();
        let exclude = listing.keyed.exclude().iter().cloned();
        Request::FlowRuns {
            filter: FlowRunFilter {
                id: OneOf::not_any(exclude),
                expected_start_time: Range {
                    before: self.horizon(listing.section, now),
                    ..range
                },
                ..FlowRunFilter::of_types(types(listing.section))
            },
            order: Order::ExpectedStartTime,
            limit,
        }
    }

    fn plan_difference(
        &self,
        difference: &Difference,
        now: Timestamp,
        limit: usize,
    ) -> Vec<(Purpose, Request)> {
        let runs = |filter, limit| Request::FlowRuns {
            filter,
            order: Order::Id,
            limit,
        };
        let mut plan = Vec::new();
        for section in &difference.new {
            for filter in self.new_ones(*section, now) {
                plan.push((Purpose::New(*section), runs(filter, limit)));
            }
        }
        for (section, name, ids) in &difference.changed {
            let mut filter = FlowRunFilter::of_ids(
                ids.iter()
                    .take(match name {
                        Some(_) => ids.len(),
                        None => limit,
                    })
                    .cloned(),
            );
            filter.state.names = OneOf::not_any(name.clone());
            plan.push((Purpose::Changed(*section), runs(filter, limit)));
        }
        for ids in &difference.exist {
            let filter = FlowRunFilter::of_ids(ids.iter().cloned());
            plan.push((Purpose::Exist, Request::CountFlowRuns(filter)));
        }
        for ids in &difference.suspects {
            let filter = FlowRunFilter::of_ids(ids.iter().cloned());
            plan.push((Purpose::Suspects, runs(filter, limit)));
        }
        plan
    }

    /// Filters that match the runs of a section that are not known, each with a bounded number
    /// of ids: a large set is divided by the expected start, which never changes.
    fn new_ones(&self, section: Section, now: Timestamp) -> Vec<FlowRunFilter> {
        let mut known: Vec<(Option<Timestamp>, &Id)> = self
            .known
            .iter()
            .filter(|(_, known)| self::section(&known.run) == section)
            .map(|(id, known)| (known.run.expected_start_time, id))
            .chain(self.unreadable.iter().map(|id| (None, id)))
            .collect();
        let filter = |known: &[(Option<Timestamp>, &Id)], range: Range| FlowRunFilter {
            id: OneOf::not_any(known.iter().map(|(_, id)| Arc::clone(id))),
            expected_start_time: range,
            ..FlowRunFilter::of_types(types(section))
        };
        let horizon = self.horizon(section, now);
        let whole = Range {
            after: None,
            before: horizon,
        };
        if known.len() <= IDS_PER_REQUEST {
            return vec![filter(&known, whole)];
        }
        known.sort_unstable();
        let mut filters = Vec::new();
        let mut from = None;
        let mut rest = known.as_slice();
        while !rest.is_empty() {
            // A block ends between two different times: both ends of a range belong to it.
            let last = rest.get(IDS_PER_REQUEST).map(|(time, _)| *time);
            let length = match last {
                Some(last) => rest.partition_point(|(time, _)| *time < last),
                None => rest.len(),
            };
            let length = if length == 0 { rest.len() } else { length };
            let (block, after) = rest.split_at(length);
            let until = after.first().and_then(|(time, _)| *time);
            let before = until.and_then(|until| until.checked_sub(Duration::from_micros(1)).ok());
            let range = Range {
                after: from,
                before: before.or(horizon),
            };
            filters.push(filter(block, range));
            from = until;
            rest = after;
        }
        filters
    }

    fn plan_look_up(&self, limit: usize) -> Vec<(Purpose, Request)> {
        let missing = self.missing.keys().filter(|_| !self.look_up_failed);
        let ids: Vec<Id> = missing.cloned().collect();
        let request = |ids: &[Id]| Request::FlowRuns {
            filter: FlowRunFilter::of_ids(ids.iter().cloned()),
            order: Order::Id,
            limit: ids.len(),
        };
        ids.chunks(limit.max(1))
            .map(|ids| (Purpose::LookUp, request(ids)))
            .collect()
    }

    /// Takes an answer in.
    pub(super) fn apply(
        &mut self,
        purpose: Purpose,
        request: &Request,
        answer: Result<Answer, Error>,
        now: Timestamp,
        found: &mut Found,
    ) {
        match (purpose, answer) {
            (Purpose::List(section), Ok(Answer::FlowRuns(listed))) => {
                self.listed(section, request, listed);
            }
            (Purpose::List(section), Err(error)) => {
                if let Job::Listing(listings) = &mut self.job {
                    let failed = listings
                        .iter_mut()
                        .filter(|listing| listing.section == section);
                    failed.for_each(|listing| listing.failed = true);
                }
                found.outcomes.push((section, Err(error)));
            }
            (Purpose::LookUp, Ok(Answer::FlowRuns(listed))) => {
                self.looked_up(request, listed, found)
            }
            // Asked for again in the next cycle.
            (Purpose::LookUp, _) => self.look_up_failed = true,
            (purpose, Ok(Answer::FlowRuns(listed))) => {
                self.differs(purpose, request, listed, now, found);
            }
            (Purpose::Exist, Ok(Answer::Count(count))) => self.exist(request, count),
            (purpose, Err(error)) => self.difference_failed(purpose, request, error, found),
            (_, Ok(_)) => {}
        }
    }

    /// Completes what has no question left, at the end of a round.
    pub(super) fn complete(&mut self, uptime: Duration, now: Timestamp, found: &mut Found) {
        match &mut self.job {
            Job::Listing(listings) => {
                if listings.iter().all(|listing| listing.keyed.is_done()) {
                    let listings = std::mem::take(&mut self.job);
                    self.replace(listings, uptime, now, found);
                }
            }
            Job::Difference(difference) if difference.is_done() => {
                for section in SECTIONS {
                    if !difference.failed.contains(&section) {
                        found.outcomes.push((section, Ok(())));
                    }
                }
                self.job = Job::Idle;
            }
            _ => {}
        }
    }

    fn listed(&mut self, section: Section, request: &Request, listed: Listed<FlowRun>) {
        let Job::Listing(listings) = &mut self.job else {
            return;
        };
        let Some(listing) = listings
            .iter_mut()
            .find(|listing| listing.section == section)
        else {
            return;
        };
        let full = is_full(request, listed.len()) && !self.first_page_only;
        listing.keyed.page(
            listed
                .items
                .iter()
                .map(|run| (Arc::clone(&run.id), run.expected_start_time)),
            full,
        );
        listing
            .keyed
            .skip(listed.skipped.iter().map(|skipped| Arc::clone(&skipped.id)));
        let skipped = listed.skipped.into_iter().map(|skipped| skipped.id);
        listing.unreadable.extend(skipped);
        for run in listed.items {
            listing.found.insert(Arc::clone(&run.id), Arc::new(run));
        }
    }

    /// Puts a full listing in place of what was known.
    fn replace(&mut self, job: Job, uptime: Duration, now: Timestamp, found: &mut Found) {
        let Job::Listing(listings) = job else { return };
        let mut before = std::mem::take(&mut self.known);
        self.unreadable.clear();
        for listing in *listings {
            self.unreadable.extend(listing.unreadable);
            for (id, run) in listing.found {
                if self.ended_meanwhile.contains(&id) {
                    continue;
                }
                let known = before.remove(&id).map(|known| known.since);
                let since = known.or_else(|| self.missing.remove(&id));
                if since.is_none() {
                    found.new.push(Arc::clone(&run));
                }
                let since = since.unwrap_or(now);
                self.known.insert(id, Known { run, since });
            }
        }
        let unreadable = &self.unreadable;
        let vanished = before
            .into_iter()
            .filter(|(id, _)| !unreadable.contains(id));
        self.missing
            .extend(vanished.map(|(id, known)| (id, known.since)));
        self.listed_at = Some(uptime);
        for section in SECTIONS {
            found.outcomes.push((section, Ok(())));
        }
    }

    /// Runs that a full listing lacked have ended, moved while it was read, or are deleted.
    fn looked_up(&mut self, request: &Request, listed: Listed<FlowRun>, found: &mut Found) {
        let mut runs: HashMap<Id, FlowRun> = listed
            .items
            .into_iter()
            .map(|run| (Arc::clone(&run.id), run))
            .collect();
        for id in ids(request) {
            let Some(since) = self.missing.remove(id) else {
                continue;
            };
            match runs.remove(id) {
                Some(run) if run.is_final() => found.ended.push((Arc::new(run), since)),
                Some(run) => _ = self.insert(run, since),
                None => {}
            }
        }
    }

    fn insert(&mut self, run: FlowRun, since: Timestamp) -> Run {
        let run = Arc::new(run);
        let since = self.known_since(&run.id).unwrap_or(since);
        let known = Known {
            run: Arc::clone(&run),
            since,
        };
        self.known.insert(Arc::clone(&run.id), known);
        run
    }

    /// Takes in runs that are not as they were known.
    fn differs(
        &mut self,
        purpose: Purpose,
        request: &Request,
        listed: Listed<FlowRun>,
        now: Timestamp,
        found: &mut Found,
    ) {
        let full = is_full(request, listed.len());
        let answered: HashSet<Id> = listed
            .items
            .iter()
            .map(|run| Arc::clone(&run.id))
            .chain(listed.skipped.iter().map(|skipped| Arc::clone(&skipped.id)))
            .collect();
        if let Purpose::New(_) | Purpose::Changed(_) = purpose {
            for skipped in listed.skipped {
                self.known.remove(&skipped.id);
                self.unreadable.insert(skipped.id);
            }
        }
        for run in listed.items {
            if run.is_final() {
                let since = self.known.remove(&run.id).map(|known| known.since);
                found.ended.push((Arc::new(run), since.unwrap_or(now)));
            } else if run.state_type.is_none() {
                self.known.remove(&run.id);
            } else {
                let was_known = self.known.contains_key(&run.id);
                let run = self.insert(run, now);
                if !was_known {
                    found.new.push(run);
                }
            }
        }
        let Job::Difference(difference) = &mut self.job else {
            return;
        };
        match purpose {
            // A full page: whatever is known by now is left out of the next one.
            Purpose::New(section) if !full => difference.new.retain(|other| *other != section),
            Purpose::Changed(_) => difference.changed_answered(request, &answered, full),
            Purpose::Suspects => {
                let asked: Vec<Id> = ids(request).to_vec();
                difference.suspects.retain(|ids| *ids != asked);
                for id in asked.iter().filter(|id| !answered.contains(*id)) {
                    self.known.remove(id);
                }
            }
            _ => {}
        }
    }

    /// Compares how many runs there still are with how many were asked for.
    fn exist(&mut self, request: &Request, count: u64) {
        let Job::Difference(difference) = &mut self.job else {
            return;
        };
        let asked: Vec<Id> = ids(request).to_vec();
        difference.exist.retain(|ids| *ids != asked);
        let missing = (asked.len() as u64).saturating_sub(count);
        if missing > MOST_MISSING {
            self.list_all();
        } else if missing > 0 {
            difference.suspect(asked);
        }
    }

    fn difference_failed(
        &mut self,
        purpose: Purpose,
        request: &Request,
        error: Error,
        found: &mut Found,
    ) {
        let Job::Difference(difference) = &mut self.job else {
            return;
        };
        let sections = match purpose {
            Purpose::New(section) => {
                difference.new.retain(|other| *other != section);
                vec![section]
            }
            Purpose::Changed(section) => {
                difference.changed_answered(request, &HashSet::new(), false);
                vec![section]
            }
            _ => {
                let asked = ids(request);
                difference.exist.retain(|ids| *ids != asked);
                difference.suspects.retain(|ids| *ids != asked);
                SECTIONS.to_vec()
            }
        };
        for section in sections {
            if difference.failed.insert(section) {
                found.outcomes.push((section, Err(error.clone())));
            }
        }
    }
}

impl Listing {
    fn new(section: Section) -> Self {
        Listing {
            section,
            keyed: Keyed::new(Direction::Ascending, Range::default()),
            found: HashMap::new(),
            unreadable: HashSet::new(),
            failed: false,
        }
    }

    /// Whether nothing more is asked in this cycle.
    fn is_settled(&self) -> bool {
        self.failed || self.keyed.is_done()
    }
}

impl Difference {
    fn is_done(&self) -> bool {
        self.new.is_empty()
            && self.changed.is_empty()
            && self.exist.is_empty()
            && self.suspects.is_empty()
    }

    /// Of a group, those that were not in a full page are asked for again; of runs that are
    /// read by id, those that have not been asked for yet.
    fn changed_answered(&mut self, request: &Request, answered: &HashSet<Id>, full: bool) {
        let asked: HashSet<&Id> = ids(request).iter().collect();
        for (_, name, group) in &mut self.changed {
            if !group.first().is_some_and(|first| asked.contains(first)) {
                continue;
            }
            match name {
                Some(_) if full => group.retain(|id| !answered.contains(id)),
                Some(_) => group.clear(),
                None => group.retain(|id| !asked.contains(id)),
            }
        }
        self.changed.retain(|(_, _, group)| !group.is_empty());
    }

    /// One of these runs is deleted: halves them until they are few enough to be read.
    fn suspect(&mut self, ids: Vec<Id>) {
        const FEW: usize = 50;
        if ids.len() <= FEW {
            self.suspects.push(ids);
            return;
        }
        let (one, other) = ids.split_at(ids.len() / 2);
        self.exist.extend([one.to_vec(), other.to_vec()]);
    }
}

/// The ids that a request names.
fn ids(request: &Request) -> &[Id] {
    match request {
        Request::FlowRuns { filter, .. } | Request::CountFlowRuns(filter) => {
            filter.id.any.as_deref().unwrap_or_default()
        }
        _ => &[],
    }
}

fn is_full(request: &Request, length: usize) -> bool {
    matches!(request, Request::FlowRuns { limit, .. } if length >= *limit)
}
