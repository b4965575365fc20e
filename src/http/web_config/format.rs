//! The format of the web configuration file, which is that of Prometheus and its exporters.
//! <https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use config::{ConfigError, File, FileFormat, Source as _, Value, ValueKind};
use jiff::SignedDuration;
use serde::Deserialize;

use crate::settings::bounded_yaml;

/// The content of the file. There is no `Debug`, since it can contain a private key.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebConfig {
    pub(super) tls_server_config: Option<TlsServer>,
    http_server_config: Option<HttpServer>,
    basic_auth_users: Option<BTreeMap<String, String>>,
    rate_limit: Option<RateLimit>,
}

#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsServer {
    cert: Option<String>,
    key: Option<String>,
    client_ca: Option<String>,
    cert_file: Option<String>,
    key_file: Option<String>,
    client_ca_file: Option<String>,
    pub(super) client_auth_type: Option<String>,
    pub(super) client_allowed_sans: Option<Vec<String>>,
    pub(super) min_version: Option<String>,
    pub(super) max_version: Option<String>,
    pub(super) cipher_suites: Option<Vec<String>>,
    pub(super) prefer_server_cipher_suites: Option<bool>,
    pub(super) curve_preferences: Option<Vec<String>>,
}

#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpServer {
    /// Accepted, but the agent only serves HTTP/1.1.
    #[serde(rename = "http2")]
    _http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimit {
    interval: Option<String>,
    burst: Option<u32>,
}

/// A PEM text, and where it comes from.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Pem {
    /// It is part of the file.
    Inline(&'static str, String),
    /// It is in another file, relative to the folder of this one.
    File(&'static str, String),
}

/// The headers that the format allows, and their values, if there are only a few.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

impl WebConfig {
    /// Reads the file's text. An error never contains values, since they may be secret.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        bounded_yaml(text)?;
        let values = File::from_str(text, FileFormat::Yaml).collect();
        let values = values.map_err(|error| {
            // The rest of the message has the lines around the error.
            let message = error.to_string();
            let first = message.lines().next().unwrap_or_default();
            match first.rfind("line ").and_then(|start| first.get(start..)) {
                Some(place) => format!("it is not valid YAML ({place})"),
                None => "it is not valid YAML".to_owned(),
            }
        })?;
        let values = Value::new(None, ValueKind::Table(values));
        values.try_deserialize().map_err(|error| reason(&error))
    }

    /// Names and bcrypt hashes of the users.
    pub(super) fn users(&self) -> impl Iterator<Item = (&String, &String)> {
        self.basic_auth_users.iter().flatten()
    }

    /// Headers for every answer.
    pub(super) fn headers(&self) -> Result<HeaderMap, String> {
        let server = self.http_server_config.as_ref();
        let written = server.and_then(|server| server.headers.as_ref());
        let mut headers = HeaderMap::new();
        for (name, value) in written.into_iter().flatten() {
            let known = HEADERS.iter().find(|(known, _)| known == name);
            let Some((_, values)) = known else {
                let known = HEADERS.map(|(known, _)| known).join(", ");
                return Err(format!(
                    "http_server_config.headers: {name:?} cannot be set; accepted: {known}"
                ));
            };
            if value.is_empty() {
                continue;
            }
            if !values.is_empty() && !values.contains(&value.as_str()) {
                let values = values.join(" or ");
                return Err(format!(
                    "http_server_config.headers.{name}: {value:?} is not valid; accepted: {values}"
                ));
            }
            let invalid =
                |_| format!("http_server_config.headers.{name}: it is not a header value");
            let value = HeaderValue::from_str(value).map_err(invalid)?;
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                headers.insert(name, value);
            }
        }
        Ok(headers)
    }

    /// The time between two requests, and how many can come at once.
    pub(super) fn rate(&self) -> Result<Option<(std::time::Duration, u32)>, String> {
        let Some(RateLimit { interval, burst }) = &self.rate_limit else {
            return Ok(None);
        };
        let interval = match interval.as_deref().unwrap_or("0") {
            "0" => return Ok(None),
            text => text.parse::<SignedDuration>().ok(),
        };
        let interval = interval.and_then(|interval| std::time::Duration::try_from(interval).ok());
        match interval {
            None => Err("rate_limit.interval: it is not a duration; write 500ms, 1s or 1m".into()),
            Some(interval) if interval.is_zero() => Ok(None),
            Some(interval) => Ok(Some((interval, burst.unwrap_or(0)))),
        }
    }
}

impl TlsServer {
    /// The server's certificate.
    pub(super) fn certificate(&self) -> Result<Pem, String> {
        let required = one(("cert", &self.cert), ("cert_file", &self.cert_file))?;
        required.ok_or_else(|| missing("cert_file"))
    }

    /// The private key of the certificate.
    pub(super) fn key(&self) -> Result<Pem, String> {
        let required = one(("key", &self.key), ("key_file", &self.key_file))?;
        required.ok_or_else(|| missing("key_file"))
    }

    /// The authorities of clients.
    pub(super) fn authorities(&self) -> Result<Option<Pem>, String> {
        one(
            ("client_ca", &self.client_ca),
            ("client_ca_file", &self.client_ca_file),
        )
    }
}

impl Pem {
    /// Where it comes from, for messages.
    pub(super) fn name(&self) -> String {
        match self {
            Pem::Inline(field, _) => format!("tls_server_config.{field}"),
            Pem::File(field, path) => format!("tls_server_config.{field} ({path})"),
        }
    }
}

fn missing(field: &str) -> String {
    format!("tls_server_config: {field} is missing")
}

type Field<'a> = (&'static str, &'a Option<String>);

/// The text or the file, of which only one can be set. An empty one is treated as unset.
fn one(inline: Field<'_>, file: Field<'_>) -> Result<Option<Pem>, String> {
    let set = |(_, value): Field<'_>| value.clone().filter(|value| !value.is_empty());
    match (set(inline), set(file)) {
        (Some(_), Some(_)) => Err(format!(
            "tls_server_config: {} and {} are both set; set one of them",
            inline.0, file.0
        )),
        (Some(text), None) => Ok(Some(Pem::Inline(inline.0, text))),
        (None, Some(path)) => Ok(Some(Pem::File(file.0, path))),
        (None, None) => Ok(None),
    }
}

/// What is wrong, without the value.
fn reason(error: &ConfigError) -> String {
    match error {
        ConfigError::Type { key, expected, .. } => {
            let key = key.as_deref().unwrap_or_default();
            format!("{key}: expected {expected}")
        }
        ConfigError::At { error, key, .. } => {
            let key = key.as_deref().unwrap_or_default();
            format!("{key}: {}", reason(error))
        }
        ConfigError::Message(message) => match message.rsplit_once(", expected ") {
            Some((problem, expected)) if !problem.starts_with("unknown field") => {
                // Not the name of a type.
                let expected = match expected.starts_with("struct ") {
                    true => "a map",
                    false => expected,
                };
                format!("expected {expected}")
            }
            _ => message.clone(),
        },
        _ => "it has a value of another type than the format's".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let parsed = WebConfig::parse(text);
        let checked = parsed.and_then(|config| {
            config.headers()?;
            config.rate()?;
            if let Some(tls) = &config.tls_server_config {
                tls.certificate()?;
                tls.key()?;
                tls.authorities()?;
            }
            Ok(())
        });
        checked.err().unwrap_or_default()
    }

    #[test]
    fn a_file_of_another_exporter_is_accepted() {
        let text = r#"
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: "ca.crt"
  client_allowed_sans: [prometheus]
  min_version: TLS12
  max_version: TLS13
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
  curve_preferences: [X25519]
http_server_config:
  http2: false
  headers:
    X-Frame-Options: deny
    X-XSS-Protection: 1
    Content-Security-Policy: ""
basic_auth_users:
  alice.b: $2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi
  Bob: $2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi
rate_limit:
  interval: 1m30s
  burst: 20
"#;
        let config = WebConfig::parse(text).ok().unwrap();
        let users: Vec<_> = config.users().map(|(name, _)| name.as_str()).collect();
        assert_eq!(users, ["Bob", "alice.b"]);
        let headers = config.headers().unwrap();
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["x-xss-protection"], "1");
        let rate = config.rate().unwrap();
        assert_eq!(rate, Some((std::time::Duration::from_secs(90), 20)));
        let tls = config.tls_server_config.unwrap();
        assert_eq!(tls.prefer_server_cipher_suites, Some(false));
        assert!(tls.certificate().unwrap() == Pem::File("cert_file", "server.crt".into()));
    }

    #[test]
    fn an_empty_file_configures_nothing() {
        for text in [
            "",
            "# nothing\n",
            "basic_auth_users:\n",
            "tls_server_config:\n",
        ] {
            let config = WebConfig::parse(text).ok().unwrap();
            assert!(config == WebConfig::default(), "{text:?}");
        }
    }

    #[test]
    fn unknown_fields_and_contradictions_are_named() {
        for (text, parts) in [
            (
                "tls_server_config: {cert_filse: a}",
                &[
                    "tls_server_config: unknown field `cert_filse`",
                    "`cert_file`",
                ][..],
            ),
            ("tls: {}", &["unknown field `tls`", "`tls_server_config`"]),
            (
                "tls_server_config: {key_file: a}",
                &["tls_server_config: cert_file is missing"],
            ),
            (
                "tls_server_config: {cert_file: a, key_file: ''}",
                &["tls_server_config: key_file is missing"],
            ),
            (
                "tls_server_config: {cert: a, cert_file: a}",
                &["cert and cert_file are both set"],
            ),
            (
                "http_server_config: {headers: {Content-Type: foo}}",
                &["\"Content-Type\" cannot be set", "X-Frame-Options"],
            ),
            (
                "http_server_config: {headers: {X-Frame-Options: allow}}",
                &["X-Frame-Options", "deny or sameorigin"],
            ),
            (
                "http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}",
                &["X-XSS-Protection", "not a header value"],
            ),
            (
                "http_server_config: {http2: maybe}",
                &["http_server_config.http2: expected a boolean"],
            ),
            ("rate_limit: {interval: soon}", &["rate_limit.interval"]),
            ("rate_limit: {burst: -1}", &["rate_limit.burst"]),
            (
                "tls_server_config: {cipher_suites: a}",
                &["tls_server_config.cipher_suites: expected a sequence"],
            ),
        ] {
            let refusal = refusal(text);
            for part in parts {
                assert!(refusal.contains(part), "{part} in {refusal:?} for {text}");
            }
        }
    }

    #[test]
    fn an_error_does_not_show_a_value() {
        for text in [
            "basic_auth_users: 'alice:s3cr3t'",
            "basic_auth_users: {alice: [s3cr3t]}",
            "tls_server_config: s3cr3t",
            "tls_server_config: {key: {s3cr3t: a}}",
            "tls_server_config: {key: [s3cr3t]}",
            "basic_auth_users: {alice: 's3cr3t}",
            "s3cr3t",
            "- s3cr3t",
        ] {
            let refusal = refusal(text);
            assert!(!refusal.is_empty(), "{text}");
            assert!(!refusal.contains("s3cr3t"), "{refusal} for {text}");
        }
    }
}
