//! The oldest and the newest supported version of Prefect, each on SQLite and on PostgreSQL: the
//! agent reads their runs and shows the right counts.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::page::Page;
use crate::support::postgres::Postgres;
use crate::support::prefect::{Server, Version};
use crate::support::process::{AgentProcess, wait_for};

/// Runs tasks with Prefect's own client.
const TASKS: &str = "
from prefect import flow, task

@task(name='extract rows')
def extract(): pass

@task
def load(table): raise ValueError(table)

@flow(name='tasks')
def tasks():
    extract(); extract(); extract()
    load('one', return_state=True); load('two', return_state=True)
    return 1

tasks()
";

/// More task runs than a page of the API has.
const NEVER_STARTED: usize = 210;

/// Labels of the deployment's series.
const DEPLOYMENT: [(&str, &str); 2] = [("deployment_name", "nightly"), ("flow_name", "etl")];
const PLACE: [(&str, &str); 2] = [("work_pool_name", "pool"), ("work_queue_name", "high")];

/// Differences between the versions.
struct Features {
    /// Since 3.6.14, a run that ends without having started has an end time.
    end_of_never_started: bool,
    /// Since 3.6.23, work pools and work queues have `active_slots`.
    active_slots: bool,
}

impl Features {
    fn of(version: Version) -> Self {
        let new = version != Version::Oldest;
        Features {
            end_of_never_started: new,
            active_slots: new,
        }
    }
}

/// A server with a flow, and a deployment in a work queue of a work pool.
struct World {
    server: Server,
    deployment: String,
    _postgres: Option<Postgres>,
}

impl World {
    /// `None` if this machine lacks what the test needs.
    fn start(test: &str, version: Version, on_postgres: bool) -> Option<Self> {
        let postgres = if on_postgres {
            Some(Postgres::start(test)?)
        } else {
            None
        };
        let url = postgres.as_ref().map(Postgres::url);
        // A run is marked late within about a second. The first name is the one in 3.0.
        let mut settings = vec![
            ("PREFECT_API_SERVICES_LATE_RUNS_LOOP_SECONDS", "1"),
            ("PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS", "1"),
        ];
        if let Some(url) = &url {
            settings.push(("PREFECT_API_DATABASE_CONNECTION_URL", url.as_str()));
        }
        let server = Server::start_version(test, version, &settings)?;
        let flow = server.create("/flows/", json!({"name": "etl"}));
        let pool = json!({"name": "pool", "type": "process", "concurrency_limit": 5});
        server.create("/work_pools/", pool);
        let queue = json!({"name": "high", "priority": 1, "concurrency_limit": 3});
        server.create("/work_pools/pool/queues", queue);
        let deployment = server.create(
            "/deployments/",
            json!({"name": "nightly", "flow_id": flow, "tags": ["b", "a"],
                "work_pool_name": "pool", "work_queue_name": "high",
                "enforce_parameter_schema": false}),
        );
        Some(World {
            server,
            deployment,
            _postgres: postgres,
        })
    }

    fn run(&self, state: Value) -> String {
        self.server.create(
            &format!("/deployments/{}/create_flow_run", self.deployment),
            json!({"state": state}),
        )
    }

    fn scheduled(&self, seconds: i64) -> String {
        let time = (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string();
        self.run(json!({"type": "SCHEDULED", "state_details": {"scheduled_time": time}}))
    }

    fn started(&self) -> String {
        let run = self.run(json!({"type": "PENDING"}));
        self.server.set_state(&run, json!({"type": "RUNNING"}));
        run
    }

    fn ended(&self, state: &Value) -> String {
        let run = self.started();
        std::thread::sleep(Duration::from_millis(100));
        self.server.set_state(&run, state.clone());
        run
    }
}

/// Waits until `/metrics` has a value.
fn expect(agent: &AgentProcess, family: &str, labels: &[&[(&str, &str)]], value: f64) {
    let labels = labels.concat();
    let shown = |page: &Page| page.value(family, &labels);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let page = agent.page();
        if shown(&page).is_some_and(|shown| (shown - value).abs() < 1e-6) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{family} {labels:?}: {:?}, not {value}\n{:#?}\n{:#?}",
            shown(&page),
            page.family(family),
            agent.process.log()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The sum of the series of a family with these labels.
fn sum(page: &Page, family: &str, having: &[(&str, &str)]) -> f64 {
    let family = page.family(family);
    let fits = family.iter().filter(|(labels, _)| {
        having
            .iter()
            .all(|(key, value)| labels.get(*key).is_some_and(|found| found == value))
    });
    fits.map(|(_, value)| value).sum()
}

fn check_runs(world: &World, agent: &AgentProcess, features: &Features) {
    let server = &world.server;
    let mut counts = vec![
        ("COMPLETED", "Completed", 2.0),
        ("FAILED", "Failed", 1.0),
        ("FAILED", "TimedOut", 1.0),
        ("CRASHED", "Crashed", 1.0),
    ];
    let mut ended = Vec::new();
    for (kind, name, count) in &counts {
        for _ in 0..*count as usize {
            let run = world.ended(&json!({"type": kind, "name": name}));
            ended.push((*kind, run));
        }
    }
    // A run that ends without having started is counted in every version if it was seen before.
    let seen = world.scheduled(600);
    let scheduled = [("state_name", "Scheduled")];
    expect(
        agent,
        "prefect_info_flow_runs",
        &[&DEPLOYMENT, &scheduled],
        1.0,
    );
    server.set_state(&seen, json!({"type": "CANCELLED"}));
    let cancelled = [("state_type", "CANCELLED"), ("state_name", "Cancelled")];
    expect(
        agent,
        "prefect_flow_runs_finished_total",
        &[&DEPLOYMENT, &PLACE, &cancelled],
        1.0,
    );
    for _ in 0..2 {
        let run = world.scheduled(600);
        server.set_state(&run, json!({"type": "CANCELLED"}));
        let end = &server.flow_run(&run)["end_time"];
        assert_eq!(!end.is_null(), features.end_of_never_started);
    }
    if features.end_of_never_started {
        counts.push(("CANCELLED", "Cancelled", 3.0));
    }
    world.started();
    world.run(json!({"type": "PENDING"}));
    world.scheduled(600);
    let late = world.scheduled(-60);
    // A run that was retried counts once for each end.
    let retried = world.ended(&json!({"type": "FAILED"}));
    for (kind, name, count) in &mut counts {
        if (*kind, *name) == ("FAILED", "Failed") {
            *count += 1.0;
        }
        let state = [("state_type", *kind), ("state_name", *name)];
        expect(
            agent,
            "prefect_flow_runs_finished_total",
            &[&DEPLOYMENT, &PLACE, &state],
            *count,
        );
    }
    server.set_state(
        &retried,
        json!({"type": "SCHEDULED", "name": "AwaitingRetry"}),
    );
    server.set_state(&retried, json!({"type": "RUNNING"}));
    server.set_state(&retried, json!({"type": "COMPLETED"}));
    let completed = [("state_type", "COMPLETED"), ("state_name", "Completed")];
    expect(
        agent,
        "prefect_flow_runs_finished_total",
        &[&DEPLOYMENT, &PLACE, &completed],
        3.0,
    );
    expect(
        agent,
        "prefect_flow_runs_retries_total",
        &[&DEPLOYMENT],
        1.0,
    );

    for (kind, name) in [("RUNNING", "Running"), ("PENDING", "Pending")] {
        let state = [("state_type", kind), ("state_name", name)];
        expect(
            agent,
            "prefect_flow_runs_active",
            &[&DEPLOYMENT, &PLACE, &state],
            1.0,
        );
    }
    assert_eq!(sum(&agent.page(), "prefect_flow_runs_active", &[]), 2.0);
    wait_for("the late run", || {
        (server.flow_run(&late)["state_name"] == "Late").then_some(())
    });
    expect(agent, "prefect_flow_runs_late", &[&DEPLOYMENT, &PLACE], 1.0);
}

fn check_compatible(agent: &AgentProcess, features: &Features) {
    for family in [
        "prefect_deployments_total",
        "prefect_flows_total",
        "prefect_work_pools_total",
    ] {
        expect(agent, family, &[], 1.0);
    }
    // The pool's default queue and another one.
    expect(agent, "prefect_work_queues_total", &[], 2.0);
    let tags = [("tags", "a,b"), ("paused", "False")];
    expect(
        agent,
        "prefect_info_deployment",
        &[&DEPLOYMENT, &PLACE, &tags],
        1.0,
    );
    let cancelled = if features.end_of_never_started {
        3.0
    } else {
        0.0
    };
    expect(agent, "prefect_flow_runs_total", &[], 6.0 + cancelled);
    let queue = [("work_queue_name", "high")];
    for (state, count) in [
        ("Completed", 3.0),
        ("Failed", 1.0),
        ("TimedOut", 1.0),
        ("Crashed", 1.0),
        ("Running", 1.0),
        ("Pending", 1.0),
        ("Scheduled", 1.0),
        ("Late", 1.0),
    ] {
        let labels = [&DEPLOYMENT[..], &queue, &[("state_name", state)]];
        expect(agent, "prefect_info_flow_runs", &labels, count);
    }
    expect(agent, "prefect_work_queues_late_runs_count", &[&PLACE], 1.0);
}

/// The limit is exported for every version, the slots in use only if the server reports them.
fn check_slots(server: &Server, agent: &AgentProcess, features: &Features) {
    for (family, path, name, limit, place) in [
        (
            "prefect_work_pool_slots",
            "/work_pools/filter",
            "pool",
            5.0,
            &PLACE[..1],
        ),
        (
            "prefect_work_queue_slots",
            "/work_queues/filter",
            "high",
            3.0,
            &PLACE[..],
        ),
    ] {
        expect(agent, family, &[place, &[("slot_kind", "limit")]], limit);
        let active = [place, &[("slot_kind", "active")]];
        let items = server.post(path, json!({}));
        let item = items
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["name"] == name)
            .unwrap();
        assert_eq!(
            item.get("active_slots").is_some(),
            features.active_slots,
            "{item}"
        );
        if features.active_slots {
            // The server's own count follows its runs with a delay.
            agent.wait_for_page(family, |page| {
                let items = server.post(path, json!({}));
                let items = items.as_array().unwrap();
                let item = items.iter().find(|item| item["name"] == name)?;
                let shown = page.value(family, &active.concat())?;
                (Some(shown) == item["active_slots"].as_f64()).then_some(())
            });
        } else {
            let shown = agent.page().value(family, &active.concat());
            assert_eq!(shown, None, "{family}: the server does not report it");
        }
    }
}

fn check_tasks(world: &World, agent: &AgentProcess, features: &Features) {
    let server = &world.server;
    // Before 3.6.14 they have no end time, and PostgreSQL sorts them before all others.
    let parent = world.started();
    for number in 0..NEVER_STARTED {
        let task = json!({"flow_run_id": parent, "task_key": "never-started",
            "dynamic_key": number.to_string(), "state": {"type": "PENDING"}});
        let task = server.create("/task_runs/", task);
        let cancelled = json!({"state": {"type": "CANCELLED"}, "force": true});
        server.post(&format!("/task_runs/{task}/set_state"), cancelled);
    }
    let python = server.program("python").args(["-c", TASKS]).output();
    let python = python.unwrap();
    assert!(
        python.status.success(),
        "{}",
        String::from_utf8_lossy(&python.stderr)
    );
    for (task, kind, count) in [("extract rows", "COMPLETED", 3.0), ("load", "FAILED", 2.0)] {
        let labels = [("task_name", task), ("state_type", kind)];
        for family in [
            "prefect_task_runs_finished_total",
            "prefect_task_run_duration_seconds_count",
        ] {
            expect(agent, family, &[&labels], count);
        }
    }
    if features.end_of_never_started {
        agent.wait_for_page("task runs that were cancelled", |page| {
            let family = "prefect_task_runs_finished_total";
            let shown = sum(page, family, &[("state_type", "CANCELLED")]);
            (shown == NEVER_STARTED as f64).then_some(())
        });
    }
}

fn check(test: &str, version: Version, on_postgres: bool) {
    let Some(world) = World::start(test, version, on_postgres) else {
        return;
    };
    let features = Features::of(version);
    // All runs stay within the window during the test.
    let settings = [("OFFSET_MINUTES", "30"), ("TASK_RUNS_ENABLED", "True")];
    let agent = AgentProcess::start(&world.server.url, &settings);
    let completed = [("state_type", "COMPLETED"), ("state_name", "Completed")];
    expect(
        &agent,
        "prefect_flow_runs_finished_total",
        &[&DEPLOYMENT, &PLACE, &completed],
        0.0,
    );
    let number = [("version", version.number())];
    expect(&agent, "prefect_server_info", &[&number], 1.0);
    expect(&agent, "prefect_up", &[], 1.0);
    check_runs(&world, &agent, &features);
    check_compatible(&agent, &features);
    check_slots(&world.server, &agent, &features);
    check_tasks(&world, &agent, &features);
    expect(&agent, "prefect_up", &[], 1.0);
}

#[test]
#[ignore = "with the others of its kind, takes minutes"]
fn the_oldest_version() {
    check("the_oldest_version", Version::Oldest, false);
}

#[test]
#[ignore = "with the others of its kind, takes minutes"]
fn the_oldest_version_on_postgresql() {
    check("the_oldest_version_on_postgresql", Version::Oldest, true);
}

#[test]
#[ignore = "with the others of its kind, takes minutes"]
fn the_newest_version() {
    check("the_newest_version", Version::Newest, false);
}

#[test]
#[ignore = "with the others of its kind, takes minutes"]
fn the_newest_version_on_postgresql() {
    check("the_newest_version_on_postgresql", Version::Newest, true);
}
