//! The metrics and the log report only what the agent knows, even if something other than Prefect
//! answers, or data is missing.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde_json::json;

use crate::support::page::Page;
use crate::support::process::{AgentProcess, wait_for};
use crate::support::stub::{Request, garbage, recorded};
use crate::support::{agent, current, cycle, fleet, small_stub};

const UP: &str = "prefect_up";
const AGE: &str = "prefect_agent_section_age_seconds";
const CYCLES: &str = "prefect_agent_cycles_total";
const FINISHED: &str = "prefect_flow_runs_finished_total";

fn sum(page: &Page, family: &str) -> f64 {
    page.family(family).values().sum()
}

fn html(status: StatusCode) -> Response {
    let page = "<!DOCTYPE html><html><title>Log in</title></html>";
    (status, [("content-type", "text/html")], page).into_response()
}

fn not_found() -> Response {
    let body = axum::Json(json!({"detail": "Not Found"}));
    (StatusCode::NOT_FOUND, body).into_response()
}

/// Checks that Prefect is reported as down in every way, and with one log line that contains
/// `hint`.
async fn is_reported_as_down(
    path: &str,
    hint: &str,
    fault: impl FnMut(&Request) -> Option<Response> + Send + 'static,
) {
    let stub = small_stub().await;
    stub.fault(fault);
    let url = stub.url.replace("/api", path);
    tokio::task::block_in_place(|| {
        let agent = AgentProcess::start(&url, &[]);
        let page = agent.wait_for_page("four cycles", |page| {
            (sum(page, CYCLES) >= 4.0).then(|| page.clone())
        });
        assert_eq!(page.value(UP, &[]), Some(0.0));
        assert_eq!(
            page.value(CYCLES, &[("outcome", "failure")]),
            Some(sum(&page, CYCLES))
        );
        assert_eq!(agent.get("/readyz").0, 503);
        let mut warnings = agent.process.log();
        warnings.retain(|line| line.contains("WARN"));
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert!(warnings[0].contains(hint), "{warnings:#?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_without_api_of_a_new_server_is_reported() {
    is_reported_as_down("", "PREFECT_API_URL", |_| Some(not_found())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_without_api_of_an_old_server_is_reported() {
    // Its user interface answers every GET.
    is_reported_as_down("", "PREFECT_API_URL", |request| {
        Some(match request.body.is_null() {
            true => html(StatusCode::OK),
            false => {
                let body = axum::Json(json!({"detail": "Method Not Allowed"}));
                (StatusCode::METHOD_NOT_ALLOWED, body).into_response()
            }
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_page_is_not_prefect() {
    is_reported_as_down("/api", "PREFECT_API_URL", |_| Some(html(StatusCode::OK))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefect_2_is_reported_as_too_old() {
    is_reported_as_down("/api", "needs Prefect 3", |request| {
        Some(match request.path.as_str() {
            "/admin/version" => axum::Json("2.20.16").into_response(),
            // It refuses unknown conditions.
            _ => {
                let body = axum::Json(json!({"exception_message": "Invalid request received."}));
                (StatusCode::UNPROCESSABLE_ENTITY, body).into_response()
            }
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_its_database_is_down() {
    is_reported_as_down("/api", "status 500", |request| {
        let list = request.path != "/admin/version";
        list.then(|| garbage(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_smaller_pages_is_read_completely_and_reported_once() {
    let stub = small_stub().await;
    stub.contents().page_limit = Some(100);
    tokio::task::block_in_place(|| {
        // The Python exporter accepts any number, too.
        let agent = AgentProcess::start(&stub.url, &[("PAGINATION_LIMIT", "5000")]);
        wait_for("readiness", || {
            (agent.get("/readyz").0 == 200).then_some(())
        });
        for number in 0..450 {
            let run = fleet::run_at(number, "COMPLETED", 0);
            stub.contents().flow_runs.push(run);
        }
        agent.wait_for_page("450 runs and one deployment", |page| {
            let all = sum(page, FINISHED) == 450.0;
            let up = page.value(UP, &[]) == Some(1.0);
            let deployments = page.value("prefect_deployments_total", &[]);
            (all && up && deployments == Some(1.0)).then_some(())
        });
        let setting = "PREFECT_SERVER_API_DEFAULT_LIMIT";
        assert_eq!(agent.process.lines_with(setting), 1);
        assert_eq!(
            agent.process.lines_with("status 422"),
            0,
            "{:#?}",
            agent.process.log()
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn not_found_for_everything_is_an_outage_and_not_an_empty_workspace() {
    let stub = small_stub().await;
    let mut worker = recorded("worker");
    worker["work_pool"] = json!("pool-0");
    worker["last_heartbeat_time"] = json!(Timestamp::now().to_string());
    stub.contents().workers.push(worker);
    let settings = [
        ("SAMPLE_INTERVAL_SECONDS", "1"),
        ("INVENTORY_INTERVAL_SECONDS", "1"),
    ];
    let mut agent = agent(&stub.url, &settings).await;
    let before = cycle(&mut agent).await;
    let automations = before.family("prefect_automations");
    assert!(automations.values().sum::<f64>() > 0.0);
    assert_eq!(before.family("prefect_worker_status").len(), 2);
    stub.fault(|_| Some(garbage(StatusCode::NOT_FOUND, "default backend - 404")));
    for seconds in [1.0, 2.0] {
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let page = cycle(&mut agent).await;
        assert_eq!(page.value(UP, &[]), Some(0.0));
        // Either the last values or none.
        let shown = page.family("prefect_automations");
        assert!(shown.is_empty() || shown == automations, "{shown:?}");
        for section in ["workers", "automations", "deployments"] {
            let age = page.value(AGE, &[("section", section)]);
            assert!(age >= Some(seconds), "{section}: {age:?}");
        }
    }
    stub.heal();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let page = cycle(&mut agent).await;
    assert_eq!(page.value(UP, &[]), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sections_that_were_never_read_have_an_age_from_the_start() {
    let stub = small_stub().await;
    stub.fault(|request| {
        let list = request.path == "/work_pools/filter" || request.path == "/flow_runs/filter";
        list.then(|| garbage(StatusCode::BAD_REQUEST, "no"))
    });
    let mut agent = agent(&stub.url, &[]).await;
    let sections = |page: &Page| -> BTreeSet<String> {
        let family = page.family(AGE);
        family
            .keys()
            .map(|labels| labels["section"].clone())
            .collect()
    };
    let at_the_start = sections(&current(&agent));
    for section in [
        "server",
        "deployments",
        "work_pools",
        "workers",
        "active_runs",
        "finished_runs",
    ] {
        assert!(
            at_the_start.contains(section),
            "{section} in {at_the_start:?}"
        );
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let page = cycle(&mut agent).await;
    assert_eq!(sections(&page), at_the_start);
    for section in ["work_pools", "workers", "finished_runs"] {
        let age = page.value(AGE, &[("section", section)]);
        assert!(age >= Some(0.1), "{section}: {age:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_in_use_that_an_old_server_does_not_report_are_not_zero() {
    let stub = small_stub().await;
    {
        let contents = &mut *stub.contents();
        contents.work_pools[0]["concurrency_limit"] = json!(5);
        contents.work_queues[0]["concurrency_limit"] = json!(3);
        for object in [&mut contents.work_pools, &mut contents.work_queues] {
            object[0].as_object_mut().unwrap().remove("active_slots");
        }
    }
    let page = cycle(&mut agent(&stub.url, &[]).await).await;
    for (family, limit) in [
        ("prefect_work_pool_slots", 5.0),
        ("prefect_work_queue_slots", 3.0),
    ] {
        let values: Vec<_> = page.family(family).into_values().collect();
        assert_eq!(values, [limit], "{family}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_at_the_end_of_the_calendar_hides_no_other_run() {
    let stub = small_stub().await;
    let mut never = fleet::run_at(1, "RUNNING", 5);
    never["expected_start_time"] = json!("9999-12-31T23:59:59.999999+00:00");
    stub.contents()
        .flow_runs
        .extend([never, fleet::run_at(2, "RUNNING", 5)]);
    let mut agent = agent(&stub.url, &[]).await;
    cycle(&mut agent).await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(3, "COMPLETED", 0));
    let page = cycle(&mut agent).await;
    assert_eq!(page.value(UP, &[]), Some(1.0));
    assert_eq!(page.value(CYCLES, &[("outcome", "success")]), Some(2.0));
    assert_eq!(sum(&page, FINISHED), 1.0);
    let ongoing = page.family("prefect_flow_runs_ongoing_run_time");
    let id = fleet::id(5, 2);
    let of_the_other = ongoing
        .keys()
        .filter(|labels| labels.values().any(|label| *label == id));
    assert_eq!(of_the_other.count(), 1, "{ongoing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_decoded_is_skipped_counted_and_reported_once() {
    let stub = small_stub().await;
    let mut odd = fleet::run_at(1, "RUNNING", 5);
    odd["start_time"] = json!("yesterday");
    stub.contents()
        .flow_runs
        .extend([odd, fleet::run_at(2, "RUNNING", 5)]);
    tokio::task::block_in_place(|| {
        let agent = AgentProcess::start(&stub.url, &[]);
        let page = agent.wait_for_page("four cycles", |page| {
            (sum(page, CYCLES) >= 4.0).then(|| page.clone())
        });
        assert_eq!(
            page.value(CYCLES, &[("outcome", "success")]),
            Some(sum(&page, CYCLES))
        );
        assert!(sum(&page, "prefect_agent_objects_skipped_total") >= 1.0);
        let ongoing = page.family("prefect_flow_runs_ongoing_run_time");
        assert_eq!(ongoing.len(), 1, "{ongoing:?}");
        let id = fleet::id(5, 1);
        assert_eq!(
            agent.process.lines_with(&id),
            1,
            "{:#?}",
            agent.process.log()
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_version_does_not_mean_that_prefect_is_down() {
    let stub = small_stub().await;
    stub.fault(|request| {
        let version = request.path == "/admin/version";
        version.then(|| garbage(StatusCode::FORBIDDEN, "{\"detail\": \"Forbidden\"}"))
    });
    let mut agent = agent(&stub.url, &[]).await;
    for cycles in [1.0, 2.0] {
        let page = cycle(&mut agent).await;
        assert_eq!(page.value(UP, &[]), Some(1.0));
        assert_eq!(page.value("prefect_deployments_total", &[]), Some(1.0));
        assert_eq!(page.value(CYCLES, &[("outcome", "success")]), Some(cycles));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_csrf_tokens_is_read_without_them() {
    let stub = small_stub().await;
    stub.fault(|request| (request.path == "/csrf-token").then(not_found));
    let mut agent = agent(&stub.url, &[("PREFECT_CSRF_ENABLED", "True")]).await;
    for cycles in [1.0, 2.0] {
        let page = cycle(&mut agent).await;
        assert_eq!(page.value(UP, &[]), Some(1.0));
        assert_eq!(page.value(CYCLES, &[("outcome", "success")]), Some(cycles));
    }
    let requests = stub.take_requests();
    let tokens = requests
        .iter()
        .filter(|request| request.path == "/csrf-token");
    assert_eq!(tokens.count(), 1);
}

#[test]
fn while_a_cycle_hangs_ages_grow_and_gauges_are_withheld() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    // The cycle that hangs may take four minutes.
    let settings = [
        ("REQUEST_TIMEOUT_SECONDS", "120"),
        ("INVENTORY_INTERVAL_SECONDS", "1"),
    ];
    let agent = AgentProcess::start(&stub.url, &settings);
    let flows = |page: &Page| page.value("prefect_flows_total", &[]);
    agent.wait_for_page("a cycle", flows);
    stub.contents().delay = Duration::from_secs(600);
    let hung = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    agent.wait_for_page("gauges to be withheld", |page| {
        let age = page.value(AGE, &[("section", "flows")]);
        let withheld = flows(page).is_none() && page.value(UP, &[]) == Some(0.0);
        (withheld && age > Some(3.0)).then_some(())
    });
    // Publications do not wait for cycles, and have their own time.
    agent.wait_for_page("a publication during the hung cycle", |page| {
        let published = page.value("prefect_agent_last_published_time_seconds", &[])?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let during = hung.as_secs_f64()..=now.as_secs_f64();
        during.contains(&published).then_some(())
    });
    // Counts remain valid.
    assert!(!agent.page().family(FINISHED).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_server_repeats_is_shown_nowhere() {
    let stub = small_stub().await;
    stub.fault(|_| {
        let body = axum::Json(json!({"detail": "unknown key Bearer pnu_0123456789"}));
        Some((StatusCode::UNAUTHORIZED, body).into_response())
    });
    tokio::task::block_in_place(|| {
        let agent = AgentProcess::start(&stub.url, &[("PREFECT_API_KEY", "pnu_0123456789")]);
        agent.process.wait_for_line("status 401");
        let (_, status) = agent.get("/status");
        assert!(status.contains("unknown key ***"), "{status}");
        let log = agent.process.log();
        for text in log.iter().chain([&status]) {
            assert!(!text.contains("0123456789"), "{text}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_server_lacks_is_logged_once() {
    let stub = small_stub().await;
    stub.fault(|request: &Request| {
        let asked = request.path.ends_with("/admin/version");
        asked.then(|| axum::Json("3.6.20").into_response())
    });
    tokio::task::block_in_place(|| {
        let agent = AgentProcess::start(&stub.url, &[]);
        let line = agent.process.wait_for_line("Prefect can be read");
        for part in ["3.6.20", "task runs", "3.6.22", "slots in use", "3.6.23"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        agent.wait_for_page("three cycles", |page| {
            (sum(page, CYCLES) >= 3.0).then_some(())
        });
        assert_eq!(agent.process.lines_with("3.6.23"), 1);
    });
}
