//! The first events of a counter series: it stays at zero until every receiver has got the zero,
//! because `increase()` would otherwise miss them.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;

use crate::support::otlp::{Answer, Receiver};
use crate::support::page::Page;
use crate::support::points::{got_of, over_http};
use crate::support::process::{AgentProcess, wait_for};
use crate::support::stub::Stub;
use crate::support::{agent, cycle, fleet, pass, small_stub};

/// Creates a deployment, with runs that ended before the agent has seen it.
fn deploy(stub: &Stub, number: usize, runs: usize) {
    let mut contents = stub.contents();
    fleet::deploy(&mut contents, number);
    let runs = (0..runs).map(|_| fleet::ended(number, "FAILED"));
    contents.flow_runs.extend(runs);
}

/// The values of a deployment in the accepted pushes, in order.
#[derive(Default)]
struct Pushed(BTreeMap<String, BTreeMap<u64, f64>>);

impl Pushed {
    fn of(&mut self, receiver: &Receiver, number: usize) -> Vec<f64> {
        for point in got_of(receiver, "prefect.flow_runs.finished") {
            let times = self.0.entry(point.key).or_default();
            *times.entry(point.time).or_default() += point.value.unwrap();
        }
        let times = self.0.get(&format!("deployment-{number}"));
        times
            .map(|times| times.values().copied().collect())
            .unwrap_or_default()
    }
}

/// Its value on the page.
fn on_page(agent: &AgentProcess, number: usize) -> Option<f64> {
    let family = agent.page().family("prefect_flow_runs_finished_total");
    let name = format!("deployment-{number}");
    let of_it = family
        .iter()
        .filter(|(labels, _)| labels["deployment_name"] == name);
    of_it
        .map(|(_, value)| *value)
        .reduce(|one, other| one + other)
}

fn refusal(status: StatusCode) -> impl Iterator<Item = Answer> {
    std::iter::repeat_with(move || Answer::Http(status.into_response())).take(10_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zero_that_was_not_delivered_is_pushed_again_before_the_first_events() {
    for status in [StatusCode::BAD_REQUEST, StatusCode::SERVICE_UNAVAILABLE] {
        let stub = small_stub().await;
        let (receiver, endpoint) = over_http().await;
        tokio::task::block_in_place(|| {
            let settings = [
                ("OTEL_METRICS_EXPORTER", "otlp"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ];
            let _agent = AgentProcess::start(&stub.url, &settings);
            let mut pushed = Pushed::default();
            wait_for("a push", || {
                (!pushed.of(&receiver, 0).is_empty()).then_some(())
            });
            receiver.answer(refusal(status));
            deploy(&stub, 1, 3);
            pass(&stub, 4);
            assert!(pushed.of(&receiver, 1).is_empty(), "{status}");
            receiver.answer_well();
            let counts = wait_for("the events", || {
                let counts = pushed.of(&receiver, 1);
                counts
                    .last()
                    .is_some_and(|last| *last > 0.0)
                    .then_some(counts)
            });
            assert_eq!((counts[0], counts.last()), (0.0, Some(&3.0)), "{counts:?}");
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zero_that_was_not_scraped_is_on_the_first_page_that_is_scraped() {
    let stub = small_stub().await;
    tokio::task::block_in_place(|| {
        let agent = AgentProcess::start(&stub.url, &[]);
        pass(&stub, 2);
        deploy(&stub, 1, 3);
        pass(&stub, 3);
        assert_eq!(on_page(&agent, 1), Some(0.0));
        pass(&stub, 2);
        assert_eq!(on_page(&agent, 1), Some(3.0));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn with_scrapes_and_pushes_both_receivers_get_the_zero_first() {
    let stub = small_stub().await;
    let (receiver, endpoint) = over_http().await;
    tokio::task::block_in_place(|| {
        let settings = [
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ];
        let agent = AgentProcess::start(&stub.url, &settings);
        let mut pushed = Pushed::default();
        wait_for("a push", || {
            (!pushed.of(&receiver, 0).is_empty()).then_some(())
        });
        agent.wait_for_page("a cycle", |_| on_page(&agent, 0));
        // Pushed, but not scraped.
        deploy(&stub, 1, 3);
        pass(&stub, 4);
        let counts = pushed.of(&receiver, 1);
        assert!(counts.len() >= 3, "{counts:?}");
        assert!(counts.iter().all(|count| *count == 0.0), "{counts:?}");
        assert_eq!(on_page(&agent, 1), Some(0.0));
        wait_for("the events", || {
            (pushed.of(&receiver, 1).last() == Some(&3.0)).then_some(())
        });
        assert_eq!(on_page(&agent, 1), Some(3.0));
        // Scraped, but not pushed.
        receiver.answer(refusal(StatusCode::BAD_REQUEST));
        deploy(&stub, 2, 2);
        for _ in 0..3 {
            pass(&stub, 1);
            assert_eq!(on_page(&agent, 2), Some(0.0));
        }
        receiver.answer_well();
        agent.wait_for_page("the events", |_| {
            (on_page(&agent, 2) == Some(2.0)).then_some(())
        });
        let counts = wait_for("the events", || {
            let counts = pushed.of(&receiver, 2);
            counts
                .last()
                .is_some_and(|last| *last > 0.0)
                .then_some(counts)
        });
        assert_eq!((counts[0], counts.last()), (0.0, Some(&2.0)), "{counts:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_has_zeros_once_its_flow_is_known() {
    let stub = small_stub().await;
    let mut agent = agent(&stub.url, &[("INVENTORY_INTERVAL_SECONDS", "1")]).await;
    cycle(&mut agent).await;
    let flow = {
        let mut contents = stub.contents();
        fleet::deploy(&mut contents, 7);
        let id = contents.deployments.last().unwrap()["flow_id"].clone();
        let place = contents.flows.iter().position(|flow| flow["id"] == id);
        // It is created between the two lists.
        contents.flows.remove(place.unwrap())
    };
    let zeros = |page: &Page| -> Vec<String> {
        let family = page.family("prefect_flow_runs_finished_total");
        let of_it = family
            .keys()
            .filter(|labels| labels["deployment_name"] == "deployment-7");
        of_it.map(|labels| labels["flow_name"].clone()).collect()
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(zeros(&cycle(&mut agent).await), [""; 0]);
    let name = flow["name"].as_str().unwrap().to_owned();
    stub.contents().flows.push(flow);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let flows = zeros(&cycle(&mut agent).await);
    assert!(
        !flows.is_empty() && flows.iter().all(|flow| *flow == name),
        "{flows:?}"
    );
}
