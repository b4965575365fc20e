//! The driver: sends what the core plans, side by side, under one deadline a cycle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tracing::Instrument as _;

use crate::checkpoint::Keeper;
use crate::core::clock::Moment;
use crate::core::{Answered, Ask, Config, Core, Cycle, State};
use crate::prefect::Client;

/// Requests handed to the client at one time; it lets `MAX_CONCURRENT_REQUESTS` through.
const SIDE_BY_SIDE: usize = 64;

/// A long cycle, which catches up, is kept about this often.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// No cycle has more rounds: each page of a list that is read by key is one.
const MOST_ROUNDS: usize = 10_000;

/// Samples one Prefect API.
pub struct Sampler {
    core: Core,
    client: Arc<Client>,
    started: Instant,
    deadline: Duration,
}

impl Sampler {
    /// A sampler that asks `client` what `core` plans. A cycle takes at most `deadline`.
    pub fn new(core: Core, client: Client, deadline: Duration) -> Self {
        Sampler {
            core,
            client: Arc::new(client),
            started: Instant::now(),
            deadline,
        }
    }

    /// How long a cycle may take: a server that hangs must not hold it up for all its retries,
    /// since alerts wait for it.
    pub fn deadline(config: &Config, request_timeout: Duration) -> Duration {
        config.interval.max(request_timeout) * 2
    }

    /// What is known before the first cycle: what the checkpoint holds.
    pub fn state(&mut self) -> Arc<State> {
        self.core.state(self.now())
    }

    /// The state with this number has been delivered: series that it was the first to show
    /// show what they count from the next one on.
    pub fn mark_shown(&mut self, number: u64) {
        self.core.mark_shown(number);
    }

    /// Reads what is due. What is to be shown is in the checkpoint before this returns. During a
    /// long catch-up, what was counted is kept from time to time.
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

    /// Ends the last cycle, which may have been cancelled: what came in until then counts.
    /// Without a checkpoint, series that appeared in it are shown with their counts.
    pub async fn end(&mut self, keeper: &mut Keeper) -> Cycle {
        if !keeper.is_on() {
            // No restart will show them.
            self.core.release();
        }
        let cycle = self.core.finish(self.now(), None);
        self.keep(keeper).await;
        cycle
    }

    /// Asks everything side by side; `false` if the time was over before all had answered.
    async fn round(&self, plan: Vec<Ask>, end: tokio::time::Instant) -> (Vec<Answered>, bool) {
        let expected = plan.len();
        let mut answers = Vec::with_capacity(expected);
        let mut pending = stream::iter(plan)
            .map(|ask| self.ask(ask))
            .buffer_unordered(SIDE_BY_SIDE);
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
