//! What Prefect's client has as well: headers and authorities.

use secrecy::ExposeSecret as _;

use super::*;

fn headers(text: &str) -> Result<Settings, Error> {
    load(&[("PREFECT_CLIENT_CUSTOM_HEADERS", text)])
}

#[test]
fn custom_headers_are_a_json_object() {
    let settings = headers("{\"X-Tenant\": \"blue\", \"cf-access-client-id\": \"a=b\"}").unwrap();
    let headers: Vec<_> = settings.prefect.authentication.headers.iter().collect();
    let pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose_secret()))
        .collect();
    assert_eq!(
        pairs,
        [("x-tenant", "blue"), ("cf-access-client-id", "a=b")]
    );
    assert!(!format!("{settings:?}").contains("blue"));
}

#[test]
fn custom_headers_can_be_a_table_of_the_file() {
    for (suffix, content) in [
        (
            ".toml",
            "[prefect_client_custom_headers]\nX-Tenant = \"blue\"\n",
        ),
        (
            ".yaml",
            "prefect_client_custom_headers:\n  X-Tenant: blue\n",
        ),
    ] {
        let file = file(suffix, content);
        let settings = load_all(Some(file.path().into()), &[], &[]).unwrap();
        let (name, value) = &settings.prefect.authentication.headers[0];
        assert_eq!((name.as_str(), value.expose_secret()), ("x-tenant", "blue"));
    }
}

#[test]
fn headers_that_the_client_sets_itself_are_ignored_with_a_warning() {
    let settings = headers("{\"User-Agent\": \"me\", \"PREFECT-CSRF-TOKEN\": \"x\"}").unwrap();
    assert!(settings.prefect.authentication.headers.is_empty());
    assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
    assert!(settings.warnings[1].contains("user-agent"));
}

#[test]
fn custom_headers_that_cannot_be_used_are_an_error_without_their_value() {
    for text in [
        "hunter2",
        "[\"hunter2\"]",
        "{\"X-Key\": 7}",
        "{\"X Key\": \"hunter2\"}",
        "{\"X-Key\": \"hunter2\\n\"}",
    ] {
        let error = headers(text).unwrap_err().to_string();
        assert!(
            error.starts_with("PREFECT_CLIENT_CUSTOM_HEADERS: ") && error.contains("JSON object"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn authorities_are_read_from_a_bundle() {
    let certificate = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.self_signed(&key).unwrap().pem()
    };
    let bundle = file(".pem", &(certificate("a") + &certificate("b")));
    let path = bundle.path().to_str().unwrap();
    let settings = load(&[("PREFECT_API_SSL_CERT_FILE", path)]).unwrap();
    assert_eq!(settings.prefect.authorities.unwrap().len(), 2);
}

#[test]
fn a_file_without_certificates_is_named() {
    let cases = [
        ("", "contains no PEM certificate"),
        ("hello", "contains no PEM certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "cannot be decoded",
        ),
        (
            "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
            "not a PEM file",
        ),
    ];
    for (content, expected) in cases {
        let file = file(".pem", content);
        let path = file.path().to_str().unwrap();
        let error = load(&[("PREFECT_API_SSL_CERT_FILE", path)]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("PREFECT_API_SSL_CERT_FILE: ") && error.contains(expected),
            "{content}: {error}"
        );
    }
    let error = load(&[("PREFECT_API_SSL_CERT_FILE", "/nonexistent.pem")]).unwrap_err();
    assert!(error.to_string().contains("/nonexistent.pem"), "{error}");
}

#[test]
fn certificates_are_verified_unless_prefects_client_would_not() {
    let skip = "PREFECT_API_TLS_INSECURE_SKIP_VERIFY";
    for value in ["True", "true", "1", "YES", "on"] {
        let settings = load(&[(skip, value)]).unwrap();
        assert!(settings.prefect.skip_verify, "{value}");
        let warning = &settings.warnings[0];
        assert!(
            warning.starts_with(skip) && warning.contains("NOT VERIFIED"),
            "{warning}"
        );
    }
    for value in ["False", "0", "no"] {
        let settings = load(&[(skip, value)]).unwrap();
        assert!(!settings.prefect.skip_verify, "{value}");
        assert_eq!(settings.warnings, Vec::<String>::new());
    }
    let message = load(&[(skip, "maybe")]).unwrap_err().to_string();
    assert!(message.starts_with(skip), "{message}");
}

/// The files of a new certificate and its key.
fn certificate_and_key() -> [tempfile::NamedTempFile; 2] {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["agent".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    [
        file(".pem", &certificate),
        file(".pem", &key.serialize_pem()),
    ]
}

const OF_PREFECT: [&str; 2] = ["PREFECT_API_CLIENT_CERTIFICATE", "PREFECT_API_CLIENT_KEY"];
const OF_TRACES: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
];
const TRACES: (&str, &str) = ("OTEL_TRACES_EXPORTER", "otlp");

#[test]
fn a_client_certificate_and_its_key_are_checked_at_the_start() {
    let [certificate, key] = certificate_and_key();
    let [_, other_key] = certificate_and_key();
    let garbage = file(
        ".pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let empty = file(".pem", "");
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
    for names in [OF_PREFECT, OF_TRACES] {
        let with = |certificate: &str, key: &str| {
            load(&[TRACES, (names[0], certificate), (names[1], key)])
        };
        let (certificate, key) = (path(&certificate), path(&key));
        with(&certificate, &key).unwrap();
        for (certificate, key, at_fault, reason) in [
            (certificate.clone(), path(&other_key), 1, names[0]),
            (certificate.clone(), path(&empty), 1, "no PEM private key"),
            (certificate.clone(), "/none.pem".to_owned(), 1, "/none.pem"),
            (path(&empty), key.clone(), 0, "no PEM certificate"),
            (path(&garbage), key, 0, ""),
        ] {
            let message = with(&certificate, &key).unwrap_err().to_string();
            let start = format!("{}: cannot use the file", names[at_fault]);
            assert!(message.starts_with(&start), "{message}");
            assert!(message.contains(reason), "{message}");
        }
        let alone = load(&[TRACES, (names[0], &certificate)]).unwrap_err();
        assert!(alone.to_string().contains("need each other"), "{alone}");
    }
}

#[test]
fn the_authorities_of_a_receiver_are_decoded_at_the_start_for_each_protocol() {
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (content, reason) in [
        (garbage, "cannot be decoded"),
        ("hello", "no PEM certificate"),
        ("", "no PEM certificate"),
    ] {
        for protocol in ["http/protobuf", "grpc"] {
            let file = file(".pem", content);
            let message = load(&[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                (
                    "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
                    file.path().to_str().unwrap(),
                ),
            ]);
            let message = message.unwrap_err().to_string();
            assert!(
                message.starts_with("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE: ")
                    && message.contains(reason),
                "{message}"
            );
        }
    }
}
