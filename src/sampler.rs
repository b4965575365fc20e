//! The driver: sends the requests that the core plans, concurrently, under one deadline per cycle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tracing::Instrument as _;

use crate::core::clock::Moment;
use crate::core::{Answered, Ask, Config, Core, Cycle, State};
use crate::keeper::Keeper;
use crate::prefect::Client;

/// The maximum number of requests passed to the client concurrently, which in turn sends at most
/// `MAX_CONCURRENT_REQUESTS`.
const MOST_CONCURRENT: usize = 64;

/// In a long cycle that catches up, a checkpoint is written about this often.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// The maximum number of rounds in a cycle. Each page of a list that is read by key is one round.
const MOST_ROUNDS: usize = 10_000;

/// Samples one Prefect API.
pub struct Sampler {
    core: Core,
    client: Arc<Client>,
    started: Instant,
    deadline: Duration,
}

impl Sampler {
    /// A sampler that sends the requests of `core` through `client`. A cycle takes at most
    /// `deadline`.
    pub fn new(core: Core, client: Client, deadline: Duration) -> Self {
        Sampler {
            core,
            client: Arc::new(client),
            started: Instant::now(),
            deadline,
        }
    }

    /// How long a cycle may take. All retries together could take longer, but alerts depend on
    /// timely cycles.
    pub fn deadline(config: &Config, request_timeout: Duration) -> Duration {
        config.interval.max(request_timeout).saturating_mul(2)
    }

    /// The state before the first cycle, from the checkpoint.
    pub fn state(&mut self) -> Arc<State> {
        self.core.state(self.now())
    }

    /// Notes that the state with this number has been delivered: from the next state on, series
    /// that first appeared in it are exported with their totals.
    pub fn mark_shown(&mut self, number: u64) {
        self.core.mark_shown(number);
    }

    /// Runs a cycle. The checkpoint contains everything in the returned state. While the agent
    /// catches up, checkpoints are also written during the cycle.
    pub async fn cycle(&mut self, keeper: &mut Keeper) -> Cycle {
        let began = Instant::now();
        let end = tokio::time::Instant::now() + self.deadline;
        self.core.begin(self.now());
        let (mut in_time, mut kept) = (true, began);
        for _ in 0..MOST_ROUNDS {
            let plan = self.core.plan(self.now());
            if plan.is_empty() {
                break;
            }
            let (answers, all) = self.round(plan, end).await;
            in_time = all;
            self.core.apply(self.now(), answers);
            if !in_time {
                break;
            }
            if kept.elapsed() >= KEEP_EVERY {
                self.keep(keeper).await;
                kept = Instant::now();
            }
        }
        let over = (!in_time).then(|| self.deadline.min(began.elapsed()));
        let cycle = self.core.finish(self.now(), over);
        self.keep(keeper).await;
        cycle
    }

    /// Ends the last cycle, which may have been cancelled. Answers that arrived until then are
    /// used. Without a checkpoint, series that appeared in it are exported with their counts.
    pub async fn end(&mut self, keeper: &mut Keeper) -> Cycle {
        if !keeper.is_on() {
            // Without a checkpoint, a later process does not know them.
            self.core.release();
        }
        if keeper.was_cancelled() {
            // It is not known whether the last checkpoint was written.
            self.core.checkpoint_failed();
        }
        let cycle = self.core.finish(self.now(), None);
        self.keep(keeper).await;
        cycle
    }

    /// Sends all requests concurrently; `false` if the deadline was reached before all were
    /// answered.
    async fn round(&self, plan: Vec<Ask>, end: tokio::time::Instant) -> (Vec<Answered>, bool) {
        let expected = plan.len();
        let mut answers = Vec::with_capacity(expected);
        let mut pending = stream::iter(plan)
            .map(|ask| self.ask(ask))
            .buffer_unordered(MOST_CONCURRENT);
        let all = async {
            while let Some(answered) = pending.next().await {
                answers.push(answered);
            }
        };
        let in_time = tokio::time::timeout_at(end, all).await.is_ok();
        drop(pending);
        (answers, in_time)
    }

    async fn ask(&self, ask: Ask) -> Answered {
        let sent = Instant::now();
        let span = tracing::debug_span!("section", section = ask.section.as_str());
        let result = self.client.execute(&ask.request).instrument(span).await;
        if let Err(error) = &result {
            tracing::debug!(section = ask.section.as_str(), %error, "a request failed");
        }
        Answered {
            ask,
            result,
            took: sent.elapsed(),
            at: self.now(),
        }
    }

    async fn keep(&mut self, keeper: &mut Keeper) {
        if !keeper.is_on() {
            return;
        }
        if let Some(saved) = self.core.checkpoint(self.now())
            && !keeper.keep(saved).await
        {
            self.core.checkpoint_failed();
        }
    }

    fn now(&self) -> Moment {
        Moment {
            uptime: self.started.elapsed(),
            wall: Timestamp::now(),
        }
    }
}
