//! The delivery of metrics: an exporter of the SDK that tells the receiver what is gone,
//! divides what is too large, and reads what the receiver answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::metrics::v1::ScopeMetrics;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use tokio::sync::{Mutex, Notify};

use super::ledger::Ledger;
use super::round::Round;
use super::saved::{Baselines, DeliveredFile};
use super::transport::Transport;
use crate::export::Error;
use crate::export::collected::{Collected, Exporter, NotAccepted};
use crate::metrics::Point;
use crate::settings::{Otlp, Protocol, Temporality};

/// Just below what an unmodified collector takes: 4 MiB over gRPC.
const GRPC_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;
/// 20 MiB over HTTP.
const HTTP_BYTES: usize = 20 * 1024 * 1024 - 64 * 1024;

/// The latest points of a family.
pub type PointsOf = Arc<dyn Fn(&str) -> Arc<Vec<Point>> + Send + Sync>;

/// What a delivery needs to know beside where to send.
pub struct DeliveryConfig {
    /// What the user prefers; the SDK is asked for cumulative values in any case.
    pub temporality: Temporality,
    /// The largest message, encoded and uncompressed, where the user sets it.
    pub max_message_bytes: Option<usize>,
    /// From one push to the next.
    pub interval: Duration,
    /// The points that the instruments observe: where their start times are found.
    pub points: PointsOf,
    /// Families whose counts survive a restart.
    pub counted: Vec<&'static str>,
    /// Where what was delivered of them is kept.
    pub file: Option<DeliveredFile>,
}

/// Data points by outcome.
#[derive(Debug, Default)]
pub struct PointCounts {
    pub(super) accepted: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl PointCounts {
    /// Outcome and count.
    pub fn by_outcome(&self) -> [(&'static str, u64); 4] {
        [
            ("accepted", &self.accepted),
            ("rejected", &self.rejected),
            ("failed", &self.failed),
            ("dropped", &self.dropped),
        ]
        .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }
}

/// Delivers metrics by OTLP.
pub struct Delivery {
    pub(super) transport: Transport,
    pub(super) limit: usize,
    /// Of one message, tries and waits together.
    pub(super) timeout: Duration,
    /// From one push to the next: nothing is sent again after that.
    interval: Duration,
    pub(super) points: PointsOf,
    file: Option<DeliveredFile>,
    pub(super) counts: Arc<PointCounts>,
    state: Mutex<State>,
}

/// What one push leaves for the next.
pub(super) struct State {
    pub(super) ledger: Ledger,
    /// The scope of the agent's instruments, and so of what is gone.
    pub(super) scope: ScopeMetrics,
    /// The file is read at the first push: by then, the process before this one has ended.
    pub(super) started: Option<(Temporality, Vec<&'static str>)>,
    /// What was logged last of points that the receiver did not take, and when.
    pub(super) partial: Option<(String, Instant)>,
    pub(super) said_oversized: bool,
    pub(super) said_unwritable: bool,
    /// Until when the receiver wants to be left alone.
    pub(super) quiet_until: Option<Instant>,
}

impl Delivery {
    /// A delivery by the settings; nothing is connected yet. Inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the settings do not fit together.
    pub fn new(otlp: &Otlp, config: DeliveryConfig) -> Result<Self, Error> {
        let default = match otlp.protocol {
            Protocol::HttpProtobuf => HTTP_BYTES,
            Protocol::Grpc => GRPC_BYTES,
        };
        // Counts survive a restart only where there is a file for them.
        let counted = match (&config.file, config.temporality) {
            (Some(_), Temporality::Delta) => config.counted,
            _ => Vec::new(),
        };
        let ledger = Ledger::new(config.temporality, Vec::new(), Baselines::default());
        Ok(Delivery {
            transport: Transport::new(otlp)?,
            limit: config.max_message_bytes.unwrap_or(default),
            timeout: otlp.timeout,
            interval: config.interval,
            points: config.points,
            file: config.file,
            counts: Arc::default(),
            state: Mutex::new(State {
                ledger,
                scope: ScopeMetrics::default(),
                started: Some((config.temporality, counted)),
                partial: None,
                said_oversized: false,
                said_unwritable: false,
                quiet_until: None,
            }),
        })
    }

    /// Where its points are counted.
    pub fn counts(&self) -> Arc<PointCounts> {
        Arc::clone(&self.counts)
    }

    /// After this time a push has ended by itself.
    pub fn patience(&self) -> Duration {
        self.longest() + self.timeout + Duration::from_secs(5)
    }

    /// After this time of a push, no other message is sent: the next push has newer values.
    fn longest(&self) -> Duration {
        self.interval.max(self.timeout)
    }

    /// Delivers what was collected at one time, in parts of one resource that have no metric
    /// in common. Once `give_up` is notified, it ends, and what was accepted until then counts.
    ///
    /// # Errors
    ///
    /// When a message was not accepted: the first cause, with the setting to look at.
    pub async fn deliver(
        &self,
        parts: &[&ResourceMetrics],
        give_up: &Notify,
    ) -> Result<(), NotAccepted> {
        let mut state = self.state.lock().await;
        if let Some((temporality, counted)) = state.started.take() {
            let baselines = match &self.file {
                Some(file) if !counted.is_empty() => file.read(),
                _ => Baselines::default(),
            };
            state.ledger = Ledger::new(temporality, counted, baselines);
        }
        state.ledger.begin(collected_at(parts));
        let mut round = Round {
            delivery: self,
            state: &mut state,
            no_retry_after: Instant::now() + self.interval,
            ends: Instant::now() + self.longest(),
            failure: None,
            is_answered: true,
            has_sent: false,
            stopped: false,
            partial: None,
        };
        tokio::select! {
            () = round.send(parts) => {}
            () = give_up.notified() => round.give_up(),
        }
        let result = round.end();
        self.save(&mut state).await;
        result
    }

    /// Writes down what was accepted, if that has changed.
    async fn save(&self, state: &mut State) {
        let Some(file) = self.file.clone().filter(|_| state.ledger.changed) else {
            return;
        };
        let accepted = state.ledger.accepted_of_counted();
        let written = tokio::task::spawn_blocking(move || file.write(&accepted)).await;
        let error = match written {
            Ok(Ok(())) => {
                state.ledger.changed = false;
                state.said_unwritable = false;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut state.said_unwritable, true) {
            tracing::warn!(
                error,
                "STATE_DIR: what was pushed cannot be written down; after a restart it would be pushed again"
            );
        }
    }
}

/// When the SDK collected: the time of its points, which is not later than now.
fn collected_at(parts: &[&ResourceMetrics]) -> SystemTime {
    fn of<T>(data: &MetricData<T>) -> SystemTime {
        match data {
            MetricData::Gauge(gauge) => gauge.time(),
            MetricData::Sum(sum) => sum.time(),
            MetricData::Histogram(histogram) => histogram.time(),
            MetricData::ExponentialHistogram(histogram) => histogram.time(),
        }
    }
    let scopes = parts.iter().flat_map(|part| part.scope_metrics());
    let metrics = scopes.flat_map(|scope| scope.metrics());
    let times = metrics.map(|metric| match metric.data() {
        AggregatedMetrics::F64(data) => of(data),
        AggregatedMetrics::U64(data) => of(data),
        AggregatedMetrics::I64(data) => of(data),
    });
    times.max().unwrap_or_else(SystemTime::now)
}

impl Exporter for Delivery {
    async fn export(&self, collected: &Collected, give_up: &Notify) -> Result<(), NotAccepted> {
        let parts: Vec<_> = collected.parts().collect();
        self.deliver(&parts, give_up).await
    }

    fn shutdown(&self) -> OTelSdkResult {
        Ok(())
    }

    /// Cumulative, whatever the user prefers: deltas are computed from what was accepted.
    fn temporality(&self) -> opentelemetry_sdk::metrics::Temporality {
        opentelemetry_sdk::metrics::Temporality::Cumulative
    }
}
