//! The stack: the project's configuration files with the real collector and the real Prometheus.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::page::{Labels, Page};
use crate::support::prefect::free_port;
use crate::support::process::{AgentProcess, Process, built, wait_for};
use crate::support::programs::{Prometheus, programs};
use crate::support::stack::{Collector, configured, project, prometheus, run};
use crate::support::{fleet, small_stub};

#[test]
fn the_configuration_files_are_valid() {
    let Some(programs) = programs("the_configuration_files_are_valid") else {
        return;
    };
    let check = |config: &Path| {
        run(Command::new(programs.join("promtool"))
            .args(["check", "config"])
            .arg(config));
    };
    for file in ["prometheus.yml", "deploy/prometheus-otlp.yml"] {
        check(&project(file));
    }
    for pulled in [None, Some("agent:8000")] {
        let folder = configured("collector:8889", "collector:8888", pulled);
        check(&folder.path().join("prometheus.yml"));
    }
    for file in [
        "otel-collector.yaml",
        "deploy/collector/remote-write.yaml",
        "deploy/collector/gateway.yaml",
    ] {
        run(Command::new(programs.join("otelcol"))
            .args(["validate", "--config"])
            .arg(project(file)));
    }
}

/// The agent's series by name and labels, without those that scrapes and alerts add.
fn series(prometheus: &Prometheus) -> BTreeMap<Labels, f64> {
    let of_scrape = ["up", "target_info"];
    prometheus
        .query("{job=\"prefect-otel-agent\",alertname=\"\"}")
        .unwrap()
        .into_iter()
        .filter(|(labels, _)| {
            let name = labels["__name__"].as_str();
            !of_scrape.contains(&name)
                && !name.starts_with("scrape_")
                // Scrapes continue between the two.
                && !name.starts_with("http_server_")
        })
        .collect()
}

#[test]
fn one_cycle_pushed_and_scraped_is_the_same_series_and_values() {
    let Some(programs) = programs("one_cycle_pushed_and_scraped") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    for (number, state) in ["RUNNING", "PENDING", "COMPLETED", "FAILED", "CRASHED"]
        .iter()
        .enumerate()
    {
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number, state, 5));
    }
    let collector = Collector::start(&programs);
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.otlp.as_str()),
        ("METRICS_ATTRIBUTES", "env=test"),
        ("TASK_RUNS_ENABLED", "True"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.instance.id=prefect-demo",
        ),
        // Exactly one cycle.
        ("SAMPLE_INTERVAL_SECONDS", "3600"),
    ];
    let agent = AgentProcess::start(&stub.url, &settings);
    agent.wait_for_page("the cycle", |page| page.value("prefect_up", &[]));
    let address = agent.address.to_string();
    let (pulling, _folder) = prometheus(&programs, &collector, Some(&address));
    let (prometheus, _folder) = prometheus(&programs, &collector, None);
    let mut both = (BTreeMap::new(), BTreeMap::new());
    let deadline = Instant::now() + Duration::from_secs(90);
    while both.0.is_empty() || both.0 != both.1 {
        if Instant::now() > deadline {
            let (pulled, pushed) = both;
            let only = |of: &BTreeMap<Labels, f64>, other: &BTreeMap<Labels, f64>| -> Vec<_> {
                let differs = |(labels, value): &(&Labels, &f64)| other.get(*labels) != Some(value);
                of.iter()
                    .filter(differs)
                    .map(|(labels, value)| (labels.clone(), *value))
                    .collect()
            };
            panic!(
                "pulled {:#?}\npushed {:#?}",
                only(&pulled, &pushed),
                only(&pushed, &pulled)
            );
        }
        std::thread::sleep(Duration::from_secs(1));
        both = (series(&pulling), series(&prometheus));
    }
    assert!(both.0.len() > 100, "{}", both.0.len());
    // The collector serves its own metrics where prometheus.yml expects them.
    let own = "otelcol_receiver_accepted_metric_points > 0";
    wait_for("the collector's own metrics", || prometheus.value(own));
}

#[test]
fn the_other_paths_forward_metrics_with_the_same_names() {
    let Some(programs) = programs("the_other_ways_lead_metrics_on") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let arrives = |prometheus: &Prometheus, metric: &str, endpoint: &str| {
        let settings = [("OTEL_METRICS_EXPORTER", "otlp"), (metric, endpoint)];
        let _agent = AgentProcess::start(&stub.url, &settings);
        for name in [
            "prefect_up",
            "prefect_flows_total",
            "prefect_agent_cycles_total{outcome=\"success\"}",
            "sum(prefect_agent_cycle_duration_seconds_count)",
            "sum(prefect_info_deployment)",
        ] {
            wait_for(name, || prometheus.value(name));
        }
    };
    let general = "OTEL_EXPORTER_OTLP_ENDPOINT";

    let flags = ["--web.enable-otlp-receiver"];
    let direct = Prometheus::start(&programs, &project("deploy/prometheus-otlp.yml"), &flags);
    let endpoint = format!("{}/api/v1/otlp/v1/metrics", direct.url);
    arrives(&direct, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &endpoint);

    let flags = ["--web.enable-remote-write-receiver"];
    let written = Prometheus::start(&programs, &project("deploy/prometheus-otlp.yml"), &flags);
    let url = format!("{}/api/v1/write", written.url);
    let settings = [("REMOTE_WRITE_URL", url.as_str())];
    let file = "deploy/collector/remote-write.yaml";
    let collector = Collector::start_with(&programs, file, &settings);
    arrives(&written, general, &collector.otlp);

    let backend = Collector::start(&programs);
    let (prometheus, _folder) = prometheus(&programs, &backend, None);
    let settings = [("BACKEND_URL", backend.otlp.as_str())];
    let gateway = Collector::start_with(&programs, "deploy/collector/gateway.yaml", &settings);
    arrives(&prometheus, general, &gateway.otlp);
    let through = "target_info{job=\"prefect-otel-agent\", gateway_name=\"gateway\"}";
    wait_for("the gateway's name", || prometheus.value(through));
}

/// How long the collector is down.
const OUTAGE: Duration = Duration::from_secs(180);

#[test]
#[ignore = "takes minutes"]
fn three_minutes_without_the_collector_lose_no_count_and_are_a_gap() {
    let Some(programs) = programs("three_minutes_without_the_collector") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let mut collector = Collector::start(&programs);
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.otlp.as_str()),
    ];
    let agent = AgentProcess::start(&stub.url, &settings);
    let (prometheus, _folder) = prometheus(&programs, &collector, None);
    let failed = "sum(prefect_flow_runs_finished_total{state_type=\"FAILED\"})";
    let shows = |count: f64| {
        wait_for("the count", || {
            prometheus.value(failed).filter(|value| *value == count)
        });
    };
    shows(0.0);
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "FAILED", 0));
    shows(1.0);
    collector.stop();
    let stopped = Instant::now();
    let mut number = 1;
    while stopped.elapsed() < OUTAGE {
        number += 1;
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number, "FAILED", 0));
        std::thread::sleep(Duration::from_secs(5));
    }
    // The gap has no values, instead of old ones.
    assert_eq!(prometheus.value(failed), None);
    assert_eq!(prometheus.value("absent(prefect_up)"), Some(1.0));
    collector.start_again();
    shows(number as f64);
    let window = format!("[{}s]", OUTAGE.as_secs() + 120);
    let increase = format!(
        "round(sum(increase(prefect_flow_runs_finished_total{{state_type=\"FAILED\"}}{window})))"
    );
    assert_eq!(prometheus.value(&increase), Some(number as f64));
    assert_eq!(agent.process.lines_with("pushes fail"), 1);
    agent.process.wait_for_line("pushes succeed again");
    assert_eq!(agent.process.lines_with("pushes succeed again"), 1);
    let failures = prometheus.value("sum(prefect_agent_exports_total{outcome=\"failure\"})");
    assert!(failures.is_some_and(|count| count > 10.0), "{failures:?}");
}

/// The totals that the load generator reports.
fn load(url: &str, requests: u32) -> BTreeMap<String, f64> {
    let output = Command::new(project("examples/service/load"))
        .args(["--url", url, "--threads", "8", "--pause", "0", "--requests"])
        .arg(requests.to_string())
        .output()
        .unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The totals of the example service in the format of the load generator.
fn totals(page: &Page) -> BTreeMap<String, f64> {
    let mut totals = BTreeMap::new();
    let mut add = |name: String, value: f64| *totals.entry(name).or_default() += value;
    for (labels, value) in page.family("numbers_requests_total") {
        add("requests".to_owned(), value);
        let (route, status) = (&labels["http_route"], &labels["http_response_status_code"]);
        add(format!("{route} {status}"), value);
    }
    for (labels, value) in page.family("numbers_authentications_total") {
        add(format!("authentications {}", labels["outcome"]), value);
    }
    for value in page.family("numbers_even_numbers_total").values() {
        add("even".to_owned(), *value);
    }
    totals
}

#[test]
fn the_example_service_counts_every_request_on_both_paths() {
    let Some(programs) = programs("the_example_service_counts_what_was_sent_to_it") else {
        return;
    };
    let collector = Collector::start(&programs);
    let (prometheus, _folder) = prometheus(&programs, &collector, None);
    let mut sent: BTreeMap<String, f64> = BTreeMap::new();
    // Two processes of four threads each.
    let services: Vec<(Process, String)> = (0..2)
        .map(|_| {
            let address = format!("127.0.0.1:{}", free_port());
            let mut command = Command::new(built("numbers"));
            command
                .env("NUMBERS_ADDR", &address)
                .env("NUMBERS_WORKERS", "4")
                .env("NUMBERS_PUSH_SECONDS", "1")
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.otlp);
            let service = Process::start(&mut command);
            service.wait_for_line("listening_on");
            (service, format!("http://{address}"))
        })
        .collect();
    let loads: Vec<_> = std::thread::scope(|scope| {
        let load = |url| scope.spawn(move || load(url, 600));
        let threads: Vec<_> = services.iter().map(|(_, url)| load(url)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for ((_, url), load) in services.iter().zip(&loads) {
        let text = reqwest::blocking::get(format!("{url}/metrics")).unwrap();
        let page = Page::parse(&text.text().unwrap());
        assert_eq!(totals(&page), *load, "the pull way");
        assert_eq!(load["requests"], 600.0);
        let measured: f64 = page
            .family("http_server_request_duration_seconds_count")
            .values()
            .sum();
        assert_eq!(measured, 600.0, "/metrics and /healthz are not measured");
        let active = page.family("http_server_active_requests");
        assert!(active.values().all(|active| *active == 0.0), "{active:?}");
        for (name, count) in load {
            *sent.entry(name.clone()).or_default() += count;
        }
    }
    let arrived = || {
        let mut page = Page::default();
        for (mut labels, value) in prometheus.query("{__name__=~\"numbers_.*\"}").unwrap() {
            let name = labels.remove("__name__").unwrap();
            page.series.insert((name, labels), value);
        }
        totals(&page)
    };
    wait_for("the totals on the push way", || {
        (arrived() == sent).then_some(())
    });
}
