//! A small REST service, instrumented with OpenTelemetry.
//!
//! [`service`] is the service without metrics; [`telemetry`] has everything for its metrics.

use std::fmt;

use tokio::net::TcpListener;

pub mod service;
pub mod telemetry;

/// An error that ends a program. `main` prints errors in their `Debug` format, so this is one
/// readable line.
pub struct Failure(String);

impl Failure {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Failure(text.into())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.to_string())
    }
}

/// Listens on `address`.
///
/// # Errors
///
/// If the address cannot be used, for example because another program listens on it.
pub async fn listen(address: &str) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| Failure(format!("cannot listen on {address}: {error}")))
}
