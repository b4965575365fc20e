//! What is asked in a cycle, and how it is asked cheaply.
//!
//! A cycle first asks for the server's version: one cheap request that tells whether Prefect
//! answers, and what time it is there. Then the inventory (on its own interval) and the runs
//! are read side by side. A section that fails keeps what it had; the others go on.

mod inventory;
mod runs;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join;
use tracing::Instrument as _;

use crate::prefect::{Client, Error};
use crate::settings::Sampling;
use crate::snapshot::{Freshness, Section, Snapshot};
use inventory::Inventory;
pub use runs::Finished;
use runs::Runs;

/// A section is stale after so many of its intervals.
pub const STALE_AFTER_INTERVALS: u32 = 3;

/// What a cycle brought.
#[derive(Debug)]
pub struct Cycle {
    /// The workspace as it is now known.
    pub snapshot: Snapshot,
    /// Runs that were first seen in a final state in this cycle: each (run, final state) once.
    pub finished: Vec<Finished>,
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
    read_at: HashMap<Section, Instant>,
}

impl Sampler {
    /// A sampler that asks `client`; no request takes longer than `request_timeout`.
    pub fn new(client: Client, settings: Sampling, request_timeout: Duration) -> Self {
        // A server that hangs must not hold a cycle up for all its retries: alerts wait for it.
        let deadline = settings.interval.max(request_timeout) * 2;
        Sampler {
            runs: Runs::new(&settings),
            client,
            settings,
            deadline,
            version: None,
            inventory: Inventory::default(),
            read_at: HashMap::new(),
        }
    }

    /// The client that it asks.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Reads what is due.
    pub async fn cycle(&mut self) -> Cycle {
        let mut report = Report::default();
        let mut finished = Vec::new();
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
            None => finished = self.sections(&mut report).await,
        }
        for section in &report.read {
            self.read_at.insert(*section, Instant::now());
        }
        Cycle {
            finished,
            snapshot: self.snapshot(!report.read.is_empty()),
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
            _ => true,
        });
        due
    }

    async fn sections(&mut self, report: &mut Report) -> Vec<Finished> {
        let (client, deadline) = (&self.client, self.deadline);
        let (inventory, (runs, finished)) = join(
            self.inventory
                .refresh(client, self.settings.inventory_interval, deadline),
            self.runs.refresh(client, deadline),
        )
        .await;
        report.merge(inventory);
        report.merge(runs);
        let (deployments, flows) = self.runs.references();
        self.inventory
            .fetch_missing(client, deployments, flows, deadline)
            .await;
        finished
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
