//! The agent's own endpoints: `/metrics`, `/healthz`, `/readyz`, and the status at `/` and
//! `/status`.

mod freshness;
mod request_metrics;
mod server;

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tower_http::compression::CompressionLayer;

pub use freshness::{Published, Readiness};
pub use request_metrics::RequestMetrics;
pub use server::serve;

use crate::export::prometheus::{self, Page};
use crate::status::{Served, page as status_html};

/// The routes. Without a page, there is no `/metrics`.
pub fn router(
    page: Option<Page>,
    published: Published,
    status: Served,
    readiness: Readiness,
    requests: RequestMetrics,
) -> Router {
    let router = Router::new()
        .route("/", get(status_page))
        .route("/status", get(status_json).with_state(status))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready).with_state(readiness));
    let router = match page {
        Some(page) => {
            let refuse = from_fn_with_state(published, freshness::refuse_stale);
            router.route("/metrics", get(metrics).with_state(page).layer(refuse))
        }
        None => router,
    };
    router
        .layer(from_fn_with_state(requests, request_metrics::measure))
        .layer(CompressionLayer::new())
}

async fn metrics(State(page): State<Page>) -> Response {
    ([(CONTENT_TYPE, prometheus::CONTENT_TYPE)], page.scrape()).into_response()
}

/// Headers of both status endpoints: answers must not be cached or interpreted as another type, and
/// links must not reveal the address of the page.
const FRESH: [(HeaderName, HeaderValue); 3] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

async fn status_page() -> Response {
    let (policy, html) = status_html::render();
    ([(CONTENT_SECURITY_POLICY, policy)], FRESH, Html(html)).into_response()
}

async fn status_json(State(status): State<Served>) -> Response {
    let json = [(CONTENT_TYPE, "application/json")];
    (json, FRESH, status.json()).into_response()
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    match readiness.check() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => freshness::unavailable(&reason),
    }
}
