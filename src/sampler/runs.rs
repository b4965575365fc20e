//! Flow runs: those that have not ended, those that just ended, and the windows kept of them.
//!
//! Order matters within a cycle. Unfinished runs are read first and finished ones after, so
//! that a run that ends in between shows as finished; one that was unfinished in the last
//! cycle and is in neither list now is looked up by its id.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{OptionFuture, join3};
use jiff::Timestamp;
use tracing::Instrument as _;

use super::{Report, span, within};
use crate::prefect::filter::FlowRuns;
use crate::prefect::list::Order;
use crate::prefect::{Client, Error};
use crate::settings::Sampling;
use crate::snapshot::{FlowRun, Section, StateType, before};

/// How far before the cursor finished runs are asked for again: time for a transaction that
/// was open, a page boundary that moved, a clock that is a little slow.
const OVERLAP: Duration = Duration::from_secs(120);

/// How often the failed-runs window is read anew, so that deleted runs leave it.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(3600);

type Run = Arc<FlowRun>;
type Id = Arc<str>;

/// A run in a final state that was not seen before.
pub type Finished = Arc<FlowRun>;

pub(super) struct Runs {
    lookahead: Option<Duration>,
    windows: Windows,
    active: HashMap<Id, Run>,
    scheduled: HashMap<Id, Run>,
    /// Finished runs of the window, by id.
    finished: HashMap<Id, Run>,
    /// Failed runs of deployments of their own, longer window, by id.
    failed: HashMap<Id, Run>,
    /// (run, final state) of everything that the overlap can bring again.
    seen: HashMap<(Id, Id), Timestamp>,
    /// Everything that ended before it, in the server's time, has been read.
    cursor: Option<Timestamp>,
    reconciled_at: Option<Instant>,
    /// Runs that have vanished and that nobody could ask about yet.
    unresolved: Vec<Run>,
}

impl Runs {
    pub(super) fn new(settings: &Sampling) -> Self {
        Runs {
            lookahead: settings.scheduled_lookahead,
            windows: Windows {
                offset: settings.offset,
                failed_offset: settings.failed_runs_offset,
            },
            active: HashMap::new(),
            scheduled: HashMap::new(),
            finished: HashMap::new(),
            failed: HashMap::new(),
            seen: HashMap::new(),
            cursor: None,
            reconciled_at: None,
            unresolved: Vec::new(),
        }
    }

    /// Reads what changed since the last cycle.
    pub(super) async fn refresh(
        &mut self,
        client: &Client,
        deadline: Duration,
    ) -> (Report, Vec<Finished>) {
        let mut report = Report::default();
        let whole = self
            .reconciled_at
            .is_none_or(|at| at.elapsed() >= RECONCILE_INTERVAL);
        let mut candidates = self
            .read_unfinished(client, whole, deadline, &mut report)
            .await;
        let finished = self.read_finished(client, whole);
        let finished = read(Section::FinishedRuns, deadline, finished).await;
        let Some(finished) = report.take(Section::FinishedRuns, finished) else {
            // What has vanished may just be finished: asked for when that list can be read.
            self.unresolved = candidates;
            return (report, Vec::new());
        };
        if whole {
            if !report.failed(Section::FailedRuns) {
                self.reconciled_at = Some(Instant::now());
            }
        } else if self.windows.failed_offset.is_some() {
            // In between two readings of its own, the window lives on what finished.
            report.read.push(Section::FailedRuns);
        }
        let mut news = self.absorb(finished);
        candidates.retain(|run| !self.finished.contains_key(&run.id));
        let vanished = within(deadline, look_up(client, &candidates)).await;
        news.extend(self.settle(candidates, vanished));
        self.forget(client.clock().now());
        (report, news)
    }

    /// Reads the runs under way, the scheduled ones and, for a `whole` reading, the window of
    /// failed ones. Returns the runs that have vanished since.
    async fn read_unfinished(
        &mut self,
        client: &Client,
        whole: bool,
        deadline: Duration,
        report: &mut Report,
    ) -> Vec<Run> {
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
        let mut candidates = self.candidates(client.clock().now());
        if let Some(active) = report.take(Section::ActiveRuns, active) {
            self.active = by_id(active);
        }
        if let Some(scheduled) = report.take(Section::ScheduledRuns, scheduled) {
            self.scheduled = by_id(scheduled);
        }
        if let Some(failed) = failed.and_then(|failed| report.take(Section::FailedRuns, failed)) {
            self.failed = by_id(failed);
        }
        candidates.retain(|run| {
            !self.active.contains_key(&run.id) && !self.scheduled.contains_key(&run.id)
        });
        candidates
    }

    /// Ids of the deployments and flows that the runs name.
    pub(super) fn references(&self) -> (HashSet<Id>, HashSet<Id>) {
        let runs = || {
            let unfinished = self.active.values().chain(self.scheduled.values());
            unfinished
                .chain(self.finished.values())
                .chain(self.failed.values())
        };
        (
            runs().filter_map(|run| run.deployment_id.clone()).collect(),
            runs().filter_map(|run| run.flow_id.clone()).collect(),
        )
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

    /// The window of finished runs and that of failed ones, as of `now`.
    pub(super) fn windows(&self, now: Timestamp) -> (Vec<Run>, Vec<Run>) {
        let finished = self
            .finished
            .values()
            .filter(|run| self.windows.have_finished(run, now));
        let failed = self
            .failed
            .values()
            .filter(|run| self.windows.have_failed(run, now));
        (finished.cloned().collect(), failed.cloned().collect())
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
    async fn read_finished(&mut self, client: &Client, whole: bool) -> Result<Vec<FlowRun>, Error> {
        let now = client.clock().now();
        let window = before(now, self.windows.offset);
        let since = self
            .cursor
            .map_or(window, |cursor| before(cursor, OVERLAP).min(now));
        let ended = FlowRuns::default()
            .of_types(&StateType::FINAL)
            .ended_since(since);
        let mut runs = list(client, ended, Order::EndTime).await?;
        if whole {
            let started = FlowRuns::default()
                .of_types(&StateType::FINAL)
                .started_or_expected_since(window);
            runs.extend(list(client, started, Order::Id).await?);
        }
        self.cursor = Some(now);
        Ok(runs)
    }

    /// Unfinished runs of the last cycle that may be gone now: those under way, and scheduled
    /// ones whose time has come.
    fn candidates(&mut self, now: Timestamp) -> Vec<Run> {
        let due = |run: &&Run| {
            run.start_time.is_some() || run.expected_start_time.is_some_and(|time| time <= now)
        };
        let known = self
            .active
            .values()
            .chain(self.scheduled.values().filter(due));
        let mut candidates: Vec<_> = known.cloned().collect();
        candidates.append(&mut self.unresolved);
        candidates
    }

    /// Takes finished runs in, and returns those that are new.
    fn absorb(&mut self, runs: Vec<FlowRun>) -> Vec<Finished> {
        let mut news = Vec::new();
        for run in runs {
            let run = Arc::new(run);
            if !run.is_final() {
                continue;
            }
            self.active.remove(&run.id);
            self.scheduled.remove(&run.id);
            if StateType::FAILURE.map(Some).contains(&run.state_type) && run.deployment_id.is_some()
            {
                self.failed.insert(Arc::clone(&run.id), Arc::clone(&run));
            } else {
                self.failed.remove(&run.id);
            }
            self.finished.insert(Arc::clone(&run.id), Arc::clone(&run));
            if let (Some(state), Some(end)) = (&run.state_id, run.end_time)
                && self
                    .seen
                    .insert((Arc::clone(&run.id), Arc::clone(state)), end)
                    .is_none()
            {
                news.push(run);
            }
        }
        news
    }

    /// Puts vanished runs where the server says they are; where it does not answer, they are
    /// asked for again.
    fn settle(
        &mut self,
        candidates: Vec<Run>,
        answer: Result<Vec<FlowRun>, Error>,
    ) -> Vec<Finished> {
        let found = match answer {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "vanished runs could not be looked up");
                self.unresolved = candidates;
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

    /// Drops what no window and no overlap needs any more.
    fn forget(&mut self, now: Timestamp) {
        let again =
            |run: &Run| self.active.contains_key(&run.id) || self.scheduled.contains_key(&run.id);
        // A run that is under way again has no end any more.
        let retried: HashSet<Id> = self
            .finished
            .values()
            .chain(self.failed.values())
            .filter(|run| again(run))
            .map(|run| Arc::clone(&run.id))
            .collect();
        let windows = self.windows;
        self.finished
            .retain(|id, run| !retried.contains(id) && windows.have_finished(run, now));
        self.failed
            .retain(|id, run| !retried.contains(id) && windows.have_failed(run, now));
        // The first cycle reads the whole window; later ones the overlap.
        let horizon = before(now, OVERLAP * 2).min(before(now, self.windows.offset));
        let windowed = &self.finished;
        self.seen
            .retain(|(id, _), end| *end >= horizon || windowed.contains_key(id));
    }
}

/// The windows of the compatible families.
#[derive(Clone, Copy)]
struct Windows {
    /// Of finished runs.
    offset: Duration,
    /// Of failed ones; `None` is off.
    failed_offset: Option<Duration>,
}

impl Windows {
    fn have_finished(&self, run: &FlowRun, now: Timestamp) -> bool {
        let since = before(now, self.offset);
        let within = |time: Option<Timestamp>| time.is_some_and(|time| time >= since);
        within(run.end_time) || within(run.started_or_expected())
    }

    fn have_failed(&self, run: &FlowRun, now: Timestamp) -> bool {
        let since = self.failed_offset.map(|offset| before(now, offset));
        since.is_some_and(|since| {
            run.started_or_expected()
                .is_some_and(|start| start >= since)
        })
    }
}

async fn read_active(client: &Client) -> Result<Vec<FlowRun>, Error> {
    let filter = FlowRuns::default().of_types(&StateType::ACTIVE);
    list(client, filter, Order::Id).await
}

async fn read_failed(client: &Client, offset: Duration) -> Result<Vec<FlowRun>, Error> {
    let filter = FlowRuns::default()
        .of_types(&StateType::FAILURE)
        .of_deployments()
        .started_or_expected_since(before(client.clock().now(), offset));
    list(client, filter, Order::Id).await
}

fn list(
    client: &Client,
    filter: FlowRuns,
    order: Order,
) -> impl Future<Output = Result<Vec<FlowRun>, Error>> {
    let body = filter.into_body();
    async move { client.list(&body, order).await }
}

async fn look_up(client: &Client, runs: &[Run]) -> Result<Vec<FlowRun>, Error> {
    let ids: Vec<Id> = runs.iter().map(|run| Arc::clone(&run.id)).collect();
    let body = |ids: &[Id]| {
        FlowRuns::default()
            .with_ids(ids.iter().map(|id| &**id))
            .into_body()
    };
    client.by_id(&ids, body).await
}

async fn read<T>(
    section: Section,
    deadline: Duration,
    reading: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    within(deadline, reading).instrument(span(section)).await
}

fn by_id(runs: Vec<FlowRun>) -> HashMap<Id, Run> {
    runs.into_iter()
        .map(|run| (Arc::clone(&run.id), Arc::new(run)))
        .collect()
}
