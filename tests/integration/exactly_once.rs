//! Each terminal state is counted once, whatever else happens.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prefect_otel_agent::core::events::{Event, FinishedRun};
use prefect_otel_agent::core::saved::SavedState;
use prefect_otel_agent::core::{Core, Cycle};
use prefect_otel_agent::cycles::core_config;
use prefect_otel_agent::keeper::Keeper;
use prefect_otel_agent::metrics::Options;
use prefect_otel_agent::prefect::{Client, RequestObserver, RequestRecord};
use prefect_otel_agent::sampler::Sampler;
use serde_json::json;

use crate::support::stub::Stub;
use crate::support::{agent, cycle, fleet, memory, settings, small_stub};

struct Nobody;

impl RequestObserver for Nobody {
    fn on_request(&self, _: &RequestRecord<'_>) {}
}

/// A sampler that has counted for two hours.
fn sampler(stub: &Stub) -> Sampler {
    let start = Timestamp::now() - SignedDuration::from_hours(2);
    sampler_with(stub, &[], Some(memory(start, None)))
}

fn sampler_with(stub: &Stub, more: &[(&str, &str)], memory: Option<SavedState>) -> Sampler {
    let settings = settings(&stub.url, more);
    let client = Client::new(&settings.prefect, Arc::new(Nobody)).unwrap();
    let config = core_config(&settings, &Options::new(&settings).unwrap());
    Sampler::new(Core::new(config, memory), client, Duration::from_secs(60))
}

async fn sample(sampler: &mut Sampler) -> Cycle {
    sampler.cycle(&mut Keeper::default()).await
}

/// The flow runs that were counted in a cycle.
fn runs(cycle: &Cycle) -> Vec<&FinishedRun> {
    let events = cycle.events.iter();
    events
        .filter_map(|event| match event {
            Event::FlowRun(run) => Some(run),
            Event::TaskRun(_) => None,
        })
        .collect()
}

/// The ids of the runs that were counted in the next cycle.
async fn finished(sampler: &mut Sampler) -> Vec<String> {
    let cycle = sample(sampler).await;
    assert!(cycle.errors.is_empty(), "{:?}", cycle.errors);
    let mut ids: Vec<_> = runs(&cycle)
        .iter()
        .map(|run| run.run.id.to_string())
        .collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_two_cycles_see_counts_once() {
    let stub = small_stub().await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "COMPLETED", 20));
    let mut sampler = sampler(&stub);
    assert_eq!(finished(&mut sampler).await, [fleet::id(5, 1)]);
    assert!(finished(&mut sampler).await.is_empty());
    stub.contents()
        .flow_runs
        .push(fleet::run_at(2, "FAILED", 0));
    assert_eq!(finished(&mut sampler).await, [fleet::id(5, 2)]);
    assert!(finished(&mut sampler).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_retried_and_ends_again_counts_twice_and_is_listed_once() {
    let stub = small_stub().await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "FAILED", 20));
    let mut sampler = sampler(&stub);
    assert_eq!(finished(&mut sampler).await.len(), 1);
    let mut running = fleet::run_at(1, "RUNNING", 10);
    running["end_time"] = json!(null);
    stub.contents().flow_runs[0] = running;
    let cycle = sample(&mut sampler).await;
    assert!(cycle.events.is_empty());
    assert!(cycle.state.snapshot.finished.is_empty() && cycle.state.snapshot.failed.is_empty());
    assert_eq!(cycle.state.snapshot.unfinished.len(), 1);
    stub.contents().flow_runs[0] = fleet::run_at(1, "COMPLETED", 0);
    let cycle = sample(&mut sampler).await;
    assert_eq!(cycle.events.len(), 1);
    assert_eq!(cycle.state.snapshot.finished.len(), 1);
    assert!(cycle.state.snapshot.unfinished.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_boundary_that_moves_while_paging_neither_loses_nor_repeats() {
    let stub = small_stub().await;
    for number in 0..450 {
        stub.contents().flow_runs.push(fleet::run_at(
            number,
            "COMPLETED",
            200 - (number as i64 % 150),
        ));
    }
    // Runs end while the pages are read: three before each page, so many in total that the list
    // grows by a page.
    let mut number = 1_000..1_180;
    stub.contents().after_page = Some(Box::new(move |runs| {
        for number in number.by_ref().take(60) {
            runs.push(fleet::run_at(number, "COMPLETED", 0));
        }
    }));
    let mut sampler = sampler(&stub);
    let mut all = Vec::new();
    for _ in 0..4 {
        all.extend(finished(&mut sampler).await);
    }
    all.sort();
    let mut expected: Vec<_> = (0..450)
        .chain(1_000..1_180)
        .map(|number| fleet::id(5, number))
        .collect();
    expected.sort();
    assert_eq!(all, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_boundary_moved_by_a_retry_loses_nothing_permanently() {
    let stub = small_stub().await;
    for number in 0..450 {
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number, "COMPLETED", 60));
    }
    let mut sampler = sampler(&stub);
    // After the first pages, a run of the first page is retried, so the first run of a later page
    // moves to a page that has already been read.
    let mut pages = 0;
    stub.contents().after_page = Some(Box::new(move |runs| {
        pages += 1;
        if pages == 4 {
            let mut running = fleet::run_at(0, "RUNNING", 0);
            running["end_time"] = json!(null);
            runs[0] = running;
        }
    }));
    let mut all = Vec::new();
    for _ in 0..3 {
        all.extend(finished(&mut sampler).await);
    }
    all.sort();
    all.dedup_by(|a, b| {
        assert_ne!(a, b, "counted twice");
        false
    });
    let without_the_retried: Vec<_> = (1..450).map(|number| fleet::id(5, number)).collect();
    assert!(without_the_retried.iter().all(|id| all.contains(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_end_is_reported_ten_minutes_late_counts_once() {
    let stub = small_stub().await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "RUNNING", 900));
    let mut sampler = sampler(&stub);
    assert!(finished(&mut sampler).await.is_empty());
    stub.contents().flow_runs[0] = fleet::run_at(1, "CRASHED", 600);
    assert_eq!(finished(&mut sampler).await, [fleet::id(5, 1)]);
    assert!(finished(&mut sampler).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_report_shows_once_on_the_page() {
    let stub = small_stub().await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "RUNNING", 900));
    let mut agent = agent(&stub.url, &[("OFFSET_MINUTES", "30")]).await;
    let page = cycle(&mut agent).await;
    assert_eq!(page.value("prefect_flow_runs_total", &[]), Some(0.0));
    assert_eq!(
        page.value("prefect_info_flow_runs", &[("state_name", "Running")]),
        Some(1.0)
    );
    stub.contents().flow_runs[0] = fleet::run_at(1, "CRASHED", 600);
    for _ in 0..2 {
        let page = cycle(&mut agent).await;
        assert_eq!(page.value("prefect_flow_runs_total", &[]), Some(1.0));
        assert_eq!(
            page.value("prefect_info_flow_runs", &[("state_name", "Running")]),
            Some(0.0)
        );
        assert_eq!(
            page.value("prefect_info_flow_runs", &[("state_name", "Crashed")]),
            Some(1.0)
        );
        assert_eq!(page.family("prefect_deployment_failed_flow_runs").len(), 1);
        assert!(page.family("prefect_flow_runs_ongoing_run_time").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_while_the_list_of_finished_runs_fails_is_counted_immediately() {
    let stub = small_stub().await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "RUNNING", 900));
    let mut sampler = sampler(&stub);
    assert!(finished(&mut sampler).await.is_empty());
    stub.contents().flow_runs[0] = fleet::run_at(1, "COMPLETED", 600);
    stub.fault(|request| {
        let finished = request.body["sort"] == "END_TIME_DESC";
        finished.then(|| crate::support::stub::garbage(axum::http::StatusCode::BAD_REQUEST, "no"))
    });
    let cycle = sample(&mut sampler).await;
    assert_eq!(runs(&cycle)[0].run.id.to_string(), fleet::id(5, 1));
    assert_eq!(cycle.errors.len(), 1, "{:?}", cycle.errors);
    stub.heal();
    assert!(finished(&mut sampler).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_clock_is_used_instead_of_the_local_one() {
    let stub = small_stub().await;
    // The server's clock is an hour behind, and so are all its times.
    stub.contents().clock_behind = jiff::SignedDuration::from_secs(3_600);
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "COMPLETED", 3_600 + 20));
    let mut sampler = sampler(&stub);
    assert_eq!(finished(&mut sampler).await, [fleet::id(5, 1)]);
    assert!(finished(&mut sampler).await.is_empty());
    stub.contents()
        .flow_runs
        .push(fleet::run_at(2, "COMPLETED", 3_600));
    assert_eq!(finished(&mut sampler).await, [fleet::id(5, 2)]);
}

/// Ids and terminal states of the runs that were counted in the next cycle.
async fn counted(sampler: &mut Sampler) -> Vec<(String, String, u64)> {
    let cycle = sample(sampler).await;
    assert!(cycle.errors.is_empty(), "{:?}", cycle.errors);
    let mut counted: Vec<_> = runs(&cycle)
        .iter()
        .map(|finished| {
            let state = finished.state_type.as_str().to_owned();
            (finished.run.id.to_string(), state, finished.retries)
        })
        .collect();
    counted.sort();
    counted
}

fn event(number: usize, state: &str, retries: u64) -> (String, String, u64) {
    (fleet::id(5, number), state.to_owned(), retries)
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_ended_before_the_start_are_not_counted_by_any_cycle() {
    let stub = small_stub().await;
    // The first reading starts a minute earlier, the second one two minutes.
    for (number, ago) in [(1, 10), (2, 50), (3, 100)] {
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number, "FAILED", ago));
    }
    let mut sampler = sampler_with(&stub, &[("OFFSET_MINUTES", "1")], None);
    assert!(counted(&mut sampler).await.is_empty());
    stub.contents()
        .flow_runs
        .push(fleet::run_at(4, "FAILED", 0));
    assert_eq!(counted(&mut sampler).await, [event(4, "FAILED", 0)]);
    assert!(counted(&mut sampler).await.is_empty());
}

/// A run that has passed through `states`, one second apart, with its history.
fn with_history(stub: &Stub, number: usize, states: &[&str]) {
    let state = |(index, kind): (usize, &&str)| {
        let ago = (states.len() - index) as i64;
        let mut state = crate::support::stub::recorded("flow_run_states")[0].clone();
        state["id"] = json!(format!("{number}-{index}"));
        state["type"] = json!(kind);
        state["name"] = json!(kind);
        state["timestamp"] =
            json!((jiff::Timestamp::now() - SignedDuration::from_secs(ago)).to_string());
        state
    };
    let history: Vec<_> = states.iter().enumerate().map(state).collect();
    let mut run = fleet::run_at(number, states[states.len() - 1], 1);
    let starts = states.iter().filter(|kind| **kind == "RUNNING").count();
    run["run_count"] = json!(starts);
    run["state_id"] = history[history.len() - 1]["id"].clone();
    let mut contents = stub.contents();
    contents.states.insert(fleet::id(5, number), history);
    contents
        .flow_runs
        .retain(|run| run["id"] != json!(fleet::id(5, number)));
    contents.flow_runs.push(run);
}

fn requests_for_states(stub: &Stub) -> usize {
    let requests = stub.take_requests();
    let for_states = requests.iter();
    for_states
        .filter(|request| request.path == "/flow_run_states/")
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_and_was_run_again_between_two_cycles_counts_twice() {
    let stub = small_stub().await;
    let mut sampler = sampler(&stub);
    assert!(counted(&mut sampler).await.is_empty());
    with_history(
        &stub,
        1,
        &[
            "PENDING",
            "RUNNING",
            "FAILED",
            "SCHEDULED",
            "RUNNING",
            "COMPLETED",
        ],
    );
    let both = [event(1, "COMPLETED", 1), event(1, "FAILED", 0)];
    assert_eq!(counted(&mut sampler).await, both);
    assert!(counted(&mut sampler).await.is_empty());
    assert_eq!(requests_for_states(&stub), 1, "states are read once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_was_never_listed_is_counted_while_the_run_continues() {
    let stub = small_stub().await;
    let mut sampler = sampler(&stub);
    assert!(counted(&mut sampler).await.is_empty());
    let states = ["RUNNING", "FAILED", "SCHEDULED", "RUNNING"];
    with_history(&stub, 1, &states);
    assert_eq!(counted(&mut sampler).await, [event(1, "FAILED", 0)]);
    assert!(counted(&mut sampler).await.is_empty());
    // When it ends, its states are not requested again.
    let ended = [&states[..], &["COMPLETED"]].concat();
    with_history(&stub, 1, &ended);
    assert_eq!(counted(&mut sampler).await, [event(1, "COMPLETED", 1)]);
    assert_eq!(requests_for_states(&stub), 1, "states are read once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_before_its_states_are_read_keeps_its_retries() {
    let stub = small_stub().await;
    let mut sampler = sampler(&stub);
    assert!(counted(&mut sampler).await.is_empty());
    let states = ["RUNNING", "FAILED", "SCHEDULED", "RUNNING", "COMPLETED"];
    with_history(&stub, 1, &states[..4]);
    // The list shows it running, but when its states are read, it has ended.
    let running = stub.contents().flow_runs.clone();
    with_history(&stub, 1, &states);
    stub.contents().flow_runs = running;
    assert!(counted(&mut sampler).await.is_empty());
    with_history(&stub, 1, &states);
    let both = [event(1, "COMPLETED", 1), event(1, "FAILED", 0)];
    assert_eq!(counted(&mut sampler).await, both);
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_retries_are_one_terminal_state() {
    let stub = small_stub().await;
    let mut sampler = sampler(&stub);
    assert!(counted(&mut sampler).await.is_empty());
    let states = [
        "RUNNING",
        "SCHEDULED",
        "RUNNING",
        "SCHEDULED",
        "RUNNING",
        "FAILED",
    ];
    with_history(&stub, 1, &states);
    assert_eq!(counted(&mut sampler).await, [event(1, "FAILED", 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_states_cannot_be_read_only_the_current_state_of_a_restarted_run_is_counted() {
    let stub = small_stub().await;
    let start = Timestamp::now() - SignedDuration::from_hours(2);
    let interval = [("SAMPLE_INTERVAL_SECONDS", "1")];
    let mut sampler = sampler_with(&stub, &interval, Some(memory(start, None)));
    assert!(counted(&mut sampler).await.is_empty());
    with_history(
        &stub,
        1,
        &["RUNNING", "FAILED", "SCHEDULED", "RUNNING", "FAILED"],
    );
    stub.fault(|request| {
        let states = request.path == "/flow_run_states/";
        states.then(|| crate::support::stub::garbage(axum::http::StatusCode::BAD_REQUEST, "no"))
    });
    assert_eq!(counted(&mut sampler).await, [event(1, "FAILED", 1)]);
    stub.heal();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(counted(&mut sampler).await, [event(1, "FAILED", 0)]);
    assert!(counted(&mut sampler).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_states_api_only_the_current_state_of_a_restarted_run_is_counted() {
    let stub = small_stub().await;
    let mut sampler = sampler(&stub);
    assert!(counted(&mut sampler).await.is_empty());
    with_history(&stub, 1, &["RUNNING", "SCHEDULED", "RUNNING", "FAILED"]);
    stub.fault(|request| {
        let states = request.path == "/flow_run_states/";
        states.then(|| crate::support::stub::garbage(axum::http::StatusCode::NOT_FOUND, ""))
    });
    assert_eq!(counted(&mut sampler).await, [event(1, "FAILED", 1)]);
    assert!(counted(&mut sampler).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_deployment_cannot_be_looked_up_is_counted_later_by_its_name() {
    let stub = small_stub().await;
    let mut sampler = sampler(&stub);
    assert!(counted(&mut sampler).await.is_empty());
    let mut deployment = stub.contents().deployments[0].clone();
    deployment["id"] = json!(fleet::id(1, 77));
    deployment["name"] = json!("brand-new");
    let mut run = fleet::run_at(1, "FAILED", 0);
    run["deployment_id"] = deployment["id"].clone();
    stub.contents().deployments.push(deployment);
    stub.contents().flow_runs.push(run);
    stub.fault(|request| {
        let by_id = request.path == "/deployments/filter" && !request.body["deployments"].is_null();
        by_id.then(|| crate::support::stub::garbage(axum::http::StatusCode::BAD_REQUEST, "no"))
    });
    assert!(counted(&mut sampler).await.is_empty());
    stub.heal();
    let cycle = sample(&mut sampler).await;
    let names: Vec<_> = runs(&cycle)
        .iter()
        .map(|finished| &*finished.deployment)
        .collect();
    assert_eq!(names, ["brand-new"]);
}
