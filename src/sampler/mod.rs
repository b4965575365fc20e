//! What is asked in a cycle, and how it is asked cheaply.
//!
//! A cycle first asks for the server's version: one cheap request that tells whether Prefect
//! answers, and what time it is there. Then the inventory (on its own interval) and the runs
//! are read side by side. A section that fails keeps what it had; the others go on.

mod ended;
mod inventory;
mod queries;
mod runs;
mod tasks;
mod windows;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join;
use tracing::Instrument as _;

use crate::ledger::checkpoint::Restored;
use crate::ledger::{Finished, FinishedTask, Ledger};
use crate::prefect::{Client, Error};
use crate::settings::Sampling;
use crate::snapshot::{Freshness, Section, Snapshot, before};
use inventory::Inventory;
use runs::Runs;

/// A section is stale after so many of its intervals.
pub const STALE_AFTER_INTERVALS: u32 = 3;

/// What a cycle brought.
#[derive(Debug)]
pub struct Cycle {
    /// The workspace as it is now known.
    pub snapshot: Snapshot,
    /// Final states of runs that were counted in this cycle: each (run, final state) once.
    pub finished: Vec<Finished>,
    /// The same of task runs.
    pub finished_tasks: Vec<FinishedTask>,
    /// The sections that could not be read.
    pub errors: Vec<(Section, Error)>,
    /// Sections read or tried.
    pub tried: usize,
}

impl Cycle {
    /// How it went: the attribute `outcome`.
    pub fn outcome(&self) -> Outcome {
        match self.errors.len() {
            0 => Outcome::Success,
            failed if failed < self.tried && self.snapshot.up => Outcome::Partial,
            _ => Outcome::Failure,
        }
    }
}

/// How a cycle went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every section that was due was read.
    Success,
    /// Some were not.
    Partial,
    /// Prefect could not be read.
    Failure,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 3] = [Outcome::Success, Outcome::Partial, Outcome::Failure];

    /// The value of the attribute `outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Partial => "partial",
            Outcome::Failure => "failure",
        }
    }
}

/// What the sections of a cycle report to.
#[derive(Default)]
struct Report {
    read: Vec<Section>,
    errors: Vec<(Section, Error)>,
}

impl Report {
    /// Notes how `section` went, and hands on what it brought.
    fn take<T>(&mut self, section: Section, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => {
                self.read.push(section);
                Some(value)
            }
            Err(error) => {
                self.errors.push((section, error));
                None
            }
        }
    }

    fn failed(&self, section: Section) -> bool {
        self.errors.iter().any(|(failed, _)| *failed == section)
    }

    fn merge(&mut self, other: Report) {
        self.read.extend(other.read);
        self.errors.extend(other.errors);
    }
}

/// Samples one Prefect API.
pub struct Sampler {
    client: Client,
    settings: Sampling,
    deadline: Duration,
    version: Option<Arc<str>>,
    inventory: Inventory,
    runs: Runs,
    ledger: Ledger,
    started: Instant,
    read_at: HashMap<Section, Instant>,
}

/// What a cycle counted.
#[derive(Default)]
struct News {
    finished: Vec<Finished>,
    finished_tasks: Vec<FinishedTask>,
}

impl Sampler {
    /// A sampler that asks `client` and goes on from what was `restored`; no request takes
    /// longer than `request_timeout`. Nothing is asked for the sections `left_out`, as far as
    /// the others can do without them.
    pub fn new(
        client: Client,
        settings: Sampling,
        request_timeout: Duration,
        left_out: Vec<Section>,
        restored: Restored,
    ) -> Self {
        // A server that hangs must not hold a cycle up for all its retries: alerts wait for it.
        let deadline = settings.interval.max(request_timeout) * 2;
        Sampler {
            runs: Runs::new(&settings, restored.unfinished),
            ledger: restored.ledger,
            started: Instant::now(),
            client,
            settings,
            deadline,
            version: None,
            inventory: Inventory::new(left_out),
            read_at: HashMap::new(),
        }
    }

    /// What happened so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Ids of the runs whose end is awaited.
    pub fn awaited(&self) -> Vec<Arc<str>> {
        self.runs.awaited()
    }

    /// Takes what was counted so far for published: series that came up last show what they
    /// count from now on.
    pub fn settle(&mut self) {
        self.ledger.settle();
    }

    /// Reads what is due.
    pub async fn cycle(&mut self) -> Cycle {
        let mut report = Report::default();
        let mut news = News::default();
        self.ledger.settle();
        let probe = self.client.version();
        let probe = within(self.deadline / 2, probe)
            .instrument(span(Section::Server))
            .await;
        let unreachable = probe
            .as_ref()
            .err()
            .filter(|error| error.concerns_whole_server())
            .cloned();
        if let Some(version) = report.take(Section::Server, probe) {
            self.version = version;
        }
        match unreachable {
            Some(error) => {
                let due = self.due();
                report
                    .errors
                    .extend(due.into_iter().map(|section| (section, error.clone())));
            }
            None => news = self.sections(&mut report).await,
        }
        for section in &report.read {
            self.read_at.insert(*section, Instant::now());
        }
        let snapshot = self.snapshot(!report.read.is_empty());
        if snapshot.up {
            self.tidy(&snapshot);
        }
        Cycle {
            finished: news.finished,
            finished_tasks: news.finished_tasks,
            snapshot,
            tried: report.read.len() + report.errors.len(),
            errors: report.errors,
        }
    }

    fn due(&self) -> Vec<Section> {
        let inventory = self.inventory.is_due(self.settings.inventory_interval);
        let mut due: Vec<_> = Section::ALL
            .into_iter()
            .filter(|section| inventory || !section.is_inventory())
            .collect();
        due.retain(|section| match section {
            Section::Server => false,
            Section::FailedRuns => self.settings.failed_runs_offset.is_some(),
            Section::TaskRuns => self.settings.task_runs,
            section => self.inventory.is_wanted(*section),
        });
        due
    }

    async fn sections(&mut self, report: &mut Report) -> News {
        let (client, deadline) = (&self.client, self.deadline);
        self.ledger
            .begin(before(client.clock().now(), self.started.elapsed()));
        let (inventory, (runs, ended)) = join(
            self.inventory
                .refresh(client, self.settings.inventory_interval, deadline),
            self.runs.refresh(client, &mut self.ledger, deadline),
        )
        .await;
        report.merge(inventory);
        report.merge(runs);
        let (deployments, flows) = self.runs.references(&ended);
        self.inventory
            .fetch_missing(client, deployments, flows, deadline)
            .await;
        let mut news = News::default();
        let now = client.clock().now();
        for ended in ended {
            // A name that could not be looked up: the run is counted when it can.
            let Some(names) = self.inventory.names(client, &ended.run) else {
                self.runs.again(&ended.run);
                continue;
            };
            let finished = ended.named(names);
            if self.ledger.count(&finished, now) {
                news.finished.push(finished);
            }
        }
        if self.settings.task_runs {
            let catch_up = self.settings.catch_up;
            let tasks = &mut news.finished_tasks;
            let read = tasks::refresh(client, &mut self.ledger, catch_up, deadline, tasks)
                .instrument(span(Section::TaskRuns))
                .await;
            report.take(Section::TaskRuns, read);
        }
        news
    }

    /// Forgets what cannot be read again.
    fn tidy(&mut self, snapshot: &Snapshot) {
        let cursors = [self.ledger.cursor(), self.ledger.task_cursor()];
        if let Some(oldest) = cursors.into_iter().flatten().min() {
            // The overlap twice: the next cycle reads from the first one on.
            self.ledger
                .tidy(snapshot, before(oldest, runs::OVERLAP * 2));
        }
    }

    fn snapshot(&self, up: bool) -> Snapshot {
        let now = self.client.clock().now();
        let (finished, failed) = self.runs.windows(now);
        Snapshot {
            now,
            up,
            version: self.version.clone(),
            freshness: self.freshness(),
            deployments: Arc::clone(&self.inventory.deployments),
            flows: Arc::clone(&self.inventory.flows),
            work_pools: Arc::clone(&self.inventory.work_pools),
            work_queues: Arc::clone(&self.inventory.work_queues),
            workers: Arc::clone(&self.inventory.workers),
            global_limits: Arc::clone(&self.inventory.global_limits),
            tag_limits: Arc::clone(&self.inventory.tag_limits),
            automations: Arc::clone(&self.inventory.automations),
            run_history: Arc::clone(&self.inventory.run_history),
            unfinished: self.runs.unfinished(),
            finished,
            failed,
        }
    }

    fn freshness(&self) -> HashMap<Section, Freshness> {
        let age = |(section, read_at): (&Section, &Instant)| {
            let interval = match section.is_inventory() {
                true => self.settings.inventory_interval.max(self.settings.interval),
                false => self.settings.interval,
            };
            let age = read_at.elapsed();
            let stale = age > interval * STALE_AFTER_INTERVALS;
            (*section, Freshness { age, stale })
        };
        self.read_at.iter().map(age).collect()
    }
}

fn span(section: Section) -> tracing::Span {
    tracing::debug_span!("section", section = section.as_str())
}

/// Gives up on `reading` when the cycle's time is over.
async fn within<T>(
    deadline: Duration,
    reading: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(deadline, reading)
        .await
        .unwrap_or(Err(Error::Deadline(deadline)))
}
