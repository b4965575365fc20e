//! Step 1 of docs/tutorial.md: a service without metrics.

use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use numbers::{Failure, listen};
use serde::Deserialize;

#[derive(Deserialize)]
struct Question {
    num: i64,
}

async fn square(Query(question): Query<Question>) -> String {
    let num = i128::from(question.num);
    format!("{}\n", num * num)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let app = Router::new().route("/square", get(square));
    let address = std::env::args().nth(1);
    let listener = listen(address.as_deref().unwrap_or("127.0.0.1:8081")).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
