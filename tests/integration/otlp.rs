//! The push path: a receiver gets the same data as `/metrics`.

use std::net::SocketAddr;
use std::time::Duration;

use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, metric::Data};

use crate::support::otlp::{Received, Receiver, translated};
use crate::support::page::Page;
use crate::support::process::{AgentProcess, wait_for};
use crate::support::stub::Stub;
use crate::support::tls::Certificates;
use crate::support::{self, fleet};

/// A fleet with at least one series in every family with attributes.
async fn stub() -> Stub {
    let stub = support::small_stub().await;
    {
        let mut contents = stub.contents();
        for (number, state) in ["RUNNING", "PENDING", "COMPLETED", "FAILED", "CRASHED"]
            .iter()
            .enumerate()
        {
            contents.flow_runs.push(fleet::run_at(number, state, 20));
        }
        let mut late = fleet::run_at(9, "SCHEDULED", 60);
        late["state_name"] = serde_json::json!("Late");
        contents.flow_runs.push(late);
    }
    stub
}

fn assert_same(pushed: &Page, pulled: &Page) {
    let pushed: Vec<_> = pushed.series.iter().collect();
    let pulled: Vec<_> = pulled.series.iter().collect();
    for ((pushed, value), (pulled, other)) in pushed.iter().zip(&pulled) {
        assert_eq!(pushed, pulled);
        // Concurrent requests are recorded in any order, and sums depend on it.
        let tolerance = value.abs() * 1e-9;
        assert!(
            (**value - **other).abs() <= tolerance,
            "{pushed:?}: {value} and {other}"
        );
    }
    assert_eq!(pushed.len(), pulled.len());
    assert!(pushed.len() > 60, "{}", pushed.len());
}

/// Runs one cycle of an agent with both exporters; returns the push and the page.
async fn one_cycle(stub: &Stub, receiver: &Receiver, more: &[(&str, &str)]) -> (Received, Page) {
    let mut settings = vec![("OTEL_METRICS_EXPORTER", "otlp,prometheus")];
    settings.extend(more);
    let mut agent = support::agent(&stub.url, &settings).await;
    // The page before the first cycle is pushed too.
    tokio::task::block_in_place(|| wait_for("the first push", || receiver.last()));
    receiver.pushes.lock().unwrap().clear();
    let page = support::cycle(&mut agent).await;
    let push = tokio::task::block_in_place(|| wait_for("a push", || receiver.last()));
    (push, page)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_with_gzip_and_headers() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let receiver = Receiver::http(listener).await;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=data%20team"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        ),
        ("OTEL_SERVICE_NAME", "prefect-metrics"),
    ];
    let (push, page) = one_cycle(&stub().await, &receiver, &settings).await;
    assert_same(&translated(&push), &page);
    assert_eq!(push.headers["content-encoding"], "gzip");
    assert_eq!(push.headers["x-tenant"], "data team");
    let target = page.family("target_info").into_keys().next().unwrap();
    assert_eq!(target["service_name"], "prefect-metrics");
    assert_eq!(target["deployment_environment_name"], "test");
    assert_eq!(target["service_version"], env!("CARGO_PKG_VERSION"));
    assert!(uuid::Uuid::parse_str(&target["service_instance_id"]).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc_with_gzip_and_metadata() {
    let address: SocketAddr = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let receiver = Receiver::grpc(address);
    let endpoint = format!("http://{address}");
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=data"),
    ];
    let (push, page) = one_cycle(&stub().await, &receiver, &settings).await;
    assert_same(&translated(&push), &page);
    assert_eq!(push.headers["grpc-encoding"], "gzip");
    assert_eq!(push.headers["x-tenant"], "data");
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_temporality_pushes_what_is_new() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let receiver = Receiver::http(listener).await;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
    ];
    let (push, _) = one_cycle(&stub().await, &receiver, &settings).await;
    let metrics = push
        .metrics
        .resource_metrics
        .iter()
        .flat_map(|resource| &resource.scope_metrics);
    let sums: Vec<_> = metrics
        .flat_map(|scope| &scope.metrics)
        .filter_map(|metric| match metric.data.as_ref() {
            // Up-down counters stay cumulative, according to the specification.
            Some(Data::Sum(sum)) if sum.is_monotonic => Some(sum.aggregation_temporality),
            Some(Data::Histogram(histogram)) => Some(histogram.aggregation_temporality),
            _ => None,
        })
        .collect();
    assert!(!sums.is_empty());
    assert!(
        sums.iter()
            .all(|temporality| *temporality == AggregationTemporality::Delta as i32)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exponential_histograms_are_pushed_and_explicit_ones_are_served() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let receiver = Receiver::http(listener).await;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
        ),
    ];
    let (push, page) = one_cycle(&stub().await, &receiver, &settings).await;
    let metrics = push
        .metrics
        .resource_metrics
        .iter()
        .flat_map(|resource| &resource.scope_metrics)
        .flat_map(|scope| &scope.metrics);
    let (mut exponential, mut explicit) = (0, 0);
    for metric in metrics {
        match metric.data.as_ref() {
            Some(Data::ExponentialHistogram(_)) => exponential += 1,
            Some(Data::Histogram(_)) => explicit += 1,
            _ => {}
        }
    }
    assert!(exponential > 0 && explicit == 0);
    let buckets = page.family("http_client_request_duration_seconds_bucket");
    assert!(buckets.keys().any(|labels| labels["le"] == "0.25"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_collector_is_two_log_lines_and_blocks_nothing() {
    let stub = stub().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let endpoint = format!("http://{address}");
    let url = stub.url.clone();
    let agent = tokio::task::block_in_place(|| {
        let settings = [
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
        ];
        let agent = AgentProcess::start(&url, &settings);
        agent.process.wait_for_line("pushes fail");
        let cycles = |agent: &AgentProcess| {
            agent
                .page()
                .value("prefect_agent_cycles_total", &[("outcome", "success")])
        };
        // Several pushes fail, and cycles continue at their pace.
        wait_for("cycles", || cycles(&agent).filter(|count| *count >= 4.0));
        agent
    });
    let receiver = Receiver::http(tokio::net::TcpListener::bind(address).await.unwrap()).await;
    tokio::task::block_in_place(|| {
        agent.process.wait_for_line("pushes succeed again");
        wait_for("a push", || receiver.last());
        let log = agent.process.log();
        assert_eq!(agent.process.lines_with("pushes fail"), 1, "{log:#?}");
        assert_eq!(
            agent.process.lines_with("pushes succeed again"),
            1,
            "{log:#?}"
        );
        assert_eq!(agent.process.lines_with("WARN"), 1, "{log:#?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_own_spans_and_logs_are_pushed_if_enabled() {
    let stub = stub().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let receiver = Receiver::http(listener).await;
    let url = stub.url.clone();
    tokio::task::block_in_place(|| {
        let settings = [
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ];
        let mut agent = AgentProcess::start(&url, &settings);
        agent.wait_for_page("a cycle", |page| {
            page.value("prefect_up", &[]).filter(|up| *up == 1.0)
        });
        agent.process.signal("-TERM");
        assert!(agent.process.wait(Duration::from_secs(20)).success());
    });
    let logs = receiver.logs.lock().unwrap();
    for line in ["started", "Prefect can be read", "shutting down"] {
        assert!(logs.iter().any(|log| log == line), "{line} in {logs:?}");
    }
    let spans = receiver.spans.lock().unwrap();
    for name in [
        "cycle",
        "section",
        "POST /flow_runs/filter",
        "GET /admin/version",
    ] {
        assert!(spans.iter().any(|span| span == name), "{name} in {spans:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_mutual_tls_with_a_private_authority() {
    for protocol in ["http/protobuf", "grpc"] {
        let certificates = Certificates::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (authority, (certificate, key)) = (&certificates.authority, &certificates.server);
        let receiver = match protocol {
            "grpc" => {
                drop(listener);
                let address = format!("127.0.0.1:{port}").parse().unwrap();
                Receiver::grpc_over_tls(address, authority, certificate, key)
            }
            _ => Receiver::http_over_tls(listener, authority, certificate, key),
        };
        let endpoint = format!("https://localhost:{port}");
        let (ca, cert, key) = (
            certificates.path("ca"),
            certificates.path("cert"),
            certificates.path("key"),
        );
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.as_str()),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", cert.as_str()),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", key.as_str()),
        ];
        let (push, page) = one_cycle(&stub().await, &receiver, &settings).await;
        assert_same(&translated(&push), &page);
    }
}
