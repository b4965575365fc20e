//! The publisher: renders and pushes metrics at its own pace, even if a cycle hangs.
//!
//! It publishes each new state immediately and, if none arrives in time, the last one again.
//! Freshness is computed at that moment: while a cycle hangs, the age of sections grows until their
//! gauges are withheld, on `/metrics` and over OTLP.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tracing::Instrument as _;

use crate::blocking::in_thread;
use crate::core::State;
use crate::core::sections::STALE_AFTER_INTERVALS;
use crate::export::Exporters;
use crate::http::{Published, RequestMetrics};
use crate::metrics::agent::{Checkpoints, CycleCounts, Stats};
use crate::metrics::{self, Kind, Lingering, Options, Reading, View};
use crate::publications::Publications;
use crate::resource_usage::ResourceUsage;
use crate::settings::{Reloads, Settings};
use crate::status;
use crate::status::journal::Journal;

/// The longest time that a publication of a large workspace may take on a busy machine.
const SLOWEST: Duration = Duration::from_secs(30);

/// The data to publish.
#[derive(Debug, Clone)]
pub struct Report {
    /// The state.
    pub state: Arc<State>,
    /// When the state was created.
    pub made: Instant,
    /// The cycles so far.
    pub cycles: CycleCounts,
    /// The checkpoints so far, if they are enabled.
    pub checkpoints: Option<Checkpoints>,
    /// The last hour's cycles, and what fails: for the status page.
    pub journal: Arc<Journal>,
}

/// A workspace whose reports are published.
pub struct Source {
    options: Arc<Options>,
    status: status::Source,
}

impl Source {
    /// The workspace with this name, if there are several, and these settings.
    pub fn new(name: Option<&Arc<str>>, options: Arc<Options>, settings: &Settings) -> Self {
        Source {
            options,
            status: status::Source::new(name, settings),
        }
    }
}

/// Publishes the reports of all workspaces to every exporter.
pub struct Publisher {
    exporters: Arc<Exporters>,
    options: Arc<Options>,
    sources: Vec<Source>,
    lingering: Vec<Lingering>,
    publications: Publications,
    usage: ResourceUsage,
    requests: RequestMetrics,
    status: status::Writer,
    reloads: Reloads,
    started: Instant,
    /// When it last published.
    pub published: Published,
    /// After this time without a new state, the last one is published again.
    patience: Duration,
    /// How long the first new state waits for those of the other workspaces.
    grace: Duration,
}

impl Publisher {
    /// A publisher of the reports of `sources`.
    pub fn new(
        settings: &Settings,
        exporters: Arc<Exporters>,
        publications: Publications,
        options: Arc<Options>,
        sources: Vec<Source>,
        requests: RequestMetrics,
    ) -> Self {
        let interval = settings.sampling.interval;
        let stale_after = interval.saturating_mul(STALE_AFTER_INTERVALS);
        Publisher {
            exporters,
            options,
            lingering: sources.iter().map(|_| Lingering::default()).collect(),
            sources,
            publications,
            usage: ResourceUsage::default(),
            requests,
            status: status::Writer::new(settings),
            reloads: settings.reloads(),
            started: Instant::now(),
            published: Published::new(stale_after.saturating_add(SLOWEST)),
            // Cycles vary in length, so a new state may be slightly late.
            patience: interval.mul_f64(1.25),
            grace: interval.mul_f64(0.25),
        }
    }

    /// The latest status.
    pub fn status(&self) -> status::Latest {
        self.status.latest()
    }

    /// Publishes reports until a sender is dropped.
    pub async fn run(mut self, mut reports: Vec<watch::Receiver<Report>>) -> Self {
        while self.changed(&mut reports).await {
            let current = reports.iter_mut();
            let current: Vec<_> = current
                .map(|report| report.borrow_and_update().clone())
                .collect();
            self.publish(&current).await;
        }
        self
    }

    /// Waits until it is time to publish: each workspace has a new report, or the others are late.
    /// `false` if a sender was dropped.
    async fn changed(&self, reports: &mut [watch::Receiver<Report>]) -> bool {
        let mut end = Instant::now() + self.patience;
        let waiting = reports.iter_mut().map(|report| report.changed());
        let mut waiting: FuturesUnordered<_> = waiting.collect();
        loop {
            match tokio::time::timeout_at(end.into(), waiting.next()).await {
                Ok(Some(Ok(()))) => end = end.min(Instant::now() + self.grace),
                Ok(Some(Err(_))) => return false,
                Ok(None) | Err(_) => return true,
            }
        }
    }

    /// Publishes the report of each workspace.
    pub async fn publish(&mut self, reports: &[Report]) {
        let (number, readings) = self.publication(reports);
        let exporters = Arc::clone(&self.exporters);
        // Rendering tens of thousands of series would block the runtime's threads. The pool for
        // blocking tasks may be used up, for example if names are not resolved.
        let published = in_thread("publish", move || exporters.publish(number, readings))
            .instrument(tracing::debug_span!("publish"))
            .await;
        match published {
            Ok(()) => self.published.note(),
            Err(error) => tracing::error!(%error, "cannot publish the metrics"),
        }
    }

    /// Publishes the last reports and shuts the exporters down, within `patience`.
    pub async fn finish(mut self, reports: &[Report], patience: Duration) {
        let (number, mut readings) = self.publication(reports);
        // Gauges end with the process over OTLP, as they do on `/metrics`: the next process does
        // not know which series this one has exported. Counters are kept, so that receivers get
        // their last values.
        for reading in &mut readings {
            if reading.family.kind == Kind::Gauge {
                reading.points = Arc::default();
            }
        }
        self.exporters.shutdown(number, readings, patience).await;
    }

    /// The number and the readings of a publication.
    fn publication(&mut self, reports: &[Report]) -> (u64, Vec<Reading>) {
        let states = reports.iter().map(|report| report.state.number);
        let number = self.publications.add(states.collect());
        let agent = Stats {
            reloads: self.reloads.read(),
            started: self.started,
            published: SystemTime::now(),
            process: self.usage.read(),
            exports: self.exporters.pushes(),
            points: self.exporters.points(),
            active_requests: self.requests.active(),
        };
        let all = || reports.iter().zip(&self.sources);
        let snapshots: Vec<_> = all()
            .map(|(report, source)| {
                let snapshot = report.state.snapshot.aged(report.made.elapsed());
                let tags = source.options.tag_attributes(&snapshot);
                (snapshot, tags)
            })
            .collect();
        let views: Vec<_> = all()
            .zip(&snapshots)
            .map(|((report, source), (snapshot, tags))| View {
                snapshot,
                cycles: report.cycles,
                checkpoints: report.checkpoints.as_ref(),
                ..View::of(&report.state, &source.options, tags)
            })
            .collect();
        let uptime = self.started.elapsed();
        let readings = metrics::read(&views, &mut self.lingering, &agent, &self.options, uptime);
        let inputs = all().zip(&views);
        let inputs: Vec<_> = inputs
            .map(|((report, source), view)| status::Input {
                source: &source.status,
                view,
                journal: &report.journal,
            })
            .collect();
        self.status.write(
            &inputs,
            &status::Common {
                agent: &agent,
                readings: &readings,
                delivered: self.exporters.delivered(),
            },
        );
        (number, readings)
    }
}
