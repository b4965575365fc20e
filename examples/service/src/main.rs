//! Runs the service; `numbers health` asks a running one.
//!
//! | environment | default | |
//! |---|---|---|
//! | `NUMBERS_ADDR` | `0.0.0.0:8080` | where it listens |
//! | `NUMBERS_WORKERS` | 4 | threads that serve requests |
//! | `NUMBERS_PUSH_SECONDS` | 10 | time between two pushes |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | none | the collector; without it, `/metrics` alone |
//! | `OTEL_SERVICE_NAME` | `numbers` | the job's name in Prometheus |

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use numbers::service::router;
use numbers::telemetry::Telemetry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Where it listens.
const ADDRESS: &str = "0.0.0.0:8080";

/// The environment's value of `name`, or `default`.
fn setting(name: &str, default: &str) -> String {
    let value = std::env::var(name).unwrap_or_default();
    match value.trim() {
        "" => default.to_owned(),
        value => value.to_owned(),
    }
}

fn number<T: std::str::FromStr>(name: &str, default: &str) -> Result<T, String> {
    let value = setting(name, default);
    value
        .parse()
        .map_err(|_| format!("{name}: {value:?} is no number above 0"))
}

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(1).as_deref() == Some("health") {
        return health();
    }
    let workers: std::num::NonZeroUsize = number("NUMBERS_WORKERS", "4")?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.get())
        .enable_all()
        .build()?
        .block_on(run())
}

/// Asks the service on this machine whether it is well: a container's health check.
fn health() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = setting("NUMBERS_ADDR", ADDRESS).parse()?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, address.port()))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.0 200") {
        true => Ok(()),
        false => Err(answer.lines().next().unwrap_or("no answer").into()),
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let interval: std::num::NonZeroU64 = number("NUMBERS_PUSH_SECONDS", "10")?;
    let interval = Duration::from_secs(interval.get());
    let otlp = setting("OTEL_EXPORTER_OTLP_ENDPOINT", "");
    let otlp = (!otlp.is_empty()).then_some(otlp.as_str());
    let telemetry = Telemetry::new(&setting("OTEL_SERVICE_NAME", "numbers"), otlp, interval)?;
    let listener = TcpListener::bind(setting("NUMBERS_ADDR", ADDRESS)).await?;
    eprintln!("numbers: listening_on={}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    axum::serve(listener, router(&telemetry))
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await?;
    // The last push waits for an answer: not on a thread of the runtime.
    tokio::task::spawn_blocking(move || telemetry.shutdown()).await?;
    Ok(())
}
