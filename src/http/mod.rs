//! The agent's own endpoints: `/metrics`, `/healthz`, `/readyz`, and the status at `/` and
//! `/status`.

mod activity;
mod connections;
mod encoding;
mod freshness;
mod limits;
mod request_metrics;
mod server;
pub(crate) mod web_config;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tower_http::compression::CompressionLayer;

pub use freshness::{Published, Readiness};
pub use limits::Limits;
pub use request_metrics::RequestMetrics;
pub use server::serve;
pub use web_config::{Security, uses_tls};

use crate::export::prometheus::{self, Coding, Page};
use crate::status::{Latest, page as status_html};

/// The routes. Without a page, there is no `/metrics`. Probes need no credentials.
pub fn router(
    page: Option<Page>,
    published: Published,
    status: Latest,
    readiness: Readiness,
    requests: RequestMetrics,
    security: &Security,
) -> Router {
    let protected = Router::new()
        .route("/", get(status_page))
        .route("/status", get(status_json).with_state(status))
        // The page of metrics is already compressed.
        .layer(CompressionLayer::new());
    let protected = match page {
        Some(page) => {
            let refuse = from_fn_with_state(published, freshness::refuse_stale);
            protected.route("/metrics", get(metrics).with_state(page).layer(refuse))
        }
        None => protected,
    };
    let protected = protected.layer(from_fn_with_state(security.live(), web_config::check));
    Router::new()
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready).with_state(readiness))
        .merge(protected)
        .layer(from_fn_with_state(requests, request_metrics::measure))
        .layer(from_fn_with_state(security.live(), web_config::set_headers))
}

async fn metrics(State(page): State<Page>, method: Method, headers: HeaderMap) -> Response {
    let coding = match encoding::prefers_gzip(&headers) {
        true => Coding::Gzip,
        false => Coding::Identity,
    };
    let rendered = match page.current(coding).await {
        Ok(rendered) => rendered,
        Err(error) => {
            tracing::error!(%error, "cannot render /metrics");
            return freshness::unavailable("the metrics cannot be rendered; see the log");
        }
    };
    // HEAD has no samples.
    if method != Method::HEAD {
        page.delivered(&rendered);
    }
    let described = [
        (
            CONTENT_TYPE,
            HeaderValue::from_static(prometheus::CONTENT_TYPE),
        ),
        (VARY, HeaderValue::from_static("accept-encoding")),
    ];
    match coding {
        Coding::Gzip => {
            let coding = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (described, coding, rendered.body).into_response()
        }
        Coding::Identity => (described, rendered.body).into_response(),
    }
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

/// Which workspace is asked for, if there are several.
#[derive(Deserialize)]
struct Selection {
    workspace: Option<String>,
}

async fn status_json(State(status): State<Latest>, selection: Query<Selection>) -> Response {
    match status.json(selection.workspace.as_deref()) {
        Some(json) => ([(CONTENT_TYPE, "application/json")], FRESH, json).into_response(),
        None => (StatusCode::NOT_FOUND, "there is no such workspace\n").into_response(),
    }
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    match readiness.check() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => freshness::unavailable(&reason),
    }
}
