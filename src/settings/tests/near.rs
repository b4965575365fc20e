//! Misspelt names.

use super::*;

#[test]
fn a_misspelt_variable_is_one_warning_that_names_the_near_one() {
    for (written, meant) in [
        ("PREFECT_API_URl", "PREFECT_API_URL"),
        ("PREFECT_API_ULR", "PREFECT_API_URL"),
        ("PERFECT_API_KEY", "PREFECT_API_KEY"),
        ("SAMPLE_INTERVAL", "SAMPLE_INTERVAL_SECONDS"),
        ("REQUEST_TIMEOUT", "REQUEST_TIMEOUT_SECONDS"),
        ("SCHEDULED_LOOKAHEAD", "SCHEDULED_LOOKAHEAD_MINUTES"),
        ("PAGINATION_LIMT", "PAGINATION_LIMIT"),
        ("OTEL_EXPORTER_OTLP_ENDPIONT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_METRIC_EXPORTER", "OTEL_METRICS_EXPORTER"),
        (
            "OTEL_EXPORTER_OTLP_METRIC_TIMEOUT",
            "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
        ),
    ] {
        let warnings = load(&[(written, "hunter2")]).unwrap().warnings;
        let expected = format!("{written} is not a setting; did you mean {meant}?");
        assert_eq!(warnings, [expected]);
    }
}

#[test]
fn variables_of_other_programs_are_no_mistakes() {
    for name in [
        "HOME",
        "HOSTNAME",
        "LOG_DIR",
        "METRICS_HOST",
        "METRICS_PATH",
        "OFFSET",
        "OTEL_EXPORTER_JAEGER_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_EXPORTER",
        "OTEL_EXPORTER_OTLP_METRIC_INSECURE",
        "OTEL_EXPORTER_ZIPKIN_TIMEOUT",
        "OTEL_LOG_EXPORTER",
        "OTEL_LOG_LEVEL",
        "OTEL_METRIC_EXPORT_TIMEOUT",
        "OTEL_TRACE_EXPORTER",
        "PATH",
        "PREFECT_HOME",
        "PREFECT_LOGGING_LEVEL",
        "PREFECT_UI_URL",
        "STATE_DIRECTORY",
        "XDG_STATE_HOME",
    ] {
        let warnings = load(&[(name, "x")]).unwrap().warnings;
        assert_eq!(warnings, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn an_unknown_key_of_the_file_names_the_near_one() {
    let message = |content: &str| {
        let file = file(".toml", content);
        let error = load_all(Some(file.path().into()), &[], &[]).unwrap_err();
        error.to_string()
    };
    let near = message("ofset_minutes = 7\n");
    assert!(
        near.ends_with("unknown key \"ofset_minutes\"; did you mean offset_minutes?"),
        "{near}"
    );
    let unit = message("sample_interval = 7\n");
    assert!(
        unit.ends_with("did you mean sample_interval_seconds?"),
        "{unit}"
    );
    let case = message("MAX_RETRIES = 7\n");
    assert!(case.ends_with("did you mean max_retries?"), "{case}");
    let two_edits = message("max_retrys = 7\n");
    assert!(
        two_edits.ends_with("did you mean max_retries?"),
        "{two_edits}"
    );
    let far = message("colour = 7\n");
    assert!(
        far.ends_with("unknown key \"colour\"; `prefect-otel-agent settings` lists all"),
        "{far}"
    );
}
