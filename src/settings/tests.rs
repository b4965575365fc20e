use std::io::Write as _;

use super::*;

mod endpoint;
mod lenient;
mod near;
mod prefect;
mod profile;
mod report;
mod secrets;
mod workspaces;

fn load(environment: &[(&str, &str)]) -> Result<Settings, Error> {
    load_all(None, environment, &[])
}

fn load_all(
    file: Option<PathBuf>,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Settings, Error> {
    Settings::load(&sources(file, environment, flags))
}

fn sources(file: Option<PathBuf>, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
    Sources {
        file,
        environment: environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        flags: flags
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
    }
}

fn file(suffix: &str, content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

#[test]
fn every_default_is_accepted() {
    let settings = load(&[]).unwrap();
    assert_eq!(
        settings.prefect.api_url.as_str(),
        "http://localhost:4200/api"
    );
    assert_eq!(settings.sampling.interval, Duration::from_secs(30));
    assert_eq!(
        settings.sampling.scheduled_lookahead,
        Some(Duration::from_secs(3600))
    );
    assert_eq!(settings.metrics_address.to_string(), "0.0.0.0:8000");
    let otlp = settings.otel.otlp_metrics.unwrap();
    assert_eq!(otlp.endpoint.as_str(), "http://localhost:4318/v1/metrics");
    assert_eq!(otlp.protocol, Protocol::HttpProtobuf);
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let file = file(
        ".toml",
        "max_retries = 1\noffset_minutes = 7\npagination_limit = 50\n",
    );
    let settings = load_all(
        Some(file.path().into()),
        &[("OFFSET_MINUTES", "8"), ("PAGINATION_LIMIT", "60")],
        &[("PAGINATION_LIMIT", "70")],
    )
    .unwrap();
    assert_eq!(settings.prefect.max_retries, 1);
    assert_eq!(settings.sampling.offset, Duration::from_secs(8 * 60));
    assert_eq!(settings.prefect.pagination_limit, 70);
}

#[test]
fn yaml_is_read_too_and_typed_values_are_fine() {
    let file = file(
        ".yaml",
        "pagination_enabled: false\nmetrics_port: 9000\nlog_format: json\n",
    );
    let settings = load_all(Some(file.path().into()), &[], &[]).unwrap();
    assert!(!settings.prefect.pagination_enabled);
    assert_eq!(settings.metrics_address.port(), 9000);
    assert_eq!(settings.log.format, LogFormat::Json);
}

#[test]
fn booleans_are_pythons_and_everybody_elses() {
    for (text, value) in [
        ("True", true),
        ("true", true),
        ("1", true),
        ("False", false),
        ("0", false),
    ] {
        let settings = load(&[("PREFECT_CSRF_ENABLED", text)]).unwrap();
        assert_eq!(settings.prefect.csrf_enabled, value, "{text}");
    }
}

#[test]
fn a_bad_value_names_setting_value_and_what_is_accepted() {
    for (name, value) in [
        ("PAGINATION_LIMIT", "0"),
        ("PAGINATION_ENABLED", "maybe"),
        ("METRICS_PORT", "70000"),
        ("METRICS_ADDR", "localhost"),
        ("PREFECT_API_URL", "prefect:4200"),
        ("SAMPLE_INTERVAL_SECONDS", "0"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
        ("LOG_LEVEL", "LOUD"),
    ] {
        let message = load(&[(name, value)]).unwrap_err().to_string();
        assert!(
            message.contains(name) && message.contains(value),
            "{message}"
        );
        assert!(
            message.contains("accepted: ") && !message.contains('\n'),
            "{message}"
        );
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let missing = load_all(Some("/nonexistent/agent.toml".into()), &[], &[]).unwrap_err();
    assert!(
        missing.to_string().contains("/nonexistent/agent.toml"),
        "{missing}"
    );
    let broken = file(".toml", "prefect_api_key = \"hunter2\nx");
    let message = load_all(Some(broken.path().into()), &[], &[])
        .unwrap_err()
        .to_string();
    assert!(
        !message.contains("hunter2") && !message.contains('\n'),
        "{message}"
    );
    let odd = file(".ini", "");
    let message = load_all(Some(odd.path().into()), &[], &[])
        .unwrap_err()
        .to_string();
    assert!(message.contains(".toml"), "{message}");
}

#[test]
fn no_secret_is_ever_shown() {
    let settings = load(&[
        ("PREFECT_API_AUTH_STRING", "admin:hunter2"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20hunter2",
        ),
    ])
    .unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
    for (name, value) in [
        ("PREFECT_API_KEY", "hunter2 hunter2"),
        ("PREFECT_API_AUTH_STRING", "hunter2"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
        ("PREFECT_API_URL", "http://admin:hunter2@localhost:4200/api"),
    ] {
        let message = load(&[(name, value)]).unwrap_err().to_string();
        assert!(
            message.contains(name) && !message.contains("hunter2"),
            "{message}"
        );
    }
}

#[test]
fn a_secret_can_stand_in_a_file_of_its_own() {
    let secret = file("", "admin:hunter2\n");
    let path = secret.path().to_str().unwrap();
    let settings = load(&[("PREFECT_API_AUTH_STRING_FILE", path)]).unwrap();
    assert!(
        matches!(settings.prefect.authentication.credentials, Credentials::Basic { ref user, .. } if user == "admin")
    );
    let twice = load(&[
        ("PREFECT_API_AUTH_STRING_FILE", path),
        ("PREFECT_API_AUTH_STRING", "a:b"),
    ]);
    assert!(matches!(twice, Err(Error::Twice { .. })));
    let missing = load(&[("PREFECT_API_KEY_FILE", "/nonexistent/key")])
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("PREFECT_API_KEY_FILE") && missing.contains("/nonexistent/key"),
        "{missing}"
    );
}

#[test]
fn the_key_wins_over_user_and_password() {
    let settings = load(&[("PREFECT_API_KEY", "k"), ("PREFECT_API_AUTH_STRING", "a:b")]).unwrap();
    assert!(matches!(
        settings.prefect.authentication.credentials,
        Credentials::Bearer(_)
    ));
}

#[test]
fn endpoints_follow_the_specification() {
    let endpoint = |environment: &[(&str, &str)]| {
        load(environment)
            .unwrap()
            .otel
            .otlp_metrics
            .unwrap()
            .endpoint
            .to_string()
    };
    assert_eq!(
        endpoint(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/")]),
        "http://c:4318/v1/metrics"
    );
    assert_eq!(
        endpoint(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c/base")]),
        "http://c/base/v1/metrics"
    );
    assert_eq!(
        endpoint(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c/in")]),
        "http://c/in"
    );
    assert_eq!(
        endpoint(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]),
        "http://localhost:4317/"
    );
    let plain = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317"),
    ];
    assert_eq!(endpoint(&plain), "https://c:4317/");
    let insecure = [plain[0], plain[1], ("OTEL_EXPORTER_OTLP_INSECURE", "true")];
    assert_eq!(endpoint(&insecure), "http://c:4317/");
}

#[test]
fn the_standards_interval_counts_where_the_own_is_not_set() {
    let standard = ("OTEL_METRIC_EXPORT_INTERVAL", "15000");
    assert_eq!(
        load(&[standard]).unwrap().sampling.interval,
        Duration::from_secs(15)
    );
    let both = load(&[standard, ("SAMPLE_INTERVAL_SECONDS", "20")]).unwrap();
    assert_eq!(both.sampling.interval, Duration::from_secs(20));
}

#[test]
fn names_that_are_not_text_are_passed_over_and_values_are_an_error() {
    use std::os::unix::ffi::OsStringExt as _;
    let odd = || std::ffi::OsString::from_vec(vec![0xff, 0xfe]);
    let mut sources = Sources {
        environment: vec![(odd(), odd())],
        ..Sources::default()
    };
    assert!(Settings::load(&sources).is_ok());
    sources.environment = vec![("LOG_LEVEL".into(), odd())];
    assert!(
        Settings::load(&sources)
            .unwrap_err()
            .to_string()
            .contains("LOG_LEVEL")
    );
}

#[test]
fn the_sdk_can_be_turned_off() {
    let settings = load(&[
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
    ])
    .unwrap();
    assert_eq!(settings.otel.metrics, MetricsExporters::default());
    assert!(settings.otel.otlp_metrics.is_none() && settings.otel.otlp_traces.is_none());
}
