//! Pushes: each exporter sends in its own task, so that it never delays the publisher.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::collected::{Collected, Exporter, NotAccepted};
use super::outlet::Outlets;
use super::shown::Shown;

/// After a push is given up, the exporter has this long to save which part of it was accepted.
const SAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// After this many consecutive pushes that the receiver refused because of their content, their
/// state counts as delivered. The receiver will never accept the refused series, and counters would
/// be held at their baseline forever.
const MOST_REFUSED: u32 = 20;

/// Pushes by their outcome.
#[derive(Debug, Default)]
struct Counts {
    success: AtomicU64,
    failure: AtomicU64,
    skipped: AtomicU64,
}

/// The condition of an exporter, for the status page.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// Its name.
    pub name: &'static str,
    /// Where it delivers to.
    pub target: String,
    /// Pushes by outcome: success, failure, skipped. `None` if it is scraped instead.
    pub pushes: Option<[u64; 3]>,
    /// When a push was last accepted, or the page was last scraped.
    pub last_success: Option<Timestamp>,
    /// When a push last failed, and why.
    pub last_error: Option<(Timestamp, String)>,
    /// Since when pushes have failed; `None` if the last one was accepted.
    pub failing_since: Option<Timestamp>,
}

/// How the last pushes went.
#[derive(Debug, Clone, Default)]
struct History {
    last_success: Option<Timestamp>,
    last_error: Option<(Timestamp, String)>,
    failing_since: Option<Timestamp>,
}

/// The metrics that wait while a push is in progress.
#[derive(Default)]
struct Waiting {
    /// The latest metrics, and the number of the state that they show.
    next: Option<(u64, Collected)>,
    /// Whether `next` is the last push.
    closed: bool,
}

/// What the publisher and the sending task share.
#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// Tells the exporter to end the current push, and to save which part of it was accepted.
    give_up: Notify,
    is_given_up: AtomicBool,
    counts: Counts,
    history: Mutex<History>,
    shown: Shown,
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues metrics for the task, replacing any that still wait; `false` if there were any.
    fn put(&self, next: Option<(u64, Collected)>, close: bool) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = waiting.next.is_none();
        if next.is_some() {
            waiting.next = next;
        }
        waiting.closed |= close;
        drop(waiting);
        self.wake.notify_one();
        empty
    }

    /// The next metrics to send; `None` after the last ones.
    async fn take(&self) -> Option<(u64, Collected)> {
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(next) = waiting.next.take() {
                    return Some(next);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.wake.notified().await;
        }
    }
}

/// An exporter with its own task.
pub struct Push {
    name: &'static str,
    target: String,
    shared: Arc<Shared>,
    outlets: Outlets,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Push {
    /// Starts the task of `exporter`, which sends what is collected from `outlets`. A push is given
    /// up after `timeout`.
    pub(super) fn start<E: Exporter>(
        name: &'static str,
        target: &str,
        exporter: E,
        outlets: Outlets,
        timeout: Duration,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let sender = Sender {
            name,
            target: target.to_owned(),
            timeout,
            shared: Arc::clone(&shared),
        };
        let task = Mutex::new(Some(tokio::spawn(sender.run(exporter))));
        Push {
            name,
            target: target.to_owned(),
            shared,
            outlets,
            task,
        }
    }

    /// Queues the current values of the instruments, which are those of state `number`. They
    /// replace metrics that still wait behind a slow push.
    pub(super) fn offer(&self, number: u64) {
        let Some(metrics) = self.collect() else {
            return;
        };
        if !self.shared.put(Some((number, metrics)), false) {
            self.shared.counts.skipped.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(
                exporter = self.name,
                "a push takes longer than the interval; the one waiting behind it was skipped in favor of a newer one"
            );
        }
    }

    /// What has been accepted.
    pub(super) fn shown(&self) -> &Shown {
        &self.shared.shown
    }

    /// Pushes so far: exporter, outcome, count.
    pub(super) fn counts(&self) -> [(&'static str, &'static str, u64); 3] {
        let Counts {
            success,
            failure,
            skipped,
        } = &self.shared.counts;
        [
            ("success", success),
            ("failure", failure),
            ("skipped", skipped),
        ]
        .map(|(outcome, count)| (self.name, outcome, count.load(Ordering::Relaxed)))
    }

    /// How the last pushes went.
    pub(super) fn delivered(&self) -> Delivered {
        let history = self.shared.history().clone();
        Delivered {
            name: self.name,
            target: self.target.clone(),
            pushes: Some(self.counts().map(|(_, _, count)| count)),
            last_success: history.last_success,
            last_error: history.last_error,
            failing_since: history.failing_since,
        }
    }

    fn collect(&self) -> Option<Collected> {
        match Collected::from(&self.outlets) {
            Ok(metrics) => Some(metrics),
            Err(error) => {
                tracing::error!(exporter = self.name, %error, "cannot collect metrics");
                None
            }
        }
    }

    /// Sends one last push, of state `number`, and shuts the exporter down. The push is given up
    /// after `patience`.
    pub(super) async fn finish(&self, number: u64, patience: Duration) {
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut task) = task else {
            return;
        };
        let abort = task.abort_handle();
        let last = self.collect().map(|metrics| (number, metrics));
        self.shared.put(last, true);
        if tokio::time::timeout(patience, &mut task).await.is_ok() {
            return;
        }
        tracing::warn!(
            exporter = self.name,
            "the last push was not completed in time"
        );
        self.shared.is_given_up.store(true, Ordering::Relaxed);
        self.shared.give_up.notify_one();
        if tokio::time::timeout(SAVE_TIMEOUT, task).await.is_err() {
            abort.abort();
        }
    }
}

/// The task that sends.
struct Sender {
    name: &'static str,
    target: String,
    timeout: Duration,
    shared: Arc<Shared>,
}

impl Sender {
    async fn run<E: Exporter>(self, exporter: E) {
        let (mut failed, mut refused): (u64, u32) = (0, 0);
        while let Some((number, metrics)) = self.shared.take().await {
            let export = exporter.export(&metrics, &self.shared.give_up);
            let result = tokio::time::timeout(self.timeout, export).await;
            let result = result.unwrap_or_else(|_| {
                Err(NotAccepted {
                    reason: format!("no answer within {} ms", self.timeout.as_millis()),
                    is_answered: false,
                })
            });
            refused = match &result {
                Err(error) if error.is_answered => refused.saturating_add(1),
                _ => 0,
            };
            if result.is_ok() || refused >= MOST_REFUSED {
                self.shared.shown.note(number);
            }
            match result {
                Ok(()) => {
                    self.shared.counts.success.fetch_add(1, Ordering::Relaxed);
                    let mut history = self.shared.history();
                    history.last_success = Some(Timestamp::now());
                    history.failing_since = None;
                    drop(history);
                    self.note_success(&mut failed);
                }
                Err(error) => {
                    self.shared.counts.failure.fetch_add(1, Ordering::Relaxed);
                    let mut history = self.shared.history();
                    let now = Timestamp::now();
                    history.failing_since.get_or_insert(now);
                    history.last_error = Some((now, error.reason.clone()));
                    drop(history);
                    self.note_failure(&mut failed, &error.reason);
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
                "pushes succeed again"
            );
        }
        *failed = 0;
    }

    fn note_failure(&self, failed: &mut u64, error: &str) {
        let is_said = self.shared.is_given_up.load(Ordering::Relaxed);
        if *failed == 0 && !is_said {
            tracing::warn!(
                exporter = self.name,
                target_url = self.target,
                error,
                "pushes fail; the agent tries again after every cycle"
            );
        }
        *failed = failed.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::metrics::Temporality;

    use super::*;

    /// An exporter that always returns this answer.
    struct Scripted(fn() -> Result<(), NotAccepted>);

    impl Exporter for Scripted {
        async fn export(&self, _: &Collected, _: &Notify) -> Result<(), NotAccepted> {
            (self.0)()
        }

        fn shutdown(&self) -> OTelSdkResult {
            Ok(())
        }

        fn temporality(&self) -> Temporality {
            Temporality::Cumulative
        }
    }

    /// The state that counts as delivered after `pushes` pushes of state 7.
    async fn shown_after(pushes: u32, answer: fn() -> Result<(), NotAccepted>) -> u64 {
        let shared = Arc::new(Shared::default());
        let sender = Sender {
            name: "test",
            target: "nowhere".to_owned(),
            timeout: Duration::from_secs(60),
            shared: Arc::clone(&shared),
        };
        let run = tokio::spawn(sender.run(Scripted(answer)));
        for push in 1..=pushes {
            shared.put(Some((7, Collected::default())), push == pushes);
            tokio::task::yield_now().await;
        }
        run.await.unwrap();
        crate::export::shown::by_all([&shared.shown], Duration::from_secs(3_600))
    }

    #[tokio::test]
    async fn a_state_counts_as_delivered_once_accepted_or_refused_many_times() {
        assert_eq!(shown_after(1, || Ok(())).await, 7);
        let answered = || {
            Err(NotAccepted {
                reason: "HTTP 400".to_owned(),
                is_answered: true,
            })
        };
        assert_eq!(shown_after(MOST_REFUSED - 1, answered).await, 0);
        assert_eq!(shown_after(MOST_REFUSED, answered).await, 7);
        let unknown = || {
            Err(NotAccepted {
                reason: "no answer".to_owned(),
                is_answered: false,
            })
        };
        assert_eq!(shown_after(MOST_REFUSED, unknown).await, 0);
    }
}
