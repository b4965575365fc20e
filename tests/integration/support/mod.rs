//! Shared helpers of the tests.

pub(crate) mod collected;
pub(crate) mod compose;
pub(crate) mod fleet;
pub(crate) mod front;
pub(crate) mod machine;
pub(crate) mod otlp;
pub(crate) mod page;
pub(crate) mod points;
pub(crate) mod postgres;
pub(crate) mod prefect;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod samples;
pub(crate) mod stack;
pub(crate) mod stub;
pub(crate) mod tls;

use jiff::Timestamp;
use prefect_otel_agent::agent::Agent;
use prefect_otel_agent::core::saved::SavedState;
use prefect_otel_agent::settings::{Settings, Sources};
use serde_json::json;

/// Settings for tests: loopback, a free port, only `/metrics` as exporter, and `more`.
pub(crate) fn settings(api_url: &str, more: &[(&str, &str)]) -> Settings {
    let base = [
        ("PREFECT_API_URL", api_url),
        ("METRICS_ADDR", "127.0.0.1"),
        ("METRICS_PORT", "0"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("MAX_RETRIES", "0"),
    ];
    let environment = base
        .iter()
        .chain(more)
        .map(|(name, value)| (name.into(), value.into()));
    Settings::load(&Sources {
        environment: environment.collect(),
        ..Sources::default()
    })
    .unwrap()
}

/// A stub with one deployment of one flow, in one queue of one work pool.
pub(crate) async fn small_stub() -> stub::Stub {
    let stub = stub::Stub::start().await;
    fleet::small(&mut stub.contents());
    stub
}

/// The saved state of a core that has counted since `start` and read up to `cursor`.
pub(crate) fn memory(start: Timestamp, cursor: Option<Timestamp>) -> SavedState {
    let position = json!({
        "start": start,
        "cursor": cursor,
        "counted": [],
        "forgotten_until": Timestamp::MIN,
    });
    let memory = json!({
        "start": start,
        "flow_runs": position,
        "task_runs": null,
        "awaited": {},
        "counters": {},
        "last_runs": {},
    });
    serde_json::from_value(memory).unwrap()
}

/// An agent whose cycles are run by the test.
pub(crate) async fn agent(api_url: &str, more: &[(&str, &str)]) -> Agent {
    Agent::new(&settings(api_url, more)).await.unwrap().0
}

/// Waits until a process has completed `cycles` cycles.
pub(crate) fn pass(stub: &stub::Stub, cycles: usize) {
    stub.take_requests();
    let begun = || {
        let contents = stub.contents();
        let requests = contents.requests.iter();
        requests
            .filter(|request| request.path == "/admin/version")
            .count()
    };
    // The first one may have already begun; the last one is complete when the next one begins.
    process::wait_for("cycles", || (begun() > cycles + 1).then_some(()));
}

/// Runs one cycle, and returns the page after it.
pub(crate) async fn cycle(agent: &mut Agent) -> page::Page {
    agent.cycle().await;
    current(agent)
}

/// The current page.
pub(crate) fn current(agent: &Agent) -> page::Page {
    let text = agent.page().unwrap().scrape().unwrap();
    page::Page::parse(std::str::from_utf8(&text).unwrap())
}
