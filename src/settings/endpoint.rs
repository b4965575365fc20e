//! The endpoints of OTLP.

use reqwest::Url;

use super::otel::boolean;
use super::setting::{Setting, for_signal};
use super::shown::{has_credentials, shown};
use super::{Error, Protocol, Reader, Signal, web_url};

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
