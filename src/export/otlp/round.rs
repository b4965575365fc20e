//! One push: its messages, their retries, and the receiver's answers.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ScopeMetrics};
use opentelemetry_sdk::metrics::data::{self, ResourceMetrics};

use super::answer::{Accepted, Failure, Then};
use super::delivery::{Delivery, State};
use super::message::{self, Packer};
use crate::export::collected::NotAccepted;

/// The wait before a message is sent again: it doubles, with jitter, up to five seconds.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Another complaint of the receiver is logged after this time: some name a series in each.
const SAY_AGAIN: Duration = Duration::from_secs(600);

/// One push under way.
pub(super) struct Round<'a> {
    pub(super) delivery: &'a Delivery,
    pub(super) state: &'a mut State,
    /// When the next push is due.
    pub(super) no_retry_after: Instant,
    /// When this one ends, finished or not.
    pub(super) ends: Instant,
    pub(super) failure: Option<String>,
    /// Whether every message so far was accepted, or refused for what it is.
    pub(super) is_answered: bool,
    /// Whether there was any message.
    pub(super) has_sent: bool,
    /// Whether nothing more is sent.
    pub(super) stopped: bool,
    pub(super) partial: Option<Accepted>,
}

impl Round<'_> {
    pub(super) async fn send(&mut self, parts: &[&ResourceMetrics]) {
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
            self.failure = Some("OTLP_MAX_MESSAGE_BYTES: no point fits into a message with the resource; is OTEL_RESOURCE_ATTRIBUTES too long?".to_owned());
        }
    }

    async fn pack(&mut self, packer: &mut Packer, metric: Metric) {
        for full in packer.add(metric) {
            self.deliver(full).await;
        }
    }

    /// Sends one message until it is accepted or its time is over.
    async fn deliver(&mut self, mut request: ExportMetricsServiceRequest) {
        self.has_sent = true;
        let points = message::points(&mut request);
        let counts = &self.delivery.counts;
        if !self.stopped && Instant::now() >= self.ends {
            self.stopped = true;
            self.is_answered = false;
            let late = "the receiver needs longer than SAMPLE_INTERVAL_SECONDS for all messages of a push; the remaining ones were not sent";
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
                    .fetch_add(points - rejected, Ordering::Relaxed);
                counts.rejected.fetch_add(rejected, Ordering::Relaxed);
                self.state.ledger.accepted(&mut request);
                if rejected > 0 || !accepted.message.is_empty() {
                    let partial = self.partial.get_or_insert_default();
                    partial.rejected += rejected;
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
            tracing::debug!(error = %failure, "a message is sent again");
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
                "OTLP_MAX_MESSAGE_BYTES: points that are larger than a message may be are dropped"
            );
        }
    }

    /// Ends it before the receiver has answered.
    pub(super) fn give_up(&mut self) {
        let ends = "the agent ends before the receiver has answered";
        self.failure.get_or_insert_with(|| ends.to_owned());
        self.is_answered = false;
    }

    /// The result. The receiver's reason for rejected points is logged when it changes, but not
    /// repeatedly.
    pub(super) fn end(self) -> Result<(), NotAccepted> {
        if let Some(partial) = &self.partial {
            // The same reason may have other numbers each time.
            let words = partial.message.replace(|c: char| c.is_ascii_digit(), "");
            let said = self.state.partial.as_ref();
            let is_new = said.is_none_or(|(said, at)| *said != words && at.elapsed() > SAY_AGAIN);
            if is_new {
                let Accepted {
                    rejected, message, ..
                } = partial;
                tracing::warn!(
                    rejected,
                    message,
                    "the OTLP receiver rejected points, or has a warning; prefect_agent_export_points_total counts rejected points"
                );
                self.state.partial = Some((words, Instant::now()));
            }
        } else if self.failure.is_none() {
            let said = self.state.partial.take();
            self.state.partial = said.filter(|(_, at)| at.elapsed() <= SAY_AGAIN);
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
        cause: format!("the receiver asked not to be sent anything for another {seconds} s"),
        hint: None,
        then: Then::Stop,
    }
}

/// A scope without its metrics.
pub(super) fn header(scope: &data::ScopeMetrics) -> ScopeMetrics {
    ScopeMetrics {
        scope: Some((scope.scope(), None).into()),
        metrics: Vec::new(),
        schema_url: scope.scope().schema_url().unwrap_or_default().to_owned(),
    }
}
