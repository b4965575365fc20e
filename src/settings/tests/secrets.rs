//! Secrets in files.

use secrecy::ExposeSecret as _;

use super::*;

fn key(settings: &Settings) -> String {
    key_of(&settings.prefect.authentication)
}

fn key_of(authentication: &Authentication) -> String {
    match &authentication.credentials {
        Credentials::Bearer(key) => key.expose_secret().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_without_a_secret_is_an_error_that_names_it() {
    for content in ["", "\n", " \r\n", "\u{feff}", "\u{feff}\n"] {
        for name in [
            "PREFECT_API_KEY_FILE",
            "PREFECT_API_AUTH_STRING_FILE",
            "PREFECT_CLIENT_CUSTOM_HEADERS_FILE",
            "OTEL_EXPORTER_OTLP_HEADERS_FILE",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS_FILE",
        ] {
            let secret = file("", content);
            let path = secret.path().to_str().unwrap();
            let message = load(&[(name, path)]).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("{name}: ")) && message.contains(path),
                "{message}"
            );
            assert!(message.contains("it is empty"), "{message}");
        }
    }
}

#[test]
fn a_byte_order_mark_is_not_part_of_the_secret() {
    let secret = file("", "\u{feff}pnu_key\r\n");
    let path = secret.path().to_str().unwrap();
    let settings = load(&[("PREFECT_API_KEY_FILE", path)]).unwrap();
    assert_eq!(key(&settings), "pnu_key");
    let config = file(".toml", "\u{feff}max_retries = 1\n");
    let settings = load_all(Some(config.path().into()), &[], &[]).unwrap();
    assert_eq!(settings.prefect.max_retries, 1);
}

#[test]
fn a_file_without_an_end_is_an_error() {
    let message = load(&[("PREFECT_API_KEY_FILE", "/dev/zero")]).unwrap_err();
    assert!(message.to_string().contains("larger than"), "{message}");
}

#[test]
fn secrets_in_files_can_be_read_again() {
    let secret = file("", "pnu_first");
    let path = secret.path().to_str().unwrap();
    let headers = file("", "{\"X-Key\": \"one\"}");
    let settings = load(&[
        ("PREFECT_API_KEY_FILE", path),
        (
            "PREFECT_CLIENT_CUSTOM_HEADERS_FILE",
            headers.path().to_str().unwrap(),
        ),
        // Not read again: it is not in a file.
        ("MAX_RETRIES", "1"),
    ])
    .unwrap();
    assert_eq!(key(&settings), "pnu_first");
    let reload = settings.prefect.reload.unwrap();
    assert_eq!(
        &**reload.watched().names(),
        "PREFECT_API_KEY_FILE, PREFECT_CLIENT_CUSTOM_HEADERS_FILE"
    );
    std::fs::write(path, "pnu_second\n").unwrap();
    std::fs::write(headers.path(), "{\"X-Key\": \"two\"}").unwrap();
    let again = reload.read().unwrap();
    assert_eq!(key_of(&again), "pnu_second");
    assert_eq!(again.headers[0].1.expose_secret(), "two");
    std::fs::write(path, "").unwrap();
    let message = reload.read().unwrap_err().to_string();
    assert!(message.starts_with("PREFECT_API_KEY_FILE: "), "{message}");
    // Known to what masks secrets in logs.
    let said = crate::secrets::scrubbed("pnu_first and pnu_second");
    assert_eq!(said, "********* and **********");
}

#[test]
fn the_headers_of_each_signal_can_be_read_again() {
    let secret = file("", "x-token=first-token");
    let path = secret.path().to_str().unwrap();
    for name in [
        "OTEL_EXPORTER_OTLP_HEADERS_FILE",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS_FILE",
    ] {
        std::fs::write(path, "x-token=first-token").unwrap();
        let settings = load(&[(name, path)]).unwrap();
        let otlp = settings.otel.otlp_metrics.unwrap();
        assert_eq!(otlp.headers[0].1.expose_secret(), "first-token");
        std::fs::write(path, "x-token=second-token").unwrap();
        let again = otlp.reload.unwrap().read().unwrap();
        assert_eq!(again[0].1.expose_secret(), "second-token");
    }
    let settings = load(&[("OTEL_EXPORTER_OTLP_HEADERS", "x-token=fixed")]).unwrap();
    assert!(settings.otel.otlp_metrics.unwrap().reload.is_none());
    assert!(settings.prefect.reload.is_none());
}
