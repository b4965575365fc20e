//! The settings of the OpenTelemetry specification, with its meaning.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::SecretString;

use super::table::for_signal;
use super::{Error, Reader, boolean, sources, web_url, whole};

/// Where metrics and traces go.
#[derive(Debug, Clone)]
pub struct Otel {
    /// Where metrics go.
    pub metrics: MetricsExporters,
    /// OTLP for metrics, where they go there.
    pub otlp_metrics: Option<Otlp>,
    /// OTLP for the agent's own spans, where they are wanted.
    pub otlp_traces: Option<Otlp>,
    /// OTLP for the agent's own logs, where they are wanted.
    pub otlp_logs: Option<Otlp>,
    /// Temporality of counters and histograms over OTLP.
    pub temporality: Temporality,
    /// Histograms over OTLP are exponential ones.
    pub exponential_histograms: bool,
    /// The largest message of metrics over OTLP, in bytes, encoded and uncompressed; by the
    /// protocol where it is not set.
    pub max_message_bytes: Option<usize>,
    /// `service.name`, where it is set.
    pub service_name: Option<String>,
    /// More resource attributes.
    pub resource: Vec<(String, String)>,
}

/// Where metrics go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MetricsExporters {
    /// Pushed by OTLP.
    pub otlp: bool,
    /// RequestMetrics on `/metrics`.
    pub prometheus: bool,
    /// Printed.
    pub console: bool,
}

impl fmt::Display for MetricsExporters {
    /// As `OTEL_METRICS_EXPORTER` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.otlp, "otlp"),
            (self.prometheus, "prometheus"),
            (self.console, "console"),
        ];
        let wanted = all.iter().filter(|(wanted, _)| *wanted);
        let names: Vec<_> = wanted.map(|(_, name)| *name).collect();
        f.write_str(&match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(","),
        })
    }
}

/// Temporality preference, as the specification defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// Since the start.
    Cumulative,
    /// Since the last push.
    Delta,
    /// What needs the least memory: delta for histograms and synchronous counters.
    LowMemory,
}

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
    fn name(self) -> &'static str {
        match self {
            Signal::Metrics => "METRICS",
            Signal::Traces => "TRACES",
            Signal::Logs => "LOGS",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Signal::Metrics => "v1/metrics",
            Signal::Traces => "v1/traces",
            Signal::Logs => "v1/logs",
        }
    }
}

/// How OTLP travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf over HTTP.
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

/// Compression of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// Gzip.
    Gzip,
}

/// How one signal is pushed.
#[derive(Debug, Clone)]
pub struct Otlp {
    /// HTTP: where to post. gRPC: the server.
    pub endpoint: Url,
    /// How it travels.
    pub protocol: Protocol,
    /// Headers, or metadata; checked, their values secret.
    pub headers: Vec<(String, SecretString)>,
    /// Of one push, retries included.
    pub timeout: Duration,
    /// Of each push.
    pub compression: Compression,
    /// PEM of the certificates that the collector's is checked against.
    pub certificate: Option<String>,
    /// PEM of the agent's certificate and of its key.
    pub client_identity: Option<(String, SecretString)>,
}

impl Otel {
    pub(super) fn load(reader: &Reader) -> Result<Self, Error> {
        let disabled = reader.required("OTEL_SDK_DISABLED", boolean)?;
        let metrics = match reader.required("OTEL_METRICS_EXPORTER", exporters)? {
            _ if disabled => MetricsExporters::default(),
            metrics => metrics,
        };
        let own = |name: &str, signal: Signal| {
            let wanted = reader.required(name, |text| match text {
                "otlp" => Some(true),
                "none" => Some(false),
                _ => None,
            })?;
            let otlp = (wanted && !disabled).then(|| Otlp::load(reader, signal));
            otlp.transpose()
        };
        Ok(Otel {
            metrics,
            otlp_metrics: metrics
                .otlp
                .then(|| Otlp::load(reader, Signal::Metrics))
                .transpose()?,
            otlp_traces: own("OTEL_TRACES_EXPORTER", Signal::Traces)?,
            otlp_logs: own("OTEL_LOGS_EXPORTER", Signal::Logs)?,
            temporality: reader.required(
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                |text| match text.to_ascii_lowercase().as_str() {
                    "cumulative" => Some(Temporality::Cumulative),
                    "delta" => Some(Temporality::Delta),
                    "lowmemory" => Some(Temporality::LowMemory),
                    _ => None,
                },
            )?,
            exponential_histograms: reader.required(
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                |text| match text.to_ascii_lowercase().as_str() {
                    "explicit_bucket_histogram" => Some(false),
                    "base2_exponential_bucket_histogram" => Some(true),
                    _ => None,
                },
            )?,
            max_message_bytes: reader.optional("OTLP_MAX_MESSAGE_BYTES", |text| {
                whole(text, 10_000, 1 << 30)
            })?,
            service_name: reader.optional("OTEL_SERVICE_NAME", |text| Some(text.to_owned()))?,
            resource: reader
                .optional("OTEL_RESOURCE_ATTRIBUTES", pairs)?
                .unwrap_or_default(),
        })
    }
}

impl Otlp {
    fn load(reader: &Reader, signal: Signal) -> Result<Self, Error> {
        let name = signal.name();
        let of = |setting: &str| format!("OTEL_EXPORTER_OTLP_{setting}");
        let protocol = reader.required_of_signal(&of("PROTOCOL"), name, |text| match text {
            "http/protobuf" => Some(Protocol::HttpProtobuf),
            "grpc" => Some(Protocol::Grpc),
            _ => None,
        })?;
        let pem = |setting: &str| -> Result<Option<String>, Error> {
            let path = reader.of_signal(&of(setting), name, |text| Some(PathBuf::from(text)))?;
            path.map(|path: PathBuf| pem(&of(setting), &path))
                .transpose()
        };
        let client_identity = match (pem("CLIENT_CERTIFICATE")?, pem("CLIENT_KEY")?) {
            (Some(certificate), Some(key)) => Some((certificate, SecretString::from(key))),
            (None, None) => None,
            (certificate, _) => {
                let missing = if certificate.is_some() {
                    "CLIENT_KEY"
                } else {
                    "CLIENT_CERTIFICATE"
                };
                return Err(Error::Value {
                    name: of(missing),
                    value: "no value".to_owned(),
                    accepts: "a readable PEM file, since the other half of the pair is set"
                        .to_owned(),
                });
            }
        };
        Ok(Otlp {
            endpoint: endpoint(reader, signal, protocol)?,
            protocol,
            headers: reader
                .of_signal(&of("HEADERS"), name, headers)?
                .unwrap_or_default(),
            timeout: reader.required_of_signal(&of("TIMEOUT"), name, |text| {
                whole(text, 1, 600_000).map(Duration::from_millis)
            })?,
            compression: reader.required_of_signal(
                &of("COMPRESSION"),
                name,
                |text| match text {
                    "gzip" => Some(Compression::Gzip),
                    "none" => Some(Compression::None),
                    _ => None,
                },
            )?,
            certificate: pem("CERTIFICATE")?,
            client_identity,
        })
    }
}

/// The endpoint by the rules of the specification: one signal's is used as it is, to the
/// general one the signal's path is added (HTTP only).
/// <https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp>
fn endpoint(reader: &Reader, signal: Signal, protocol: Protocol) -> Result<Url, Error> {
    const NAME: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let insecure =
        reader.required_of_signal("OTEL_EXPORTER_OTLP_INSECURE", signal.name(), boolean)?;
    let parse = |text: &str| match (protocol, text.contains("://")) {
        (Protocol::Grpc, false) => {
            let scheme = if insecure { "http" } else { "https" };
            web_url(&format!("{scheme}://{text}"))
        }
        _ => web_url(text),
    };
    let setting = reader.setting(NAME)?;
    let own_name = for_signal(NAME, signal.name());
    let own = super::parsed(setting, reader.merged.find(setting, &own_name)?, parse)?;
    if let Some(own) = own {
        return Ok(own);
    }
    let default = match protocol {
        Protocol::HttpProtobuf => "http://localhost:4318",
        Protocol::Grpc => "http://localhost:4317",
    };
    let general = reader.optional(NAME, parse)?.or_else(|| web_url(default));
    let general = general.ok_or_else(|| Error::Internal(format!("{NAME} has no default")))?;
    if protocol == Protocol::Grpc {
        return Ok(general);
    }
    let mut url = general;
    let path = format!("{}/{}", url.path().trim_end_matches('/'), signal.path());
    url.set_path(&path);
    Ok(url)
}

fn exporters(text: &str) -> Option<MetricsExporters> {
    let mut exporters = MetricsExporters::default();
    if text == "none" {
        return Some(exporters);
    }
    for name in text.split(',') {
        match name.trim() {
            "otlp" => exporters.otlp = true,
            "prometheus" => exporters.prometheus = true,
            "console" => exporters.console = true,
            _ => return None,
        }
    }
    Some(exporters)
}

/// `key=value` pairs as W3C baggage writes them: comma-separated, values percent-encoded.
pub(super) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let (key, value) = (decoded(key.trim())?, decoded(value.trim())?);
            (!key.is_empty()).then_some((key, value))
        })
        .collect()
}

fn headers(text: &str) -> Option<Vec<(String, SecretString)>> {
    pairs(text)?
        .into_iter()
        .map(|(key, value)| {
            HeaderName::from_bytes(key.as_bytes()).ok()?;
            HeaderValue::from_str(&value).ok()?;
            Some((key.to_ascii_lowercase(), SecretString::from(value)))
        })
        .collect()
}

fn decoded(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

/// Reads a PEM file; what it holds is checked where it is used, here that it looks like one.
fn pem(setting: &str, path: &Path) -> Result<String, Error> {
    let text = sources::read(setting, path)?;
    match text.contains("-----BEGIN ") {
        true => Ok(text),
        false => Err(Error::File {
            setting: setting.to_owned(),
            path: path.to_owned(),
            reason: "it is not PEM".to_owned(),
        }),
    }
}
