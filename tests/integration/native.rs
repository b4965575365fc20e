//! Every family that the agent has of its own, against a real Prefect server with a real
//! worker, real limits and a real flow with tasks, as a real Prometheus sees them.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prefect_otel_agent::metrics::{Kind, catalogue};
use serde_json::{Value, json};

use crate::once::once;
use crate::shards::add_up;
use crate::support::otlp::Receiver;
use crate::support::page::Page;
use crate::support::prefect::Server;
use crate::support::process::{AgentProcess, Process, wait_for};
use crate::support::programs::{Prometheus, programs};

const TASKS: &str = "
from prefect import flow, task

@task(name='extract rows')
def extract(): pass

@task(task_run_name='load into {table}')
def load(table): raise ValueError(table)

@flow
def etl():
    extract(); extract()
    load('one', return_state=True); load('two', return_state=True)
    return 1

etl()
";

/// Creates what is there from the start.
fn create(server: &Server) -> String {
    let flow = server.create("/flows/", json!({"name": "nightly-flow"}));
    let pool = json!({"name": "pool", "type": "process", "concurrency_limit": 4});
    server.create("/work_pools/", pool);
    server.create(
        "/work_pools/",
        json!({"name": "unattended", "type": "process"}),
    );
    let queue = json!({"name": "slow", "concurrency_limit": 2});
    server.create("/work_pools/unattended/queues", queue);
    let limit = json!({"name": "warehouse", "limit": 4});
    server.create("/v2/concurrency_limits/", limit);
    let taken = json!({"names": ["warehouse"], "slots": 3, "mode": "concurrency"});
    server.post("/v2/concurrency_limits/increment", taken);
    let limit = json!({"tag": "database", "concurrency_limit": 7});
    server.create("/concurrency_limits/", limit);
    for (name, enabled) in [("one", true), ("two", true), ("off", false)] {
        let trigger = json!({"type": "event", "posture": "Reactive", "threshold": 1, "within": 0,
            "expect": ["prefect.flow-run.Late"]});
        let actions = json!([{"type": "do-nothing"}]);
        let automation =
            json!({"name": name, "enabled": enabled, "actions": actions, "trigger": trigger});
        server.create("/automations/", automation);
    }
    server.create(
        "/deployments/",
        json!({"name": "nightly", "flow_id": flow, "tags": ["period:hourly"],
            "work_pool_name": "unattended", "work_queue_name": "slow"}),
    )
}

/// A run that is due in so many seconds.
fn schedule(server: &Server, deployment: &str, seconds: i64) -> String {
    let time = (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string();
    let state = json!({"type": "SCHEDULED", "state_details": {"scheduled_time": time}});
    server.create(
        &format!("/deployments/{deployment}/create_flow_run"),
        json!({"state": state}),
    )
}

/// Runs that end, and how: ids.
fn load(server: &Server, deployment: &str) -> Vec<String> {
    [
        vec![json!({"type": "COMPLETED"})],
        vec![
            json!({"type": "SCHEDULED", "name": "AwaitingRetry"}),
            json!({"type": "RUNNING"}),
            json!({"type": "COMPLETED"}),
        ],
        vec![json!({"type": "FAILED"})],
        vec![json!({"type": "FAILED", "name": "TimedOut"})],
        vec![json!({"type": "CRASHED"})],
    ]
    .into_iter()
    .map(|states| {
        let run = schedule(server, deployment, -2);
        server.set_state(&run, json!({"type": "RUNNING"}));
        std::thread::sleep(Duration::from_millis(200));
        for state in states {
            server.set_state(&run, state);
        }
        run
    })
    .collect()
}

fn time(value: &Value) -> f64 {
    let time: Timestamp = value.as_str().unwrap().parse().unwrap();
    time.as_duration().as_secs_f64()
}

/// Waits until a series shows a value.
fn expect(agent: &AgentProcess, name: &str, labels: &[(&str, &str)], value: f64) {
    let mut last = None;
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while std::time::Instant::now() < deadline {
        last = agent.page().value(name, labels);
        if last.is_some_and(|last| (last - value).abs() < 1e-6) {
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!(
        "{name} {labels:?}: {last:?}, not {value}; {:?}",
        agent.page().family(name)
    );
}

fn check_runs(server: &Server, agent: &AgentProcess, runs: &[String]) {
    let own = [
        ("deployment_name", "nightly"),
        ("flow_name", "nightly-flow"),
    ];
    let finished = "prefect_flow_runs_finished_total";
    for (kind, name, count) in [
        ("COMPLETED", "Completed", 2.0),
        ("FAILED", "Failed", 1.0),
        ("FAILED", "TimedOut", 1.0),
        ("CRASHED", "Crashed", 1.0),
        ("CANCELLED", "Cancelled", 0.0),
    ] {
        let place = [
            ("work_pool_name", "unattended"),
            ("work_queue_name", "slow"),
        ];
        let state = [("state_type", kind), ("state_name", name)];
        expect(agent, finished, &[&own[..], &place, &state].concat(), count);
    }
    expect(agent, "prefect_flow_runs_retries_total", &own, 1.0);
    let runs: Vec<Value> = runs.iter().map(|run| server.flow_run(run)).collect();
    let of = |kind: &str| {
        let kind = kind.to_owned();
        runs.iter()
            .filter(move |run| run["state_type"] == kind.as_str())
    };
    for (kind, count) in [("COMPLETED", 2.0), ("FAILED", 2.0), ("CRASHED", 1.0)] {
        let labels = [&own[..], &[("state_type", kind)]].concat();
        let seconds: f64 = of(kind)
            .map(|run| run["total_run_time"].as_f64().unwrap())
            .sum();
        expect(
            agent,
            "prefect_flow_run_duration_seconds_count",
            &labels,
            count,
        );
        expect(
            agent,
            "prefect_flow_run_duration_seconds_sum",
            &labels,
            seconds,
        );
        let last = of(kind)
            .map(|run| time(&run["end_time"]))
            .fold(0.0, f64::max);
        expect(
            agent,
            "prefect_deployment_last_run_time_seconds",
            &labels,
            last,
        );
    }
    let labels = [&own[..], &[("work_pool_name", "unattended")]].concat();
    let delays = runs
        .iter()
        .map(|run| time(&run["start_time"]) - time(&run["expected_start_time"]));
    expect(
        agent,
        "prefect_flow_run_start_delay_seconds_count",
        &labels,
        5.0,
    );
    let sum: f64 = delays.sum();
    expect(
        agent,
        "prefect_flow_run_start_delay_seconds_sum",
        &labels,
        sum,
    );
    let last = runs.last().unwrap()["total_run_time"].as_f64().unwrap();
    expect(
        agent,
        "prefect_deployment_last_run_duration_seconds",
        &own,
        last,
    );
}

/// Of two runs that are pending, the one that has been so longer.
fn check_oldest_pending(server: &Server, agent: &AgentProcess, deployment: &str) {
    for seconds in [-1, -2] {
        let run = schedule(server, deployment, seconds);
        server.set_state(&run, json!({"type": "PENDING"}));
    }
    let pending = json!({"flow_runs": {"state": {"type": {"any_": ["PENDING"]}}}});
    let pending = server.post("/flow_runs/filter", pending);
    let pending = pending.as_array().unwrap().iter();
    let since: Vec<f64> = pending
        .map(|run| time(&run["state"]["timestamp"]))
        .collect();
    assert_eq!(since.len(), 2);
    let family = "prefect_flow_runs_oldest_pending_time_seconds";
    let labels = [
        ("deployment_name", "nightly"),
        ("work_pool_name", "unattended"),
        ("work_queue_name", "slow"),
    ];
    expect(agent, family, &labels, since[0].min(since[1]));
}

fn check_inventory(server: &Server, agent: &AgentProcess) {
    let kinds = [
        ("limit", "warehouse", "global", 4.0),
        ("active", "warehouse", "global", 3.0),
        ("limit", "database", "tag", 7.0),
        ("active", "database", "tag", 0.0),
    ];
    for (slot, name, kind, value) in kinds {
        let labels = [
            ("concurrency_limit_name", name),
            ("concurrency_limit_kind", kind),
            ("slot_kind", slot),
        ];
        expect(agent, "prefect_concurrency_limit_slots", &labels, value);
    }
    // A section that is late on a busy machine has no series at all.
    let limits = |page: &Page| page.family("prefect_concurrency_limit_slots").len();
    let shown = agent.wait_for_page("limits", |page| Some(limits(page)).filter(|len| *len > 0));
    assert_eq!(shown, 4);
    expect(agent, "prefect_automations", &[("enabled", "True")], 2.0);
    expect(agent, "prefect_automations", &[("enabled", "False")], 1.0);
    let worker = [("work_pool_name", "pool"), ("worker_name", "worker-a")];
    let online = [&worker[..], &[("worker_status", "ONLINE")]].concat();
    expect(agent, "prefect_worker_status", &online, 1.0);
    let offline = [&worker[..], &[("worker_status", "OFFLINE")]].concat();
    expect(agent, "prefect_worker_status", &offline, 0.0);
    let workers = server.post("/work_pools/pool/workers/filter", json!({}));
    expect(
        agent,
        "prefect_worker_last_heartbeat_time_seconds",
        &worker,
        time(&workers[0]["last_heartbeat_time"]),
    );
    expect(
        agent,
        "prefect_work_pool_slots",
        &[("work_pool_name", "pool"), ("slot_kind", "limit")],
        4.0,
    );
    // The worker polls every few seconds; the page follows.
    agent.wait_for_page("a poll", |page| {
        let queue = [("work_pool_name", "pool"), ("work_queue_name", "default")];
        let polled = page.value("prefect_work_queue_last_polled_time_seconds", &queue)?;
        let age = Timestamp::now().as_duration().as_secs_f64() - polled;
        (-2.0..60.0).contains(&age).then_some(())
    });
}

fn check_tasks(agent: &AgentProcess) {
    for (task, kind) in [("extract rows", "COMPLETED"), ("load", "FAILED")] {
        let labels = [("task_name", task), ("state_type", kind)];
        expect(agent, "prefect_task_runs_finished_total", &labels, 2.0);
        expect(
            agent,
            "prefect_task_run_duration_seconds_count",
            &labels,
            2.0,
        );
    }
}

fn check_states(server: &Server, agent: &AgentProcess) {
    let agrees = |page: &Page| {
        let now = Timestamp::now();
        let day = json!({"history_start": (now - SignedDuration::from_hours(24)).to_string(),
            "history_end": now.to_string(), "history_interval_seconds": 86_400});
        let history = server.post("/flow_runs/history", day);
        let states = history[0]["states"].as_array().unwrap();
        let mut shown = page.family("prefect_flow_runs_by_state");
        // States that no run is in any more.
        shown.retain(|_, count| *count > 0.0);
        let equal = |state: &Value| {
            let labels = ["state_type", "state_name"]
                .map(|key| (key.to_owned(), state[key].as_str().unwrap().to_owned()));
            shown.get(&labels.into_iter().collect()).copied() == state["count_runs"].as_f64()
        };
        (!states.is_empty() && states.len() == shown.len() && states.iter().all(equal))
            .then_some(())
    };
    agent.wait_for_page("the server's own counts", agrees);
}

/// Every family has a series on the page.
fn check_all(agent: &AgentProcess) {
    let missing = |page: &Page| {
        let shown: BTreeSet<&str> = page.series.keys().map(|(name, _)| name.as_str()).collect();
        let name = |family: &prefect_otel_agent::metrics::Family| match family.kind {
            Kind::Histogram(_) => family.prometheus_name() + "_count",
            _ => family.prometheus_name(),
        };
        let names = catalogue().map(name);
        let missing: Vec<_> = names
            .filter(|name| !shown.contains(name.as_str()))
            .collect();
        missing
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while !missing(&agent.page()).is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?}",
            missing(&agent.page())
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The queries of the recipes that find nothing where all is well.
const QUIET: [&str; 3] = ["unless max by", "prefect_up == 0", "> 3600"];

fn check_recipes(prometheus: &Prometheus) {
    let text = include_str!("../../docs/recipes.md");
    let queries: Vec<&str> = text
        .split("```promql\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(queries.len() > 12);
    for query in queries {
        let quiet = QUIET.iter().any(|part| query.contains(part));
        let what = format!("an answer to {query}");
        wait_for(&what, || {
            let series = prometheus
                .query(query)
                .unwrap_or_else(|error| panic!("{query}: {error}"));
            assert!(!quiet || series.is_empty(), "{query}: {series:?}");
            (quiet || !series.is_empty()).then_some(())
        });
    }
}

/// The first failure ever of a deployment that was there before, and of one that is new.
fn check_first_failures(server: &Server, prometheus: &Prometheus, known: &str) {
    let increase = |deployment: &str| {
        prometheus.value(&format!(
            "sum(increase(prefect_flow_runs_finished_total{{state_type=\"FAILED\",deployment_name=\"{deployment}\"}}[5m]))"
        ))
    };
    wait_for("the series at zero", || {
        increase("quiet").filter(|increase| *increase == 0.0)
    });
    let fail = |deployment: &str| {
        let run = server.create(
            &format!("/deployments/{deployment}/create_flow_run"),
            json!({}),
        );
        server.set_state(&run, json!({"type": "RUNNING"}));
        server.set_state(&run, json!({"type": "FAILED"}));
    };
    fail(known);
    let flow = server.create("/flows/", json!({"name": "brand-new-flow"}));
    let new = server.create(
        "/deployments/",
        json!({"name": "brand-new", "flow_id": flow}),
    );
    fail(&new);
    for deployment in ["quiet", "brand-new"] {
        let increase = wait_for(deployment, || {
            increase(deployment).filter(|increase| *increase > 0.0)
        });
        // increase() extrapolates to the end of its window.
        assert!((0.95..1.5).contains(&increase), "{deployment}: {increase}");
        assert_eq!(increase.round(), 1.0);
    }
}

#[test]
fn every_family_is_right_and_every_recipe_answers() {
    let server = Server::start(&[]);
    let deployment = create(&server);
    let flow = server.create("/flows/", json!({"name": "quiet-flow"}));
    let quiet = server.create("/deployments/", json!({"name": "quiet", "flow_id": flow}));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let _receiver = runtime.block_on(Receiver::http(listener));
    let worker = [
        "worker", "start", "--pool", "pool", "--name", "worker-a", "--type", "process",
    ];
    let _worker = Process::start(server.program("prefect").args(worker));
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("METRICS_INCLUDE", "*"),
        ("STATE_DIR", folder.path().to_str().unwrap()),
        // An empty web configuration: a file that is read again.
        ("WEB_CONFIG_FILE", "/dev/null"),
        ("TASK_RUNS_ENABLED", "True"),
        ("DEPLOYMENT_TAG_LABELS", "period"),
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
    ];
    let agent = AgentProcess::start(&server.url, &settings);
    let programs = programs("every_family_is_right_and_every_recipe_answers");
    let prometheus = programs
        .map(|programs| Prometheus::scraping(&programs, &[("agent", agent.address.to_string())]));
    let own = [("deployment_name", "nightly"), ("state_name", "Completed")];
    expect(&agent, "prefect_flow_runs_finished_total", &own, 0.0);
    if let Some(prometheus) = &prometheus {
        let zero = "sum(prefect_flow_runs_retries_total)";
        wait_for("the series at zero", || prometheus.value(zero));
    }
    let runs = load(&server, &deployment);
    check_runs(&server, &agent, &runs);
    // One ahead, one late, one under way.
    schedule(&server, &deployment, 600);
    schedule(&server, &deployment, -60);
    let running = schedule(&server, &deployment, -1);
    server.set_state(&running, json!({"type": "RUNNING"}));
    check_oldest_pending(&server, &agent, &deployment);
    let mut python: Command = server.program("python");
    assert!(python.args(["-c", TASKS]).status().unwrap().success());
    check_tasks(&agent);
    check_inventory(&server, &agent);
    check_all(&agent);
    if let Some(prometheus) = &prometheus {
        check_first_failures(&server, prometheus, &quiet);
        check_recipes(prometheus);
    }
    check_states(&server, &agent);
    check_shards(&server);
}

/// Four agents, each with a quarter of the series, export what one agent does.
fn check_shards(server: &Server) {
    let page = |shard: &str| {
        let settings = [
            ("METRICS_INCLUDE", "*"),
            ("TASK_RUNS_ENABLED", "True"),
            ("SHARD", shard),
        ];
        let printed = once(&server.url, &settings, "prometheus").stdout;
        Page::parse(&String::from_utf8(printed).unwrap())
    };
    let shards = ["0/4", "1/4", "2/4", "3/4"].map(page);
    add_up(&page("0/1"), &shards);
}
