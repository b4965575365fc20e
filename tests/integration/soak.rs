//! Compares every count with the server's database, while the agent is killed at random times and
//! Prefect is restarted.
//!
//!     cargo test a_few_hundred_runs -- --ignored          some minutes
//!     cargo test two_and_a_half_thousand -- --ignored     half an hour

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::page::{Labels, Page};
use crate::support::prefect::Server;
use crate::support::process::AgentProcess;

const DEPLOYMENTS: usize = 8;
const KILLS: u32 = 5;
const FAMILY: &str = "prefect_flow_runs_finished_total";

/// The states of a run after PENDING. A pause is a time in which cycles may run.
const COURSES: [&[&str]; 8] = [
    &["RUNNING", "COMPLETED"],
    &["RUNNING", "FAILED"],
    &["RUNNING", "pause", "COMPLETED"],
    &[
        "RUNNING",
        "SCHEDULED",
        "RUNNING",
        "SCHEDULED",
        "RUNNING",
        "FAILED",
    ],
    &["RUNNING", "FAILED", "SCHEDULED", "RUNNING", "COMPLETED"],
    &[
        "RUNNING",
        "FAILED",
        "pause",
        "SCHEDULED",
        "RUNNING",
        "pause",
        "FAILED",
        "SCHEDULED",
        "RUNNING",
        "COMPLETED",
    ],
    &["RUNNING", "CANCELLING", "CANCELLED"],
    &["CRASHED"],
];

/// Pseudorandom numbers, the same in every run of the test.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Counts by deployment and state type.
type Counts = BTreeMap<(String, String), u64>;

/// Increases as Prometheus computes them: nothing for a new series, and the whole value after a
/// decrease.
#[derive(Default)]
struct Increases {
    last: HashMap<Labels, f64>,
    sum: HashMap<Labels, f64>,
}

impl Increases {
    fn observe(&mut self, page: &Page) {
        for (labels, value) in page.family(FAMILY) {
            let increase = match self.last.insert(labels.clone(), value) {
                None => 0.0,
                Some(before) if value < before => value,
                Some(before) => value - before,
            };
            *self.sum.entry(labels).or_default() += increase;
        }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for (labels, sum) in &self.sum {
            let key = (
                labels["deployment_name"].clone(),
                labels["state_type"].clone(),
            );
            *counts.entry(key).or_default() += *sum as u64;
        }
        counts.retain(|_, count| *count > 0);
        counts
    }
}

fn in_database(server: &Server) -> Counts {
    const QUERY: &str = "SELECT d.name, s.type, count(*) FROM flow_run_state s \
        JOIN flow_run r ON r.id = s.flow_run_id JOIN deployment d ON d.id = r.deployment_id \
        WHERE s.type IN ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED') GROUP BY 1, 2";
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let rows = server.database(QUERY);
    rows.iter()
        .map(|row| ((text(&row[0]), text(&row[1])), row[2].as_u64().unwrap()))
        .collect()
}

/// The terminal states that are not in the agent's checkpoint, each with the history of its run,
/// for debugging a wrong count.
fn not_counted(server: &Server, folder: &Path) -> Vec<String> {
    const QUERY: &str = "SELECT s.id, s.flow_run_id, s.type, (SELECT group_concat(type || ' ' || \
        timestamp, ', ') FROM (SELECT type, timestamp FROM flow_run_state WHERE flow_run_id = \
        s.flow_run_id ORDER BY timestamp)) FROM flow_run_state s \
        WHERE s.type IN ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED')";
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let checkpoint: String = texts.collect();
    let rows = server.database(QUERY).into_iter();
    rows.filter(|row| !checkpoint.contains(row[0].as_str().unwrap()))
        .map(|row| row.to_string())
        .collect()
}

/// Takes a new run through one of the courses. If an answer is lost, it is unknown whether the
/// change was made: the course ends there, and the database decides.
fn course(server: &Server, deployment: &str, random: &mut Random) -> Result<(), String> {
    let path = format!("/deployments/{deployment}/create_flow_run");
    let run = server.try_call("POST", &path, Some(json!({"state": {"type": "PENDING"}})))?;
    let path = format!("/flow_runs/{}/set_state", run["id"].as_str().unwrap());
    for state in COURSES[random.below(COURSES.len() as u64) as usize] {
        let state = match *state {
            "pause" => {
                std::thread::sleep(Duration::from_millis(random.below(2_500)));
                continue;
            }
            "SCHEDULED" => json!({"type": state, "name": "AwaitingRetry"}),
            state => json!({"type": state}),
        };
        server.try_call("POST", &path, Some(json!({"state": state, "force": true})))?;
    }
    Ok(())
}

fn soak(runs: usize, loaders: u64) {
    let server = Server::start(&[]);
    let flow = server.create("/flows/", json!({"name": "etl"}));
    let deployments: Vec<String> = (0..DEPLOYMENTS)
        .map(|number| {
            let name = format!("deployment-{number}");
            server.create("/deployments/", json!({"name": name, "flow_id": flow}))
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let url = server.url.clone();
    let settings = [("STATE_DIR", folder.path().to_str().unwrap())];
    let start = || AgentProcess::start(&url, &settings);
    let mut increases = Increases::default();
    let mut agent = start();
    agent.wait_for_page("the first cycle", |page| {
        (page.family(FAMILY).len() >= DEPLOYMENTS * 4).then_some(())
    });
    increases.observe(&agent.page());

    // The server is restarted only while no course is running, to avoid lost answers.
    let server = RwLock::new(server);
    let done = AtomicUsize::new(0);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for loader in 0..loaders {
            let (server, done, deployments) = (&server, &done, &deployments);
            threads.push(scope.spawn(move || {
                let mut random = Random(0x0123_4567_89ab_cdef ^ (loader << 32));
                while done.fetch_add(1, Ordering::Relaxed) < runs {
                    let deployment = random.below(DEPLOYMENTS as u64) as usize;
                    let server = server.read().unwrap();
                    let ended = course(&server, &deployments[deployment], &mut random);
                    ended.unwrap_or_else(|error| eprintln!("a course ended early: {error}"));
                }
            }));
        }
        let progress = || done.load(Ordering::Relaxed).min(runs) as f64 / runs as f64;
        let (mut kills, mut restarted) = (0, false);
        while progress() < 1.0 {
            let has_failed = threads.iter().any(|thread| thread.is_finished());
            assert!(!has_failed || progress() >= 1.0, "the load has failed");
            increases.observe(&agent.page());
            std::thread::sleep(Duration::from_millis(100 + random.below(150)));
            if progress() > f64::from(kills + 1) / f64::from(KILLS + 1) {
                std::thread::sleep(Duration::from_millis(random.below(1_000)));
                increases.observe(&agent.page());
                agent.process.signal("-KILL");
                agent.process.wait(Duration::from_secs(10));
                std::thread::sleep(Duration::from_millis(random.below(3_000)));
                agent = start();
                kills += 1;
            }
            if !restarted && progress() > 0.5 {
                server.write().unwrap().restart();
                restarted = true;
            }
        }
        assert!(kills == KILLS && restarted, "{kills} kills");
    });
    let expected = in_database(&server.read().unwrap());
    let finals: u64 = expected.values().sum();
    assert!(
        finals as usize > runs,
        "re-runs have more than one final state"
    );
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        increases.observe(&agent.page());
        let counts = increases.counts();
        if counts == expected {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "counted {counts:#?}\nin the database {expected:#?}\nnot in the checkpoint {:#?}\n{:#?}",
            not_counted(&server.read().unwrap(), folder.path()),
            agent.process.log()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    // The counts stay the same.
    std::thread::sleep(Duration::from_secs(3));
    increases.observe(&agent.page());
    assert_eq!(increases.counts(), expected);
    eprintln!("{runs} runs, {finals} final states, {KILLS} kills, one restart of Prefect: equal");
}

#[test]
#[ignore = "takes minutes"]
fn a_few_hundred_runs() {
    soak(250, 2);
}

#[test]
#[ignore = "takes half an hour"]
fn two_and_a_half_thousand_runs() {
    soak(2_500, 2);
}
