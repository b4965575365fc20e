//! The selection of families, and additional attributes.

use std::collections::BTreeSet;

use prefect_otel_agent::agent::Agent;
use serde_json::json;

use crate::support::page::Page;
use crate::support::process::{Process, agent_command};
use crate::support::{agent, cycle, fleet, settings, small_stub};

/// The names of the families about Prefect on a page.
fn names(page: &Page) -> BTreeSet<&str> {
    let names = page.series.keys().map(|(name, _)| name.as_str());
    names.filter(|name| *name != "target_info").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn families_are_selected_by_name_or_glob_in_both_spellings() {
    let stub = small_stub().await;
    let settings = [
        (
            "METRICS_INCLUDE",
            "prefect.up, prefect_flow?_total,prefect.work_pool*",
        ),
        ("METRICS_EXCLUDE", "prefect_info_work_pools"),
    ];
    let mut agent = agent(&stub.url, &settings).await;
    let page = cycle(&mut agent).await;
    let expected = [
        "prefect_flows_total",
        "prefect_up",
        "prefect_work_pools_total",
    ];
    assert_eq!(names(&page), BTreeSet::from(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn sections_that_no_exported_family_needs_are_not_requested() {
    let stub = small_stub().await;
    let settings = [(
        "METRICS_EXCLUDE",
        "prefect.worker.*,prefect.automations,prefect.concurrency_limit.*,prefect.flow_runs.by_state",
    )];
    cycle(&mut agent(&stub.url, &settings).await).await;
    for request in stub.take_requests() {
        for path in ["workers", "automations", "concurrency_limits", "history"] {
            assert!(!request.path.contains(path), "{request:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn static_attributes_are_on_every_series() {
    let stub = small_stub().await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "RUNNING", 5));
    let settings = [("METRICS_ATTRIBUTES", "env=prod,team.name=data%20eng")];
    let mut agent = agent(&stub.url, &settings).await;
    cycle(&mut agent).await;
    stub.contents().flow_runs[0] = fleet::run_at(1, "FAILED", 0);
    let page = cycle(&mut agent).await;
    assert!(
        !page
            .family("prefect_flow_run_duration_seconds_count")
            .is_empty()
    );
    for (name, labels) in page.series.keys() {
        if name != "target_info" {
            let labels = [labels.get("env"), labels.get("team_name")];
            let values = labels.map(|label| label.map(String::as_str));
            assert_eq!(values, [Some("prod"), Some("data eng")], "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_of_deployments_become_attributes_of_their_series() {
    let stub = small_stub().await;
    stub.contents().deployments[0]["tags"] =
        json!(["team:data", "team:core", "b", "owner: ann", "tier:1"]);
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "RUNNING", 5));
    let mut agent = agent(
        &stub.url,
        &[("DEPLOYMENT_TAG_LABELS", "team,owner,missing")],
    )
    .await;
    cycle(&mut agent).await;
    stub.contents().flow_runs[0] = fleet::run_at(1, "FAILED", 0);
    let page = cycle(&mut agent).await;
    for name in [
        "prefect_info_deployment",
        "prefect_flow_runs_finished_total",
        "prefect_flow_run_duration_seconds_sum",
        "prefect_deployment_failed_flow_runs",
    ] {
        let family = page.family(name);
        assert!(!family.is_empty(), "{name}");
        for labels in family.keys() {
            assert_eq!(labels["team"], "core,data", "{name}");
            assert_eq!(labels["owner"], "ann", "{name}");
            assert!(!labels.contains_key("missing") && !labels.contains_key("tier"));
        }
    }
    assert!(
        page.family("prefect_info_flows")
            .keys()
            .all(|labels| !labels.contains_key("team"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_keeps_the_tags_that_its_deployment_had() {
    let stub = small_stub().await;
    stub.contents().deployments[0]["tags"] = json!(["team:data"]);
    let settings = [
        ("DEPLOYMENT_TAG_LABELS", "team"),
        ("INVENTORY_INTERVAL_SECONDS", "1"),
    ];
    let mut agent = agent(&stub.url, &settings).await;
    cycle(&mut agent).await;
    for number in 1..4 {
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number, "FAILED", 0));
    }
    cycle(&mut agent).await;
    stub.contents().deployments[0]["tags"] = json!(["team:core"]);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    cycle(&mut agent).await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(4, "FAILED", 0));
    cycle(&mut agent).await;
    let page = cycle(&mut agent).await;
    for name in [
        "prefect_flow_runs_finished_total",
        "prefect_flow_run_duration_seconds_count",
    ] {
        let failed = |team| page.value(name, &[("team", team), ("state_type", "FAILED")]);
        let of_teams = (failed("data"), failed("core"));
        assert_eq!(of_teams, (Some(3.0), Some(1.0)), "{name}");
    }
    assert!(
        page.family("prefect_info_deployment")
            .keys()
            .all(|labels| labels["team"] == "core")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn series_beyond_the_limit_are_combined_and_their_number_is_exported() {
    let stub = small_stub().await;
    for number in 0..10 {
        let mut flow = stub.contents().flows[0].clone();
        flow["id"] = json!(fleet::id(2, 100 + number));
        flow["name"] = json!(format!("more-{number}"));
        stub.contents().flows.push(flow);
    }
    let mut agent = agent(&stub.url, &[("METRICS_CARDINALITY_LIMIT", "8")]).await;
    let page = cycle(&mut agent).await;
    assert_eq!(page.family("prefect_info_flows").len(), 9);
    let overflow = [("otel_metric_overflow", "true")];
    assert!(page.value("prefect_info_flows", &overflow).is_some());
    let metric = [("metric", "prefect.info.flows")];
    assert_eq!(page.value("prefect_agent_series", &metric), Some(9.0));
    assert_eq!(
        page.value("prefect_agent_series_dropped", &metric),
        Some(3.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_that_matches_nothing_or_clashes_is_refused() {
    for (name, value, shown) in [
        (
            "METRICS_INCLUDE",
            "prefect.up,prefect.nothing.*",
            "prefect.nothing.*",
        ),
        ("METRICS_EXCLUDE", "prefect_flow_runs", "prefect_flow_runs"),
        ("METRICS_ATTRIBUTES", "flow_name=x", "flow_name"),
        ("METRICS_ATTRIBUTES", "le=x", "le"),
        ("DEPLOYMENT_TAG_LABELS", "team,team", "team"),
    ] {
        let settings = settings("http://127.0.0.1:9/api", &[(name, value)]);
        let error = Agent::new(&settings).await.err().unwrap().to_string();
        assert!(
            error.starts_with(&format!("{name}: {shown:?} is not valid")),
            "{error}"
        );
    }
}

#[test]
fn it_is_refused_like_any_other_invalid_setting() {
    let settings = [("METRICS_INCLUDE", "nothing"), ("METRICS_PORT", "0")];
    let mut process = Process::start(&mut agent_command(&settings));
    let status = process.wait(std::time::Duration::from_secs(20));
    assert_eq!(status.code(), Some(2));
}
