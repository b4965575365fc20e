//! The cycles: read Prefect, count events, write the checkpoint, and report the new state.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use opentelemetry::KeyValue;
use tracing::Instrument as _;

use crate::checkpoint;
use crate::core::sections::{STALE_AFTER_INTERVALS, Section};
use crate::core::version;
use crate::core::{Config, Core, Cycle, Outcome, State};
use crate::export::{Exporters, Forgotten, Recorder};
use crate::http::Readiness;
use crate::keeper::Keeper;
use crate::metrics::Options;
use crate::metrics::agent::{CYCLE_DURATION, CycleCounts, REQUEST_DURATION, SECTION_DURATION};
use crate::prefect::objects::null;
use crate::prefect::{self, Client, RequestObserver, RequestRecord};
use crate::publications::Publications;
use crate::publisher::Report;
use crate::sampler::Sampler;
use crate::settings::Settings;
use crate::status::journal::{self, Calls, Journal};

/// Why cycles cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client cannot be built.
    #[error(transparent)]
    Prefect(#[from] prefect::Error),
    /// `STATE_DIR` cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
}

/// An exporter is not in use if it has delivered nothing for this long and for four intervals.
const IN_USE: Duration = Duration::from_secs(120);

/// What the cycles of all workspaces share.
#[derive(Clone)]
pub struct Shared {
    /// The exporters.
    pub exporters: Arc<Exporters>,
    /// What has been published.
    pub publications: Publications,
    /// Whether a recent cycle could read Prefect.
    pub readiness: Readiness,
}

impl Shared {
    /// For the cycles of these settings: none of them has read Prefect.
    pub fn new(settings: &Settings, exporters: Arc<Exporters>) -> Self {
        let stale_after = settings
            .sampling
            .interval
            .saturating_mul(STALE_AFTER_INTERVALS);
        let all = settings.each().into_iter();
        let longest = all
            .map(|(_, settings)| settings.prefect.request_timeout)
            .max();
        Shared {
            exporters,
            publications: Publications::default(),
            readiness: Readiness::new(stale_after.saturating_add(longest.unwrap_or_default())),
        }
    }
}

/// Runs the cycles of a workspace, one after the other.
pub struct Cycles {
    sampler: Sampler,
    keeper: Keeper,
    shared: Shared,
    /// The place of the workspace in a publication.
    place: usize,
    options: Arc<Options>,
    counts: CycleCounts,
    condition: Condition,
    in_use: Duration,
    /// The state after the last cycle, if the histogram series of its deleted deployments could not
    /// be dropped yet.
    deleted: Option<Arc<State>>,
    /// Whether the last cycle could read Prefect.
    up: bool,
    journal: Journal,
    calls: Arc<Calls>,
}

impl Cycles {
    /// Creates the cycles of the workspace at `place` according to its `settings`, resuming from the
    /// checkpoint. No request is sent to Prefect yet.
    ///
    /// # Errors
    ///
    /// If the client cannot be built, or `STATE_DIR` cannot be used.
    pub async fn new(
        settings: &Settings,
        options: Arc<Options>,
        shared: Shared,
        place: usize,
    ) -> Result<Self, Error> {
        let calls = Arc::new(Calls::default());
        let observer = Arc::new(Requests {
            calls: Arc::clone(&calls),
            recorder: shared.exporters.recorder(&REQUEST_DURATION),
            common: options.common().to_vec(),
        });
        let client = Client::new(&settings.prefect, observer)?;
        let (keeper, saved) = Keeper::open(settings).await?;
        let config = core_config(settings, &options);
        let request_timeout = settings.prefect.request_timeout;
        let deadline = Sampler::deadline(&config, request_timeout);
        let interval = config.interval;
        Ok(Cycles {
            sampler: Sampler::new(Core::new(config, saved), client, deadline),
            keeper,
            shared,
            place,
            options,
            counts: CycleCounts::default(),
            condition: Condition::default(),
            in_use: IN_USE.max(interval.saturating_mul(4)),
            deleted: None,
            up: false,
            journal: Journal::new(interval),
            calls,
        })
    }

    /// The report before the first cycle, from the checkpoint.
    pub fn restored(&mut self) -> Report {
        let state = self.sampler.state();
        self.report(state)
    }

    /// Runs one cycle and returns the report after it. By then, the checkpoint contains everything
    /// that was counted.
    pub async fn next(&mut self) -> Report {
        let started = Instant::now();
        let span = tracing::debug_span!("cycle", outcome = tracing::field::Empty);
        let shown = self.shared.exporters.shown(self.in_use);
        let publications = &self.shared.publications;
        self.sampler
            .mark_shown(publications.state(shown, self.place));
        if let Some(state) = self.deleted.take() {
            // Before the other workspaces measure more that has not been delivered.
            self.forget_deleted(&state, shown);
        }
        let cycle = self.sampler.cycle(&mut self.keeper);
        let cycle = cycle.instrument(span.clone()).await;
        let outcome = cycle.outcome();
        span.record("outcome", outcome.as_str());
        self.counts.count(outcome);
        // Before the events of the cycle are measured: their series are kept.
        if self.forget_deleted(&cycle.state, shown) == Forgotten::NotYet {
            self.deleted = Some(Arc::clone(&cycle.state));
        }
        let (duration, now) = (started.elapsed(), Timestamp::now());
        self.record(&cycle, duration);
        self.journal.note(&cycle, duration, now, &self.calls);
        let snapshot = &cycle.state.snapshot;
        self.up = snapshot.up;
        if self.up {
            self.shared.readiness.good_cycle();
        }
        tracing::debug!(
            outcome = outcome.as_str(),
            duration_ms = started.elapsed().as_millis() as u64,
            deployments = snapshot.inventory.deployments.len(),
            unfinished = snapshot.unfinished.len(),
            events = cycle.events.len(),
            "cycle"
        );
        self.condition.note(&cycle);
        self.report(cycle.state)
    }

    /// Ends the last cycle, which may have been cancelled. Answers that arrived until then are
    /// used. The last checkpoint must be written within `patience`.
    pub async fn end(&mut self, patience: Duration) -> Report {
        self.keeper.patience = patience;
        let cycle = self.sampler.end(&mut self.keeper).await;
        self.measure(&cycle);
        let mut report = self.report(cycle.state);
        if self.up {
            // A cancelled cycle does not mean that Prefect cannot be read.
            Arc::make_mut(&mut report.state).snapshot.up = true;
        }
        report
    }

    fn report(&self, state: Arc<State>) -> Report {
        Report {
            state,
            made: Instant::now(),
            cycles: self.counts,
            checkpoints: self.keeper.checkpoints(),
            journal: Arc::new(self.journal.clone()),
        }
    }

    /// Records the events and durations of a cycle into the histograms.
    fn record(&self, cycle: &Cycle, duration: Duration) {
        let record = |family, value: &str, duration: Duration| {
            let attributes = self.options.counted(family, &[Arc::from(value)], &[]);
            let recorder = self.shared.exporters.recorder(family);
            recorder.record(duration.as_secs_f64(), &attributes);
        };
        record(&CYCLE_DURATION, cycle.outcome().as_str(), duration);
        for (section, duration) in &cycle.durations {
            record(&SECTION_DURATION, section.as_str(), *duration);
        }
        self.measure(cycle);
    }

    /// Drops the histogram series of deleted deployments and flows, if their lists are fresh and the
    /// publication `shown`, which has been delivered, contains everything that was measured.
    fn forget_deleted(&self, state: &State, shown: u64) -> Forgotten {
        let lists = [Section::Deployments, Section::Flows];
        if !state.snapshot.is_fresh(&lists) {
            return Forgotten::Nothing;
        }
        let inventory = &state.snapshot.inventory;
        let deployments = inventory.deployments.values();
        let deployments: HashSet<_> = deployments
            .map(|deployment| {
                let flow = inventory.flow_name(deployment.flow_id.as_ref());
                (deployment.name.label(), flow)
            })
            .collect();
        let flows = inventory.flows.values();
        let flows: HashSet<_> = flows.map(|flow| flow.name.label()).collect();
        let null = null();
        let is_delivered = || self.shared.publications.has_measured(shown);
        let histograms = self.shared.exporters.histograms();
        histograms.forget(self.place, is_delivered, |deployment, flow| {
            // A run may have no deployment.
            match *deployment == null {
                true => *flow == null || flows.contains(flow),
                false => deployments.contains(&(deployment.clone(), flow.clone())),
            }
        })
    }

    fn measure(&self, cycle: &Cycle) {
        let Shared {
            exporters,
            publications,
            ..
        } = &self.shared;
        if !cycle.events.is_empty() {
            let note = || publications.note_measured();
            exporters.measure(self.place, &self.options, &cycle.events, note);
        }
    }
}

/// The configuration of the core, from the settings.
pub fn core_config(settings: &Settings, options: &Options) -> Config {
    let sampling = &settings.sampling;
    Config {
        interval: sampling.interval,
        inventory_interval: sampling.inventory_interval,
        scheduled_lookahead: sampling.scheduled_lookahead,
        offset: sampling.offset,
        failed_runs_offset: sampling.failed_runs_offset,
        catch_up: sampling.catch_up,
        task_runs: options.has_task_runs(),
        page_limit: settings.prefect.pagination_limit,
        first_page_only: !settings.prefect.pagination_enabled,
        cardinality_limit: options.count_limit(),
        tag_keys: options.tag_keys().clone(),
        unused: options.unused_sections(),
    }
}

/// The condition that was logged last: only changes are logged.
#[derive(Default)]
struct Condition {
    down: Option<bool>,
    failing: HashSet<Section>,
}

impl Condition {
    /// Logs new failures at WARN, and recoveries at INFO.
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
            let lacks = version::missing(version).join("; ");
            let lacks = (!lacks.is_empty()).then_some(lacks);
            tracing::info!(version, lacks, "Prefect can be read");
        }
        for (section, error) in &cycle.errors {
            // After an outage, a section that has not been read again yet still has its error.
            if cycle.tried.contains(section) && self.failing.insert(*section) {
                tracing::warn!(section = section.as_str(), %error, "a section cannot be read; other sections are not affected");
            }
        }
        let failing: HashSet<_> = cycle.errors.iter().map(|(section, _)| *section).collect();
        for section in self.failing.difference(&failing) {
            tracing::info!(section = section.as_str(), "the section can be read again");
        }
        self.failing.retain(|section| failing.contains(section));
    }
}

/// Logs a single line, however many requests failed.
fn note_down(cycle: &Cycle) {
    let errors = || {
        let errors = cycle.errors.iter();
        errors.map(|(section, error)| (*section, error))
    };
    // A section that was not tried has the error of an earlier cycle.
    let tried = errors().filter(|(section, _)| cycle.tried.contains(section));
    let Some(error) = journal::culprit(tried).or_else(|| journal::culprit(errors())) else {
        tracing::warn!(
            "Prefect cannot be read: it answers, but has no list of runs, deployments, flows, work pools or work queues"
        );
        return;
    };
    match error.is_not_prefect() {
        true => tracing::warn!(
            %error,
            "PREFECT_API_URL does not point to the API of Prefect 3; gauges will be withheld, and the agent keeps trying"
        ),
        false => tracing::warn!(
            %error,
            "Prefect cannot be read; its gauges will be withheld after three intervals"
        ),
    }
}

/// Records each request to Prefect.
struct Requests {
    calls: Arc<Calls>,
    recorder: Recorder,
    common: Vec<KeyValue>,
}

impl RequestObserver for Requests {
    fn on_request(&self, record: &RequestRecord<'_>) {
        self.calls.note(record);
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
