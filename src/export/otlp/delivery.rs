//! The delivery of metrics: marks series that have ended, splits a push into messages, retries
//! them, and interprets the receiver's answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::metrics::v1::ScopeMetrics;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use tokio::sync::{Mutex, Notify};

use super::ledger::Ledger;
use super::saved::{Baselines, DeliveredFile, Saved};
use super::transport::Transport;
use crate::export::Error;
use crate::export::collected::{Collected, Exporter, NotAccepted};
use crate::metrics::Point;
use crate::settings::{Otlp, Temporality};

/// Just below a collector's default limit for gRPC, 4 MiB. For HTTP it is 20 MiB, but a message takes
/// several times its size in memory until it is accepted.
const MESSAGE_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;

/// The latest points of a family.
pub type PointsOf = Arc<dyn Fn(&str) -> Arc<Vec<Point>> + Send + Sync>;

/// The configuration of a delivery, without its connection settings.
pub struct DeliveryConfig {
    /// The temporality to send. The SDK always collects cumulative values.
    pub temporality: Temporality,
    /// The maximum size of a message in bytes, encoded and uncompressed, if set.
    pub max_message_bytes: Option<usize>,
    /// The interval between pushes.
    pub interval: Duration,
    /// The points that the instruments observe, which have the start times.
    pub points: PointsOf,
    /// Families whose counts the checkpoint restores.
    pub counted: Vec<&'static str>,
    /// The file that stores how much of these counts was accepted.
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
    /// The counts by outcome.
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

/// Delivers metrics over OTLP.
pub struct Delivery {
    pub(super) transport: Transport,
    pub(super) limit: usize,
    /// The time limit for one message, including retries and waits.
    pub(super) timeout: Duration,
    /// The interval between pushes: no message is retried once the next push is due.
    pub(super) interval: Duration,
    pub(super) points: PointsOf,
    pub(super) counts: Arc<PointCounts>,
    pub(super) state: Mutex<State>,
}

/// What is kept from one push to the next.
pub(super) struct State {
    pub(super) ledger: Ledger,
    /// The scope of the agent's instruments, which marks have as well.
    pub(super) scope: ScopeMetrics,
    /// Set until the first push, when the file is read: by then, the previous process has ended.
    pub(super) started: Option<(Temporality, Vec<&'static str>)>,
    /// The last reason for rejected points that was logged, and when.
    pub(super) partial: Option<(String, Instant)>,
    pub(super) said_oversized: bool,
    /// The file that stores how much was accepted, if there is one.
    pub(super) saved: Option<Saved>,
    /// The time until which the receiver asked for no more messages.
    pub(super) quiet_until: Option<Instant>,
}

impl Delivery {
    /// A delivery according to the settings, not connected yet. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// If the settings contradict each other.
    pub fn new(otlp: &Otlp, config: DeliveryConfig) -> Result<Self, Error> {
        // Without a file, counts do not survive a restart.
        let counted = match (&config.file, config.temporality) {
            (Some(_), Temporality::Delta) => config.counted,
            _ => Vec::new(),
        };
        let ledger = Ledger::new(config.temporality, Vec::new(), Baselines::default());
        Ok(Delivery {
            transport: Transport::new(otlp)?,
            limit: config.max_message_bytes.unwrap_or(MESSAGE_BYTES),
            timeout: otlp.timeout,
            interval: config.interval,
            points: config.points,
            counts: Arc::default(),
            state: Mutex::new(State {
                ledger,
                scope: ScopeMetrics::default(),
                started: Some((config.temporality, counted)),
                partial: None,
                said_oversized: false,
                saved: config.file.map(Saved::new),
                quiet_until: None,
            }),
        })
    }

    /// The counts of its data points.
    pub fn counts(&self) -> Arc<PointCounts> {
        Arc::clone(&self.counts)
    }

    /// A push ends within this time.
    pub fn patience(&self) -> Duration {
        let patience = self.longest().saturating_add(self.timeout);
        patience.saturating_add(Duration::from_secs(5))
    }

    /// No further message is sent after this time: the next push has newer values.
    pub(super) fn longest(&self) -> Duration {
        self.interval.max(self.timeout)
    }

    /// Writes the accepted counts to the file, if they have changed.
    pub(super) async fn save(state: &mut State) {
        let Some(saved) = state.saved.as_mut().filter(|_| state.ledger.changed) else {
            return;
        };
        let accepted = state.ledger.accepted_of_counted();
        if saved.write(accepted).await {
            state.ledger.changed = false;
        }
    }
}

/// The time of the collection, taken from its points, but not later than now.
pub(super) fn collected_at(parts: &[&ResourceMetrics]) -> SystemTime {
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
        // Also the empty ones: series that have ended are marked even if there are no others.
        self.deliver(&collected.all(), give_up).await
    }

    fn shutdown(&self) -> OTelSdkResult {
        Ok(())
    }

    /// Always cumulative: deltas are computed from the values that were accepted.
    fn temporality(&self) -> opentelemetry_sdk::metrics::Temporality {
        opentelemetry_sdk::metrics::Temporality::Cumulative
    }
}
