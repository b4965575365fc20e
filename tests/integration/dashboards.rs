//! The dashboards: well made, provisioned, and with something in every panel on the demo's load.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::prefect::{Server, free_port};
use crate::support::process::{AgentProcess, Process, built};
use crate::support::programs::{Prometheus, programs};
use crate::support::stack::{Collector, project, project_text, prometheus, run};

fn dashboards() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(project("grafana/dashboards")).unwrap();
    let mut dashboards: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_str(&text).unwrap())
        })
        .collect();
    dashboards.sort_by(|(a, _), (b, _)| a.cmp(b));
    dashboards
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row")
}

#[test]
fn dashboards_are_well_made() {
    let mut uids = BTreeSet::new();
    let dashboards = dashboards();
    assert_eq!(dashboards.len(), 5);
    for (file, dashboard) in &dashboards {
        assert!(
            uids.insert(dashboard["uid"].as_str().unwrap().to_owned()),
            "{file}"
        );
        assert!(!dashboard["title"].as_str().unwrap().is_empty());
        assert!(!dashboard["description"].as_str().unwrap().is_empty());
        assert!(
            dashboard["links"]
                .as_array()
                .is_some_and(|links| !links.is_empty())
        );
        let variables: Vec<&str> = dashboard["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variable| variable["name"].as_str().unwrap())
            .collect();
        assert_eq!(variables[0], "datasource");
        let mut ids = BTreeSet::new();
        let mut used = String::new();
        let mut cells = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: {title}");
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{file}: {title}");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(
                        cells.insert((x, y)),
                        "{file}: {title} lies upon another panel"
                    );
                }
            }
        }
        for panel in panels(dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(
                panel["description"].as_str().unwrap().len() > 10,
                "{file}: {title}"
            );
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{file}: {title}"
            );
            assert_eq!(
                panel["datasource"]["uid"], "${datasource}",
                "{file}: {title}"
            );
            for target in panel["targets"].as_array().unwrap() {
                used += target["expr"].as_str().unwrap();
                assert_eq!(
                    target["datasource"]["uid"], "${datasource}",
                    "{file}: {title}"
                );
            }
            if panel["type"] == "stat" || panel["type"] == "table" {
                let says = &panel["fieldConfig"]["defaults"]["noValue"];
                assert!(
                    says.is_string(),
                    "{file}: {title} says nothing when it is empty"
                );
            }
        }
        for variable in &variables[1..] {
            assert!(
                used.contains(&format!("${variable}")),
                "{file}: ${variable} is not used"
            );
        }
    }
}

/// A YAML file of the project as JSON.
fn yaml(path: &str) -> Value {
    let file = config::File::from(project(path)).format(config::FileFormat::Yaml);
    let built = config::Config::builder().add_source(file).build().unwrap();
    built.try_deserialize().unwrap()
}

#[test]
fn grafana_is_provisioned_with_what_is_there() {
    let dashboards = yaml("grafana/provisioning/dashboards/dashboards.yml");
    assert_eq!(
        dashboards["apiversion"]
            .as_i64()
            .or(dashboards["apiVersion"].as_i64()),
        Some(1)
    );
    let provider = &dashboards["providers"][0];
    assert_eq!(provider["type"], "file");
    let folder = provider["options"]["path"].as_str().unwrap();
    let sources = yaml("grafana/provisioning/datasources/prometheus.yml");
    let source = &sources["datasources"][0];
    assert_eq!(source["type"], "prometheus");
    let compose = project_text("compose.yml");
    assert!(compose.contains(&format!("./grafana/dashboards:{folder}:ro")));
    for part in ["datasources", "dashboards"] {
        let folder = format!("grafana/provisioning/{part}:/etc/grafana/provisioning/{part}:ro");
        assert!(compose.contains(&folder), "{folder}");
    }
    assert!(compose.contains(&format!("HOME_DASHBOARD_PATH: {folder}/overview.json")));
    let host = source["url"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap();
    let (service, port) = host.split_once(':').unwrap();
    assert!(
        compose.contains(&format!("\n  {service}:\n")) && compose.contains(&format!(":{port}\""))
    );
    // What a panel may show at least is what Prometheus scrapes.
    let prometheus = yaml("prometheus.yml");
    let interval = prometheus["global"]["scrape_interval"].as_str().unwrap();
    assert_eq!(
        source["jsonData"]["timeInterval"]
            .as_str()
            .or(source["jsondata"]["timeinterval"].as_str()),
        Some(interval)
    );
}

/// Flow and deployment of the demo that a dashboard of one deployment is looked at for: one
/// that completes, one that fails, and one that is under way most of the time. No panel is empty
/// for all of them.
const CHOICES: [(&str, &str); 3] = [("etl", "hourly"), ("broken", "legacy"), ("report", "daily")];

/// An expression with the dashboard's variables filled in.
fn filled_in(expression: &str, (flow, deployment): (&str, &str)) -> String {
    let mut text = expression.to_owned();
    for variable in ["flow", "deployment", "pool", "route"] {
        text = text.replace(&format!("=~\"${variable}\""), "=~\".*\"");
    }
    text.replace("\"$flow\"", &format!("{flow:?}"))
        .replace("\"$deployment\"", &format!("{deployment:?}"))
        .replace("$__rate_interval", "1m")
        .replace("$__range", "10m")
}

/// What the panels of all dashboards cannot show, a line each.
fn empty_panels(prometheus: &Prometheus) -> Vec<String> {
    let mut empty = Vec::new();
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            for target in panel["targets"].as_array().unwrap() {
                let expression = target["expr"].as_str().unwrap();
                let shows = CHOICES.iter().any(|choice| {
                    let expression = filled_in(expression, *choice);
                    assert!(!expression.contains('$'), "{file}: {title}: {expression}");
                    let answer = prometheus.query(&expression);
                    let answer = answer
                        .unwrap_or_else(|error| panic!("{file}: {title}: {expression}: {error}"));
                    answer.iter().any(|(_, value)| value.is_finite())
                });
                if !shows {
                    empty.push(format!("{file}: {title}: {expression}"));
                }
            }
        }
    }
    empty
}

#[test]
#[ignore = "takes minutes"]
fn every_panel_shows_something_on_the_demos_load() {
    let Some(programs) = programs("every_panel_shows_something_on_the_demos_load") else {
        return;
    };
    let server = Server::start(&[]);
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
    // A scrape now and then, as probes do.
    agent.get("/readyz");
    let (prometheus, _folder) = prometheus(&programs, &collector, None);
    // Once more does no harm: in the stack, a worker that is restarted does so.
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
    let deadline = Instant::now() + Duration::from_secs(600);
    let mut empty = empty_panels(&prometheus);
    // Each must show something at some moment; not all do at the same one.
    while !empty.is_empty() {
        assert!(Instant::now() < deadline, "empty panels: {empty:#?}");
        std::thread::sleep(Duration::from_secs(2));
        agent.get("/readyz");
        let now: BTreeSet<String> = empty_panels(&prometheus).into_iter().collect();
        empty.retain(|panel| now.contains(panel));
    }
    // The rules of alerts.yml are evaluated, and none of them fails.
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
