//! Flow runs that have not ended, read by difference.
//!
//! Listing thousands of runs in every cycle would be most of the cost of a cycle for the server. So
//! only changes are requested: unknown runs (`id.not_any_`), known runs whose state name has
//! changed (`id.any_` with `state.name.not_any_`), and the number of known runs that still exist (a
//! count). All servers since 3.0 have these filters. A full listing is read at the start, hourly,
//! and if the difference is inconsistent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use super::clock::after;
use super::difference::{self, Difference, ids};
use super::existence::Existence;
use super::keyed::{Direction, Keyed};
use super::page_size::PageSize;
use super::sections::Section;
use crate::prefect::request::{FlowRunFilter, OneOf, Order, Range};
use crate::prefect::runs::{FlowRun, StateType};
use crate::prefect::{Answer, Error, Id, Listed, Request};

/// How often all of them are listed, regardless of the difference.
const FULL_LISTING: Duration = Duration::from_secs(3600);

/// A run that has not ended.
#[derive(Debug, Clone)]
struct Known {
    run: Run,
    /// When it was first seen unfinished, in the server's time.
    since: Timestamp,
}

/// The result of reading unfinished runs.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Runs that have ended, and since when they were known to be unfinished.
    pub(super) ended: Vec<(Run, Timestamp)>,
    /// Unfinished runs that were not known.
    pub(super) new: Vec<Run>,
    /// The sections that have been read completely or have failed.
    pub(super) outcomes: Vec<(Section, Result<(), Error>)>,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A page of a full listing.
    List(Section),
    /// A request for changes.
    Difference(Section, difference::Purpose),
    /// Whether known runs of both sections still exist.
    Existence,
    /// Known runs that a full listing lacks, by id.
    LookUp,
}

impl Purpose {
    /// The section that it belongs to.
    pub(super) fn section(self) -> Section {
        match self {
            Purpose::List(section) | Purpose::Difference(section, _) => section,
            Purpose::Existence | Purpose::LookUp => Section::ActiveRuns,
        }
    }
}

/// The runs that have not ended.
#[derive(Debug)]
pub(super) struct Unfinished {
    lookahead: Option<Duration>,
    known: HashMap<Id, Known>,
    /// Known runs that a full listing lacked, and since when they were known.
    missing: HashMap<Id, Timestamp>,
    parts: [Part; 2],
    /// Of the runs that are read by difference.
    existence: Existence,
    /// Whether only the first page of each list is read.
    first_page_only: bool,
    look_up_failed: bool,
}

/// The runs of one section.
#[derive(Debug)]
struct Part {
    section: Section,
    /// When they were last listed.
    listed_at: Option<Duration>,
    job: Job,
    /// Runs that could not be decoded. They are excluded from requests until the next full listing.
    unreadable: HashSet<Id>,
    /// Whether a request failed in this cycle.
    failed: bool,
}

/// A full listing begins anew after this many runs have ended while it was read.
const MOST_ENDED: usize = 100_000;

/// The work of a cycle.
#[derive(Debug)]
enum Job {
    Idle,
    /// A full listing; it may take several cycles.
    Listing(Box<Listing>),
    Difference(Difference),
}

#[derive(Debug)]
struct Listing {
    keyed: Keyed,
    page_size: PageSize,
    found: HashMap<Id, Run>,
    unreadable: HashSet<Id>,
    /// Runs that ended while it was read.
    ended: HashSet<Id>,
}

const SECTIONS: [Section; 2] = [Section::ActiveRuns, Section::ScheduledRuns];

/// The section that a run belongs to.
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
    /// Only the ids of runs that were active when the previous process ended are known.
    pub(super) fn new(lookahead: Option<Duration>, awaited: HashMap<Id, Timestamp>) -> Self {
        Unfinished {
            lookahead,
            known: HashMap::new(),
            missing: awaited,
            parts: SECTIONS.map(|section| Part {
                section,
                listed_at: None,
                job: Job::Idle,
                unreadable: HashSet::new(),
                failed: false,
            }),
            existence: Existence::default(),
            first_page_only: false,
            look_up_failed: false,
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

    /// Active and missing runs, and since when they have been known. They are looked up after a
    /// restart.
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

    /// Removes a run that another list shows as ended. Returns since when it was known.
    pub(super) fn remove(&mut self, id: &Id) -> Option<Timestamp> {
        for part in &mut self.parts {
            if let Job::Listing(listing) = &mut part.job {
                listing.ended.insert(Arc::clone(id));
            }
        }
        let missing = self.missing.remove(id);
        self.known.remove(id).map(|known| known.since).or(missing)
    }

    /// Begins a cycle. With `first_page_only`, the first page is listed in every cycle.
    pub(super) fn begin(&mut self, uptime: Duration, first_page_only: bool) {
        self.look_up_failed = false;
        self.first_page_only = first_page_only;
        let known = &self.known;
        for part in &mut self.parts {
            part.failed = false;
            if let Job::Listing(listing) = &part.job
                && listing.ended.len() < MOST_ENDED
            {
                continue;
            }
            let due = part
                .listed_at
                .is_none_or(|at| uptime.saturating_sub(at) >= FULL_LISTING);
            part.job = match due || first_page_only {
                true => Job::Listing(Listing::new()),
                false => Job::Difference(Difference::new(of_section(known, part.section))),
            };
        }
        let by_difference = |part: &&Part| matches!(part.job, Job::Difference(_));
        let parts = self.parts.iter().filter(by_difference);
        let known = parts.flat_map(|part| of_section(known, part.section));
        self.existence = Existence::new(known.map(|run| Arc::clone(&run.id)).collect());
    }

    /// The requests to send next. The scheduled runs are those expected until `now` plus the
    /// look-ahead.
    pub(super) fn plan(&self, now: Timestamp, limit: usize) -> Vec<(Purpose, Request)> {
        let mut plan = Vec::new();
        for part in &self.parts {
            let section = part.section;
            let lookahead = self.lookahead.filter(|_| section == Section::ScheduledRuns);
            let horizon = lookahead.map(|lookahead| after(now, lookahead));
            match &part.job {
                Job::Listing(listing) if !part.failed && !listing.keyed.is_done() => {
                    let request = listing.page(section, horizon, limit);
                    plan.push((Purpose::List(section), request));
                }
                Job::Difference(difference) => {
                    let known = of_section(&self.known, section);
                    let unreadable = &part.unreadable;
                    let questions =
                        difference.plan(known, unreadable, types(section), horizon, limit);
                    plan.extend(questions.into_iter().map(|(purpose, request)| {
                        (Purpose::Difference(section, purpose), request)
                    }));
                }
                _ => {}
            }
        }
        let existence = self.existence.plan(limit);
        plan.extend(existence.map(|request| (Purpose::Existence, request)));
        // A run that is missing in one list may be in the other.
        let listing = |part: &Part| matches!(part.job, Job::Listing(_)) && !part.failed;
        if !self.look_up_failed && !self.parts.iter().any(listing) {
            self.plan_look_up(limit, &mut plan);
        }
        plan
    }

    fn plan_look_up(&self, limit: usize, plan: &mut Vec<(Purpose, Request)>) {
        let mut ids: Vec<Id> = self.missing.keys().cloned().collect();
        ids.sort_unstable();
        let request = |ids: &[Id]| Request::FlowRuns {
            filter: FlowRunFilter::of_ids(ids.iter().cloned()),
            order: Order::Id,
            limit,
        };
        let blocks = ids.chunks(limit.max(1));
        plan.extend(blocks.map(|ids| (Purpose::LookUp, request(ids))));
    }

    /// Processes an answer.
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
            (Purpose::LookUp, Ok(Answer::FlowRuns(listed))) => {
                self.looked_up(request, listed, found);
            }
            // Requested again in the next cycle.
            (Purpose::LookUp, _) => self.look_up_failed = true,
            (Purpose::Difference(section, purpose), Ok(Answer::FlowRuns(listed))) => {
                self.differs(section, purpose, request, listed, now, found);
            }
            (Purpose::Existence, Ok(Answer::Count(count))) => {
                if !self.existence.counted(request, count) {
                    self.list_all();
                }
            }
            (Purpose::Existence, Ok(Answer::FlowRuns(listed))) => {
                let answered = self.read(Section::ActiveRuns, listed, now, found);
                for gone in self.existence.answered(request, &answered) {
                    self.known.remove(&gone);
                }
            }
            (Purpose::Existence, Err(error)) => {
                self.existence.failed(request);
                for part in &mut self.parts {
                    if let Job::Difference(_) = part.job
                        && !std::mem::replace(&mut part.failed, true)
                    {
                        found.outcomes.push((part.section, Err(error.clone())));
                    }
                }
            }
            (Purpose::List(section) | Purpose::Difference(section, _), Err(error)) => {
                let part = self.part(section);
                match (&mut part.job, purpose) {
                    (Job::Difference(difference), Purpose::Difference(_, purpose)) => {
                        difference.failed(purpose, request);
                    }
                    (Job::Listing(listing), _) if error.asks_for_less() => {
                        listing.page_size.timed_out();
                    }
                    _ => {}
                }
                if !std::mem::replace(&mut part.failed, true) {
                    found.outcomes.push((section, Err(error)));
                }
            }
            (_, Ok(_)) => {}
        }
    }

    /// Lists all runs in this cycle.
    fn list_all(&mut self) {
        for part in &mut self.parts {
            if let Job::Difference(_) = part.job {
                part.job = Job::Listing(Listing::new());
            }
        }
        self.existence = Existence::default();
    }

    fn part(&mut self, section: Section) -> &mut Part {
        let [active, scheduled] = &mut self.parts;
        match section {
            Section::ScheduledRuns => scheduled,
            _ => active,
        }
    }

    /// At the end of a round, completes the sections that have no requests left.
    pub(super) fn complete(&mut self, uptime: Duration, now: Timestamp, found: &mut Found) {
        let all_exist = self.existence.is_done();
        for section in SECTIONS {
            let part = self.part(section);
            let done = match &part.job {
                Job::Idle => false,
                Job::Listing(listing) => listing.keyed.is_done(),
                Job::Difference(difference) => difference.is_done() && all_exist,
            };
            if !done {
                continue;
            }
            if !part.failed {
                found.outcomes.push((section, Ok(())));
            }
            if let Job::Listing(listing) = std::mem::replace(&mut part.job, Job::Idle) {
                part.listed_at = Some(uptime);
                self.replace(section, *listing, now, found);
            }
        }
    }

    fn listed(&mut self, section: Section, request: &Request, listed: Listed<FlowRun>) {
        let full = request.is_full_page(listed.len()) && !self.first_page_only;
        let Job::Listing(listing) = &mut self.part(section).job else {
            return;
        };
        listing.page_size.arrived();
        listing.keyed.page(
            listed
                .items
                .iter()
                .map(|run| (Arc::clone(&run.id), run.expected_start_time)),
            full,
        );
        let skipped: Vec<Id> = listed
            .skipped
            .into_iter()
            .map(|skipped| skipped.id)
            .collect();
        listing.keyed.skip(skipped.iter().cloned());
        listing.unreadable.extend(skipped);
        for run in listed.items {
            listing.found.insert(Arc::clone(&run.id), Arc::new(run));
        }
    }

    /// Replaces the known runs of a section with a full listing.
    fn replace(&mut self, section: Section, listing: Listing, now: Timestamp, found: &mut Found) {
        let mut listed = listing.found;
        listed.retain(|id, _| !listing.ended.contains(id));
        let (unreadable, missing) = (&listing.unreadable, &mut self.missing);
        self.known.retain(|id, known| {
            let stays = self::section(&known.run) != section || listed.contains_key(id);
            if !stays && !unreadable.contains(id) {
                missing.insert(Arc::clone(id), known.since);
            }
            stays
        });
        self.part(section).unreadable = listing.unreadable;
        for (id, run) in listed {
            let since = self.known_since(&id).or_else(|| self.missing.remove(&id));
            if since.is_none() {
                found.new.push(Arc::clone(&run));
            }
            let since = since.unwrap_or(now);
            self.known.insert(id, Known { run, since });
        }
    }

    /// Processes runs that a full listing lacked: they have ended, moved while it was read, or were
    /// deleted.
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

    pub(super) fn insert(&mut self, run: FlowRun, since: Timestamp) -> Run {
        let run = Arc::new(run);
        let since = self.known_since(&run.id).unwrap_or(since);
        let known = Known {
            run: Arc::clone(&run),
            since,
        };
        self.known.insert(Arc::clone(&run.id), known);
        run
    }

    /// Whether a page of unknown runs has one. A server that ignores the filter would answer with
    /// the same page for ever.
    fn brings_new(
        &self,
        section: Section,
        purpose: difference::Purpose,
        listed: &Listed<FlowRun>,
    ) -> bool {
        if purpose != difference::Purpose::New {
            return true;
        }
        let is_new = |run: &FlowRun| {
            let is_unfinished = run.state_type.is_some() && !run.is_final();
            // One that is known may have been in the other section.
            let known = self.known.get(&run.id);
            is_unfinished && known.is_none_or(|known| self::section(&known.run) != section)
        };
        let [active, scheduled] = &self.parts;
        let unreadable = match section {
            Section::ScheduledRuns => &scheduled.unreadable,
            _ => &active.unreadable,
        };
        let mut skipped = listed.skipped.iter();
        listed.items.iter().any(is_new) || skipped.any(|run| !unreadable.contains(&run.id))
    }

    /// Processes runs that have changed.
    fn differs(
        &mut self,
        section: Section,
        purpose: difference::Purpose,
        request: &Request,
        listed: Listed<FlowRun>,
        now: Timestamp,
        found: &mut Found,
    ) {
        let full = request.is_full_page(listed.len()) && self.brings_new(section, purpose, &listed);
        let answered = self.read(section, listed, now, found);
        if let Job::Difference(difference) = &mut self.part(section).job {
            difference.answered(purpose, request, &answered, full);
        }
    }

    /// Processes runs of a section. Returns their ids.
    fn read(
        &mut self,
        section: Section,
        listed: Listed<FlowRun>,
        now: Timestamp,
        found: &mut Found,
    ) -> HashSet<Id> {
        let mut ids = HashSet::with_capacity(listed.len());
        for skipped in listed.skipped {
            let known = self.known.remove(&skipped.id);
            let section = known.map_or(section, |known| self::section(&known.run));
            ids.insert(Arc::clone(&skipped.id));
            self.part(section).unreadable.insert(skipped.id);
        }
        for run in listed.items {
            ids.insert(Arc::clone(&run.id));
            if run.is_final() {
                let since = self.known.remove(&run.id).map(|known| known.since);
                found.ended.push((Arc::new(run), since.unwrap_or(now)));
            } else if run.state_type.is_none() {
                self.known.remove(&run.id);
            } else {
                let known = self.known_since(&run.id);
                let since = known.or_else(|| self.missing.remove(&run.id));
                let run = self.insert(run, since.unwrap_or(now));
                if since.is_none() {
                    found.new.push(run);
                }
            }
        }
        ids
    }
}

impl Listing {
    fn new() -> Box<Self> {
        Box::new(Listing {
            keyed: Keyed::new(Direction::Ascending, Range::default()),
            page_size: PageSize::default(),
            found: HashMap::new(),
            unreadable: HashSet::new(),
            ended: HashSet::new(),
        })
    }

    fn page(&self, section: Section, horizon: Option<Timestamp>, limit: usize) -> Request {
        let range = self.keyed.range();
        Request::FlowRuns {
            filter: FlowRunFilter {
                id: OneOf::not_any(self.keyed.exclude().iter().cloned()),
                expected_start_time: Range {
                    before: horizon,
                    ..range
                },
                ..FlowRunFilter::of_types(types(section))
            },
            order: Order::ExpectedStartTime,
            limit: self.page_size.of(limit),
        }
    }
}

fn of_section(known: &HashMap<Id, Known>, section: Section) -> impl Iterator<Item = &Run> + Clone {
    let runs = known.values().map(|known| &known.run);
    runs.filter(move |run| self::section(run) == section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_timeout_a_full_listing_is_read_in_smaller_pages() {
        let mut unfinished = Unfinished::new(None, HashMap::new());
        unfinished.begin(Duration::ZERO, false);
        let now = Timestamp::constant(1_800_000_000, 0);
        let mut found = Found::default();
        for size in [200, 100, 50, 25, 12, 10, 10] {
            let plan = unfinished.plan(now, 200);
            assert_eq!(plan.len(), 2, "{plan:?}");
            for (purpose, request) in plan {
                assert_eq!(request.limit(), Some(size));
                let timeout = Error::Transport {
                    request: String::new(),
                    kind: "timeout",
                    reason: String::new(),
                    hint: None,
                };
                unfinished.apply(purpose, &request, Err(timeout), now, &mut found);
            }
            unfinished.begin(Duration::ZERO, false);
        }
    }

    #[test]
    fn a_full_listing_that_is_never_complete_is_bounded() {
        let mut unfinished = Unfinished::new(None, HashMap::new());
        unfinished.begin(Duration::ZERO, false);
        for number in 0..=2 * MOST_ENDED {
            unfinished.remove(&format!("run-{number}").into());
            unfinished.begin(Duration::ZERO, false);
            for part in &unfinished.parts {
                let Job::Listing(listing) = &part.job else {
                    panic!("{number}: {part:?}");
                };
                assert!(listing.ended.len() <= MOST_ENDED);
            }
        }
    }
}
