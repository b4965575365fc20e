//! Compares the Python exporter and the agent on one Prefect server, in turns.
//!
//!     git clone https://github.com/PrefectHQ/prometheus-prefect-exporter
//!     cargo bench --bench beside -- "PYTHON prometheus-prefect-exporter/main.py"
//!
//! PYTHON has the packages in the exporter's requirements.txt. The server is a real one on
//! PostgreSQL, with 1,200 deployments and 250,000 runs: 926 are active, 2,000 late or due within the
//! hour, 48,000 scheduled for the days after, and 7,700 have failed within seven days. While the agent
//! runs, runs of one in a hundred deployments end in each cycle, and one of every deployment has ended
//! before, so that its histograms are filled.
//!
//! The figures of a scrape are the means of two, and so are those of the agent, each the mean of
//! ten cycles, half of which read the inventory. CPU time and memory are those that Linux reports
//! for the process. With `UPDATE_DOCS=1`, the tables of the documentation are replaced.
//!
//!     cargo bench --bench beside -- history
//!
//! Compares cycles of the agent with 10,000 ended and 5,000 scheduled runs on the server, and with
//! a hundred times as many.

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

use std::process::Command;
use std::time::{Duration, Instant};

use measured::{OVERLAP, cpu, mebibytes, memory, publish, table, wait_for_cycles};
use serde_json::{Value, json};
use support::page::Page;
use support::points::over_http;
use support::postgres::Postgres;
use support::prefect::{Server, free_port};
use support::process::{AgentProcess, Process, wait_within};
use tokio::runtime::Runtime;

const DEPLOYMENTS: usize = 1_200;
const FLOWS: usize = 150;
const POOLS: usize = 25;
/// Including the one that each pool has by default.
const QUEUES: usize = 145;
/// Of 250,000 runs, those that completed within 30 days, and those that are due after the next hours.
const HISTORY: History = History {
    completed: 166_074,
    scheduled: 48_000,
};
const FAILED: usize = 33_000;
const RUNNING: usize = 800;
const PENDING: usize = 126;
const DUE: usize = 2_000;
const ROUNDS: usize = 2;
const CYCLES: u32 = 10;
/// A scrape of the exporter takes minutes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// Runs that do not change.
#[derive(Clone, Copy)]
struct History {
    completed: usize,
    scheduled: usize,
}

impl History {
    /// The number of all runs.
    fn runs(self) -> usize {
        self.completed + self.scheduled + FAILED + RUNNING + PENDING + DUE
    }
}

/// What a scrape or a cycle costs.
#[derive(Default, Clone, Copy)]
struct Cost {
    seconds: f64,
    requests: f64,
    cpu: f64,
    memory: f64,
    series: f64,
}

impl Cost {
    fn mean(all: &[Cost]) -> Self {
        let mean = |of: fn(&Cost) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        Cost {
            seconds: mean(|cost| cost.seconds),
            requests: mean(|cost| cost.requests),
            cpu: mean(|cost| cost.cpu),
            memory: mean(|cost| cost.memory),
            series: mean(|cost| cost.series),
        }
    }
}

/// The server, and what is needed to let more of its runs end.
struct Fleet {
    server: Server,
    database: String,
    completed: String,
    ended: std::cell::Cell<usize>,
}

impl Fleet {
    fn fill(server: Server, database: String, history: History) -> Self {
        let create = |path: &str, body: Value| server.create(path, body);
        let flow = create("/flows/", json!({"name": "template"}));
        let mut queues = Vec::new();
        for pool in 0..POOLS {
            let pool = format!("pool-{pool}");
            create("/work_pools/", json!({"name": pool, "type": "process"}));
        }
        for queue in 0..QUEUES - POOLS {
            let pool = format!("/work_pools/pool-{}/queues", queue % POOLS);
            queues.push(create(&pool, json!({"name": format!("queue-{queue}")})));
        }
        let deployment = json!({"name": "template", "flow_id": flow, "work_pool_name": "pool-0"});
        let deployment = create("/deployments/", deployment);
        let run = |state: Value| {
            let run =
                json!({"flow_id": flow, "deployment_id": deployment, "state": {"type": "PENDING"}});
            let run = create("/flow_runs/", run);
            if state["type"] != "PENDING" {
                if state["type"] != "SCHEDULED" {
                    server.set_state(&run, json!({"type": "RUNNING"}));
                }
                server.set_state(&run, state);
            }
            run
        };
        let completed = run(json!({"type": "COMPLETED"}));
        let failed = run(json!({"type": "FAILED"}));
        let (running, pending) = (
            run(json!({"type": "RUNNING"})),
            run(json!({"type": "PENDING"})),
        );
        let scheduled = run(json!({"type": "SCHEDULED"}));
        let (hour, day) = (3_600.0, 86_400.0);
        let plan = json!({
            "flow": flow, "deployment": deployment, "queues": queues,
            "flows": FLOWS, "deployments": DEPLOYMENTS,
            "runs": [
                [completed, history.completed, 30.0 * day, hour],
                [failed, FAILED, 30.0 * day, 120.0],
                [running, RUNNING, hour, 120.0],
                [pending, PENDING, 60.0, 0.0],
                [scheduled, DUE, 0.5 * hour, -hour],
                // Far enough in the future that none of them becomes due during the measurement.
                [scheduled, history.scheduled, -4.0 * hour, -7.0 * day],
            ],
        });
        let fleet = Fleet {
            server,
            database,
            completed,
            ended: std::cell::Cell::new(history.runs()),
        };
        fleet.python(&["fill", &plan.to_string()]);
        fleet
    }

    fn python(&self, arguments: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/beside/fill.py");
        let mut python = self.server.program("python");
        let status = python
            .arg(script)
            .arg(&self.database)
            .args(arguments)
            .status();
        assert!(status.unwrap().success());
    }

    /// Runs of so many deployments end.
    fn end_runs(&self, count: usize) {
        let first = self.ended.replace(self.ended.get() + count);
        let numbers = [first, count].map(|number| number.to_string());
        let [deployments, flows] = [DEPLOYMENTS, FLOWS].map(|number| number.to_string());
        let [first, count] = &numbers;
        self.python(&["end", first, count, &self.completed, &deployments, &flows]);
    }
}

/// Scrapes of the exporter.
struct Exporter<'a> {
    fleet: &'a Fleet,
    command: &'a str,
}

impl Exporter<'_> {
    /// Starts it. It reads everything once before it listens.
    fn start(&self, level: &str) -> (Process, String) {
        let port = free_port();
        let mut words = self.command.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .env("PREFECT_API_URL", &self.fleet.server.url)
            .env("METRICS_ADDR", "127.0.0.1")
            .env("METRICS_PORT", port.to_string())
            .env("LOG_LEVEL", level);
        let process = Process::start(&mut command);
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).ok();
        wait_within("the exporter", PATIENCE, listens);
        (process, format!("http://127.0.0.1:{port}/metrics"))
    }

    /// The requests of a scrape, as its HTTP client logs them.
    fn requests(&self) -> f64 {
        let (process, _) = self.start("DEBUG");
        process.lines_with("HTTP/1.1\" 200") as f64
    }

    fn scrape(&self, requests: f64) -> Cost {
        let (process, url) = self.start("WARNING");
        let (before, began) = (cpu(process.id()), Instant::now());
        let client = reqwest::blocking::Client::builder().timeout(PATIENCE);
        let page = client.build().unwrap().get(url).send().unwrap();
        let page = page.text().unwrap();
        Cost {
            seconds: began.elapsed().as_secs_f64(),
            requests,
            cpu: (cpu(process.id()) - before).as_secs_f64(),
            memory: memory(process.id()),
            series: lines(&page),
        }
    }
}

/// The samples of a page.
fn lines(page: &str) -> f64 {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.count() as f64
}

/// Cycles of the agent with these settings.
fn cycles(fleet: &Fleet, settings: &[(&str, &str)]) -> Cost {
    let base = [
        ("SAMPLE_INTERVAL_SECONDS", "10"),
        ("INVENTORY_INTERVAL_SECONDS", "20"),
        ("LOG_LEVEL", "DEBUG"),
    ];
    let settings = [&base[..], settings].concat();
    let agent = AgentProcess::start(&fleet.server.url, &settings);
    let pid = agent.process.id();
    wait_for_cycles(&agent, 1);
    fleet.end_runs(DEPLOYMENTS);
    wait_for_cycles(&agent, 2 + OVERLAP);
    let sum = |page: &Page, family: &str| -> f64 { page.family(family).values().sum() };
    let figures = || {
        let used = cpu(pid).as_secs_f64();
        let page = agent.page();
        let seconds = sum(&page, "prefect_agent_cycle_duration_seconds_sum");
        let requests = sum(&page, "http_client_request_duration_seconds_count");
        (seconds, requests, used)
    };
    let before = figures();
    for cycle in 0..CYCLES {
        fleet.end_runs(DEPLOYMENTS / 100);
        wait_for_cycles(&agent, 3 + OVERLAP + cycle);
        agent.get("/metrics");
    }
    let after = figures();
    let cycles = f64::from(CYCLES);
    Cost {
        seconds: (after.0 - before.0) / cycles,
        requests: (after.1 - before.1) / cycles,
        cpu: (after.2 - before.2) / cycles,
        memory: memory(pid),
        series: lines(&agent.get("/metrics").1),
    }
}

fn report(exporter: Cost, agent: Cost, compatible: Cost) -> String {
    let head = [
        "",
        "Python exporter, per scrape",
        "agent, per cycle",
        "ratio",
    ];
    let head: Vec<_> = head.map(str::to_owned).into();
    let row = |what: &str, of: fn(&Cost) -> f64, show: fn(f64) -> String| {
        let (exporter, agent) = (of(&exporter), of(&agent));
        let ratio = format!("{:.0}", exporter / agent);
        vec![what.to_owned(), show(exporter), show(agent), ratio]
    };
    let seconds = |seconds: f64| format!("{seconds:.2} s");
    let plain = |number: f64| format!("{number:.0}");
    let one_digit = |number: f64| format!("{number:.1}");
    let mut alone = row(
        "memory, with only the exporter's families on `/metrics`",
        |cost| cost.memory,
        mebibytes,
    );
    alone[2] = mebibytes(compatible.memory);
    alone[3] = one_digit(exporter.memory / compatible.memory);
    let mut with_all = row("memory", |cost| cost.memory, mebibytes);
    with_all[3] = one_digit(exporter.memory / agent.memory);
    let mut series = row("series", |cost| cost.series, plain);
    series[3] = String::new();
    let rows = [
        row("time to read Prefect", |cost| cost.seconds, seconds),
        row("requests to Prefect", |cost| cost.requests, plain),
        row("CPU time", |cost| cost.cpu, seconds),
        with_all,
        alone,
        series,
    ];
    table(&head, &rows)
}

/// A server with these runs, and its database.
fn fleet(history: History) -> (Fleet, Postgres) {
    let postgres = Postgres::start("beside").unwrap();
    let server = Server::start(&[("PREFECT_API_DATABASE_CONNECTION_URL", &postgres.url())]);
    let database = postgres.url().replace("+asyncpg", "");
    (Fleet::fill(server, database, history), postgres)
}

/// Whether the agent's costs depend on the runs that do not change.
fn compare_histories(settings: &[(&str, &str)]) {
    let sizes = [(10_000, 5_000), (1_000_000, 500_000)];
    let costs = sizes.map(|(completed, scheduled)| {
        let history = History {
            completed,
            scheduled,
        };
        let (fleet, _database) = fleet(history);
        cycles(&fleet, settings)
    });
    let head = [
        "per cycle",
        "10,000 ended, 5,000 scheduled",
        "1,000,000 ended, 500,000 scheduled",
    ];
    let row = |name: &str, show: fn(&Cost) -> String| {
        let values = costs.iter().map(show);
        std::iter::once(name.to_owned()).chain(values).collect()
    };
    let rows = [
        row("time to read Prefect", |cost| {
            format!("{:.2} s", cost.seconds)
        }),
        row("requests to Prefect", |cost| {
            format!("{:.1}", cost.requests)
        }),
        row("CPU time", |cost| format!("{:.2} s", cost.cpu)),
        row("memory", |cost| mebibytes(cost.memory)),
        row("lines of `/metrics`", |cost| format!("{:.0}", cost.series)),
    ];
    let head = head.map(str::to_owned);
    publish("histories", &table(&head, &rows), &["docs/performance.md"]);
}

/// Takes turns with the exporter.
fn compare_with_exporter(command: &str, settings: &[(&str, &str)]) {
    let (fleet, _database) = fleet(HISTORY);
    let compatible = prefect_otel_agent::metrics::catalogue()
        .filter(|family| family.stability == prefect_otel_agent::metrics::Stability::Compatible);
    let names: Vec<_> = compatible.map(|family| family.name).collect();
    let names = names.join(",");
    let compatible = [("METRICS_INCLUDE", &*names)];
    let exporter = Exporter {
        fleet: &fleet,
        command,
    };
    let requests = exporter.requests();
    let (mut scrapes, mut all, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        println!("round {round} of {ROUNDS}");
        scrapes.push(exporter.scrape(requests));
        all.push(cycles(&fleet, settings));
        alone.push(cycles(&fleet, &compatible));
    }
    let table = report(Cost::mean(&scrapes), Cost::mean(&all), Cost::mean(&alone));
    publish(
        "beside the exporter",
        &table,
        &["README.md", "docs/performance.md"],
    );
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    // `cargo test --benches` also runs this, but it takes half an hour and is not a test.
    let Some(command) = arguments.next() else {
        println!("usage: cargo bench --bench beside -- \"PYTHON CHECKOUT/main.py\" | history");
        return;
    };
    let runtime = Runtime::new().unwrap();
    let (_receiver, endpoint) = runtime.block_on(over_http());
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
    ];
    match &*command {
        "history" => compare_histories(&settings),
        command => compare_with_exporter(command, &settings),
    }
}
