//! Metrics of the requests to the agent's own endpoints, according to the conventions for HTTP
//! servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::KeyValue;

use crate::export::Recorder;
use crate::metrics::agent::SERVED_DURATION;

/// Counts and times requests.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    recorder: Recorder,
    common: Arc<Vec<KeyValue>>,
    active: Arc<AtomicI64>,
}

impl RequestMetrics {
    /// Records durations into `recorder`, with the attributes that every series has.
    pub fn new(recorder: Recorder, common: Vec<KeyValue>) -> Self {
        RequestMetrics {
            recorder,
            common: Arc::new(common),
            active: Arc::default(),
        }
    }

    /// Requests in progress.
    pub fn active(&self) -> i64 {
        self.active.load(Ordering::Relaxed)
    }
}

/// A request in progress. It is dropped even if the client disconnects.
struct Active<'a>(&'a AtomicI64);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) async fn measure(
    State(metrics): State<RequestMetrics>,
    request: Request,
    next: Next,
) -> Response {
    metrics.active.fetch_add(1, Ordering::Relaxed);
    let _active = Active(&metrics.active);
    let started = Instant::now();
    // Unknown paths and methods are not used as attributes, since there could be any number of them.
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map(|route| route.as_str().to_owned());
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => {
            known.to_owned()
        }
        _ => "_OTHER".to_owned(),
    };
    let response = next.run(request).await;
    let [method_key, route_key, status_key] = SERVED_DURATION.attributes else {
        return response;
    };
    let mut attributes = vec![
        KeyValue::new(*method_key, method),
        KeyValue::new(*status_key, i64::from(response.status().as_u16())),
    ];
    attributes.extend(route.map(|route| KeyValue::new(*route_key, route)));
    attributes.extend_from_slice(&metrics.common);
    let seconds = started.elapsed().as_secs_f64();
    metrics.recorder.record(seconds, &attributes);
    response
}
