//! The loop that ties the rooms together: tick, sample, read, publish.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tracing::Instrument as _;

use crate::export::prometheus::Page;
use crate::export::{self, Exporters, Recorder};
use crate::http::{self, Readiness, Served};
use crate::memory::Memory;
use crate::metrics::agent::{CYCLE_DURATION, REQUEST_DURATION, SERVED_DURATION, Stats};
use crate::metrics::{
    self, FLOW_RUN_DURATION, FLOW_RUN_START_DELAY, Options, Reading, TASK_RUN_DURATION,
    TagAttributes, View,
};
use crate::prefect::{self, Client, RequestObserver, RequestRecord};
use crate::sampler::{Cycle, Outcome, STALE_AFTER_INTERVALS, Sampler};
use crate::settings::{self, Settings};
use crate::shutdown::Shutdown;
use crate::snapshot::{Section, Snapshot};
use crate::usage::Usage;

/// The end may take five seconds in all.
const LAST_PUSH: Duration = Duration::from_secs(3);
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port cannot be had.
    #[error(
        "METRICS_ADDR and METRICS_PORT: cannot listen on {address}: {reason}; is another process using the port?"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        reason: std::io::Error,
    },
    /// A setting names what is not there.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// An exporter cannot be built.
    #[error(transparent)]
    Export(#[from] export::Error),
    /// The client cannot be built.
    #[error(transparent)]
    Prefect(#[from] prefect::Error),
}

/// One agent.
pub struct Agent {
    sampler: Sampler,
    memory: Memory,
    exporters: Arc<Exporters>,
    recorders: Recorders,
    options: Options,
    snapshot: Snapshot,
    tags: TagAttributes,
    usage: Usage,
    served: Served,
    interval: Duration,
    stats: Stats,
    readiness: Readiness,
    condition: Condition,
    address: SocketAddr,
}

impl Agent {
    /// An agent by `settings` and its port, bound; nothing is asked of Prefect yet.
    ///
    /// # Errors
    ///
    /// When the port is taken, or an exporter's settings do not fit together.
    pub async fn new(settings: &Settings) -> Result<(Self, TcpListener), Error> {
        let options = Options::new(settings)?;
        let address = settings.metrics_address;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|reason| Error::Listen { address, reason })?;
        let address = listener.local_addr().unwrap_or(address);
        let exporters = Exporters::new(settings, &options)?;
        let observer = Arc::new(RequestDuration {
            recorder: exporters.recorder(&REQUEST_DURATION),
            common: options.common().to_vec(),
        });
        let client = Client::new(&settings.prefect, observer)?;
        let sampling = &settings.sampling;
        let (memory, restored) = Memory::new(settings);
        let mut agent = Agent {
            sampler: Sampler::new(
                client,
                sampling.clone(),
                settings.prefect.request_timeout,
                options.sections_left_out(),
                restored,
            ),
            memory,
            recorders: Recorders::new(&exporters),
            served: Served::new(
                exporters.recorder(&SERVED_DURATION),
                options.common().to_vec(),
            ),
            exporters: Arc::new(exporters),
            options,
            snapshot: Snapshot::default(),
            tags: TagAttributes::new(),
            usage: Usage::default(),
            interval: sampling.interval,
            stats: Stats::default(),
            readiness: Readiness::new(
                sampling.interval * STALE_AFTER_INTERVALS + settings.prefect.request_timeout,
            ),
            condition: Condition::default(),
            address,
        };
        agent.publish().await;
        Ok((agent, listener))
    }

    /// Where `/metrics` is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The page of `/metrics`, where it is served.
    pub fn page(&self) -> Option<Page> {
        self.exporters.page()
    }

    /// Runs until `shutdown`: a cycle at once and then every interval. Then one last push.
    pub async fn run(mut self, listener: TcpListener, mut shutdown: Shutdown) {
        let (stop_serving, stopped) = Shutdown::new();
        let router = http::router(self.page(), self.readiness.clone(), self.served.clone());
        let server = tokio::spawn(http::serve(listener, router, stopped));
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = shutdown.wait() => break,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = shutdown.wait() => break,
                () = self.cycle() => {}
            }
        }
        // What came up last is shown at zero still, and no cycle will come after it.
        self.sampler.settle();
        let readings = self.readings();
        self.exporters.update(readings);
        stop_serving.now();
        _ = tokio::time::timeout(LAST_ANSWERS, server).await;
        self.exporters.shutdown(LAST_PUSH).await;
    }

    /// One cycle: sample, read, publish.
    pub async fn cycle(&mut self) {
        let started = Instant::now();
        let span = tracing::debug_span!("cycle", outcome = tracing::field::Empty);
        let cycle = self.sampler.cycle().instrument(span.clone()).await;
        let outcome = cycle.outcome();
        span.record("outcome", outcome.as_str());
        self.stats.count_cycle(outcome);
        let duration = started.elapsed();
        self.tags = self.options.tag_attributes(&cycle.snapshot);
        self.record(&cycle, duration);
        if cycle.snapshot.up {
            self.readiness.good_cycle();
        }
        tracing::debug!(
            outcome = outcome.as_str(),
            duration_ms = started.elapsed().as_millis() as u64,
            deployments = cycle.snapshot.deployments.len(),
            unfinished = cycle.snapshot.unfinished.len(),
            newly_finished = cycle.finished.len(),
            "cycle"
        );
        self.condition.note(&cycle);
        self.snapshot = cycle.snapshot;
        if self.snapshot.up {
            // Before it is published: what has been seen outside, a restart still knows.
            self.memory.keep(&self.sampler).await;
        }
        self.publish().instrument(span).await;
    }

    /// Records what the cycle brought into the histograms.
    fn record(&self, cycle: &Cycle, duration: Duration) {
        let recorders = &self.recorders;
        let tags = &self.tags;
        let outcome = Arc::from(cycle.outcome().as_str());
        let attributes = self.options.series(&CYCLE_DURATION, &[outcome], tags);
        recorders
            .cycle_duration
            .record(duration.as_secs_f64(), &attributes);
        for finished in &cycle.finished {
            let names = [&finished.deployment, &finished.flow].map(Arc::clone);
            let [deployment, flow] = names;
            let state = Arc::from(finished.state_type.as_str());
            if let Some(seconds) = finished.run_time {
                let values = [Arc::clone(&deployment), Arc::clone(&flow), state];
                let attributes = self.options.series(&FLOW_RUN_DURATION, &values, tags);
                recorders.flow_run_duration.record(seconds, &attributes);
            }
            if let Some(seconds) = finished.start_delay() {
                let values = [deployment, flow, finished.run.work_pool_name.label()];
                let attributes = self.options.series(&FLOW_RUN_START_DELAY, &values, tags);
                recorders.start_delay.record(seconds, &attributes);
            }
        }
        for task in &cycle.finished_tasks {
            if let Some(seconds) = task.run_time {
                let values = [Arc::clone(&task.task), Arc::from(task.state_type.as_str())];
                let attributes = self.options.series(&TASK_RUN_DURATION, &values, tags);
                recorders.task_run_duration.record(seconds, &attributes);
            }
        }
    }

    fn readings(&mut self) -> Vec<Reading> {
        self.stats.process = self.usage.read();
        self.stats.exports = self.exporters.pushes();
        self.stats.active_requests = self.served.active();
        metrics::read(&View {
            snapshot: &self.snapshot,
            ledger: self.sampler.ledger(),
            agent: &self.stats,
            options: &self.options,
            tags: &self.tags,
        })
    }

    async fn publish(&mut self) {
        let readings = self.readings();
        let exporters = Arc::clone(&self.exporters);
        // Rendering tens of thousands of series takes its time: not on the runtime's threads.
        let published = tokio::task::spawn_blocking(move || exporters.publish(readings)).await;
        if let Err(error) = published {
            tracing::error!(%error, "the cycle could not be published");
        }
    }
}

/// Where what happens is recorded.
struct Recorders {
    cycle_duration: Recorder,
    flow_run_duration: Recorder,
    start_delay: Recorder,
    task_run_duration: Recorder,
}

impl Recorders {
    fn new(exporters: &Exporters) -> Self {
        Recorders {
            cycle_duration: exporters.recorder(&CYCLE_DURATION),
            flow_run_duration: exporters.recorder(&FLOW_RUN_DURATION),
            start_delay: exporters.recorder(&FLOW_RUN_START_DELAY),
            task_run_duration: exporters.recorder(&TASK_RUN_DURATION),
        }
    }
}

/// What was last said in the log: only changes are.
#[derive(Default)]
struct Condition {
    down: Option<bool>,
    failing: HashSet<Section>,
}

impl Condition {
    /// Says at WARN what fails from this cycle on, and at INFO what works again.
    fn note(&mut self, cycle: &Cycle) {
        let down = cycle.outcome() == Outcome::Failure;
        let was_down = self.down.replace(down);
        match cycle.errors.first() {
            Some((_, error)) if down => {
                if was_down != Some(true) {
                    tracing::warn!(%error, "Prefect cannot be read; its gauges will be withheld, and the agent goes on trying");
                }
                self.failing.clear();
                return;
            }
            _ if was_down != Some(false) => {
                let version = cycle.snapshot.version.as_deref().unwrap_or("unknown");
                tracing::info!(version, "Prefect can be read");
            }
            _ => {}
        }
        for (section, error) in &cycle.errors {
            if !self.failing.contains(section) {
                tracing::warn!(section = section.as_str(), %error, "a section cannot be read; the others go on");
            }
        }
        let failing = cycle.errors.iter().map(|(section, _)| *section).collect();
        for section in self.failing.difference(&failing) {
            tracing::info!(section = section.as_str(), "the section can be read again");
        }
        self.failing = failing;
    }
}

/// Records each request to Prefect.
struct RequestDuration {
    recorder: Recorder,
    common: Vec<KeyValue>,
}

impl RequestObserver for RequestDuration {
    fn on_request(&self, record: &RequestRecord<'_>) {
        let [method, status, template, error_type, address, port] = REQUEST_DURATION.attributes
        else {
            return;
        };
        let mut attributes = vec![
            KeyValue::new(*method, record.method.to_owned()),
            KeyValue::new(*template, record.url_template.to_owned()),
            KeyValue::new(*address, record.server_address.to_owned()),
            KeyValue::new(*port, i64::from(record.server_port)),
        ];
        attributes.extend(
            record
                .status
                .map(|code| KeyValue::new(*status, i64::from(code))),
        );
        attributes.extend(
            record
                .error_type
                .map(|kind| KeyValue::new(*error_type, kind.to_owned())),
        );
        attributes.extend_from_slice(&self.common);
        self.recorder
            .record(record.duration.as_secs_f64(), &attributes);
    }
}
