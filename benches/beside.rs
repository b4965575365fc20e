//! Compares the Python exporter and the agent on one Prefect server, in turns.
//!
//!     git clone https://github.com/PrefectHQ/prometheus-prefect-exporter
//!     cargo bench --bench beside -- "PYTHON prometheus-prefect-exporter/main.py"
//!
//! PYTHON has the packages in the exporter's requirements.txt. The server is a real one on
//! PostgreSQL, with 1,200 deployments and 250,000 runs, 926 of them active, and 2,000 due within the
//! hour or late. While the agent runs, runs of one in a hundred deployments end in each cycle, and
//! one of every deployment has ended before, so that its histograms are filled.
//!
//! The figures of a scrape are the means of three, and so are those of the agent, each the mean of
//! ten cycles, half of which read the inventory. CPU time and memory are those that Linux reports
//! for the process. With `UPDATE_DOCS=1`, the tables of the documentation are replaced.

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

use measured::{cpu, mebibytes, memory, publish, table};
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
const QUEUES: usize = 125;
/// Of 250,000 runs in 30 days, one in eight has failed.
const COMPLETED: usize = 218_750;
const FAILED: usize = 31_250;
const ROUNDS: usize = 3;
const CYCLES: f64 = 10.0;
/// A scrape of the exporter takes minutes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(900);

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
    fn fill(server: Server, database: String) -> Self {
        let create = |path: &str, body: Value| server.create(path, body);
        let flow = create("/flows/", json!({"name": "template"}));
        let mut queues = Vec::new();
        for pool in 0..POOLS {
            let pool = format!("pool-{pool}");
            create("/work_pools/", json!({"name": pool, "type": "process"}));
            let of_pool = QUEUES / POOLS - 1;
            for queue in 0..of_pool {
                let queue = json!({"name": format!("queue-{queue}")});
                queues.push(create(&format!("/work_pools/{pool}/queues"), queue));
            }
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
        let month = 30.0 * 86_400.0;
        let plan = json!({
            "flow": flow, "deployment": deployment, "queues": queues,
            "flows": FLOWS, "deployments": DEPLOYMENTS,
            "runs": [
                [completed, COMPLETED, month, 120.0],
                [failed, FAILED, month, 120.0],
                [running, 800, 3_600.0, 120.0],
                [pending, 126, 60.0, 0.0],
                [scheduled, 2_000, 1_800.0, -3_500.0],
            ],
        });
        let fleet = Fleet {
            server,
            database,
            completed,
            ended: std::cell::Cell::new(COMPLETED + FAILED + 2_926),
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
            series: Page::parse(&page).series.len() as f64,
        }
    }
}

/// Cycles of the agent with these settings.
fn cycles(fleet: &Fleet, settings: &[(&str, &str)]) -> Cost {
    let base = [
        ("SAMPLE_INTERVAL_SECONDS", "5"),
        ("INVENTORY_INTERVAL_SECONDS", "10"),
    ];
    let settings = [&base, settings].concat();
    let agent = AgentProcess::start(&fleet.server.url, &settings);
    let pid = agent.process.id();
    agent.wait_for_cycles(1.0);
    fleet.end_runs(DEPLOYMENTS);
    agent.wait_for_cycles(3.0);
    let sum = |page: &Page, family: &str| -> f64 { page.family(family).values().sum() };
    let figures = || {
        let page = agent.page();
        let cycles = sum(&page, "prefect_agent_cycle_duration_seconds_count");
        let seconds = sum(&page, "prefect_agent_cycle_duration_seconds_sum");
        let requests = sum(&page, "http_client_request_duration_seconds_count");
        (cycles, seconds, requests, cpu(pid).as_secs_f64())
    };
    let before = figures();
    while figures().0 < before.0 + CYCLES {
        fleet.end_runs(DEPLOYMENTS / 100);
        agent.wait_for_cycles(1.0);
    }
    let after = figures();
    let cycles = after.0 - before.0;
    Cost {
        seconds: (after.1 - before.1) / cycles,
        requests: (after.2 - before.2) / cycles,
        cpu: (after.3 - before.3) / cycles,
        memory: memory(pid),
        series: agent.page().series.len() as f64,
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

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    // `cargo test --benches` also runs this, but it takes half an hour and is not a test.
    let Some(command) = arguments.next() else {
        println!("usage: cargo bench --bench beside -- \"PYTHON CHECKOUT/main.py\"");
        return;
    };
    let postgres = Postgres::start("beside").unwrap();
    let server = Server::start(&[("PREFECT_API_DATABASE_CONNECTION_URL", &postgres.url())]);
    let database = postgres.url().replace("+asyncpg", "");
    let fleet = Fleet::fill(server, database);
    let runtime = Runtime::new().unwrap();
    let (_receiver, endpoint) = runtime.block_on(over_http());
    let default = [
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
    ];
    let compatible = prefect_otel_agent::metrics::catalogue()
        .filter(|family| family.stability == prefect_otel_agent::metrics::Stability::Compatible);
    let names: Vec<_> = compatible.map(|family| family.name).collect();
    let names = names.join(",");
    let compatible = [("METRICS_INCLUDE", &*names)];

    let exporter = Exporter {
        fleet: &fleet,
        command: &command,
    };
    let requests = exporter.requests();
    let (mut scrapes, mut all, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        println!("round {round} of {ROUNDS}");
        scrapes.push(exporter.scrape(requests));
        all.push(cycles(&fleet, &default));
        alone.push(cycles(&fleet, &compatible));
    }
    let table = report(Cost::mean(&scrapes), Cost::mean(&all), Cost::mean(&alone));
    publish(
        "beside the exporter",
        &table,
        &["README.md", "docs/performance.md"],
    );
}
