//! After a killed agent, a recreated container or a replaced pod, every run is counted once, no sum
//! doubles, and the series continue; with the real collector and Prometheus, and with Prometheus'
//! OTLP receiver.

use std::time::Duration;

use serde_json::json;

use crate::support::fleet;
use crate::support::process::{AgentProcess, wait_for};
use crate::support::programs::{Prometheus, programs};
use crate::support::samples::Samples;
use crate::support::small_stub;
use crate::support::stack::{Collector, project, prometheus};
use crate::support::stub::Stub;

/// Not a loopback address, which would be a different Prefect on each host.
const PREFECT: &str = "http://prefect.test/api";

/// Longer than the scrape interval, as `increase()` requires.
const INTERVAL: Duration = Duration::from_secs(4);

const PATIENCE: Duration = Duration::from_secs(90);

/// An agent that is stopped and started, and the Prometheus that gets its pushes.
struct Chain<'a> {
    job: &'static str,
    way: &'static str,
    prometheus: &'a Prometheus,
    settings: Vec<(&'static str, String)>,
    state: Option<tempfile::TempDir>,
    agent: Option<AgentProcess>,
    /// The runs that it should have counted, in total and since the start of the process.
    counted: (f64, f64),
}

impl Chain<'_> {
    /// Starts it on a host.
    fn start(&mut self, host: &str) {
        let mut settings = self.settings.clone();
        if let Some(folder) = &self.state {
            settings.push(("STATE_DIR", folder.path().to_str().unwrap().to_owned()));
        } else {
            self.counted.1 = 0.0;
        }
        let settings = settings.iter();
        let settings: Vec<_> = settings
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        self.agent = Some(AgentProcess::start_on(host, PREFECT, &settings));
    }

    fn stop(&mut self, signal: &str) {
        let mut agent = self.agent.take().unwrap();
        agent.process.signal(signal);
        agent.process.wait(PATIENCE);
    }

    fn finished(&self) -> String {
        self.of("prefect_flow_runs_finished_total")
    }

    fn of(&self, family: &str) -> String {
        format!("{family}{{job={:?}}}", self.job)
    }

    /// Waits until Prometheus has all counts.
    fn wait(&self) {
        let sum = format!("sum({})", self.finished());
        let what = format!("{} runs of {} by {}", self.counted.1, self.job, self.way);
        wait_for(&what, || {
            (self.prometheus.value(&sum) == Some(self.counted.1)).then_some(())
        });
    }

    fn check(&self, programs: &std::path::Path) {
        let name = format!("{} by {}", self.job, self.way);
        let samples = Samples::of(self.prometheus, &self.finished());
        let expected = self.counted.0;
        assert_eq!(samples.increase(), expected, "{name}: {samples:#?}");
        let by_prometheus = samples.increase_by(self.prometheus, &self.finished());
        assert_eq!(by_prometheus, expected, "{name}: {samples:#?}");
        samples.check_by_promtool(programs, expected);
        let of_it = [("match[]", format!("{{job={:?}}}", self.job))];
        let of_it = of_it
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let instances = self.prometheus.get("/api/v1/label/instance/values", &of_it);
        let instances = instances.unwrap();
        assert_eq!(
            instances.as_array().unwrap().len(),
            1,
            "{name}: {instances}"
        );
        for (family, most) in [
            ("prefect_deployments_total", DEPLOYMENTS.1),
            ("prefect_info_deployment", DEPLOYMENTS.1),
            ("prefect_flow_runs_active", ACTIVE),
        ] {
            let most_seen = format!("max_over_time(sum({})[1h:1s])", self.of(family));
            let most_seen = self.prometheus.value(&most_seen);
            assert_eq!(most_seen, Some(most as f64), "{name}: {family}");
        }
    }
}

/// The number of deployments at the start and at the end.
const DEPLOYMENTS: (usize, usize) = (6, 8);

/// The number of active runs during the test.
const ACTIVE: usize = 4;

fn end(stub: &Stub, deployment: usize, runs: usize) {
    let runs = (0..runs)
        .map(|number| fleet::ended(deployment, ["COMPLETED", "FAILED", "CRASHED"][number % 3]));
    stub.contents().flow_runs.extend(runs);
}

fn under_way(stub: &Stub, number: usize, state: &str) {
    let mut run = fleet::run_at(number, state, 1);
    run["deployment_id"] = json!(fleet::id(1, number));
    let mut contents = stub.contents();
    contents.flow_runs.retain(|other| other["id"] != run["id"]);
    contents.flow_runs.push(run);
}

/// Two agents for each path: one with `STATE_DIR`, one without.
fn chains<'a>(stub: &Stub, ways: [(&'static str, &'a Prometheus, String); 2]) -> Vec<Chain<'a>> {
    let mut chains = Vec::new();
    for (way, prometheus, endpoint) in ways {
        for (job, is_kept) in [("kept", true), ("forgotten", false)] {
            let settings = vec![
                ("OTEL_METRICS_EXPORTER", "otlp".to_owned()),
                ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", endpoint.clone()),
                ("OTEL_SERVICE_NAME", job.to_owned()),
                ("SAMPLE_INTERVAL_SECONDS", INTERVAL.as_secs().to_string()),
                ("HTTP_PROXY", stub.url.trim_end_matches("/api").to_owned()),
                ("NO_PROXY", "127.0.0.1".to_owned()),
            ];
            chains.push(Chain {
                job,
                way,
                prometheus,
                settings,
                state: is_kept.then(|| tempfile::tempdir().unwrap()),
                agent: None,
                counted: (0.0, 0.0),
            });
        }
    }
    chains
}

/// Adds runs that all agents should count, or only those with `STATE_DIR`.
fn count(chains: &mut [Chain<'_>], runs: usize, all: bool) {
    let to_count = chains.iter_mut();
    for chain in to_count.filter(|chain| all || chain.state.is_some()) {
        chain.counted.0 += runs as f64;
        chain.counted.1 += runs as f64;
    }
}

/// Ends runs while the agents are running, and waits until all have counted them.
fn end_and_wait(chains: &mut [Chain<'_>], stub: &Stub, deployment: usize) {
    end(stub, deployment, 7);
    count(chains, 7, true);
    chains.iter().for_each(Chain::wait);
}

/// Stops the agents, ends runs in the meantime, and starts the agents on `host`.
fn replace(chains: &mut [Chain<'_>], stub: &Stub, round: usize, signal: &str, host: &str) {
    for chain in chains.iter_mut().filter(|chain| chain.state.is_none()) {
        chain.stop(signal);
    }
    // From here on, only agents with `STATE_DIR` should count them.
    end(stub, round, 5);
    // At a different point of the interval each time.
    std::thread::sleep(INTERVAL / 4 * (round as u32 + 1));
    for chain in chains.iter_mut().filter(|chain| chain.state.is_some()) {
        chain.stop(signal);
    }
    // No deployment is added the last time.
    let mut deployment = 0;
    if DEPLOYMENTS.0 + round < DEPLOYMENTS.1 {
        deployment = DEPLOYMENTS.0 + round;
        fleet::deploy(&mut stub.contents(), deployment);
    }
    end(stub, deployment, 3);
    count(chains, 8, false);
    // An agent without `STATE_DIR` counts runs that ended after its start.
    std::thread::sleep(Duration::from_secs(2));
    for chain in chains.iter_mut() {
        chain.start(host);
    }
    chains.iter().for_each(Chain::wait);
}

#[test]
fn every_run_is_counted_once_through_a_kill_a_recreated_container_and_a_replaced_pod() {
    let Some(programs) = programs("every_run_is_counted_once_through_a_kill") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    for number in 1..DEPLOYMENTS.0 {
        fleet::deploy(&mut stub.contents(), number);
    }
    for number in 0..ACTIVE {
        under_way(&stub, number, "RUNNING");
    }
    let collector = Collector::start(&programs);
    let (scraping, _folder) = prometheus(&programs, &collector, None);
    let config = project("deploy/prometheus-otlp.yml");
    let direct = Prometheus::start(&programs, &config, &["--web.enable-otlp-receiver"]);
    let to_collector = format!("{}/v1/metrics", collector.otlp);
    let to_prometheus = format!("{}/api/v1/otlp/v1/metrics", direct.url);
    let mut chains = chains(
        &stub,
        [
            ("the collector", &scraping, to_collector),
            ("OTLP", &direct, to_prometheus),
        ],
    );
    chains.iter_mut().for_each(|chain| chain.start("host-0"));
    chains.iter().for_each(Chain::wait);
    // A kill; a container that is stopped properly, with another port; a pod on another host.
    let ends = [
        ("-KILL", "host-0"),
        ("-TERM", "host-0"),
        ("-KILL", "host-1"),
    ];
    for (round, (signal, host)) in ends.into_iter().enumerate() {
        end_and_wait(&mut chains, &stub, round);
        replace(&mut chains, &stub, round, signal, host);
    }
    end_and_wait(&mut chains, &stub, 0);
    for chain in &chains {
        chain.check(&programs);
    }
}
