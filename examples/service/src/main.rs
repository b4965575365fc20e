//! Runs the service; `numbers health` queries a running one.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use numbers::service::router;
use numbers::telemetry::Telemetry;
use numbers::{Failure, listen};
use tokio::signal::unix::{SignalKind, signal};

/// The default address to listen on.
const ADDRESS: &str = "0.0.0.0:8080";

const HELP: &str = "\
Squares numbers, counts its requests, and pushes the metrics over OTLP.

Usage: numbers            run the service
       numbers health     exit with 0 if the service on this machine is healthy
       numbers --help     print this help

Environment variables:
  NUMBERS_ADDR                 address to listen on; default: 0.0.0.0:8080
  NUMBERS_WORKERS              threads that serve requests; default: 4
  NUMBERS_PUSH_SECONDS         time between two pushes; default: 10
  OTEL_EXPORTER_OTLP_ENDPOINT  the collector; if it is not set, only /metrics is served
  OTEL_SERVICE_NAME            name of the service, the label job in Prometheus; default: numbers
";

/// The environment's value of `name`, or `default`.
fn setting(name: &str, default: &str) -> String {
    let value = std::env::var(name).unwrap_or_default();
    match value.trim() {
        "" => default.to_owned(),
        value => value.to_owned(),
    }
}

fn number<T: std::str::FromStr>(name: &str, default: &str) -> Result<T, Failure> {
    let value = setting(name, default);
    let not_a_number = |_| Failure::new(format!("{name}: \"{value}\" is not a number above 0"));
    value.parse().map_err(not_a_number)
}

fn main() -> Result<(), Failure> {
    match std::env::args().nth(1).as_deref() {
        None => serve(),
        Some("health") => health(),
        Some("--help" | "-h") => {
            std::io::stdout().write_all(HELP.as_bytes())?;
            Ok(())
        }
        Some(argument) => Err(Failure::new(format!(
            "unknown argument \"{argument}\"; numbers --help lists what is accepted"
        ))),
    }
}

fn serve() -> Result<(), Failure> {
    let workers: std::num::NonZeroUsize = number("NUMBERS_WORKERS", "4")?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.get())
        .enable_all()
        .build()?
        .block_on(run())
}

/// Whether the service on this machine is healthy: a container's health check.
fn health() -> Result<(), Failure> {
    let address: SocketAddr = setting("NUMBERS_ADDR", ADDRESS).parse()?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, address.port()))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.0 200") {
        true => Ok(()),
        false => Err(Failure::new(answer.lines().next().unwrap_or("no answer"))),
    }
}

async fn run() -> Result<(), Failure> {
    let interval: std::num::NonZeroU64 = number("NUMBERS_PUSH_SECONDS", "10")?;
    let interval = Duration::from_secs(interval.get());
    let otlp = setting("OTEL_EXPORTER_OTLP_ENDPOINT", "");
    let otlp = (!otlp.is_empty()).then_some(otlp.as_str());
    let telemetry = Telemetry::new(&setting("OTEL_SERVICE_NAME", "numbers"), otlp, interval)?;
    let listener = listen(&setting("NUMBERS_ADDR", ADDRESS)).await?;
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
    // The last push blocks until it is answered, so it must not run on a thread of the runtime.
    tokio::task::spawn_blocking(move || telemetry.shutdown()).await?;
    Ok(())
}
