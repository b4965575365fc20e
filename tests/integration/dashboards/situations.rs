//! The dashboards in several situations: known values are shown, unknown values are a grey "?", and
//! known zeros are 0.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::json::{Dashboard, Panel, dashboards, none};
use super::queries::{Query, known_now};
use super::shown::{Cell, Look, Shown, ShownPanel, is_green, is_grey, is_red, packages, show};
use super::workspace::{Workspace, of_deployment};
use crate::support::prefect::Server;
use crate::support::process::{AgentProcess, wait_for};
use crate::support::programs::{Prometheus, programs};
use crate::support::small_stub;
use crate::support::stack::{Collector, prometheus};

/// Whether the current values of a panel are unknown, because none of its metrics has one. Counts
/// over the time range are known nevertheless.
fn is_unknown(prometheus: &Prometheus, panel: Panel<'_>, known: &BTreeSet<String>) -> bool {
    let over_range = panel.expressions().any(|query| query.contains("$__range"));
    let queries = Query::of(prometheus, panel);
    let metrics: BTreeSet<String> = { queries.iter().flat_map(Query::selectors) }
        .filter(|selector| !selector.is_condition())
        .map(|selector| selector.metric)
        .collect();
    !over_range && !metrics.is_empty() && metrics.is_disjoint(known)
}

/// The values that a panel shows although they are unknown.
fn claims(panel: Panel<'_>, shown: &ShownPanel) -> Vec<String> {
    let colored = panel.json["options"]["colorMode"] != "none";
    let claims = { shown.tiles.iter() }
        .filter(|tile| tile.text != "?" || (colored && !is_grey(tile.color.as_deref())))
        .map(|tile| format!("{}: {:?} in {:?}", panel.identity(), tile.text, tile.color));
    let rows = { shown.rows.iter() }
        .map(|row| {
            row.iter()
                .map(|cell| cell.text.as_str())
                .collect::<Vec<_>>()
        })
        .map(|row| format!("{}: a row {row:?}", panel.identity()));
    claims.chain(rows.take(1)).collect()
}

/// The values that the dashboards show although they are unknown. At least `least` panels must be
/// unknown, so that the check is not empty.
fn false_claims(prometheus: &Prometheus, all: &[(Dashboard, Shown)], least: usize) -> Vec<String> {
    let known = known_now(prometheus);
    let mut unknown = 0;
    let mut wrong = Vec::new();
    for (dashboard, shown) in all {
        for panel in dashboard
            .panels()
            .filter(|panel| panel.is_tile() || panel.kind() == "table")
        {
            // Their message is that nothing is known.
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

/// A tile: its text and colour.
fn tile<'a>(
    dashboard: &Dashboard,
    shown: &'a Shown,
    title: &str,
) -> Option<(&'a str, Option<&'a str>)> {
    let panel = dashboard.panels().find(|panel| panel.title() == title)?;
    let tile = shown.panel(panel).tiles.first()?;
    Some((tile.text.as_str(), tile.color.as_deref()))
}

/// Columns with the current state.
const OF_NOW: [&str; 5] = [
    "Late",
    "Last success",
    "Active",
    "Last duration",
    "Next run in",
];

#[test]
fn with_prefect_down_unknown_values_are_grey() {
    let Some(workspace) = Workspace::start("with_prefect_down_unknown_values_are_grey") else {
        return;
    };
    let down = axum::http::StatusCode::SERVICE_UNAVAILABLE;
    let answer = move || axum::response::IntoResponse::into_response(down);
    workspace.stub.fault(move |_| Some(answer()));
    let gone =
        "prefect_up == 0 unless on () prefect_info_deployment unless on () prefect_info_flow_runs";
    wait_for("the outage", || workspace.prometheus.value(gone));
    let all = workspace.show_all("plain", "plain");
    let mut wrong = false_claims(&workspace.prometheus, &all, 6);
    for (dashboard, shown) in &all {
        // The row remains because of its counts; its current values are unknown.
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
                        panel.identity(),
                        column.name,
                        cell.text
                    ));
                }
            }
        }
        match tile(dashboard, shown, "Prefect") {
            Some(("DOWN", color)) if is_red(color) => {}
            other => wrong.push(format!("{}: Prefect is {other:?}", dashboard.file)),
        }
    }
    none(wrong);
}

#[test]
#[ignore = "takes minutes"]
fn with_one_list_refused_the_values_that_depend_on_it_are_grey() {
    let Some(workspace) = Workspace::start("with_one_list_that_is_refused") else {
        return;
    };
    let refused = axum::http::StatusCode::FORBIDDEN;
    workspace.stub.fault(move |request| {
        let states = request.body["flow_runs"]["state"].to_string();
        let of_scheduled = request.path == "/flow_runs/filter" && states.contains("SCHEDULED");
        of_scheduled.then(|| axum::response::IntoResponse::into_response(refused))
    });
    let old = "prefect_agent_section_age_seconds{section=\"scheduled_runs\"} > 95";
    let still_up = format!("{old} and on () prefect_up == 1");
    wait_for("the age", || workspace.prometheus.value(&still_up));
    let all = workspace.show_all("plain", "plain");
    let mut wrong = false_claims(&workspace.prometheus, &all, 5);
    for (dashboard, shown) in &all {
        match tile(dashboard, shown, "Prefect") {
            Some(("UP", _)) => {}
            other => wrong.push(format!("{}: Prefect is {other:?}", dashboard.file)),
        }
    }
    none(wrong);
}

#[test]
fn with_a_stopped_agent_that_was_scraped_nothing_is_claimed() {
    let Some(mut workspace) = Workspace::start("with_a_dead_agent_that_was_scraped") else {
        return;
    };
    let mut agent = workspace.agent.take().unwrap();
    agent.process.signal("-KILL");
    agent.process.wait(Duration::from_secs(10));
    wait_for("the failed scrape", || {
        workspace
            .prometheus
            .value("up == 0 unless on () prefect_up")
    });
    let all = workspace.show_all("plain", "plain");
    let mut wrong = false_claims(&workspace.prometheus, &all, 15);
    for (dashboard, shown) in &all {
        match tile(dashboard, shown, "Agent") {
            Some((_, color)) if is_red(color) => {}
            other => wrong.push(format!("{}: Agent is {other:?}", dashboard.file)),
        }
        match tile(dashboard, shown, "Prefect") {
            Some((_, color)) if !is_green(color) => {}
            other => wrong.push(format!("{}: Prefect is {other:?}", dashboard.file)),
        }
    }
    none(wrong);
}

/// The time within which a stopped agent must be noticed, including the time of the check.
const A_MINUTE: Duration = Duration::from_secs(60);
const A_LOOK: Duration = Duration::from_secs(10);

#[test]
#[ignore = "takes minutes"]
fn a_stopped_agent_that_pushed_is_shown_within_a_minute() {
    let test = "a_stopped_agent_that_pushed_is_shown_within_a_minute";
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
        let agent = tile(dashboard, shown, "Agent");
        let identity = || format!("{}: Agent is {agent:?}", dashboard.file);
        (!agent.is_some_and(|(_, color)| fits(color))).then(identity)
    };
    wait_for("the data", || prometheus.value("prefect_info_deployment"));
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
    // After the collector has forgotten its series, nothing is claimed anymore.
    wait_for("the end of the series", || {
        prometheus.value("absent(prefect_up)")
    });
    let all = look();
    let mut wrong = false_claims(&prometheus, &all, 15);
    wrong.extend(all.iter().filter_map(|one| health(one, false)));
    none(wrong);
}

/// Gauges that are known to be zero if they have no series and Prefect is being read.
const ZERO: [&str; 3] = [
    "prefect_flow_runs_late",
    "prefect_flow_runs_active",
    "prefect_info_work_queues",
];

#[test]
fn on_an_empty_workspace_zeros_are_0_and_unknown_values_are_grey() {
    let test = "on_an_empty_workspace_what_is_zero_is_0";
    let (Some(programs), Some(packages)) = (programs(test), packages(test)) else {
        return;
    };
    let server = Server::start(&[]);
    let agent = AgentProcess::start(&server.url, &[]);
    let target = ("prefect-otel-agent", agent.address.to_string());
    let prometheus = Prometheus::scraping(&programs, &[target]);
    wait_for("the workspace", || {
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
            let identity = panel.identity();
            let on_it = shown.panel(panel);
            let unnamed = on_it
                .series
                .iter()
                .any(|series| ["Value", "/", ""].contains(&series.name.as_str()));
            if unnamed && panel.kind() != "heatmap" {
                wrong.push(format!("{identity}: a series without a name"));
            }
            let queries = Query::of(&prometheus, panel);
            let metrics = queries.iter().flat_map(Query::selectors);
            let is_zero = metrics
                .filter(|selector| !selector.is_condition())
                .all(|selector| ZERO.contains(&selector.metric.as_str()));
            let count = panel.defaults()["unit"] != "percentunit";
            if !panel.is_tile() || ["Prefect", "Agent"].contains(&panel.title()) {
                continue;
            }
            let tile = &on_it.tiles[0];
            let (text, color) = (tile.text.as_str(), tile.color.as_deref());
            // No pool needs a worker.
            if panel.title() == "Workers online" && !(text == "?" && is_grey(color)) {
                wrong.push(format!("{identity}: {text:?} in {color:?}"));
            }
            if is_zero && count && dashboard.file != "deployment.json" {
                zeros += 1;
                if text != "0" {
                    wrong.push(format!("{identity}: {text:?}, and it is zero"));
                }
            } else if tile.is_nothing() && !(text == "?" && is_grey(color)) {
                wrong.push(format!("{identity}: unknown, and {text:?} in {color:?}"));
            }
        }
    }
    assert!(zeros >= 4, "{zeros}");
    none(wrong);
}
