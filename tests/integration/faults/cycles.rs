//! Faults, and their effect on the metrics while the agent continues.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse as _;

use crate::support::stub::{Stub, garbage, recorded, recorded_error};
use crate::support::{agent, current, cycle, fleet, small_stub};

const UP: &str = "prefect_up";
const AGE: &str = "prefect_agent_section_age_seconds";
const CYCLES: &str = "prefect_agent_cycles_total";

#[tokio::test(flavor = "multi_thread")]
async fn prefect_down_at_the_start_and_then_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut agent = agent(&format!("http://{address}/api"), &[]).await;
    assert_eq!(current(&agent).value(UP, &[]), None, "no cycle, no answer");
    let page = cycle(&mut agent).await;
    assert_eq!(page.value(UP, &[]), Some(0.0));
    assert_eq!(page.value(CYCLES, &[("outcome", "failure")]), Some(1.0));
    assert!(page.family("prefect_deployments_total").is_empty());

    let stub = Stub::on(tokio::net::TcpListener::bind(address).await.unwrap());
    fleet::small(&mut stub.contents());
    let page = cycle(&mut agent).await;
    assert_eq!(page.value(UP, &[]), Some(1.0));
    assert_eq!(page.value("prefect_deployments_total", &[]), Some(1.0));
    assert_eq!(page.value(CYCLES, &[("outcome", "success")]), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_are_withheld_once_they_are_stale_and_come_back() {
    let stub = small_stub().await;
    let intervals = [
        ("SAMPLE_INTERVAL_SECONDS", "1"),
        ("INVENTORY_INTERVAL_SECONDS", "1"),
    ];
    let mut agent = agent(&stub.url, &intervals).await;
    cycle(&mut agent).await;
    stub.fault(|_| Some(recorded_error("error_unauthorized")));
    let page = cycle(&mut agent).await;
    assert_eq!(page.value(UP, &[]), Some(0.0));
    assert_eq!(
        page.value("prefect_deployments_total", &[]),
        Some(1.0),
        "the last good value"
    );
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    let page = cycle(&mut agent).await;
    assert!(
        page.family("prefect_deployments_total").is_empty(),
        "withheld, not frozen"
    );
    assert!(page.value(AGE, &[("section", "deployments")]).unwrap() > 3.0);
    stub.heal();
    let page = cycle(&mut agent).await;
    assert_eq!(page.value("prefect_deployments_total", &[]), Some(1.0));
    assert!(page.value(AGE, &[("section", "deployments")]).unwrap() < 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_visible_in_up_and_in_the_requests_metric() {
    let stub = small_stub().await;
    stub.fault(|_| Some(recorded_error("error_unauthorized")));
    let mut agent = agent(&stub.url, &[]).await;
    let page = cycle(&mut agent).await;
    assert_eq!(page.value(UP, &[]), Some(0.0));
    let count = "http_client_request_duration_seconds_count";
    assert_eq!(page.value(count, &[("error_type", "401")]), Some(1.0));
    assert_eq!(
        stub.take_requests().len(),
        1,
        "refused requests are not retried"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_is_waited_out() {
    let stub = small_stub().await;
    let mut refused = false;
    stub.fault(move |request| {
        let refuse = request.path == "/flows/filter" && !std::mem::replace(&mut refused, true);
        refuse.then(|| (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]).into_response())
    });
    let mut agent = agent(&stub.url, &[("MAX_RETRIES", "1")]).await;
    let started = Instant::now();
    let page = cycle(&mut agent).await;
    assert!(started.elapsed() >= Duration::from_secs(2));
    assert_eq!(page.value(UP, &[]), Some(1.0));
    assert_eq!(page.value("prefect_flows_total", &[]), Some(1.0));
    assert_eq!(page.value(CYCLES, &[("outcome", "success")]), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_maintenance_neither_blocks_cycles_nor_gets_more_requests() {
    let stub = small_stub().await;
    stub.fault(|_| {
        // As a date, ten minutes after the server's time.
        let until = std::time::SystemTime::now() + Duration::from_secs(600);
        let headers = [
            ("retry-after", httpdate::fmt_http_date(until)),
            ("prefect-maintenance", "true".into()),
        ];
        Some((StatusCode::SERVICE_UNAVAILABLE, headers).into_response())
    });
    let mut agent = agent(&stub.url, &[("MAX_RETRIES", "3")]).await;
    let started = Instant::now();
    for _ in 0..3 {
        assert_eq!(cycle(&mut agent).await.value(UP, &[]), Some(0.0));
    }
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(stub.take_requests().len(), 1, "one request, then silence");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_section_fails_and_the_others_continue() {
    for broken in [
        garbage(StatusCode::OK, "<html>not JSON"),
        garbage(StatusCode::OK, "[{\"id\": 7}]"),
        garbage(StatusCode::OK, "{\"no\": \"list\"}"),
        garbage(StatusCode::OK, vec![0xff, 0xfe, 0x00]),
        garbage(StatusCode::INTERNAL_SERVER_ERROR, "boom"),
        garbage(StatusCode::MOVED_PERMANENTLY, ""),
    ] {
        let stub = small_stub().await;
        let mut broken = Some(broken);
        stub.fault(move |request| {
            if request.path == "/work_pools/filter" {
                broken.take()
            } else {
                None
            }
        });
        let mut agent = agent(&stub.url, &[]).await;
        let page = cycle(&mut agent).await;
        assert_eq!(page.value(UP, &[]), Some(1.0));
        assert_eq!(page.value(CYCLES, &[("outcome", "partial")]), Some(1.0));
        assert!(page.family("prefect_work_pools_total").is_empty());
        assert_eq!(page.value("prefect_deployments_total", &[]), Some(1.0));
        let age = page.value(AGE, &[("section", "work_pools")]);
        assert!(age.is_some(), "never read, as old as the process");
        // It is due again immediately, not only after the inventory interval.
        let page = cycle(&mut agent).await;
        assert_eq!(page.value("prefect_work_pools_total", &[]), Some(1.0));
        assert_eq!(page.value(CYCLES, &[("outcome", "success")]), Some(1.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_cut_off() {
    let stub = small_stub().await;
    stub.fault(|request| {
        (request.path == "/flows/filter").then(|| {
            let chunk = axum::body::Bytes::from(vec![b' '; 1 << 20]);
            let chunks = std::iter::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
            let body = axum::body::Body::from_stream(futures_util::stream::iter(chunks));
            garbage(StatusCode::OK, body)
        })
    });
    let mut agent = agent(&stub.url, &[]).await;
    let page = cycle(&mut agent).await;
    assert_eq!(page.value(CYCLES, &[("outcome", "partial")]), Some(1.0));
    let count = "http_client_request_duration_seconds_count";
    assert_eq!(
        page.value(count, &[("error_type", "body_too_large")]),
        Some(1.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The system accepts connections, but nothing answers.
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    let settings = [
        ("REQUEST_TIMEOUT_SECONDS", "1"),
        ("SAMPLE_INTERVAL_SECONDS", "1"),
        ("MAX_RETRIES", "20"),
    ];
    let mut agent = agent(&url, &settings).await;
    let started = Instant::now();
    assert_eq!(cycle(&mut agent).await.value(UP, &[]), Some(0.0));
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "retries do not hold the alert up"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_transient_errors_are_retried() {
    for (status, tries) in [
        (StatusCode::SERVICE_UNAVAILABLE, 3),
        (StatusCode::UNPROCESSABLE_ENTITY, 1),
    ] {
        let stub = small_stub().await;
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        stub.fault(move |request| {
            (request.path == "/flows/filter").then(|| {
                counted.fetch_add(1, Ordering::Relaxed);
                garbage(status, "no")
            })
        });
        let mut agent = agent(&stub.url, &[("MAX_RETRIES", "2")]).await;
        cycle(&mut agent).await;
        assert_eq!(count.load(Ordering::Relaxed), tries, "{status}");
    }
}

/// A stub that requires CSRF tokens, which are valid for `lifetime`; and the number of tokens.
async fn stub_with_csrf(lifetime: jiff::SignedDuration) -> (Stub, Arc<AtomicUsize>) {
    let stub = small_stub().await;
    let tokens = Arc::new(AtomicUsize::new(0));
    let fetched = Arc::clone(&tokens);
    stub.fault(move |request| {
        if request.path == "/csrf-token" {
            fetched.fetch_add(1, Ordering::Relaxed);
            let mut answer = recorded("csrf_token");
            let end = jiff::Timestamp::now() + lifetime;
            answer["expiration"] = serde_json::json!(end.to_string());
            return Some(axum::Json(answer).into_response());
        }
        let token = recorded("csrf_token")["token"].as_str().map(str::to_owned);
        let sent = request
            .headers
            .get("prefect-csrf-token")
            .and_then(|value| value.to_str().ok());
        let client = request.headers.get("prefect-csrf-client");
        (sent != token.as_deref() || client.is_none()).then(|| recorded_error("error_csrf_missing"))
    });
    (stub, tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csrf_token_is_fetched_when_the_server_requires_it_and_renewed_before_it_expires() {
    for enabled in ["False", "True"] {
        let settings = [("PREFECT_CSRF_ENABLED", enabled)];
        let (stub, tokens) = stub_with_csrf(jiff::SignedDuration::from_hours(1)).await;
        let mut kept = agent(&stub.url, &settings).await;
        for cycles in [1.0, 2.0] {
            let page = cycle(&mut kept).await;
            assert_eq!(page.value(UP, &[]), Some(1.0), "{enabled}");
            assert_eq!(page.value(CYCLES, &[("outcome", "success")]), Some(cycles));
        }
        assert_eq!(tokens.load(Ordering::Relaxed), 1);

        let (stub, _) = stub_with_csrf(jiff::SignedDuration::from_millis(1_500)).await;
        let mut renewing = agent(&stub.url, &settings).await;
        assert_eq!(cycle(&mut renewing).await.value(UP, &[]), Some(1.0));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let before = stub.contents().requests.len();
        assert_eq!(cycle(&mut renewing).await.value(UP, &[]), Some(1.0));
        let renewal = &stub.contents().requests[before];
        assert_eq!(renewal.path, "/csrf-token", "renewed before it is refused");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn enabling_csrf_with_a_server_without_it_is_not_a_failure() {
    let stub = small_stub().await;
    let mut agent = agent(&stub.url, &[("PREFECT_CSRF_ENABLED", "True")]).await;
    for _ in 0..2 {
        assert_eq!(cycle(&mut agent).await.value(UP, &[]), Some(1.0));
    }
    let asked = stub
        .take_requests()
        .iter()
        .filter(|request| request.path == "/csrf-token")
        .count();
    assert_eq!(asked, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_sent_and_the_key_wins() {
    let stub = small_stub().await;
    let sent = |stub: &Stub| {
        let requests = stub.take_requests();
        requests[0]
            .headers
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned())
    };
    cycle(&mut agent(&stub.url, &[]).await).await;
    assert_eq!(sent(&stub), None);
    let basic = ("PREFECT_API_AUTH_STRING", "user:password");
    cycle(&mut agent(&stub.url, &[basic]).await).await;
    assert_eq!(sent(&stub).as_deref(), Some("Basic dXNlcjpwYXNzd29yZA=="));
    cycle(&mut agent(&stub.url, &[basic, ("PREFECT_API_KEY", "pnu_x")]).await).await;
    assert_eq!(sent(&stub).as_deref(), Some("Bearer pnu_x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_deployment_is_looked_up_immediately_and_a_deleted_one_only_once() {
    let stub = small_stub().await;
    let mut agent = agent(&stub.url, &[("INVENTORY_INTERVAL_SECONDS", "3600")]).await;
    cycle(&mut agent).await;
    {
        let mut contents = stub.contents();
        let mut deployment = contents.deployments[0].clone();
        deployment["id"] = serde_json::json!(fleet::id(1, 7));
        deployment["name"] = serde_json::json!("brand-new");
        contents.deployments.push(deployment);
        let mut of_new = fleet::run_at(1, "RUNNING", 5);
        of_new["deployment_id"] = serde_json::json!(fleet::id(1, 7));
        let mut of_deleted = fleet::run_at(2, "RUNNING", 5);
        of_deleted["deployment_id"] = serde_json::json!(fleet::id(1, 8));
        contents.flow_runs.extend([of_new, of_deleted]);
    }
    stub.take_requests();
    let page = cycle(&mut agent).await;
    let ongoing = "prefect_flow_runs_ongoing_run_time";
    assert!(
        page.value(ongoing, &[("deployment_name", "brand-new")])
            .is_some()
    );
    assert!(
        page.value(ongoing, &[("deployment_name", "null")])
            .is_some()
    );
    let asked = |stub: &Stub| {
        stub.take_requests()
            .iter()
            .filter(|request| request.path == "/deployments/filter")
            .count()
    };
    assert_eq!(asked(&stub), 1);
    cycle(&mut agent).await;
    assert_eq!(asked(&stub), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cardinality_limit_holds_exactly() {
    let stub = small_stub().await;
    for number in 0..30 {
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number, "RUNNING", 5));
    }
    let ongoing = "prefect_flow_runs_ongoing_run_time";
    let page = cycle(&mut agent(&stub.url, &[("METRICS_CARDINALITY_LIMIT", "30")]).await).await;
    assert_eq!(page.family(ongoing).len(), 30);
    assert_eq!(
        page.value(ongoing, &[("otel_metric_overflow", "true")]),
        None
    );
    let page = cycle(&mut agent(&stub.url, &[("METRICS_CARDINALITY_LIMIT", "29")]).await).await;
    assert_eq!(page.family(ongoing).len(), 30);
    assert!(
        page.value(ongoing, &[("otel_metric_overflow", "true")])
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_cannot_be_decoded_do_not_affect_the_rest() {
    let details = ["/workers/", "automations", "concurrency_limits", "history"];
    let answers = [
        "{\"a\":",
        "[{}]",
        "[1, null]",
        "{\"detail\": \"no\"}",
        "\u{0}",
        "[[[[",
    ];
    for answer in answers {
        let stub = small_stub().await;
        stub.fault(move |request| {
            let is_detail = details.iter().any(|part| request.path.contains(part));
            is_detail.then(|| garbage(StatusCode::OK, answer))
        });
        let settings = [("INVENTORY_INTERVAL_SECONDS", "1")];
        let mut agent = agent(&stub.url, &settings).await;
        let page = cycle(&mut agent).await;
        assert_eq!(page.value("prefect_up", &[]), Some(1.0));
        let partial = [("outcome", "partial")];
        let cycles = page.value("prefect_agent_cycles_total", &partial);
        assert_eq!(cycles, Some(1.0), "{answer}");
        assert!(page.family("prefect_automations").is_empty());
        assert_eq!(page.family("prefect_flow_runs_finished_total").len(), 4);
        stub.heal();
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        let page = cycle(&mut agent).await;
        assert_eq!(page.family("prefect_automations").len(), 2);
        assert_eq!(page.family("prefect_concurrency_limit_slots").len(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_permission_for_the_version_alone_does_not_mean_that_prefect_is_down() {
    let stub = small_stub().await;
    stub.fault(|request| {
        (request.path == "/admin/version").then(|| garbage(StatusCode::FORBIDDEN, "Forbidden"))
    });
    let mut agent = agent(&stub.url, &[]).await;
    let page = cycle(&mut agent).await;
    assert_eq!(page.value(UP, &[]), Some(1.0));
    assert_eq!(page.value(CYCLES, &[("outcome", "success")]), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_of_any_length_that_a_server_asks_for_does_not_end_the_agent() {
    for wait in [
        "1000000000",
        "99999999999999999999",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "-1",
        "soon",
    ] {
        let stub = small_stub().await;
        stub.fault(move |_| {
            let headers = [("retry-after", wait)];
            Some((StatusCode::SERVICE_UNAVAILABLE, headers).into_response())
        });
        let mut agent = agent(&stub.url, &[]).await;
        for _ in 0..2 {
            assert_eq!(cycle(&mut agent).await.value(UP, &[]), Some(0.0), "{wait}");
        }
    }
}
