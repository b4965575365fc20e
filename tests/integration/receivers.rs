//! Delivery over OTLP to the real collector and the real Prometheus.

use std::time::Duration;

use prefect_otel_agent::export::otlp::Delivery;

use crate::support::collected::{Collection, delivery, export, outcome};
use crate::support::page::Page;
use crate::support::process::{fetch, wait_for, wait_within};
use crate::support::programs::{Prometheus, programs};
use crate::support::stack::{Collector, project};

/// Far less than the time after which receivers drop a series on their own, two minutes or more.
const SOON: Duration = Duration::from_secs(45);

const GRPC: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");

fn before() -> Collection {
    let mut collection = Collection::default().gauge("stays", 1.0);
    // Several of each type, since a receiver may read only up to the first mark.
    for key in ["one", "two", "three"] {
        collection = collection
            .gauge(key, 1.0)
            .counter(key, 5.0)
            .histogram(key, &[0.5, 3.0, 30.0]);
    }
    collection
}

fn after() -> Collection {
    Collection::default().gauge("stays", 1.0)
}

/// The number of series of the gauge, the counter, and the histogram.
type Shown = [usize; 3];

/// Checks that all series appear after a push, and only the remaining gauge after the next one.
fn leaves_at_once(
    runtime: &tokio::runtime::Runtime,
    delivery: &Delivery,
    [before, after]: [Collection; 2],
    all: Shown,
    shown: impl Fn() -> Option<Shown>,
) {
    let wait_until = |wanted: Shown| {
        wait_within(&format!("{wanted:?} series"), SOON, || {
            let found = shown();
            (found == Some(wanted)).then_some(()).or_else(|| {
                std::thread::sleep(Duration::from_millis(200));
                None
            })
        });
    };
    runtime.block_on(export(delivery, &before)).unwrap();
    wait_until(all);
    runtime.block_on(export(delivery, &after)).unwrap();
    wait_until([1, 0, 0]);
    // They can return.
    runtime.block_on(export(delivery, &before)).unwrap();
    wait_until(all);
}

/// What the collector's page shows; `None` if it was not answered whole, as when the machine is
/// so busy that the collector's own time-out cuts it.
fn on_page(address: &str) -> Option<Shown> {
    let text = fetch(&format!("http://{address}/metrics")).and_then(|answer| answer.text());
    let page = Page::parse(&text.ok()?);
    let count = |start: &str| {
        let names = page.series.keys().map(|(name, _)| name);
        names.filter(|name| name.starts_with(start)).count()
    };
    Some(["test_gauge", "test_counter", "test_histogram"].map(count))
}

fn in_prometheus(prometheus: &Prometheus) -> Shown {
    ["test_gauge", "test_counter", "test_histogram"].map(|start| {
        let query = format!("count({{__name__=~\"{start}.*\"}})");
        prometheus.value(&query).unwrap_or_default() as usize
    })
}

/// The histogram has three buckets, the sum and the count.
const CLASSIC: Shown = [4, 3, 15];
/// A native histogram is one series.
const NATIVE: Shown = [4, 3, 3];

#[test]
fn a_series_that_ends_disappears_from_the_collectors_page_immediately() {
    let Some(programs) = programs("a_vanished_series_leaves_the_collectors_page") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let collector = Collector::start(&programs);
    for (endpoint, more) in [(&collector.otlp, None), (&collector.otlp_grpc, Some(GRPC))] {
        let more: Vec<_> = more.into_iter().collect();
        let delivery = delivery(endpoint, &more, vec![]);
        let pushes = [before(), after()];
        leaves_at_once(&runtime, &delivery, pushes, CLASSIC, || {
            on_page(&collector.metrics)
        });
        // Leave the page as it was for the next path.
        runtime.block_on(export(&delivery, &after())).unwrap();
    }
}

#[test]
fn a_series_that_ends_disappears_from_prometheus_immediately() {
    let Some(programs) = programs("a_vanished_series_leaves_prometheus") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let config = project("deploy/prometheus-otlp.yml");
    let direct = Prometheus::start(&programs, &config, &["--web.enable-otlp-receiver"]);
    let written = Prometheus::start(&programs, &config, &["--web.enable-remote-write-receiver"]);
    let url = format!("{}/api/v1/write", written.url);
    let file = "deploy/collector/remote-write.yaml";
    let settings = [("REMOTE_WRITE_URL", url.as_str())];
    let collector = Collector::start_with(&programs, file, &settings);
    let otlp = format!("{}/api/v1/otlp", direct.url);
    for (endpoint, prometheus) in [(&otlp, &direct), (&collector.otlp, &written)] {
        let classic = delivery(endpoint, &[], vec![]);
        leaves_at_once(&runtime, &classic, [before(), after()], CLASSIC, || {
            Some(in_prometheus(prometheus))
        });
        runtime.block_on(export(&classic, &after())).unwrap();
        let native = delivery(endpoint, &[], vec![]);
        let pushes = [before().exponential(), after()];
        leaves_at_once(&runtime, &native, pushes, NATIVE, || {
            Some(in_prometheus(prometheus))
        });
    }
}

#[test]
fn a_hundred_thousand_series_are_accepted_by_a_collector_with_default_limits() {
    let Some(programs) = programs("a_hundred_thousand_series_arrive") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let text = std::fs::read_to_string(project("otel-collector.yaml")).unwrap();
    assert!(
        !text.contains("max_re"),
        "the receiver's limits are its own"
    );
    let mut collection = Collection::default();
    for number in 0..50_000 {
        // About as long as the attributes of a run.
        let key = format!("{number:0150}");
        collection = collection.gauge(&key, 1.0).counter(&key, 1.0);
    }
    let memory = [
        ("COLLECTOR_MEMORY_LIMIT_MIB", "4000"),
        ("COLLECTOR_MEMORY_SPIKE_MIB", "500"),
    ];
    for protocol in [None, Some(GRPC)] {
        let collector = Collector::start_with(&programs, "otel-collector.yaml", &memory);
        let endpoint = match protocol {
            None => &collector.otlp,
            Some(_) => &collector.otlp_grpc,
        };
        let mut settings = vec![("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")];
        settings.extend(protocol);
        let delivery = delivery(endpoint, &settings, vec![]);
        runtime.block_on(export(&delivery, &collection)).unwrap();
        assert_eq!(outcome(&delivery, "accepted"), 100_000);
        wait_for("all series", || {
            (on_page(&collector.metrics) == Some([50_000, 50_000, 0])).then_some(())
        });
    }
}
