//! The agent's own traces and logs over gRPC.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tonic::codec::CompressionEncoding;

use crate::support::process::{AgentProcess, wait_for};
use crate::support::small_stub;

/// Names of spans, bodies of logs, and the number of requests.
#[derive(Clone, Default)]
struct Receiver {
    received: Arc<Mutex<BTreeSet<String>>>,
    requests: Arc<Mutex<usize>>,
}

impl Receiver {
    /// Refuses every second request, with details that are not Base64.
    fn refuse(&self) -> Result<(), tonic::Status> {
        let mut requests = self.requests.lock().unwrap();
        *requests += 1;
        if (*requests).is_multiple_of(2) {
            return Ok(());
        }
        let details = axum::http::HeaderMap::from_iter([(
            axum::http::HeaderName::from_static("grpc-status-details-bin"),
            axum::http::HeaderValue::from_static("no base64!"),
        )]);
        let metadata = tonic::metadata::MetadataMap::from_headers(details);
        Err(tonic::Status::with_metadata(
            tonic::Code::Unavailable,
            "no",
            metadata,
        ))
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.refuse()?;
        assert_eq!(request.metadata().get("x-token").unwrap(), "own");
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        let names = scopes.flat_map(|scope| scope.spans).map(|span| span.name);
        self.received.lock().unwrap().extend(names);
        Ok(tonic::Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        self.refuse()?;
        let resources = request.into_inner().resource_logs.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_logs);
        let records = scopes.flat_map(|scope| scope.log_records);
        let bodies = records.filter_map(|record| match record.body?.value? {
            Value::StringValue(text) => Some(text),
            _ => None,
        });
        self.received.lock().unwrap().extend(bodies);
        Ok(tonic::Response::new(Default::default()))
    }
}

#[test]
fn malformed_details_do_not_end_the_agent_and_what_was_refused_is_sent_again() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let traces = Receiver::default();
    // Each refuses every second request for itself.
    let logs = Receiver {
        received: Arc::clone(&traces.received),
        ..Receiver::default()
    };
    let both = [traces.clone(), logs.clone()];
    runtime.spawn(async move {
        let gzip = CompressionEncoding::Gzip;
        let traces = TraceServiceServer::new(traces).accept_compressed(gzip);
        let logs = LogsServiceServer::new(logs).accept_compressed(gzip);
        let server = tonic::transport::Server::builder().add_service(traces);
        server.add_service(logs).serve(address).await.unwrap();
    });
    let endpoint = format!("http://{address}");
    let settings = [
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=own"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "200"),
    ];
    let agent = AgentProcess::start(&stub.url, &settings);
    for name in [
        "cycle",
        "GET /admin/version",
        "started",
        "Prefect can be read",
    ] {
        wait_for(name, || {
            let received = both[0].received.lock().unwrap();
            received.contains(name).then_some(())
        });
    }
    for receiver in both {
        assert!(*receiver.requests.lock().unwrap() > 1);
    }
    assert_eq!(agent.process.lines_with("panicked"), 0);
    assert_eq!(agent.get("/healthz").0, 200);
}
