//! Endurance: one process for a long time, while deployments and runs come and go and everything
//! around it fails at random. Its memory and descriptors stay the same, and its counts are exact.
//!
//!     cargo test memory_and_counts -- --ignored                   ten minutes
//!     tests/soak/run 60                                           an hour, and a picture of it

mod disturbance;
mod picture;
mod watch;
mod workspace;

use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;

use self::disturbance::Disturbance;
use self::watch::{Counted, Sample, descriptors, growth, resident_bytes};
use self::workspace::Workspace;
use crate::support::otlp::{Receiver, translated};
use crate::support::points::over_http;
use crate::support::process::{AgentProcess, wait_for};
use crate::support::stub::Stub;

const TICK: Duration = Duration::from_millis(250);
const BETWEEN_SAMPLES: Duration = Duration::from_secs(5);
/// Caches and allocators still settle in a short test.
const A_LONG_TIME: u64 = 30;

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

/// The agent, and everything around it.
struct Scene {
    agent: AgentProcess,
    receiver: Receiver,
    workspace: Workspace,
    disturbance: Disturbance,
    scraped: Counted,
    pushed: Counted,
    started: Instant,
    samples: Vec<Sample>,
}

impl Scene {
    /// Reads what has been pushed since the last call.
    fn receive(&mut self) {
        for push in self.receiver.take_pushes() {
            self.pushed.observe(&translated(&push));
        }
    }

    fn sample(&mut self) {
        self.scraped.observe(&self.agent.page());
        self.pushed.total(&self.workspace.truth);
        self.samples.push(Sample {
            at: self.started.elapsed(),
            resident_bytes: resident_bytes(self.agent.process.id()),
            descriptors: descriptors(self.agent.process.id()),
            ended: self.workspace.total(),
            counted: self.scraped.total(&self.workspace.truth),
        });
    }

    fn run(&mut self, time: Duration) {
        let mut next_sample = self.started;
        while self.started.elapsed() < time {
            self.workspace.change();
            self.disturbance.change();
            self.receive();
            if next_sample <= Instant::now() {
                self.sample();
                next_sample = Instant::now() + BETWEEN_SAMPLES;
            }
            std::thread::sleep(TICK);
        }
    }

    /// Waits until both paths have every count.
    fn settle(&mut self) {
        self.disturbance.end();
        self.workspace.rest();
        let deadline = Instant::now() + Duration::from_secs(900);
        let truth = self.workspace.truth.clone();
        loop {
            self.scraped.observe(&self.agent.page());
            self.receive();
            let (scraped, pushed) = (self.scraped.counts(), self.pushed.counts());
            if scraped == truth && pushed == truth {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "in Prefect {truth:#?}\nscraped {scraped:#?}\npushed {pushed:#?}\n{:#?}",
                self.agent.process.log()
            );
            std::thread::sleep(TICK);
        }
    }

    fn cycles(&self) -> f64 {
        let cycles = self.agent.page().family("prefect_agent_cycles_total");
        cycles.values().sum()
    }

    /// Nothing is counted later than that, and connections are closed.
    fn stays_the_same(&mut self, descriptors_at_first: u64) {
        let cycles = self.cycles();
        wait_for("three more cycles", || {
            (self.cycles() >= cycles + 3.0).then_some(())
        });
        self.settle();
        let process = self.agent.process.id();
        wait_for("connections that nobody uses to be closed", || {
            (descriptors(process) <= descriptors_at_first + 4).then_some(())
        });
    }
}

#[test]
#[ignore = "takes ten minutes, or SOAK_MINUTES"]
fn memory_and_counts_hold_while_everything_around_the_agent_fails_at_random() {
    let (minutes, seed) = (number("SOAK_MINUTES", 10), number("SOAK_SEED", 1));
    let mut random = Rng::with_seed(seed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(Stub::start());
    let (receiver, endpoint) = runtime.block_on(over_http());
    let workspace = Workspace::new(&stub, random.fork());
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ("STATE_DIR", folder.path().to_str().unwrap()),
        ("INVENTORY_INTERVAL_SECONDS", "3"),
        ("REQUEST_TIMEOUT_SECONDS", "2"),
        ("MAX_RETRIES", "1"),
        // Everything that is kept for a while fills up during the warm-up.
        ("OFFSET_MINUTES", "1"),
        ("FAILED_RUNS_OFFSET_MINUTES", "2"),
    ];
    let agent = AgentProcess::start(&stub.url, &settings);
    agent.wait_for_page("the first cycle", |page| {
        (page.family("prefect_info_deployment").len() > 1).then_some(())
    });
    let descriptors_at_first = descriptors(agent.process.id());
    let disturbance = Disturbance::new(&stub, &receiver, agent.address, random.fork());
    let mut scene = Scene {
        agent,
        receiver,
        workspace,
        disturbance,
        scraped: Counted::default(),
        pushed: Counted::default(),
        started: Instant::now(),
        samples: Vec::new(),
    };
    scene.run(Duration::from_secs(60 * minutes));
    scene.settle();
    scene.stays_the_same(descriptors_at_first);

    let memory = growth(&scene.samples, |sample| sample.resident_bytes);
    let descriptors = growth(&scene.samples, |sample| sample.descriptors);
    let (total, faults) = (scene.workspace.total(), scene.disturbance.faults);
    let title = format!(
        "{minutes} minutes, {faults} faults, {total} terminal states: none lost, none counted twice"
    );
    let change = format!(
        "after the warm-up, memory changes by {:+.1} %, descriptors by {:+.1} %",
        memory * 100.0,
        descriptors * 100.0
    );
    eprintln!("seed {seed}: {title}; {change}");
    if let Some(path) = std::env::var_os("SOAK_PICTURE") {
        std::fs::write(Path::new(&path), picture::draw(&title, &scene.samples)).unwrap();
    }
    let most = if minutes >= A_LONG_TIME { 0.05 } else { 0.15 };
    assert!(memory < most && descriptors < 0.25, "{change}");
}
