//! Delivery over OTLP: marks, message sizes, rejected and failed pushes.

use std::time::{Duration, Instant, SystemTime};

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use opentelemetry::KeyValue;
use prefect_otel_agent::metrics::Point;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::collected::{Collection, Process, delivery, export, outcome};
use crate::support::fleet;
use crate::support::otlp::{Answer, Received, Receiver, translated};
use crate::support::points::{Got, all_three, got, got_of, is, over_grpc, over_http, values};
use crate::support::prefect::free_port;
use crate::support::process::{AgentProcess, wait_for};
use crate::support::small_stub;
use crate::support::tls::Certificates;

const DELTA: (&str, &str) = ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta");
const GRPC: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_ends_is_marked_until_the_mark_is_accepted() {
    let (receiver, endpoint) = over_http().await;
    let delivery = delivery(&endpoint, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "300")], vec![]);
    export(&delivery, &all_three("leaves")).await.unwrap();
    assert_eq!(got(&receiver).len(), 4);
    let rest = Collection::default().gauge("stays", 1.0);
    receiver.answer([Answer::Http(StatusCode::BAD_REQUEST.into_response())]);
    export(&delivery, &rest).await.unwrap_err();
    export(&delivery, &rest).await.unwrap();
    let marked = values(&receiver);
    let expected = [
        is("counter", "leaves", None),
        is("gauge", "leaves", None),
        is("gauge", "stays", 1.0),
        is("histogram", "leaves", None),
    ];
    assert_eq!(marked, expected);
    export(&delivery, &rest).await.unwrap();
    assert_eq!(values(&receiver), [is("gauge", "stays", 1.0)]);
    // A series in a push that failed may also have been stored.
    receiver.answer([Answer::Http(StatusCode::BAD_REQUEST.into_response())]);
    let more = rest.clone().gauge("doubtful", 1.0);
    export(&delivery, &more).await.unwrap_err();
    export(&delivery, &rest).await.unwrap();
    let expected = [is("gauge", "doubtful", None), is("gauge", "stays", 1.0)];
    assert_eq!(values(&receiver), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_that_are_all_withheld_are_marked() {
    let stub = small_stub().await;
    let (receiver, endpoint) = over_http().await;
    let settings = [
        ("SAMPLE_INTERVAL_SECONDS", "1"),
        ("INVENTORY_INTERVAL_SECONDS", "1"),
        ("METRICS_INCLUDE", "prefect_info_*"),
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
    ];
    tokio::task::block_in_place(|| {
        let _agent = AgentProcess::start(&stub.url, &settings);
        let flows = || got_of(&receiver, "prefect.info.flows").pop();
        wait_for("a flow", || flows()?.value);
        stub.contents().delay = Duration::from_secs(600);
        wait_for("its mark", || flows()?.value.is_none().then_some(()));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_have_the_time_at_which_counting_began_as_start_time() {
    let (receiver, endpoint) = over_http().await;
    let started = SystemTime::now() - Duration::from_secs(86_400);
    let restored = Point {
        value: 5.0,
        attributes: vec![KeyValue::new("key", "restored")],
        start: Some(started),
    };
    let delivery = delivery(&endpoint, &[], vec![restored]);
    let both = Collection::default()
        .counter("restored", 5.0)
        .counter("own", 1.0);
    export(&delivery, &both).await.unwrap();
    let first = got(&receiver);
    assert_eq!(
        (first[0].key.as_str(), first[1].key.as_str()),
        ("own", "restored")
    );
    let day = started.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(u128::from(first[1].start), day.as_nanos());
    assert!(first[0].start > first[1].start && first[0].start <= first[0].time);
    // It ends and returns: then it starts at the time of the previous collection.
    let without = Collection::default().counter("restored", 5.0);
    export(&delivery, &without).await.unwrap();
    let gone = got(&receiver);
    export(&delivery, &both).await.unwrap();
    let back = got(&receiver);
    assert_eq!(back[0].start, gone[1].time);
    export(&delivery, &both).await.unwrap();
    assert_eq!(got(&receiver)[0].start, gone[1].time);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_histogram_that_is_reset_has_a_new_start() {
    let (receiver, endpoint) = over_http().await;
    let delivery = delivery(&endpoint, &[], vec![]);
    let start = async |collection: &Collection| {
        export(&delivery, collection).await.unwrap();
        let all = got(&receiver);
        let runs = all.iter().find(|point| point.key == "runs").unwrap();
        (runs.start, runs.time)
    };
    let with = |collection: Collection| collection.histogram("runs", &[2.0]);
    let process = Process::default();
    let nothing = Collection::default().gauge("stays", 1.0).of(&process);
    export(&delivery, &nothing).await.unwrap();
    let before = got(&receiver)[0].time;
    let first = with(nothing.clone());
    let (started, time) = start(&first).await;
    assert_eq!(started, before, "it was not in the collection before");
    let reset = with(Collection::default());
    let (restarted, _) = start(&reset).await;
    assert!(restarted > time);
    assert_eq!(start(&reset).await.0, restarted);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_start_is_later_than_its_point_or_before_1970() {
    let (receiver, endpoint) = over_http().await;
    let ahead = SystemTime::now() + Duration::from_secs(300);
    let long_ago = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    let point = |key: &'static str, start| Point {
        value: 5.0,
        attributes: vec![KeyValue::new("key", key)],
        start: Some(start),
    };
    let points = vec![point("ahead", ahead), point("long ago", long_ago)];
    for more in [&[][..], &[DELTA]] {
        let delivery = delivery(&endpoint, more, points.clone());
        let collection = Collection::default();
        let collection = collection.counter("ahead", 5.0).counter("long ago", 5.0);
        export(&delivery, &collection).await.unwrap();
        let first = got(&receiver);
        for point in &first {
            let hour = Duration::from_secs(3_600).as_nanos() as u64;
            let latest = point.time - hour..=point.time;
            assert!(latest.contains(&point.start), "{point:?}");
        }
        export(&delivery, &collection).await.unwrap();
        if more.is_empty() {
            let starts = |all: &[Got]| all.iter().map(|point| point.start).collect::<Vec<_>>();
            assert_eq!(starts(&got(&receiver)), starts(&first), "no reset");
        } else {
            got(&receiver);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_below_the_limit_is_one_message_with_its_histograms() {
    let stub = small_stub().await;
    let (receiver, endpoint) = over_http().await;
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
    ];
    tokio::task::block_in_place(|| {
        let _agent = AgentProcess::start(&stub.url, &settings);
        wait_for("a push with gauges", || {
            receiver.last().filter(|push| has(push, "prefect_up"))
        });
        stub.contents().flow_runs.push(fleet::ended(0, "COMPLETED"));
        wait_for("three pushes with histograms", || {
            let pushes = receiver.pushes.lock().unwrap();
            let of = |family| pushes.iter().filter(move |push| has(push, family));
            let histograms = of("prefect_flow_run_duration_seconds_count");
            assert!(histograms.clone().all(|push| has(push, "prefect_up")));
            (histograms.count() >= 3).then_some(())
        });
    });
}

fn has(push: &Received, family: &str) -> bool {
    !translated(push).family(family).is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_split_into_messages_below_the_limit() {
    let (http, grpc) = (over_http().await, over_grpc());
    for ((receiver, endpoint), protocol) in [(http, None), (grpc, Some(GRPC))] {
        let mut settings = vec![("OTLP_MAX_MESSAGE_BYTES", "10000")];
        settings.extend(protocol);
        let delivery = delivery(&endpoint, &settings, vec![]);
        let mut collection = Collection::default().gauge(&"x".repeat(20_000), 1.0);
        for number in 0..1_000 {
            collection = collection
                .gauge(&number.to_string(), 1.0)
                .counter(&number.to_string(), 1.0);
        }
        export(&delivery, &collection).await.unwrap();
        let pushes = receiver.take_pushes();
        assert!(pushes.len() > 5);
        for push in &pushes {
            assert!(prost::Message::encoded_len(&push.metrics) <= 10_000);
        }
        assert_eq!(outcome(&delivery, "accepted"), 2_000);
        assert_eq!(outcome(&delivery, "dropped"), 1);
        // A refused message does not prevent the others from arriving.
        let refused = match protocol {
            None => Answer::Http(StatusCode::PAYLOAD_TOO_LARGE.into_response()),
            Some(_) => Answer::Grpc(tonic::Status::resource_exhausted("too large")),
        };
        receiver.answer([refused]);
        let error = export(&delivery, &collection).await.unwrap_err();
        assert!(error.contains("OTLP_MAX_MESSAGE_BYTES"), "{error}");
        assert_eq!(receiver.take_pushes().len(), pushes.len() - 1);
        let (accepted, failed) = (outcome(&delivery, "accepted"), outcome(&delivery, "failed"));
        assert!(failed > 0 && accepted + failed == 4_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_leaves_no_space_for_points_is_a_failure() {
    let (receiver, endpoint) = over_http().await;
    let small = ("OTLP_MAX_MESSAGE_BYTES", "10000");
    let delivery = delivery(&endpoint, &[small], vec![]);
    let all_too_large = Collection::default().gauge(&"x".repeat(20_000), 1.0);
    let error = export(&delivery, &all_too_large).await.unwrap_err();
    assert!(error.contains("OTEL_RESOURCE_ATTRIBUTES"), "{error}");
    assert!(receiver.take_pushes().is_empty());
    assert_eq!(outcome(&delivery, "dropped"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_failures_are_retried_when_the_receiver_asks_for_it() {
    let (receiver, endpoint) = over_http().await;
    let collection = Collection::default().gauge("a", 1.0);
    let http = delivery(&endpoint, &[], vec![]);
    let later = [("retry-after", "1")];
    receiver.answer([
        Answer::Http((StatusCode::TOO_MANY_REQUESTS, later).into_response()),
        Answer::Http(StatusCode::BAD_GATEWAY.into_response()),
    ]);
    let started = Instant::now();
    export(&http, &collection).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(receiver.take_pushes().len(), 1);
    // Other failures are not retried.
    let boom = (StatusCode::INTERNAL_SERVER_ERROR, "boom").into_response();
    receiver.answer([Answer::Http(boom)]);
    let error = export(&http, &collection).await.unwrap_err();
    assert!(error.contains("HTTP 500: boom"), "{error}");
    // Nothing is sent to a receiver that asks for a long wait.
    let later = [("retry-after", "300")];
    let busy = (StatusCode::SERVICE_UNAVAILABLE, later).into_response();
    receiver.answer([Answer::Http(busy)]);
    export(&http, &collection).await.unwrap_err();
    let error = export(&http, &collection).await.unwrap_err();
    assert!(error.contains("asked for no more messages"), "{error}");
    assert!(receiver.take_pushes().is_empty());

    let (receiver, endpoint) = over_grpc();
    let grpc = delivery(&endpoint, &[GRPC], vec![]);
    let wait = tonic_types::ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
    let throttled = tonic::Status::with_error_details(Code::ResourceExhausted, "later", wait);
    receiver.answer([
        Answer::Grpc(throttled),
        Answer::Grpc(tonic::Status::unavailable("soon")),
    ]);
    let started = Instant::now();
    export(&grpc, &collection).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(receiver.take_pushes().len(), 1);
    receiver.answer([Answer::Grpc(tonic::Status::unauthenticated("who?"))]);
    let error = export(&grpc, &collection).await.unwrap_err();
    assert!(
        error.contains("who?") && error.contains("OTLP_HEADERS"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_the_receiver_rejects_are_counted_and_logged_once() {
    let stub = small_stub().await;
    let (http, grpc) = (over_http().await, over_grpc());
    for ((receiver, endpoint), protocol) in [(http, "http/protobuf"), (grpc, "grpc")] {
        let rejected = (0..1_000).map(|number| match number % 2 {
            0 => Answer::Partial(3, "3 points are too old"),
            _ => Answer::Partial(4, "4 points are too old"),
        });
        receiver.answer(rejected);
        let url = stub.url.clone();
        tokio::task::block_in_place(|| {
            let settings = [
                ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ];
            let agent = AgentProcess::start(&url, &settings);
            let points = "prefect_agent_export_points_total";
            agent.wait_for_page("rejected points", |page| {
                let rejected = page.value(points, &[("outcome", "rejected")]);
                rejected.filter(|count| *count >= 10.0)
            });
            let accepted = agent.page().value(points, &[("outcome", "accepted")]);
            assert!(accepted.unwrap() > 100.0);
            assert_eq!(agent.process.lines_with("points are too old"), 1);
            assert_eq!(agent.process.lines_with("pushes fail"), 0);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_page_is_a_failure_that_names_the_endpoint() {
    let (receiver, endpoint) = over_http().await;
    let delivery = delivery(&endpoint, &[], vec![]);
    let headers = [("content-type", "text/html")];
    let page = (headers, "<html><h1>Log in</h1></html>").into_response();
    receiver.answer([Answer::Http(page)]);
    let collection = Collection::default().gauge("a", 1.0);
    let error = export(&delivery, &collection).await.unwrap_err();
    assert!(error.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{error}");
    assert!(error.contains("Log in"), "{error}");
    assert_eq!(outcome(&delivery, "accepted"), 0);
    // Like Prometheus: no body and no content type.
    receiver.answer([Answer::Http(StatusCode::OK.into_response())]);
    export(&delivery, &collection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_a_receiver_repeats_are_not_logged() {
    let headers = (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "authorization=Bearer%20hunter2-token",
    );
    let collection = Collection::default().gauge("a", 1.0);
    let (receiver, endpoint) = over_http().await;
    let over_http = delivery(&endpoint, &[headers], vec![]);
    // Even if the text is truncated in the middle of one.
    for before in [10, 290] {
        let said = format!("{} Bearer hunter2-token", "x".repeat(before));
        let answer = (StatusCode::UNAUTHORIZED, said).into_response();
        receiver.answer([Answer::Http(answer)]);
        let error = export(&over_http, &collection).await.unwrap_err();
        assert!(error.contains("401") && !error.contains("hunt"), "{error}");
    }
    let (receiver, endpoint) = over_grpc();
    let over_grpc = delivery(&endpoint, &[headers, GRPC], vec![]);
    let said = "the token hunter2-token is not known";
    receiver.answer([Answer::Grpc(tonic::Status::unauthenticated(said))]);
    let error = export(&over_grpc, &collection).await.unwrap_err();
    assert!(error.contains("the token *"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_details_are_an_ordinary_failure() {
    let (receiver, endpoint) = over_grpc();
    let delivery = delivery(&endpoint, &[GRPC], vec![]);
    let details = [("grpc-status-details-bin", "no base64!")];
    let details = details.map(|(name, value)| {
        let name = axum::http::HeaderName::from_static(name);
        (name, axum::http::HeaderValue::from_static(value))
    });
    let metadata = tonic::metadata::MetadataMap::from_headers(details.into_iter().collect());
    let status = tonic::Status::with_metadata(Code::InvalidArgument, "no", metadata);
    receiver.answer([Answer::Grpc(status)]);
    let collection = Collection::default().gauge("a", 1.0);
    let error = export(&delivery, &collection).await.unwrap_err();
    assert!(error.contains("InvalidArgument"), "{error}");
    export(&delivery, &collection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_names_its_setting() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    for protocol in ["http/protobuf", "grpc"] {
        let error = error(&endpoint, protocol, &[]).await;
        assert!(error.contains("OTEL_EXPORTER_OTLP_TIMEOUT"), "{error}");
    }
}

/// The error of a push to `endpoint`.
async fn error(endpoint: &str, protocol: &str, more: &[(&str, &str)]) -> String {
    let mut settings = vec![
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
    ];
    settings.extend(more);
    let delivery = delivery(endpoint, &settings, vec![]);
    let collection = Collection::default().gauge("a", 1.0);
    export(&delivery, &collection).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_a_wrong_certificate_and_a_wrong_name_have_different_errors() {
    let certificates = Certificates::new();
    let others = Certificates::new();
    let authority = others.path("ca");
    for protocol in ["http/protobuf", "grpc"] {
        let refused = error(&format!("http://127.0.0.1:{}", free_port()), protocol, &[]).await;
        assert!(refused.contains("Connection refused"), "{refused}");
        assert!(refused.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{refused}");
        let unknown = error("http://collector.invalid:4999", protocol, &[]).await;
        assert!(unknown.contains("lookup"), "{unknown}");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (certificate, key) = &certificates.server;
        Receiver::http_over_tls(listener, &certificates.authority, certificate, key);
        let trusted = [("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.as_str())];
        let untrusted = error(&format!("https://localhost:{port}"), protocol, &trusted).await;
        assert!(
            untrusted.contains("unknown authority")
                || untrusted.contains("not signed by the trusted authority"),
            "{untrusted}"
        );
        assert!(
            untrusted.contains("OTEL_EXPORTER_OTLP_CERTIFICATE"),
            "{untrusted}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_protocol_for_a_port_is_named() {
    let (_http, http) = over_http().await;
    let (_grpc, grpc) = over_grpc();
    let hint = error(&http, "grpc", &[]).await;
    assert!(hint.contains("4317"), "{hint}");
    let hint = error(&grpc, "http/protobuf", &[]).await;
    assert!(hint.contains("4318"), "{hint}");
}
