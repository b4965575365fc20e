//! How long ago the agent last read Prefect, and last published metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// Something that is expected to happen again and again.
#[derive(Debug, Clone)]
struct Last {
    started: Instant,
    /// Milliseconds from `started` to the last time; negative before the first one.
    at: Arc<AtomicI64>,
    stale_after: Duration,
}

impl Last {
    fn new(stale_after: Duration) -> Self {
        Last {
            started: Instant::now(),
            at: Arc::new(AtomicI64::new(-1)),
            stale_after,
        }
    }

    fn note(&self) {
        let now = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.at.store(now, Ordering::Relaxed);
    }

    /// Whether it has happened recently, or how long ago it happened, if ever.
    fn check(&self) -> Result<(), Option<Duration>> {
        let at = u64::try_from(self.at.load(Ordering::Relaxed)).map_err(|_| None)?;
        let at = Duration::from_millis(at);
        let age = self.started.elapsed().saturating_sub(at);
        match age > self.stale_after {
            true => Err(Some(age)),
            false => Ok(()),
        }
    }
}

/// Whether the agent is ready: a recent cycle could read Prefect.
#[derive(Debug, Clone)]
pub struct Readiness(Last);

impl Readiness {
    /// Not ready yet; a good cycle makes it ready for `stale_after`.
    pub fn new(stale_after: Duration) -> Self {
        Readiness(Last::new(stale_after))
    }

    /// Notes that a cycle could read Prefect.
    pub fn good_cycle(&self) {
        self.0.note();
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.0.check().map_err(|age| match age {
            Some(age) => format!("Prefect was last read {} s ago", age.as_secs()),
            None => "no cycle has read Prefect yet".to_owned(),
        })
    }
}

/// Whether metrics are being published. While they are, the publisher withholds stale gauges.
#[derive(Debug, Clone)]
pub struct Published(Last);

impl Published {
    /// Nothing is published yet; a publication is up to date for `stale_after`.
    pub fn new(stale_after: Duration) -> Self {
        Published(Last::new(stale_after))
    }

    /// Notes that metrics were published.
    pub fn note(&self) {
        self.0.note();
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.0.check().map_err(|age| match age {
            Some(age) => format!(
                "the agent last published metrics {} s ago; restart it",
                age.as_secs()
            ),
            None => "the agent has not published any metrics yet".to_owned(),
        })
    }
}

/// Answers 503 instead of `next` if metrics are no longer published: nothing would withhold gauges
/// that have become stale.
pub(super) async fn refuse_stale(
    State(published): State<Published>,
    request: Request,
    next: Next,
) -> Response {
    match published.check() {
        Ok(()) => next.run(request).await,
        Err(reason) => unavailable(&reason),
    }
}

/// The answer 503 with a reason.
pub(super) fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::{Router, routing::get};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    /// The answer to a scrape.
    async fn scrape(published: Published) -> (u16, String) {
        let page = get("# TYPE\n").layer(from_fn_with_state(published, refuse_stale));
        let router = Router::new().route("/metrics", page);
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_page_that_is_no_longer_published_is_not_served() {
        let published = Published::new(Duration::from_secs(3_600));
        assert_eq!(scrape(published.clone()).await.0, 503, "not published yet");
        published.note();
        assert_eq!(scrape(published).await, (200, "# TYPE\n".to_owned()));
        let published = Published::new(Duration::ZERO);
        published.note();
        std::thread::sleep(Duration::from_millis(2));
        let (status, reason) = scrape(published).await;
        assert_eq!(status, 503);
        let expected = "the agent last published metrics 0 s ago; restart it\n";
        assert_eq!(reason, expected);
    }

    #[test]
    fn readiness_begins_with_a_good_cycle_and_ends_without_another_one() {
        let readiness = Readiness::new(Duration::from_secs(3_600));
        assert_eq!(
            readiness.check().unwrap_err(),
            "no cycle has read Prefect yet"
        );
        readiness.good_cycle();
        assert_eq!(readiness.check(), Ok(()));
        let readiness = Readiness::new(Duration::ZERO);
        readiness.good_cycle();
        std::thread::sleep(Duration::from_millis(2));
        let reason = readiness.check().unwrap_err();
        assert_eq!(reason, "Prefect was last read 0 s ago");
    }
}
