//! The complete stack with the demo's load: every panel shows something, and every metric in a
//! query exists.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::json::{Panel, dashboards, none};
use super::queries::{Query, catalogue, known_now};
use super::shown::{Look, packages, show};
use super::workspace::of_deployment;
use crate::support::prefect::{Server, free_port};
use crate::support::process::{AgentProcess, Process, built, wait_for};
use crate::support::programs::{Prometheus, programs};
use crate::support::small_stub;
use crate::support::stack::{Collector, project, prometheus, run};

/// Another Prometheus with the configuration in `folder`. Its job `prometheus` scrapes the first
/// one, and alerts fire after ten seconds.
fn scraping_itself(programs: &Path, first: &Prometheus, folder: &Path) -> Prometheus {
    let change = |file: &str, change: &dyn Fn(&str) -> String| {
        let file = folder.join(file);
        let text = change(&std::fs::read_to_string(&file).unwrap());
        std::fs::write(&file, text).unwrap();
        file
    };
    let address = first.url.trim_start_matches("http://");
    let config = change("prometheus.yml", &|text| {
        text.replace("localhost:9090", address)
    });
    change("alerts.yml", &|text| {
        let lines = text.lines().map(|line| match line.split_once("for: ") {
            Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 10s\n"),
            _ => format!("{line}\n"),
        });
        lines.collect()
    });
    Prometheus::start(programs, &config, &[])
}

#[test]
fn metrics_of_other_programs_in_queries_exist() {
    let test = "metrics_of_other_programs_in_queries_exist";
    let Some(programs) = programs(test) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let collector = Collector::start(&programs);
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.otlp.as_str()),
    ];
    let _agent = AgentProcess::start(&stub.url, &settings);
    let (prometheus, folder) = prometheus(&programs, &collector, None);
    let own = scraping_itself(&programs, &prometheus, folder.path());
    wait_for("the metrics", || {
        own.value("sum(otelcol_exporter_sent_metric_points_total or otelcol_exporter_sent_metric_points) > 0")
    });
    wait_for("its own", || own.value("prometheus_tsdb_head_series"));
    let mut known = known_now(&own);
    // Some metrics appear only with the first event, such as a refused point. These are searched
    // for in the binary.
    let in_program = |metric: &str| {
        let mut search = Command::new("grep");
        let search = search.args(["-qaF", metric]).arg(programs.join("otelcol"));
        metric.starts_with("otelcol_") && search.status().unwrap().success()
    };
    known.extend(catalogue().into_keys());
    let mut wrong = BTreeSet::new();
    for dashboard in dashboards() {
        for panel in dashboard.panels() {
            let queries = Query::of(&own, panel);
            let metrics = queries.iter().flat_map(Query::selectors);
            for metric in metrics.map(|selector| selector.metric) {
                let other = metric != "ALERTS" && !metric.starts_with("numbers_");
                if other && !known.contains(&metric) {
                    match in_program(&metric) {
                        true => known.insert(metric),
                        false => wrong.insert(format!("{}: {metric}", panel.identity())),
                    };
                }
            }
        }
    }
    none(wrong.into_iter().collect());
}

/// The flows and deployments of the demo for which the deployment dashboard is checked: one that
/// completes, one that fails, one that is active most of the time, and one whose runs are late. No
/// panel is empty for all of them.
const CHOICES: [(&str, &str); 4] = [
    ("etl", "hourly"),
    ("broken", "legacy"),
    ("report", "daily"),
    ("etl", "backfill"),
];

/// The panels of all dashboards that show nothing.
fn empty_panels(packages: &Path, prometheus: &Prometheus) -> BTreeSet<String> {
    let mut empty = BTreeSet::new();
    let all = dashboards();
    for dashboard in &all {
        let looks: Vec<Look> = { CHOICES.iter() }
            .map(|(flow, deployment)| of_deployment(&dashboard.file, flow, deployment))
            .take(if dashboard.file == "deployment.json" {
                CHOICES.len()
            } else {
                1
            })
            .collect();
        let shown = show(packages, prometheus, &looks);
        let nothing =
            |panel: &Panel<'_>| !shown.iter().any(|one| one.panel(*panel).shows_something());
        empty.extend(
            dashboard
                .panels()
                .filter(nothing)
                .map(|panel| panel.identity()),
        );
    }
    empty
}

#[test]
#[ignore = "takes minutes"]
fn every_panel_shows_something_on_the_demos_load() {
    let test = "every_panel_shows_something_on_the_demos_load";
    let (Some(programs), Some(packages)) = (programs(test), packages(test)) else {
        return;
    };
    let mut server = Server::start(&[]);
    let collector = Collector::start(&programs);
    let numbers = format!("127.0.0.1:{}", free_port());
    let mut service = Command::new(built("numbers"));
    let service = service
        .env("NUMBERS_ADDR", &numbers)
        .env("NUMBERS_PUSH_SECONDS", "2")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.otlp);
    let service = Process::start(service);
    service.wait_for_line("listening_on");
    let url = format!("http://{numbers}");
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.otlp.as_str()),
        ("TASK_RUNS_ENABLED", "True"),
        ("DEPLOYMENT_TAG_LABELS", "team"),
    ];
    let agent = AgentProcess::start(&server.url, &settings);
    // An occasional request, like those of probes.
    agent.get("/readyz");
    let (prometheus, folder) = prometheus(&programs, &collector, None);
    let prometheus = scraping_itself(&programs, &prometheus, folder.path());
    // Running it again is harmless: a worker that is restarted in the stack does the same.
    for _ in 0..2 {
        run(server.program("python").arg(project("demo/flows.py")));
    }
    let mut worker = server.program("prefect");
    let arguments = [
        "worker", "start", "--pool", "demo", "--type", "process", "--limit", "4",
    ];
    let _worker = Process::start(worker.args(arguments).env("NUMBERS_URL", &url));
    let mut load = Command::new(project("examples/service/load"));
    let load = load.args(["--url", &url, "--pause", "0.2"]);
    let _load = Process::start(load);
    // Some panels are about requests that fail.
    server.restart();
    let deadline = Instant::now() + Duration::from_secs(600);
    let mut empty = empty_panels(&packages, &prometheus);
    // Each panel must show something at some time, but not all at the same time.
    while !empty.is_empty() {
        assert!(Instant::now() < deadline, "empty panels: {empty:#?}");
        std::thread::sleep(Duration::from_secs(2));
        agent.get("/readyz");
        let now = empty_panels(&packages, &prometheus);
        empty.retain(|panel| now.contains(panel));
    }
    // The rules of alerts.yml are evaluated without failures.
    let rules = prometheus.get("/api/v1/rules", &[]).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    let mut count = 0;
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        count += 1;
    }
    assert!(count > 8);
}
