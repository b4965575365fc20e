//! Each run that ends is counted once, whatever happens around it.

use std::sync::Arc;

use prefect_otel_agent::prefect::{Client, RequestObserver, RequestRecord};
use prefect_otel_agent::sampler::Sampler;
use serde_json::json;

use crate::support::stub::Stub;
use crate::support::{agent, cycle, fleet, settings, small_stub};

struct Nobody;

impl RequestObserver for Nobody {
    fn on_request(&self, _: &RequestRecord<'_>) {}
}

fn sampler(stub: &Stub) -> Sampler {
    let settings = settings(&stub.url, &[]);
    let client = Client::new(&settings.prefect, Arc::new(Nobody)).unwrap();
    Sampler::new(client, settings.sampling, settings.prefect.request_timeout)
}

/// Ids of the runs that were new in a cycle.
async fn finished(sampler: &mut Sampler) -> Vec<String> {
    let cycle = sampler.cycle().await;
    assert!(cycle.errors.is_empty(), "{:?}", cycle.errors);
    let mut ids: Vec<_> = cycle
        .finished
        .iter()
        .map(|run| run.id.to_string())
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
async fn a_run_that_is_retried_and_ends_again_counts_twice_and_shows_once() {
    let stub = small_stub().await;
    stub.contents()
        .flow_runs
        .push(fleet::run_at(1, "FAILED", 20));
    let mut sampler = sampler(&stub);
    assert_eq!(finished(&mut sampler).await.len(), 1);
    let mut running = fleet::run_at(1, "RUNNING", 10);
    running["end_time"] = json!(null);
    stub.contents().flow_runs[0] = running;
    let cycle = sampler.cycle().await;
    assert!(cycle.finished.is_empty());
    assert!(cycle.snapshot.finished.is_empty() && cycle.snapshot.failed.is_empty());
    assert_eq!(cycle.snapshot.unfinished.len(), 1);
    stub.contents().flow_runs[0] = fleet::run_at(1, "COMPLETED", 0);
    let cycle = sampler.cycle().await;
    assert_eq!(cycle.finished.len(), 1);
    assert_eq!(cycle.snapshot.finished.len(), 1);
    assert!(cycle.snapshot.unfinished.is_empty());
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
    // While the pages are read, runs end: three before each next page, and so many in all
    // that the list grows by a page.
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
async fn a_page_boundary_moved_by_a_retry_loses_nothing_for_good() {
    let stub = small_stub().await;
    for number in 0..450 {
        stub.contents()
            .flow_runs
            .push(fleet::run_at(number, "COMPLETED", 60));
    }
    let mut sampler = sampler(&stub);
    // After the first pages a run of the first one is retried: what stood first on a later
    // page slips onto one that has been read.
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
            None
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
async fn a_run_that_vanishes_while_a_list_fails_is_counted_later() {
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
    let cycle = sampler.cycle().await;
    assert!(
        cycle.finished.is_empty() && cycle.errors.len() == 1,
        "{:?}",
        cycle.errors
    );
    stub.heal();
    assert_eq!(finished(&mut sampler).await, [fleet::id(5, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_clock_counts_not_this_machines() {
    let stub = small_stub().await;
    // The server is an hour behind; so is everything that it tells.
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
