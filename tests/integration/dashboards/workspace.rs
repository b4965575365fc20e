//! A workspace with every kind of object, on a stub of Prefect, with the real agent and the real
//! Prometheus.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::json::{Dashboard, dashboards};
use super::shown::{Look, Shown, now, packages, show};
use crate::support::fleet::{ended, id, run_at};
use crate::support::process::{AgentProcess, wait_for};
use crate::support::programs::{Prometheus, programs};
use crate::support::stub::{Contents, Stub, recorded};

/// Names that are legal in Prefect, each used for a flow, its deployment, pool, queue and worker.
/// The first one is plain.
pub(super) const NAMES: [&str; 15] = [
    "plain",
    "a&b",
    "c#d",
    "e+f",
    "g\"h",
    "i'j",
    "k%20l",
    "m n",
    "🦀 crab",
    "$x",
    "${flow}",
    "back\\slash",
    "a?b=c",
    "2026",
    "(x|y).*",
];

/// A flow with one deployment per case.
pub(super) const CASES: &str = "cases";
/// It completes, and its next run is overdue.
pub(super) const STEADY: &str = "steady";
/// It has only ever failed.
pub(super) const HOPELESS: &str = "hopeless";
/// It has never run.
pub(super) const FRESH: &str = "fresh";
/// It is paused.
pub(super) const ASLEEP: &str = "asleep";
const OF_CASES: [&str; 4] = [STEADY, HOPELESS, FRESH, ASLEEP];

/// A queue that was never polled, in the pool with the same name.
pub(super) const NEVER_POLLED: &str = "never-polled";

/// The kinds of ids in support/fleet.rs.
const DEPLOYMENT: u32 = 1;
const FLOW: u32 = 2;
const POOL: u32 = 3;
const QUEUE: u32 = 4;

fn object(name: &str, kind: u32, number: usize) -> Value {
    let mut object = recorded(name);
    object["id"] = json!(id(kind, number));
    object
}

fn ago(seconds: i64) -> Value {
    json!((Timestamp::now() - SignedDuration::from_secs(seconds)).to_string())
}

fn pool(contents: &mut Contents, number: usize, name: &str, polled: bool) {
    let mut pool = object("work_pool", POOL, number);
    pool["name"] = json!(name);
    pool["concurrency_limit"] = json!(4);
    pool["active_slots"] = json!(1);
    contents.work_pools.push(pool);
    let mut queue = object("work_queue", QUEUE, number);
    queue["name"] = json!(name);
    queue["work_pool_name"] = json!(name);
    queue["concurrency_limit"] = json!(2);
    queue["active_slots"] = json!(1);
    if polled {
        queue["status"] = json!("READY");
        queue["last_polled"] = ago(3);
        let mut worker = object("worker", 9, number);
        worker["name"] = json!(name);
        worker["work_pool"] = json!(name);
        worker["last_heartbeat_time"] = ago(5);
        contents.workers.push(worker);
    }
    contents.work_queues.push(queue);
}

fn flow(contents: &mut Contents, number: usize, name: &str) {
    let mut flow = object("flow", FLOW, number);
    flow["name"] = json!(name);
    contents.flows.push(flow);
}

fn deployment(contents: &mut Contents, number: usize, name: &str, flow: usize, pool: usize) {
    let mut deployment = object("deployment", DEPLOYMENT, number);
    deployment["name"] = json!(name);
    deployment["flow_id"] = json!(id(FLOW, flow));
    deployment["paused"] = json!(name == ASLEEP);
    deployment["work_queue_id"] = json!(id(QUEUE, pool));
    let pool = contents.work_pools[pool]["name"].clone();
    deployment["work_pool_name"] = pool.clone();
    deployment["work_queue_name"] = pool;
    contents.deployments.push(deployment);
}

fn inventory(contents: &mut Contents) {
    for (number, name) in NAMES.iter().enumerate() {
        pool(contents, number, name, true);
        flow(contents, number, name);
        deployment(contents, number, name, number, number);
    }
    flow(contents, NAMES.len(), CASES);
    for (number, name) in OF_CASES.iter().enumerate() {
        deployment(contents, NAMES.len() + number, name, NAMES.len(), 0);
    }
    pool(contents, NAMES.len(), NEVER_POLLED, false);
}

/// Assigns a run to this deployment and its flow and queue.
fn of(mut run: Value, number: usize) -> Value {
    let twin = number.min(NAMES.len());
    run["id"] = json!(uuid::Uuid::new_v4().to_string());
    run["deployment_id"] = json!(id(DEPLOYMENT, number));
    run["flow_id"] = json!(id(FLOW, twin));
    run["work_queue_id"] = json!(id(QUEUE, if twin == NAMES.len() { 0 } else { twin }));
    if !run["next_scheduled_start_time"].is_null() {
        run["next_scheduled_start_time"] = run["expected_start_time"].clone();
    }
    run
}

/// Events after the start of the agent, so that they are counted.
fn events(contents: &mut Contents) {
    let runs = &mut contents.flow_runs;
    for number in 0..NAMES.len() {
        runs.push(of(ended(number, "COMPLETED"), number));
        runs.push(of(ended(number, "FAILED"), number));
        runs.push(of(run_at(0, "RUNNING", 20), number));
        runs.push(of(run_at(0, "PENDING", 20), number));
        let mut late = of(run_at(0, "SCHEDULED", 90), number);
        late["state_name"] = json!("Late");
        runs.push(late);
        runs.push(of(run_at(0, "SCHEDULED", -600), number));
    }
    for (index, name) in OF_CASES.iter().enumerate() {
        let number = NAMES.len() + index;
        let ends: &[&str] = match *name {
            STEADY | ASLEEP => &["COMPLETED", "COMPLETED"],
            HOPELESS => &["FAILED", "CRASHED"],
            _ => &[],
        };
        runs.extend(ends.iter().map(|state| of(ended(number, state), number)));
        if *name == STEADY {
            runs.push(of(run_at(0, "SCHEDULED", 20), number));
        }
    }
}

/// The workspace, with an agent and Prometheus.
pub(super) struct Workspace {
    packages: std::path::PathBuf,
    pub(super) prometheus: Prometheus,
    pub(super) agent: Option<AgentProcess>,
    pub(super) stub: Stub,
    _runtime: tokio::runtime::Runtime,
}

impl Workspace {
    /// Starts everything, and waits until Prometheus has all series. `None` if the programs are not
    /// installed.
    pub(super) fn start(test: &str) -> Option<Self> {
        let (programs, packages) = (programs(test)?, packages(test)?);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stub = runtime.block_on(Stub::start());
        inventory(&mut stub.contents());
        let settings = [
            ("TASK_RUNS_ENABLED", "True"),
            ("FAILED_RUNS_OFFSET_MINUTES", "60"),
        ];
        let agent = AgentProcess::start(&stub.url, &settings);
        let target = ("prefect-otel-agent", agent.address.to_string());
        let prometheus = Prometheus::scraping(&programs, &[target]);
        let deployments = (NAMES.len() + OF_CASES.len()) as f64;
        let wait = |what: &str, query: &str, count: f64| {
            wait_for(what, || {
                let value = prometheus.value(query);
                value.filter(|value| (*value - count).abs() < 0.5)
            });
        };
        wait(
            "the deployments",
            "count(prefect_info_deployment)",
            deployments,
        );
        // Counters are at zero before anything happens.
        let completed = "prefect_flow_runs_finished_total{state_type=\"COMPLETED\"}";
        wait("the counters", &format!("count({completed})"), deployments);
        events(&mut stub.contents());
        let all = NAMES.len() as f64;
        wait("the ends", &format!("sum({completed})"), all + 4.0);
        wait("late runs", "sum(prefect_flow_runs_late)", all);
        let failed = "count(prefect_deployment_failed_flow_runs)";
        wait("the failed runs", failed, all + 2.0);
        // increase() needs a second scrape with them.
        let increase = format!("count(increase({completed}[1m]) > 0)");
        wait("the increase", &increase, all + 2.0);
        Some(Workspace {
            packages,
            prometheus,
            agent: Some(agent),
            stub,
            _runtime: runtime,
        })
    }

    pub(super) fn show(&self, looks: &[Look]) -> Vec<Shown> {
        show(&self.packages, &self.prometheus, looks)
    }

    /// Shows every Prefect dashboard with its defaults, and the deployment dashboard with this
    /// deployment.
    pub(super) fn show_all(&self, flow: &str, deployment: &str) -> Vec<(Dashboard, Shown)> {
        self.show_all_until(None, flow, deployment)
    }

    /// The same with graphs, after two minutes, so that each has two steps since the beginning.
    pub(super) fn show_graphs(&self, flow: &str, deployment: &str) -> Vec<(Dashboard, Shown)> {
        self.show_all_until(Some(now() as u64 + 120), flow, deployment)
    }

    fn show_all_until(
        &self,
        to: Option<u64>,
        flow: &str,
        deployment: &str,
    ) -> Vec<(Dashboard, Shown)> {
        let all: Vec<Dashboard> = { dashboards().into_iter() }
            .filter(Dashboard::of_prefect)
            .collect();
        let looks: Vec<Look> = { all.iter() }
            .map(|dashboard| {
                let look = of_deployment(&dashboard.file, flow, deployment);
                Look { to, ..look }
            })
            .collect();
        let shown = self.show(&looks);
        all.into_iter().zip(shown).collect()
    }
}

/// A view with this deployment selected, if it is the deployment dashboard.
pub(super) fn of_deployment(file: &str, flow: &str, deployment: &str) -> Look {
    let look = Look::at(file);
    match file {
        "deployment.json" => look.with("flow", flow).with("deployment", deployment),
        _ => look,
    }
}
