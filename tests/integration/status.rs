//! `/` and `/status`: what the agent knows about itself and the workspace, for people.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use prefect_otel_agent::agent::Agent;
use serde_json::{Value, json};

use crate::support::process::{AgentProcess, wait_for};
use crate::support::stub::{Request, Stub, recorded_error};
use crate::support::{agent, fleet, small_stub};

fn current(agent: &Agent) -> Value {
    serde_json::from_slice(&agent.status().json(None).unwrap()).unwrap()
}

async fn cycle(agent: &mut Agent) -> Value {
    agent.cycle().await;
    current(agent)
}

/// The entry of a list whose `field` is `value`.
fn find<'a>(list: &'a Value, field: &str, value: &str) -> &'a Value {
    let mut entries = list.as_array().unwrap().iter();
    let found = entries.find(|entry| entry[field] == value);
    found.unwrap_or_else(|| panic!("no {field} {value} in {list:#}"))
}

fn problem<'a>(status: &'a Value, words: &str) -> &'a Value {
    let problems = status["problems"].as_array().unwrap();
    let mut having = problems
        .iter()
        .filter(|problem| problem["title"].as_str().unwrap().contains(words));
    having
        .next()
        .unwrap_or_else(|| panic!("no problem {words:?} in {problems:#?}"))
}

fn failing(path: &'static str) -> impl FnMut(&Request) -> Option<Response> + Send + 'static {
    move |request| (request.path == path).then(|| StatusCode::FORBIDDEN.into_response())
}

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn before_the_first_cycle_the_agent_is_starting() {
    let stub = small_stub().await;
    let status = current(&agent(&stub.url, &[]).await);
    assert_eq!(status["status"], "starting");
    assert_eq!(status["problems"], json!([]));
    assert_eq!(status["prefect"]["up"], false);
    let workers = find(&status["sections"], "section", "workers");
    assert_eq!(workers["state"], "unread");
    assert_eq!(status["workspace"]["deployments"], Value::Null);
    assert_eq!(status["deployments"], Value::Null);
    assert_eq!(status["cycles"]["last_hour"], json!([]));
}

#[tokio::test]
async fn what_was_read_is_reported_with_its_age() {
    let stub = small_stub().await;
    for (number, state) in ["RUNNING", "PENDING", "RUNNING"].into_iter().enumerate() {
        let run = fleet::run_at(number, state, 5);
        stub.contents().flow_runs.push(run);
    }
    stub.fault(|request| {
        let state = json!({"state_type": "FAILED", "state_name": "TimedOut", "count_runs": 7});
        let history = json!([{"states": [state]}]);
        (request.path == "/flow_runs/history").then(|| axum::Json(history).into_response())
    });
    let mut agent = agent(&stub.url, &[]).await;
    agent.cycle().await;
    let scraped = agent.page().unwrap().scrape().unwrap();
    assert!(!scraped.is_empty());
    let status = cycle(&mut agent).await;

    assert_eq!(status["status"], "healthy", "{:#}", status["problems"]);
    assert_eq!(status["prefect"]["api_url"], stub.url);
    assert_eq!(status["prefect"]["version"], "3.8.8");
    assert_eq!(status["links"]["prefect"], stub.url.replace("/api", ""));
    assert_eq!(status["links"]["metrics"], "/metrics");
    assert_eq!(status["agent"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["workspace"]["deployments"], 1);
    assert_eq!(status["workspace"]["active_runs"], 3);
    let running = find(
        &status["flow_runs"]["unfinished"]["states"],
        "state_name",
        "Running",
    );
    assert_eq!(running["runs"], 2);
    let day = &status["flow_runs"]["last_24_hours"]["states"];
    assert_eq!(find(day, "state_name", "TimedOut")["runs"], 7);
    for section in status["sections"].as_array().unwrap() {
        assert_eq!(section["state"], "fresh", "{section:#}");
        assert!(section["age_seconds"].as_f64().unwrap() < 60.0);
    }
    assert_eq!(status["cycles"]["success"], 2);
    let bars = status["cycles"]["last_hour"].as_array().unwrap();
    assert_eq!(bars.len(), 2);
    assert_eq!(bars[1]["success"], 1);
    assert_eq!(bars[1]["failure"], 0);
    assert!(time(&bars[0]["ended"]) <= time(&bars[1]["ended"]));
    assert!(time(&bars[1]["ended"]) <= time(&status["published"]));
    let listed = find(&status["requests"], "path", "/flow_runs/filter");
    let sent = stub.take_requests();
    let sent = sent
        .iter()
        .filter(|request| request.path == "/flow_runs/filter");
    assert_eq!(listed["requests"], sent.count());
    assert_eq!(listed["errors"], 0);
    let page = find(&status["exporters"], "exporter", "prometheus");
    assert!(time(&page["last_success"]) <= time(&status["published"]));
    let info = find(&status["series"], "metric", "prefect_info_deployment");
    assert_eq!(info["series"], 1);
}

#[tokio::test]
async fn a_prefect_that_refuses_the_key_is_down_with_the_hint_of_the_log_and_no_key() {
    let stub = small_stub().await;
    let key = [("PREFECT_API_KEY", "pnu_not-to-be-shown")];
    let mut agent = agent(&stub.url, &key).await;
    assert_eq!(cycle(&mut agent).await["status"], "healthy");
    stub.fault(|_| Some(recorded_error("error_unauthorized")));
    let status = cycle(&mut agent).await;

    assert_eq!(status["status"], "down");
    assert_eq!(status["prefect"]["up"], false);
    let since = time(&status["prefect"]["down_since"]);
    assert!(since <= time(&status["published"]));
    let down = problem(&status, "Prefect cannot be read");
    assert_eq!(down["severity"], "critical");
    let detail = down["detail"].as_str().unwrap();
    assert!(detail.contains("401"), "{detail}");
    assert!(detail.contains("check PREFECT_API_KEY"), "{detail}");
    assert_eq!(down["runbook"], "docs/runbooks/PrefectUnreachable.md");
    assert_eq!(status["cycles"]["failure"], 1);
    let version = find(&status["requests"], "path", "/admin/version");
    assert_eq!(version["errors"], 1);
    assert_eq!(version["last_error"], "401");
    assert!(!status.to_string().contains("not-to-be-shown"));

    let again = cycle(&mut agent).await;
    assert_eq!(time(&again["prefect"]["down_since"]), since);
    stub.heal();
    let healed = cycle(&mut agent).await;
    assert_eq!(healed["status"], "healthy", "{:#}", healed["problems"]);
    assert_eq!(healed["prefect"]["up"], true);
    assert_eq!(healed["prefect"]["down_since"], Value::Null);
}

#[tokio::test]
async fn a_url_that_does_not_lead_to_prefect_is_reported_as_such() {
    let stub = small_stub().await;
    stub.fault(|_| Some(StatusCode::NOT_FOUND.into_response()));
    let status = cycle(&mut agent(&stub.url, &[]).await).await;
    let wrong = problem(
        &status,
        "PREFECT_API_URL does not point to the API of Prefect 3",
    );
    assert!(wrong["detail"].as_str().unwrap().contains("404"));
}

#[tokio::test]
async fn a_section_that_cannot_be_read_degrades_and_the_others_stay() {
    let stub = small_stub().await;
    stub.fault(failing("/automations/filter"));
    let mut agent = agent(&stub.url, &[]).await;
    let status = cycle(&mut agent).await;
    assert_eq!(status["status"], "degraded");
    let automations = find(&status["sections"], "section", "automations");
    assert_eq!(automations["state"], "unread");
    assert!(automations["error"].as_str().unwrap().contains("403"));
    let unread = problem(&status, "The section automations cannot be read");
    assert!(unread["advice"].as_str().unwrap().contains("withheld"));
    let deployments = find(&status["sections"], "section", "deployments");
    assert_eq!(deployments["state"], "fresh");
    assert_eq!(status["workspace"]["deployments"], 1);
}

#[tokio::test]
async fn deployments_failing_or_late_come_worst_first_with_their_addresses() {
    let stub = small_stub().await;
    for number in 1..5 {
        fleet::deploy(&mut stub.contents(), number);
    }
    let mut agent = agent(&stub.url, &[]).await;
    agent.cycle().await;
    let late = |deployment: usize, number: usize, seconds: i64| {
        let mut run = fleet::run_at(number, "SCHEDULED", seconds);
        run["state_name"] = json!("Late");
        run["deployment_id"] = fleet::ended(deployment, "COMPLETED")["deployment_id"].clone();
        run
    };
    // 0 fails, 1 succeeds, 2 is late twice, 3 fails and is late, 4 has never run.
    let runs = [
        fleet::ended(0, "FAILED"),
        fleet::ended(1, "COMPLETED"),
        fleet::ended(2, "COMPLETED"),
        late(2, 20, 600),
        late(2, 21, 300),
        fleet::ended(3, "CRASHED"),
        late(3, 30, 120),
    ];
    stub.contents().flow_runs.extend(runs);
    let status = cycle(&mut agent).await;

    let troubled = status["deployments"]["troubled"].as_array().unwrap();
    let names: Vec<_> = troubled.iter().map(|row| &row["deployment_name"]).collect();
    assert_eq!(names, ["deployment-3", "deployment-2", "deployment-0"]);
    assert_eq!(status["deployments"]["omitted"], 0);
    let (both, late, failed) = (&troubled[0], &troubled[1], &troubled[2]);
    assert_eq!(both["last_run_state"], "CRASHED");
    assert_eq!(both["late_runs"], 1);
    assert_eq!(late["late_runs"], 2);
    let since = time(&status["prefect"]["time"]).duration_since(time(&late["late_since"]));
    assert!((598..700).contains(&since.as_secs()), "{since}");
    assert_eq!(failed["last_run_state"], "FAILED");
    assert_eq!(failed["failed_runs"], 1);
    let ui = stub.url.replace("/api", "");
    let id = stub.contents().deployments[0]["id"].clone();
    let url = format!("{ui}/deployments/deployment/{}", id.as_str().unwrap());
    assert_eq!(failed["url"], url);
    let run = failed["last_failed_run_url"].as_str().unwrap();
    assert!(run.starts_with(&format!("{ui}/runs/flow-run/")), "{run}");
    assert_eq!(status["workspace"]["late_runs"], 3);
}

fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| {
            found.insert(name.clone());
            fields(value, found);
        }),
        Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_field_is_documented() {
    let stub = small_stub().await;
    let mut agent = agent(&stub.url, &[("OTEL_METRICS_EXPORTER", "otlp,prometheus")]).await;
    agent.cycle().await;
    let mut late = fleet::run_at(1, "SCHEDULED", 60);
    late["state_name"] = json!("Late");
    let runs = [late, fleet::ended(0, "FAILED")];
    stub.contents().flow_runs.extend(runs);
    stub.fault(failing("/automations/filter"));
    let mut found = BTreeSet::new();
    fields(&cycle(&mut agent).await, &mut found);
    assert!(found.len() > 80, "{found:?}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deployment.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once("## The status page").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    found.retain(|name| {
        let forms = [format!("`{name}`"), format!("`{name}[]`")];
        !forms.iter().any(|form| section.contains(form))
    });
    assert!(found.is_empty(), "not documented: {found:?}");
}

/// Names that are as long and as odd as can be.
fn odd(number: usize) -> String {
    format!(
        "{number}</script><script>\u{0}\"'&{}",
        "\u{1}\u{fffd}".repeat(2_000)
    )
}

#[tokio::test]
async fn at_ten_thousand_deployments_lists_are_cut_and_report_what_is_left_out() {
    let stub = Stub::start().await;
    fleet::small(&mut stub.contents());
    for number in 1..10_000 {
        let contents = &mut stub.contents();
        fleet::deploy(contents, number);
        let run = fleet::run_at(number, "SCHEDULED", 60);
        let deployment = contents.deployments[number]["id"].clone();
        contents.deployments[number]["name"] = json!(odd(number % 100));
        contents.flow_runs.push(run);
        let run = contents.flow_runs.last_mut().unwrap();
        run["state_name"] = json!("Late");
        run["deployment_id"] = deployment;
    }
    for number in 0..500 {
        let mut run = fleet::run_at(20_000 + number, "RUNNING", 5);
        run["state_name"] = json!(odd(number));
        stub.contents().flow_runs.push(run);
    }
    // The stub is slow with so many runs on a busy machine.
    let patient = [("REQUEST_TIMEOUT_SECONDS", "300")];
    let mut agent = agent(&stub.url, &patient).await;
    let status = cycle(&mut agent).await;
    let size = agent.status().json(None).unwrap().len();
    assert!(size < 100_000, "{size} bytes");
    assert_eq!(status["workspace"]["deployments"], 10_000);
    assert_eq!(status["workspace"]["late_runs"], 9_999);
    let listed = status["deployments"]["troubled"].as_array().unwrap();
    assert_eq!(listed.len(), 25);
    assert_eq!(status["deployments"]["omitted"], 9_999 - 25);
    let name = listed[0]["deployment_name"].as_str().unwrap();
    assert!(name.starts_with("0</script><script>\u{0}\"'&"), "{name}");
    assert!(name.ends_with('…'), "{name}");
    let states = &status["flow_runs"]["unfinished"];
    assert_eq!(states["states"].as_array().unwrap().len(), 20);
    assert_eq!(states["omitted_states"], 501 - 20);
    assert_eq!(states["omitted_runs"], 500 - 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_is_reported_without_the_header() {
    let stub = small_stub().await;
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://127.0.0.1:9?token=not-to-be-shown",
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=not-to-be-shown",
        ),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
    ];
    let mut agent = agent(&stub.url, &settings).await;
    let mut status = cycle(&mut agent).await;
    for _ in 0..600 {
        if status["status"] != "healthy" {
            break;
        }
        // The push is sent by a task of its own.
        tokio::time::sleep(Duration::from_millis(100)).await;
        status = cycle(&mut agent).await;
    }
    assert_eq!(status["status"], "degraded");
    let undelivered = problem(&status, "The exporter otlp cannot deliver");
    let otlp = find(&status["exporters"], "exporter", "otlp");
    assert_eq!(undelivered["detail"], otlp["last_error"]);
    assert_eq!(otlp["failing"], true);
    assert_eq!(otlp["last_success"], Value::Null);
    assert!(time(&otlp["last_error_time"]) >= time(&undelivered["since"]));
    assert!(otlp["pushes"]["failure"].as_u64().unwrap() > 0);
    assert_eq!(status["links"]["metrics"], Value::Null);
    assert!(
        !status.to_string().contains("not-to-be-shown"),
        "{status:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_that_hangs_is_reported_while_it_hangs() {
    let stub = small_stub().await;
    tokio::task::block_in_place(|| {
        let agent = AgentProcess::start(&stub.url, &[("REQUEST_TIMEOUT_SECONDS", "60")]);
        let status = || serde_json::from_str::<Value>(&agent.get("/status").1).unwrap();
        wait_for("health", || (status()["status"] == "healthy").then_some(()));
        stub.contents().delay = Duration::from_secs(600);
        let status = wait_for("down", || {
            Some(status()).filter(|status| status["status"] == "down")
        });
        let overdue = problem(&status, "No cycle has ended for");
        assert_eq!(
            overdue["runbook"],
            "docs/runbooks/PrefectAgentCyclesStopped.md"
        );
        let server = find(&status["sections"], "section", "server");
        assert_eq!(server["state"], "stale");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_one_document_that_lets_nothing_else_in() {
    let stub = small_stub().await;
    tokio::task::block_in_place(|| {
        let agent = AgentProcess::start(&stub.url, &[]);
        let client = reqwest::blocking::Client::new();
        let at = |path: &str| format!("http://{}{path}", agent.address);
        let page = client.get(at("/")).send().unwrap();
        assert_eq!(page.status(), 200);
        let header = |name: &str| page.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-type").starts_with("text/html"));
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("x-content-type-options"), "nosniff");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let nonce = policy.split("'nonce-").nth(1).unwrap();
        let nonce = nonce.split('\'').next().unwrap();
        let html = page.text().unwrap();
        assert!(!html.contains("{{"), "a part is missing");
        for opening in ["<script", "<style"] {
            let opened: Vec<_> = html.match_indices(opening).collect();
            assert_eq!(opened.len(), 1, "{opening}");
            let tag = format!("{opening} nonce=\"{nonce}\">");
            assert!(html.contains(&tag), "{tag}");
        }
        let other = client.get(at("/")).send().unwrap();
        let other = other.headers()["content-security-policy"].clone();
        assert_ne!(other, policy.as_str(), "a nonce is for one answer");

        let json = client.get(at("/status")).send().unwrap();
        assert_eq!(json.headers()["content-type"], "application/json");
        assert_eq!(json.headers()["cache-control"], "no-store");
        assert!(!json.headers().contains_key("access-control-allow-origin"));
        for path in ["/", "/status"] {
            let head = client.head(at(path)).send().unwrap();
            assert_eq!(head.status(), 200, "{path}");
            let post = client.post(at(path)).send().unwrap();
            assert_eq!(post.status(), 405, "{path}");
        }
        for path in ["/status/", "/index.html", "/favicon.ico"] {
            assert_eq!(agent.get(path).0, 404, "{path}");
        }
    });
}
