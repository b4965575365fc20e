//! Delta temporality: nothing is lost or delivered twice.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use opentelemetry_proto::tonic::metrics::v1::AggregationTemporality;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

use tokio::sync::Notify;

use crate::support::collected::{Collection, Process, delivery, export, export_until};
use crate::support::otlp::{Answer, Receiver};
use crate::support::page::Page;
use crate::support::points::{all_three, got, got_of, is, over_http, values};
use crate::support::process::{AgentProcess, wait_for};
use crate::support::{fleet, pass, small_stub};

const DELTA: (&str, &str) = ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta");
const CUMULATIVE: (&str, &str) = (DELTA.0, "cumulative");

#[tokio::test(flavor = "multi_thread")]
async fn failed_pushes_lose_and_repeat_nothing() {
    for exponential in [false, true] {
        let (receiver, endpoint) = over_http().await;
        let delivery = delivery(&endpoint, &[DELTA], vec![]);
        let (mut counted, mut measured, mut ends) = (0.0, 0.0, 0);
        let mut seen = Vec::new();
        let process = Process::default();
        for push in 1..=30 {
            // Values grow, so that the scale of an exponential histogram decreases.
            seen.push(1.5_f64.powi(push));
            let mut collection = Collection::default()
                .gauge("now", push.into())
                .counter("runs", push.into())
                .histogram("runs", &seen)
                .of(&process);
            if exponential {
                collection = collection.exponential();
            }
            let fails = push % 3 != 0;
            if fails {
                receiver.answer([Answer::Http(StatusCode::BAD_REQUEST.into_response())]);
            }
            assert_eq!(export(&delivery, &collection).await.is_err(), fails);
            for point in got(&receiver) {
                match point.metric.as_str() {
                    "test.gauge" => assert_eq!(point.value, Some(push.into())),
                    "test.counter" => {
                        counted += point.value.unwrap();
                        assert!(ends == 0 || point.start == ends, "a gap or an overlap");
                        ends = point.time;
                    }
                    _ => measured += point.value.unwrap(),
                }
            }
        }
        assert_eq!((counted, measured), (30.0, 30.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_histogram_that_was_reset_and_has_the_same_count_is_new() {
    for exponential in [false, true] {
        let (receiver, endpoint) = over_http().await;
        let delivery = delivery(&endpoint, &[DELTA], vec![]);
        let mut measured = 0.0;
        for _ in 0..3 {
            let mut collection = Collection::default().histogram("runs", &[2.0]);
            if exponential {
                collection = collection.exponential();
            }
            for _ in 0..2 {
                export(&delivery, &collection).await.unwrap();
                measured += values(&receiver)[0].2.unwrap();
            }
        }
        assert_eq!(measured, 3.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instruments_that_are_recreated_to_make_room_repeat_no_count() {
    let (receiver, endpoint) = over_http().await;
    for (temporality, increases) in [(DELTA, [0.0, 3.0, 0.0]), (CUMULATIVE, [20.0, 23.0, 23.0])] {
        let delivery = delivery(&endpoint, &[temporality], vec![]);
        let mut starts = Vec::new();
        // At the first push, what has been counted is its baseline.
        let counted = |value| Collection::default().counter("runs", value);
        export(&delivery, &counted(20.0)).await.unwrap();
        got(&receiver);
        for (value, increase) in [20.0, 23.0, 23.0].into_iter().zip(increases) {
            export(&delivery, &counted(value)).await.unwrap();
            let all = got(&receiver);
            assert_eq!(all[0].value, Some(increase));
            starts.push(all[0].start);
        }
        if temporality == CUMULATIVE {
            starts.dedup();
            assert_eq!(starts.len(), 1, "{starts:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_count_of_a_series_that_ends_is_delivered() {
    let (receiver, endpoint) = over_http().await;
    let delivery = delivery(&endpoint, &[DELTA], vec![]);
    let process = Process::default();
    let leaves = all_three("leaves").of(&process);
    export(&delivery, &leaves).await.unwrap();
    got(&receiver);
    receiver.answer([Answer::Http(StatusCode::BAD_REQUEST.into_response())]);
    let more = leaves.counter("new", 2.0);
    export(&delivery, &more).await.unwrap_err();
    let rest = Collection::default().gauge("stays", 1.0);
    export(&delivery, &rest).await.unwrap();
    let expected = [
        is("counter", "new", 2.0),
        is("gauge", "leaves", None),
        is("gauge", "stays", 1.0),
    ];
    assert_eq!(values(&receiver), expected);
    export(&delivery, &rest).await.unwrap();
    assert_eq!(values(&receiver), [is("gauge", "stays", 1.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_deltas_continue_from_the_last_accepted_push() {
    let (receiver, endpoint) = over_http().await;
    let folder = tempfile::tempdir().unwrap();
    let state = [DELTA, ("STATE_DIR", folder.path().to_str().unwrap())];
    let process = || delivery(&endpoint, &state, vec![]);
    let counted = |value| Collection::default().counter("runs", value);
    let delta = |receiver: &Receiver| values(receiver).pop().unwrap().2.unwrap();
    // There are counts already, and it is unknown whether they were delivered.
    let first = process();
    let instruments = Process::default();
    let counted_there = |value| counted(value).of(&instruments);
    export(&first, &counted_there(20.0)).await.unwrap();
    assert_eq!(delta(&receiver), 0.0);
    export(&first, &counted_there(23.0)).await.unwrap();
    assert_eq!(delta(&receiver), 3.0);
    receiver.answer([Answer::Http(StatusCode::BAD_REQUEST.into_response())]);
    export(&first, &counted_there(24.0)).await.unwrap_err();
    drop(first);
    // Killed: one more was counted and not delivered, and one ended while it was down.
    let second = process();
    let with_new = counted(25.0).counter("new", 7.0);
    export(&second, &with_new).await.unwrap();
    let expected = [is("counter", "new", 7.0), is("counter", "runs", 2.0)];
    assert_eq!(values(&receiver), expected);
    drop(second);
    let third = process();
    export(&third, &with_new).await.unwrap();
    assert!(
        values(&receiver)
            .iter()
            .all(|(_, _, value)| *value == Some(0.0))
    );
    drop(third);
    // The same objects in other series: their counts have been delivered.
    let attributes = [&state[..], &[("METRICS_ATTRIBUTES", "stage=prod")]].concat();
    let other = delivery(&endpoint, &attributes, vec![]);
    let more = counted(25.0).counter("other", 7.0);
    export(&other, &more).await.unwrap();
    let expected = [is("counter", "other", 0.0), is("counter", "runs", 0.0)];
    assert_eq!(values(&receiver), expected);
    drop(other);
    // A damaged file is renamed, and the restored counts are assumed to be delivered.
    let file = |part: &str| {
        let files = std::fs::read_dir(folder.path()).unwrap();
        let mut paths = files.map(|file| file.unwrap().path());
        paths.find(|path| path.to_str().unwrap().contains(part))
    };
    std::fs::write(file("delivered-").unwrap(), "{").unwrap();
    export(&process(), &with_new).await.unwrap();
    assert!(
        values(&receiver)
            .iter()
            .all(|(_, _, value)| *value == Some(0.0))
    );
    assert!(file("damaged-0").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_accepted_before_a_shutdown_are_not_sent_again() {
    let (receiver, endpoint) = over_http().await;
    let folder = tempfile::tempdir().unwrap();
    let small = ("OTLP_MAX_MESSAGE_BYTES", "10000");
    let state = [DELTA, small, ("STATE_DIR", folder.path().to_str().unwrap())];
    let (one, other) = ("1".repeat(6_000), "2".repeat(6_000));
    let with = |value| {
        let collection = Collection::default().counter(&one, value);
        collection.counter(&other, value)
    };
    let process = Process::default();
    let first = delivery(&endpoint, &state, vec![]);
    export(&first, &with(1.0).of(&process)).await.unwrap();
    assert_eq!(got(&receiver).len(), 2);
    let throttled = (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "5")]);
    let answers = [
        Answer::Partial(0, ""),
        Answer::Http(throttled.into_response()),
    ];
    receiver.answer(answers);
    let (give_up, more) = (Notify::new(), with(3.0).of(&process));
    let ends = async {
        // The second message is sent after the first one was accepted.
        while !receiver.has_answered() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        give_up.notify_one();
    };
    let (pushed, ()) = tokio::join!(export_until(&first, &more, &give_up), ends);
    pushed.unwrap_err();
    drop(first);
    got(&receiver);
    let second = delivery(&endpoint, &state, vec![]);
    export(&second, &with(3.0)).await.unwrap();
    let mut deltas: Vec<_> = got(&receiver).iter().map(|point| point.value).collect();
    deltas.sort_by(|one, other| one.partial_cmp(other).unwrap());
    assert_eq!(deltas, [Some(0.0), Some(2.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn low_memory_sends_histograms_as_deltas_and_counters_as_cumulative() {
    let (receiver, endpoint) = over_http().await;
    let preference = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    let delivery = delivery(&endpoint, &[(preference, "lowmemory")], vec![]);
    let collection = all_three("a");
    for _ in 0..2 {
        export(&delivery, &collection).await.unwrap();
    }
    let push = receiver.last().unwrap().metrics;
    for metric in &push.resource_metrics[0].scope_metrics[0].metrics {
        let temporality = match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => sum.aggregation_temporality,
            Data::Histogram(histogram) => {
                assert_eq!(histogram.data_points[0].count, 0);
                assert_eq!(histogram.data_points[0].max, None);
                histogram.aggregation_temporality + 1
            }
            _ => continue,
        };
        assert_eq!(temporality, AggregationTemporality::Cumulative as i32);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_run_arrives_once_through_failures_a_kill_and_a_restart() {
    let stub = small_stub().await;
    let (receiver, endpoint) = over_http().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        DELTA,
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("STATE_DIR", folder.path().to_str().unwrap()),
    ];
    let mut arrived = 0.0;
    let mut count = move |receiver: &Receiver| {
        let finished = got_of(receiver, "prefect.flow_runs.finished").into_iter();
        arrived += finished.map(|point| point.value.unwrap()).sum::<f64>();
        arrived
    };
    let end = |runs: std::ops::Range<usize>| {
        let runs = runs.map(|number| fleet::run_at(number, "COMPLETED", 0));
        stub.contents().flow_runs.extend(runs);
    };
    let url = stub.url.clone();
    tokio::task::block_in_place(|| {
        let patience = Duration::from_secs(60);
        let shown = |agent: &AgentProcess, runs: f64| {
            agent.wait_for_page("the runs on the page", |page| {
                let all = page.family("prefect_flow_runs_finished_total");
                (all.values().sum::<f64>() == runs).then_some(())
            });
        };
        let mut agent = AgentProcess::start(&url, &settings);
        agent.wait_for_page("a cycle", |page| {
            let all = page.family("prefect_flow_runs_finished_total");
            (!all.is_empty()).then_some(())
        });
        end(0..10);
        wait_for("ten runs", || (count(&receiver) == 10.0).then_some(()));
        let refuse = || Answer::Http(StatusCode::BAD_REQUEST.into_response());
        receiver.answer(std::iter::repeat_with(refuse).take(10_000));
        end(10..20);
        shown(&agent, 20.0);
        agent.process.signal("-KILL");
        agent.process.wait(patience);
        receiver.answer_well();
        end(20..30);
        let agent = AgentProcess::start(&url, &settings);
        shown(&agent, 30.0);
        wait_for("thirty runs", || (count(&receiver) == 30.0).then_some(()));
        let pushes =
            |page: &Page| page.value("prefect_agent_exports_total", &[("outcome", "success")]);
        let so_far = pushes(&agent.page()).unwrap();
        agent.wait_for_page("more pushes", |page| {
            pushes(page).filter(|count| *count > so_far + 2.0)
        });
        assert_eq!(count(&receiver), 30.0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_tags_does_not_repeat_counts() {
    let stub = small_stub().await;
    let (receiver, endpoint) = over_http().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        DELTA,
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("STATE_DIR", folder.path().to_str().unwrap()),
        ("DEPLOYMENT_TAG_LABELS", "team"),
    ];
    let mut arrived = 0.0;
    let mut pushes = 0;
    // The sum of all deltas, and the number of pushes with an increase.
    let mut count = |receiver: &Receiver| {
        let finished = got_of(receiver, "prefect.flow_runs.finished");
        let times: std::collections::BTreeSet<u64> =
            finished.iter().map(|point| point.time).collect();
        pushes += times.len();
        arrived += finished.iter().filter_map(|point| point.value).sum::<f64>();
        (arrived, pushes)
    };
    let end = |runs: usize| {
        let runs = (0..runs).map(|_| fleet::ended(0, "COMPLETED"));
        stub.contents().flow_runs.extend(runs);
    };
    let tag = |team: &str| stub.contents().deployments[0]["tags"] = serde_json::json!([team]);
    let patience = Duration::from_secs(60);
    tokio::task::block_in_place(|| {
        let mut wait = |runs: f64| {
            let after = wait_for(&format!("{runs} runs"), || {
                let (arrived, pushes) = count(&receiver);
                assert!(arrived <= runs, "{arrived} of {runs} runs");
                (arrived == runs).then_some(pushes)
            });
            // Nothing is sent twice.
            wait_for("more pushes", || {
                let (arrived, pushes) = count(&receiver);
                assert_eq!(arrived, runs);
                (pushes > after + 3).then_some(())
            });
        };
        tag("team:blue");
        let mut agent = AgentProcess::start(&stub.url, &settings);
        wait(0.0);
        end(20);
        wait(20.0);
        tag("team:green");
        wait(20.0);
        end(20);
        wait(40.0);
        // The same while no push arrives and the process is killed.
        let refuse = || Answer::Http(StatusCode::BAD_REQUEST.into_response());
        receiver.answer(std::iter::repeat_with(refuse).take(10_000));
        end(5);
        pass(&stub, 3);
        tag("team:blue");
        pass(&stub, 3);
        end(5);
        pass(&stub, 3);
        agent.process.signal("-KILL");
        agent.process.wait(patience);
        receiver.answer_well();
        end(5);
        let mut agent = AgentProcess::start(&stub.url, &settings);
        wait(55.0);
        agent.process.signal("-TERM");
        agent.process.wait(patience);
        tag("team:green");
        end(5);
        let _agent = AgentProcess::start(&stub.url, &settings);
        wait(60.0);
    });
}
