//! The delivery of metrics: an exporter for the SDK that marks series that have ended, divides a
//! push into messages, retries them, and reads the receiver's answers.

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

/// The configuration of a delivery, except that of the connection.
pub struct DeliveryConfig {
    /// The temporality that is sent; the SDK collects cumulative values in any case.
    pub temporality: Temporality,
    /// Size of the largest message in bytes, encoded and uncompressed, if it is set.
    pub max_message_bytes: Option<usize>,
    /// Time from one push to the next.
    pub interval: Duration,
    /// The points that the instruments observe: they have the start times.
    pub points: PointsOf,
    /// Families whose counts the checkpoint restores.
    pub counted: Vec<&'static str>,
    /// The file that keeps how much of them was accepted.
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

/// Delivers metrics over OTLP.
pub struct Delivery {
    pub(super) transport: Transport,
    pub(super) limit: usize,
    /// Of one message, including retries and waits.
    pub(super) timeout: Duration,
    /// Time from one push to the next: no message is retried after that.
    interval: Duration,
    pub(super) points: PointsOf,
    file: Option<DeliveredFile>,
    pub(super) counts: Arc<PointCounts>,
    state: Mutex<State>,
}

/// What one push leaves for the next.
pub(super) struct State {
    pub(super) ledger: Ledger,
    /// The scope of the agent's instruments, and so of the marks.
    pub(super) scope: ScopeMetrics,
    /// The file is read at the first push: by then, the process before this one has ended.
    pub(super) started: Option<(Temporality, Vec<&'static str>)>,
    /// The receiver's last logged reason for rejected points, and when it was logged.
    pub(super) partial: Option<(String, Instant)>,
    pub(super) said_oversized: bool,
    pub(super) said_unwritable: bool,
    /// Until when the receiver asked not to be sent anything.
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

    /// A push ends by itself within this time.
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
    /// When a message was not accepted: the first cause, with the setting to check.
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

    /// Writes what was accepted to the file, if it has changed.
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
                "STATE_DIR: the file of delivered counts cannot be written; after a restart, some counts would be pushed twice"
            );
        }
    }
}

/// When the SDK collected: the time of its points, which is not later than now.
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
        let parts: Vec<_> = collected.parts().collect();
        self.deliver(&parts, give_up).await
    }

    fn shutdown(&self) -> OTelSdkResult {
        Ok(())
    }

    /// Cumulative in any case: deltas are computed from what was accepted.
    fn temporality(&self) -> opentelemetry_sdk::metrics::Temporality {
        opentelemetry_sdk::metrics::Temporality::Cumulative
    }
}
