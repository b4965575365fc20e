//! The contract test: compares the in-memory Prefect with real servers. The same transitions must
//! change runs in the same way, and the same requests must get the same answers.
//!
//! Each check takes the URL of a server whose background services are disabled, and which has no
//! runs of the deployments that the check creates.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prefect_otel_agent::prefect::objects::{Objects, Resource};
use prefect_otel_agent::prefect::request::{
    FlowRunFilter, OneOf, Order, Page, Presence, Range, StateFilter, TaskRunFilter,
};
use prefect_otel_agent::prefect::runs::{FlowRun, RunState, StateType};
use prefect_otel_agent::prefect::{
    Answer, Client, Error, Id, Request, RequestObserver, RequestRecord,
};
use prefect_otel_agent::settings::{Settings, Sources};
use serde_json::{Value, json};

use crate::prefect::{Nulls, Release, World};
use crate::support::postgres::Postgres;
use crate::support::prefect::{Server, Version};

/// Services that would change runs while they are compared; the second name is the one in 3.0.
const QUIET: [(&str, &str); 6] = [
    ("PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED", "false"),
    ("PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED", "false"),
    ("PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED", "false"),
    ("PREFECT_API_SERVICES_LATE_RUNS_ENABLED", "false"),
    ("PREFECT_API_SERVICES_SCHEDULER_ENABLED", "false"),
    ("PREFECT_API_SERVICES_PAUSE_EXPIRATIONS_ENABLED", "false"),
];

#[test]
fn the_in_memory_prefect_behaves_like_a_real_one_on_sqlite() {
    let server = Server::start(&QUIET);
    compare_with(&server.url, Release::V3_8_8, Nulls::Smallest);
}

#[test]
#[ignore = "with the others of its kind, takes minutes"]
fn the_in_memory_prefect_behaves_like_a_real_one_on_postgresql() {
    let test = "the_in_memory_prefect_behaves_like_a_real_one_on_postgresql";
    let Some(postgres) = Postgres::start(test) else {
        return;
    };
    let url = postgres.url();
    let database = [("PREFECT_API_DATABASE_CONNECTION_URL", url.as_str())];
    let server = Server::start(&[&QUIET[..], &database].concat());
    compare_with(&server.url, Release::V3_8_8, Nulls::Largest);
}

#[test]
#[ignore = "with the others of its kind, takes minutes"]
fn the_in_memory_prefect_behaves_like_the_newest_one() {
    let test = "the_in_memory_prefect_behaves_like_the_newest_one";
    if let Some(server) = Server::start_version(test, Version::Newest, &QUIET) {
        compare_with(&server.url, Release::V3_9_1, Nulls::Smallest);
    }
}

#[test]
#[ignore = "with the others of its kind, takes minutes"]
fn the_in_memory_prefect_behaves_like_the_oldest_one() {
    let test = "the_in_memory_prefect_behaves_like_the_oldest_one";
    if let Some(server) = Server::start_version(test, Version::Oldest, &QUIET) {
        compare_with(&server.url, Release::V3_0_4, Nulls::Smallest);
    }
}

/// Compares the in-memory Prefect with the server at `url`.
pub(crate) fn compare_with(url: &str, release: Release, nulls: Nulls) {
    let real = Real::new(url, release);
    for script in SCRIPTS {
        transitions(&real, script);
    }
    deletions(&real);
    let world = real.world(nulls);
    assert!(world.runs().count() > 20);
    answers(&real, &world);
    lists(&real, nulls);
    task_runs(&real, nulls);
    thousands(&real, nulls);
}

struct Nobody;

impl RequestObserver for Nobody {
    fn on_request(&self, _: &RequestRecord<'_>) {}
}

/// A real server.
struct Real {
    url: String,
    release: Release,
    http: reqwest::blocking::Client,
    client: Client,
    runtime: tokio::runtime::Runtime,
    flow: String,
    deployment: String,
}

impl Real {
    fn new(url: &str, release: Release) -> Self {
        let environment = [
            ("PREFECT_API_URL", url),
            ("REQUEST_TIMEOUT_SECONDS", "120"),
            ("MAX_RETRIES", "5"),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let settings = Settings::load(&Sources {
            environment: environment.into_iter().collect(),
            ..Sources::default()
        });
        let patience = Duration::from_secs(120);
        let http = reqwest::blocking::Client::builder().timeout(patience);
        let mut real = Real {
            url: url.to_owned(),
            release,
            http: http.build().unwrap(),
            client: Client::new(&settings.unwrap().prefect, Arc::new(Nobody)).unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            flow: String::new(),
            deployment: String::new(),
        };
        let name = uuid::Uuid::new_v4().to_string();
        real.flow = real.create("/flows/", json!({"name": name}));
        real.deployment = real.deploy(json!([]));
        real
    }

    fn deploy(&self, schedules: Value) -> String {
        let name = uuid::Uuid::new_v4().to_string();
        let body = json!({
            "name": name,
            "flow_id": self.flow,
            "schedules": schedules,
            "enforce_parameter_schema": false,
        });
        self.create("/deployments/", body)
    }

    fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        for _ in 0..20 {
            let url = format!("{}{path}", self.url);
            let mut request = self.http.request(method.parse().unwrap(), url);
            if let Some(body) = &body {
                request = request.json(body);
            }
            let answer = request.send().unwrap();
            let status = answer.status();
            if status == 503 {
                std::thread::sleep(Duration::from_millis(500));
                continue;
            }
            let text = answer.text().unwrap();
            assert!(status.is_success(), "{method} {path}: {status} {text}");
            return serde_json::from_str(&text).unwrap_or(Value::Null);
        }
        panic!("{method} {path}: busy for ten seconds")
    }

    fn create(&self, path: &str, body: Value) -> String {
        let created = self.call("POST", path, Some(body));
        created["id"].as_str().unwrap().to_owned()
    }

    fn ask(&self, request: &Request) -> Result<Answer, Error> {
        let reply = self.runtime.block_on(self.client.execute(request));
        reply.map(|reply| reply.answer)
    }

    fn flow_runs(&self, filter: FlowRunFilter, order: Order, limit: usize) -> Vec<FlowRun> {
        let request = Request::FlowRuns {
            filter,
            order,
            limit,
        };
        runs(self.ask(&request)).unwrap()
    }

    fn flow_run(&self, id: &str) -> Option<FlowRun> {
        let filter = FlowRunFilter::of_ids([Id::from(id)]);
        self.flow_runs(filter, Order::Id, 1).pop()
    }

    fn states(&self, id: &str) -> Vec<RunState> {
        match self.ask(&Request::FlowRunStates(Id::from(id))) {
            Ok(Answer::FlowRunStates(listed)) => listed.items,
            other => panic!("{other:?}"),
        }
    }

    /// A copy of its current runs.
    fn world(&self, nulls: Nulls) -> World {
        let mut world = World::of(self.release, Timestamp::now());
        world.nulls = nulls;
        let mut last: Vec<Id> = Vec::new();
        loop {
            let filter = FlowRunFilter {
                id: OneOf::not_any(last.iter().cloned()),
                ..FlowRunFilter::default()
            };
            let page = self.flow_runs(filter, Order::Id, 200);
            let is_last = page.len() < 200;
            for run in page {
                last.push(Arc::clone(&run.id));
                world.load(run, Vec::new());
            }
            if is_last {
                return world;
            }
        }
    }
}

fn runs(answer: Result<Answer, Error>) -> Result<Vec<FlowRun>, Error> {
    match answer? {
        Answer::FlowRuns(listed) => {
            assert!(listed.skipped.is_empty(), "{:?}", listed.skipped);
            Ok(listed.items)
        }
        other => panic!("{other:?}"),
    }
}

/// A transition of a run.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// `set_state` with `force`.
    Force(StateType, &'static str),
    /// `set_state`, as a worker or a flow engine calls it.
    Propose(StateType, &'static str),
    /// Pauses the run in its process, or suspends it (`true`).
    Pause(bool),
    /// `/resume` of a run that was paused, or suspended (`true`).
    Resume(bool),
    /// Marks the run late, as the service does.
    Late,
}

use Step::{Force, Late, Pause, Propose, Resume};

const PENDING: Step = Propose(StateType::Pending, "Pending");
const RUNNING: Step = Propose(StateType::Running, "Running");
const COMPLETED: Step = Propose(StateType::Completed, "Completed");
const FAILED: Step = Propose(StateType::Failed, "Failed");
const RETRY: Step = Force(StateType::Scheduled, "AwaitingRetry");

const SCRIPTS: &[&[Step]] = &[
    &[],
    &[PENDING],
    &[PENDING, RUNNING],
    &[PENDING, RUNNING, COMPLETED],
    // Late, and then completed without having been seen running.
    &[
        Late,
        PENDING,
        RUNNING,
        Propose(StateType::Completed, "Cached(type=COMPLETED)"),
    ],
    &[Late],
    // Retried by Prefect, and manually after each terminal state.
    &[RUNNING, RETRY, PENDING, RUNNING, COMPLETED],
    &[RUNNING, RETRY],
    &[
        RUNNING,
        FAILED,
        Propose(StateType::Scheduled, "AwaitingRetry"),
        PENDING,
        RUNNING,
        COMPLETED,
        Propose(StateType::Scheduled, "Scheduled"),
        PENDING,
    ],
    // From a terminal state directly to running, and running twice.
    &[
        RUNNING,
        FAILED,
        Force(StateType::Running, "Running"),
        FAILED,
    ],
    &[
        RUNNING,
        Force(StateType::Running, "Retrying"),
        Force(StateType::Running, "Running"),
    ],
    // Ended before it started.
    &[Force(StateType::Cancelled, "Cancelled")],
    &[Late, Force(StateType::Cancelled, "Cancelled")],
    &[PENDING, Propose(StateType::Crashed, "Crashed")],
    &[
        Force(StateType::Failed, "Failed"),
        Force(StateType::Running, "Running"),
    ],
    // From one terminal state to another, with and without force.
    &[
        RUNNING,
        COMPLETED,
        Force(StateType::Failed, "Failed"),
        COMPLETED,
    ],
    &[
        RUNNING,
        Propose(StateType::Crashed, "Crashed"),
        Propose(StateType::Cancelled, "Cancelled"),
        Force(StateType::Crashed, "Crashed"),
        Force(StateType::Running, "Running"),
        COMPLETED,
    ],
    // Cancelled while running.
    &[
        RUNNING,
        Force(StateType::Cancelling, "Cancelling"),
        Force(StateType::Cancelled, "Cancelled"),
    ],
    &[RUNNING, Force(StateType::Cancelling, "Cancelling")],
    // Paused and resumed in its process: the first resumption counts as a start.
    &[
        PENDING,
        RUNNING,
        Pause(false),
        Resume(false),
        Pause(false),
        Resume(false),
        COMPLETED,
    ],
    // Suspended and resumed: the start does not count.
    &[
        PENDING,
        RUNNING,
        Pause(true),
        Resume(true),
        PENDING,
        RUNNING,
        Pause(true),
        Resume(true),
        PENDING,
        RUNNING,
        COMPLETED,
    ],
    &[
        RUNNING,
        Pause(false),
        Resume(false),
        FAILED,
        Propose(StateType::Scheduled, "AwaitingRetry"),
        PENDING,
        RUNNING,
        Pause(true),
    ],
    &[
        RUNNING,
        Pause(false),
        Resume(false),
        Pause(true),
        Resume(true),
        PENDING,
        RUNNING,
        COMPLETED,
    ],
    // Paused, and then neither resumed nor forced.
    &[
        RUNNING,
        Force(StateType::Paused, "Paused"),
        Force(StateType::Running, "Running"),
        Force(StateType::Paused, "Suspended"),
        Propose(StateType::Failed, "Failed"),
        Force(StateType::Running, "Running"),
    ],
    &[RUNNING, Pause(false)],
];

/// Applies `script` to a run in both, and compares the run after every step.
fn transitions(real: &Real, script: &[Step]) {
    let start: Timestamp = "2026-06-01T10:00:00Z".parse().unwrap();
    let path = format!("/deployments/{}/create_flow_run", real.deployment);
    let details = json!({"scheduled_time": start.to_string()});
    let id = real.create(
        &path,
        json!({"state": {"type": "SCHEDULED", "state_details": details}}),
    );
    let first = real.states(&id);
    let mut world = World::of(real.release, first[0].timestamp.unwrap());
    let flow = world.create_flow("flow");
    let deployment = world.create_deployment(&flow, "deployment", None);
    let run = world.schedule_run(&deployment, start, false);
    compare(real, &id, &world, &run, &"created");
    for (number, step) in script.iter().enumerate() {
        let before = real.states(&id);
        act(real, &id, *step);
        let after = real.states(&id);
        let new: Vec<_> = after
            .iter()
            .filter(|state| !before.iter().any(|old| old.id == state.id))
            .collect();
        assert_eq!(new.len(), 1, "{step:?} of {script:?}: {after:?}");
        world.now = new[0].timestamp.unwrap();
        let made = match *step {
            Force(kind, name) => world.set_state(&run, kind, name, None),
            Propose(kind, name) => world.propose(&run, kind, name),
            Pause(suspend) => world.propose(&run, StateType::Paused, pause_name(suspend)),
            Resume(suspended) => world.resume(&run, suspended),
            Late => world.mark_late(&run),
        };
        assert!(made.is_some(), "{step:?} of {script:?}");
        let place = format!("after step {number} of {script:?}");
        compare(real, &id, &world, &run, &place);
    }
}

fn pause_name(suspend: bool) -> &'static str {
    if suspend { "Suspended" } else { "Paused" }
}

/// Applies one step on the real server.
fn act(real: &Real, id: &str, step: Step) {
    let state = |kind: StateType, name: &str, details: Value| json!({"type": kind.as_str(), "name": name, "state_details": details});
    let (path, body) = match step {
        Force(kind, name) => (
            "set_state",
            json!({"state": state(kind, name, json!({})), "force": true}),
        ),
        Propose(kind, name) => ("set_state", json!({"state": state(kind, name, json!({}))})),
        Pause(suspend) => {
            let details =
                json!({"pause_timeout": "2096-01-01T00:00:00Z", "pause_reschedule": suspend});
            (
                "set_state",
                json!({"state": state(StateType::Paused, pause_name(suspend), details)}),
            )
        }
        Resume(_) => ("resume", json!({})),
        Late => {
            let start = real.flow_run(id).unwrap().next_scheduled_start_time;
            let details = json!({"scheduled_time": start.unwrap().to_string()});
            let late = state(StateType::Scheduled, "Late", details);
            ("set_state", json!({"state": late, "force": true}))
        }
    };
    let answer = real.call("POST", &format!("/flow_runs/{id}/{path}"), Some(body));
    assert_eq!(answer["status"], "ACCEPT", "{step:?}: {answer}");
}

/// Compares a run and its states, except ids and names.
fn compare(real: &Real, id: &str, world: &World, run: &Id, place: &dyn std::fmt::Display) {
    let theirs = real.flow_run(id).unwrap();
    let Answer::FlowRuns(ours) = world
        .answer(&Request::FlowRuns {
            filter: FlowRunFilter::of_ids([Arc::clone(run)]),
            order: Order::Id,
            limit: 1,
        })
        .unwrap()
    else {
        panic!("no flow runs")
    };
    let ours = &ours.items[0];
    let facts = |run: &FlowRun| {
        (
            (run.state_type, run.state_name.clone(), run.run_count),
            (run.expected_start_time, run.start_time, run.end_time),
            run.next_scheduled_start_time.is_some(),
            run.total_run_time.map(|time| (time * 1e6).round()),
        )
    };
    assert_eq!(facts(ours), facts(&theirs), "{place}");
    let states = |states: &[RunState], current: &Option<Id>| -> Vec<_> {
        let states = states.iter().map(|state| {
            let is_current = current.as_ref() == Some(&state.id);
            (state.kind, state.name.clone(), state.timestamp, is_current)
        });
        states.collect()
    };
    assert_eq!(
        states(world.states(run), &ours.state_id),
        states(&real.states(id), &theirs.state_id),
        "{place}"
    );
}

/// The runs that remain after a deployment and a flow are deleted.
fn deletions(real: &Real) {
    let scripts: [&[Step]; 6] = [
        &[],
        &[Late],
        &[RETRY],
        &[Force(StateType::Scheduled, "AwaitingConcurrencySlot")],
        &[RUNNING, RETRY],
        &[RUNNING],
    ];
    let mut world = World::of(real.release, Timestamp::now());
    let flow = world.create_flow("flow");
    let deployment = world.create_deployment(&flow, "deployment", None);
    let (their_flow, their_deployment) = {
        let real = Real::new(&real.url, real.release);
        (real.flow, real.deployment)
    };
    let path = format!("/deployments/{their_deployment}/create_flow_run");
    let mut pairs = Vec::new();
    for script in scripts {
        let theirs = real.create(&path, json!({}));
        let ours = world.schedule_run(&deployment, world.now, false);
        for step in script {
            act(real, &theirs, *step);
            match *step {
                Force(kind, name) => world.set_state(&ours, kind, name, None),
                Propose(kind, name) => world.propose(&ours, kind, name),
                _ => world.mark_late(&ours),
            };
        }
        pairs.push((theirs, ours));
    }
    let compare = |world: &World| {
        for ((theirs, ours), script) in pairs.iter().zip(scripts) {
            let (theirs, ours) = (real.flow_run(theirs), world.run(ours));
            assert_eq!(theirs.is_some(), ours.is_some(), "{script:?}");
            let deployment = |run: &FlowRun| run.deployment_id.is_some();
            assert_eq!(theirs.as_ref().map(deployment), ours.map(deployment));
        }
    };
    compare(&world);
    real.call("DELETE", &format!("/deployments/{their_deployment}"), None);
    world.delete_deployment(&deployment);
    compare(&world);
    real.call("DELETE", &format!("/flow_runs/{}", pairs[5].0), None);
    world.delete_run(&pairs[5].1);
    compare(&world);
    assert!(real.states(&pairs[5].0).is_empty() && world.states(&pairs[5].1).is_empty());
    real.call("DELETE", &format!("/flows/{their_flow}"), None);
    world.delete_flow(&flow);
    compare(&world);
    assert_eq!(world.runs().count(), 0);
}

fn sort_key(order: Order, run: &FlowRun) -> Option<Timestamp> {
    match order {
        Order::Id => None,
        Order::EndTime => run.end_time,
        Order::StartTime => run.started_or_expected(),
        Order::ExpectedStartTime => run.expected_start_time,
    }
}

const ORDERS: [Order; 4] = [
    Order::Id,
    Order::EndTime,
    Order::StartTime,
    Order::ExpectedStartTime,
];

/// Compares the list and the count for `filter`, with every order and limit. The order of runs with
/// the same time is undefined on a server.
fn same(real: &Real, world: &World, filter: &FlowRunFilter, orders: &[Order], limits: &[usize]) {
    let count = Request::CountFlowRuns(filter.clone());
    let all = match (real.ask(&count).unwrap(), world.answer(&count).unwrap()) {
        (Answer::Count(theirs), Answer::Count(ours)) => {
            assert_eq!(ours, theirs, "{count:?}");
            ours as usize
        }
        other => panic!("{other:?}"),
    };
    for (order, limit) in orders
        .iter()
        .flat_map(|order| limits.iter().map(move |limit| (*order, *limit)))
    {
        let request = Request::FlowRuns {
            filter: filter.clone(),
            order,
            limit,
        };
        let theirs = runs(real.ask(&request)).unwrap();
        let ours = runs(world.answer(&request)).unwrap();
        let ids = |runs: &[FlowRun]| -> Vec<Id> { runs.iter().map(|run| run.id.clone()).collect() };
        let keys =
            |runs: &[FlowRun]| -> Vec<_> { runs.iter().map(|run| sort_key(order, run)).collect() };
        assert_eq!(keys(&ours), keys(&theirs), "{request:?}");
        let (our_ids, their_ids) = (ids(&ours), ids(&theirs));
        if order == Order::Id {
            assert_eq!(our_ids, their_ids, "{request:?}");
        }
        let set = |ids: &[Id]| ids.iter().cloned().collect::<HashSet<_>>();
        assert_eq!(set(&their_ids).len(), theirs.len(), "{request:?}");
        if limit >= all {
            assert_eq!(set(&our_ids), set(&their_ids), "{request:?}");
        }
        let by_id: HashMap<_, _> = ours.iter().map(|run| (&run.id, run)).collect();
        for run in &theirs {
            if let Some(same) = by_id.get(&run.id) {
                assert_eq!(format!("{same:?}"), format!("{run:?}"));
            }
        }
    }
}

/// Compares every condition, order and limit, with their boundaries.
fn answers(real: &Real, world: &World) {
    use StateType::{Cancelled, Completed, Failed, Paused, Running, Scheduled};
    let all: Vec<&FlowRun> = world.runs().collect();
    let ids: Vec<Id> = all.iter().map(|run| Arc::clone(&run.id)).collect();
    let unknown = || Id::from(uuid::Uuid::new_v4().to_string());
    let text = |name: &str| Arc::<str>::from(name);
    let of_state = |types, names| FlowRunFilter {
        state: StateFilter { types, names },
        ..FlowRunFilter::default()
    };
    let no_type = OneOf::<StateType>::default;
    let no_name = OneOf::<Arc<str>>::default;
    let of_id = |id| FlowRunFilter {
        id,
        ..FlowRunFilter::default()
    };
    let both = |any: &[Id], not_any: &[Id]| OneOf {
        any: Some(any.to_vec()),
        not_any: not_any.to_vec(),
    };
    let mut filters = vec![
        FlowRunFilter::default(),
        // Ids.
        of_id(OneOf::any([])),
        of_id(OneOf::any(ids[..5].iter().cloned())),
        of_id(OneOf::any([ids[0].clone(), ids[0].clone(), unknown()])),
        of_id(OneOf::any([unknown()])),
        of_id(OneOf::not_any(ids[..5].iter().cloned())),
        of_id(OneOf::not_any(ids.iter().cloned())),
        of_id(OneOf::not_any([unknown()])),
        of_id(both(&ids[..5], &ids[3..])),
        // Types.
        of_state(OneOf::any([]), no_name()),
        of_state(OneOf::any([Running]), no_name()),
        of_state(OneOf::any(StateType::ACTIVE), no_name()),
        of_state(OneOf::any(StateType::FINAL), no_name()),
        of_state(OneOf::not_any(StateType::FINAL), no_name()),
        of_state(OneOf::not_any([Scheduled, Paused]), no_name()),
        // Names, which are case-sensitive.
        of_state(no_type(), OneOf::any([])),
        of_state(no_type(), OneOf::any([text("Late"), text("AwaitingRetry")])),
        of_state(no_type(), OneOf::any([text("late")])),
        of_state(
            no_type(),
            OneOf::not_any([text("Completed"), text("Nothing")]),
        ),
        // Both types of a condition.
        of_state(OneOf::any([Scheduled]), OneOf::not_any([text("Late")])),
        of_state(OneOf::any([Scheduled, Failed]), OneOf::any([text("Late")])),
        of_state(
            OneOf::not_any([Scheduled]),
            OneOf::not_any([text("Running")]),
        ),
        of_state(
            OneOf {
                any: Some(vec![Running, Failed]),
                not_any: vec![Failed],
            },
            no_name(),
        ),
        of_state(
            OneOf {
                any: Some(Vec::new()),
                not_any: vec![Cancelled],
            },
            OneOf {
                any: Some(vec![text("Running")]),
                not_any: vec![text("Running")],
            },
        ),
        of_state(
            OneOf::any([Completed]),
            OneOf {
                any: Some(vec![text("Running")]),
                not_any: vec![text("Late")],
            },
        ),
        FlowRunFilter {
            id: OneOf::any(ids.iter().cloned()),
            ..of_state(no_type(), OneOf::not_any([text("Running")]))
        },
    ];
    // Deployments.
    for is_null in [true, false] {
        filters.push(FlowRunFilter {
            deployment_id: Presence {
                is_null: Some(is_null),
            },
            ..FlowRunFilter::default()
        });
    }
    // Times: exactly those of runs, and slightly before and after.
    let times = |key: fn(&FlowRun) -> Option<Timestamp>| {
        let mut times: Vec<_> = all.iter().filter_map(|run| key(run)).collect();
        times.sort_unstable();
        times.dedup();
        let middle = times[times.len() / 2];
        let (micro, nano) = (Duration::from_micros(1), Duration::from_nanos(999));
        [times[0], middle, times[times.len() - 1]]
            .into_iter()
            .flat_map(move |time| [time - micro, time, time + nano, time + micro])
    };
    let ranges = |key| {
        let single = times(key).flat_map(|time| {
            let before = Range {
                after: None,
                before: Some(time),
            };
            [Range::after(time), before]
        });
        let pairs = times(key).zip(times(key).skip(3)).map(|(from, to)| Range {
            after: Some(from),
            before: Some(to),
        });
        let point = times(key).map(|time| Range {
            after: Some(time),
            before: Some(time),
        });
        single.chain(pairs).chain(point).collect::<Vec<_>>()
    };
    type Setter = fn(&mut FlowRunFilter, Range);
    type Key = fn(&FlowRun) -> Option<Timestamp>;
    let by_time: [(Key, Setter); 3] = [
        (FlowRun::started_or_expected, |filter, range| {
            filter.start_time = range
        }),
        (|run| run.end_time, |filter, range| filter.end_time = range),
        (
            |run| run.expected_start_time,
            |filter, range| filter.expected_start_time = range,
        ),
    ];
    let mut timed = Vec::new();
    for (key, set) in by_time {
        for range in ranges(key) {
            let mut filter = FlowRunFilter::default();
            set(&mut filter, range);
            timed.push(filter);
        }
    }
    for filter in &filters {
        same(real, world, filter, &ORDERS, &[200, 7]);
    }
    same(real, world, &filters[0], &ORDERS, &[0, 1]);
    for filter in &timed {
        same(real, world, filter, &[Order::Id], &[200]);
    }
    // The combinations that the agent requests.
    let middle = times(|run| run.end_time).nth(5).unwrap();
    let combined = FlowRunFilter {
        id: OneOf::not_any(ids[..3].iter().cloned()),
        end_time: Range::after(middle),
        ..FlowRunFilter::of_types(&StateType::FINAL)
    };
    same(real, world, &combined, &ORDERS, &[200, 3]);
    refusals(real, world);
    for run in &ids[..3] {
        let theirs = real.states(run);
        assert!(
            theirs
                .windows(2)
                .all(|pair| pair[0].timestamp < pair[1].timestamp)
        );
    }
    assert!(real.states(&unknown()).is_empty() && world.states(&unknown()).is_empty());
    let (since, until) = ("2026-06-01T00:00:00Z", "2026-06-02T00:00:00Z");
    let history = Request::RunHistory {
        since: since.parse().unwrap(),
        until: until.parse().unwrap(),
    };
    let counts = |answer: Result<Answer, Error>| match answer {
        Ok(Answer::RunHistory(counts)) => {
            let count = |state: prefect_otel_agent::prefect::runs::StateCount| {
                let name = state.state_name.value().cloned();
                (state.state_type, name, state.count_runs)
            };
            let mut counts: Vec<_> = counts.into_iter().map(count).collect();
            counts.sort();
            counts
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(counts(world.answer(&history)), counts(real.ask(&history)));
}

/// Requests that a server refuses are refused by the in-memory one with the same status.
fn refusals(real: &Real, world: &World) {
    let list = |filter, limit| Request::FlowRuns {
        filter,
        order: Order::Id,
        limit,
    };
    let page = |limit| Page { offset: 0, limit };
    let tasks = |names| Request::TaskRuns {
        filter: TaskRunFilter {
            state: StateFilter {
                types: OneOf::default(),
                names,
            },
            ..TaskRunFilter::default()
        },
        page: page(10),
    };
    let workers = Request::Workers {
        pool: Arc::from("nowhere"),
        since: Timestamp::UNIX_EPOCH,
        page: page(10),
    };
    let by_end = Request::TaskRuns {
        filter: TaskRunFilter {
            end_time: Range::after(Timestamp::UNIX_EPOCH),
            ..TaskRunFilter::default()
        },
        page: page(10),
    };
    let mut requests = vec![
        list(FlowRunFilter::default(), 201),
        list(FlowRunFilter::of_ids([Id::from("no-uuid")]), 10),
        Request::CountFlowRuns(FlowRunFilter::of_ids([Id::from("")])),
        Request::List {
            resource: Resource::Flows,
            page: page(201),
        },
        Request::ByIds {
            resource: Resource::Deployments,
            ids: (0..201)
                .map(|_| Id::from(uuid::Uuid::new_v4().to_string()))
                .collect(),
        },
        tasks(OneOf::not_any([Arc::from("Running")])),
        workers,
    ];
    match real.release {
        Release::V3_0_4 => requests.push(by_end),
        _ => assert!(real.ask(&by_end).is_ok() && world.answer(&by_end).is_ok()),
    }
    for request in requests {
        let refusal = |answer: Result<Answer, Error>| match answer {
            Err(Error::Status { status, detail, .. }) => {
                let limit = Error::Status {
                    request: String::new(),
                    status,
                    detail,
                    retry_after: None,
                    maintenance: false,
                };
                (status, limit.page_limit())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refusal(world.answer(&request)),
            refusal(real.ask(&request)),
            "{request:?}"
        );
    }
    let known = tasks(OneOf::any([Arc::from("Running")]));
    assert!(real.ask(&known).is_ok() && world.answer(&known).is_ok());
}

/// Lists are ordered by name, and read by offset. PostgreSQL has its own collation.
fn lists(real: &Real, nulls: Nulls) {
    let mut world = World::of(real.release, Timestamp::now());
    let prefix = uuid::Uuid::new_v4();
    for name in ["b", "a", "C", "a-1", "é"] {
        let name = format!("{prefix}-{name}");
        real.create("/work_pools/", json!({"name": name, "type": "process"}));
        world.create_work_pool(&name);
    }
    let pools = |ask: &dyn Fn(&Request) -> Result<Answer, Error>| {
        let page = |offset| Request::List {
            resource: Resource::WorkPools,
            page: Page { offset, limit: 2 },
        };
        let mut names = Vec::new();
        for number in 0.. {
            let pools = match ask(&page(number * 2)) {
                Ok(Answer::Objects(Objects::WorkPools(pools))) => pools.items,
                other => panic!("{other:?}"),
            };
            if pools.is_empty() {
                break;
            }
            names.extend(pools.iter().filter_map(|pool| pool.name.value().cloned()));
        }
        names.retain(|name| name.starts_with(&prefix.to_string()));
        if nulls == Nulls::Largest {
            names.sort();
        }
        names
    };
    let ours = pools(&|request| world.answer(request));
    assert_eq!(ours, pools(&|request| real.ask(request)));
    assert_eq!(ours.len(), 5);
}

/// Task runs: their terminal states, and the lists of those that have ended.
fn task_runs(real: &Real, nulls: Nulls) {
    use StateType::{Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled};
    let scripts: [&[StateType]; 8] = [
        &[],
        &[Running],
        &[Running, Completed],
        &[Running, Scheduled, Running, Failed],
        &[Running, Failed, Running],
        &[Running, Failed, Completed],
        &[Cancelled],
        &[Crashed, Scheduled],
    ];
    let mut world = World::of(real.release, Timestamp::now());
    world.nulls = nulls;
    let flow = world.create_flow("flow");
    let flow_run = world.create_run(&flow, Running, "Running");
    for (number, script) in scripts.iter().enumerate() {
        let key = number.to_string();
        let body = json!({"task_key": "task", "dynamic_key": key, "state": {"type": "PENDING"}});
        let theirs = real.create("/task_runs/", body);
        let ours = world.create_task_run(&flow_run, "task", &key);
        for kind in std::iter::once(&Pending).chain(*script) {
            let body = json!({"state": {"type": kind.as_str()}, "force": true});
            let path = format!("/task_runs/{theirs}/set_state");
            let answer = real.call("POST", &path, Some(body));
            let at = answer["state"]["timestamp"].as_str().unwrap();
            let at = at.parse().unwrap();
            world.set_task_state(&ours, *kind, &kind.default_name(), Some(at));
        }
    }
    let tasks = |answer: Result<Answer, Error>| match answer {
        Ok(Answer::TaskRuns(tasks)) => tasks.items,
        other => panic!("{other:?}"),
    };
    let whole = Page {
        offset: 0,
        limit: 200,
    };
    let everything = Request::TaskRuns {
        filter: TaskRunFilter::default(),
        page: whole,
    };
    let ends = tasks(world.answer(&everything)).into_iter();
    let ends: Vec<Timestamp> = ends.filter_map(|task| task.end_time).collect();
    assert!(ends.len() >= 3);
    let of = |types: OneOf<StateType>, is_null: Option<bool>, end_time: Range| TaskRunFilter {
        state: StateFilter {
            types,
            names: OneOf::default(),
        },
        start_time: Presence { is_null },
        end_time,
    };
    let ended = || OneOf::any(StateType::FINAL);
    let mut filters = vec![
        TaskRunFilter::default(),
        of(ended(), None, Range::default()),
        of(ended(), Some(false), Range::default()),
        of(OneOf::any([Running]), Some(true), Range::default()),
        of(OneOf::any([]), None, Range::default()),
    ];
    if real.release > Release::V3_0_4 {
        for end in &ends {
            filters.push(of(ended(), None, Range::after(*end)));
            let before = Range {
                after: None,
                before: Some(*end),
            };
            filters.push(of(OneOf::default(), Some(false), before));
        }
    }
    let second = Page {
        offset: 2,
        limit: 2,
    };
    for (filter, page) in filters
        .iter()
        .flat_map(|filter| [(filter, whole), (filter, second)])
    {
        let filter = filter.clone();
        let request = Request::TaskRuns { filter, page };
        let facts = |answer| -> Vec<_> {
            let facts = tasks(answer).into_iter().map(|task| {
                let time = task.total_run_time.map(|time| (time * 1e6).round());
                (task.end_time, (task.state_type, time))
            });
            facts.collect()
        };
        let (mut ours, mut theirs) = (facts(world.answer(&request)), facts(real.ask(&request)));
        let ends = |facts: &[(Option<Timestamp>, _)]| -> Vec<_> {
            facts.iter().map(|(end, _)| *end).collect()
        };
        assert_eq!(ends(&ours), ends(&theirs), "{request:?}");
        // The order of task runs that have not ended is undefined.
        if page == whole {
            ours.sort_by(|one, other| one.partial_cmp(other).unwrap());
            theirs.sort_by(|one, other| one.partial_cmp(other).unwrap());
            assert_eq!(ours, theirs, "{request:?}");
        }
    }
}

/// Requests with thousands of ids.
fn thousands(real: &Real, nulls: Nulls) {
    // Five deployments with the same dates, so there are five runs for each date.
    let schedule = json!([{
        "active": true,
        "schedule": {"interval": 60, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"},
    }]);
    let deployments: Vec<_> = (0..5).map(|_| real.deploy(schedule.clone())).collect();
    for deployment in &deployments {
        let body = json!({
            "start_time": "2026-02-01T00:00:00Z",
            "end_time": "2026-02-02T00:00:00Z",
            "min_time": 86_400.0,
            "max_runs": 1_000,
        });
        let path = format!("/deployments/{deployment}/schedule");
        real.call("POST", &path, Some(body));
    }
    let world = real.world(nulls);
    let of_one = |run: &&FlowRun| {
        let deployment = run.deployment_id.as_deref();
        deployment.is_some_and(|id| deployments.iter().any(|deployment| deployment == id))
    };
    let mut made: Vec<&FlowRun> = world.runs().filter(of_one).collect();
    assert_eq!(made.len(), 5_000);
    made.sort_by_key(|run| run.expected_start_time);
    let ids: Vec<Id> = made.iter().map(|run| Arc::clone(&run.id)).collect();
    let with = |id: OneOf<Id>, names: OneOf<Arc<str>>, types: OneOf<StateType>| FlowRunFilter {
        id,
        state: StateFilter { types, names },
        ..FlowRunFilter::default()
    };
    let name = |name: &str| OneOf::not_any([Arc::from(name)]);
    let any = |ids: &[Id]| OneOf::any(ids.iter().cloned());
    let not_any = |ids: &[Id]| OneOf::not_any(ids.iter().cloned());
    let scheduled = || OneOf::any([StateType::Scheduled]);
    let middle = made[made.len() / 2].expected_start_time;
    let mut page = with(not_any(&ids[..10]), OneOf::default(), scheduled());
    page.expected_start_time = Range {
        after: middle,
        before: middle,
    };
    let filters = [
        with(not_any(&ids), OneOf::default(), OneOf::default()),
        with(not_any(&ids), OneOf::default(), scheduled()),
        with(not_any(&ids[7..]), OneOf::default(), scheduled()),
        with(any(&ids), name("Scheduled"), OneOf::default()),
        with(any(&ids), name("Late"), OneOf::default()),
        with(any(&ids), OneOf::default(), OneOf::default()),
        with(any(&ids[1..]), name("Late"), scheduled()),
        page,
    ];
    for filter in &filters {
        same(real, &world, filter, &ORDERS, &[200, 33]);
    }
}
