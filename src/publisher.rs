//! The publisher: renders and pushes metrics at its own pace, even if a cycle hangs.
//!
//! It publishes each new state immediately and, if none arrives in time, the last one again.
//! Freshness is computed at that moment: while a cycle hangs, the age of sections grows until their
//! gauges are withheld, on `/metrics` and over OTLP.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tracing::Instrument as _;

use crate::blocking::in_thread;
use crate::core::State;
use crate::core::sections::STALE_AFTER_INTERVALS;
use crate::export::Exporters;
use crate::http::{Published, RequestMetrics};
use crate::metrics::agent::{Checkpoints, CycleCounts, Stats};
use crate::metrics::{self, Kind, Lingering, Options, Reading, View};
use crate::resource_usage::ResourceUsage;
use crate::settings::Reloads;
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

/// Publishes reports to every exporter.
pub struct Publisher {
    exporters: Arc<Exporters>,
    options: Arc<Options>,
    usage: ResourceUsage,
    requests: RequestMetrics,
    status: status::Writer,
    reloads: Reloads,
    started: Instant,
    lingering: Lingering,
    /// When it last published.
    pub published: Published,
    /// After this time without a new state, the last one is published again.
    patience: Duration,
}

impl Publisher {
    /// A publisher of states that are expected every `interval`.
    pub fn new(
        exporters: Arc<Exporters>,
        options: Arc<Options>,
        requests: RequestMetrics,
        status: status::Writer,
        reloads: Reloads,
        interval: Duration,
    ) -> Self {
        let stale_after = interval.saturating_mul(STALE_AFTER_INTERVALS);
        Publisher {
            exporters,
            options,
            usage: ResourceUsage::default(),
            requests,
            status,
            reloads,
            started: Instant::now(),
            lingering: Lingering::default(),
            published: Published::new(stale_after.saturating_add(SLOWEST)),
            // Cycles vary in length, so a new state may be slightly late.
            patience: interval.mul_f64(1.25),
        }
    }

    /// Publishes reports until their sender is dropped.
    pub async fn run(mut self, mut reports: watch::Receiver<Report>) -> Self {
        loop {
            let changed = tokio::time::timeout(self.patience, reports.changed()).await;
            if let Ok(Err(_)) = changed {
                return self;
            }
            let report = reports.borrow_and_update().clone();
            self.publish(&report).await;
        }
    }

    /// Publishes a report.
    pub async fn publish(&mut self, report: &Report) {
        let (number, readings) = (report.state.number, self.readings(report));
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

    /// Publishes the last report and shuts the exporters down, within `patience`.
    pub async fn finish(mut self, report: &Report, patience: Duration) {
        let mut readings = self.readings(report);
        // Gauges end with the process over OTLP, as they do on `/metrics`: the next process does
        // not know which series this one has exported. Counters are kept, so that receivers get
        // their last values.
        for reading in &mut readings {
            if reading.family.kind == Kind::Gauge {
                reading.points = Arc::default();
            }
        }
        let number = report.state.number;
        self.exporters.shutdown(number, readings, patience).await;
    }

    fn readings(&mut self, report: &Report) -> Vec<Reading> {
        let snapshot = report.state.snapshot.aged(report.made.elapsed());
        let tags = self.options.tag_attributes(&snapshot);
        let stats = Stats {
            cycles: report.cycles,
            checkpoints: report.checkpoints.clone(),
            reloads: self.reloads.read(),
            started: self.started,
            published: SystemTime::now(),
            process: self.usage.read(),
            exports: self.exporters.pushes(),
            points: self.exporters.points(),
            active_requests: self.requests.active(),
        };
        let view = View {
            snapshot: &snapshot,
            ..View::of(&report.state, &stats, &self.options, &tags)
        };
        let readings = metrics::read(&view, &mut self.lingering, self.started.elapsed());
        self.status.write(&status::Input {
            view: &view,
            readings: &readings,
            journal: &report.journal,
            delivered: self.exporters.delivered(),
        });
        readings
    }
}
