//! The variables of the OpenTelemetry specification: those of a cluster do not stop the agent.

use super::*;

fn warnings(environment: &[(&str, &str)]) -> Vec<String> {
    load(environment).unwrap().warnings
}

#[test]
fn booleans_of_the_specification_are_true_only_for_true() {
    for (text, is_disabled, warns) in [
        ("true", true, false),
        ("TRUE", true, false),
        ("True", true, false),
        ("false", false, false),
        ("FALSE", false, false),
        ("1", false, true),
        ("yes", false, true),
        ("maybe", false, true),
    ] {
        let settings = load(&[("OTEL_SDK_DISABLED", text)]).unwrap();
        let is_off = settings.otel.metrics == MetricsExporters::default();
        assert_eq!(is_off, is_disabled, "{text}");
        assert_eq!(
            settings.warnings.len(),
            usize::from(warns),
            "{text}: {:?}",
            settings.warnings
        );
        for warning in settings.warnings {
            assert!(
                warning.contains("OTEL_SDK_DISABLED") && warning.contains("using false"),
                "{warning}"
            );
        }
    }
}

#[test]
fn enumerations_are_read_in_any_case() {
    let settings = load(&[
        ("OTEL_METRICS_EXPORTER", "OTLP, Prometheus"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "GRPC"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta"),
    ])
    .unwrap();
    assert!(settings.otel.metrics.otlp && settings.otel.metrics.prometheus);
    let otlp = settings.otel.otlp_metrics.unwrap();
    assert_eq!(otlp.protocol, Protocol::Grpc);
    assert_eq!(otlp.compression, Compression::Gzip);
    assert_eq!(settings.otel.temporality, Temporality::Delta);
    assert_eq!(settings.warnings, Vec::<String>::new());
}

#[test]
fn a_value_that_is_not_supported_is_one_warning_and_the_default() {
    for (name, value, instead) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
            "smoke",
            "http/protobuf",
        ),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "10000"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1", "10000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "it is ignored"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team", "it is ignored"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "sometimes",
            "cumulative",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "bars",
            "explicit_bucket_histogram",
        ),
    ] {
        let environment = [(name, value), ("OTEL_TRACES_EXPORTER", "otlp")];
        let settings = load(&environment).unwrap();
        // Once, even where several signals read it.
        let [warning] = &settings.warnings[..] else {
            panic!("{name}: {:?}", settings.warnings);
        };
        for text in [name, value, instead] {
            assert!(warning.contains(text), "{warning}");
        }
        let otlp = settings.otel.otlp_metrics.unwrap();
        assert_eq!(otlp.protocol, Protocol::HttpProtobuf);
        assert_eq!(otlp.timeout, Duration::from_secs(10));
        assert_eq!(settings.sampling.interval, Duration::from_secs(30));
        assert_eq!(settings.otel.temporality, Temporality::Cumulative);
        assert!(settings.otel.resource.is_empty());
    }
}

#[test]
fn exporters_that_the_agent_does_not_have_are_ignored() {
    let settings = load(&[
        ("OTEL_METRICS_EXPORTER", "otlp,statsd"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_LOGS_EXPORTER", "none"),
    ])
    .unwrap();
    let metrics = settings.otel.metrics;
    assert!(metrics.otlp && !metrics.prometheus && !metrics.console);
    assert!(settings.otel.otlp_traces.is_none());
    let [statsd, zipkin] = &settings.warnings[..] else {
        panic!("{:?}", settings.warnings);
    };
    assert!(statsd.contains("\"statsd\"") && statsd.ends_with("using otlp"));
    assert!(zipkin.contains("\"zipkin\"") && zipkin.ends_with("using none"));
}

#[test]
fn a_list_without_any_exporter_of_the_agent_is_the_default() {
    let settings = load(&[("OTEL_METRICS_EXPORTER", "logging")]).unwrap();
    let metrics = settings.otel.metrics;
    assert!(metrics.otlp && metrics.prometheus && !metrics.console);
    assert!(settings.warnings[0].ends_with("using otlp,prometheus"));
}

#[test]
fn spans_and_logs_can_go_to_the_console() {
    let settings = load(&[
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_LOGS_EXPORTER", "otlp,console"),
    ])
    .unwrap();
    assert!(settings.otel.console_traces && settings.otel.otlp_traces.is_none());
    assert!(settings.otel.console_logs && settings.otel.otlp_logs.is_some());
    assert!(settings.warnings.is_empty());
}

#[test]
fn the_config_map_of_a_whole_cluster_does_not_stop_the_agent() {
    let environment = [
        ("OTEL_BSP_SCHEDULE_DELAY", "5000"),
        ("OTEL_CONFIG_FILE", "/etc/otel.yaml"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "9464"),
        ("OTEL_LOG_LEVEL", "info"),
        ("OTEL_LOGS_EXPORTER", "console"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "trace_based"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "30000"),
        ("OTEL_PROPAGATORS", "tracecontext,baggage,b3"),
        ("OTEL_PYTHON_LOG_CORRELATION", "yes"),
        ("OTEL_TRACES_EXPORTER", "console,jaeger"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.1"),
    ];
    let settings = load(&environment).unwrap();
    assert_eq!(settings.otel.metrics, MetricsExporters::default());
    // Nothing is sent by OTLP, so its protocol does not matter.
    let [jaeger] = &settings.warnings[..] else {
        panic!("{:?}", settings.warnings);
    };
    assert!(jaeger.contains("jaeger"), "{jaeger}");
}

#[test]
fn where_metrics_go_and_with_which_credential_is_never_guessed() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Bearer hunter2"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nonexistent"),
    ] {
        let error = load(&[(name, value)]).unwrap_err().to_string();
        assert!(
            error.contains(name) && !error.contains("hunter2"),
            "{error}"
        );
    }
}

#[test]
fn no_warning_shows_a_secret() {
    let warnings = warnings(&[
        ("OTEL_RESOURCE_ATTRIBUTES", "http://admin:hunter2@host"),
        (
            "PREFECT_CLIENT_CUSTOM_HEADERS",
            "{\"User-Agent\": \"hunter2\"}",
        ),
    ]);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(!format!("{warnings:?}").contains("hunter2"), "{warnings:?}");
}

#[test]
fn a_service_of_kubernetes_named_metrics_is_not_the_port() {
    let settings = load(&[
        ("METRICS_PORT", "tcp://10.96.0.7:80"),
        ("METRICS_PORT_80_TCP", "tcp://10.96.0.7:80"),
        ("METRICS_PORT_80_TCP_ADDR", "10.96.0.7"),
        ("METRICS_SERVICE_HOST", "10.96.0.7"),
        ("PREFECT_SERVER_PORT", "tcp://10.96.0.8:4200"),
        ("PREFECT_SERVER_PORT_4200_TCP", "tcp://10.96.0.8:4200"),
        ("PREFECT_SERVER_SERVICE_PORT", "4200"),
        ("PREFECT_API_PORT", "tcp://10.96.0.8:4200"),
    ])
    .unwrap();
    assert_eq!(settings.metrics_address.port(), 8000);
    let [warning] = &settings.warnings[..] else {
        panic!("{:?}", settings.warnings);
    };
    assert!(
        warning.contains("METRICS_PORT") && warning.contains("Kubernetes"),
        "{warning}"
    );
}
