//! What Prefect's client has as well: headers and authorities.

use secrecy::ExposeSecret as _;

use super::*;

fn headers(text: &str) -> Result<Settings, Error> {
    load(&[("PREFECT_CLIENT_CUSTOM_HEADERS", text)])
}

#[test]
fn custom_headers_are_a_json_object() {
    let settings = headers("{\"X-Tenant\": \"blue\", \"cf-access-client-id\": \"a=b\"}").unwrap();
    let headers: Vec<_> = settings.prefect.headers.iter().collect();
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
        let (name, value) = &settings.prefect.headers[0];
        assert_eq!((name.as_str(), value.expose_secret()), ("x-tenant", "blue"));
    }
}

#[test]
fn headers_that_the_client_sets_itself_are_ignored_with_a_warning() {
    let settings = headers("{\"User-Agent\": \"me\", \"PREFECT-CSRF-TOKEN\": \"x\"}").unwrap();
    assert!(settings.prefect.headers.is_empty());
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
fn certificates_that_nobody_verifies_are_not_supported() {
    let skip = "PREFECT_API_TLS_INSECURE_SKIP_VERIFY";
    let warnings = load(&[(skip, "True")]).unwrap().warnings;
    assert!(
        warnings[0].contains(skip) && warnings[0].contains("PREFECT_API_SSL_CERT_FILE"),
        "{warnings:?}"
    );
    assert!(load(&[(skip, "False")]).unwrap().warnings.is_empty());
}
