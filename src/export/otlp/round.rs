//! One push: its messages, their retries and the receiver's answers.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ScopeMetrics};
use opentelemetry_sdk::metrics::data::{self, ResourceMetrics};
use tokio::sync::Notify;

use super::answer::{Accepted, Failure, Then};
use super::delivery::{Delivery, State, collected_at};
use super::ledger::Ledger;
use super::message::{self, Packer};
use super::saved::Baselines;
use crate::export::collected::NotAccepted;

/// The wait before the first retry. It doubles with each retry, with jitter, up to five seconds.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A different reason from the receiver is logged after this time: some receivers name a different
/// series each time.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// A push in progress.
struct Round<'a> {
    delivery: &'a Delivery,
    state: &'a mut State,
    /// When the next push is due.
    no_retry_after: Instant,
    /// When this push ends, completed or not.
    ends: Instant,
    failure: Option<String>,
    /// Whether every message so far was accepted, or refused because of its content.
    is_answered: bool,
    /// Whether any message was sent.
    has_sent: bool,
    /// Whether no further message is sent.
    stopped: bool,
    partial: Option<Accepted>,
}

impl Delivery {
    /// Delivers one collection, in parts that have the same resource and no series in common. It
    /// ends once `give_up` is notified; the messages accepted until then count.
    ///
    /// # Errors
    ///
    /// If a message was not accepted: the first cause, with the setting to check.
    pub async fn deliver(
        &self,
        parts: &[&ResourceMetrics],
        give_up: &Notify,
    ) -> Result<(), NotAccepted> {
        let mut state = self.state.lock().await;
        if let Some((temporality, counted)) = state.started.take() {
            let baselines = match &mut state.saved {
                Some(saved) if !counted.is_empty() => saved.read().await,
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
        Delivery::save(&mut state).await;
        result
    }
}

impl Round<'_> {
    async fn send(&mut self, parts: &[&ResourceMetrics]) {
        let Some(first) = parts.first() else {
            return;
        };
        let resource = first.resource();
        let schema_url = resource.schema_url().unwrap_or_default().to_owned();
        let mut packer = Packer::new(resource.into(), schema_url, self.delivery.limit);
        packer.scope(self.state.scope.clone());
        for scope in parts.iter().flat_map(|part| part.scope_metrics()) {
            self.state.scope = header(scope);
            if let Some(rest) = packer.scope(self.state.scope.clone()) {
                self.deliver(rest).await;
            }
            for metric in scope.metrics() {
                let mut metric = Metric::from(metric);
                let points = (self.delivery.points)(&metric.name);
                self.state.ledger.prepare(&mut metric, &points);
                self.pack(&mut packer, metric).await;
            }
        }
        for mark in self.state.ledger.marks() {
            self.pack(&mut packer, mark).await;
        }
        if let Some(rest) = packer.rest() {
            self.deliver(rest).await;
        }
        self.note_oversized(packer.dropped);
        if packer.dropped > 0 && !self.has_sent {
            self.is_answered = false;
            self.failure = Some("OTLP_MAX_MESSAGE_BYTES: too small for the resource attributes and a data point; increase it, or shorten OTEL_RESOURCE_ATTRIBUTES".to_owned());
        }
    }

    async fn pack(&mut self, packer: &mut Packer, metric: Metric) {
        for full in packer.add(metric) {
            self.deliver(full).await;
        }
    }

    /// Sends one message, with retries, until it is accepted or its time limit is reached.
    async fn deliver(&mut self, mut request: ExportMetricsServiceRequest) {
        self.has_sent = true;
        let points = message::points(&mut request);
        let counts = &self.delivery.counts;
        if !self.stopped && Instant::now() >= self.ends {
            self.stopped = true;
            self.is_answered = false;
            let late = "the receiver takes longer than SAMPLE_INTERVAL_SECONDS for the messages of a push; the remaining ones were not sent";
            self.failure.get_or_insert_with(|| late.to_owned());
        }
        let sent = match self.stopped {
            true => None,
            false => Some(self.tries(&request).await),
        };
        match sent {
            Some(Ok(accepted)) => {
                let rejected = accepted.rejected.min(points);
                counts
                    .accepted
                    .fetch_add(points.saturating_sub(rejected), Ordering::Relaxed);
                counts.rejected.fetch_add(rejected, Ordering::Relaxed);
                self.state.ledger.accepted(&mut request);
                if rejected > 0 || !accepted.message.is_empty() {
                    let partial = self.partial.get_or_insert_default();
                    partial.rejected = partial.rejected.saturating_add(rejected);
                    if partial.message.is_empty() {
                        partial.message = accepted.message;
                    }
                }
            }
            Some(Err(failure)) => {
                counts.failed.fetch_add(points, Ordering::Relaxed);
                self.stopped |= failure.then != Then::Next;
                self.is_answered &= failure.then == Then::Next;
                self.failure.get_or_insert_with(|| failure.to_string());
            }
            None => _ = counts.failed.fetch_add(points, Ordering::Relaxed),
        }
    }

    async fn tries(&mut self, request: &ExportMetricsServiceRequest) -> Result<Accepted, Failure> {
        let timeout = self.delivery.timeout;
        let gives_up = Instant::now() + timeout;
        let transport = &self.delivery.transport;
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(FIRST_WAIT)
            .with_max_delay(LONGEST_WAIT)
            .with_jitter()
            .without_max_times()
            .build();
        if let Some(until) = self.state.quiet_until {
            if until > gives_up.min(self.no_retry_after) {
                return Err(quiet(until));
            }
            tokio::time::sleep_until(until.into()).await;
            self.state.quiet_until = None;
        }
        let message = transport.prepare(request).await?;
        loop {
            let left = gives_up.saturating_duration_since(Instant::now());
            let failure = match transport.send(&message, left).await {
                Ok(accepted) => return Ok(accepted),
                Err(failure) => failure,
            };
            let wait = waits.next().unwrap_or(LONGEST_WAIT);
            let again = Instant::now()
                + match failure.then {
                    Then::Retry => wait,
                    Then::RetryAfter(asked) => asked.max(wait),
                    Then::Next | Then::Stop => return Err(failure),
                };
            if let Then::RetryAfter(_) = failure.then {
                self.state.quiet_until = Some(again);
            }
            if again >= gives_up.min(self.no_retry_after) {
                return Err(failure);
            }
            tracing::debug!(error = %failure, "a message is retried");
            tokio::time::sleep_until(again.into()).await;
            self.state.quiet_until = None;
        }
    }

    fn note_oversized(&mut self, dropped: u64) {
        self.delivery
            .counts
            .dropped
            .fetch_add(dropped, Ordering::Relaxed);
        if dropped > 0 && !std::mem::replace(&mut self.state.said_oversized, true) {
            tracing::warn!(
                dropped,
                limit = self.delivery.limit,
                "OTLP_MAX_MESSAGE_BYTES: data points that exceed the limit on their own are dropped"
            );
        }
    }

    /// Ends the push before the receiver has answered.
    fn give_up(&mut self) {
        let ends = "the agent stopped before the receiver answered";
        self.failure.get_or_insert_with(|| ends.to_owned());
        self.is_answered = false;
    }

    /// The result of the push. Logs the receiver's reason for rejecting points if it has changed.
    fn end(self) -> Result<(), NotAccepted> {
        if let Some(partial) = &self.partial {
            // The numbers in a reason may differ each time.
            let words = partial.message.replace(|c: char| c.is_ascii_digit(), "");
            let logged = self.state.partial.as_ref();
            let is_new = logged
                .is_none_or(|(logged, at)| *logged != words && at.elapsed() > LOG_AGAIN_AFTER);
            if is_new {
                let Accepted {
                    rejected, message, ..
                } = partial;
                tracing::warn!(
                    rejected,
                    message,
                    "the OTLP receiver rejected data points or returned a warning; prefect_agent_export_points_total counts rejected data points"
                );
                self.state.partial = Some((words, Instant::now()));
            }
        } else if self.failure.is_none() {
            let logged = self.state.partial.take();
            self.state.partial = logged.filter(|(_, at)| at.elapsed() <= LOG_AGAIN_AFTER);
        }
        let Some(reason) = self.failure else {
            return Ok(());
        };
        Err(NotAccepted {
            reason,
            is_answered: self.is_answered,
        })
    }
}

fn quiet(until: Instant) -> Failure {
    let seconds = until.saturating_duration_since(Instant::now()).as_secs();
    Failure {
        cause: format!("the receiver asked for no more messages for another {seconds} s"),
        hint: None,
        then: Then::Stop,
    }
}

/// A scope without its metrics.
fn header(scope: &data::ScopeMetrics) -> ScopeMetrics {
    ScopeMetrics {
        scope: Some((scope.scope(), None).into()),
        metrics: Vec::new(),
        schema_url: scope.scope().schema_url().unwrap_or_default().to_owned(),
    }
}
