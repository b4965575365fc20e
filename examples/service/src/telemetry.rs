//! The service's metrics: the instruments, the exporters, and what is measured for each request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, MeterProvider as _, UpDownCounter};
use opentelemetry_otlp::{MetricExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::metrics::periodic_reader_with_async_runtime::PeriodicReader;
use opentelemetry_sdk::runtime::Tokio;
use prometheus::{Encoder as _, Registry, TextEncoder};

/// Bucket boundaries in seconds, as recommended by the conventions for HTTP servers.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Every instrument of the service, shared by all threads.
#[derive(Debug)]
pub struct Instruments {
    /// Requests by method, route and status.
    pub requests: Counter<u64>,
    /// Their duration, by route.
    pub duration: Histogram<f64>,
    /// Requests in progress.
    pub active: UpDownCounter<i64>,
    /// Authentications by outcome.
    pub authentications: Counter<u64>,
    /// Requests to `/even` with an even number.
    pub even_numbers: Counter<u64>,
}

/// The instruments and their exporters.
#[derive(Clone)]
pub struct Telemetry {
    /// The instruments.
    pub instruments: Arc<Instruments>,
    provider: SdkMeterProvider,
    registry: Registry,
}

impl Telemetry {
    /// Metrics of the service `name`: served on `/metrics`, and pushed every `interval` to the
    /// collector at `otlp` if there is one. Requires a tokio runtime.
    ///
    /// # Errors
    ///
    /// If an exporter cannot be built.
    pub fn new(name: &str, otlp: Option<&str>, interval: Duration) -> Result<Self, crate::Failure> {
        let registry = Registry::new();
        let bridge = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()?;
        // `service.instance.id` distinguishes processes: each has its own totals, and sum()
        // adds them up.
        let instance = format!("{name}-{}", std::process::id());
        let resource = Resource::builder()
            .with_service_name(name.to_owned())
            .with_attribute(KeyValue::new("service.instance.id", instance))
            .build();
        let mut builder = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_reader(bridge);
        if let Some(endpoint) = otlp {
            let exporter = MetricExporter::builder()
                .with_http()
                .with_endpoint(format!("{}/v1/metrics", endpoint.trim_end_matches('/')))
                .build()?;
            let reader = PeriodicReader::builder(exporter, Tokio).with_interval(interval);
            builder = builder.with_reader(reader.build());
        }
        let provider = builder.build();
        let meter = provider.meter("numbers");
        let instruments = Instruments {
            requests: meter
                .u64_counter("numbers.requests")
                .with_unit("{request}")
                .with_description("Requests by method, route and status.")
                .build(),
            duration: meter
                .f64_histogram("http.server.request.duration")
                .with_unit("s")
                .with_description("Duration of requests by route.")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            active: meter
                .i64_up_down_counter("http.server.active_requests")
                .with_unit("{request}")
                .with_description("Requests in progress.")
                .build(),
            authentications: meter
                .u64_counter("numbers.authentications")
                .with_unit("{authentication}")
                .with_description("Authentications by outcome.")
                .build(),
            even_numbers: meter
                .u64_counter("numbers.even_numbers")
                .with_unit("{number}")
                .with_description("Requests to /even with an even number.")
                .build(),
        };
        Ok(Telemetry {
            instruments: Arc::new(instruments),
            provider,
            registry,
        })
    }

    /// Pushes what has not been pushed yet, and stops.
    pub fn shutdown(&self) {
        if let Err(error) = self.provider.shutdown() {
            eprintln!("numbers: the last push failed: {error}");
        }
    }
}

/// The text of `/metrics`.
pub async fn metrics(State(telemetry): State<Telemetry>) -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&telemetry.registry.gather(), &mut text) {
        Ok(()) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Subtracts one from the requests in progress, even if the client disconnects.
struct Active {
    instruments: Arc<Instruments>,
    attributes: [KeyValue; 1],
}

impl Drop for Active {
    fn drop(&mut self) {
        self.instruments.active.add(-1, &self.attributes);
    }
}

/// Counts every request and measures its duration. Routes that should not be measured are added to
/// the router after this layer.
pub async fn measure(
    State(instruments): State<Arc<Instruments>>,
    request: Request,
    next: Next,
) -> Response {
    // The route, not the path: a client can send any path, and each would be a series.
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "none".to_owned(), |route| route.as_str().to_owned());
    let by_route = [KeyValue::new("http.route", route)];
    instruments.active.add(1, &by_route);
    let active = Active {
        instruments: Arc::clone(&instruments),
        attributes: by_route.clone(),
    };
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
        _ => "_OTHER",
    };
    let method = KeyValue::new("http.request.method", method.to_owned());
    let started = Instant::now();
    let response = next.run(request).await;
    let status = i64::from(response.status().as_u16());
    let status = KeyValue::new("http.response.status_code", status);
    let seconds = started.elapsed().as_secs_f64();
    instruments.duration.record(seconds, &by_route);
    let [route] = by_route;
    instruments.requests.add(1, &[method, route, status]);
    drop(active);
    response
}
