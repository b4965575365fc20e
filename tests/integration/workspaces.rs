//! Several workspaces in one agent: `[[workspaces]]` in the file.

use std::collections::BTreeMap;
use std::io::Write as _;

use axum::http::StatusCode;
use prefect_otel_agent::agent::Agent;
use prefect_otel_agent::settings::{Settings, Sources};
use serde_json::{Value, json};

use crate::support::page::{Labels, Page};
use crate::support::prefect::Server;
use crate::support::process::{AgentProcess, agent_command, wait_for};
use crate::support::stub::{Stub, garbage};
use crate::support::{agent, cycle, fleet, small_stub};

const WORKSPACE: &str = "prefect_workspace";
const FINISHED: &str = "prefect_flow_runs_finished_total";

/// A file with these workspaces, by name.
fn file(stubs: &[(&str, &str)]) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    for (name, url) in stubs {
        writeln!(
            file,
            "[[workspaces]]\nname = {name:?}\nprefect_api_url = \"{url}\""
        )
        .unwrap();
    }
    file
}

async fn agent_of(stubs: &[(&str, &str)], more: &[(&str, &str)]) -> Agent {
    let file = file(stubs);
    let base = [
        ("METRICS_ADDR", "127.0.0.1"),
        ("METRICS_PORT", "0"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("MAX_RETRIES", "0"),
    ];
    let environment = base.iter().chain(more);
    let settings = Settings::load(&Sources {
        file: Some(file.path().to_owned()),
        environment: environment
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..Sources::default()
    });
    Agent::new(&settings.unwrap()).await.unwrap().0
}

/// The series of a workspace, without its name.
fn of(page: &Page, workspace: Option<&str>) -> BTreeMap<(String, Labels), f64> {
    let series = page.series.iter();
    let series = series.filter(|((name, labels), _)| {
        let is_its = labels.get(WORKSPACE).map(String::as_str) == workspace;
        is_its && name.starts_with("prefect_")
    });
    series
        .map(|((name, labels), value)| {
            let mut labels = labels.clone();
            labels.remove(WORKSPACE);
            ((name.clone(), labels), *value)
        })
        .collect()
}

fn end_a_run(stub: &Stub) {
    let run = fleet::ended(0, "FAILED");
    stub.contents().flow_runs.push(run);
}

fn finished(page: &Page, workspace: &str) -> f64 {
    let all = page.family(FINISHED).into_iter();
    all.filter(|(labels, _)| labels.get(WORKSPACE).is_some_and(|name| name == workspace))
        .map(|(_, value)| value)
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_series_of_prefect_has_the_name_of_its_workspace() {
    let (a, b) = (small_stub().await, small_stub().await);
    for number in 1..5 {
        fleet::deploy(&mut b.contents(), number);
    }
    let mut both = agent_of(&[("a", &a.url), ("b", &b.url)], &[]).await;
    let (mut only_a, mut only_b) = (agent(&a.url, &[]).await, agent(&b.url, &[]).await);
    for round in 0..4 {
        if round > 0 {
            end_a_run(&a);
        }
        let page = cycle(&mut both).await;
        let of_agent = of(&page, None);
        for (workspace, alone) in [("a", &mut only_a), ("b", &mut only_b)] {
            let alone = of(&cycle(alone).await, None);
            let own = of(&page, Some(workspace));
            let expected = alone.keys().filter(|key| !of_agent.contains_key(key));
            let missing: Vec<_> = expected.filter(|key| !own.contains_key(key)).collect();
            assert!(missing.is_empty(), "{workspace}: {missing:#?}");
            let surplus: Vec<_> = own.keys().filter(|key| !alone.contains_key(key)).collect();
            assert!(surplus.is_empty(), "{workspace}: {surplus:#?}");
            for (series, value) in &own {
                let passes = series.0.contains("time") || series.0.contains("seconds");
                assert!(passes || alone[series] == *value, "{workspace}: {series:?}");
            }
        }
        let named = of_agent
            .keys()
            .find(|(name, _)| !name.starts_with("prefect_agent_"));
        assert_eq!(named, None, "a series of Prefect without its workspace");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_cannot_be_read_touches_no_other() {
    let (a, b) = (small_stub().await, small_stub().await);
    let mut agent = agent_of(&[("a", &a.url), ("b", &b.url)], &[]).await;
    cycle(&mut agent).await;
    a.fault(|_| Some(garbage(StatusCode::BAD_GATEWAY, "")));
    end_a_run(&b);
    for _ in 0..3 {
        let page = cycle(&mut agent).await;
        assert_eq!(page.value("prefect_up", &[(WORKSPACE, "a")]), Some(0.0));
        assert_eq!(page.value("prefect_up", &[(WORKSPACE, "b")]), Some(1.0));
        assert_eq!((finished(&page, "a"), finished(&page, "b")), (0.0, 1.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_workspace_resumes_from_its_own_checkpoint() {
    let (a, b) = (small_stub().await, small_stub().await);
    let folder = tempfile::tempdir().unwrap();
    let state = [("STATE_DIR", folder.path().to_str().unwrap())];
    let mut agent = agent_of(&[("a", &a.url), ("b", &b.url)], &state).await;
    cycle(&mut agent).await;
    end_a_run(&a);
    end_a_run(&b);
    end_a_run(&b);
    cycle(&mut agent).await;
    drop(agent);
    end_a_run(&a);
    // In another order, and under another name.
    let mut agent = agent_of(&[("new", &b.url), ("a", &a.url)], &state).await;
    cycle(&mut agent).await;
    let page = cycle(&mut agent).await;
    assert_eq!((finished(&page, "a"), finished(&page, "new")), (2.0, 2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_names_all_workspaces() {
    let (a, b) = (small_stub().await, small_stub().await);
    let mut agent = agent_of(&[("a", &a.url), ("b", &b.url)], &[]).await;
    a.fault(|_| Some(garbage(StatusCode::BAD_GATEWAY, "")));
    cycle(&mut agent).await;
    let status = |workspace| -> Value {
        let json = agent.status().json(workspace).unwrap();
        serde_json::from_slice(&json).unwrap()
    };
    let expected = json!([
        {"name": "a", "status": "down"},
        {"name": "b", "status": "healthy"},
    ]);
    for (asked, name, url) in [(None, "a", &a.url), (Some("b"), "b", &b.url)] {
        let status = status(asked);
        assert_eq!(status["workspaces"], expected);
        assert_eq!(status["name"], name);
        assert_eq!(status["prefect"]["api_url"], **url);
    }
    assert!(agent.status().json(Some("c")).is_none());
}

/// Ends a run of the only flow of a server.
fn run(server: &Server, state: &str) {
    let flow = server.create("/flows/", json!({"name": "etl"}));
    let run = server.create("/flow_runs/", json!({"flow_id": flow}));
    server.set_state(&run, json!({"type": state}));
}

#[test]
fn two_real_servers_are_read_by_one_agent() {
    let password = [("PREFECT_SERVER_API_AUTH_STRING", "admin:right")];
    let (open, closed) = (Server::start(&[]), Server::start(&password));
    let mut file = file(&[("open", &open.url), ("closed \"at night\"", &closed.url)]);
    writeln!(file, "prefect_api_auth_string = \"admin:right\"").unwrap();
    let config = file.path().to_str().unwrap();

    let settings = [
        ("METRICS_PORT", "0"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
    ];
    let mut check = agent_command(&settings);
    let checked = check.args(["check", "--config", config]).output().unwrap();
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success(), "{text}");
    let names = ["open", "closed \"at night\""];
    for name in names {
        let is_read = |line: &&str| line.contains(&format!("{name}: Prefect 3."));
        assert_eq!(text.lines().filter(is_read).count(), 1, "{text}");
    }

    let agent = AgentProcess::start_as("http://ignored/api", &[], |mut command| {
        command.args(["--config", config]);
        command
    });
    let value = |page: &Page, metric: &str, name: &str| page.value(metric, &[(WORKSPACE, name)]);
    let up = |page: &Page| names.map(|name| value(page, "prefect_up", name));
    agent.wait_for_page("both workspaces", |page| {
        (up(page) == [Some(1.0); 2]).then_some(())
    });
    run(&open, "COMPLETED");
    run(&closed, "FAILED");
    run(&closed, "FAILED");
    agent.wait_for_page("the runs", |page| {
        (names.map(|name| finished(page, name)) == [1.0, 2.0]).then_some(())
    });

    drop(closed);
    agent.wait_for_page("the outage", |page| {
        (up(page) == [Some(1.0), Some(0.0)]).then_some(())
    });
    run(&open, "CRASHED");
    agent.wait_for_page("the other one", |page| {
        (names.map(|name| finished(page, name)) == [2.0, 2.0]).then_some(())
    });
    assert_eq!(agent.get("/readyz").0, 200);
    let status = |name: &str| agent.get(&format!("/status?workspace={name}"));
    let (code, json) = status("closed%20%22at%20night%22");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["status"]), (200, &json!("down")));
    assert_eq!(status("other").0, 404);
    drop(open);
    wait_for("/readyz", || (agent.get("/readyz").0 == 503).then_some(()));
}
