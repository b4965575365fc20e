//! Step 2 of docs/tutorial.md: the service counts its requests.

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use numbers::{Failure, listen};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder as _, Registry, TextEncoder};
use serde::Deserialize;

#[derive(Deserialize)]
struct Question {
    num: i64,
}

async fn square(State(requests): State<Counter<u64>>, Query(question): Query<Question>) -> String {
    requests.add(1, &[KeyValue::new("http.route", "/square")]);
    let num = i128::from(question.num);
    format!("{}\n", num * num)
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
    let provider = SdkMeterProvider::builder().with_reader(bridge).build();
    let meter = provider.meter("numbers");
    let requests = meter
        .u64_counter("numbers.requests")
        .with_unit("{request}")
        .with_description("Requests by route.")
        .build();
    let app = Router::new()
        .route("/square", get(square).with_state(requests))
        .route("/metrics", get(metrics).with_state(registry));
    let address = std::env::args().nth(1);
    let listener = listen(address.as_deref().unwrap_or("127.0.0.1:8081")).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
