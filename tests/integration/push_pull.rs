//! Switching the stack between an agent that pushes and one that is scraped: Prometheus is
//! restarted with another scrape file and the same data.

use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::support::process::{AgentProcess, wait_for};
use crate::support::programs::{Prometheus, programs};
use crate::support::stack::{Collector, configured};
use crate::support::{fleet, small_stub};

/// A metrics page that is controlled by the test.
struct Exposed {
    address: String,
    text: Arc<Mutex<String>>,
}

impl Exposed {
    async fn serve() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let text = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&text);
        let answer = async move || {
            let format = [("content-type", "text/plain; version=0.0.4")];
            (format, shown.lock().unwrap().clone())
        };
        let router = axum::Router::new().fallback(answer);
        tokio::spawn(async { axum::serve(listener, router).await });
        Exposed { address, text }
    }

    fn show(&self, series: &[(&str, u32)]) {
        let line = |(name, value): &(&str, u32)| format!("{name} {value}\n");
        *self.text.lock().unwrap() = series.iter().map(line).collect();
    }
}

/// Waits for some scrapes of the only series of `selector`. Returns its value, the counter resets
/// and the increase since the start of the test.
fn after_scrapes(prometheus: &Prometheus, selector: &str) -> [f64; 3] {
    let value = |query: &str| prometheus.value(query);
    let samples = || value(&format!("count_over_time({selector}[10m])"));
    let before = samples().unwrap_or_default();
    wait_for("scrapes", || samples().filter(|now| *now > before + 5.0));
    // The increase is extrapolated to the window, by less than one event here.
    let increase = format!("round(increase({selector}[10m]))");
    let resets = format!("resets({selector}[10m])");
    [selector, &resets, &increase].map(|query| value(query).unwrap())
}

/// The collector exposes the last push until it expires, while the agent continues counting.
#[test]
fn a_change_between_push_and_pull_continues_one_series() {
    let Some(programs) = programs("a_change_between_push_and_pull") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let serve = || runtime.block_on(Exposed::serve());
    let (collector, own, agent) = (serve(), serve(), serve());
    let start = |pulled: Option<&str>, data: TempDir| {
        let folder = configured(&collector.address, &own.address, pulled);
        let config = folder.path().join("prometheus.yml");
        Prometheus::start_on(&programs, &config, data, &[], &[])
    };
    const PUSHED: &str = "runs_total{job=\"prefect-otel-agent\",instance=\"prefect-demo\"}";
    const OTHER: &str = "requests_total{job=\"numbers\",instance=\"one\"}";
    let continues = |prometheus: &Prometheus, events: f64, other: f64| {
        wait_for("the other service", || {
            (prometheus.value("requests_total") == Some(other)).then_some(())
        });
        let shown = after_scrapes(prometheus, "runs_total");
        assert_eq!(shown, [20.0 + events, 0.0, events]);
    };
    collector.show(&[(PUSHED, 20), (OTHER, 7)]);
    let prometheus = start(None, tempfile::tempdir().unwrap());
    continues(&prometheus, 0.0, 7.0);
    // The last push no longer changes; other services push as before.
    collector.show(&[(PUSHED, 20), (OTHER, 8)]);
    agent.show(&[("runs_total", 21)]);
    let prometheus = start(Some(&agent.address), prometheus.stop());
    continues(&prometheus, 1.0, 8.0);
    collector.show(&[(PUSHED, 22), (OTHER, 9)]);
    let prometheus = start(None, prometheus.stop());
    continues(&prometheus, 2.0, 9.0);
}

/// The agent sends a last push when it stops, and resumes from its checkpoint.
#[test]
fn an_agent_that_is_changed_to_pull_and_back_loses_and_repeats_no_count() {
    let Some(programs) = programs("an_agent_that_is_changed_to_pull_and_back") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stub = runtime.block_on(small_stub());
    let state = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(&programs);
    let endpoint = collector.otlp.clone();
    const FAILED: &str = "prefect_flow_runs_finished_total{state_type=\"FAILED\"}";
    let (mut data, mut count) = (tempfile::tempdir().unwrap(), 0);
    for pull in [false, true, false] {
        let exporter = if pull {
            "prometheus"
        } else {
            "otlp,prometheus"
        };
        let settings = [
            ("OTEL_METRICS_EXPORTER", exporter),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.instance.id=prefect-demo",
            ),
            ("STATE_DIR", state.path().to_str().unwrap()),
        ];
        let agent = AgentProcess::start(&stub.url, &settings);
        let address = agent.address.to_string();
        let pulled = pull.then_some(address.as_str());
        let folder = configured(&collector.metrics, &collector.own_metrics, pulled);
        let config = folder.path().join("prometheus.yml");
        let prometheus = Prometheus::start_on(&programs, &config, data, &[], &[]);
        let shows = |count: usize| {
            wait_for("the count", || {
                (prometheus.value(FAILED) == Some(count as f64)).then_some(())
            });
        };
        shows(count);
        count += 1;
        let run = fleet::run_at(count, "FAILED", 0);
        stub.contents().flow_runs.push(run);
        shows(count);
        let count = count as f64;
        assert_eq!(after_scrapes(&prometheus, FAILED), [count, 0.0, count]);
        data = prometheus.stop();
        drop(agent);
        if pull {
            // As docs/deployment.md says, for a change back within two minutes.
            collector.stop();
            collector.start_again();
        }
    }
}
