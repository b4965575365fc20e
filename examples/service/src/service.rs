//! What the service does: it answers requests about numbers from known users.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use opentelemetry::KeyValue;
use serde::{Deserialize, Serialize};

use crate::telemetry::{Instruments, Telemetry, measure, metrics};

/// The known users.
const USERS: [&str; 3] = ["ann", "bob", "demo"];

/// The number in a request.
#[derive(Debug, Deserialize)]
struct Question {
    num: i64,
}

#[derive(Debug, Serialize)]
struct Square {
    num: i64,
    square: i128,
}

#[derive(Debug, Serialize)]
struct Even {
    num: i64,
    even: bool,
}

/// The routes. `/metrics` and `/healthz` are excluded from metrics: a scrape every few seconds
/// would hide the requests of users.
pub fn router(telemetry: &Telemetry) -> Router {
    let instruments = Arc::clone(&telemetry.instruments);
    let trees = Arc::new(AtomicU64::new(0));
    let authenticated = Router::new()
        .route("/square", get(square))
        .route("/even", get(even).with_state(Arc::clone(&instruments)))
        .route("/treecounter", get(treecounter).with_state(trees))
        .route_layer(from_fn_with_state(Arc::clone(&instruments), authenticate));
    Router::new()
        .route(
            "/",
            get("numbers: /square?num=20 /even?num=20 /treecounter\n"),
        )
        .merge(authenticated)
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(from_fn_with_state(instruments, measure))
        .route("/healthz", get("ok\n"))
        .route("/metrics", get(metrics).with_state(telemetry.clone()))
}

/// Rejects unknown users. User names are not an attribute, since there could be any number of them.
async fn authenticate(
    State(instruments): State<Arc<Instruments>>,
    request: Request,
    next: Next,
) -> Response {
    let user = request.headers().get("user");
    let known = user.is_some_and(|user| USERS.iter().any(|known| *known == user));
    let outcome = if known { "success" } else { "failure" };
    instruments
        .authentications
        .add(1, &[KeyValue::new("outcome", outcome)]);
    match known {
        true => next.run(request).await,
        false => (StatusCode::UNAUTHORIZED, "who are you? (header: user)\n").into_response(),
    }
}

async fn square(Query(question): Query<Question>) -> Json<Square> {
    let num = question.num;
    // Large numbers take longer, so that latencies differ.
    let milliseconds = num.unsigned_abs().min(200);
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    let square = i128::from(num) * i128::from(num);
    Json(Square { num, square })
}

async fn even(
    State(instruments): State<Arc<Instruments>>,
    Query(question): Query<Question>,
) -> Json<Even> {
    let even = question.num % 2 == 0;
    if even {
        instruments.even_numbers.add(1, &[]);
    }
    Json(Even {
        num: question.num,
        even,
    })
}

/// How many trees have been counted, including this one: one count for all threads.
async fn treecounter(State(trees): State<Arc<AtomicU64>>) -> String {
    format!("{}\n", trees.fetch_add(1, Ordering::Relaxed) + 1)
}
