//! Flow runs: those that have not ended, and those that just ended.
//!
//! Order matters within a cycle. Unfinished runs are read first and finished ones after, so
//! that a run that ends in between shows as finished; one that was unfinished in the last
//! cycle and is in neither list now is looked up by its id.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{OptionFuture, join3};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::ended::{self, Ended, Past};
use super::queries::{by_id, list, look_up, read, read_active, read_failed};
use super::windows::Windows;
use super::{Report, span, within};
use crate::ledger::Ledger;
use crate::prefect::filter::FlowRuns;
use crate::prefect::list::Order;
use crate::prefect::{Client, Error};
use crate::settings::Sampling;
use crate::snapshot::{FlowRun, Section, StateType, before};

/// How far before the cursor finished runs are asked for again: time for a transaction that
/// was open, a page boundary that moved, a clock that is a little slow.
pub(super) const OVERLAP: Duration = Duration::from_secs(120);

/// What has ended is read so much at a time, so that a long catch-up gets on step by step.
const SLICE: Duration = Duration::from_secs(3600);

/// Once a cycle has read so many finished runs, the rest is left to the next one.
const MOST_FINISHED: usize = 20_000;

pub(super) type Run = Arc<FlowRun>;
pub(super) type Id = Arc<str>;

pub(super) struct Runs {
    lookahead: Option<Duration>,
    catch_up: Duration,
    windows: Windows,
    active: HashMap<Id, Run>,
    scheduled: HashMap<Id, Run>,
    /// Runs under way that were started more than once, and what is known of them.
    pasts: HashMap<Id, Past>,
    /// Runs that are to be looked up by their ids: nobody could tell where they are.
    unresolved: HashSet<Id>,
    /// Whether finished runs have been read at all.
    has_read: bool,
}

/// What a reading of finished runs brought, up to where it failed.
struct Reading {
    runs: Vec<FlowRun>,
    result: Result<(), Error>,
}

impl Runs {
    /// `unfinished` are the runs that had not ended when the last process did.
    pub(super) fn new(settings: &Sampling, unfinished: Vec<Id>) -> Self {
        Runs {
            lookahead: settings.scheduled_lookahead,
            catch_up: settings.catch_up,
            windows: Windows::new(settings),
            active: HashMap::new(),
            scheduled: HashMap::new(),
            pasts: HashMap::new(),
            unresolved: unfinished.into_iter().collect(),
            has_read: false,
        }
    }

    /// Reads what changed since the last cycle. Returns the final states that are not
    /// counted yet.
    pub(super) async fn refresh(
        &mut self,
        client: &Client,
        ledger: &mut Ledger,
        deadline: Duration,
    ) -> (Report, Vec<Ended>) {
        let mut report = Report::default();
        let whole = self.windows.are_due();
        let mut vanished = self
            .read_unfinished(client, whole, deadline, &mut report)
            .await;
        let counted_until = ledger.cursor();
        let reading = self.read_finished(client, ledger, whole, deadline);
        let Reading { runs, result } = reading.instrument(span(Section::FinishedRuns)).await;
        let all_read = report.take(Section::FinishedRuns, result).is_some();
        if all_read {
            self.note_windows_read(whole, &mut report);
        }
        // What ended before it was either counted or before the start.
        let horizon = counted_until.map(|cursor| before(cursor, OVERLAP));
        let floor = horizon.max(ledger.since()).unwrap_or(Timestamp::MAX);
        let mut news: Vec<Run> = Vec::new();
        for run in self.absorb(runs) {
            let was_unfinished = vanished.remove(&run.id);
            if was_unfinished || run.end_time.is_some_and(|end| end >= floor) {
                news.push(run);
            }
        }
        if all_read {
            news.extend(self.look_up(client, vanished, deadline).await);
        } else {
            // What has vanished may just be finished: asked for when that list can be read.
            self.unresolved.extend(vanished);
        }
        let ended = self
            .final_states(client, ledger, floor, news, deadline)
            .await;
        self.tidy(client.clock().now());
        if whole {
            for run in self.windows.runs() {
                if let (Some(state), Some(end)) = (run.state_type, run.end_time) {
                    ledger.see(run, state, end, run.total_run_time);
                }
            }
        }
        (report, ended)
    }

    /// Reads the runs under way, the scheduled ones and, for a `whole` reading, the window of
    /// failed ones. Returns the runs that have vanished since.
    async fn read_unfinished(
        &mut self,
        client: &Client,
        whole: bool,
        deadline: Duration,
        report: &mut Report,
    ) -> HashSet<Id> {
        let failed_offset = self.windows.failed_offset.filter(|_| whole);
        let (active, scheduled, failed) = join3(
            read(Section::ActiveRuns, deadline, read_active(client)),
            read(
                Section::ScheduledRuns,
                deadline,
                self.read_scheduled(client),
            ),
            OptionFuture::from(
                failed_offset
                    .map(|offset| read(Section::FailedRuns, deadline, read_failed(client, offset))),
            ),
        )
        .await;
        let mut vanished = self.candidates(client.clock().now());
        if let Some(active) = report.take(Section::ActiveRuns, active) {
            self.active = by_id(active);
        }
        if let Some(scheduled) = report.take(Section::ScheduledRuns, scheduled) {
            self.scheduled = by_id(scheduled);
        }
        if let Some(failed) = failed.and_then(|failed| report.take(Section::FailedRuns, failed)) {
            self.windows.set_failed(by_id(failed));
        }
        vanished.retain(|id| !self.active.contains_key(id) && !self.scheduled.contains_key(id));
        vanished
    }

    fn note_windows_read(&mut self, whole: bool, report: &mut Report) {
        self.has_read = true;
        if !whole {
            if self.windows.failed_offset.is_some() {
                // In between two readings of its own, the window lives on what finished.
                report.read.push(Section::FailedRuns);
            }
        } else if !report.failed(Section::FailedRuns) {
            self.windows.reconciled();
        }
    }

    /// Ids of the deployments and flows that the runs name, those in `ended` among them.
    pub(super) fn references(&self, ended: &[Ended]) -> (HashSet<Id>, HashSet<Id>) {
        let runs = || {
            let unfinished = self.active.values().chain(self.scheduled.values());
            let ended = ended.iter().map(|ended| &ended.run);
            unfinished.chain(self.windows.runs()).chain(ended)
        };
        (
            runs().filter_map(|run| run.deployment_id.clone()).collect(),
            runs().filter_map(|run| run.flow_id.clone()).collect(),
        )
    }

    /// Looks a run up again in the next cycle.
    pub(super) fn again(&mut self, run: &Run) {
        self.unresolved.insert(Arc::clone(&run.id));
    }

    /// Runs that have not ended, each once.
    pub(super) fn unfinished(&self) -> Vec<Run> {
        let not_active = |run: &&Run| !self.active.contains_key(&run.id);
        self.active
            .values()
            .chain(self.scheduled.values().filter(not_active))
            .cloned()
            .collect()
    }

    /// Ids of all runs whose end is awaited.
    pub(super) fn awaited(&self) -> Vec<Id> {
        let known = self.active.keys().chain(self.scheduled.keys());
        let awaited: HashSet<_> = known.chain(&self.unresolved).cloned().collect();
        awaited.into_iter().collect()
    }

    /// The window of finished runs and that of failed ones, as of `now`.
    pub(super) fn windows(&self, now: Timestamp) -> (Vec<Run>, Vec<Run>) {
        self.windows.at(now)
    }

    /// A run awaiting retry keeps the expected start of its first try, so it is in here
    /// however far ahead its next one is.
    fn read_scheduled(&self, client: &Client) -> impl Future<Output = Result<Vec<FlowRun>, Error>> {
        let mut filter = FlowRuns::default().of_types(&[StateType::Scheduled]);
        if let Some(horizon) = self
            .lookahead
            .and_then(|ahead| client.clock().now().checked_add(ahead).ok())
        {
            filter = filter.expected_by(horizon);
        }
        list(client, filter, Order::Id)
    }

    /// What ended since the cursor, less the overlap; the first time, the whole window. With
    /// it, rarely, what ended *before* the window but was to start within it or later.
    async fn read_finished(
        &self,
        client: &Client,
        ledger: &mut Ledger,
        whole: bool,
        deadline: Duration,
    ) -> Reading {
        let now = client.clock().now();
        let mut since = self.finished_since(ledger, now);
        let mut runs = Vec::new();
        loop {
            let end = since.checked_add(SLICE).unwrap_or(now);
            let until = (end < now).then_some(end);
            let ended = FlowRuns::default()
                .of_types(&StateType::FINAL)
                .ended_between(since, until);
            match within(deadline, list(client, ended, Order::EndTime)).await {
                Ok(slice) => runs.extend(slice),
                Err(error) => {
                    return Reading {
                        runs,
                        result: Err(error),
                    };
                }
            }
            ledger.move_cursor(until.unwrap_or(now));
            match until {
                Some(until) if runs.len() < MOST_FINISHED => since = until,
                _ => break,
            }
        }
        if whole {
            let started = FlowRuns::default()
                .of_types(&StateType::FINAL)
                .started_or_expected_since(self.windows.start(now));
            match within(deadline, list(client, started, Order::Id)).await {
                Ok(started) => runs.extend(started),
                Err(error) => {
                    return Reading {
                        runs,
                        result: Err(error),
                    };
                }
            }
        }
        Reading {
            runs,
            result: Ok(()),
        }
    }

    /// From where on finished runs are read.
    fn finished_since(&self, ledger: &Ledger, now: Timestamp) -> Timestamp {
        let cursor = ledger.cursor().map(|cursor| before(cursor, OVERLAP));
        let mut since = cursor.or(ledger.since()).unwrap_or(now).min(now);
        let oldest = before(now, self.catch_up);
        if since < oldest {
            tracing::warn!(
                from = %since, to = %oldest,
                "runs that ended in between are not counted: CATCH_UP_HOURS"
            );
            since = oldest;
        }
        match self.has_read {
            true => since,
            false => since.min(self.windows.start(now)),
        }
    }

    /// Unfinished runs of the last cycle that may be gone now: those under way, and scheduled
    /// ones whose time has come.
    fn candidates(&mut self, now: Timestamp) -> HashSet<Id> {
        let due = |run: &&Run| {
            run.start_time.is_some() || run.expected_start_time.is_some_and(|time| time <= now)
        };
        let known = self
            .active
            .values()
            .chain(self.scheduled.values().filter(due));
        let mut candidates = std::mem::take(&mut self.unresolved);
        candidates.extend(known.map(|run| Arc::clone(&run.id)));
        candidates
    }

    /// Takes finished runs in, each once.
    fn absorb(&mut self, runs: Vec<FlowRun>) -> Vec<Run> {
        let mut absorbed = HashMap::new();
        for run in runs.into_iter().filter(FlowRun::is_final) {
            let run = Arc::new(run);
            self.active.remove(&run.id);
            self.scheduled.remove(&run.id);
            self.windows.add(&run);
            absorbed.insert(Arc::clone(&run.id), run);
        }
        absorbed.into_values().collect()
    }

    /// Puts vanished runs where the server says they are, and returns those that have ended;
    /// where it does not answer, they are asked for again.
    async fn look_up(
        &mut self,
        client: &Client,
        vanished: HashSet<Id>,
        deadline: Duration,
    ) -> Vec<Run> {
        let ids: Vec<Id> = vanished.into_iter().collect();
        let found = match within(deadline, look_up(client, &ids)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "vanished runs could not be looked up");
                self.unresolved.extend(ids);
                return Vec::new();
            }
        };
        let (ended, unfinished): (Vec<_>, Vec<_>) = found.into_iter().partition(FlowRun::is_final);
        for run in unfinished {
            match run.state_type {
                Some(StateType::Scheduled) if run.start_time.is_none() => {}
                Some(_) => _ = self.active.insert(Arc::clone(&run.id), Arc::new(run)),
                None => {}
            }
        }
        self.absorb(ended)
    }

    /// The final states that are not counted yet: those that `news` are in, and those that
    /// restarted runs were in before.
    async fn final_states(
        &mut self,
        client: &Client,
        ledger: &Ledger,
        floor: Timestamp,
        mut news: Vec<Run>,
        deadline: Duration,
    ) -> Vec<Ended> {
        let now = client.clock().now();
        news.retain(|run| {
            let state = run.state_id.as_ref();
            state.is_some_and(|state| !ledger.has_counted(&run.id, state))
        });
        let mut ended = Vec::new();
        let mut unread = HashSet::new();
        let restarted: Vec<Run> = news
            .iter()
            .chain(self.active.values())
            .filter(|run| ended::was_restarted(run) && self.is_past_unknown(run))
            .cloned()
            .collect();
        let deadline = Instant::now() + deadline;
        for (run, states) in ended::read_states(client, restarted, deadline).await {
            let Some(states) = states else {
                unread.insert(Arc::clone(&run.id));
                continue;
            };
            let (earlier, past) = ended::earlier(&run, &states);
            self.pasts.insert(Arc::clone(&run.id), past);
            ended.extend(earlier.into_iter().filter(|ended| {
                ended.end >= floor && !ledger.has_counted(&run.id, &ended.state_id)
            }));
        }
        for run in news {
            if unread.contains(&run.id) {
                self.again(&run);
                continue;
            }
            let past = self.pasts.get(&run.id).copied().unwrap_or_default();
            ended.extend(Ended::current(&run, past, now));
        }
        ended
    }

    fn is_past_unknown(&self, run: &FlowRun) -> bool {
        let known = self.pasts.get(&run.id).map(|past| past.run_count);
        known != run.run_count
    }

    /// Drops what nothing needs any more.
    fn tidy(&mut self, now: Timestamp) {
        let (active, scheduled) = (&self.active, &self.scheduled);
        let again = |id: &Id| active.contains_key(id) || scheduled.contains_key(id);
        self.windows.tidy(now, again);
        let unresolved = &self.unresolved;
        self.pasts
            .retain(|id, _| again(id) || unresolved.contains(id));
    }
}
