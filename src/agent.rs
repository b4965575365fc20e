//! The loop that ties the rooms together: tick, sample, read, publish.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tracing::Instrument as _;

use crate::export::prometheus::Page;
use crate::export::{self, Exporters};
use crate::http::{self, Readiness};
use crate::metrics::agent::{CYCLE_DURATION, REQUEST_DURATION, Stats};
use crate::metrics::{self, Options, View};
use crate::prefect::{self, Client, RequestObserver, RequestRecord};
use crate::sampler::{Cycle, Outcome, STALE_AFTER_INTERVALS, Sampler};
use crate::settings::Settings;
use crate::shutdown::Shutdown;
use crate::snapshot::{Section, Snapshot};

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
    exporters: Arc<Exporters>,
    cycle_duration: Option<Histogram<f64>>,
    options: Options,
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
        let address = settings.metrics_address;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|reason| Error::Listen { address, reason })?;
        let address = listener.local_addr().unwrap_or(address);
        let observer = Arc::new(RequestDuration::default());
        let client = Client::new(
            &settings.prefect,
            Arc::clone(&observer) as Arc<dyn RequestObserver>,
        )?;
        let exporters = Exporters::new(settings)?;
        if let Some(histogram) = exporters.histogram(&REQUEST_DURATION) {
            _ = observer.0.set(histogram);
        }
        let sampling = &settings.sampling;
        let agent = Agent {
            sampler: Sampler::new(client, sampling.clone(), settings.prefect.request_timeout),
            cycle_duration: exporters.histogram(&CYCLE_DURATION),
            exporters: Arc::new(exporters),
            options: Options {
                flow_run_name_label: settings.flow_run_name_label,
                offset: sampling.offset,
                failed_runs_limit: sampling.failed_runs_limit,
                cardinality_limit: settings.cardinality_limit,
            },
            interval: sampling.interval,
            stats: Stats::default(),
            readiness: Readiness::new(
                sampling.interval * STALE_AFTER_INTERVALS + settings.prefect.request_timeout,
            ),
            condition: Condition::default(),
            address,
        };
        agent.publish(&Snapshot::default()).await;
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
        let router = http::router(self.page(), self.readiness.clone());
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
        if let Some(histogram) = &self.cycle_duration {
            histogram.record(
                started.elapsed().as_secs_f64(),
                &[KeyValue::new(
                    CYCLE_DURATION.attributes[0],
                    outcome.as_str(),
                )],
            );
        }
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
        self.publish(&cycle.snapshot).instrument(span).await;
    }

    async fn publish(&self, snapshot: &Snapshot) {
        let readings = metrics::read(&View {
            snapshot,
            agent: &self.stats,
            options: &self.options,
        });
        let exporters = Arc::clone(&self.exporters);
        // Rendering tens of thousands of series takes its time: not on the runtime's threads.
        let published = tokio::task::spawn_blocking(move || exporters.publish(readings)).await;
        if let Err(error) = published {
            tracing::error!(%error, "the cycle could not be published");
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
#[derive(Default)]
struct RequestDuration(OnceLock<Histogram<f64>>);

impl RequestObserver for RequestDuration {
    fn on_request(&self, record: &RequestRecord<'_>) {
        let Some(histogram) = self.0.get() else {
            return;
        };
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
        histogram.record(record.duration.as_secs_f64(), &attributes);
    }
}
