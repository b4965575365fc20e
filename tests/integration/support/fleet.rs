//! Any number of objects, derived from recorded ones.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::stub::{Contents, recorded};

/// An id derived from a number.
pub(crate) fn id(kind: u32, number: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

fn object(name: &str, kind: u32, number: usize) -> Value {
    let mut object = recorded(name);
    object["id"] = json!(id(kind, number));
    object
}

const DEPLOYMENT: u32 = 1;
const FLOW: u32 = 2;
const POOL: u32 = 3;
const QUEUE: u32 = 4;

/// A flow run in `state`, of deployment and flow 0.
pub(crate) fn run(number: usize, state: &str) -> Value {
    let recorded = match state {
        "SCHEDULED" | "PENDING" | "RUNNING" => format!("flow_run_{}", state.to_lowercase()),
        _ => "flow_run_completed".to_owned(),
    };
    let mut run = object(&recorded, 5, number);
    let name = state[..1].to_owned() + &state[1..].to_lowercase();
    run["deployment_id"] = json!(id(DEPLOYMENT, 0));
    run["flow_id"] = json!(id(FLOW, 0));
    run["work_queue_id"] = json!(id(QUEUE, 0));
    run["state_id"] = json!(uuid::Uuid::new_v4().to_string());
    run["state_type"] = json!(state);
    run["state_name"] = json!(name);
    run["name"] = json!(format!("run-{number}"));
    run
}

/// The same, at a time in the past: of its end, or of its actual or expected start if it has not
/// ended.
pub(crate) fn run_at(number: usize, state: &str, seconds_ago: i64) -> Value {
    let mut run = run(number, state);
    at(&mut run, seconds_ago);
    run
}

/// Sets the times of a run.
pub(crate) fn at(run: &mut Value, seconds_ago: i64) {
    let time = Timestamp::now() - SignedDuration::from_secs(seconds_ago);
    let start = if run["end_time"].is_null() {
        time
    } else {
        run["total_run_time"] = json!(10.0);
        time - SignedDuration::from_secs(10)
    };
    run["expected_start_time"] = json!(start.to_string());
    if !run["start_time"].is_null() {
        run["start_time"] = json!(start.to_string());
    }
    if !run["end_time"].is_null() {
        run["end_time"] = json!(time.to_string());
    }
}

/// A run of this deployment that has just ended.
pub(crate) fn ended(deployment: usize, state: &str) -> Value {
    let mut run = run_at(0, state, 0);
    run["id"] = json!(uuid::Uuid::new_v4().to_string());
    run["deployment_id"] = json!(id(DEPLOYMENT, deployment));
    run
}

/// Adds a deployment of flow 0.
pub(crate) fn deploy(contents: &mut Contents, number: usize) {
    let mut deployment = object("deployment", DEPLOYMENT, number);
    deployment["name"] = json!(format!("deployment-{number}"));
    deployment["flow_id"] = json!(id(FLOW, 0));
    contents.deployments.push(deployment);
}

/// One deployment of one flow, in one queue of one work pool.
pub(crate) fn small(contents: &mut Contents) {
    inventory(contents, 1, 1, 1, 1);
}

/// The fleet of the request budget: 1,200 deployments, 150 flows, 25 pools, 145 queues, 585
/// active, 50,000 scheduled over three days and 7,700 failed runs in a week, 90 runs finished
/// in five minutes.
pub(crate) fn large(contents: &mut Contents) {
    inventory(contents, 1_200, 150, 25, 145);
    let runs = &mut contents.flow_runs;
    let mut number = 0..;
    let mut add = |state: &str, seconds_ago: i64| {
        let number = number.next().unwrap();
        let mut run = run_at(number, state, seconds_ago);
        run["deployment_id"] = json!(id(DEPLOYMENT, number % 1_200));
        run["flow_id"] = json!(id(FLOW, number % 150));
        run["work_queue_id"] = json!(id(QUEUE, number % 145));
        runs.push(run);
    };
    for index in 0..585 {
        add(
            ["RUNNING", "RUNNING", "PENDING"][index as usize % 3],
            index * 7,
        );
    }
    for index in 0..50_000 {
        add("SCHEDULED", -(index * 3 * 86_400 / 50_000) - 30);
    }
    for index in 0..7_700 {
        add(
            ["FAILED", "CRASHED"][index as usize % 2],
            4_000 + index * 600_000 / 7_700,
        );
    }
    for index in 0..90 {
        add("COMPLETED", index * 2);
    }
}

/// Adds runs that are due or late: 3,000 with those expected within the hour.
pub(crate) fn due(contents: &mut Contents) {
    for number in 100_000..102_300 {
        let mut run = run_at(number, "SCHEDULED", number as i64 % 3_600);
        if number % 2 == 0 {
            run["state_name"] = json!("Late");
        }
        contents.flow_runs.push(run);
    }
}

/// This many objects of each kind, spread evenly.
pub(crate) fn inventory(
    contents: &mut Contents,
    deployments: usize,
    flows: usize,
    pools: usize,
    queues: usize,
) {
    for number in 0..deployments {
        let mut deployment = object("deployment", DEPLOYMENT, number);
        deployment["name"] = json!(format!("deployment-{number}"));
        deployment["flow_id"] = json!(id(FLOW, number % flows));
        contents.deployments.push(deployment);
    }
    for number in 0..flows {
        let mut flow = object("flow", FLOW, number);
        flow["name"] = json!(format!("flow-{number}"));
        contents.flows.push(flow);
    }
    for number in 0..pools {
        let mut pool = object("work_pool", POOL, number);
        pool["name"] = json!(format!("pool-{number}"));
        contents.work_pools.push(pool);
    }
    for number in 0..queues {
        let mut queue = object("work_queue", QUEUE, number);
        queue["name"] = json!(format!("queue-{number}"));
        queue["work_pool_name"] = json!(format!("pool-{}", number % pools));
        contents.work_queues.push(queue);
    }
}
