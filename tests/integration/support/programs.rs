//! The real collector and the real Prometheus.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::page::Labels;
use super::prefect::free_port;
use super::process::{Process, wait_for};

/// In CI, a test that is skipped fails.
const REQUIRED: &str = "PREFECT_OTEL_AGENT_REQUIRE_PROGRAMS";

/// The directory of the programs. `None` if they are not installed, which is reported even if the
/// test runner captures output.
pub(crate) fn programs(test: &str) -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/get"))
            .arg("--cached")
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let folder = String::from_utf8(output.stdout).unwrap();
        output
            .status
            .success()
            .then(|| PathBuf::from(folder.trim()))
    });
    if folder.is_none() {
        left_out(
            test,
            "the collector and Prometheus; tests/tools/get builds them",
        );
    }
    folder.clone()
}

/// Reports a test that is skipped because something that it needs is missing. Fails in CI.
pub(crate) fn left_out(test: &str, needs: &str) {
    assert!(std::env::var_os(REQUIRED).is_none(), "{test} needs {needs}");
    _ = writeln!(std::io::stderr(), "LEFT OUT: {test} needs {needs}");
}

/// A running Prometheus.
pub(crate) struct Prometheus {
    process: Process,
    pub(crate) url: String,
    data: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it on a free port with this configuration file.
    pub(crate) fn start(programs: &Path, config: &Path, flags: &[&str]) -> Self {
        Prometheus::start_with(programs, config, flags, &[])
    }

    /// The same, with these environment variables.
    pub(crate) fn start_with(
        programs: &Path,
        config: &Path,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let data = tempfile::tempdir().unwrap();
        Prometheus::start_on(programs, config, data, flags, variables)
    }

    /// The same, with existing data.
    pub(crate) fn start_on(
        programs: &Path,
        config: &Path,
        data: tempfile::TempDir,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let port = free_port();
        let mut command = Command::new(programs.join("prometheus"));
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(flags)
            .envs(variables.iter().copied());
        let prometheus = Prometheus {
            process: Process::start(&mut command),
            url: format!("http://127.0.0.1:{port}"),
            data,
        };
        wait_for("Prometheus", || {
            let ready = reqwest::blocking::get(format!("{}/-/ready", prometheus.url));
            ready.ok().filter(|answer| answer.status().is_success())
        });
        prometheus
    }

    /// Stops it, and returns its data.
    pub(crate) fn stop(self) -> tempfile::TempDir {
        drop(self.process);
        self.data
    }

    /// Starts one that scrapes `targets`, given by job, every second.
    pub(crate) fn scraping(programs: &Path, targets: &[(&str, String)]) -> Self {
        let mut config = String::from("global: {scrape_interval: 1s}\nscrape_configs:\n");
        for (job, target) in targets {
            config +=
                &format!("  - {{job_name: {job}, static_configs: [{{targets: ['{target}']}}]}}\n");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        Prometheus::start(programs, file.path(), &[])
    }

    /// The `data` in the answer of a GET endpoint.
    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let http = reqwest::blocking::Client::new();
        let mut url = reqwest::Url::parse(&format!("{}{path}", self.url)).unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let answer: Value = http.get(url).send().unwrap().json().unwrap();
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer["error"].as_str().unwrap_or_default().to_owned()),
        }
    }

    /// The result of an instant query: labels and values.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<(Labels, f64)>, String> {
        let data = self.get("/api/v1/query", &[("query", expression)])?;
        let number = |value: &Value| value[1].as_str().unwrap().parse().unwrap();
        if data["resultType"] == "scalar" {
            return Ok(vec![(Labels::new(), number(&data["result"]))]);
        }
        let series = data["result"].as_array().unwrap().iter();
        Ok(series
            .map(|series| {
                let labels = serde_json::from_value(series["metric"].clone()).unwrap();
                (labels, number(&series["value"]))
            })
            .collect())
    }

    /// The value of the only series in the result of a query.
    pub(crate) fn value(&self, expression: &str) -> Option<f64> {
        let series = self.query(expression).unwrap();
        assert!(series.len() < 2, "{expression}: {series:?}");
        series.first().map(|(_, value)| *value)
    }
}
