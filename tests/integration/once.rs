//! `once`: what one cycle reads, printed.

use std::process::Output;

use serde_json::Value;

use crate::support::page::Page;
use crate::support::prefect::free_port;
use crate::support::process::{agent_command, fetch, wait_for};
use crate::support::programs::programs;
use crate::support::small_stub;
use crate::support::stack::Collector;

/// What `once` prints in this format.
pub(crate) fn once(url: &str, settings: &[(&str, &str)], format: &str) -> Output {
    let mut all = vec![("PREFECT_API_URL", url), ("MAX_RETRIES", "0")];
    all.extend(settings);
    let mut command = agent_command(&all);
    command.args(["once", "--format", format]);
    tokio::task::block_in_place(|| command.output()).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cycle_is_printed_in_each_format_and_leaves_no_trace() {
    let stub = small_stub().await;
    let folder = tempfile::tempdir().unwrap();
    // An exporter and a folder that a running agent would use.
    let collector = format!("http://127.0.0.1:{}", free_port());
    let settings = [
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector),
        ("STATE_DIR", folder.path().to_str().unwrap()),
    ];

    let prometheus = once(&stub.url, &settings, "prometheus");
    assert!(prometheus.status.success(), "{prometheus:?}");
    let page = Page::parse(text(&prometheus.stdout));
    assert_eq!(page.value("prefect_up", &[]), Some(1.0));
    assert_eq!(text(&prometheus.stderr), "");

    let table = once(&stub.url, &settings, "table");
    assert!(table.status.success(), "{table:?}");
    let lines: Vec<_> = text(&table.stdout).lines().collect();
    let column = lines[0].find("VALUE").unwrap();
    let up = lines
        .iter()
        .find(|line| line.starts_with("prefect.up "))
        .unwrap();
    assert_eq!(&up[column..], "1");
    let values_are_aligned = |line: &&str| line.chars().nth(column - 1) == Some(' ');
    assert!(lines.iter().all(values_are_aligned), "{lines:#?}");

    let json = once(&stub.url, &settings, "otlp-json");
    assert!(json.status.success(), "{json:?}");
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let scopes = json["resourceMetrics"].as_array().unwrap().iter();
    let scopes = scopes.flat_map(|resource| resource["scopeMetrics"].as_array().unwrap());
    let metrics: Vec<_> = scopes
        .flat_map(|scope| scope["metrics"].as_array().unwrap())
        .collect();
    let up = metrics.iter().find(|metric| metric["name"] == "prefect.up");
    let point = &up.unwrap()["gauge"]["dataPoints"][0];
    assert_eq!(point["asDouble"], 1.0);
    // 64 bits are text in OTLP/JSON.
    assert!(
        point["timeUnixNano"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .is_ok()
    );
    let names = metrics
        .iter()
        .map(|metric| metric["name"].as_str().unwrap());
    let rows = lines[1..]
        .iter()
        .map(|line| line.split(' ').next().unwrap());
    let (names, rows): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
        (names.collect(), rows.collect());
    assert_eq!(names, rows);

    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefect_that_cannot_be_read_is_exit_code_1_and_one_line_that_says_why() {
    let url = format!("http://127.0.0.1:{}/api", free_port());
    let output = once(&url, &[], "prometheus");
    assert_eq!(output.status.code(), Some(1));
    let page = Page::parse(text(&output.stdout));
    assert_eq!(page.value("prefect_up", &[]), Some(0.0));
    let lines: Vec<_> = text(&output.stderr).lines().collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("Connection refused"), "{}", lines[0]);
    assert!(lines[0].contains("nothing listens there"), "{}", lines[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_collector_reads_its_json() {
    let Some(programs) = programs("the_real_collector_reads_its_json") else {
        return;
    };
    let stub = small_stub().await;
    let json = once(&stub.url, &[], "otlp-json").stdout;
    let arrives = move || {
        let collector = Collector::start(&programs);
        let answer = reqwest::blocking::Client::new()
            .post(format!("{}/v1/metrics", collector.otlp))
            .header("content-type", "application/json")
            .body(json)
            .send()
            .unwrap();
        assert_eq!(answer.status(), 200, "{:?}", answer.text());
        let page = format!("http://{}/metrics", collector.metrics);
        wait_for("the metrics", || {
            let text = fetch(&page).unwrap().text().unwrap();
            Page::parse(&text).value("prefect_up", &[])
        })
    };
    let up = tokio::task::spawn_blocking(arrives).await.unwrap();
    assert_eq!(up, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error() {
    let stub = small_stub().await;
    for format in ["table", "prometheus", "otlp-json"] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut command = agent_command(&[("PREFECT_API_URL", &stub.url)]);
        command.args(["once", "--format", format]);
        command.stdout(full.unwrap());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{format}");
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains("stdout: No space left on device"),
            "{stderr}"
        );
    }
}
