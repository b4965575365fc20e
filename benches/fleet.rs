//! Measures requests, CPU time and memory of the agent at fleets of several sizes.
//!
//!     cargo bench --bench fleet
//!
//! The agent runs as a separate process in its default mode: it reads a stub of Prefect on loopback,
//! pushes over OTLP to a receiver and serves `/metrics`. Every deployment has run, so histograms are
//! filled, and in each cycle runs of one in a hundred deployments end. CPU time and memory are those
//! that Linux reports for the process: CPU time with a resolution of 10 ms, as the mean of ten
//! cycles, half of which read the inventory; memory after these cycles.
//!
//! A second table shows what reading 585 active and 3,000 due runs costs if none of them changes: by
//! difference, and by listing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    missing_docs
)]

#[path = "../tests/integration/support/mod.rs"]
mod support;

use std::time::Duration;

use prost::Message as _;
use serde_json::{Value, json};
use support::fleet;
use support::page::Page;
use support::points::over_http;
use support::process::{AgentProcess, wait_for};
use support::stub::{Contents, Stub};
use tokio::runtime::Runtime;

const SIZES: [usize; 3] = [120, 1_200, 10_000];
const CYCLES: u32 = 10;

/// What the agent costs at one size, per cycle unless noted otherwise.
struct Cost {
    series: usize,
    requests: f64,
    received: f64,
    cpu_first: Duration,
    cpu: Duration,
    memory: f64,
    page: usize,
    pushed: f64,
}

/// A fleet of any size: for every 8 deployments a flow and a work queue, for every 48 a work pool.
/// Every second deployment has an active run, and each has 2 or 3 scheduled ones within the hour.
fn sized(contents: &mut Contents, deployments: usize) {
    let (flows, pools) = (deployments.div_ceil(8), deployments.div_ceil(48));
    fleet::inventory(contents, deployments, flows, pools, flows);
    let scheduled = deployments * 5 / 2;
    for number in 0..deployments / 2 + scheduled {
        let (state, seconds_ago) = match number.checked_sub(scheduled) {
            Some(active) => (["RUNNING", "PENDING"][active % 2], active as i64 % 3_600),
            None => ("SCHEDULED", -60 - number as i64 % 3_500),
        };
        let mut run = fleet::run_at(number, state, seconds_ago);
        run["deployment_id"] = json!(fleet::id(1, number % deployments));
        run["flow_id"] = json!(fleet::id(2, number % deployments % flows));
        run["work_queue_id"] = json!(fleet::id(4, number % flows));
        contents.flow_runs.push(run);
    }
}

/// A run of a deployment of such a fleet that has just ended.
fn ended(deployments: usize, deployment: usize, state: &str) -> Value {
    let mut run = fleet::ended(deployment, state);
    run["flow_id"] = json!(fleet::id(2, deployment % deployments.div_ceil(8)));
    run
}

/// CPU time of a process: user and system.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = [11, 12].map(|index: usize| fields[index].parse::<u64>().unwrap());
    // USER_HZ is 100 on every Linux.
    Duration::from_millis((ticks[0] + ticks[1]) * 10)
}

/// Resident memory of a process in bytes.
fn memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kibibytes.parse::<f64>().unwrap() * 1024.0
}

/// Ends a run of each of these deployments.
fn end_runs(stub: &Stub, size: usize, deployments: impl Iterator<Item = usize>) {
    let mut contents = stub.contents();
    for deployment in deployments {
        let state = ["COMPLETED", "COMPLETED", "COMPLETED", "FAILED"][deployment % 4];
        let run = ended(size, deployment, state);
        contents.flow_runs.push(run);
    }
}

fn measure(runtime: &Runtime, stub: &Stub, size: usize) -> Cost {
    *stub.contents() = Contents::default();
    sized(&mut stub.contents(), size);
    let (receiver, endpoint) = runtime.block_on(over_http());
    let settings = [
        ("SAMPLE_INTERVAL_SECONDS", "10"),
        ("INVENTORY_INTERVAL_SECONDS", "20"),
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("METRICS_CARDINALITY_LIMIT", "200000"),
        ("LOG_LEVEL", "DEBUG"),
    ];
    let agent = AgentProcess::start(&stub.url, &settings);
    let pid = agent.process.id();
    wait_for_cycles(&agent, 1);
    let cpu_first = cpu(pid);
    end_runs(stub, size, 0..size);
    wait_for_cycles(&agent, 3);
    stub.take_requests();
    receiver.take_pushes();
    let cpu_before = cpu(pid);
    for cycle in 0..CYCLES {
        end_runs(stub, size, (0..size).skip(cycle as usize).step_by(100));
        wait_for_cycles(&agent, 4 + cycle);
    }
    let (cpu_after, memory) = (cpu(pid), memory(pid));
    let cycles = f64::from(CYCLES);
    let requests = stub.take_requests();
    let received: usize = requests.iter().map(|request| request.bytes).sum();
    let pushes = receiver.take_pushes();
    let pushed: usize = pushes.iter().map(|push| push.metrics.encoded_len()).sum();
    let (_, page) = agent.get("/metrics");
    Cost {
        series: Page::parse(&page).series.len(),
        requests: requests.len() as f64 / cycles,
        received: received as f64 / cycles,
        cpu_first,
        cpu: (cpu_after - cpu_before) / CYCLES,
        memory,
        page: page.len(),
        pushed: pushed as f64 / cycles,
    }
}

/// Prints a row of the table: a value for each size.
fn row(name: &str, costs: &[Cost], value: impl Fn(&Cost) -> String) {
    let values: Vec<_> = costs.iter().map(value).collect();
    println!("| {name} | {} |", values.join(" | "));
}

fn table(costs: &[Cost]) {
    let sizes = SIZES.map(|size| format!("{size} deployments"));
    println!("| per cycle | {} |", sizes.join(" | "));
    println!("|---|{}", "---:|".repeat(SIZES.len()));
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    row("series", costs, |cost| cost.series.to_string());
    row("requests", costs, |cost| format!("{:.1}", cost.requests));
    row("received from Prefect", costs, |cost| kib(cost.received));
    row("CPU time, first cycle", costs, |cost| {
        format!("{:.0} ms", ms(cost.cpu_first))
    });
    row("CPU time", costs, |cost| format!("{:.0} ms", ms(cost.cpu)));
    row("CPU time per series", costs, |cost| {
        format!("{:.1} µs", ms(cost.cpu) * 1e3 / cost.series as f64)
    });
    row("memory", costs, |cost| {
        format!("{:.0} MiB", cost.memory / f64::from(1 << 20))
    });
    row("memory per series", costs, |cost| {
        kib(cost.memory / cost.series as f64)
    });
    row("text of `/metrics`", costs, |cost| kib(cost.page as f64));
    row("push, uncompressed", costs, |cost| kib(cost.pushed));
}

fn kib(bytes: f64) -> String {
    format!("{:.1} KiB", bytes / 1024.0)
}

/// Waits until the agent has completed `count` cycles, according to its log, since scraping
/// `/metrics` would add to the cost.
fn wait_for_cycles(agent: &AgentProcess, count: u32) {
    let done =
        || (agent.process.lines_with("cycle outcome=\"success\"") >= count as usize).then_some(());
    wait_for("cycles", done);
    // The publication follows immediately.
    std::thread::sleep(Duration::from_secs(1));
}

/// The cost of reading the unfinished runs, 585 active and 3,000 due ones, if none of them changes:
/// by listing, as in the first cycle, and by difference, as in later ones.
fn unchanged(stub: &Stub) {
    let settings = [
        ("SAMPLE_INTERVAL_SECONDS", "5"),
        ("INVENTORY_INTERVAL_SECONDS", "3600"),
        ("LOG_LEVEL", "DEBUG"),
    ];
    stub.take_requests();
    let agent = AgentProcess::start(&stub.url, &settings);
    wait_for_cycles(&agent, 1);
    let is_list = |request: &&support::stub::Request| {
        request.path == "/flow_runs/filter" && request.body["sort"] == "EXPECTED_START_TIME_ASC"
    };
    let first = stub.take_requests();
    let lists: Vec<_> = first.iter().filter(is_list).collect();
    wait_for_cycles(&agent, 1 + CYCLES);
    let later = stub.take_requests();
    let is_finished = |request: &&support::stub::Request| request.body["sort"] == "END_TIME_DESC";
    let bytes = |requests: &[&support::stub::Request]| {
        requests.iter().map(|request| request.bytes).sum::<usize>() as f64
    };
    // Runs that ended in the last two minutes are read again in both cases.
    let changed: Vec<_> = later
        .iter()
        .filter(|request| !is_finished(request))
        .collect();
    let cycles = f64::from(CYCLES);
    let row = |name: &str, listed: f64, difference: f64| {
        let ratio = listed / difference;
        println!("| {name} | {difference:.1} | {listed:.1} | {ratio:.1} |");
    };
    println!("\n| unfinished runs, nothing changed, per cycle | by difference | listed | ratio |");
    println!("|---|---|---|---|");
    row(
        "requests",
        lists.len() as f64,
        changed.len() as f64 / cycles,
    );
    row(
        "KiB received",
        bytes(&lists) / 1024.0,
        bytes(&changed) / 1024.0 / cycles,
    );
    let all = later.len() as f64 / cycles;
    println!("\n{all:.1} requests per cycle in all, inventory not included");
}

fn main() {
    // `cargo test --benches` also runs this, but it takes minutes and is not a test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = Runtime::new().unwrap();
    let stub = runtime.block_on(Stub::start());
    let _guard = runtime.enter();
    let costs = SIZES.map(|size| measure(&runtime, &stub, size));
    table(&costs);
    *stub.contents() = Contents::default();
    fleet::large(&mut stub.contents());
    fleet::due(&mut stub.contents());
    unchanged(&stub);
}
