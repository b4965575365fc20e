//! The driver: sends the requests that the core plans, concurrently, under one deadline per cycle.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use crate::core::clock::Moment;
use crate::core::events::Event;
use crate::core::{Answered, Ask, Config, Core, Cycle, Lane, State};
use crate::keeper::Keeper;
use crate::prefect::Client;

/// In a long cycle that catches up, a checkpoint is written about this often.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// Samples one Prefect API.
pub struct Sampler {
    core: Core,
    client: Arc<Client>,
    started: Instant,
    deadline: Duration,
    /// The events of a cycle that has ended, until its checkpoint is written.
    unreported: Vec<Event>,
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
            unreported: Vec::new(),
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
        let mut requests = Requests::new(&self.client, self.started);
        let mut kept = began;
        let in_time = loop {
            requests.send(self.core.plan(self.now()));
            match tokio::time::timeout_at(end, requests.answered()).await {
                Ok(Some(answers)) => self.core.apply(self.now(), answers),
                Ok(None) => break true,
                Err(_) => {
                    self.core.apply(self.now(), requests.cancel());
                    break false;
                }
            }
            if kept.elapsed() >= KEEP_EVERY {
                self.keep(keeper).await;
                kept = Instant::now();
            }
        };
        let over = (!in_time).then(|| self.deadline.min(began.elapsed()));
        let cycle = self.core.finish(self.now(), over);
        self.unreported.clone_from(&cycle.events);
        self.keep(keeper).await;
        self.unreported.clear();
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
        let mut cycle = self.core.finish(self.now(), None);
        cycle.events.splice(..0, self.unreported.drain(..));
        self.keep(keeper).await;
        cycle
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
        now(self.started)
    }
}

/// The time in a process that started at `started`.
fn now(started: Instant) -> Moment {
    Moment {
        uptime: started.elapsed(),
        wall: Timestamp::now(),
    }
}

/// The requests of a cycle. Dropping this cancels those without an answer.
struct Requests {
    client: Arc<Client>,
    started: Instant,
    sent: JoinSet<Answered>,
    lanes: HashMap<Lane, Round>,
}

/// The requests of a lane that were planned together.
struct Round {
    /// Permits to send a request of this lane. A lane uses at most all but one of
    /// `MAX_CONCURRENT_REQUESTS`, so that a list that Prefect does not answer does not stop the
    /// others.
    permits: Arc<Semaphore>,
    unanswered: usize,
    answers: Vec<Answered>,
}

impl Round {
    fn new(concurrent: usize) -> Self {
        Round {
            permits: Arc::new(Semaphore::new(concurrent.saturating_sub(1).max(1))),
            unanswered: 0,
            answers: Vec::new(),
        }
    }
}

impl Requests {
    fn new(client: &Arc<Client>, started: Instant) -> Self {
        Requests {
            client: Arc::clone(client),
            started,
            sent: JoinSet::new(),
            lanes: HashMap::new(),
        }
    }

    fn send(&mut self, plan: Vec<Ask>) {
        let concurrent = self.client.max_concurrent_requests();
        for ask in plan {
            let round = self.lanes.entry(ask.lane());
            let round = round.or_insert_with(|| Round::new(concurrent));
            round.unanswered = round.unanswered.saturating_add(1);
            let (client, permits) = (Arc::clone(&self.client), Arc::clone(&round.permits));
            let request = send(client, permits, ask, self.started);
            self.sent.spawn(request.in_current_span());
        }
    }

    /// Waits until a lane has been answered. Returns its answers; `None` if no request is left.
    async fn answered(&mut self) -> Option<Vec<Answered>> {
        while let Some(answered) = self.sent.join_next().await {
            let answered = answered.unwrap_or_else(|error| resume_unwind(error.into_panic()));
            let Some(round) = self.lanes.get_mut(&answered.ask.lane()) else {
                continue;
            };
            round.answers.push(answered);
            round.unanswered = round.unanswered.saturating_sub(1);
            if round.unanswered == 0 {
                return Some(std::mem::take(&mut round.answers));
            }
        }
        None
    }

    /// Cancels the requests without an answer. Returns the answers of lanes that have only some.
    fn cancel(self) -> Vec<Answered> {
        let rounds = self.lanes.into_values();
        rounds.flat_map(|round| round.answers).collect()
    }
}

async fn send(
    client: Arc<Client>,
    permits: Arc<Semaphore>,
    ask: Ask,
    started: Instant,
) -> Answered {
    // The semaphore is never closed.
    let _permit = permits.acquire().await.ok();
    let sent = Instant::now();
    let span = tracing::debug_span!("section", section = ask.section.as_str());
    let result = client.execute(&ask.request).instrument(span).await;
    if let Err(error) = &result {
        tracing::debug!(section = ask.section.as_str(), %error, "a request failed");
    }
    Answered {
        ask,
        result,
        took: sent.elapsed(),
        at: now(started),
    }
}
