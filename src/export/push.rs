//! Pushes: what an exporter sends after each cycle, without ever holding a cycle up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The reader that the provider owns, shared with the [`Push`] that collects it.
#[derive(Debug, Clone)]
pub struct Reader(Arc<ManualReader>);

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// Pushes by their outcome.
#[derive(Debug, Default)]
struct Counts {
    success: AtomicU64,
    failure: AtomicU64,
    skipped: AtomicU64,
}

/// An exporter with a task of its own.
pub struct Push {
    counts: Arc<Counts>,
    name: &'static str,
    reader: Reader,
    queue: Mutex<Option<mpsc::Sender<ResourceMetrics>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Push {
    /// Starts the task of `exporter`; the reader goes to the meter provider. A push is given
    /// up after `timeout`.
    pub fn start<E: PushMetricExporter>(
        name: &'static str,
        target: &str,
        exporter: E,
        timeout: Duration,
    ) -> (Self, Reader) {
        let reader = ManualReader::builder()
            .with_temporality(exporter.temporality())
            .build();
        let reader = Reader(Arc::new(reader));
        let (queue, metrics) = mpsc::channel(1);
        let counts = Arc::new(Counts::default());
        let sender = Sender {
            name,
            target: target.to_owned(),
            timeout,
            counts: Arc::clone(&counts),
        };
        let task = tokio::spawn(sender.run(exporter, metrics));
        let (queue, task) = (Mutex::new(Some(queue)), Mutex::new(Some(task)));
        (
            Push {
                counts,
                name,
                reader: reader.clone(),
                queue,
                task,
            },
            reader,
        )
    }

    /// Hands over what the instruments show now. While a push is under way and another one
    /// waits, nothing is collected: sums then simply reach the next push.
    pub(super) fn offer(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = &*queue else {
            return;
        };
        let Ok(place) = queue.try_reserve() else {
            self.counts.skipped.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(
                exporter = self.name,
                "a push is still under way; this cycle's is left out"
            );
            return;
        };
        if let Some(metrics) = self.collect() {
            place.send(metrics);
        }
    }

    /// Pushes so far: exporter, outcome, count.
    pub(super) fn counts(&self) -> [(&'static str, &'static str, u64); 3] {
        let Counts {
            success,
            failure,
            skipped,
        } = &*self.counts;
        [
            ("success", success),
            ("failure", failure),
            ("skipped", skipped),
        ]
        .map(|(outcome, count)| (self.name, outcome, count.load(Ordering::Relaxed)))
    }

    fn collect(&self) -> Option<ResourceMetrics> {
        let mut metrics = ResourceMetrics::default();
        match self.reader.collect(&mut metrics) {
            Ok(()) => Some(metrics),
            Err(error) => {
                tracing::error!(exporter = self.name, %error, "metrics cannot be collected");
                None
            }
        }
    }

    /// One last push, then the end; after `patience` it is given up.
    pub(super) async fn finish(&self, patience: Duration) {
        let queue = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (Some(queue), Some(task)) = (queue, task) else {
            return;
        };
        let abort = task.abort_handle();
        let last = async move {
            if let Some(metrics) = self.collect() {
                // The task takes what is queued before it sees the queue's end.
                _ = queue.send(metrics).await;
            }
            drop(queue);
            _ = task.await;
        };
        if tokio::time::timeout(patience, last).await.is_err() {
            abort.abort();
            tracing::warn!(exporter = self.name, "the last push was given up");
        }
    }
}

/// The task's side.
struct Sender {
    name: &'static str,
    target: String,
    timeout: Duration,
    counts: Arc<Counts>,
}

impl Sender {
    async fn run<E: PushMetricExporter>(
        self,
        exporter: E,
        mut queue: mpsc::Receiver<ResourceMetrics>,
    ) {
        let mut failed: u64 = 0;
        while let Some(metrics) = queue.recv().await {
            let result = match tokio::time::timeout(self.timeout, exporter.export(&metrics)).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} ms", self.timeout.as_millis())),
            };
            match result {
                Ok(()) => {
                    self.counts.success.fetch_add(1, Ordering::Relaxed);
                    self.note_success(&mut failed);
                }
                Err(error) => {
                    self.counts.failure.fetch_add(1, Ordering::Relaxed);
                    self.note_failure(&mut failed, &error);
                }
            }
        }
        _ = exporter.shutdown();
    }

    fn note_success(&self, failed: &mut u64) {
        if *failed > 0 {
            tracing::info!(
                exporter = self.name,
                target_url = self.target,
                failed,
                "pushes arrive again"
            );
        }
        *failed = 0;
    }

    fn note_failure(&self, failed: &mut u64, error: &str) {
        if *failed == 0 {
            tracing::warn!(
                exporter = self.name,
                target_url = self.target,
                error,
                "pushes fail; the agent goes on trying every cycle"
            );
        }
        *failed += 1;
    }
}
