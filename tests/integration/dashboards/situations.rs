//! Good times and bad ones: what is known is shown, what is unknown is a grey "?", and what is
//! known to be zero is 0.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::json::{Dashboard, Panel, dashboards, none};
use super::queries::{Query, catalogue};
use super::shown::{Cell, Look, Shown, ShownPanel, is_green, is_grey, is_red, packages, show};
use super::workspace::{Workspace, of_deployment};
use crate::support::prefect::{Server, free_port};
use crate::support::process::{AgentProcess, Process, built, wait_for};
use crate::support::programs::{Prometheus, programs};
use crate::support::small_stub;
use crate::support::stack::{Collector, project, prometheus, run};

/// The names of the metrics that have a value now.
fn known_now(prometheus: &Prometheus) -> BTreeSet<String> {
    let answer = prometheus.query("count by (__name__) ({__name__=~\".+\"})");
    { answer.unwrap().into_iter() }
        .map(|(mut labels, _)| labels.remove("__name__").unwrap())
        .collect()
}

/// Whether a panel asks for what nobody knows now: none of its metrics has a value. What happened
/// over the chosen range is known nevertheless.
fn is_unknown(prometheus: &Prometheus, panel: Panel<'_>, known: &BTreeSet<String>) -> bool {
    let over_range = panel.expressions().any(|query| query.contains("$__range"));
    let queries = Query::of(prometheus, panel);
    let metrics: BTreeSet<String> = { queries.iter().flat_map(Query::selectors) }
        .map(|selector| selector.metric)
        .filter(|metric| metric != "prefect_up")
        .collect();
    !over_range && !metrics.is_empty() && metrics.is_disjoint(known)
}

/// What a panel claims though nothing is known.
fn claims(panel: Panel<'_>, shown: &ShownPanel) -> Vec<String> {
    let colored = panel.json["options"]["colorMode"] != "none";
    let claims = { shown.tiles.iter() }
        .filter(|tile| tile.text != "?" || (colored && !is_grey(tile.color.as_deref())))
        .map(|tile| format!("{}: {:?} in {:?}", panel.says(), tile.text, tile.color));
    let rows = { shown.rows.iter() }
        .map(|row| {
            row.iter()
                .map(|cell| cell.text.as_str())
                .collect::<Vec<_>>()
        })
        .map(|row| format!("{}: a row {row:?}", panel.says()));
    claims.chain(rows.take(1)).collect()
}

/// What the dashboards claim though it is unknown. `least` of their panels must be unknown, so that
/// the check has something to check.
fn false_claims(prometheus: &Prometheus, all: &[(Dashboard, Shown)], least: usize) -> Vec<String> {
    let known = known_now(prometheus);
    let mut unknown = 0;
    let mut wrong = Vec::new();
    for (dashboard, shown) in all {
        for panel in dashboard
            .panels()
            .filter(|panel| panel.is_tile() || panel.kind() == "table")
        {
            // Their messages are that nothing is known.
            if ["Agent", "Prefect"].contains(&panel.title())
                || !is_unknown(prometheus, panel, &known)
            {
                continue;
            }
            unknown += 1;
            wrong.extend(claims(panel, shown.panel(panel)));
        }
    }
    assert!(unknown >= least, "{unknown} panels, {known:?}");
    wrong
}

/// A tile of the strip: its text and colour.
fn strip<'a>(
    dashboard: &Dashboard,
    shown: &'a Shown,
    title: &str,
) -> Option<(&'a str, Option<&'a str>)> {
    let panel = dashboard.panels().find(|panel| panel.title() == title)?;
    let tile = shown.panel(panel).tiles.first()?;
    Some((tile.text.as_str(), tile.color.as_deref()))
}

/// Columns of what is the case now.
const OF_NOW: [&str; 5] = [
    "Late",
    "Last success",
    "Active",
    "Last duration",
    "Next run in",
];

#[test]
fn with_prefect_down_what_is_unknown_is_grey() {
    let Some(workspace) = Workspace::start("with_prefect_down_what_is_unknown_is_grey") else {
        return;
    };
    let down = axum::http::StatusCode::SERVICE_UNAVAILABLE;
    let answer = move || axum::response::IntoResponse::into_response(down);
    workspace.stub.fault(move |_| Some(answer()));
    let gone =
        "prefect_up == 0 unless on () prefect_info_deployment unless on () prefect_info_flow_runs";
    wait_for("the outage", Duration::from_secs(60), || {
        workspace.prometheus.value(gone)
    });
    let all = workspace.show_all("plain", "plain");
    let mut wrong = false_claims(&workspace.prometheus, &all, 6);
    for (dashboard, shown) in &all {
        // A row stays, for what was counted; what is not known now is unknown in it too.
        for panel in dashboard.panels().filter(|panel| panel.kind() == "table") {
            let table = shown.panel(panel);
            for (index, column) in table.columns.iter().enumerate() {
                let cells = table.rows.iter().map(|row| &row[index]);
                let claims = |cell: &&Cell| cell.text != "?" || !is_grey(cell.color.as_deref());
                if OF_NOW.contains(&column.name.as_str())
                    && let Some(cell) = { cells }.find(claims)
                {
                    wrong.push(format!(
                        "{}: {} is {:?}",
                        panel.says(),
                        column.name,
                        cell.text
                    ));
                }
            }
        }
        match strip(dashboard, shown, "Prefect") {
            Some(("DOWN", color)) if is_red(color) => {}
            other => wrong.push(format!("{}: Prefect is {other:?}", dashboard.file)),
        }
    }
    none(wrong);
}

#[test]
fn with_a_dead_agent_that_was_scraped_nothing_is_claimed() {
    let Some(mut workspace) = Workspace::start("with_a_dead_agent_that_was_scraped") else {
        return;
    };
    let died = Instant::now();
    let mut agent = workspace.agent.take().unwrap();
    agent.process.signal("-KILL");
    agent.process.wait(Duration::from_secs(10));
    wait_for("the failed scrape", Duration::from_secs(30), || {
        workspace
            .prometheus
            .value("up == 0 unless on () prefect_up")
    });
    let all = workspace.show_all("plain", "plain");
    assert!(died.elapsed() < Duration::from_secs(60));
    let mut wrong = false_claims(&workspace.prometheus, &all, 15);
    for (dashboard, shown) in &all {
        match strip(dashboard, shown, "Agent") {
            Some((_, color)) if is_red(color) => {}
            other => wrong.push(format!("{}: Agent is {other:?}", dashboard.file)),
        }
        match strip(dashboard, shown, "Prefect") {
            Some((_, color)) if !is_green(color) => {}
            other => wrong.push(format!("{}: Prefect is {other:?}", dashboard.file)),
        }
    }
    none(wrong);
}

/// How long a dead agent may go unnoticed, and what it takes to look.
const A_MINUTE: Duration = Duration::from_secs(60);
const A_LOOK: Duration = Duration::from_secs(10);

#[test]
#[ignore = "takes minutes"]
fn a_dead_agent_that_pushed_shows_within_a_minute() {
    let test = "a_dead_agent_that_pushed_shows_within_a_minute";
    let (Some(programs), Some(packages)) = (programs(test), packages(test)) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let collector = Collector::start(&programs);
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.otlp.as_str()),
    ];
    let mut agent = AgentProcess::start(&stub.url, &settings);
    let (prometheus, _folder) = prometheus(&programs, &collector, None);
    let look = || -> Vec<(Dashboard, Shown)> {
        let all: Vec<_> = dashboards()
            .into_iter()
            .filter(Dashboard::of_prefect)
            .collect();
        let look = |one: &Dashboard| of_deployment(&one.file, "flow-0", "deployment-0");
        let looks: Vec<Look> = all.iter().map(look).collect();
        all.into_iter()
            .zip(show(&packages, &prometheus, &looks))
            .collect()
    };
    let health = |(dashboard, shown): &(Dashboard, Shown), healthy: bool| {
        let fits = |color| {
            if healthy {
                is_green(color)
            } else {
                is_red(color)
            }
        };
        let tile = strip(dashboard, shown, "Agent");
        let says = || format!("{}: Agent is {tile:?}", dashboard.file);
        (!tile.is_some_and(|(_, color)| fits(color))).then(says)
    };
    wait_for("the data", A_MINUTE, || {
        prometheus.value("prefect_info_deployment")
    });
    none(look().iter().filter_map(|one| health(one, true)).collect());
    let died = Instant::now();
    agent.process.signal("-KILL");
    agent.process.wait(Duration::from_secs(10));
    let mut unnoticed = vec!["nobody looked".to_owned()];
    while !unnoticed.is_empty() {
        let looked = died.elapsed();
        unnoticed = look().iter().filter_map(|one| health(one, false)).collect();
        assert!(
            unnoticed.is_empty() || looked < A_MINUTE + A_LOOK,
            "{unnoticed:#?}"
        );
    }
    // The collector forgets what it had of it: then nothing is claimed any more.
    wait_for("the end of the series", Duration::from_secs(240), || {
        prometheus.value("absent(prefect_up)")
    });
    let all = look();
    let mut wrong = false_claims(&prometheus, &all, 15);
    wrong.extend(all.iter().filter_map(|one| health(one, false)));
    none(wrong);
}

/// Gauges that are known to be zero where they have no series and Prefect is read.
const ZERO: [&str; 4] = [
    "prefect_flow_runs_late",
    "prefect_flow_runs_active",
    "prefect_worker_status",
    "prefect_info_work_queues",
];

#[test]
fn on_an_empty_workspace_what_is_zero_is_0_and_what_is_unknown_is_grey() {
    let test = "on_an_empty_workspace_what_is_zero_is_0";
    let (Some(programs), Some(packages)) = (programs(test), packages(test)) else {
        return;
    };
    let server = Server::start(&[]);
    let agent = AgentProcess::start(&server.url, &[]);
    let target = ("prefect-otel-agent", agent.address.to_string());
    let prometheus = Prometheus::scraping(&programs, &[target]);
    wait_for("the workspace", A_MINUTE, || {
        let empty = prometheus.value("prefect_up == 1 and on () prefect_deployments_total == 0");
        empty.filter(|_| {
            prometheus
                .value("min(prefect_agent_section_age_seconds) < 60")
                .is_some()
        })
    });
    let all: Vec<_> = dashboards()
        .into_iter()
        .filter(Dashboard::of_prefect)
        .collect();
    let looks: Vec<Look> = all.iter().map(|one| Look::at(&one.file)).collect();
    let all: Vec<_> = all
        .into_iter()
        .zip(show(&packages, &prometheus, &looks))
        .collect();
    let mut wrong = Vec::new();
    let mut zeros = 0;
    for (dashboard, shown) in &all {
        for panel in dashboard.panels() {
            let says = panel.says();
            let on_it = shown.panel(panel);
            let unnamed = on_it
                .series
                .iter()
                .any(|series| ["Value", "/", ""].contains(&series.name.as_str()));
            if unnamed && panel.kind() != "heatmap" {
                wrong.push(format!("{says}: a series without a name"));
            }
            let queries = Query::of(&prometheus, panel);
            let metrics = queries.iter().flat_map(Query::selectors);
            let is_zero = metrics
                .map(|selector| selector.metric)
                .all(|metric| metric == "prefect_up" || ZERO.contains(&metric.as_str()));
            let count = panel.defaults()["unit"] != "percentunit";
            if !panel.is_tile() || ["Prefect", "Agent"].contains(&panel.title()) {
                continue;
            }
            let tile = &on_it.tiles[0];
            let (text, color) = (tile.text.as_str(), tile.color.as_deref());
            if is_zero && count && dashboard.file != "deployment.json" {
                zeros += 1;
                // No worker may well be a warning; but it is known.
                if text != "0" {
                    wrong.push(format!("{says}: {text:?}, and it is zero"));
                }
            } else if tile.is_nothing() && !(text == "?" && is_grey(color)) {
                wrong.push(format!("{says}: unknown, and {text:?} in {color:?}"));
            }
        }
    }
    assert!(zeros >= 4, "{zeros}");
    none(wrong);
}

#[test]
fn the_other_programs_metrics_that_queries_name_are_there() {
    let test = "the_other_programs_metrics_that_queries_name_are_there";
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
    // Prometheus scrapes itself, by its own address.
    let file = folder.path().join("prometheus.yml");
    let own = prometheus.url.trim_start_matches("http://");
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("localhost:9090", own);
    std::fs::write(&file, text).unwrap();
    let own = Prometheus::start(&programs, &file, &[]);
    wait_for("the metrics", A_MINUTE, || {
        own.value("sum(otelcol_exporter_sent_metric_points_total or otelcol_exporter_sent_metric_points) > 0")
    });
    wait_for("its own", A_MINUTE, || {
        own.value("prometheus_tsdb_head_series")
    });
    let mut known = known_now(&own);
    // Some appear with what they count, a refused point say: those are in the program.
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
                        false => wrong.insert(format!("{}: {metric}", panel.says())),
                    };
                }
            }
        }
    }
    none(wrong.into_iter().collect());
}

/// Flow and deployment of the demo that a dashboard of one deployment is looked at for: one
/// that completes, one that fails, one that is under way most of the time, and one whose runs are
/// late. No panel is empty for all of them.
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
        empty.extend(dashboard.panels().filter(nothing).map(|panel| panel.says()));
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
    let mut empty = empty_panels(&packages, &prometheus);
    // Each must show something at some moment; not all do at the same one.
    while !empty.is_empty() {
        assert!(Instant::now() < deadline, "empty panels: {empty:#?}");
        std::thread::sleep(Duration::from_secs(2));
        agent.get("/readyz");
        let now = empty_panels(&packages, &prometheus);
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
