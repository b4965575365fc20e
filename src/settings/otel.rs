//! The settings of the OpenTelemetry specification.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::SecretString;

use super::endpoint::{Protocol, Signal, boolean, endpoint};
use super::pem::{self, OwnCertificate};
use super::reload::Reload;
use super::setting::for_signal;
use super::{Error, Reader, integer, shown};
use crate::secrets;

/// The exporters of metrics, traces and logs, and their settings.
#[derive(Debug, Clone)]
pub struct Otel {
    /// The exporters of metrics.
    pub metrics: MetricsExporters,
    /// OTLP for metrics, if it is enabled.
    pub otlp_metrics: Option<Otlp>,
    /// OTLP for the agent's own spans, if it is enabled.
    pub otlp_traces: Option<Otlp>,
    /// OTLP for the agent's own logs, if it is enabled.
    pub otlp_logs: Option<Otlp>,
    /// Whether the agent's own spans are written to stdout.
    pub console_traces: bool,
    /// Whether the agent's own logs are written to stdout, in addition to stderr.
    pub console_logs: bool,
    /// Temporality of counters and histograms over OTLP.
    pub temporality: Temporality,
    /// Whether histograms over OTLP are exponential.
    pub exponential_histograms: bool,
    /// The maximum size of an OTLP metrics message, encoded and uncompressed, in bytes. If it is
    /// not set, it depends on the protocol.
    pub max_message_bytes: Option<usize>,
    /// `service.name`, if it is set.
    pub service_name: Option<String>,
    /// Additional resource attributes.
    pub resource: Vec<(String, String)>,
}

/// The exporters of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MetricsExporters {
    /// Push over OTLP.
    pub otlp: bool,
    /// Serve `/metrics`.
    pub prometheus: bool,
    /// Print to stdout.
    pub console: bool,
}

impl fmt::Display for MetricsExporters {
    /// In the format of `OTEL_METRICS_EXPORTER`.
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
    /// The one that needs the least memory: delta for histograms and synchronous counters.
    LowMemory,
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
    /// HTTP: the URL for POST requests. gRPC: the URL of the server.
    pub endpoint: Url,
    /// The transport protocol.
    pub protocol: Protocol,
    /// Headers, or metadata. They are valid, and their values are secret.
    pub headers: OtlpHeaders,
    /// What reads the headers again, if they are in a file.
    pub reload: Option<Reload<OtlpHeaders>>,
    /// The timeout of one message, including retries.
    pub timeout: Duration,
    /// The compression of each message.
    pub compression: Compression,
    /// The certificate authorities used to verify the collector's certificate, in PEM format.
    pub certificate: Option<String>,
    /// The agent's certificate and its key.
    pub own_certificate: Option<OwnCertificate>,
}

/// Names and values of headers.
pub type OtlpHeaders = Vec<(String, SecretString)>;

impl Otel {
    pub(super) fn load(reader: &Reader) -> Result<Self, Error> {
        let disabled = boolean(reader, "OTEL_SDK_DISABLED", None)?;
        let exporters = |name: &str, known: &[&'static str]| match disabled {
            true => Ok(Vec::new()),
            false => exporters(reader, name, known),
        };
        let metrics = exporters("OTEL_METRICS_EXPORTER", &[OTLP, PROMETHEUS, CONSOLE])?;
        let traces = exporters("OTEL_TRACES_EXPORTER", &[OTLP, CONSOLE])?;
        let logs = exporters("OTEL_LOGS_EXPORTER", &[OTLP, CONSOLE])?;
        let otlp = |exporters: &[&str], signal: Signal| {
            let wanted = exporters.contains(&OTLP);
            wanted.then(|| Otlp::load(reader, signal)).transpose()
        };
        Ok(Otel {
            otlp_metrics: otlp(&metrics, Signal::Metrics)?,
            otlp_traces: otlp(&traces, Signal::Traces)?,
            otlp_logs: otlp(&logs, Signal::Logs)?,
            console_traces: traces.contains(&CONSOLE),
            console_logs: logs.contains(&CONSOLE),
            metrics: MetricsExporters {
                otlp: metrics.contains(&OTLP),
                prometheus: metrics.contains(&PROMETHEUS),
                console: metrics.contains(&CONSOLE),
            },
            temporality: reader.lenient_required(
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                None,
                |text| match text.to_ascii_lowercase().as_str() {
                    "cumulative" => Some(Temporality::Cumulative),
                    "delta" => Some(Temporality::Delta),
                    "lowmemory" => Some(Temporality::LowMemory),
                    _ => None,
                },
            )?,
            exponential_histograms: reader.lenient_required(
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                None,
                |text| match text.to_ascii_lowercase().as_str() {
                    "explicit_bucket_histogram" => Some(false),
                    "base2_exponential_bucket_histogram" => Some(true),
                    _ => None,
                },
            )?,
            max_message_bytes: reader.optional("OTLP_MAX_MESSAGE_BYTES", |text| {
                integer(text, 10_000, 1 << 30)
            })?,
            service_name: reader.optional("OTEL_SERVICE_NAME", |text| Some(text.to_owned()))?,
            resource: reader
                .lenient("OTEL_RESOURCE_ATTRIBUTES", None, pairs)?
                .unwrap_or_default(),
        })
    }
}

impl Otlp {
    /// The endpoint for logs and messages: its query, which may contain a token, is masked.
    pub fn shown_endpoint(&self) -> String {
        shown::without_query(self.endpoint.as_str())
    }

    fn load(reader: &Reader, signal: Signal) -> Result<Self, Error> {
        let own = Some(signal);
        let of = |setting: &str| format!("OTEL_EXPORTER_OTLP_{setting}");
        let protocol = reader.lenient_required(&of("PROTOCOL"), own, |text| {
            match text.to_ascii_lowercase().as_str() {
                "http/protobuf" => Some(Protocol::HttpProtobuf),
                "grpc" => Some(Protocol::Grpc),
                _ => None,
            }
        })?;
        let authorities = pem::authorities(reader, &of("CERTIFICATE"), own)?;
        let read_headers = move |reader: &Reader| -> Result<OtlpHeaders, Error> {
            let headers = reader.of_signal(HEADERS, own, headers)?;
            Ok(headers.unwrap_or_default())
        };
        let endpoint = endpoint(reader, signal, protocol)?;
        secrets::learn(endpoint.query());
        Ok(Otlp {
            endpoint,
            protocol,
            headers: read_headers(reader)?,
            reload: reader.reload(
                &[HEADERS, &for_signal(HEADERS, signal.name())],
                read_headers,
            ),
            timeout: reader.lenient_required(&of("TIMEOUT"), own, |text| {
                integer(text, 1, 600_000).map(Duration::from_millis)
            })?,
            compression: reader.lenient_required(&of("COMPRESSION"), own, |text| {
                match text.to_ascii_lowercase().as_str() {
                    "gzip" => Some(Compression::Gzip),
                    "none" => Some(Compression::None),
                    _ => None,
                }
            })?,
            certificate: authorities.map(|(pem, _)| pem),
            own_certificate: pem::own_certificate(
                reader,
                [&of("CLIENT_CERTIFICATE"), &of("CLIENT_KEY")],
                own,
            )?,
        })
    }
}

const OTLP: &str = "otlp";
const PROMETHEUS: &str = "prometheus";
const CONSOLE: &str = "console";
const NONE: &str = "none";

const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";

/// The exporters in a list that are in `known`. Others cause a warning; if the list contains no
/// other exporter, the default is used.
fn exporters(
    reader: &Reader,
    name: &str,
    known: &[&'static str],
) -> Result<Vec<&'static str>, Error> {
    let setting = reader.setting(name)?;
    let listed = reader.optional(name, |text| Some(text.to_ascii_lowercase()))?;
    let listed = listed.unwrap_or_default();
    let items = |text: &str| -> Vec<String> {
        let items = text.split(',').map(str::trim);
        let items = items.filter(|item| !item.is_empty());
        items.map(str::to_owned).collect()
    };
    let is_known = |item: &String| item == NONE || known.contains(&item.as_str());
    let (mut wanted, unknown): (Vec<_>, Vec<_>) = items(&listed).into_iter().partition(is_known);
    if wanted.is_empty() {
        wanted = items(setting.default.unwrap_or(NONE));
    }
    if !unknown.is_empty() {
        reader.replace(name, Some(&wanted.join(",")));
    }
    for item in unknown {
        reader.warn(format!(
            "{name}: {item:?} is not supported; accepted: {}; using {}",
            setting.accepts,
            wanted.join(",")
        ));
    }
    let known = known.iter().copied();
    Ok(known
        .filter(|name| wanted.iter().any(|item| item == name))
        .collect())
}

/// `key=value` pairs in the format of W3C baggage: comma-separated, with percent-encoded values.
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

fn headers(text: &str) -> Option<OtlpHeaders> {
    pairs(text)?
        .into_iter()
        .map(|(key, value)| {
            HeaderName::from_bytes(key.as_bytes()).ok()?;
            HeaderValue::from_str(&value).ok()?;
            secrets::learn([value.as_str()]);
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
