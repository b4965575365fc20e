//! The agent's knowledge of a workspace: what to request next, and what an answer changes.
//!
//! The core does no I/O and reads no clock: [`Core::plan`] returns the requests to send,
//! [`Core::apply`] processes the answers, and both get the time as an argument. Nothing is awaited
//! between two changes of the core's state, so a cycle that is cancelled leaves it consistent and
//! keeps the answers that have arrived. A thin driver ([`crate::sampler`]) sends the requests; the
//! simulation in the tests does the same against an in-memory Prefect in virtual time.
//!
//! - [`sections`]: the registry of what is read, how old it is and how it failed;
//! - `reader`, `reading`, `workers`, `unfinished`, `difference`, `existence`, `finished`,
//!   `task_runs`: how each part is read;
//! - `runs`, `terminal`, `counted`: terminal states, each counted once;
//! - [`counters`], [`tally`], [`tags`]: what is counted; [`events`]: what happened;
//! - `cursor`, `keyed`, `listing`: how lists are paged through; `plan`: what to request next;
//! - [`clock`]: the server's time; [`version`]: what its version supports; [`inventory`],
//!   [`snapshot`], [`state`]: the data that the catalogue reads; [`saved`]: the content of a checkpoint.

pub mod clock;
mod comparison;
mod counted;
pub mod counters;
mod cursor;
mod cycle;
mod difference;
pub mod events;
mod existence;
mod finished;
pub mod inventory;
mod keyed;
mod labels;
mod last_runs;
mod listing;
mod page_size;
mod plan;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod reader;
mod reading;
mod runs;
pub mod saved;
pub mod sections;
pub mod snapshot;
pub mod state;
pub mod tags;
pub mod tally;
mod task_runs;
mod terminal;
mod unfinished;
pub mod version;
mod windows;
mod workers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::prefect::runs::FlowRun;
use crate::prefect::{Answer, Error, Request};
use clock::{Moment, ServerClock};
use counted::Counted;
use counters::{Counters, Place};
pub use cycle::{Cycle, Outcome};
use events::Event;
use finished::Finished;
use last_runs::AllLastRuns;
use plan::Purpose;
pub use plan::{Answered, Ask, Lane};
use reader::Reader;
use reading::Context;
use runs::Runs;
use saved::SavedState;
use sections::{Section, Sections};
pub use snapshot::Snapshot;
pub use state::State;
use tags::TagKeys;
use task_runs::TaskRuns;
use unfinished::Unfinished;
use windows::Windows;

/// A flow run, shared.
type Run = Arc<FlowRun>;

/// The configuration of the core.
#[derive(Debug, Clone)]
pub struct Config {
    /// The interval between two cycles.
    pub interval: Duration,
    /// The interval between two readings of the inventory.
    pub inventory_interval: Duration,
    /// How far ahead scheduled runs are read; `None` reads all of them.
    pub scheduled_lookahead: Option<Duration>,
    /// The window of the families of flow runs.
    pub offset: Duration,
    /// The window of the families of failed runs; `None` disables them.
    pub failed_runs_offset: Option<Duration>,
    /// How far back runs that ended in the meantime are read after a restart.
    pub catch_up: Duration,
    /// Whether task runs are counted.
    pub task_runs: bool,
    /// The number of objects per page.
    pub page_limit: usize,
    /// Whether only the first page of each list is read.
    pub first_page_only: bool,
    /// The maximum number of series per counter.
    pub cardinality_limit: usize,
    /// The keys of deployment tags that are attributes of the counts of runs.
    pub tag_keys: TagKeys,
    /// Sections that no exported family is computed from. Those that the core itself needs are read
    /// anyway.
    pub unused: Vec<Section>,
}

/// The agent's knowledge of one workspace.
#[derive(Debug)]
pub struct Core {
    config: Config,
    clock: ServerClock,
    sections: Sections,
    version: Option<Arc<str>>,
    reader: Reader,
    runs: Runs,
    finished: Finished,
    tasks: Option<TaskRuns>,
    counters: Counters,
    last_runs: AllLastRuns,
    phase: Phase,
    /// The lanes whose requests have not been answered in this cycle.
    unanswered: HashSet<Lane>,
    events: Vec<Event>,
    /// Whether a checkpoint would differ from the last one.
    changed: bool,
    /// The number of the last state, and of the last state that was delivered.
    number: u64,
    shown: u64,
    /// Whether counting begins with this process, and no series of a deployment has begun yet.
    begins: bool,
    /// When the last cycle ended, as uptime.
    ended_at: Duration,
    /// The number of objects per page: the configured one, or the server's limit if that is lower.
    page_limit: usize,
    /// The position of the cursor at the last checkpoint, and a digest of the runs that were
    /// awaited then.
    checkpointed: (Option<Timestamp>, u64),
}

/// The phase of a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The version is requested, to find out whether the server answers at all.
    Version,
    /// Everything else.
    Sections,
    /// No more requests in this cycle.
    Over,
}

/// If the cursor has moved by this much, a checkpoint is written even if nothing was counted.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(600);

/// How long the series of a deleted deployment are kept, so that every scrape and push gets their
/// last counts.
const KEEP_AFTER_DELETION: Duration = Duration::from_secs(3_600);

fn context<'a>(
    config: &Config,
    limit: usize,
    sections: &'a Sections,
    now: Option<Timestamp>,
) -> Context<'a> {
    Context {
        now,
        limit,
        first_page_only: config.first_page_only,
        sections,
    }
}

impl Core {
    /// A core that resumes from a checkpoint, if there is one.
    pub fn new(config: Config, saved: Option<SavedState>) -> Self {
        let enabled = |section: Section| match section {
            Section::TaskRuns => config.task_runs,
            Section::FailedRuns => config.failed_runs_offset.is_some(),
            // Names and counters depend on these sections.
            section if section.matters() || section == Section::Server => true,
            section => !config.unused.contains(&section),
        };
        let sections = Sections::new(config.interval, config.inventory_interval, enabled);
        let windows = Windows::new(config.offset, config.failed_runs_offset);
        let mut counters = Counters::new(config.cardinality_limit, config.tag_keys.clone());
        let (mut start, mut flow_runs, mut task_runs) = (None, None, None);
        let (mut awaited, mut last_runs) = (HashMap::new(), HashMap::new());
        let mut unread = HashSet::new();
        let begins = saved.is_none();
        if let Some(saved) = saved {
            counters.restore(saved.counters, saved.start);
            start = Some(saved.start);
            flow_runs = Some(saved.flow_runs);
            task_runs = saved.task_runs;
            (awaited, last_runs) = (saved.awaited, saved.last_runs);
            unread = saved.unread;
        }
        let cursor = flow_runs.as_ref().and_then(|position| position.cursor);
        let compared = flow_runs.as_ref().map(|position| position.compared);
        let counted = flow_runs.map_or_else(Counted::default, |position| {
            Counted::restore(position.counted, position.forgotten_until)
        });
        let unfinished = Unfinished::new(config.scheduled_lookahead, awaited);
        Core {
            clock: ServerClock::default(),
            sections,
            version: None,
            reader: Reader::new(config.tag_keys.clone()),
            runs: Runs::new(unfinished, windows, counted, start, unread),
            finished: Finished::new(cursor, compared.unwrap_or_default()),
            tasks: config.task_runs.then(|| TaskRuns::new(task_runs)),
            counters,
            last_runs: AllLastRuns::restore(last_runs),
            phase: Phase::Over,
            unanswered: HashSet::new(),
            events: Vec::new(),
            changed: false,
            number: 0,
            shown: 0,
            begins,
            ended_at: Duration::ZERO,
            page_limit: config.page_limit.max(1),
            checkpointed: (cursor, 0),
            config,
        }
    }

    /// Begins a cycle.
    pub fn begin(&mut self, moment: Moment) {
        let was_up = self.sections.up();
        let inventory = self.reader.inventory();
        self.sections
            .begin(moment.uptime, |section| inventory.size(section));
        self.reader.begin(&self.sections);
        let first_page_only = self.config.first_page_only;
        self.runs.begin(moment.uptime, first_page_only, was_up);
        let next = moment.uptime.saturating_add(self.config.interval);
        self.finished.begin(next);
        if let Some(tasks) = &mut self.tasks {
            tasks.begin(moment.uptime);
        }
        self.phase = Phase::Version;
        self.unanswered.clear();
    }

    /// Processes the answers to all planned requests of one lane or more. At the deadline of a
    /// cycle, some of them may be missing.
    pub fn apply(&mut self, moment: Moment, answers: Vec<Answered>) {
        self.note_durations(&answers);
        for answered in &answers {
            self.unanswered.remove(&answered.ask.lane());
        }
        // Unfinished runs first: a run that ended between two requests is then seen as finished.
        let is_finished =
            |answered: &Answered| matches!(answered.ask.purpose, Purpose::Finished(_));
        let (finished, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(is_finished);
        let mut found = unfinished::Found::default();
        for answered in others {
            self.answer(answered, moment, &mut found);
        }
        let now = self.clock.now(moment);
        let Some(now) = now.filter(|_| !self.unanswered.contains(&Lane::Runs)) else {
            self.complete_inventory(moment);
            return;
        };
        self.runs
            .unfinished
            .complete(moment.uptime, now, &mut found);
        for run in &found.new {
            self.finished.started_again(&run.id);
        }
        self.runs.take(&mut found, moment.uptime, now);
        for answered in finished {
            self.answer(answered, moment, &mut found);
        }
        for (section, outcome) in found.outcomes {
            self.end(section, outcome, moment.uptime);
        }
        self.after_round(moment, now);
    }

    fn answer(&mut self, answered: Answered, moment: Moment, found: &mut unfinished::Found) {
        let Answered {
            ask, result, at, ..
        } = answered;
        let result = match result {
            Ok(reply) => {
                self.clock.observe(at, reply.date);
                // Any number is a valid count, whoever answers.
                let is_list = !matches!(reply.answer, Answer::Count(_));
                let skipped = reply.answer.skipped();
                self.sections.answered(ask.section, is_list, skipped);
                Ok(reply.answer)
            }
            // The request is repeated with the server's limit.
            Err(error) if self.asked_for_too_much(&ask.request, &error) => return,
            Err(error) => Err(error),
        };
        self.take(ask, result, moment, found);
    }

    fn note_durations(&mut self, answers: &[Answered]) {
        for section in Section::ALL {
            let of_section = answers
                .iter()
                .filter(|answered| answered.ask.section == *section);
            if let Some(longest) = of_section.map(|answered| answered.took).max() {
                self.sections.took(*section, longest);
            }
        }
    }

    /// Adopts the server's limit of objects per page if `request` exceeded it; `false` if the error
    /// has another cause.
    fn asked_for_too_much(&mut self, request: &Request, error: &Error) -> bool {
        let Some(limit) = error.page_limit() else {
            return false;
        };
        if request.limit().is_none_or(|asked| asked <= limit) {
            return false;
        }
        if limit >= self.page_limit {
            // Another request of the same round has already lowered it.
            return true;
        }
        tracing::warn!(
            limit,
            "PAGINATION_LIMIT exceeds the server's limit (PREFECT_SERVER_API_DEFAULT_LIMIT); the server's limit is used"
        );
        self.page_limit = limit;
        true
    }

    fn take(
        &mut self,
        ask: Ask,
        result: Result<Answer, Error>,
        moment: Moment,
        found: &mut unfinished::Found,
    ) {
        let (uptime, now) = (moment.uptime, self.clock.now(moment).unwrap_or(moment.wall));
        let Ask {
            section,
            request,
            purpose,
        } = ask;
        match (purpose, result) {
            (Purpose::Version, result) => self.version(result, uptime),
            (Purpose::Inventory, result) => {
                let context = context(&self.config, self.page_limit, &self.sections, Some(now));
                let ended = self.reader.apply(section, &request, result, &context);
                if let Some(outcome) = ended {
                    self.end(section, outcome, uptime);
                }
            }
            (Purpose::Names, result) => self.reader.apply_names(&request, result),
            (Purpose::Unfinished(purpose), result) => {
                self.runs
                    .unfinished
                    .apply(purpose, &request, result, now, found);
            }
            (Purpose::Finished(purpose), Ok(Answer::FlowRuns(listed))) => {
                let first_page_only = self.config.first_page_only;
                for run in self
                    .finished
                    .page(purpose, &request, listed, first_page_only)
                {
                    self.runs.ended(&run, None, uptime, now);
                }
            }
            (Purpose::Finished(purpose), Err(error)) => {
                match self.finished.fail(purpose, error.asks_for_less()) {
                    true => self.end(section, Err(error), uptime),
                    false => self.sections.error(section),
                }
            }
            (Purpose::States, result) => {
                if let Request::FlowRunStates(id) = &request {
                    let states = match result {
                        Ok(Answer::FlowRunStates(listed)) => Some(listed.items),
                        _ => None,
                    };
                    self.runs
                        .states(id, states, uptime, self.config.interval, now);
                }
            }
            (Purpose::TaskRuns, Ok(Answer::TaskRuns(listed))) => {
                if let Some(tasks) = &mut self.tasks {
                    let events = tasks.page(&request, listed, uptime, now);
                    self.happened(events, now);
                }
            }
            (Purpose::TaskRuns, Err(error)) => {
                let failed = self.tasks.as_mut().is_some_and(|tasks| tasks.fail(&error));
                if failed {
                    self.end(section, Err(error), uptime);
                }
            }
            (_, Ok(_)) => {}
        }
    }

    fn end(&mut self, section: Section, outcome: Result<(), Error>, uptime: Duration) {
        match outcome {
            Ok(()) => self.sections.read(section, uptime),
            Err(error) => self.sections.failed(section, error, uptime),
        }
    }

    /// Processes the first answer of a cycle, which shows whether the server answers, and its
    /// version.
    fn version(&mut self, result: Result<Answer, Error>, uptime: Duration) {
        self.phase = Phase::Sections;
        match result {
            Ok(Answer::Version(version)) => {
                self.version = Some(Arc::clone(&version));
                match version::unsupported(&version) {
                    None => self.sections.read(Section::Server, uptime),
                    Some(error) => self.give_up(error, uptime),
                }
            }
            Ok(_) => {}
            Err(error) if error.concerns_whole_server() => self.give_up(error, uptime),
            // Prefect Cloud does not have this endpoint, and a key may lack the permission for it.
            // Whether Prefect can be read then depends on the lists.
            Err(Error::Status {
                status: 403..=405, ..
            }) => self.sections.read(Section::Server, uptime),
            Err(error) => self.sections.failed(Section::Server, error, uptime),
        }
    }

    /// Ends the cycle: no other request would succeed.
    fn give_up(&mut self, error: Error, uptime: Duration) {
        self.sections.fail_unread(&error, uptime);
        self.phase = Phase::Over;
    }

    fn complete_inventory(&mut self, moment: Moment) {
        let now = self.clock.now(moment);
        loop {
            let context = context(&self.config, self.page_limit, &self.sections, now);
            let complete = self.reader.complete(&context);
            if complete.is_empty() {
                return;
            }
            // Without work pools, the workers are complete as soon as that is known.
            for section in complete {
                self.sections.read(section, moment.uptime);
            }
        }
    }

    /// Evaluates the answers of a round.
    fn after_round(&mut self, moment: Moment, now: Timestamp) {
        let uptime = moment.uptime;
        self.complete_inventory(moment);
        self.runs.look_back_at_restarted(uptime, now);
        let first_page_only = self.config.first_page_only;
        let events = self.runs.count(&self.reader, first_page_only, uptime, now);
        self.happened(events, now);
        self.take_compared(uptime);
        if self.finished.cursor.is_up_to_date() {
            self.runs.before_start = None;
        }
        for section in [Section::FinishedRuns, Section::FailedRuns] {
            if self.finished.is_read(section) && self.sections.is_pending(section) {
                self.sections.read(section, uptime);
            }
        }
        let tasks_read = self
            .tasks
            .as_ref()
            .is_some_and(|tasks| tasks.cursor.is_up_to_date());
        if tasks_read && self.sections.is_pending(Section::TaskRuns) {
            self.sections.read(Section::TaskRuns, uptime);
            self.tasks
                .iter_mut()
                .for_each(|tasks| tasks.before_start = None);
        }
    }

    /// Replaces the content of a window with what a comparison has found.
    fn take_compared(&mut self, uptime: Duration) {
        if let Some((since, began, found)) = self.finished.take_finished(uptime) {
            for run in found.values() {
                self.last_runs.seen(run, since);
            }
            self.runs.windows.replace_finished(since, began, found);
        }
        if let Some((began, found)) = self.finished.take_failed(uptime) {
            // Other runs may have completed since, so this does not determine which run was the
            // last.
            for run in found.values() {
                self.last_runs.seen(run, Timestamp::MAX);
            }
            self.runs.windows.replace_failed(began, found);
        }
    }

    fn happened(&mut self, events: Vec<Event>, now: Timestamp) {
        let since = self.counts_since(now);
        for event in &events {
            self.counters.count(event, since);
            self.last_runs.note(event);
        }
        self.changed |= !events.is_empty();
        self.events.extend(events);
    }
}
