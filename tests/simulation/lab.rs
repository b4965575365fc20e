//! The lab: an agent's core and an in-memory Prefect in virtual time, and the invariants between
//! them.
//!
//! The [`Lab`] simulates events on both sides: runs that change state while requests are in flight,
//! answers that are lost or wrong, clocks that are changed, processes that are killed. It knows the
//! truth, and compares the core with it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use prefect_otel_agent::core::clock::Moment;
use prefect_otel_agent::core::events::Event;
use prefect_otel_agent::core::saved::SavedState;
use prefect_otel_agent::core::sections::Section;
use prefect_otel_agent::core::{Answered, Ask, Config, Core, Cycle, Lane, State};
use prefect_otel_agent::prefect::runs::{FlowRun, StateType};
use prefect_otel_agent::prefect::{Error, Id, Reply, Request};

use crate::observer::Observer;
use crate::prefect::{World, status};

/// Requests on their way, and the answers of lanes that have only some of theirs.
#[derive(Default)]
struct Flights {
    open: Vec<(Section, u64, Ask)>,
    answers: Vec<Answered>,
}

impl Flights {
    fn add(&mut self, plan: Vec<Ask>) {
        if plan.is_empty() {
            return;
        }
        let plan = plan.into_iter().map(|ask| (ask.section, key(&ask), ask));
        self.open.extend(plan);
        // The order depends only on the seed.
        self.open.sort_by_key(|(section, key, _)| (*section, *key));
    }

    /// The request that is answered next: answers arrive in any order.
    fn any(&mut self, rng: &mut Rng) -> Option<Ask> {
        let index = rng.usize(..self.open.len().max(1));
        (index < self.open.len()).then(|| self.open.swap_remove(index).2)
    }

    /// Returns the answers of the lane if this is its last one.
    fn arrive(&mut self, answered: Answered) -> Option<Vec<Answered>> {
        let lane = answered.ask.lane();
        self.answers.push(answered);
        if self.open.iter().any(|(.., ask)| ask.lane() == lane) {
            return None;
        }
        let answers = self.answers.drain(..);
        let (of_lane, others) = answers.partition(|answered| answered.ask.lane() == lane);
        self.answers = others;
        Some(of_lane)
    }

    /// The answers that have arrived by the deadline.
    fn arrived(&mut self) -> Vec<Answered> {
        std::mem::take(&mut self.answers)
    }
}

fn is_of_runs(ask: &Ask) -> bool {
    ask.lane() == Lane::Runs
}

/// A run and one of its terminal states.
pub(crate) type Pair = (Id, Id);

/// What happened on the server, and what the agent has to count.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// Pairs that must be counted once.
    pub(crate) required: BTreeSet<Pair>,
    /// Pairs that may be counted once, because it cannot be determined whether they ended after
    /// counting began.
    pub(crate) optional: BTreeSet<Pair>,
    /// The numbers of task runs that must be counted, by flow run, and of those that may be
    /// counted.
    tasks: BTreeMap<Id, usize>,
    optional_tasks: usize,
}

/// The current disturbances.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// The probability of an error instead of an answer.
    pub(crate) errors: f64,
    /// Whether requests for runs are answered with status 403.
    pub(crate) refused: bool,
    /// The status of these errors; `None` for errors of all kinds.
    pub(crate) status: Option<u16>,
    /// The probability that an answer comes from a lagging replica.
    pub(crate) stale: f64,
    /// The probability that an answer comes from another server, whose clock is ten minutes ahead.
    pub(crate) ahead: f64,
    /// The probability that a cycle reaches its deadline, after each of its requests for runs.
    pub(crate) cut_off: f64,
    /// The probability that the process is killed, at each point from the first answer of a cycle
    /// until after its push.
    pub(crate) dies: f64,
    /// The probability that a push does not arrive.
    pub(crate) no_push: f64,
    /// The probability that the answer to a push is lost or late.
    pub(crate) no_answer: f64,
    /// The maximum duration of a request, in milliseconds.
    pub(crate) slow: u64,
}

/// What survives the death of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// The checkpoint of the last cycle.
    Kept,
    /// Nothing: `STATE_DIR` is not set.
    Forgotten,
}

/// A core and a Prefect.
pub(crate) struct Lab {
    pub(crate) rng: Rng,
    pub(crate) world: World,
    pub(crate) core: Core,
    pub(crate) truth: Truth,
    pub(crate) weather: Weather,
    config: Config,
    /// The monotonic time since the beginning.
    now: Duration,
    /// When the process started.
    started: Duration,
    wall: Timestamp,
    /// Whether the server's clock has been set.
    was_set: bool,
    /// Runs that were retried although they had not started.
    fragile: BTreeSet<Id>,
    /// The state of a lagging replica.
    replica: Option<World>,
    /// When each terminal state was reached.
    ended_at: Vec<(Duration, Pair)>,
    /// The pairs that were counted, in order, and how many of them are in the checkpoint.
    log: Vec<Pair>,
    tasks: Vec<Pair>,
    saved: Option<(SavedState, usize, usize)>,
    /// The start of counting in the checkpoint.
    saved_since: Option<Timestamp>,
    /// The number of the last state, and of the last one before the checkpoint.
    made: u64,
    saved_at: u64,
    /// Whether the values exported last, according to the checkpoint, have arrived.
    saved_arrived: bool,
    /// The number of a state that has arrived, of which the process is notified late.
    told_later: Option<u64>,
    /// The receiver to which a process that is restored from a checkpoint is the same instance, and
    /// the one to which it is a new instance.
    same: Observer,
    other: Observer,
    /// The first inconsistency that they have seen.
    seen_wrong: Option<String>,
    /// Whether anything has changed or failed since the last cycle began, and during the one
    /// before.
    disturbed: [bool; 2],
    /// The server's time when counting began.
    pub(crate) counting_since: Option<Timestamp>,
    pub(crate) requests: usize,
    /// Whether to print everything that happens (`TRACE`).
    trace: bool,
}

/// Events in the workspace while time passes.
pub(crate) trait Events {
    /// Applies everything that happens until `now`; `true` if anything did.
    fn until(&mut self, now: Duration, lab: &mut Lab) -> bool;
}

/// No events.
pub(crate) struct Calm;

impl Events for Calm {
    fn until(&mut self, _: Duration, _: &mut Lab) -> bool {
        false
    }
}

impl Lab {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        Lab {
            rng: Rng::with_seed(seed),
            world: World::new(start),
            core: Core::new(config.clone(), None),
            truth: Truth::default(),
            weather: Weather::default(),
            config,
            now: Duration::ZERO,
            started: Duration::ZERO,
            wall: start,
            was_set: false,
            fragile: BTreeSet::new(),
            replica: None,
            ended_at: Vec::new(),
            log: Vec::new(),
            tasks: Vec::new(),
            saved: None,
            saved_since: None,
            made: 0,
            saved_at: 0,
            saved_arrived: false,
            told_later: None,
            same: Observer::default(),
            other: Observer::default(),
            seen_wrong: None,
            disturbed: [true; 2],
            counting_since: None,
            requests: 0,
            trace: std::env::var_os("TRACE").is_some(),
        }
    }

    /// The monotonic time since the beginning.
    pub(crate) fn time(&self) -> Duration {
        self.now
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment {
            uptime: self.now - self.started,
            wall: self.wall + self.now,
        }
    }

    /// Advances the time.
    pub(crate) fn pass(&mut self, time: Duration, events: &mut dyn Events) {
        let end = self.now + time;
        self.disturbed[0] |= events.until(end, self);
        self.world.advance(end - self.now);
        self.now = end;
    }

    /// Advances the time to an event that is about to happen.
    pub(crate) fn reach(&mut self, time: Duration) {
        self.world.advance(time.saturating_sub(self.now));
        self.now = self.now.max(time);
    }

    /// Notes that a run is retried that ended before it started. Only the order of its times shows
    /// that, so a clock that is set hides it.
    pub(crate) fn retried_before_start(&mut self, run: &Id) {
        match self.was_set {
            true => self.forget_truth(run),
            false => _ = self.fragile.insert(run.clone()),
        }
    }

    /// Sets the server's clock.
    pub(crate) fn step_clock(&mut self, by: SignedDuration) {
        self.was_set = true;
        for run in std::mem::take(&mut self.fragile) {
            self.forget_truth(&run);
        }
        if self.trace {
            eprintln!("{:?} CLOCK {by:?}", self.now);
        }
        self.world.now += by;
        self.disturbed[0] = true;
    }

    /// Sets the local clock.
    pub(crate) fn step_wall(&mut self, by: SignedDuration) {
        self.wall += by;
    }

    /// From now on, the replica answers with the current state.
    pub(crate) fn freeze_replica(&mut self) {
        self.replica = Some(self.world.clone());
    }

    /// Notes that a run reached a terminal state. It must be counted, unless it cannot be
    /// determined whether it ended after counting began.
    pub(crate) fn ended(&mut self, run: &Id, state: Id, sure: bool) {
        let end = self.world.run(run).and_then(|run| run.end_time);
        let before = is_before(end, self.counting_since);
        if before {
            // By this end time, the run belongs to the time before counting, so the agent does not
            // look at it again.
            self.forget_truth(run);
        }
        let pair = (Arc::clone(run), state);
        self.ended_at.push((self.now, pair.clone()));
        match sure && !before {
            true => self.truth.required.insert(pair),
            false => self.truth.optional.insert(pair),
        };
    }

    /// Notes that a task run ended, at a time of its worker's clock.
    pub(crate) fn task_ended(&mut self, run: &Id, end: Timestamp) {
        let since = self.counting_since;
        let sure = since.is_some_and(|since| end >= since + SignedDuration::from_secs(5));
        match sure {
            true => *self.truth.tasks.entry(run.clone()).or_default() += 1,
            false => self.truth.optional_tasks += 1,
        }
    }

    /// Notes that the task runs of a flow run were deleted.
    pub(crate) fn forget_tasks(&mut self, run: &Id) {
        self.truth.optional_tasks += self.truth.tasks.remove(run).unwrap_or_default();
    }

    /// Notes that the states of a run can no longer be requested.
    pub(crate) fn forget_truth(&mut self, run: &Id) {
        let of_run: Vec<Pair> = self
            .truth
            .required
            .iter()
            .filter(|(id, _)| id == run)
            .cloned()
            .collect();
        for pair in of_run {
            self.truth.required.remove(&pair);
            self.truth.optional.insert(pair);
        }
    }

    /// Runs a cycle; `None` if the process was killed during it.
    pub(crate) fn cycle(&mut self, events: &mut dyn Events) -> Option<Cycle> {
        self.disturbed = [false, self.disturbed[0]];
        self.core.begin(self.moment());
        let mut in_time = true;
        let mut flights = Flights::default();
        // The number of answers until the deadline.
        let mut left = usize::MAX;
        // Like the driver, it plans only when a lane has been answered.
        let mut is_answered = true;
        for step in 0.. {
            assert!(step < 50_000, "the cycle does not end");
            if std::mem::take(&mut is_answered) {
                let plan = self.core.plan(self.moment());
                if plan.iter().any(is_of_runs) && self.rng.f64() < self.weather.cut_off {
                    left = self.rng.usize(0..=flights.open.len() + plan.len());
                }
                flights.add(plan);
            }
            if left == 0 {
                self.core.apply(self.moment(), flights.arrived());
                self.counting_since = self.core.counting_since();
                in_time = false;
                self.disturbed[0] = true;
                break;
            }
            left -= 1;
            let Some(ask) = flights.any(&mut self.rng) else {
                break;
            };
            let took = Duration::from_millis(self.rng.u64(0..=self.weather.slow));
            self.pass(took, events);
            let result = self.answer(&ask.request);
            let at = self.moment();
            let answered = Answered {
                ask,
                result,
                took,
                at,
            };
            let Some(answers) = flights.arrive(answered) else {
                continue;
            };
            let of_runs = answers.iter().any(|answered| is_of_runs(&answered.ask));
            self.core.apply(self.moment(), answers);
            is_answered = true;
            self.counting_since = self.core.counting_since();
            if of_runs && self.dies() {
                // What was counted in this cycle may be in the checkpoint, but is not in any state.
                let memory = self.core.checkpoint(self.moment());
                let memory = memory.filter(|_| self.rng.bool());
                let cycle = self.core.finish(self.moment(), None);
                self.note(&cycle);
                memory.into_iter().for_each(|memory| self.save(memory));
                return None;
            }
        }
        let deadline = (!in_time).then_some(Duration::from_secs(60));
        let cycle = self.core.finish(self.moment(), deadline);
        self.made = cycle.state.number;
        self.note(&cycle);
        if let Some(number) = self.told_later.take() {
            self.core.mark_shown(number);
        }
        if self.dies() {
            return None;
        }
        self.keep();
        if self.dies() || !self.push(&cycle.state) {
            return None;
        }
        Some(cycle)
    }

    fn dies(&mut self) -> bool {
        self.rng.f64() < self.weather.dies
    }

    fn answer(&mut self, request: &Request) -> Result<Reply, Error> {
        let reply = self.reply(request);
        if self.trace {
            eprintln!("{:?} {request:?} -> {reply:?}", self.now);
        }
        reply
    }

    fn reply(&mut self, request: &Request) -> Result<Reply, Error> {
        self.requests += 1;
        let is_of_runs = matches!(
            request,
            Request::FlowRuns { .. } | Request::CountFlowRuns(_)
        );
        if self.weather.refused && is_of_runs {
            return Err(status(403, "no".to_owned()));
        }
        if self.rng.f64() < self.weather.errors {
            self.disturbed[0] = true;
            let code = self.weather.status.or_else(|| {
                let codes = [500, 502, 503, 404, 403, 504, 422];
                self.rng.choice(codes).filter(|_| self.rng.f64() < 0.7)
            });
            return Err(match code {
                Some(code) => status(code, "no".to_owned()),
                None if self.rng.bool() => no_answer("timeout"),
                None if self.rng.bool() => no_answer("connect"),
                None => web_page(),
            });
        }
        if let Some(replica) = &self.replica
            && self.rng.f64() < self.weather.stale
        {
            self.disturbed[0] = true;
            let date = Some(self.world.date());
            return replica.reply(request).map(|reply| Reply { date, ..reply });
        }
        let mut reply = self.world.reply(request)?;
        if self.rng.f64() < self.weather.ahead {
            reply.date = reply.date.map(|date| date + SignedDuration::from_mins(10));
        }
        Ok(reply)
    }

    fn note(&mut self, cycle: &Cycle) {
        if self.trace {
            let events: Vec<_> = cycle
                .events
                .iter()
                .map(|event| match event {
                    Event::FlowRun(run) => format!("{} {}", run.run.id, run.state_type.as_str()),
                    Event::TaskRun(task) => task.task.to_string(),
                })
                .collect();
            eprintln!(
                "{:?} CYCLE {:?} errors {:?}",
                self.now,
                events,
                cycle
                    .errors
                    .iter()
                    .map(|(section, _)| section)
                    .collect::<Vec<_>>()
            );
        }
        for event in &cycle.events {
            match event {
                Event::FlowRun(run) => self.log.push((run.run.id.clone(), run.state_id.clone())),
                Event::TaskRun(task) => self.tasks.push((task.task.clone(), task.task.clone())),
            }
        }
    }

    /// Writes the checkpoint.
    fn keep(&mut self) {
        if let Some(memory) = self.core.checkpoint(self.moment()) {
            self.save(memory);
        }
    }

    fn save(&mut self, memory: SavedState) {
        if self.trace {
            eprintln!("{:?} SAVE {} counted", self.now, self.log.len());
        }
        self.saved_since = self.core.counting_since();
        self.saved = Some((memory, self.log.len(), self.tasks.len()));
        self.saved_arrived &= self.saved_at >= self.made;
        self.saved_at = self.made;
    }

    /// Pushes a state. The push or its answer may be lost; `false` if the process was killed before
    /// the push arrived.
    fn push(&mut self, state: &State) -> bool {
        if self.rng.f64() < self.weather.no_push {
            return true;
        }
        self.arrives(state);
        if self.dies() {
            return false;
        }
        match self.rng.f64() < self.weather.no_answer {
            true => self.told_later = self.rng.bool().then_some(state.number),
            false => self.core.mark_shown(state.number),
        }
        true
    }

    fn arrives(&mut self, state: &State) {
        let seen = self.same.receive(state).and(self.other.receive(state));
        self.wrong(seen);
        self.saved_arrived |= state.number >= self.saved_at;
    }

    fn wrong(&mut self, seen: Result<(), String>) {
        if let Err(problem) = seen {
            let now = self.now;
            self.seen_wrong
                .get_or_insert_with(|| format!("at {now:?}: {problem}"));
        }
    }

    /// Kills the process and starts another one.
    pub(crate) fn restart(&mut self, death: Death, events: &mut dyn Events) {
        let down = Duration::from_secs(self.rng.u64(1..900));
        let memory = match (death, &self.saved) {
            (Death::Kept, Some((saved, flow_runs, tasks))) => {
                self.log.truncate(*flow_runs);
                self.tasks.truncate(*tasks);
                // Through its serialized form.
                let text = serde_json::to_string(saved).unwrap();
                Some(serde_json::from_str::<SavedState>(&text).unwrap())
            }
            _ => None,
        };
        if memory.is_none() {
            // Counting starts over: runs that ended before may be counted by a process that sees
            // them as unfinished, but do not have to be.
            self.truth.optional.append(&mut self.truth.required);
            let tasks = std::mem::take(&mut self.truth.tasks);
            self.truth.optional_tasks += tasks.values().sum::<usize>();
            self.log.clear();
            self.tasks.clear();
            self.same.forget();
            self.other.forget();
            self.counting_since = None;
            self.saved = None;
        }
        if memory.is_some() {
            self.count_since(self.saved_since);
        }
        if self.trace {
            eprintln!(
                "{:?} RESTART {death:?} down {down:?} memory {}, {} counted",
                self.now,
                memory.is_some(),
                self.log.len()
            );
        }
        self.pass(down, events);
        self.started = self.now;
        let resumes = memory.is_some();
        self.core = Core::new(self.config.clone(), memory);
        self.disturbed = [true; 2];
        // The restored values are exported first.
        let first = self.core.state(self.moment());
        (self.made, self.saved_at, self.told_later) = (first.number, 0, None);
        if resumes {
            let seen = self.other.begin_instance(&first, self.saved_arrived);
            self.wrong(seen);
        }
        self.push(&first);
    }

    /// Counting began at the time in the checkpoint. The process that was killed may have moved it
    /// to an earlier time, after a correction of the clock; that information is lost.
    fn count_since(&mut self, since: Option<Timestamp>) {
        if since > self.counting_since {
            let ended_before = |(run, state): &&Pair| {
                let mut states = self.world.states(run).iter();
                let of_pair = states.find(|of| of.id == *state);
                let end = of_pair.and_then(|state| state.timestamp);
                is_before(end, since)
            };
            let before: Vec<Pair> = self
                .truth
                .required
                .iter()
                .filter(ended_before)
                .cloned()
                .collect();
            before.iter().for_each(|(run, _)| self.forget_truth(run));
        }
        self.counting_since = since;
    }

    /// `increase()` over everything, for both receivers.
    pub(crate) fn increase(&self) -> [u64; 2] {
        [&self.same, &self.other].map(Observer::increase)
    }

    /// The number of terminal states of flow runs that were counted.
    pub(crate) fn counted(&self) -> usize {
        self.log.len()
    }

    /// Checks that every run that reached its terminal state before `time` has been counted.
    pub(crate) fn check_prompt(&self, time: Duration) -> Result<(), String> {
        let is_current = |(run, state): &Pair| {
            let current = self.world.run(run).and_then(|run| run.state_id.as_ref());
            current == Some(state)
        };
        let mut ended = self.ended_at.iter().filter(|(at, _)| *at < time);
        let late = ended.find(|(_, pair)| {
            self.truth.required.contains(pair) && is_current(pair) && !self.log.contains(pair)
        });
        match late {
            None => Ok(()),
            Some((at, pair)) => Err(format!(
                "ended at {at:?}, not counted at {time:?}: {}",
                self.describe(pair)
            )),
        }
    }

    /// Compares the counts with the truth, and reports pairs that were counted twice.
    pub(crate) fn check_counts(&mut self) -> Result<(), String> {
        let mut counted = BTreeMap::new();
        for pair in &self.log {
            *counted.entry(pair.clone()).or_insert(0) += 1;
        }
        if let Some((pair, times)) = counted.iter().find(|(_, times)| **times > 1) {
            return Err(format!("counted {times} times: {}", self.describe(pair)));
        }
        if let Some(pair) = self
            .truth
            .required
            .iter()
            .find(|pair| !counted.contains_key(*pair))
        {
            return Err(format!("not counted: {}", self.describe(pair)));
        }
        let known =
            |pair: &Pair| self.truth.required.contains(pair) || self.truth.optional.contains(pair);
        if let Some(pair) = counted.keys().find(|pair| !known(pair)) {
            return Err(format!(
                "counted, but never happened: {}",
                self.describe(pair)
            ));
        }
        let required: usize = self.truth.tasks.values().sum();
        let optional = self.truth.optional_tasks;
        let tasks = self.tasks.len();
        if self.config.task_runs && !(required..=required + optional).contains(&tasks) {
            return Err(format!(
                "task runs: {tasks} counted, {required} ended, {optional} more may have"
            ));
        }
        self.check_increase()
    }

    /// Compares `increase()` over everything with what was counted.
    fn check_increase(&mut self) -> Result<(), String> {
        if let Some(problem) = self.seen_wrong.take() {
            return Err(problem);
        }
        // Twice, because a series that has just appeared is exported at zero first.
        for _ in 0..2 {
            let state = self.core.state(self.moment());
            self.arrives(&state);
            self.core.mark_shown(state.number);
        }
        let counted = (self.log.len() + self.tasks.len()) as u64;
        match self.increase() == [counted; 2] {
            true => Ok(()),
            false => Err(format!(
                "increase() is {:?}, counted were {counted}",
                self.increase()
            )),
        }
    }

    /// Compares what is left after a calm hour with the server: the failed runs and the inventory.
    /// No more is remembered than has happened.
    pub(crate) fn check_rest(&self, cycle: &Cycle) -> Result<(), String> {
        let snapshot = &cycle.state.snapshot;
        let has_failed = |run: &&FlowRun| {
            StateType::FAILURE.map(Some).contains(&run.state_type) && run.deployment_id.is_some()
        };
        let failed = self.world.runs().filter(has_failed).map(state_of);
        same(
            "failed runs",
            failed,
            snapshot.failed.iter().map(|run| state_of(run)),
        )?;
        let label = |id: &Id, name: Arc<str>| (Arc::clone(id), Some(name));
        let flows = self.world.flows.iter();
        let known = snapshot.inventory.flows.values();
        same(
            "flows",
            flows.map(|flow| label(&flow.id, flow.name.label())),
            known.map(|flow| label(&flow.id, flow.name.label())),
        )?;
        let deployments = self.world.deployments.iter();
        let known = snapshot.inventory.deployments.values();
        same(
            "deployments",
            deployments.map(|deployment| label(&deployment.id, deployment.name.label())),
            known.map(|deployment| label(&deployment.id, deployment.name.label())),
        )?;
        let tasks: usize = self.truth.tasks.values().sum();
        let happened = self.ended_at.len() + tasks + self.truth.optional_tasks;
        match self.core.remembered() <= happened {
            true => Ok(()),
            false => Err(format!(
                "{} pairs are remembered of {happened}",
                self.core.remembered()
            )),
        }
    }

    fn describe(&self, (run, state): &Pair) -> String {
        let states = self.world.states(run).iter();
        let states: Vec<_> = states
            .map(|of| {
                let mark = if of.id == *state { "*" } else { "" };
                let time = of.timestamp.unwrap_or_default();
                format!("{mark}{} {time}", of.kind.as_str())
            })
            .collect();
        let row = self.world.run(run);
        let end = row.and_then(|run| run.end_time);
        let count = row.and_then(|run| run.run_count);
        format!(
            "{run} {states:?} end {end:?} run_count {count:?}, now {}",
            self.world.now
        )
    }

    /// Compares the gauges of unfinished runs with the server, if nothing changed or failed during
    /// this cycle and the one before: they must be correct or withheld.
    pub(crate) fn check_gauges(&self, cycle: &Cycle) -> Result<(), String> {
        if self.disturbed != [false; 2] || !cycle.errors.is_empty() {
            return Ok(());
        }
        let horizon = self
            .config
            .scheduled_lookahead
            .map(|ahead| self.world.now + ahead);
        let is_due = |run: &&FlowRun| match run.state_type {
            Some(StateType::Scheduled) => run.expected_start_time <= horizon || horizon.is_none(),
            Some(state) => StateType::ACTIVE.contains(&state),
            None => false,
        };
        let there = self.world.runs().filter(is_due).map(state_of);
        let seen = cycle.state.snapshot.unfinished.iter();
        same("unfinished runs", there, seen.map(|run| state_of(run)))
    }
}

/// An object and what is shown of it.
type Shown = (Id, Option<Arc<str>>);

/// Compares the objects on the server with those that are `seen`.
fn same(
    what: &str,
    there: impl Iterator<Item = Shown>,
    seen: impl Iterator<Item = Shown>,
) -> Result<(), String> {
    let (there, seen): (BTreeSet<_>, BTreeSet<_>) = (there.collect(), seen.collect());
    let missing: Vec<_> = there.difference(&seen).collect();
    let gone: Vec<_> = seen.difference(&there).collect();
    match missing.is_empty() && gone.is_empty() {
        true => Ok(()),
        false => Err(format!("{what}: missing {missing:?}, gone {gone:?}")),
    }
}

/// A request without an answer.
fn no_answer(kind: &'static str) -> Error {
    Error::Transport {
        request: "in memory".to_owned(),
        kind,
        reason: "no answer".to_owned(),
        hint: None,
    }
}

/// The page of a proxy.
fn web_page() -> Error {
    Error::Body {
        request: "in memory".to_owned(),
        reason: "a web page".to_owned(),
        hint: None,
    }
}

/// A number for a request, which does not depend on the order of its ids.
fn key(ask: &Ask) -> u64 {
    let mut request = ask.request.clone();
    match &mut request {
        Request::FlowRuns { filter, .. } | Request::CountFlowRuns(filter) => {
            filter.id.not_any.sort_unstable();
            filter.id.any.iter_mut().for_each(|ids| ids.sort_unstable());
        }
        Request::ByIds { ids, .. } => ids.sort_unstable(),
        _ => {}
    }
    let mut hasher = DefaultHasher::new();
    request.hash(&mut hasher);
    hasher.finish()
}

/// Whether it cannot be determined that a run ended after counting began.
fn is_before(end: Option<Timestamp>, since: Option<Timestamp>) -> bool {
    match (end, since) {
        (Some(end), Some(since)) => end < since + SignedDuration::from_secs(5),
        _ => true,
    }
}

fn state_of(run: &FlowRun) -> Shown {
    (Arc::clone(&run.id), run.state_name.value().cloned())
}
