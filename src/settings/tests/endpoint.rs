//! URLs that cannot be used, and what is shown of those that can.

use super::*;

fn message(environment: &[(&str, &str)]) -> String {
    load(environment).unwrap_err().to_string()
}

#[test]
fn an_endpoint_without_a_scheme_names_both_ways_out() {
    for name in [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    ] {
        let message = message(&[(name, "collector:4317")]);
        let expected = format!(
            "{name}: \"collector:4317\" is not valid; accepted: an http:// or https:// URL; add http://, or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
        );
        assert_eq!(message, expected);
    }
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let message = message(&[grpc, ("OTEL_EXPORTER_OTLP_ENDPOINT", "a b")]);
    assert!(message.ends_with("an http:// or https:// URL"), "{message}");
}

#[test]
fn an_endpoint_with_a_password_points_at_the_headers() {
    for (protocol, value) in [
        ("http/protobuf", "http://user:hunter2@collector:4318"),
        ("http/protobuf", "user:hunter2@collector:4318"),
        ("grpc", "user:hunter2@collector:4317"),
    ] {
        let message = message(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", value),
        ]);
        assert!(
            message.ends_with("without user name and password; use OTEL_EXPORTER_OTLP_HEADERS"),
            "{message}"
        );
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn the_url_of_prefect_has_no_query_and_no_fragment() {
    for url in [
        "http://h/api?token=hunter2",
        "http://h/api#hunter2",
        "h?hunter2",
    ] {
        let message = message(&[("PREFECT_API_URL", url)]);
        assert!(message.starts_with("PREFECT_API_URL: "), "{message}");
        assert!(message.contains("query and fragment"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn the_query_of_an_endpoint_is_sent_and_not_shown() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c/in?token=hunter2");
    let otlp = load(&[endpoint]).unwrap().otel.otlp_metrics.unwrap();
    let sent = "http://c/in/v1/metrics?token=hunter2";
    assert_eq!(otlp.endpoint.as_str(), sent);
    assert_eq!(otlp.shown_endpoint(), "http://c/in/v1/metrics?********");
    let message = message(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "c/in?token=hunter2")]);
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn no_message_has_the_password_of_a_url_however_it_is_written() {
    use std::os::unix::ffi::OsStringExt as _;
    let texts = [
        "user:Hunter2@host/api",
        "http:\\\\user:Hunter2@host/api",
        "http:user:Hunter2@host",
        "http:///user:Hunter2@host",
        "//user:Hunter2@host/api",
        "user:Hunter2@[::1]:4317",
        "user:Hunter2%40@host:4317",
        "htp://user:Hunter2@host",
        "http://host/api?token=Hunter2",
        "host:4317?token=Hunter2",
    ];
    let not_unicode = std::ffi::OsString::from_vec(b"http://user:Hunter2@\xff/api".to_vec());
    let texts = texts.iter().map(std::ffi::OsString::from);
    for text in texts.chain([not_unicode]) {
        for name in [
            "PREFECT_API_URL",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        ] {
            for protocol in ["http/protobuf", "grpc"] {
                let sources = Sources {
                    environment: vec![
                        (name.into(), text.clone()),
                        ("OTEL_EXPORTER_OTLP_PROTOCOL".into(), protocol.into()),
                    ],
                    ..Sources::default()
                };
                let message = match Settings::load(&sources) {
                    Ok(settings) => format!("{:?}", settings.warnings),
                    Err(error) => error.to_string(),
                };
                assert!(!message.contains("Hunter2"), "{name}={text:?}: {message}");
                let shown = match crate::settings::report::report(&sources) {
                    Ok(report) => report.render(crate::docgen::Format::Table),
                    Err(error) => error.to_string(),
                };
                assert!(!shown.contains("Hunter2"), "{name}={text:?}: {shown}");
            }
        }
    }
}
