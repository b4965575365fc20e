//! The agent: wires the modules, and runs the loop: tick, sample, read, publish.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tracing::Instrument as _;

use crate::checkpoint::{self, Keeper};
use crate::core::events::Event;
use crate::core::sections::{STALE_AFTER_INTERVALS, Section};
use crate::core::{Config, Core, Cycle, Outcome, State};
use crate::export::prometheus::Page;
use crate::export::{self, Exporters, Recorder};
use crate::http::{self, Readiness, RequestMetrics};
use crate::metrics::agent::{
    CYCLE_DURATION, REQUEST_DURATION, SECTION_DURATION, SERVED_DURATION, Stats,
};
use crate::metrics::{self, Options, Reading, Source, TagAttributes, View};
use crate::prefect::{self, Client, RequestObserver, RequestRecord};
use crate::resource_usage::ResourceUsage;
use crate::sampler::Sampler;
use crate::settings::{self, Settings};
use crate::shutdown::Shutdown;

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
    /// `STATE_DIR` cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
}

/// One agent.
pub struct Agent {
    sampler: Sampler,
    keeper: Keeper,
    exporters: Arc<Exporters>,
    options: Options,
    state: Arc<State>,
    tags: TagAttributes,
    usage: ResourceUsage,
    requests: RequestMetrics,
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
        let (keeper, saved) = Keeper::open(settings)?;
        let config = core_config(settings, &options);
        let deadline = Sampler::deadline(&config, settings.prefect.request_timeout);
        let mut sampler = Sampler::new(Core::new(config, saved), client, deadline);
        let mut agent = Agent {
            state: sampler.state(),
            sampler,
            keeper,
            requests: RequestMetrics::new(
                exporters.recorder(&SERVED_DURATION),
                options.common().to_vec(),
            ),
            exporters: Arc::new(exporters),
            options,
            tags: TagAttributes::new(),
            usage: ResourceUsage::default(),
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
        let router = http::router(self.page(), self.readiness.clone(), self.requests.clone());
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
        let last = self.sampler.end(&mut self.keeper).await;
        self.record_events(&last.events);
        let mut state = State::clone(&last.state);
        state.snapshot.up |= self.state.snapshot.up;
        self.state = Arc::new(state);
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
        let cycle = self.sampler.cycle(&mut self.keeper);
        let cycle = cycle.instrument(span.clone()).await;
        let outcome = cycle.outcome();
        span.record("outcome", outcome.as_str());
        self.stats.count_cycle(outcome);
        let duration = started.elapsed();
        self.tags = self.options.tag_attributes(&cycle.state.snapshot);
        self.record(&cycle, duration);
        if cycle.state.snapshot.up {
            self.readiness.good_cycle();
        }
        tracing::debug!(
            outcome = outcome.as_str(),
            duration_ms = started.elapsed().as_millis() as u64,
            deployments = cycle.state.snapshot.inventory.deployments.len(),
            unfinished = cycle.state.snapshot.unfinished.len(),
            events = cycle.events.len(),
            "cycle"
        );
        self.condition.note(&cycle);
        self.state = cycle.state;
        self.publish().instrument(span).await;
        self.sampler.mark_shown(self.state.number);
    }

    /// Records what the cycle brought into the histograms.
    fn record(&self, cycle: &Cycle, duration: Duration) {
        let record = |family, value: &str, duration: Duration| {
            let attributes = self.options.counted(family, &[Arc::from(value)], &[]);
            let recorder = self.exporters.recorder(family);
            recorder.record(duration.as_secs_f64(), &attributes);
        };
        record(&CYCLE_DURATION, cycle.outcome().as_str(), duration);
        for (section, duration) in &cycle.durations {
            record(&SECTION_DURATION, section.as_str(), *duration);
        }
        self.record_events(&cycle.events);
    }

    fn record_events(&self, events: &[Event]) {
        for family in self.options.families() {
            let Source::Measured(measure) = family.source else {
                continue;
            };
            let recorder = self.exporters.recorder(family);
            for event in events {
                if let Some((values, seconds)) = measure(event) {
                    let attributes = self.options.counted(family, &values, event.tags());
                    recorder.record(seconds, &attributes);
                }
            }
        }
    }

    fn readings(&mut self) -> Vec<Reading> {
        self.stats.process = self.usage.read();
        self.stats.exports = self.exporters.pushes();
        self.stats.active_requests = self.requests.active();
        metrics::read(&View {
            snapshot: &self.state.snapshot,
            counters: &self.state.counters,
            last_runs: &self.state.last_runs,
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

/// What the core has to know of the settings.
pub fn core_config(settings: &Settings, options: &Options) -> Config {
    let sampling = &settings.sampling;
    Config {
        interval: sampling.interval,
        inventory_interval: sampling.inventory_interval,
        scheduled_lookahead: sampling.scheduled_lookahead,
        offset: sampling.offset,
        failed_runs_offset: sampling.failed_runs_offset,
        catch_up: sampling.catch_up,
        task_runs: sampling.task_runs,
        page_limit: settings.prefect.pagination_limit,
        first_page_only: !settings.prefect.pagination_enabled,
        cardinality_limit: settings.metrics.cardinality_limit,
        tag_keys: options.tag_keys().clone(),
        unused: options.unused_sections(),
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
        if down {
            if was_down != Some(true) {
                note_down(cycle);
            }
            self.failing.clear();
            return;
        }
        if was_down != Some(false) {
            let version = cycle.state.snapshot.version.as_deref().unwrap_or("unknown");
            tracing::info!(version, "Prefect can be read");
        }
        for (section, error) in &cycle.errors {
            if !self.failing.contains(section) {
                tracing::warn!(section = section.as_str(), %error, "a section cannot be read; the others are");
            }
        }
        let failing = cycle.errors.iter().map(|(section, _)| *section).collect();
        for section in self.failing.difference(&failing) {
            tracing::info!(section = section.as_str(), "the section can be read again");
        }
        self.failing = failing;
    }
}

/// One line, however many requests failed.
fn note_down(cycle: &Cycle) {
    let lists = cycle.errors.iter().filter(|(section, _)| section.matters());
    let first = lists.chain(&cycle.errors).next();
    let Some((_, error)) = first else {
        tracing::warn!("Prefect cannot be read: it answers, but with no list");
        return;
    };
    match error.is_not_prefect() {
        true => tracing::warn!(
            %error,
            "PREFECT_API_URL does not lead to the API of Prefect 3; gauges will be withheld, and the agent keeps trying"
        ),
        false => tracing::warn!(
            %error,
            "Prefect cannot be read; its gauges will be withheld, and the agent keeps trying"
        ),
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
