//! The number of requests per cycle for a large fleet.

use prefect_otel_agent::agent::Agent;

use crate::support::stub::{Request, Stub};
use crate::support::{self, cycle, fleet};

/// An agent with long timeouts, since the stub is slow with a large fleet on a busy machine.
async fn agent(api_url: &str, more: &[(&str, &str)]) -> Agent {
    let patient = ("REQUEST_TIMEOUT_SECONDS", "300");
    support::agent(api_url, &[more, &[patient]].concat()).await
}

fn assert_no_empty_page(requests: &[Request]) {
    for request in requests {
        // A lookup by id may be empty, but no page of a list may.
        let pages_on = request.body["offset"].as_u64().unwrap_or(0) > 0;
        assert!(
            !(pages_on && request.listed == Some(0)),
            "an empty page was asked for: {request:?}"
        );
    }
}

/// All requests except those for workers, of which each pool may have one.
fn without_workers(mut requests: Vec<Request>) -> Vec<Request> {
    let before = requests.len();
    requests.retain(|request| !request.path.ends_with("/workers/filter"));
    assert!(before - requests.len() <= 25, "one request a work pool");
    requests
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_fleet_costs_at_most_80_requests_first_and_22_later() {
    let stub = Stub::start().await;
    fleet::large(&mut stub.contents());
    // The inventory is due in every cycle, which is the maximum cost.
    let settings = [
        ("INVENTORY_INTERVAL_SECONDS", "1"),
        ("SAMPLE_INTERVAL_SECONDS", "60"),
        // Longer than the test, so that none of the 90 runs leaves the window.
        ("OFFSET_MINUTES", "60"),
    ];
    let mut agent = agent(&stub.url, &settings).await;

    let page = cycle(&mut agent).await;
    let first = without_workers(stub.take_requests());
    assert!(first.len() <= 80, "{} requests", first.len());
    assert_no_empty_page(&first);
    assert_eq!(page.value("prefect_deployments_total", &[]), Some(1_200.0));
    assert_eq!(page.value("prefect_work_queues_total", &[]), Some(145.0));
    assert_eq!(page.value("prefect_flow_runs_total", &[]), Some(90.0));
    // Two thirds of the 585 active runs have started; the others are pending.
    assert_eq!(page.family("prefect_flow_runs_ongoing_run_time").len(), 390);
    assert_eq!(
        page.family("prefect_deployment_failed_flow_runs").len(),
        7_700
    );

    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        let page = cycle(&mut agent).await;
        let later = stub.take_requests();
        assert!(
            later
                .iter()
                .any(|request| request.path == "/work_queues/filter")
        );
        assert!(later.len() <= 22, "{} requests", later.len());
        assert_no_empty_page(&later);
        assert_eq!(page.value("prefect_flow_runs_total", &[]), Some(90.0));
        assert_eq!(
            page.family("prefect_deployment_failed_flow_runs").len(),
            7_700
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_in_which_nothing_changed_costs_11_requests_and_a_twentieth_of_the_bytes() {
    let stub = Stub::start().await;
    fleet::large(&mut stub.contents());
    fleet::due(&mut stub.contents());
    let settings = [
        ("INVENTORY_INTERVAL_SECONDS", "3600"),
        ("OFFSET_MINUTES", "5"),
    ];
    let mut agent = agent(&stub.url, &settings).await;
    cycle(&mut agent).await;
    let is_unfinished = |request: &&Request| {
        request.path == "/flow_runs/filter" && request.body["sort"] == "EXPECTED_START_TIME_ASC"
    };
    let first = stub.take_requests();
    let unfinished = first.iter().filter(is_unfinished);
    let listed: usize = unfinished
        .clone()
        .filter_map(|request| request.listed)
        .sum();
    assert!((3_500..3_700).contains(&listed), "{listed}");
    let by_listing: usize = unfinished.map(|request| request.bytes).sum();
    let finished = |request: &&Request| request.body["sort"] == "END_TIME_DESC";
    for _ in 0..3 {
        let page = cycle(&mut agent).await;
        let requests = stub.take_requests();
        assert!(requests.len() <= 11, "{} requests", requests.len());
        // Runs that ended in the last two minutes are read again, changed or not.
        let again: usize = requests
            .iter()
            .filter(finished)
            .map(|request| request.bytes)
            .sum();
        let received: usize = requests.iter().map(|request| request.bytes).sum();
        let received = received - again;
        assert!(
            received * 20 <= by_listing,
            "{received} of {by_listing} bytes"
        );
        assert_eq!(page.family("prefect_flow_runs_ongoing_run_time").len(), 390);
        let late = page.family("prefect_flow_runs_late");
        assert_eq!(late.values().sum::<f64>(), 1_150.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_scheduled_beyond_the_lookahead_are_never_listed() {
    let stub = Stub::start().await;
    fleet::large(&mut stub.contents());
    let mut agent = agent(&stub.url, &[("SCHEDULED_LOOKAHEAD_MINUTES", "10")]).await;
    cycle(&mut agent).await;
    let scheduled = stub.take_requests().into_iter().filter(|request| {
        request.body["flow_runs"]["state"]["type"]["any_"] == serde_json::json!(["SCHEDULED"])
    });
    let listed: usize = scheduled.filter_map(|request| request.listed).sum();
    // 50,000 over three days: about 116 in ten minutes.
    assert!((50..200).contains(&listed), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pagination_can_be_disabled() {
    let stub = Stub::start().await;
    fleet::large(&mut stub.contents());
    let settings = [("PAGINATION_ENABLED", "False"), ("PAGINATION_LIMIT", "100")];
    let mut agent = agent(&stub.url, &settings).await;
    let page = cycle(&mut agent).await;
    assert_eq!(page.value("prefect_deployments_total", &[]), Some(100.0));
    for request in stub.take_requests() {
        assert_eq!(request.body["offset"].as_u64().unwrap_or(0), 0);
    }
}
