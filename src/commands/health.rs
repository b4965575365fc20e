//! Queries the health of a running agent, for the health check of a container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::cause::innermost;
use crate::http::uses_tls;

/// The timeout of a health check.
const PATIENCE: Duration = Duration::from_secs(3);

/// The endpoint to query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Whether the process is running. An outage of Prefect does not affect it: restarting the
    /// agent would not help, and would lose its state.
    Live,
    /// Whether the agent has read Prefect recently.
    Ready,
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Probe::Live => "/healthz",
            Probe::Ready => "/readyz",
        }
    }
}

/// Why the health check failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent does not answer.
    #[error("no answer from {0}: {1}")]
    NoAnswer(String, String),
    /// The agent reports that it is not healthy.
    #[error("{0}: {1}")]
    Unhealthy(String, String),
}

/// Queries the agent that listens on `address` of this machine, with this web configuration file.
///
/// # Errors
///
/// If it does not answer, or reports that it is not healthy.
pub async fn ask(address: SocketAddr, file: Option<&Path>, probe: Probe) -> Result<(), Error> {
    // A file that cannot be read must not make a running agent unhealthy, which still uses the
    // previous one.
    let schemes: &[&str] = match uses_tls(file) {
        Ok(true) => &["https"],
        Ok(false) => &["http"],
        Err(_) => &["https", "http"],
    };
    let mut result = Ok(());
    for scheme in schemes {
        result = ask_over(scheme, address, probe).await;
        if !matches!(result, Err(Error::NoAnswer(..))) {
            break;
        }
    }
    result
}

async fn ask_over(scheme: &str, mut address: SocketAddr, probe: Probe) -> Result<(), Error> {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    let url = format!("{scheme}://{address}{}", probe.path());
    let no_answer = |error: reqwest::Error| Error::NoAnswer(url.clone(), innermost(&error));
    // The agent's certificate is for another name than its address, and nothing secret is sent.
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        .tls_danger_accept_invalid_certs(true);
    let client = client.build().map_err(no_answer)?;
    let answer = client.get(&url).send().await.map_err(no_answer)?;
    match answer.status().is_success() {
        true => Ok(()),
        false => {
            let text = answer.text().await.unwrap_or_default();
            Err(Error::Unhealthy(url, text.trim().to_owned()))
        }
    }
}
