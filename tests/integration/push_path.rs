//! Compares push paths with the page: the same series with the same values at the same moments,
//! while runs change state. The paths are the collector's Prometheus exporter, Prometheus' OTLP
//! receiver, and remote write.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::fleet;
use crate::support::page::Labels;
use crate::support::prefect::Server;
use crate::support::process::{AgentProcess, PATIENCE, Process, fetch, page_at, wait_for};
use crate::support::programs::{Prometheus, programs};
use crate::support::small_stub;
use crate::support::stack::{Collector, project, project_text, prometheus, run};
use crate::support::stub::{Stub, recorded};

/// Families whose series come and go with the runs.
const FAMILIES: [&str; 4] = [
    "prefect_flow_runs_active",
    "prefect_flow_runs_late",
    "prefect_info_flow_runs",
    "prefect_flow_runs_ongoing_run_time",
];

/// How long Prometheus may still show the previous page, since the collector is scraped every two
/// seconds.
const ON_THE_WAY: Duration = Duration::from_secs(3);

/// The same on a busy machine. Less than the time after which the collector (two minutes) and
/// Prometheus (five) drop a series that was not marked as ended.
const ON_A_BUSY_MACHINE: Duration = Duration::from_secs(60);

/// Samples of each way: on a busy machine they take longer than the time of the comparison.
const LEAST_SAMPLES: usize = 5 * FAMILIES.len() + 1;

type Series = BTreeMap<Labels, f64>;

/// The content of a page, and when it was last seen.
struct Shown {
    last: Instant,
    series: [Series; FAMILIES.len()],
}

/// Reads a page continuously, so that none of its states is missed.
struct Follower {
    shown: Arc<Mutex<VecDeque<Shown>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    fn start(address: std::net::SocketAddr) -> Self {
        let shown: Arc<Mutex<VecDeque<Shown>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let (pages, stopped) = (Arc::clone(&shown), Arc::clone(&stop));
        let follow = move || {
            while !stopped.load(Ordering::Relaxed) {
                let page = page_at(address);
                let series = FAMILIES.map(|family| page.family(family));
                let last = Instant::now();
                let mut pages = pages.lock().unwrap();
                match pages.back_mut() {
                    Some(shown) if shown.series == series => shown.last = last,
                    _ => pages.push_back(Shown { last, series }),
                }
                pages.retain(|shown| shown.last.elapsed() < ON_A_BUSY_MACHINE * 2);
                drop(pages);
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        Follower {
            shown,
            stop,
            thread: Some(std::thread::spawn(follow)),
        }
    }

    /// Waits until the page has been read again.
    fn catch_up(&self) {
        let now = Instant::now();
        wait_for("the page", || {
            let pages = self.shown.lock().unwrap();
            (pages.back()?.last > now).then_some(())
        });
    }

    /// The series of the family that the page had within `patience` before `moment`.
    fn showed(&self, family: usize, moment: Instant, patience: Duration) -> Vec<Series> {
        let pages = self.shown.lock().unwrap();
        let pages = pages
            .iter()
            .filter(|shown| moment.saturating_duration_since(shown.last) <= patience);
        pages.map(|shown| shown.series[family].clone()).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A push path, with its own agent.
struct Way {
    name: &'static str,
    /// Dropped before the agent.
    pages: Follower,
    agent: AgentProcess,
    prometheus: Prometheus,
    /// Keeps files and processes alive.
    _rest: (Option<Collector>, Option<tempfile::TempDir>),
    samples: usize,
    /// Samples that differ from the page in the same interval.
    late: Vec<String>,
}

fn ways(programs: &Path, api_url: &str, interval: Duration) -> Vec<Way> {
    let seconds = interval.as_secs().to_string();
    let agent = |endpoint: &str, url: &str| {
        let settings = [
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            (endpoint, url),
            ("SAMPLE_INTERVAL_SECONDS", seconds.as_str()),
        ];
        AgentProcess::start(api_url, &settings)
    };
    let way = |name, agent: AgentProcess, prometheus, collector, folder| Way {
        name,
        pages: Follower::start(agent.address),
        agent,
        prometheus,
        _rest: (collector, folder),
        samples: 0,
        late: Vec::new(),
    };
    let general = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let collector = Collector::start(programs);
    let (scraping, folder) = prometheus(programs, &collector, None);
    let scraped = agent(general, &collector.otlp);

    let config = project("deploy/prometheus-otlp.yml");
    let direct = Prometheus::start(programs, &config, &["--web.enable-otlp-receiver"]);
    let url = format!("{}/api/v1/otlp/v1/metrics", direct.url);
    let pushing = agent("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &url);

    let flags = ["--web.enable-remote-write-receiver"];
    let written = Prometheus::start(programs, &config, &flags);
    let url = format!("{}/api/v1/write", written.url);
    let file = "deploy/collector/remote-write.yaml";
    let writer = Collector::start_with(programs, file, &[("REMOTE_WRITE_URL", &url)]);
    let writing = agent(general, &writer.otlp);
    vec![
        way(
            "collector",
            scraped,
            scraping,
            Some(collector),
            Some(folder),
        ),
        way("OTLP receiver", pushing, direct, None, None),
        way("remote write", writing, written, Some(writer), None),
    ]
}

impl Way {
    fn in_prometheus(&self, family: &str) -> Series {
        let series = self.prometheus.query(family).unwrap().into_iter();
        series
            .map(|(mut labels, value)| {
                // Labels about the source of a series, which the page does not have.
                labels.retain(|name, _| {
                    !["__name__", "job", "instance"].contains(&name.as_str())
                        && !name.starts_with("otel_scope_")
                });
                (labels, value)
            })
            .collect()
    }

    /// Compares the current data in Prometheus with the recent pages.
    fn sample(&mut self, interval: Duration) {
        let asked = Instant::now();
        let pushed = FAMILIES.map(|family| self.in_prometheus(family));
        // By then, the data in Prometheus has been on the page.
        self.pages.catch_up();
        for (index, family) in FAMILIES.iter().enumerate() {
            let pushed = &pushed[index];
            self.samples += 1;
            let soon = interval.max(ON_THE_WAY);
            if !self.pages.showed(index, asked, soon).contains(pushed) {
                self.late.push(format!("{family}: {}", pushed.len()));
            }
            // A scrape of the collector may happen during a push, with both old and new series.
            let pages = self.pages.showed(index, asked, ON_A_BUSY_MACHINE);
            for (labels, value) in pushed {
                let shown = pages.iter().any(|page| page.get(labels) == Some(value));
                assert!(
                    shown,
                    "{}: {family} {labels:?} has {value}, which the page did not show: {pages:#?}",
                    self.name
                );
            }
            let lasting = pages
                .iter()
                .map(|page| page.keys().collect::<BTreeSet<_>>());
            let lasting = lasting
                .reduce(|one, other| &one & &other)
                .unwrap_or_default();
            for labels in lasting {
                assert!(
                    pushed.contains_key(labels),
                    "{}: {family} {labels:?} is missing",
                    self.name
                );
            }
        }
    }
}

/// Compares for `time`. `change` is called before each sample. Returns the share of samples of each
/// path that equal the page in the same interval.
fn compare(
    mut ways: Vec<Way>,
    interval: Duration,
    time: Duration,
    mut change: impl FnMut(usize),
) -> Vec<f64> {
    for way in &ways {
        wait_for(way.name, || {
            let family = FAMILIES[0];
            let (page, pushed) = (way.agent.page().family(family), way.in_prometheus(family));
            (!page.is_empty() && page == pushed).then_some(())
        });
        // Earlier data is not compared, because the first pages are not known.
    }
    let started = Instant::now();
    let mut step = 0;
    let enough = |way: &Way| way.samples >= LEAST_SAMPLES;
    while started.elapsed() < time || !ways.iter().all(enough) {
        assert!(started.elapsed() < time + PATIENCE, "too few samples");
        change(step);
        step += 1;
        let warm = started.elapsed() > interval * 3 + ON_THE_WAY;
        for way in ways.iter_mut().filter(|_| warm) {
            way.sample(interval);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let shares = ways.into_iter().map(|way| {
        let equal = 1.0 - way.late.len() as f64 / way.samples as f64;
        eprintln!(
            "{}: {} samples, {:.2} % equal to the page of the same interval",
            way.name,
            way.samples,
            equal * 100.0
        );
        if equal < 0.99 {
            eprintln!("late: {:#?}", way.late);
        }
        equal
    });
    shares.collect()
}

/// Six runs that pass through their states, each in a different one; then six new ones.
fn advance(stub: &Stub, step: usize) {
    const COURSE: [&str; 4] = ["PENDING", "RUNNING", "RUNNING", "COMPLETED"];
    const STEPS: usize = 4;
    if !step.is_multiple_of(STEPS) {
        return;
    }
    let mut contents = stub.contents();
    for lane in 0..6 {
        let phase = step / STEPS + lane;
        let (round, at) = (phase / COURSE.len(), phase % COURSE.len());
        let run = fleet::run_at(1_000 + lane + 10 * round, COURSE[at], 1);
        contents.flow_runs.retain(|other| other["id"] != run["id"]);
        contents.flow_runs.push(run);
    }
}

#[test]
fn runs_that_change_state_are_equal_on_the_page_and_on_every_push_path() {
    let Some(programs) = programs("runs_that_change_state_read_alike") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    advance(&stub, 0);
    let interval = Duration::from_secs(3);
    let ways = ways(&programs, &stub.url, interval);
    compare(ways, interval, Duration::from_secs(60), |step| {
        advance(&stub, step)
    });
}

/// `cargo test ten_minutes -- --ignored --nocapture` prints the share of equal samples.
#[test]
#[ignore = "takes ten minutes"]
fn ten_minutes_of_the_demos_load_are_equal_on_the_page_and_on_every_push_path() {
    let Some(programs) = programs("ten_minutes_of_the_demos_load") else {
        return;
    };
    let server = Server::start(&[]);
    run(server.program("python").arg(project("demo/flows.py")));
    let mut worker: Command = server.program("prefect");
    let arguments = [
        "worker", "start", "--pool", "demo", "--type", "process", "--limit", "4",
    ];
    let _worker = Process::start(worker.args(arguments));
    let interval = Duration::from_secs(5);
    let ways = ways(&programs, &server.url, interval);
    let equal = compare(ways, interval, Duration::from_secs(600), |_| {});
    assert!(equal.iter().all(|equal| *equal >= 0.99), "{equal:?}");
}

#[test]
fn a_worker_that_goes_offline_is_never_in_two_states() {
    let Some(programs) = programs("a_worker_that_goes_offline") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let mut worker = recorded("worker");
    worker["work_pool"] = json!("pool-0");
    worker["last_heartbeat_time"] = json!(jiff::Timestamp::now().to_string());
    stub.contents().workers.push(worker);
    stub.contents().set_worker_status("ONLINE");
    let collector = Collector::start(&programs);
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.otlp.as_str()),
    ];
    let _agent = AgentProcess::start(&stub.url, &settings);
    let (prometheus, _folder) = prometheus(&programs, &collector, None);
    // Every answer is checked while waiting.
    let wait_until = |wanted: &str| {
        wait_for(wanted, || {
            let series = prometheus.query("prefect_worker_status == 1").unwrap();
            assert!(
                series.len() <= 1,
                "one worker is in two states: {series:#?}"
            );
            let status = series.first().map(|(labels, _)| &labels["worker_status"]);
            (status.is_some_and(|status| status == wanted)).then_some(())
        });
    };
    wait_until("ONLINE");
    stub.contents().set_worker_status("OFFLINE");
    wait_until("OFFLINE");
    stub.contents().set_worker_status("ONLINE");
    wait_until("ONLINE");
}

#[test]
fn a_large_fleet_is_accepted_by_a_collector_with_default_limits_over_grpc() {
    let Some(programs) = programs("a_large_fleet_arrives") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(Stub::start());
    fleet::large(&mut stub.contents());
    assert!(!project_text("otel-collector.yaml").contains("max_re"));
    let collector = Collector::start(&programs);
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.otlp_grpc.as_str()),
        ("SAMPLE_INTERVAL_SECONDS", "10"),
    ];
    let _agent = AgentProcess::start(&stub.url, &settings);
    wait_for("every deployment and failed run", || {
        let text = fetch(&format!("http://{}/metrics", collector.metrics));
        let text = text.unwrap().text().unwrap();
        let series = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        let failed = series("prefect_deployment_failed_flow_runs{");
        let deployments = series("prefect_info_deployment{");
        (failed == 7_700 && deployments == 1_200).then_some(())
    });
}
