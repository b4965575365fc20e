//! The signals of OTLP, and the endpoint of each.

use reqwest::Url;

use super::setting::{Setting, for_signal};
use super::shown::{has_credentials, shown};
use super::{Error, Reader, web_url};

/// A signal of OpenTelemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Metrics.
    Metrics,
    /// Traces.
    Traces,
    /// Logs.
    Logs,
}

impl Signal {
    /// Every signal.
    pub(super) const ALL: [Signal; 3] = [Signal::Metrics, Signal::Traces, Signal::Logs];

    /// The form used in the names of settings.
    pub(super) fn name(self) -> &'static str {
        match self {
            Signal::Metrics => "METRICS",
            Signal::Traces => "TRACES",
            Signal::Logs => "LOGS",
        }
    }

    /// The path of its requests over HTTP.
    pub(super) fn path(self) -> &'static str {
        match self {
            Signal::Metrics => "v1/metrics",
            Signal::Traces => "v1/traces",
            Signal::Logs => "v1/logs",
        }
    }
}

/// The transport protocol of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf over HTTP.
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

/// True only for "true", in any case; any other value except "false" causes a warning.
/// <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#boolean>
pub(super) fn boolean(reader: &Reader, name: &str, signal: Option<Signal>) -> Result<bool, Error> {
    reader.lenient_required(name, signal, |text| {
        match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    })
}

/// The endpoint according to the specification: the endpoint of one signal is used unchanged; the
/// signal's path is added to the general endpoint (HTTP only).
/// <https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp>
pub(super) fn endpoint(reader: &Reader, signal: Signal, protocol: Protocol) -> Result<Url, Error> {
    const NAME: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let insecure = boolean(reader, "OTEL_EXPORTER_OTLP_INSECURE", Some(signal))?;
    let parse = |text: &str| match (protocol, text.contains("://")) {
        (Protocol::Grpc, false) => {
            let scheme = if insecure { "http" } else { "https" };
            web_url(&format!("{scheme}://{text}"))
        }
        _ => web_url(text),
    };
    let setting = reader.setting(NAME)?;
    let own_name = for_signal(NAME, signal.name());
    let parsed = |name: &str| {
        let Some(found) = reader.merged.find(setting, name)? else {
            return Ok(None);
        };
        let value = found.value.trim();
        let url = parse(value).ok_or_else(|| Error::Value {
            name: found.name,
            value: shown(setting, value),
            accepts: accepted_endpoint(setting, protocol, value),
        });
        url.map(Some)
    };
    if let Some(own) = parsed(&own_name)? {
        return Ok(own);
    }
    let default = match protocol {
        Protocol::HttpProtobuf => "http://localhost:4318",
        Protocol::Grpc => "http://localhost:4317",
    };
    let general = parsed(NAME)?.or_else(|| web_url(default));
    let general = general.ok_or_else(|| Error::Internal(format!("{NAME} has no default")))?;
    if protocol == Protocol::Grpc {
        return Ok(general);
    }
    let mut url = general;
    let path = format!("{}/{}", url.path().trim_end_matches('/'), signal.path());
    url.set_path(&path);
    Ok(url)
}

/// What an endpoint accepts, and what to do about `value`, which it does not accept.
fn accepted_endpoint(setting: &Setting, protocol: Protocol, value: &str) -> String {
    let accepts = setting.accepts;
    if has_credentials(setting, value) {
        return format!("{accepts} without user name and password; use OTEL_EXPORTER_OTLP_HEADERS");
    }
    match (protocol, value.contains("://")) {
        (Protocol::HttpProtobuf, false) => {
            format!("{accepts}; add http://, or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
        }
        _ => accepts.to_owned(),
    }
}
