//! An OTLP receiver over HTTP and gRPC, built from the protocol's definitions.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use prost::Message as _;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;

use super::page::{Labels, Page};
use super::tls::TlsListener;

/// One push: its headers or metadata, and its content.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) metrics: ExportMetricsServiceRequest,
}

/// The receiver, with the pushes so far.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    pub(crate) pushes: Arc<Mutex<Vec<Received>>>,
    pub(crate) spans: Arc<Mutex<Vec<String>>>,
    pub(crate) logs: Arc<Mutex<Vec<String>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    /// The answer to every push, once `answers` are used up.
    always: Arc<Mutex<Option<MakeAnswer>>>,
    /// How often it has been given.
    given: Arc<AtomicUsize>,
}

/// The answer of the receiver to a push of metrics, instead of accepting it.
pub(crate) enum Answer {
    /// Accepted, except this many points.
    Partial(i64, &'static str),
    /// Over HTTP; for a receiver over gRPC, this answer over HTTP/2.
    Http(Response),
    /// Over gRPC.
    Grpc(tonic::Status),
}

/// Makes an answer each time, since answers cannot be copied.
pub(crate) type MakeAnswer = fn() -> Answer;

impl Receiver {
    /// Listens for OTLP over HTTP.
    pub(crate) async fn http(listener: tokio::net::TcpListener) -> Self {
        let receiver = Receiver::default();
        let router = receiver.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        receiver
    }

    /// The same over TLS, for clients with a certificate of `authority`.
    pub(crate) fn http_over_tls(
        listener: tokio::net::TcpListener,
        authority: &str,
        certificate: &str,
        key: &str,
    ) -> Self {
        let receiver = Receiver::default();
        let router = receiver.router();
        let listener = TlsListener::new(listener, certificate, key, Some(authority));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        receiver
    }

    fn router(&self) -> axum::Router {
        let (metrics, traces, logs) = (self.clone(), self.clone(), self.clone());
        axum::Router::new()
            .route(
                "/v1/metrics",
                axum::routing::post(move |headers: HeaderMap, body: Bytes| async move {
                    assert_eq!(headers["content-type"], "application/x-protobuf");
                    let body = plain(&headers, &body);
                    let request = ExportMetricsServiceRequest::decode(body.as_slice());
                    let answer = metrics.next_answer();
                    let response = match answer {
                        Some(Answer::Http(response)) => return response,
                        Some(Answer::Grpc(_)) => unreachable!("this is HTTP"),
                        Some(Answer::Partial(rejected, why)) => partial(rejected, why),
                        None => ExportMetricsServiceResponse::default(),
                    };
                    metrics.take(&headers, request.unwrap());
                    let headers = [("content-type", "application/x-protobuf")];
                    (headers, response.encode_to_vec()).into_response()
                })
                // The collector's default limit.
                .layer(DefaultBodyLimit::max(20 * 1024 * 1024)),
            )
            .route(
                "/v1/traces",
                axum::routing::post(move |headers: HeaderMap, body: Bytes| async move {
                    let body = plain(&headers, &body);
                    let request = ExportTraceServiceRequest::decode(body.as_slice());
                    let spans = request.unwrap().resource_spans.into_iter();
                    let spans = spans.flat_map(|resource| resource.scope_spans);
                    let names = spans.flat_map(|scope| scope.spans).map(|span| span.name);
                    traces.spans.lock().unwrap().extend(names);
                }),
            )
            .route(
                "/v1/logs",
                axum::routing::post(move |headers: HeaderMap, body: Bytes| async move {
                    let body = plain(&headers, &body);
                    let request = ExportLogsServiceRequest::decode(body.as_slice()).unwrap();
                    let scopes = request
                        .resource_logs
                        .into_iter()
                        .flat_map(|logs| logs.scope_logs);
                    let records = scopes.flat_map(|scope| scope.log_records);
                    let bodies = records.filter_map(|record| match record.body?.value? {
                        Value::StringValue(text) => Some(text),
                        _ => None,
                    });
                    logs.logs.lock().unwrap().extend(bodies);
                }),
            )
    }

    /// Listens for OTLP over gRPC.
    pub(crate) fn grpc(address: SocketAddr) -> Self {
        Receiver::grpc_on(address, tonic::transport::Server::builder())
    }

    /// The same over TLS, for clients with a certificate of `authority`.
    pub(crate) fn grpc_over_tls(
        address: SocketAddr,
        authority: &str,
        certificate: &str,
        key: &str,
    ) -> Self {
        use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(authority));
        Receiver::grpc_on(address, Server::builder().tls_config(tls).unwrap())
    }

    fn grpc_on(address: SocketAddr, mut server: tonic::transport::Server) -> Self {
        let receiver = Receiver::default();
        let service = MetricsServiceServer::new(receiver.clone())
            .accept_compressed(CompressionEncoding::Gzip);
        let instead = axum::middleware::from_fn_with_state(receiver.clone(), instead);
        let router = Routes::new(service).into_axum_router().layer(instead);
        tokio::spawn(async move {
            let routes = Routes::from(router);
            server.add_routes(routes).serve(address).await.unwrap();
        });
        receiver
    }

    fn next_answer(&self) -> Option<Answer> {
        let next = self.answers.lock().unwrap().pop_front();
        next.or_else(|| {
            let answer = (*self.always.lock().unwrap())?;
            self.given.fetch_add(1, Ordering::Relaxed);
            Some(answer())
        })
    }

    /// From now on, answers every push like this.
    pub(crate) fn always(&self, answer: Option<MakeAnswer>) {
        *self.always.lock().unwrap() = answer;
        self.given.store(0, Ordering::Relaxed);
    }

    /// How many pushes have been answered like this.
    pub(crate) fn answered(&self) -> usize {
        self.given.load(Ordering::Relaxed)
    }

    fn take(&self, headers: &HeaderMap, metrics: ExportMetricsServiceRequest) {
        let headers = headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
        self.pushes.lock().unwrap().push(Received {
            headers: headers.collect(),
            metrics,
        });
    }

    /// Sets the answers to the next pushes.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    /// Accepts pushes again.
    pub(crate) fn answer_well(&self) {
        self.answers.lock().unwrap().clear();
    }

    /// Whether all the answers have been given.
    pub(crate) fn has_answered(&self) -> bool {
        self.answers.lock().unwrap().is_empty()
    }

    /// The pushes since the last call.
    pub(crate) fn take_pushes(&self) -> Vec<Received> {
        std::mem::take(&mut *self.pushes.lock().unwrap())
    }

    /// The last push.
    pub(crate) fn last(&self) -> Option<Received> {
        self.pushes.lock().unwrap().last().cloned()
    }
}

fn plain(headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
    if headers
        .get("content-encoding")
        .is_none_or(|encoding| encoding != "gzip")
    {
        return body.to_vec();
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(body)
        .read_to_end(&mut plain)
        .unwrap();
    plain
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let headers = request.metadata().clone().into_headers();
        // Taken for this request, see `instead`.
        let extensions = request.extensions();
        let answer = extensions.get::<Arc<Mutex<Option<Answer>>>>();
        let answer = answer.and_then(|answer| answer.lock().unwrap().take());
        let response = match answer {
            Some(Answer::Grpc(status)) => return Err(status),
            Some(Answer::Http(_)) => unreachable!("this is gRPC"),
            Some(Answer::Partial(rejected, why)) => partial(rejected, why),
            None => ExportMetricsServiceResponse::default(),
        };
        self.take(&headers, request.into_inner());
        Ok(tonic::Response::new(response))
    }
}

/// Sends an answer over HTTP/2 that gRPC would not send.
async fn instead(
    State(receiver): State<Receiver>,
    mut request: axum::extract::Request,
    next: Next,
) -> Response {
    match receiver.next_answer() {
        Some(Answer::Http(response)) => {
            // A client may take an answer before the end of its message for a failure to send it.
            _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
            response
        }
        other => {
            request.extensions_mut().insert(Arc::new(Mutex::new(other)));
            next.run(request).await
        }
    }
}

fn partial(rejected: i64, why: &str) -> ExportMetricsServiceResponse {
    ExportMetricsServiceResponse {
        partial_success: Some(ExportMetricsPartialSuccess {
            rejected_data_points: rejected,
            error_message: why.to_owned(),
        }),
    }
}

/// The series of a push, with the standard translation to Prometheus, implemented independently:
/// <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>
pub(crate) fn translated(push: &Received) -> Page {
    let mut page = Page::default();
    for resource in &push.metrics.resource_metrics {
        let attributes = &resource.resource.as_ref().unwrap().attributes;
        page.series
            .insert(("target_info".into(), labels(attributes)), 1.0);
        for metric in resource
            .scope_metrics
            .iter()
            .flat_map(|scope| &scope.metrics)
        {
            let mut name = metric.name.replace('.', "_");
            match metric.unit.as_str() {
                "s" => name += "_seconds",
                "By" => name += "_bytes",
                _ => {}
            }
            let points = match metric.data.as_ref().unwrap() {
                Data::Gauge(gauge) => &gauge.data_points,
                Data::Sum(sum) => {
                    if sum.is_monotonic {
                        name += "_total";
                    }
                    &sum.data_points
                }
                Data::Histogram(histogram) => {
                    for point in &histogram.data_points {
                        let labels = labels(&point.attributes);
                        page.series.insert(
                            (format!("{name}_count"), labels.clone()),
                            point.count as f64,
                        );
                        page.series
                            .insert((format!("{name}_sum"), labels.clone()), point.sum.unwrap());
                        let bounds = point.explicit_bounds.iter().map(f64::to_string);
                        let mut count = 0;
                        for (bound, more) in bounds.chain(["+Inf".into()]).zip(&point.bucket_counts)
                        {
                            count += more;
                            let mut labels = labels.clone();
                            labels.insert("le".into(), bound);
                            page.series
                                .insert((format!("{name}_bucket"), labels), count as f64);
                        }
                    }
                    continue;
                }
                other => panic!("{other:?}"),
            };
            // A mark means that its series has ended.
            for point in points.iter().filter(|point| point.flags & 1 == 0) {
                let value = match point.value.unwrap() {
                    number_data_point::Value::AsDouble(value) => value,
                    number_data_point::Value::AsInt(value) => value as f64,
                };
                let before = page
                    .series
                    .insert((name.clone(), labels(&point.attributes)), value);
                assert!(before.is_none(), "duplicate series of {name}");
            }
        }
    }
    page
}

fn labels(attributes: &[KeyValue]) -> Labels {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes
        .iter()
        .map(|pair| {
            let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
            (pair.key.replace('.', "_"), text(value.unwrap()))
        })
        .collect()
}
