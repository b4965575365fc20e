//! Measures requests, CPU time and memory of the agent for a fleet of 1,200 deployments, 150 flows,
//! 25 pools, 145 queues, 585 active, 50,000 scheduled and 7,700 failed runs, and 90 runs that
//! finished within five minutes.
//!
//!     cargo bench --bench fleet
//!
//! The agent runs as a separate process against a stub on loopback, serves `/metrics` and does not
//! push. CPU time and peak memory are those that Linux reports for the process. The benchmark
//! prints a table with the requests and the CPU time of the first cycle, and of a later cycle in
//! which nothing changed (mean of five, each with the inventory), the peak memory, and the duration
//! of a scrape. The columns are the default look-ahead of an hour, all scheduled runs
//! (`SCHEDULED_LOOKAHEAD_MINUTES=all`), and the ratio of the two. The number of series follows
//! below.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    missing_docs
)]

#[path = "../tests/integration/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use support::process::{AgentProcess, wait_for};
use support::stub::Stub;

const LATER_CYCLES: u32 = 5;

struct Cost {
    requests_first: usize,
    requests_later: f64,
    cpu_first: Duration,
    cpu_later: Duration,
    peak_memory_mib: f64,
    series: usize,
    scrape: Duration,
}

/// CPU time of a process: user and system.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ is 100 on every Linux.
    Duration::from_millis(ticks * 10)
}

fn peak_memory_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}

fn measure(stub: &Stub, settings: &[(&str, &str)]) -> Cost {
    stub.take_requests();
    let mut all = vec![
        ("SAMPLE_INTERVAL_SECONDS", "10"),
        ("INVENTORY_INTERVAL_SECONDS", "10"),
        ("LOG_LEVEL", "DEBUG"),
    ];
    all.extend(settings);
    let agent = AgentProcess::start(&stub.url, &all);
    let pid = agent.process.id();
    wait_for_cycles(&agent, 1);
    let (requests_first, cpu_first) = (stub.take_requests().len(), cpu(pid));
    wait_for_cycles(&agent, 1 + LATER_CYCLES);
    let requests = stub.take_requests().len();
    let cpu_later = (cpu(pid) - cpu_first) / LATER_CYCLES;
    let started = Instant::now();
    let series = agent.page().series.len();
    Cost {
        requests_first,
        requests_later: requests as f64 / f64::from(LATER_CYCLES),
        cpu_first,
        cpu_later,
        peak_memory_mib: peak_memory_mib(pid),
        series,
        scrape: started.elapsed(),
    }
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
    wait_for_cycles(&agent, 1 + LATER_CYCLES);
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
    let cycles = f64::from(LATER_CYCLES);
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
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(Stub::start());
    support::fleet::large(&mut stub.contents());
    let ours = measure(&stub, &[]);
    // The fleet ages during a measurement, so each one starts with a new fleet.
    *stub.contents() = support::stub::Contents::default();
    support::fleet::large(&mut stub.contents());
    let everything = measure(&stub, &[("SCHEDULED_LOOKAHEAD_MINUTES", "all")]);

    println!("| | look-ahead of an hour | every scheduled run | ratio |");
    println!("|---|---|---|---|");
    let row = |name: &str, ours: f64, all: f64, unit: &str| {
        println!(
            "| {name} | {ours:.1} {unit} | {all:.1} {unit} | {:.1} |",
            all / ours
        );
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    row(
        "requests, first cycle",
        ours.requests_first as f64,
        everything.requests_first as f64,
        "",
    );
    row(
        "requests, later cycle, inventory included",
        ours.requests_later,
        everything.requests_later,
        "",
    );
    row(
        "CPU, first cycle",
        ms(ours.cpu_first),
        ms(everything.cpu_first),
        "ms",
    );
    row(
        "CPU, later cycle",
        ms(ours.cpu_later),
        ms(everything.cpu_later),
        "ms",
    );
    row(
        "peak memory",
        ours.peak_memory_mib,
        everything.peak_memory_mib,
        "MiB",
    );
    row(
        "one scrape of /metrics",
        ms(ours.scrape),
        ms(everything.scrape),
        "ms",
    );
    println!("\n{} series", ours.series);

    *stub.contents() = support::stub::Contents::default();
    support::fleet::large(&mut stub.contents());
    support::fleet::due(&mut stub.contents());
    unchanged(&stub);
}
