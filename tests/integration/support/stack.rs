//! The project's configurations of the collector and Prometheus, with the real programs. Only
//! addresses differ from compose.yml: they are free local ports.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::prefect::free_port;
use super::process::{PATIENCE, Process};
use super::programs::Prometheus;

/// The path of a file of the project.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the project.
pub(crate) fn project_text(path: &str) -> String {
    std::fs::read_to_string(project(path)).unwrap()
}

/// Runs a program until it exits; if it fails, panics with its output.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{command:?}\n{text}");
}

/// A running collector, with the project's otel-collector.yaml.
pub(crate) struct Collector {
    process: Process,
    command: Command,
    /// The address for OTLP over HTTP.
    pub(crate) otlp: String,
    /// The address for OTLP over gRPC.
    pub(crate) otlp_grpc: String,
    /// The address that Prometheus scrapes.
    pub(crate) metrics: String,
    /// The address of its own metrics.
    pub(crate) own_metrics: String,
    /// The address for health checks.
    pub(crate) health: String,
}

impl Collector {
    pub(crate) fn start(programs: &Path) -> Self {
        Collector::start_with(programs, "otel-collector.yaml", &[])
    }

    /// Starts one with another configuration of the project.
    pub(crate) fn start_with(programs: &Path, config: &str, settings: &[(&str, &str)]) -> Self {
        let address = |port: u16| format!("127.0.0.1:{port}");
        let (otlp, metrics) = (address(free_port()), address(free_port()));
        let grpc = address(free_port());
        let (own_port, health) = (free_port(), address(free_port()));
        let mut command = Command::new(programs.join("otelcol"));
        command
            .arg("--config")
            .arg(project(config))
            .envs(settings.iter().copied())
            .env("OTLP_GRPC_ENDPOINT", &grpc)
            .env("OTLP_HTTP_ENDPOINT", &otlp)
            .env("PROMETHEUS_ENDPOINT", &metrics)
            .env("HEALTH_ENDPOINT", &health)
            .env("COLLECTOR_METRICS_HOST", "127.0.0.1")
            .env("COLLECTOR_METRICS_PORT", own_port.to_string());
        let collector = Collector {
            process: Process::start(&mut command),
            command,
            otlp: format!("http://{otlp}"),
            otlp_grpc: format!("http://{grpc}"),
            metrics,
            own_metrics: address(own_port),
            health: format!("http://{health}/"),
        };
        collector.wait_until_healthy();
        collector
    }

    fn wait_until_healthy(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !reqwest::blocking::get(&self.health).is_ok_and(|answer| answer.status().is_success())
        {
            assert!(Instant::now() < deadline, "{:#?}", self.process.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn stop(&mut self) {
        self.process.signal("-TERM");
        self.process.wait(PATIENCE);
    }

    pub(crate) fn start_again(&mut self) {
        self.process = Process::start(&mut self.command);
        self.wait_until_healthy();
    }
}

/// A Prometheus with these samples, in the OpenMetrics format, and without scrape targets.
pub(crate) fn with_history(programs: &Path, samples: &str) -> Prometheus {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("history"), folder.path().join("config"));
    std::fs::write(&file, samples).unwrap();
    std::fs::write(&config, "scrape_configs: []\n").unwrap();
    let data = tempfile::tempdir().unwrap();
    run(Command::new(programs.join("promtool"))
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .arg(&file)
        .arg(data.path()));
    Prometheus::start_on(programs, &config, data, &[], &[])
}

/// A Prometheus with the project's configuration, which scrapes `collector` and, like the stack
/// with the pull file, the agent at `pulled`.
pub(crate) fn prometheus(
    programs: &Path,
    collector: &Collector,
    pulled: Option<&str>,
) -> (Prometheus, tempfile::TempDir) {
    let folder = configured(&collector.metrics, &collector.own_metrics, pulled);
    let prometheus = Prometheus::start(programs, &folder.path().join("prometheus.yml"), &[]);
    (prometheus, folder)
}

/// A directory with the project's Prometheus configuration, with the addresses of a collector and
/// of an agent that is scraped.
pub(crate) fn configured(
    metrics: &str,
    own_metrics: &str,
    pulled: Option<&str>,
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let scrape = match pulled {
        Some(_) => "deploy/scrape-pull.yml",
        None => "deploy/scrape-push.yml",
    };
    for (file, name) in [
        ("prometheus.yml", "prometheus.yml"),
        ("alerts.yml", "alerts.yml"),
        // The path at which compose.yml and compose.pull.yml mount it.
        (scrape, "scrape.yml"),
    ] {
        let text = project_text(file)
            .replace("otel-collector:8889", metrics)
            .replace("otel-collector:8888", own_metrics)
            .replace("agent:8000", pulled.unwrap_or_default())
            // Four intervals of fifteen seconds would take too long in a test.
            .replace("scrape_interval: 15s", "scrape_interval: 2s")
            .replace("scrape_timeout: 10s", "scrape_timeout: 2s")
            .replace("evaluation_interval: 15s", "evaluation_interval: 2s");
        assert!(!text.contains("otel-collector:8"), "{file}");
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}
