//! The settings in use.

use serde_json::{Value, json};

use super::*;
use crate::docgen::Format;

fn report(
    file: Option<PathBuf>,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Vec<Value> {
    let reference = crate::settings::report::report(&sources(file, environment, flags)).unwrap();
    serde_json::from_str(&reference.render(Format::Json)).unwrap()
}

fn row(rows: &[Value], name: &str) -> Value {
    let mut rows = rows.iter().filter(|row| row["setting"] == name);
    let row = rows.next().unwrap_or_else(|| panic!("{name} is missing"));
    assert!(rows.next().is_none(), "{name} is there twice");
    json!([row["value"], row["source"]])
}

#[test]
fn each_setting_is_there_with_its_value_and_where_it_comes_from() {
    let file = file(".toml", "max_retries = 1\n");
    let rows = report(
        Some(file.path().into()),
        &[
            ("OFFSET_MINUTES", "7"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "500"),
        ],
        &[("LOG_LEVEL", "DEBUG")],
    );
    let from_file = format!("file {}", file.path().display());
    assert_eq!(row(&rows, "MAX_RETRIES"), json!(["1", from_file]));
    assert_eq!(row(&rows, "OFFSET_MINUTES"), json!(["7", "environment"]));
    assert_eq!(row(&rows, "LOG_LEVEL"), json!(["DEBUG", "flag"]));
    assert_eq!(row(&rows, "LOG_FORMAT"), json!(["text", "default"]));
    assert_eq!(row(&rows, "STATE_DIR"), json!([null, "not set"]));
    let own = "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT";
    assert_eq!(row(&rows, own), json!(["500", "environment"]));
    let general = "OTEL_EXPORTER_OTLP_TIMEOUT";
    assert_eq!(row(&rows, general), json!(["10000", "default"]));
    for setting in SETTINGS {
        row(&rows, setting.name);
    }
}

#[test]
fn secrets_are_masked() {
    let profile = tempfile::tempdir().unwrap();
    std::fs::write(
        profile.path().join("profiles.toml"),
        "active = \"p\"\n[profiles.p]\nPREFECT_API_URL = \"http://h/api\"\nPREFECT_API_KEY = \"hunter2\"\n",
    )
    .unwrap();
    let rows = report(
        None,
        &[
            ("PREFECT_HOME", profile.path().to_str().unwrap()),
            ("PREFECT_CLIENT_CUSTOM_HEADERS", "{\"X\": \"hunter2\"}"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS_FILE", "/run/secrets/otlp"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:hunter2@h"),
        ],
        &[],
    );
    let text = format!("{rows:?}");
    assert!(!text.contains("hunter2"), "{text}");
    let from = row(&rows, "PREFECT_API_KEY");
    assert_eq!(from[0], "********");
    assert!(from[1].as_str().unwrap().starts_with("profile \"p\" in /"));
    let file = row(&rows, "OTEL_EXPORTER_OTLP_LOGS_HEADERS");
    let source = "file /run/secrets/otlp (OTEL_EXPORTER_OTLP_LOGS_HEADERS_FILE, environment)";
    assert_eq!(file, json!(["********", source]));
}

#[test]
fn the_specifications_interval_is_named_where_it_is_used() {
    let standard = [("OTEL_METRIC_EXPORT_INTERVAL", "15000")];
    let own = row(&report(None, &standard, &[]), "SAMPLE_INTERVAL_SECONDS");
    assert_eq!(own, json!([null, "OTEL_METRIC_EXPORT_INTERVAL"]));
    let own = row(&report(None, &[], &[]), "SAMPLE_INTERVAL_SECONDS");
    assert_eq!(own, json!(["30", "default"]));
}

#[test]
fn a_value_that_is_not_supported_is_shown_as_what_is_used_instead() {
    let rows = report(
        None,
        &[
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1m"),
        ],
        &[],
    );
    let disabled = json!(["false", "environment (set to \"yes\")"]);
    assert_eq!(row(&rows, "OTEL_SDK_DISABLED"), disabled);
    let interval = json!([null, "environment (set to \"1m\")"]);
    assert_eq!(row(&rows, "OTEL_METRIC_EXPORT_INTERVAL"), interval);
    let own = row(&rows, "SAMPLE_INTERVAL_SECONDS");
    assert_eq!(own, json!(["30", "default"]));
    let rows = report(
        None,
        &[
            ("OTEL_METRICS_EXPORTER", "otlp,statsd"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
            ("OTEL_RESOURCE_ATTRIBUTES", "http://admin:hunter2@host"),
            // Settings that cannot be used at all do not matter.
            ("MAX_RETRIES", "many"),
        ],
        &[],
    );
    let exporters = json!(["otlp", "environment (set to \"otlp,statsd\")"]);
    assert_eq!(row(&rows, "OTEL_METRICS_EXPORTER"), exporters);
    let protocol = json!(["http/protobuf", "environment (set to \"http/json\")"]);
    assert_eq!(row(&rows, "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"), protocol);
    let general = json!(["http/protobuf", "default"]);
    assert_eq!(row(&rows, "OTEL_EXPORTER_OTLP_PROTOCOL"), general);
    assert_eq!(row(&rows, "MAX_RETRIES"), json!(["many", "environment"]));
    assert!(!format!("{rows:?}").contains("hunter2"), "{rows:?}");
}

#[test]
fn queries_of_urls_are_masked() {
    let rows = report(
        None,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c/in?token=hunter2"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "u:hunter2@c:4318"),
            ("PREFECT_API_URL", "http://h/api#hunter2"),
        ],
        &[],
    );
    let value = |name: &str| row(&rows, name)[0].clone();
    assert_eq!(value("OTEL_EXPORTER_OTLP_ENDPOINT"), "http://c/in?********");
    assert_eq!(value("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"), "********");
    assert_eq!(value("PREFECT_API_URL"), "http://h/api#********");
}

#[test]
fn what_a_workspace_sets_itself_is_there_with_its_name() {
    let file = file(
        ".yaml",
        "max_retries: 1
workspaces:
- name: prod
  prefect_api_url: http://prod/api
  prefect_api_key: hunter2
- name: test
  prefect_api_url: http://test/api
  max_retries: 0
",
    );
    let rows = report(Some(file.path().into()), &[], &[]);
    let of = |name: &str| -> Vec<_> {
        let rows = rows.iter().filter(|row| row["setting"] == name);
        rows.map(|row| [&row["value"], &row["source"]]).collect()
    };
    let (prod, test) = ("workspace \"prod\"", "workspace \"test\"");
    let urls = [["http://prod/api", prod], ["http://test/api", test]];
    assert_eq!(json!(of("PREFECT_API_URL")), json!(urls));
    let keys = json!([[null, "not set"], ["********", prod]]);
    assert_eq!(json!(of("PREFECT_API_KEY")), keys);
    let from_file = format!("file {}", file.path().display());
    let retries = json!([["1", from_file], ["0", test]]);
    assert_eq!(json!(of("MAX_RETRIES")), retries);
    assert!(!format!("{rows:?}").contains("hunter2"), "{rows:?}");
}
