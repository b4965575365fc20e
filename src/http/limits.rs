//! The limits of the server.

use std::time::Duration;

/// The limits of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of connections; scrapers and probes only need a few.
    pub connections: usize,
    /// Timeout of the TLS handshake and of the head of a request.
    pub head: Duration,
    /// How long a connection is kept open for the next request. Longer than most scrape intervals,
    /// since a handshake costs more than an open connection.
    pub idle: Duration,
    /// Timeout of an answer: a client that has not read it by then is disconnected.
    pub answer: Duration,
    /// How often the files of the web configuration are read.
    pub reload: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 64,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(180),
            answer: Duration::from_secs(120),
            reload: Duration::from_secs(5),
        }
    }
}
