//! Answers that are absurdly large or numerous cost a bounded amount of memory, requests and log.

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde_json::json;

use crate::support::process::{AgentProcess, wait_for};
use crate::support::stub::{Stub, garbage};
use crate::support::{agent, cycle, fleet, pass, small_stub};

fn start(runtime: &tokio::runtime::Runtime, stub: &Stub, more: &[(&str, &str)]) -> AgentProcess {
    let _guard = runtime.enter();
    AgentProcess::start(&stub.url, more)
}

/// The most memory that a process has used, in MiB.
fn peak(agent: &AgentProcess) -> u64 {
    memory(agent, "VmHWM:")
}

/// A size of a process in `/proc`, in MiB.
fn memory(agent: &AgentProcess, size: &str) -> u64 {
    let status = format!("/proc/{}/status", agent.process.id());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with(size));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib / 1024
}

#[test]
fn names_of_a_megabyte_are_clipped_and_stay_different() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let name = |end: &str| json!("n".repeat(1 << 20) + end);
    {
        let mut contents = stub.contents();
        let mut other = contents.deployments[0].clone();
        other["id"] = json!(fleet::id(1, 7));
        other["name"] = name("other");
        other["tags"] = json!([name("tag"), name("tag 2")]);
        contents.deployments[0]["name"] = name("one");
        contents.deployments.push(other);
        contents.flows[0]["name"] = name("");
        contents.work_pools[0]["name"] = name("");
        contents.work_queues[0]["name"] = name("");
        let mut run = fleet::run_at(1, "RUNNING", 5);
        run["state_name"] = name("");
        contents.flow_runs.push(run);
    }
    let agent = start(&runtime, &stub, &[]);
    agent.wait_for_page("the second cycle", |page| {
        let cycles = page.value("prefect_agent_cycles_total", &[("outcome", "success")]);
        cycles.filter(|cycles| *cycles >= 2.0)
    });
    let (_, page) = agent.get("/metrics");
    assert!(page.len() < 500_000, "{}", page.len());
    let longest = page.lines().map(str::len).max().unwrap();
    assert!(longest < 12_000, "{longest}");
    // A machine that is too busy for a cycle in three intervals withholds them for a moment.
    let info = agent.wait_for_page("the deployments", |page| {
        let info = page.family("prefect_info_deployment");
        (!info.is_empty()).then_some(info)
    });
    assert_eq!(info.len(), 2, "two different names");
    let (_, status) = agent.get("/status");
    assert!(status.len() < 200_000, "{}", status.len());
    let said = "longer than 1024 bytes";
    assert_eq!(agent.process.lines_with(said), 1);
    assert!(agent.process.log().iter().all(|line| line.len() < 2_000));
    assert!(peak(&agent) < 200, "{} MiB", peak(&agent));
}

#[test]
fn an_answer_does_not_become_many_times_its_size_in_memory() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let tags = vec!["\"\""; 5_000_000].join(",");
    let deployments = format!("[{{\"id\":\"d\",\"tags\":[{tags}]}}]");
    let runs = format!("[{}]", vec!["{\"id\":\"\"}"; 1_000_000].join(","));
    let slots = format!("[{{\"id\":\"l\",\"tag\":\"t\",\"active_slots\":[{tags}]}}]");
    stub.fault(move |request| {
        let body = match request.path.as_str() {
            "/deployments/filter" => &deployments,
            "/flow_runs/filter" => &runs,
            "/concurrency_limits/filter" => &slots,
            _ => return None,
        };
        Some(garbage(StatusCode::OK, body.clone()))
    });
    let settings = [
        ("MAX_CONCURRENT_REQUESTS", "1"),
        ("REQUEST_TIMEOUT_SECONDS", "120"),
    ];
    let agent = start(&runtime, &stub, &settings);
    let line = agent.process.wait_for_line("more than requested");
    assert!(line.len() < 2_000, "{line}");
    agent.process.wait_for_line("more than 1000 tags");
    pass(&stub, 2);
    assert!(peak(&agent) < 200, "{} MiB", peak(&agent));
}

#[test]
fn a_body_of_the_wrong_shape_is_a_short_line() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let long = "y".repeat(1 << 20);
    let mut number = 0;
    stub.fault(move |request| {
        number += 1;
        let object = json!([{"id": "x", "name": 1, "limit": long, "start_time": long}]);
        Some(match number % 5 {
            _ if request.path == "/admin/version" => return None,
            0 => garbage(StatusCode::OK, json!(long).to_string()),
            1 => garbage(StatusCode::OK, long.clone()),
            2 => garbage(StatusCode::OK, object.to_string()),
            3 => garbage(StatusCode::INTERNAL_SERVER_ERROR, long.clone()),
            _ => {
                let location = format!("https://h/{}", "z".repeat(8_000));
                (StatusCode::FOUND, [("location", location)]).into_response()
            }
        })
    });
    let settings = [("LOG_LEVEL", "DEBUG"), ("MAX_RETRIES", "0")];
    let agent = start(&runtime, &stub, &settings);
    wait_for("requests", || {
        (stub.contents().requests.len() > 100).then_some(())
    });
    let longest = agent.process.log().iter().map(String::len).max();
    assert!(longest < Some(2_000), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absurd_count_costs_a_bounded_number_of_requests() {
    let stub = small_stub().await;
    stub.fault(|request| {
        let body = match request.path.as_str() {
            "/flows/count" | "/deployments/count" => json!(1_000_000_000_000_000_000_u64),
            // It ignores the offset.
            "/flows/filter" => json!([{"id": "a", "name": "a"}, {"id": "b", "name": "b"}]),
            "/automations/filter" => json!([{"id": "a"}, {"id": "b"}]),
            _ => return None,
        };
        Some(garbage(StatusCode::OK, body.to_string()))
    });
    let mut agent = agent(&stub.url, &[("PAGINATION_LIMIT", "2")]).await;
    let page = cycle(&mut agent).await;
    assert_eq!(page.value("prefect_flows_total", &[]), Some(2.0));
    let requests = stub.take_requests().len();
    assert!(requests < 300, "{requests}");
}

/// What is reserved for series is used up, page by page, as series come and go.
#[test]
fn memory_is_reserved_for_the_series_that_exist_and_not_for_the_limit() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let reserved = |limit: &str| {
        let settings = [
            ("METRICS_CARDINALITY_LIMIT", limit),
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ];
        let agent = start(&runtime, &stub, &settings);
        pass(&stub, 3);
        assert!(peak(&agent) < 150, "{} MiB", peak(&agent));
        memory(&agent, "VmData:")
    };
    let (low, high) = (reserved("1000"), reserved("200000"));
    // Histograms of runs cannot be moved to a larger place without a reset.
    assert!(high < low + 100, "{low} MiB and {high} MiB");
}
