//! Every series and value of the compatible families, with a real Prefect server on which the test
//! has created all objects.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::page::{Labels, Page};
use crate::support::postgres::Postgres;
use crate::support::prefect::Server;
use crate::support::process::{AgentProcess, PATIENCE};

const FAMILIES: [&str; 15] = [
    "prefect_deployments_total",
    "prefect_info_deployment",
    "prefect_flows_total",
    "prefect_info_flows",
    "prefect_flow_runs_total",
    "prefect_flow_runs_total_run_time",
    "prefect_flow_runs_ongoing_run_time",
    "prefect_info_flow_runs",
    "prefect_deployment_failed_flow_runs",
    "prefect_deployment_last_failed_flow_run",
    "prefect_work_pools_total",
    "prefect_info_work_pools",
    "prefect_work_queues_total",
    "prefect_info_work_queues",
    "prefect_work_queues_late_runs_count",
];

const NATIVE_FAMILIES: [&str; 3] = [
    "prefect_flow_runs_active",
    "prefect_flow_runs_late",
    "prefect_deployment_next_run_time_seconds",
];

/// The expected page: family, labels, value. `None` stands for seconds since a start.
type Expected = BTreeMap<(String, Labels), Option<f64>>;

fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.into_iter().chain(NATIVE_FAMILIES)
}

#[derive(Default)]
struct Expectation(Expected);

impl Expectation {
    fn add(&mut self, family: &str, labels: &[(&str, &str)], value: impl Into<Option<f64>>) {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let before = self
            .0
            .insert((family.to_owned(), labels.collect()), value.into());
        assert!(before.is_none(), "expected twice");
    }
}

/// The objects that were created, by name.
pub(crate) struct World {
    pub(crate) server: Server,
    /// Ids of flow runs, by a name for each.
    pub(crate) runs: BTreeMap<&'static str, String>,
}

fn ago(seconds: i64) -> String {
    (Timestamp::now() - SignedDuration::from_secs(seconds)).to_string()
}

pub(crate) fn create(server: Server) -> World {
    let etl = server.create("/flows/", json!({"name": "etl"}));
    let report = server.create("/flows/", json!({"name": "report"}));
    server.create(
        "/flows/",
        json!({"name": "unused \"flow\"\\with\nodd name"}),
    );

    server.create(
        "/work_pools/",
        json!({"name": "process-pool", "type": "process", "concurrency_limit": 5}),
    );
    server.create(
        "/work_pools/",
        json!({"name": "paused-pool", "type": "kubernetes", "is_paused": true}),
    );
    server.create(
        "/work_pools/process-pool/queues",
        json!({"name": "high", "priority": 1, "concurrency_limit": 3}),
    );
    server.create(
        "/work_pools/process-pool/queues",
        json!({"name": "paused", "is_paused": true}),
    );

    let deployment = |body: Value| server.create("/deployments/", body);
    let nightly = deployment(
        json!({"name": "nightly", "flow_id": etl, "tags": ["team:data", "b", "a"],
        "path": "/srv/etl", "work_pool_name": "process-pool", "work_queue_name": "high"}),
    );
    let paused = deployment(json!({"name": "paused", "flow_id": etl, "paused": true,
        "work_pool_name": "paused-pool"}));
    let plain = deployment(json!({"name": "plain", "flow_id": report}));
    let gone = deployment(json!({"name": "gone", "flow_id": report}));

    let mut runs = BTreeMap::new();
    let run_of = |deployment: &str| {
        server.create(
            &format!("/deployments/{deployment}/create_flow_run"),
            json!({"state": {"type": "PENDING"}}),
        )
    };
    // Terminal states: one is TimedOut, one belongs to a deleted deployment, one has no deployment,
    // and two are old.
    let ended = [
        ("completed", run_of(&nightly), "COMPLETED", None),
        ("completed-later", run_of(&nightly), "COMPLETED", None),
        ("failed", run_of(&nightly), "FAILED", None),
        ("timed-out", run_of(&nightly), "FAILED", Some("TimedOut")),
        ("crashed", run_of(&plain), "CRASHED", None),
        ("cancelled", run_of(&plain), "CANCELLED", None),
        ("failed-long-ago", run_of(&paused), "FAILED", None),
        ("failed-too-long-ago", run_of(&paused), "FAILED", None),
        ("failed-and-gone", run_of(&gone), "FAILED", None),
        (
            "without-deployment",
            server.create("/flow_runs/", json!({"flow_id": report})),
            "COMPLETED",
            None,
        ),
    ];
    for (name, run, kind, state_name) in ended {
        server.set_state(&run, json!({"type": "RUNNING"}));
        let mut last = json!({"type": kind});
        if let Some(state_name) = state_name {
            last["name"] = json!(state_name);
        }
        server.set_state(&run, last);
        runs.insert(name, run);
    }
    server.set_back(&runs["failed-long-ago"], Duration::from_secs(2 * 3_600));
    server.set_back(
        &runs["failed-too-long-ago"],
        Duration::from_secs(8 * 86_400),
    );
    for (name, kind) in [
        ("running", "RUNNING"),
        ("paused", "PAUSED"),
        ("cancelling", "CANCELLING"),
    ] {
        let run = run_of(&nightly);
        server.set_state(&run, json!({"type": "RUNNING"}));
        if kind != "RUNNING" {
            server.set_state(&run, json!({"type": kind}));
        }
        runs.insert(name, run);
    }
    runs.insert("pending", run_of(&nightly));
    // Awaiting retry in three hours: active although it is beyond the look-ahead.
    let retrying = run_of(&plain);
    server.set_state(&retrying, json!({"type": "RUNNING"}));
    let in_three_hours = json!({"scheduled_time": ago(-3 * 3_600)});
    server.set_state(
        &retrying,
        json!({"type": "SCHEDULED", "name": "AwaitingRetry", "state_details": in_three_hours}),
    );
    runs.insert("retrying", retrying);
    let scheduled = |deployment: &str, seconds_ago: i64| {
        let state =
            json!({"type": "SCHEDULED", "state_details": {"scheduled_time": ago(seconds_ago)}});
        server.create(
            &format!("/deployments/{deployment}/create_flow_run"),
            json!({"state": state}),
        )
    };
    runs.insert("soon", scheduled(&nightly, -600));
    runs.insert("beyond-the-lookahead", scheduled(&nightly, -7_200));
    for name in ["late-1", "late-2"] {
        runs.insert(name, scheduled(&nightly, 60));
    }
    server.call("DELETE", &format!("/deployments/{gone}"), None);
    wait_until_late(&server, &[&runs["late-1"], &runs["late-2"]]);
    World { server, runs }
}

/// The server's service marks runs late within half a minute.
fn wait_until_late(server: &Server, runs: &[&String]) {
    crate::support::process::wait_for("late runs", || {
        runs.iter()
            .all(|run| server.flow_run(run)["state_name"] == "Late")
            .then_some(())
    });
}

fn expected(world: &World) -> Expected {
    let mut expected = Expectation::default();
    let id = |name: &str| world.runs[name].as_str();
    expected.add("prefect_deployments_total", &[], 3.0);
    expected.add("prefect_flows_total", &[], 3.0);
    expected.add("prefect_work_pools_total", &[], 2.0);
    // The default queues of two pools, and two more.
    expected.add("prefect_work_queues_total", &[], 4.0);
    for (name, flow, active, path, paused, tags, pool, queue) in [
        (
            "nightly",
            "etl",
            "True",
            "/srv/etl",
            "False",
            "a,b,team:data",
            "process-pool",
            "high",
        ),
        (
            "paused",
            "etl",
            "False",
            "None",
            "True",
            "",
            "paused-pool",
            "default",
        ),
        (
            "plain", "report", "True", "None", "False", "", "None", "None",
        ),
    ] {
        let labels = [
            ("deployment_name", name),
            ("flow_name", flow),
            ("is_schedule_active", active),
            ("path", path),
            ("paused", paused),
            ("status", "NOT_READY"),
            ("tags", tags),
            ("work_pool_name", pool),
            ("work_queue_name", queue),
        ];
        expected.add("prefect_info_deployment", &labels, 1.0);
    }
    for flow in ["etl", "report", "unused \"flow\"\\with\nodd name"] {
        expected.add("prefect_info_flows", &[("flow_name", flow)], 1.0);
    }
    runs(&mut expected, world);
    failures(&mut expected, &id);
    natives(&mut expected, world);
    for (pool, kind, status, paused, value) in [
        ("process-pool", "process", "NOT_READY", "False", 1.0),
        ("paused-pool", "kubernetes", "PAUSED", "True", 0.0),
    ] {
        let labels = [
            ("is_paused", paused),
            ("type", kind),
            ("status", status),
            ("work_pool_name", pool),
        ];
        expected.add("prefect_info_work_pools", &labels, value);
    }
    for (pool, queue, priority, status, paused, late) in [
        ("process-pool", "default", "2", "NOT_READY", "False", 0.0),
        ("process-pool", "high", "1", "NOT_READY", "False", 2.0),
        ("process-pool", "paused", "3", "NOT_READY", "True", 0.0),
        ("paused-pool", "default", "1", "NOT_READY", "False", 0.0),
    ] {
        let labels = [
            ("is_paused", paused),
            ("work_queue_name", queue),
            ("priority", priority),
            ("type", "null"),
            ("work_pool_name", pool),
            ("status", status),
            ("healthy", "False"),
            ("health_check_policy_maximum_late_runs", "0"),
            (
                "health_check_policy_maximum_seconds_since_last_polled",
                "60",
            ),
        ];
        expected.add(
            "prefect_info_work_queues",
            &labels,
            if paused == "True" { 0.0 } else { 1.0 },
        );
        expected.add("prefect_work_queues_late_runs_count", &labels, late);
    }
    expected.0
}

fn runs(expected: &mut Expectation, world: &World) {
    // Ended within OFFSET_MINUTES: all except the two old ones.
    expected.add("prefect_flow_runs_total", &[], 8.0);
    // The last run that ended, for each deployment and flow.
    for (deployment, flow, run) in [
        ("nightly", "etl", "timed-out"),
        ("plain", "report", "cancelled"),
        ("null", "report", "without-deployment"),
    ] {
        let labels = [("deployment_name", deployment), ("flow_name", flow)];
        let seconds = world.server.flow_run(&world.runs[run])["total_run_time"].as_f64();
        expected.add("prefect_flow_runs_total_run_time", &labels, seconds);
    }
    for (deployment, flow, state, run) in [
        ("nightly", "etl", "Running", "running"),
        ("plain", "report", "AwaitingRetry", "retrying"),
    ] {
        let labels = [
            ("deployment_name", deployment),
            ("flow_name", flow),
            ("state_name", state),
            ("flow_run_id", &world.runs[run]),
        ];
        expected.add("prefect_flow_runs_ongoing_run_time", &labels, None);
    }
    for (deployment, flow, state, queue, count) in [
        ("nightly", "etl", "Completed", "high", 2.0),
        ("nightly", "etl", "Failed", "high", 1.0),
        ("nightly", "etl", "TimedOut", "high", 1.0),
        ("nightly", "etl", "Running", "high", 1.0),
        ("nightly", "etl", "Paused", "high", 1.0),
        ("nightly", "etl", "Cancelling", "high", 1.0),
        ("nightly", "etl", "Pending", "high", 1.0),
        ("nightly", "etl", "Scheduled", "high", 1.0),
        ("nightly", "etl", "Late", "high", 2.0),
        ("plain", "report", "Crashed", "None", 1.0),
        ("plain", "report", "Cancelled", "None", 1.0),
        ("plain", "report", "AwaitingRetry", "None", 1.0),
        ("null", "report", "Failed", "None", 1.0),
        ("null", "report", "Completed", "None", 1.0),
    ] {
        let labels = [
            ("deployment_name", deployment),
            ("flow_name", flow),
            ("state_name", state),
            ("work_queue_name", queue),
        ];
        expected.add("prefect_info_flow_runs", &labels, count);
    }
}

fn failures<'a>(expected: &mut Expectation, id: &dyn Fn(&'a str) -> &'a str) {
    for family in [
        "prefect_deployment_failed_flow_runs",
        "prefect_deployment_last_failed_flow_run",
    ] {
        for (deployment, flow, state, run) in [
            ("nightly", "etl", "Failed", "failed"),
            ("nightly", "etl", "TimedOut", "timed-out"),
            ("plain", "report", "Crashed", "crashed"),
            ("paused", "etl", "Failed", "failed-long-ago"),
            // Its deployment has been deleted, but the run still refers to it.
            ("null", "report", "Failed", "failed-and-gone"),
        ] {
            let labels = [
                ("deployment_name", deployment),
                ("flow_name", flow),
                ("state_name", state),
                ("last_failed_run_id", id(run)),
            ];
            expected.add(family, &labels, 1.0);
        }
    }
}

fn natives(expected: &mut Expectation, world: &World) {
    let nightly = [
        ("deployment_name", "nightly"),
        ("flow_name", "etl"),
        ("work_pool_name", "process-pool"),
        ("work_queue_name", "high"),
    ];
    let plain = [
        ("deployment_name", "plain"),
        ("flow_name", "report"),
        ("work_pool_name", "None"),
        ("work_queue_name", "None"),
    ];
    for (run, kind, name) in [
        (nightly, "RUNNING", "Running"),
        (nightly, "PENDING", "Pending"),
        (nightly, "PAUSED", "Paused"),
        (nightly, "CANCELLING", "Cancelling"),
        (plain, "SCHEDULED", "AwaitingRetry"),
    ] {
        let labels = [
            run.as_slice(),
            &[("state_type", kind), ("state_name", name)],
        ]
        .concat();
        expected.add("prefect_flow_runs_active", &labels, 1.0);
    }
    expected.add("prefect_flow_runs_late", &nightly, 2.0);
    let soon = world.server.flow_run(&world.runs["soon"]);
    let soon: Timestamp = soon["next_scheduled_start_time"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let seconds = soon.as_duration().as_secs_f64();
    expected.add(
        "prefect_deployment_next_run_time_seconds",
        &nightly[..2],
        seconds,
    );
}

/// Slots in use, as currently counted by the server, which is slightly delayed.
fn check_slots(world: &World, agent: &AgentProcess) {
    let of = |list: &str, name: &str| {
        let items = world
            .server
            .post(&format!("/{list}/filter"), json!({"limit": 200}));
        let named = |item: &&Value| item["name"] == name;
        items
            .as_array()
            .unwrap()
            .iter()
            .find(named)
            .cloned()
            .unwrap()
    };
    let queue = [("work_queue_name", "high")];
    for (family, list, name, labels) in [
        (
            "prefect_work_pool_slots",
            "work_pools",
            "process-pool",
            &[][..],
        ),
        (
            "prefect_work_queue_slots",
            "work_queues",
            "high",
            &queue[..],
        ),
    ] {
        let agrees = |page: &Page| {
            let item = of(list, name);
            [("limit", "concurrency_limit"), ("active", "active_slots")]
                .iter()
                .all(|(kind, field)| {
                    let labels = [
                        labels,
                        &[("slot_kind", kind), ("work_pool_name", "process-pool")],
                    ];
                    let shown = page.value(family, &labels.concat());
                    shown.is_some() && shown == item[*field].as_f64()
                })
        };
        let limited = agent.wait_for_page(family, |page| {
            agrees(page).then(|| page.family(family).len())
        });
        assert_eq!(limited, 2, "what has no limit has no slots");
    }
}

/// The differences between the page and the expected one, one per line.
fn differences(page: &Page, expected: &Expected) -> Vec<String> {
    let mut differences = Vec::new();
    let shown = page
        .series
        .iter()
        .filter(|((family, _), _)| families().any(|name| name == family));
    for (series, value) in shown {
        match expected.get(series) {
            None => differences.push(format!("not expected: {series:?} {value}")),
            Some(Some(expected)) if (expected - value).abs() > 1e-9 => {
                differences.push(format!("{series:?}: {value}, not {expected}"));
            }
            // A plausible number of seconds since a start in this test.
            Some(None) if !(1.0..1_800.0).contains(value) => {
                differences.push(format!("{series:?}: {value}"));
            }
            Some(_) => {}
        }
    }
    let missing = expected
        .keys()
        .filter(|series| !page.series.contains_key(series));
    differences.extend(missing.map(|series| format!("missing: {series:?}")));
    differences
}

fn check(server_settings: &[(&str, &str)], agent_settings: &[(&str, &str)]) {
    let world = create(Server::start(server_settings));
    // All runs must stay within the window during the test.
    let mut settings = vec![("OFFSET_MINUTES", "30"), ("METRICS_INCLUDE", "*")];
    settings.extend(agent_settings);
    let expected = expected(&world);
    for family in families() {
        assert!(
            expected.keys().any(|(name, _)| name == family),
            "{family} has no series"
        );
    }
    let agent = AgentProcess::start(&world.server.url, &settings);
    let started = Instant::now();
    loop {
        let differences = differences(&agent.page(), &expected);
        if differences.is_empty() {
            break;
        }
        let log = agent.process.log();
        assert!(started.elapsed() < PATIENCE, "{differences:#?}\n{log:#?}");
        std::thread::sleep(Duration::from_millis(500));
    }
    check_slots(&world, &agent);
    agent.wait_for_page("the server's version", |page| {
        let info = page.value("prefect_server_info", &[("version", "3.8.8")])?;
        (info == 1.0).then_some(())
    });
}

#[test]
fn every_series_on_a_plain_server() {
    check(&[], &[]);
}

#[test]
fn every_series_on_a_server_with_user_and_password() {
    check(
        &[("PREFECT_SERVER_API_AUTH_STRING", "admin:pass word")],
        &[("PREFECT_API_AUTH_STRING", "admin:pass word")],
    );
}

#[test]
fn every_series_on_a_server_with_csrf_protection() {
    check(&[("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "true")], &[]);
}

#[test]
fn every_series_on_a_server_with_postgresql() {
    let test = "every_series_on_a_server_with_postgresql";
    let Some(postgres) = Postgres::start(test) else {
        return;
    };
    let url = postgres.url();
    check(
        &[("PREFECT_API_DATABASE_CONNECTION_URL", url.as_str())],
        &[],
    );
}
