//! The compatible families in the corners that a real server does not show by itself.

use serde_json::json;

use crate::support::stub::recorded;
use crate::support::{agent, cycle, fleet, small_stub};

const FAILED: [&str; 2] = [
    "prefect_deployment_failed_flow_runs",
    "prefect_deployment_last_failed_flow_run",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_the_run_is_a_label_when_asked_for() {
    let stub = small_stub().await;
    for number in 0..2 {
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number, "RUNNING", 20));
    }
    let page = cycle(&mut agent(&stub.url, &[]).await).await;
    assert_eq!(
        page.value("prefect_info_flow_runs", &[("state_name", "Running")]),
        Some(2.0)
    );
    let page = cycle(&mut agent(&stub.url, &[("ENABLE_FLOW_RUN_NAME_LABEL", "True")]).await).await;
    for name in ["run-0", "run-1"] {
        assert_eq!(
            page.value("prefect_info_flow_runs", &[("flow_run_name", name)]),
            Some(1.0)
        );
        let ongoing = page.value(
            "prefect_flow_runs_ongoing_run_time",
            &[("flow_run_name", name)],
        );
        assert!(ongoing.unwrap() >= 20.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_failed_runs_of_each_group_are_shown() {
    let stub = small_stub().await;
    for number in 0..5 {
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number, "FAILED", 100 + number as i64));
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number + 10, "CRASHED", 100 + number as i64));
    }
    let settings = [("FAILED_RUNS_LIMIT", "2"), ("METRICS_INCLUDE", "*")];
    let page = cycle(&mut agent(&stub.url, &settings).await).await;
    for family in FAILED {
        let shown: Vec<_> = page
            .family(family)
            .keys()
            .map(|labels| labels["last_failed_run_id"].clone())
            .collect();
        assert_eq!(shown.len(), 4);
        for newest in [0, 1, 10, 11] {
            assert!(shown.contains(&fleet::id(5, newest)), "{shown:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_runs_are_shown_under_one_name_unless_the_other_is_included() {
    let stub = small_stub().await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "FAILED", 100));
    for (include, shown) in [
        ("", [1, 0]),
        ("prefect_deployment_last_failed_flow_run", [0, 1]),
        ("*", [1, 1]),
    ] {
        let settings = [("METRICS_INCLUDE", include)];
        let page = cycle(&mut agent(&stub.url, &settings).await).await;
        let series = FAILED.map(|family| page.family(family).len());
        assert_eq!(series, shown, "METRICS_INCLUDE={include}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_failed_runs_window_can_be_turned_off_and_costs_nothing_then() {
    let stub = small_stub().await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "FAILED", 20));
    let settings = [
        ("FAILED_RUNS_OFFSET_MINUTES", "0"),
        ("METRICS_INCLUDE", "*"),
    ];
    let mut agent = agent(&stub.url, &settings).await;
    let page = cycle(&mut agent).await;
    assert!(FAILED.iter().all(|family| page.family(family).is_empty()));
    assert_eq!(page.value("prefect_flow_runs_total", &[]), Some(1.0));
    assert_eq!(
        page.value("prefect_agent_cycles_total", &[("outcome", "success")]),
        Some(1.0)
    );
    stub.take_requests();
    cycle(&mut agent).await;
    let requests = stub.take_requests();
    let of_runs = requests
        .iter()
        .filter(|request| request.path == "/flow_runs/filter")
        .count();
    assert_eq!(of_runs, 3, "under way, scheduled, finished: {requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_with_equal_labels_are_one_series() {
    let stub = small_stub().await;
    {
        let mut contents = stub.contents();
        let mut twin = contents.deployments[0].clone();
        twin["id"] = json!(fleet::id(1, 9));
        contents.deployments.push(twin);
        for (number, deployment) in [(1, 0), (2, 9)] {
            let mut run = fleet::run_at(number, "COMPLETED", 10 + number as i64);
            run["deployment_id"] = json!(fleet::id(1, deployment));
            run["total_run_time"] = json!(number);
            contents.flow_runs.push(run);
        }
    }
    let page = cycle(&mut agent(&stub.url, &[]).await).await;
    assert_eq!(page.value("prefect_deployments_total", &[]), Some(2.0));
    assert_eq!(
        page.value("prefect_info_deployment", &[]),
        Some(1.0),
        "an info value stays 1"
    );
    assert_eq!(
        page.value("prefect_info_flow_runs", &[]),
        Some(2.0),
        "counts add up"
    );
    // Run 1 ended last.
    assert_eq!(
        page.value("prefect_flow_runs_total_run_time", &[]),
        Some(1.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_null_and_odd_values_are_written_as_the_python_exporter_does() {
    let stub = small_stub().await;
    {
        let mut contents = stub.contents();
        let deployment = &mut contents.deployments[0];
        deployment["tags"] = json!(["z", "a"]);
        deployment["path"] = json!(null);
        deployment.as_object_mut().unwrap().remove("status");
        deployment["flow_id"] = json!(fleet::id(2, 77));
        let mut future = fleet::run_at(1, "RUNNING", -500);
        future.as_object_mut().unwrap().remove("state_name");
        future["deployment_id"] = json!(null);
        // Nothing says that these are never null.
        for field in ["total_run_time", "work_pool_name", "name", "state_id"] {
            future[field] = json!(null);
        }
        contents.flow_runs.push(future);
    }
    let page = cycle(&mut agent(&stub.url, &[]).await).await;
    let deployment = page
        .family("prefect_info_deployment")
        .into_keys()
        .next()
        .unwrap();
    assert_eq!(deployment["tags"], "a,z");
    assert_eq!(deployment["path"], "None");
    assert_eq!(deployment["status"], "null");
    assert_eq!(deployment["flow_name"], "null", "an id that names nothing");
    let run = page.family("prefect_flow_runs_ongoing_run_time");
    let (labels, seconds) = run.iter().next().unwrap();
    assert_eq!(*seconds, 0.0, "never negative");
    assert_eq!(
        (
            labels["deployment_name"].as_str(),
            labels["state_name"].as_str()
        ),
        ("null", "null")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scheduled_run_is_read_when_asked_for() {
    let stub = small_stub().await;
    for (number, minutes) in [5, 59, 61, 10_000].into_iter().enumerate() {
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number, "SCHEDULED", -minutes * 60));
    }
    let scheduled = [("state_name", "Scheduled")];
    for (lookahead, count) in [("60", 2.0), ("all", 4.0)] {
        let settings = [("SCHEDULED_LOOKAHEAD_MINUTES", lookahead)];
        let page = cycle(&mut agent(&stub.url, &settings).await).await;
        assert_eq!(
            page.value("prefect_info_flow_runs", &scheduled),
            Some(count),
            "{lookahead}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_healthy_as_the_server_says_it_is() {
    for (polled_ago, late, healthy) in [
        (Some(10), false, "True"),
        (Some(70), false, "False"),
        (None, false, "False"),
        (Some(10), true, "False"),
    ] {
        let stub = small_stub().await;
        {
            let mut contents = stub.contents();
            let polled = polled_ago.map(|seconds| {
                (jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds)).to_string()
            });
            contents.work_queues[0]["last_polled"] = json!(polled);
            let mut run = fleet::run_at(1, "SCHEDULED", 60);
            run["state_name"] = json!(if late { "Late" } else { "Scheduled" });
            contents.flow_runs.push(run);
        }
        let page = cycle(&mut agent(&stub.url, &[]).await).await;
        let count = page.value(
            "prefect_work_queues_late_runs_count",
            &[("healthy", healthy)],
        );
        assert_eq!(
            count,
            Some(if late { 1.0 } else { 0.0 }),
            "{polled_ago:?} {late}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_cancelled_long_before_its_time_counts_until_its_time_has_passed() {
    let stub = small_stub().await;
    let mut cancelled = fleet::run_at(1, "CANCELLED", 3_600);
    let tomorrow = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    cancelled["start_time"] = json!(null);
    cancelled["expected_start_time"] = json!(tomorrow.to_string());
    stub.contents().flow_runs.push(cancelled);
    let mut agent = agent(&stub.url, &[]).await;
    for _ in 0..2 {
        let page = cycle(&mut agent).await;
        assert_eq!(
            page.value("prefect_info_flow_runs", &[("state_name", "Cancelled")]),
            Some(1.0)
        );
        assert_eq!(page.value("prefect_flow_runs_total", &[]), Some(0.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn histograms_have_the_buckets_of_their_declaration() {
    let stub = small_stub().await;
    let page = cycle(&mut agent(&stub.url, &[]).await).await;
    let buckets = page.family("http_client_request_duration_seconds_bucket");
    for bound in ["0.005", "0.075", "7.5", "10", "+Inf"] {
        assert!(
            buckets.keys().any(|labels| labels["le"] == bound),
            "{bound}"
        );
    }
    assert!(!buckets.keys().any(|labels| labels["le"] == "10000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_is_zero_before_its_series_goes_away() {
    let stub = small_stub().await;
    let running = fleet::run_at(1, "RUNNING", 20);
    stub.contents().flow_runs.push(running);
    let mut agent = agent(&stub.url, &[]).await;
    let before = cycle(&mut agent).await;
    {
        let run = &mut stub.contents().flow_runs[0];
        run["state_type"] = json!("PENDING");
        run["state_name"] = json!("Submitting");
        run["state_id"] = json!(uuid::Uuid::new_v4().to_string());
    }
    let after = cycle(&mut agent).await;
    for family in ["prefect_flow_runs_active", "prefect_info_flow_runs"] {
        let state = |name| [("state_name", name)];
        assert_eq!(before.value(family, &state("Running")), Some(1.0));
        assert_eq!(before.value(family, &state("Submitting")), None);
        assert_eq!(after.value(family, &state("Running")), Some(0.0));
        assert_eq!(after.value(family, &state("Submitting")), Some(1.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_one_status_at_a_time() {
    let stub = small_stub().await;
    let mut worker = recorded("worker");
    worker["work_pool"] = json!("pool-0");
    worker["last_heartbeat_time"] = json!(jiff::Timestamp::now().to_string());
    stub.contents().workers.push(worker);
    for (status, shown) in [
        ("ONLINE", vec![("OFFLINE", 0.0), ("ONLINE", 1.0)]),
        ("OFFLINE", vec![("OFFLINE", 1.0), ("ONLINE", 0.0)]),
        // One that a later version of Prefect may have.
        (
            "DRAINING",
            vec![("DRAINING", 1.0), ("OFFLINE", 0.0), ("ONLINE", 0.0)],
        ),
    ] {
        stub.contents().set_worker_status(status);
        let page = cycle(&mut agent(&stub.url, &[]).await).await;
        let family = page.family("prefect_worker_status");
        let all: Vec<_> = family
            .iter()
            .map(|(labels, value)| (labels["worker_status"].as_str(), *value))
            .collect();
        assert_eq!(all, shown);
    }
}
