//! The agent's own endpoints: `/metrics`, `/healthz`, `/readyz`, and the status at `/` and
//! `/status`.

mod activity;
mod connections;
mod encoding;
mod limits;
mod request_metrics;
mod server;
mod web_config;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tower_http::compression::CompressionLayer;

pub use limits::Limits;
pub use request_metrics::RequestMetrics;
pub use server::serve;
pub use web_config::{Security, uses_tls};

use crate::export::prometheus::{self, Page};
use crate::status::{Served, page as status_html};

/// Whether the agent is ready: a recent cycle could read Prefect.
#[derive(Debug, Clone)]
pub struct Readiness {
    started: Instant,
    /// Milliseconds from `started` to the last good cycle; negative before the first one.
    good_at: Arc<AtomicI64>,
    stale_after: Duration,
}

impl Readiness {
    /// Not ready yet; a good cycle makes it ready for `stale_after`.
    pub fn new(stale_after: Duration) -> Self {
        Readiness {
            started: Instant::now(),
            good_at: Arc::new(AtomicI64::new(-1)),
            stale_after,
        }
    }

    /// Records that a cycle could read Prefect.
    pub fn good_cycle(&self) {
        let now = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.good_at.store(now, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), String> {
        let Ok(good_at) = u64::try_from(self.good_at.load(Ordering::Relaxed)) else {
            return Err("no cycle has read Prefect yet".to_owned());
        };
        let age = self
            .started
            .elapsed()
            .saturating_sub(Duration::from_millis(good_at));
        match age > self.stale_after {
            true => Err(format!("Prefect was last read {} s ago", age.as_secs())),
            false => Ok(()),
        }
    }
}

/// The routes. Without a page, there is no `/metrics`. Probes need no credentials.
pub fn router(
    page: Option<Page>,
    status: Served,
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
        Some(page) => protected.route("/metrics", get(metrics).with_state(page)),
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
    let rendered = page.current();
    let packed = match encoding::prefers_gzip(&headers) {
        true => rendered.gzip().await,
        false => None,
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
    match packed {
        Some(packed) => {
            let coding = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (described, coding, packed).into_response()
        }
        None => (described, rendered.text()).into_response(),
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

async fn status_json(State(status): State<Served>) -> Response {
    let json = [(CONTENT_TYPE, "application/json")];
    (json, FRESH, status.json()).into_response()
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    match readiness.check() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
