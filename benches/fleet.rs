//! Measures requests, CPU time and memory of the agent at fleets of several sizes.
//!
//!     cargo bench --bench fleet
//!     cargo bench --bench fleet -- 1200
//!
//! The second form only measures fleets with so many deployments. The agent runs as a separate process in its default mode: it reads stubs of Prefect on loopback,
//! pushes over OTLP to a receiver and serves `/metrics`, which is scraped once per cycle. Every
//! deployment has run, so histograms are filled, and in each cycle runs of one in a hundred
//! deployments end. CPU time and memory are those that Linux reports for the process: CPU time with a
//! resolution of 10 ms, as the mean of ten cycles, half of which read the inventory; memory after
//! these cycles.
//!
//! A second table shows what reading 585 active and 3,000 due runs costs if none of them changes: by
//! difference, and by listing. With `UPDATE_DOCS=1`, the first table replaces that of the
//! documentation.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    missing_docs
)]

mod measured;
#[path = "../tests/integration/support/mod.rs"]
mod support;

use std::io::Write as _;
use std::time::Duration;

use measured::{OVERLAP, cpu, mebibytes, memory, milliseconds, publish, table, wait_for_cycles};
use prost::Message as _;
use serde_json::{Value, json};
use support::fleet;
use support::page::Page;
use support::points::over_http;
use support::process::AgentProcess;
use support::stub::{Contents, Stub};
use tokio::runtime::Runtime;

/// Workspaces, and deployments of each.
const SIZES: [(usize, usize); 5] = [(1, 120), (1, 200), (20, 200), (1, 1_200), (1, 10_000)];
const CYCLES: u32 = 10;

/// What the agent costs at one size, per cycle unless noted otherwise.
struct Cost {
    lines: usize,
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

/// Ends a run of each of these deployments.
fn end_runs(stub: &Stub, size: usize, deployments: impl Iterator<Item = usize>) {
    let mut contents = stub.contents();
    for deployment in deployments {
        let state = ["COMPLETED", "COMPLETED", "COMPLETED", "FAILED"][deployment % 4];
        let run = ended(size, deployment, state);
        contents.flow_runs.push(run);
    }
}

/// A file that names these workspaces.
fn file(stubs: &[Stub]) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    for (number, stub) in stubs.iter().enumerate() {
        let url = &stub.url;
        let table = format!("[[workspaces]]\nname = \"{number}\"\nprefect_api_url = \"{url}\"\n");
        file.write_all(table.as_bytes()).unwrap();
    }
    file
}

fn measure(runtime: &Runtime, (workspaces, size): (usize, usize)) -> Cost {
    let stubs: Vec<_> = (0..workspaces)
        .map(|_| runtime.block_on(Stub::start()))
        .collect();
    for stub in &stubs {
        sized(&mut stub.contents(), size);
    }
    let (receiver, endpoint) = runtime.block_on(over_http());
    let settings = [
        ("SAMPLE_INTERVAL_SECONDS", "10"),
        ("INVENTORY_INTERVAL_SECONDS", "20"),
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("METRICS_CARDINALITY_LIMIT", "200000"),
        ("LOG_LEVEL", "DEBUG"),
    ];
    let file = file(&stubs);
    let agent = AgentProcess::start_as(&stubs[0].url, &settings, |mut command| {
        if workspaces > 1 {
            command.arg("--config").arg(file.path());
        }
        command
    });
    let pid = agent.process.id();
    let wait_for_cycles = |count| wait_for_cycles(&agent, workspaces as u32 * count);
    wait_for_cycles(1);
    let cpu_first = cpu(pid);
    for stub in &stubs {
        end_runs(stub, size, 0..size);
    }
    wait_for_cycles(2 + OVERLAP);
    let take_requests = || {
        stubs
            .iter()
            .flat_map(Stub::take_requests)
            .collect::<Vec<_>>()
    };
    take_requests();
    receiver.take_pushes();
    let cpu_before = cpu(pid);
    for cycle in 0..CYCLES {
        for stub in &stubs {
            end_runs(stub, size, (0..size).skip(cycle as usize).step_by(100));
        }
        wait_for_cycles(3 + OVERLAP + cycle);
        agent.get("/metrics");
    }
    let (cpu_after, memory) = (cpu(pid), memory(pid));
    let cycles = f64::from(CYCLES);
    let requests = take_requests();
    let received: usize = requests.iter().map(|request| request.bytes).sum();
    let pushes = receiver.take_pushes();
    let pushed: usize = pushes.iter().map(|push| push.metrics.encoded_len()).sum();
    let (_, page) = agent.get("/metrics");
    Cost {
        lines: Page::parse(&page).series.len(),
        requests: requests.len() as f64 / cycles,
        received: received as f64 / cycles,
        cpu_first,
        cpu: (cpu_after - cpu_before) / CYCLES,
        memory,
        page: page.len(),
        pushed: pushed as f64 / cycles,
    }
}

/// A row of the table: its name, and the value at each size.
fn row(name: &str, costs: &[Cost], value: impl Fn(&Cost) -> String) -> Vec<String> {
    let values = costs.iter().map(value);
    std::iter::once(name.to_owned()).chain(values).collect()
}

fn costs_as_table(runtime: &Runtime, sizes: &[(usize, usize)]) -> String {
    let costs: Vec<_> = sizes.iter().map(|size| measure(runtime, *size)).collect();
    let costs = costs.as_slice();
    let sizes = sizes.iter().map(|(workspaces, size)| match workspaces {
        1 => format!("{size} deployments"),
        _ => format!("{workspaces} × {size}"),
    });
    let head: Vec<_> = std::iter::once("per cycle".to_owned())
        .chain(sizes)
        .collect();
    let per_line = |total: f64, cost: &Cost| total / cost.lines as f64;
    let rows = [
        row("requests", costs, |cost| format!("{:.1}", cost.requests)),
        row("received from Prefect", costs, |cost| {
            mebibytes(cost.received)
        }),
        row("CPU time", costs, |cost| milliseconds(cost.cpu)),
        row("CPU time, first cycle", costs, |cost| {
            milliseconds(cost.cpu_first)
        }),
        row("memory", costs, |cost| mebibytes(cost.memory)),
        row("lines of `/metrics`", costs, |cost| cost.lines.to_string()),
        row("CPU time per line", costs, |cost| {
            let micros = per_line(cost.cpu.as_secs_f64() * 1e6, cost);
            format!("{micros:.1} µs")
        }),
        row("memory per line", costs, |cost| {
            format!("{:.1} KiB", per_line(cost.memory, cost) / 1024.0)
        }),
        row("text of `/metrics`", costs, |cost| {
            mebibytes(cost.page as f64)
        }),
        row("push, uncompressed", costs, |cost| mebibytes(cost.pushed)),
    ];
    table(&head, &rows)
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
    let chosen = std::env::args().filter_map(|size| size.parse().ok());
    let chosen: Vec<_> = chosen.map(|deployments| (1, deployments)).collect();
    if !chosen.is_empty() {
        println!("{}", costs_as_table(&runtime, &chosen));
        return;
    }
    publish(
        "fleets",
        &costs_as_table(&runtime, &SIZES),
        &["docs/performance.md", "docs/scaling.md"],
    );
    fleet::large(&mut stub.contents());
    fleet::due(&mut stub.contents());
    unchanged(&stub);
}
