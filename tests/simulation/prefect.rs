//! An in-memory Prefect in virtual time: the rules of the server without I/O.
//!
//! A [`World`] is a workspace that changes by the server's orchestration rules, and answers the
//! agent's typed requests as the server would. It reads no clock, does no I/O and is deterministic.
//! Each rule names the file in Prefect 3.8.8 that it is based on, relative to `prefect/server/`;
//! [`Release`] describes the differences of other releases. [`super::contract`] compares everything
//! with real servers.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prefect_otel_agent::prefect::objects::{
    Automation, Deployment, Field, Flow, GlobalLimit, Objects, Resource, TagLimit, WorkPool,
    WorkQueue, Worker,
};
use prefect_otel_agent::prefect::request::{
    FlowRunFilter, OneOf, Order, Page, Range, StateFilter, TaskRunFilter,
};
use prefect_otel_agent::prefect::runs::{FlowRun, RunState, StateCount, StateType, TaskRun};
use prefect_otel_agent::prefect::{Answer, Error, Id, Reply, Request};
use uuid::Uuid;

/// How the database orders nulls, which queries do not specify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nulls {
    /// SQLite: null is less than any value.
    Smallest,
    /// PostgreSQL: null is greater than any value.
    Largest,
}

/// The release of Prefect whose rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Release {
    /// The oldest supported release. A run that ends before it has started has neither a start nor
    /// an end time; the filter by start time compares only the start time; task runs cannot be
    /// filtered by end time; a deployment's scheduled runs are deleted with it even if they have
    /// run before.
    V3_0_4,
    /// If a condition on a state has both `any_` and `not_any_`, neither has an effect.
    V3_8_8,
    V3_9_1,
}

impl Release {
    fn number(self) -> &'static str {
        match self {
            Release::V3_0_4 => "3.0.4",
            Release::V3_8_8 => "3.8.8",
            Release::V3_9_1 => "3.9.1",
        }
    }
}

/// A flow run on the server.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    row: FlowRun,
    key: u128,
    /// Ordered by timestamp.
    states: Vec<RunState>,
    /// Created by a schedule, not manually.
    auto_scheduled: bool,
    /// `empirical_policy.resuming`.
    resuming: bool,
    /// The time in RUNNING, in microseconds.
    run_time: i64,
}

/// A task run on the server.
#[derive(Debug, Clone)]
struct Task {
    row: TaskRun,
    key: u128,
    flow_run: Id,
    state_name: Arc<str>,
    state_timestamp: Timestamp,
    start_time: Option<Timestamp>,
    /// The time in RUNNING, in microseconds.
    run_time: i64,
}

/// A state that is proposed.
#[derive(Debug, Clone, Copy)]
struct Proposal<'a> {
    kind: StateType,
    name: &'a str,
    timestamp: Timestamp,
    /// For SCHEDULED: when the run is to start.
    scheduled: Timestamp,
    /// Whether `CoreFlowPolicy` applies; `false` is `force`, with `MinimalFlowPolicy`.
    orchestrated: bool,
}

/// A workspace.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// The server's clock.
    pub(crate) now: Timestamp,
    /// `PREFECT_SERVER_API_DEFAULT_LIMIT`.
    pub(crate) page_limit: usize,
    /// How the database orders nulls.
    pub(crate) nulls: Nulls,
    /// Rows with equal sort keys are ordered by their ids, XORed with this value, because a server
    /// does not guarantee any order.
    pub(crate) ties: u128,
    /// The release whose rules apply.
    pub(crate) release: Release,
    /// The version that the server reports.
    pub(crate) version: Arc<str>,
    pub(crate) deployments: Vec<Deployment>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) work_pools: Vec<WorkPool>,
    pub(crate) work_queues: Vec<WorkQueue>,
    /// Workers, each with the name of its pool.
    pub(crate) workers: Vec<Worker>,
    pub(crate) global_limits: Vec<GlobalLimit>,
    pub(crate) tag_limits: Vec<TagLimit>,
    pub(crate) automations: Vec<Automation>,
    runs: Vec<Run>,
    places: HashMap<Id, usize, BuildHasherDefault<TextHasher>>,
    tasks: Vec<Task>,
    /// State names, each allocated once.
    names: Vec<Arc<str>>,
    made: u64,
}

impl World {
    /// An empty workspace of Prefect 3.8.8.
    pub(crate) fn new(now: Timestamp) -> Self {
        World::of(Release::V3_8_8, now)
    }

    /// An empty workspace of another release.
    pub(crate) fn of(release: Release, now: Timestamp) -> Self {
        World {
            now: micros(now),
            release,
            page_limit: 200,
            nulls: Nulls::Smallest,
            ties: 0,
            version: Arc::from(release.number()),
            deployments: Vec::new(),
            flows: Vec::new(),
            work_pools: Vec::new(),
            work_queues: Vec::new(),
            workers: Vec::new(),
            global_limits: Vec::new(),
            tag_limits: Vec::new(),
            automations: Vec::new(),
            runs: Vec::new(),
            places: HashMap::default(),
            tasks: Vec::new(),
            names: Vec::new(),
            made: 0,
        }
    }

    /// Moves the server's clock.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.now = micros(self.now + by);
    }

    /// The header `Date` of an answer: whole seconds.
    pub(crate) fn date(&self) -> Timestamp {
        Timestamp::from_second(self.now.as_second()).unwrap()
    }

    /// A new id: a UUID derived from a counter, in no particular order.
    fn id(&mut self) -> (Id, u128) {
        self.made += 1;
        let half = |seed: u64| {
            // SplitMix64.
            let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            u128::from(z ^ (z >> 31))
        };
        let bits = half(self.made) << 64 | half(self.made | 1 << 63);
        let uuid = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
        let mut text = Uuid::encode_buffer();
        let text: &str = uuid.hyphenated().encode_lower(&mut text);
        (Arc::from(text), uuid.as_u128())
    }

    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(name) = self.names.iter().find(|name| &***name == text) {
            return Arc::clone(name);
        }
        let name: Arc<str> = Arc::from(text);
        self.names.push(Arc::clone(&name));
        name
    }
}

/// Creating, renaming and deleting objects.
impl World {
    /// Creates a flow.
    pub(crate) fn create_flow(&mut self, name: &str) -> Id {
        let (id, _) = self.id();
        self.flows.push(Flow {
            id: Arc::clone(&id),
            name: Field::Value(Arc::from(name)),
        });
        id
    }

    /// Creates a work pool of the type `process`, with its default queue. Returns the queue's id.
    pub(crate) fn create_work_pool(&mut self, name: &str) -> Id {
        let (id, _) = self.id();
        self.work_pools.push(WorkPool {
            id,
            name: Field::Value(Arc::from(name)),
            kind: Field::Value(Arc::from("process")),
            status: Field::Value(Arc::from("NOT_READY")),
            updated: Some(self.now),
            is_paused: Field::Value(false),
            concurrency_limit: None,
            active_slots: None,
        });
        self.create_work_queue(name, "default")
    }

    /// A heartbeat of a worker, which may be its first one (models/workers.py
    /// `record_worker_heartbeat`).
    pub(crate) fn worker_heartbeat(&mut self, pool: &str, name: &str) {
        let (id, _) = self.id();
        let is =
            |field: &Field<Arc<str>>, text: &str| field.value().is_some_and(|is| &**is == text);
        let mut workers = self.workers.iter_mut();
        let known =
            workers.find(|worker| is(&worker.name, name) && is(&worker.work_pool_name, pool));
        let (status, now) = (Field::Value(Arc::from("ONLINE")), Some(self.now));
        match known {
            Some(worker) => (worker.status, worker.last_heartbeat_time) = (status, now),
            None => self.workers.push(Worker {
                id,
                name: Field::Value(Arc::from(name)),
                status,
                last_heartbeat_time: now,
                work_pool_name: Field::Value(Arc::from(pool)),
            }),
        }
        for found in &mut self.work_pools {
            if is(&found.name, pool) && is(&found.status, "NOT_READY") {
                found.status = Field::Value(Arc::from("READY"));
                found.updated = now;
            }
        }
    }

    /// Marks workers without a recent heartbeat, and pools without a live worker
    /// (services/foreman.py).
    pub(crate) fn watch_workers(&mut self) {
        let online = |status: &Field<Arc<str>>| status.value().is_some_and(|is| &**is == "ONLINE");
        let since = Some(self.now - Duration::from_secs(90));
        for worker in &mut self.workers {
            if online(&worker.status) && worker.last_heartbeat_time < since {
                worker.status = Field::Value(Arc::from("OFFLINE"));
            }
        }
        for pool in &mut self.work_pools {
            let of_pool = |worker: &&Worker| worker.work_pool_name == pool.name;
            let mut of_pool = self.workers.iter().filter(of_pool);
            let ready = pool.status.value().is_some_and(|is| &**is == "READY");
            if ready && !of_pool.any(|worker| online(&worker.status)) {
                pool.status = Field::Value(Arc::from("NOT_READY"));
                pool.updated = Some(self.now);
            }
        }
    }

    /// Creates a queue of a work pool.
    pub(crate) fn create_work_queue(&mut self, pool: &str, name: &str) -> Id {
        let (id, _) = self.id();
        let pool = Field::Value(Arc::from(pool));
        let of_pool = |queue: &&WorkQueue| queue.work_pool_name == pool;
        let priority = self.work_queues.iter().filter(of_pool).count() as i64 + 1;
        self.work_queues.push(WorkQueue {
            id: Arc::clone(&id),
            name: Field::Value(Arc::from(name)),
            work_pool_name: pool,
            priority: Field::Value(priority),
            status: Field::Value(Arc::from("NOT_READY")),
            is_paused: Field::Value(false),
            concurrency_limit: None,
            active_slots: None,
            last_polled: None,
        });
        id
    }

    /// Creates a deployment of a flow, whose runs are sent to `queue`.
    pub(crate) fn create_deployment(&mut self, flow: &Id, name: &str, queue: Option<&Id>) -> Id {
        let (id, _) = self.id();
        let (work_pool_name, work_queue_name) = self.queue_names(queue);
        self.deployments.push(Deployment {
            id: Arc::clone(&id),
            name: Field::Value(Arc::from(name)),
            flow_id: Some(Arc::clone(flow)),
            paused: Field::Value(false),
            tags: Field::Value(Vec::new()),
            path: Field::Null,
            status: Field::Value(Arc::from("NOT_READY")),
            work_pool_name,
            work_queue_name,
        });
        id
    }

    fn queue_names(&self, queue: Option<&Id>) -> (Field<Arc<str>>, Field<Arc<str>>) {
        let queue = queue.and_then(|id| self.work_queues.iter().find(|queue| queue.id == *id));
        match queue {
            Some(queue) => (queue.work_pool_name.clone(), queue.name.clone()),
            None => (Field::Null, Field::Null),
        }
    }

    /// Creates a scheduled run of a deployment, by its schedule (`auto`) or manually.
    pub(crate) fn schedule_run(&mut self, deployment: &Id, start: Timestamp, auto: bool) -> Id {
        let found = self
            .deployments
            .iter()
            .find(|found| found.id == *deployment);
        let found = found.unwrap();
        let (pool, queue) = (found.work_pool_name.clone(), found.work_queue_name.clone());
        let of_deployment =
            |found: &&WorkQueue| found.work_pool_name == pool && found.name == queue;
        let queue_id = self.work_queues.iter().find(of_deployment);
        let row = FlowRun {
            flow_id: found.flow_id.clone(),
            deployment_id: Some(Arc::clone(deployment)),
            work_queue_id: queue_id.map(|queue| Arc::clone(&queue.id)),
            work_queue_name: queue,
            work_pool_name: pool,
            ..blank()
        };
        let id = self.insert(row, auto);
        self.set_scheduled(&id, "Scheduled", start);
        id
    }

    /// Creates a run of a flow without a deployment, with an initial state of this type.
    pub(crate) fn create_run(&mut self, flow: &Id, kind: StateType, name: &str) -> Id {
        let row = FlowRun {
            flow_id: Some(Arc::clone(flow)),
            ..blank()
        };
        let id = self.insert(row, false);
        self.set_state(&id, kind, name, None);
        id
    }

    fn insert(&mut self, mut row: FlowRun, auto_scheduled: bool) -> Id {
        let (id, _) = self.id();
        row.name = Field::Value(self.name("quiet-koala"));
        row.id = Arc::clone(&id);
        self.load(row, Vec::new());
        if let Some(run) = self.runs.last_mut() {
            run.auto_scheduled = auto_scheduled;
        }
        id
    }

    /// Adds a copy of a run on another server.
    pub(crate) fn load(&mut self, row: FlowRun, states: Vec<RunState>) {
        let key = Uuid::parse_str(&row.id).unwrap().as_u128();
        let run_time = (row.total_run_time.unwrap_or_default() * 1e6).round() as i64;
        let before = self.places.insert(Arc::clone(&row.id), self.runs.len());
        assert!(before.is_none(), "{} is there already", row.id);
        self.runs.push(Run {
            row,
            key,
            states,
            auto_scheduled: false,
            resuming: false,
            run_time,
        });
    }

    /// Renames a flow.
    pub(crate) fn rename_flow(&mut self, id: &Id, name: &str) {
        let flow = self.flows.iter_mut().find(|flow| flow.id == *id);
        flow.unwrap().name = Field::Value(Arc::from(name));
    }

    /// Renames a deployment.
    pub(crate) fn rename_deployment(&mut self, id: &Id, name: &str) {
        let mut deployments = self.deployments.iter_mut();
        let deployment = deployments.find(|deployment| deployment.id == *id);
        deployment.unwrap().name = Field::Value(Arc::from(name));
    }

    /// The name of a deployment, as a label.
    pub(crate) fn deployment_name(&self, id: &Id) -> Arc<str> {
        let mut deployments = self.deployments.iter();
        let found = deployments.find(|deployment| deployment.id == *id);
        found.unwrap().name.label()
    }

    /// Changes the tags of a deployment.
    pub(crate) fn tag_deployment(&mut self, id: &Id, tags: &[&str]) {
        let mut deployments = self.deployments.iter_mut();
        if let Some(deployment) = deployments.find(|deployment| deployment.id == *id) {
            deployment.tags = Field::Value(tags.iter().map(|tag| Arc::from(*tag)).collect());
        }
    }

    /// Renames a flow run.
    pub(crate) fn rename_run(&mut self, id: &Id, name: &str) {
        let place = self.places[id];
        self.runs[place].row.name = Field::Value(Arc::from(name));
    }

    /// Deletes a flow run, with its states and task runs (database/orm_models.py: both cascade).
    pub(crate) fn delete_run(&mut self, id: &Id) {
        let Some(place) = self.places.remove(id) else {
            return;
        };
        self.runs.swap_remove(place);
        if let Some(moved) = self.runs.get(place) {
            self.places.insert(Arc::clone(&moved.row.id), place);
        }
        self.tasks.retain(|task| task.flow_run != *id);
    }

    /// Deletes a deployment and those of its scheduled runs that have never run. The others keep
    /// its id, because the column is not a foreign key (models/deployments.py `delete_deployment`).
    pub(crate) fn delete_deployment(&mut self, id: &Id) {
        self.delete_scheduled_runs(id, false);
        self.deployments.retain(|deployment| deployment.id != *id);
    }

    /// Deletes the scheduled runs of a deployment when it is deleted or, with `auto_only`, changed
    /// or paused (models/deployments.py `_delete_scheduled_runs`).
    pub(crate) fn delete_scheduled_runs(&mut self, deployment: &Id, auto_only: bool) {
        let gone = self.runs.iter().filter(|run| {
            run.row.deployment_id.as_ref() == Some(deployment)
                && run.row.state_type == Some(StateType::Scheduled)
                && (self.release == Release::V3_0_4
                    || run.row.run_count == Some(0)
                        && !is_named(&run.row, "AwaitingConcurrencySlot"))
                && (run.auto_scheduled || !auto_only)
        });
        for id in gone.map(|run| Arc::clone(&run.row.id)).collect::<Vec<_>>() {
            self.delete_run(&id);
        }
    }

    /// Deletes a flow, its deployments and all its runs (database/orm_models.py: they cascade).
    pub(crate) fn delete_flow(&mut self, id: &Id) {
        let of_flow = |run: &&Run| run.row.flow_id.as_ref() == Some(id);
        let runs = self.runs.iter().filter(of_flow);
        for run in runs.map(|run| Arc::clone(&run.row.id)).collect::<Vec<_>>() {
            self.delete_run(&run);
        }
        self.deployments
            .retain(|deployment| deployment.flow_id.as_ref() != Some(id));
        self.flows.retain(|flow| flow.id != *id);
    }

    /// Deletes a work pool with its queues and workers. Its runs and deployments no longer have a
    /// queue, but a run keeps the name of its queue (database/orm_models.py).
    pub(crate) fn delete_work_pool(&mut self, name: &str) {
        let of_pool = |pool: &Field<Arc<str>>| pool.value().is_some_and(|pool| &**pool == name);
        self.work_pools.retain(|pool| !of_pool(&pool.name));
        self.work_queues
            .retain(|queue| !of_pool(&queue.work_pool_name));
        self.workers
            .retain(|worker| !of_pool(&worker.work_pool_name));
        let sent = |pool: &Field<Arc<str>>| of_pool(pool);
        for run in self
            .runs
            .iter_mut()
            .filter(|run| sent(&run.row.work_pool_name))
        {
            run.row.work_queue_id = None;
            run.row.work_pool_name = Field::Null;
        }
        let mut deployments = self.deployments.iter_mut();
        while let Some(deployment) = deployments.find(|found| sent(&found.work_pool_name)) {
            deployment.work_pool_name = Field::Null;
        }
    }

    /// Every flow run.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &FlowRun> {
        self.runs.iter().map(|run| &run.row)
    }

    /// One flow run.
    pub(crate) fn run(&self, id: &Id) -> Option<&FlowRun> {
        self.find(id).map(|run| &run.row)
    }

    /// The states of a flow run, ordered by timestamp.
    pub(crate) fn states(&self, id: &Id) -> &[RunState] {
        self.find(id).map_or(&[], |run| &run.states)
    }

    fn find(&self, id: &str) -> Option<&Run> {
        let place = *self.places.get(id)?;
        self.runs.get(place)
    }
}

/// Transitions of runs.
impl World {
    /// Sets the state of a run regardless of its current one, as `set_state` with `force` does. The
    /// server sets the timestamp itself; a different `timestamp` simulates a server whose clock is
    /// wrong, or a slow commit. Returns the id of the new state; `None` if the run does not exist.
    /// A SCHEDULED run is to start now.
    pub(crate) fn set_state(
        &mut self,
        run: &Id,
        kind: StateType,
        name: &str,
        timestamp: Option<Timestamp>,
    ) -> Option<Id> {
        let timestamp = timestamp.unwrap_or(self.now);
        let proposal = self.proposal(kind, name, timestamp, false);
        self.transition(run, proposal)
    }

    /// Sets a SCHEDULED state with this name, such as `AwaitingRetry`, to start at `start`.
    pub(crate) fn set_scheduled(&mut self, run: &Id, name: &str, start: Timestamp) -> Option<Id> {
        let proposal = Proposal {
            scheduled: micros(start),
            ..self.proposal(StateType::Scheduled, name, self.now, false)
        };
        self.transition(run, proposal)
    }

    /// Sets the state of a run as a worker or a flow engine does, without `force`. The only
    /// difference is the bookkeeping of resumed runs: no proposal is rejected here.
    pub(crate) fn propose(&mut self, run: &Id, kind: StateType, name: &str) -> Option<Id> {
        let proposal = self.proposal(kind, name, self.now, true);
        self.transition(run, proposal)
    }

    /// Resumes a paused run: if it waits in its process, it is RUNNING immediately; if it was
    /// suspended (`reschedule`), it is scheduled (api/flow_runs.py `resume_flow_run`).
    pub(crate) fn resume(&mut self, run: &Id, reschedule: bool) -> Option<Id> {
        self.run(run)
            .filter(|run| run.state_type == Some(StateType::Paused))?;
        match reschedule {
            true => self.propose(run, StateType::Scheduled, "Resuming"),
            false => self.propose(run, StateType::Running, "Running"),
        }
    }

    /// Marks a scheduled run late, with a new state (services/late_runs.py).
    pub(crate) fn mark_late(&mut self, run: &Id) -> Option<Id> {
        let found = self.run(run)?;
        let scheduled = found.next_scheduled_start_time;
        let can_be = found.state_type == Some(StateType::Scheduled) && !is_named(found, "Late");
        let start = scheduled.filter(|_| can_be)?;
        self.set_scheduled(run, "Late", start)
    }

    /// Marks every run late that should have started `after` ago (15 s by default). Returns their
    /// number (services/late_runs.py).
    pub(crate) fn mark_late_runs(&mut self, after: Duration) -> usize {
        let until = self.now - after;
        let late = self.runs.iter().filter(|run| {
            run.row.state_type == Some(StateType::Scheduled)
                && is_named(&run.row, "Scheduled")
                && run
                    .row
                    .next_scheduled_start_time
                    .is_some_and(|start| start <= until)
        });
        let late: Vec<Id> = late.map(|run| Arc::clone(&run.row.id)).collect();
        late.iter().filter_map(|run| self.mark_late(run)).count()
    }

    fn proposal<'a>(
        &self,
        kind: StateType,
        name: &'a str,
        timestamp: Timestamp,
        orchestrated: bool,
    ) -> Proposal<'a> {
        Proposal {
            kind,
            name,
            timestamp: micros(timestamp),
            scheduled: self.now,
            orchestrated,
        }
    }

    /// The bookkeeping of every transition (orchestration/global_policy.py), in the same order.
    fn transition(&mut self, id: &Id, proposal: Proposal<'_>) -> Option<Id> {
        let place = *self.places.get(id)?;
        let (state, _) = self.id();
        let name = self.name(proposal.name);
        let run = self.runs.get_mut(place)?;
        let initial = run
            .row
            .state_id
            .as_ref()
            .and_then(|current| run.states.iter().find(|state| state.id == *current))
            .and_then(|state| Some((state.kind, state.timestamp?)));
        // EnsureFlowRunStateTimestampIsUnique.
        let mut timestamp = proposal.timestamp;
        let taken = |run: &Run, time| run.states.iter().any(|state| state.timestamp == Some(time));
        while taken(run, timestamp) {
            timestamp += Duration::from_micros(1);
        }
        let (kind, row) = (proposal.kind, &mut run.row);
        let left = |kind| initial.is_some_and(|(initial, _)| initial == kind);
        // SetRunStateType, SetRunStateName.
        row.state_type = Some(kind);
        row.state_name = Field::Value(Arc::clone(&name));
        // SetStartTime.
        if kind == StateType::Running {
            row.start_time.get_or_insert(timestamp);
        }
        // SetEndTime. From one terminal state to another, the first end time is kept.
        let was_final = initial.is_some_and(|(kind, _)| kind.is_final());
        if was_final && !kind.is_final() {
            row.end_time = None;
        }
        if kind.is_final() && row.end_time.is_none() {
            // A run that never started also gets a start time; in 3.0.4, it gets neither.
            if self.release > Release::V3_0_4 {
                row.start_time.get_or_insert(timestamp);
            }
            row.end_time = row.start_time.map(|_| timestamp);
        }
        // IncrementRunTime, which can decrease if clocks differ.
        if let Some((StateType::Running, since)) = initial {
            run.run_time += timestamp.as_microsecond() - since.as_microsecond();
            row.total_run_time = Some(run.run_time as f64 / 1e6);
        }
        // SetExpectedStartTime.
        let is_scheduled = kind == StateType::Scheduled;
        row.expected_start_time.get_or_insert(match is_scheduled {
            true => proposal.scheduled,
            false => timestamp,
        });
        // SetNextScheduledStartTime.
        if is_scheduled {
            row.next_scheduled_start_time = Some(proposal.scheduled);
        } else if left(StateType::Scheduled) {
            row.next_scheduled_start_time = None;
        }
        // HandleFlowTerminalStateTransitions (orchestration/core_policy.py).
        if proposal.orchestrated && was_final && !kind.is_final() {
            run.resuming = false;
        }
        // IncrementFlowRunCount, RemoveResumingIndicator.
        if kind == StateType::Running && !run.resuming {
            row.run_count = Some(row.run_count.unwrap_or_default() + 1);
        }
        if kind == StateType::Running || kind.is_final() {
            run.resuming = false;
        }
        // HandleResumingPausedFlows (orchestration/core_policy.py): after the transition.
        if proposal.orchestrated && left(StateType::Paused) {
            run.resuming = true;
        }
        row.state_id = Some(Arc::clone(&state));
        row.state_time = Some(timestamp);
        let at = run
            .states
            .partition_point(|state| state.timestamp < Some(timestamp));
        run.states.insert(
            at,
            RunState {
                id: Arc::clone(&state),
                kind,
                name: Field::Value(name),
                timestamp: Some(timestamp),
            },
        );
        Some(state)
    }

    /// Creates a task run of a flow run, in the state PENDING. Its worker orchestrates it and
    /// reports to the server (services/task_run_recorder.py), so its timestamps are the worker's.
    pub(crate) fn create_task_run(&mut self, flow_run: &Id, task: &str, key: &str) -> Id {
        let (id, number) = self.id();
        let name = self.name("Pending");
        let (state, _) = self.id();
        self.tasks.push(Task {
            row: TaskRun {
                id: Arc::clone(&id),
                name: Field::Value(Arc::from(format!("{task}-{}", key.get(..3).unwrap_or(key)))),
                task_key: Field::Value(Arc::from(format!("{task}-0a1b2c3d"))),
                dynamic_key: Field::Value(Arc::from(key)),
                state_id: Some(state),
                state_type: Some(StateType::Pending),
                end_time: None,
                total_run_time: Some(0.0),
            },
            key: number,
            flow_run: Arc::clone(flow_run),
            state_name: name,
            state_timestamp: self.now,
            start_time: None,
            run_time: 0,
        });
        id
    }

    /// Sets the state of a task run.
    pub(crate) fn set_task_state(
        &mut self,
        task: &Id,
        kind: StateType,
        name: &str,
        timestamp: Option<Timestamp>,
    ) -> Option<Id> {
        let timestamp = micros(timestamp.unwrap_or(self.now));
        let ((state, _), name) = (self.id(), self.name(name));
        let task = self.tasks.iter_mut().find(|found| found.row.id == *task)?;
        let was = task.row.state_type;
        if was.is_some_and(StateType::is_final) && !kind.is_final() {
            task.row.end_time = None;
        }
        // The same rules as for flow runs (orchestration/global_policy.py).
        let ends = kind.is_final() && task.row.end_time.is_none();
        if kind == StateType::Running || ends && self.release > Release::V3_0_4 {
            task.start_time.get_or_insert(timestamp);
        }
        if ends {
            task.row.end_time = task.start_time.map(|_| timestamp);
        }
        if was == Some(StateType::Running) {
            task.run_time += timestamp.as_microsecond() - task.state_timestamp.as_microsecond();
            task.row.total_run_time = Some(task.run_time as f64 / 1e6);
        }
        (task.state_name, task.state_timestamp) = (name, timestamp);
        task.row.state_type = Some(kind);
        task.row.state_id = Some(Arc::clone(&state));
        Some(state)
    }
}

/// Answers.
impl World {
    /// The answer to a request, with the server's time.
    pub(crate) fn reply(&self, request: &Request) -> Result<Reply, Error> {
        let answer = self.answer(request)?;
        let date = Some(self.date());
        Ok(Reply { answer, date })
    }

    /// The answer to a request.
    ///
    /// # Errors
    ///
    /// The errors of the server.
    pub(crate) fn answer(&self, request: &Request) -> Result<Answer, Error> {
        Ok(match request {
            Request::Version => Answer::Version(Arc::clone(&self.version)),
            Request::List { resource, page } => {
                self.check_limit(page.limit)?;
                Answer::Objects(self.objects(*resource, *page, &|_| true))
            }
            Request::Count(resource) => Answer::Count(self.count(*resource)?),
            Request::ByIds { resource, ids } => {
                let limit = ids.len().max(1);
                self.check_limit(limit)?;
                check_ids(ids)?;
                let page = Page { offset: 0, limit };
                Answer::Objects(self.objects(*resource, page, &|id| ids.contains(id)))
            }
            Request::Workers { pool, since, page } => self.workers(pool, *since, *page)?,
            Request::RunHistory { since, until } => {
                Answer::RunHistory(self.history(*since, *until))
            }
            Request::FlowRuns {
                filter,
                order,
                limit,
            } => {
                self.check_limit(*limit)?;
                let mut runs = self.matching(filter)?;
                self.sort(&mut runs, *order);
                runs.truncate(*limit);
                let rows: Vec<FlowRun> = runs.into_iter().map(|run| run.row.clone()).collect();
                Answer::FlowRuns(rows.into())
            }
            Request::CountFlowRuns(filter) => Answer::Count(self.matching(filter)?.len() as u64),
            // Empty for a run that does not exist (api/flow_run_states.py).
            Request::FlowRunStates(id) => Answer::FlowRunStates(self.states(id).to_vec().into()),
            Request::TaskRuns { filter, page } => self.task_runs(filter, *page)?,
        })
    }

    /// api/dependencies.py `LimitBody`.
    fn check_limit(&self, limit: usize) -> Result<(), Error> {
        let most = self.page_limit;
        if limit <= most {
            return Ok(());
        }
        Err(refused(format!(
            r#"{{"detail":"Invalid limit: must be less than or equal to {most}."}}"#
        )))
    }

    fn compare<T: Ord>(&self, one: Option<T>, other: Option<T>) -> Ordering {
        match (self.nulls, &one, &other) {
            (Nulls::Largest, None, Some(_)) => Ordering::Greater,
            (Nulls::Largest, Some(_), None) => Ordering::Less,
            _ => one.cmp(&other),
        }
    }

    /// schemas/sorting.py. Nulls are ordered by the database.
    fn sort(&self, runs: &mut [&Run], order: Order) {
        let by = |key: fn(&FlowRun) -> Option<Timestamp>, one: &Run, other: &Run| {
            self.compare(key(&one.row), key(&other.row))
        };
        let tie = |one: &Run, other: &Run| (one.key ^ self.ties).cmp(&(other.key ^ self.ties));
        runs.sort_unstable_by(|one, other| match order {
            Order::Id => other.key.cmp(&one.key),
            Order::EndTime => by(|run| run.end_time, other, one).then_with(|| tie(one, other)),
            Order::StartTime => {
                by(FlowRun::started_or_expected, other, one).then_with(|| tie(one, other))
            }
            Order::ExpectedStartTime => {
                by(|run| run.expected_start_time, one, other).then_with(|| tie(one, other))
            }
        });
    }

    /// schemas/filters.py `FlowRunFilter`.
    fn matching(&self, filter: &FlowRunFilter) -> Result<Vec<&Run>, Error> {
        let condition = Condition {
            release: self.release,
            state: States::new(&filter.state, self.release),
            start_time: Ends::new(filter.start_time),
            end_time: Ends::new(filter.end_time),
            expected_start_time: Ends::new(filter.expected_start_time),
            deployment_is_null: filter.deployment_id.is_null,
        };
        let excluded = match filter.id.not_any.is_empty() {
            true => None,
            false => Some(self.marks(&filter.id.not_any)?),
        };
        let matches = |place: usize, run: &Run| {
            let excluded = excluded.as_ref();
            !excluded.is_some_and(|excluded| excluded[place]) && condition.matches(&run.row)
        };
        let numbered = self.runs.iter().enumerate();
        Ok(match &filter.id.any {
            None => numbered
                .filter(|(place, run)| matches(*place, run))
                .map(|(_, run)| run)
                .collect(),
            Some(ids) => {
                let included = self.marks(ids)?;
                numbered
                    .filter(|(place, run)| included[*place] && matches(*place, run))
                    .map(|(_, run)| run)
                    .collect()
            }
        })
    }

    /// Marks the runs that have one of these ids.
    fn marks(&self, ids: &[Id]) -> Result<Vec<bool>, Error> {
        let mut marks = vec![false; self.runs.len()];
        for id in ids {
            match self.places.get(id) {
                Some(place) => marks[*place] = true,
                None => check_ids(std::slice::from_ref(id))?,
            }
        }
        Ok(marks)
    }

    /// schemas/filters.py `TaskRunFilter`, which does not support `not_any_` for states.
    fn task_runs(&self, filter: &TaskRunFilter, page: Page) -> Result<Answer, Error> {
        self.check_limit(page.limit)?;
        if !filter.state.types.not_any.is_empty() || !filter.state.names.not_any.is_empty() {
            return Err(refused("Extra inputs are not permitted".to_owned()));
        }
        // Since 3.6.22.
        if self.release == Release::V3_0_4 && filter.end_time != Range::default() {
            return Err(refused("Extra inputs are not permitted".to_owned()));
        }
        let state = States::new(&filter.state, self.release);
        let end_time = Ends::new(filter.end_time);
        let matches = |task: &&Task| {
            state.matches(task.row.state_type, Some(&task.state_name))
                && end_time.matches(task.row.end_time)
                && filter
                    .start_time
                    .is_null
                    .is_none_or(|is_null| task.start_time.is_none() == is_null)
        };
        let mut tasks: Vec<&Task> = self.tasks.iter().filter(matches).collect();
        tasks.sort_unstable_by(|one, other| {
            self.compare(other.row.end_time, one.row.end_time)
                .then_with(|| (one.key ^ self.ties).cmp(&(other.key ^ self.ties)))
        });
        let rows = tasks.into_iter().skip(page.offset).take(page.limit);
        let rows: Vec<TaskRun> = rows.map(|task| task.row.clone()).collect();
        Ok(Answer::TaskRuns(rows.into()))
    }

    /// A page of a list, ordered by name.
    fn objects(&self, resource: Resource, page: Page, with: &dyn Fn(&Id) -> bool) -> Objects {
        macro_rules! page {
            ($kind:ident, $list:ident, $object:ty, $name:expr) => {{
                let name: fn(&$object) -> Option<&Arc<str>> = $name;
                let mut list: Vec<_> = self.$list.iter().filter(|item| with(&item.id)).collect();
                let tie = |id: &Id| Uuid::parse_str(id).unwrap_or_default().as_u128() ^ self.ties;
                list.sort_by(|one, other| {
                    name(one)
                        .cmp(&name(other))
                        .then_with(|| tie(&one.id).cmp(&tie(&other.id)))
                });
                let items = list.into_iter().skip(page.offset).take(page.limit);
                Objects::$kind(items.cloned().collect::<Vec<_>>().into())
            }};
        }
        match resource {
            Resource::Deployments => page!(Deployments, deployments, Deployment, |item| item
                .name
                .value()),
            Resource::Flows => page!(Flows, flows, Flow, |item| item.name.value()),
            Resource::WorkPools => page!(WorkPools, work_pools, WorkPool, |item| item.name.value()),
            Resource::WorkQueues => {
                page!(WorkQueues, work_queues, WorkQueue, |item| item.name.value())
            }
            Resource::GlobalLimits => page!(GlobalLimits, global_limits, GlobalLimit, |item| item
                .name
                .value()),
            Resource::TagLimits => page!(TagLimits, tag_limits, TagLimit, |item| item.tag.value()),
            Resource::Automations => {
                page!(Automations, automations, Automation, |item| Some(&item.id))
            }
        }
    }

    fn count(&self, resource: Resource) -> Result<u64, Error> {
        let count = match resource {
            Resource::Deployments => self.deployments.len(),
            Resource::Flows => self.flows.len(),
            Resource::WorkPools => self.work_pools.len(),
            Resource::Automations => self.automations.len(),
            Resource::WorkQueues | Resource::GlobalLimits | Resource::TagLimits => {
                return Err(status(404, r#"{"detail":"Not Found"}"#.to_owned()));
            }
        };
        Ok(count as u64)
    }

    /// models/workers.py `read_workers`.
    fn workers(&self, pool: &str, since: Timestamp, page: Page) -> Result<Answer, Error> {
        let is_pool = |name: &Field<Arc<str>>| name.value().is_some_and(|name| &**name == pool);
        if !self.work_pools.iter().any(|pool| is_pool(&pool.name)) {
            return Err(status(
                404,
                format!(r#"{{"detail":"Work pool \"{pool}\" not found."}}"#),
            ));
        }
        self.check_limit(page.limit)?;
        let since = Ends::new(Range::after(since));
        let of_pool = |worker: &&Worker| {
            is_pool(&worker.work_pool_name) && since.matches(worker.last_heartbeat_time)
        };
        let mut workers: Vec<&Worker> = self.workers.iter().filter(of_pool).collect();
        workers.sort_by_key(|worker| std::cmp::Reverse(worker.last_heartbeat_time));
        let workers = workers.into_iter().skip(page.offset).take(page.limit);
        let workers = workers.map(|worker| Worker {
            work_pool_name: Field::Absent,
            ..worker.clone()
        });
        Ok(Answer::Workers(workers.collect::<Vec<_>>().into()))
    }

    /// api/run_history.py, with the interval that the agent requests: the whole seconds of the
    /// range. The remainder is a second interval.
    fn history(&self, since: Timestamp, until: Timestamp) -> Vec<StateCount> {
        let (since, until) = (micros(since), micros(until));
        let interval = until.duration_since(since).as_secs().max(1);
        let elapsed = until.as_microsecond() - since.as_microsecond();
        let intervals = elapsed.div_euclid(interval * 1_000_000)
            + i64::from(elapsed.rem_euclid(interval * 1_000_000) > 0);
        let intervals = intervals.clamp(0, 500);
        let mut counts = std::collections::BTreeMap::new();
        for run in self.runs() {
            let Some(expected) = run.expected_start_time else {
                continue;
            };
            let after = expected.as_microsecond() - since.as_microsecond();
            let bucket = after.div_euclid(interval * 1_000_000);
            if (0..intervals).contains(&bucket) {
                let name = run.state_name.value().cloned();
                *counts.entry((bucket, run.state_type, name)).or_insert(0) += 1;
            }
        }
        let counts = counts.into_iter();
        counts
            .map(|((_, state_type, name), count_runs)| StateCount {
                state_type,
                state_name: name.map_or(Field::Null, Field::Value),
                count_runs,
            })
            .collect()
    }
}

/// The conditions of a flow run filter, except those on ids.
struct Condition<'a> {
    release: Release,
    state: States<'a>,
    start_time: Ends,
    end_time: Ends,
    expected_start_time: Ends,
    deployment_is_null: Option<bool>,
}

impl Condition<'_> {
    fn matches(&self, run: &FlowRun) -> bool {
        let start = match self.release {
            Release::V3_0_4 => run.start_time,
            _ => run.started_or_expected(),
        };
        self.state.matches(run.state_type, run.state_name.value())
            && self.end_time.matches(run.end_time)
            && self.expected_start_time.matches(run.expected_start_time)
            && self.start_time.matches(start)
            && self
                .deployment_is_null
                .is_none_or(|is_null| run.deployment_id.is_none() == is_null)
    }
}

/// The conditions on a state. In 3.8.8, a condition with both `any_` and `not_any_` has no effect,
/// because `FlowRunFilterState` uses only single conditions (schemas/filters.py).
struct States<'a> {
    types: (Option<u16>, u16),
    names: (Option<&'a [Arc<str>]>, &'a [Arc<str>]),
}

impl<'a> States<'a> {
    fn new(filter: &'a StateFilter, release: Release) -> Self {
        let bits = |kinds: &[StateType]| kinds.iter().fold(0, |bits, kind| bits | bit(*kind));
        let (any_type, no_type) = conditions(&filter.types, release);
        States {
            types: (any_type.map(bits), bits(no_type)),
            names: conditions(&filter.names, release),
        }
    }

    /// Null matches neither `any_` nor `not_any_`.
    fn matches(&self, kind: Option<StateType>, name: Option<&Arc<str>>) -> bool {
        let of_type = |kind| {
            let (any, not_any) = self.types;
            any.is_none_or(|any| any & bit(kind) != 0) && not_any & bit(kind) == 0
        };
        let is_named = |name| {
            let (any, not_any) = self.names;
            any.is_none_or(|any| any.contains(name)) && !not_any.contains(name)
        };
        (self.types == (None, 0) || kind.is_some_and(of_type))
            && (self.names == (None, &[]) || name.is_some_and(is_named))
    }
}

/// The conditions of a filter that have an effect. An empty `not_any_` has none; an empty `any_`
/// matches nothing.
fn conditions<T>(filter: &OneOf<T>, release: Release) -> (Option<&[T]>, &[T]) {
    match (&filter.any, filter.not_any.as_slice()) {
        (Some(_), [_, ..]) if release == Release::V3_8_8 => (None, &[]),
        (any, not_any) => (any.as_deref(), not_any),
    }
}

fn bit(kind: StateType) -> u16 {
    1 << kind as u16
}

/// A range, inclusive at both ends. It never contains null.
#[derive(Clone, Copy)]
struct Ends(Range);

impl Ends {
    fn new(range: Range) -> Self {
        Ends(Range {
            after: range.after.map(micros),
            before: range.before.map(micros),
        })
    }

    fn matches(self, time: Option<Timestamp>) -> bool {
        let Range { after, before } = self.0;
        let at = |end: Option<Timestamp>, is_in: fn(Timestamp, Timestamp) -> bool| {
            end.is_none_or(|end| time.is_some_and(|time| is_in(time, end)))
        };
        at(after, |time, end| time >= end) && at(before, |time, end| time <= end)
    }
}

/// Prefect's times have microsecond precision.
fn micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

fn is_named(run: &FlowRun, name: &str) -> bool {
    run.state_name.value().is_some_and(|found| &**found == name)
}

/// An id in a filter that is not a UUID is refused.
fn check_ids(ids: &[Id]) -> Result<(), Error> {
    match ids.iter().all(|id| Uuid::parse_str(id).is_ok()) {
        true => Ok(()),
        false => Err(refused("Input should be a valid UUID".to_owned())),
    }
}

fn refused(detail: String) -> Error {
    status(422, detail)
}

/// An error response of the server.
pub(crate) fn status(status: u16, detail: String) -> Error {
    Error::Status {
        request: "in memory".to_owned(),
        status,
        detail,
        retry_after: None,
        maintenance: false,
    }
}

/// A run without any values.
fn blank() -> FlowRun {
    FlowRun {
        id: Arc::from(""),
        name: Field::Null,
        flow_id: None,
        deployment_id: None,
        state_id: None,
        state_type: None,
        state_name: Field::Null,
        state_time: None,
        expected_start_time: None,
        run_count: Some(0),
        next_scheduled_start_time: None,
        start_time: None,
        end_time: None,
        total_run_time: Some(0.0),
        work_queue_name: Field::Null,
        work_queue_id: None,
        work_pool_name: Field::Null,
    }
}

/// A fast hash for ids, which does not have to resist deliberate collisions.
#[derive(Debug, Clone, Default)]
pub(crate) struct TextHasher(u64);

impl Hasher for TextHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        let mut add = |word: u64| {
            self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
        };
        for chunk in &mut chunks {
            add(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        }
        for byte in chunks.remainder() {
            add(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        // The hash table uses bits from both ends of the hash.
        self.0 ^ self.0.rotate_left(32)
    }
}
