//! Step 3 of docs/tutorial.md: the service measures the duration of its requests. Step 4: it pushes
//! its metrics.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use numbers::{Failure, listen};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, MeterProvider as _};
use opentelemetry_otlp::{MetricExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::metrics::periodic_reader_with_async_runtime::PeriodicReader;
use opentelemetry_sdk::runtime::Tokio;
use prometheus::{Encoder as _, Registry, TextEncoder};
use serde::Deserialize;

#[derive(Deserialize)]
struct Question {
    num: i64,
}

async fn square(Query(question): Query<Question>) -> String {
    let num = i128::from(question.num);
    format!("{}\n", num * num)
}

async fn measure(State(duration): State<Histogram<f64>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.map_or("none".to_owned(), |route| route.as_str().to_owned());
    let started = Instant::now();
    let response = next.run(request).await;
    let attributes = [
        KeyValue::new("http.route", route),
        KeyValue::new(
            "http.response.status_code",
            i64::from(response.status().as_u16()),
        ),
    ];
    duration.record(started.elapsed().as_secs_f64(), &attributes);
    response
}

async fn metrics(State(registry): State<Registry>) -> Result<Vec<u8>, StatusCode> {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(text)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let registry = Registry::new();
    let bridge = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()?;
    let mut builder = SdkMeterProvider::builder()
        .with_resource(Resource::builder().with_service_name("numbers").build())
        .with_reader(bridge);
    if let Ok(endpoint) = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT") {
        let exporter = MetricExporter::builder()
            .with_http()
            .with_endpoint(format!("{endpoint}/v1/metrics"))
            .build()?;
        let reader = PeriodicReader::builder(exporter, Tokio);
        builder = builder.with_reader(reader.with_interval(Duration::from_secs(5)).build());
    }
    let provider = builder.build();
    let duration = provider
        .meter("numbers")
        .f64_histogram("http.server.request.duration")
        .with_unit("s")
        .with_description("Duration of requests by route and status.")
        .with_boundaries(vec![
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
        ])
        .build();
    let app = Router::new()
        .route("/square", get(square))
        .layer(from_fn_with_state(duration, measure))
        // Added after the layer, so it is not measured.
        .route("/metrics", get(metrics).with_state(registry));
    let address = std::env::args().nth(1);
    let listener = listen(address.as_deref().unwrap_or("127.0.0.1:8081")).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
