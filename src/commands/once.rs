//! One cycle, printed: what the agent reads, without running it.

use std::fmt::Write as _;
use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, number_data_point};

use crate::cycles::{self, Cycles};
use crate::docgen;
use crate::export::{self, Exporters};
use crate::http::RequestMetrics;
use crate::metrics::Options;
use crate::metrics::agent::SERVED_DURATION;
use crate::publisher::Publisher;
use crate::settings::{self, MetricsExporters, Settings};
use crate::{status, telemetry};

/// How the metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Columns: metric, attributes, value.
    Table,
    /// The text of `/metrics`.
    Prometheus,
    /// OTLP as JSON.
    OtlpJson,
}

impl Format {
    /// Every format by its name.
    pub const ALL: [(&'static str, Format); 3] = [
        ("table", Format::Table),
        ("prometheus", Format::Prometheus),
        ("otlp-json", Format::OtlpJson),
    ];
}

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting names what is not there.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// The metrics cannot be collected.
    #[error(transparent)]
    Export(#[from] export::Error),
    /// There can be no cycle.
    #[error(transparent)]
    Cycles(#[from] cycles::Error),
    /// They cannot be written.
    #[error("stdout: {0}")]
    Write(#[from] io::Error),
    /// They cannot be written as JSON.
    #[error("OTLP as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Runs one cycle and prints what it read to stdout; `false` if Prefect could not be read.
///
/// # Errors
///
/// When there can be no cycle, or its metrics cannot be written.
pub async fn run(settings: Settings, format: Format) -> Result<bool, Error> {
    let settings = alone(settings);
    let logs = telemetry::start(&settings)?;
    let options = Arc::new(Options::new(&settings)?);
    let (exporters, collector) = Exporters::collecting(&settings, &options)?;
    let exporters = Arc::new(exporters);
    let served = exporters.recorder(&SERVED_DURATION);
    let requests = RequestMetrics::new(served, options.common().to_vec());
    let interval = settings.sampling.interval;
    let mut publisher = Publisher::new(
        Arc::clone(&exporters),
        Arc::clone(&options),
        requests,
        status::Writer::new(&settings),
        interval,
    );
    let mut cycles = Cycles::new(&settings, options, Arc::clone(&exporters))?;
    let url = &settings.prefect.api_url;
    let report = with_progress(&format!("reading {url}"), cycles.next()).await;
    publisher.publish(&report).await;
    let text = match format {
        Format::Prometheus => exporters.page().map(|page| page.scrape().to_vec()),
        Format::Table => Some(table(&collector.collect()?).into_bytes()),
        Format::OtlpJson => {
            let mut json = serde_json::to_vec_pretty(&collector.collect()?)?;
            json.push(b'\n');
            Some(json)
        }
    };
    match io::stdout().write_all(&text.unwrap_or_default()) {
        // A reader that has seen enough closes the pipe: that is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    logs.shutdown(Duration::ZERO).await;
    Ok(report.state.snapshot.up)
}

/// The settings of an agent that leaves no trace: it exports nothing and keeps nothing, and says
/// only what fails.
fn alone(mut settings: Settings) -> Settings {
    settings.state_dir = None;
    settings.otel.metrics = MetricsExporters::default();
    settings.otel.otlp_metrics = None;
    settings.otel.otlp_traces = None;
    settings.otel.otlp_logs = None;
    settings.otel.console_traces = false;
    settings.otel.console_logs = false;
    let quiet = tracing_subscriber::filter::LevelFilter::WARN;
    if settings.log.level == tracing_subscriber::filter::LevelFilter::INFO {
        settings.log.level = quiet;
    }
    settings
}

/// Says on a terminal what is done, and for how long.
async fn with_progress<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            done = &mut work => {
                // Clears the line.
                eprint!("\r\u{1b}[K");
                return done;
            }
            _ = ticks.tick() => eprint!("\r{what}: {:.1} s", began.elapsed().as_secs_f64()),
        }
    }
}

/// The metrics as columns.
fn table(request: &ExportMetricsServiceRequest) -> String {
    let scopes = request
        .resource_metrics
        .iter()
        .flat_map(|resource| &resource.scope_metrics);
    let mut lines = Vec::new();
    for metric in scopes.flat_map(|scope| &scope.metrics) {
        let mut add = |attributes: &[KeyValue], value: String| {
            let value = match metric.unit.starts_with('{') {
                // `{run}` counts runs: the name says so.
                true => value,
                false => format!("{value} {}", metric.unit.trim_matches('1')),
            };
            lines.push(vec![
                metric.name.clone(),
                pairs(attributes),
                value.trim().to_owned(),
            ]);
        };
        let mut numbers = |points: &[NumberDataPoint]| {
            for point in points {
                add(&point.attributes, number(point));
            }
        };
        match &metric.data {
            Some(Data::Gauge(gauge)) => numbers(&gauge.data_points),
            Some(Data::Sum(sum)) => numbers(&sum.data_points),
            Some(Data::Histogram(histogram)) => {
                for point in &histogram.data_points {
                    add(&point.attributes, measured(point.count, point.sum));
                }
            }
            Some(Data::ExponentialHistogram(histogram)) => {
                for point in &histogram.data_points {
                    add(&point.attributes, measured(point.count, point.sum));
                }
            }
            Some(Data::Summary(_)) | None => {}
        }
    }
    lines.sort();
    let titles = ["METRIC", "ATTRIBUTES", "VALUE"]
        .map(str::to_owned)
        .to_vec();
    lines.insert(0, titles);
    docgen::columns(&lines)
}

fn number(point: &NumberDataPoint) -> String {
    match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value.to_string(),
        Some(number_data_point::Value::AsInt(value)) => value.to_string(),
        None => String::new(),
    }
}

/// A histogram in short: how many values, and their mean.
fn measured(count: u64, sum: Option<f64>) -> String {
    let values = if count == 1 { "value" } else { "values" };
    match sum {
        Some(sum) if count > 0 => format!("{count} {values}, mean {:.3}", sum / count as f64),
        _ => format!("{count} {values}"),
    }
}

fn pairs(attributes: &[KeyValue]) -> String {
    let mut pairs: Vec<_> = attributes
        .iter()
        .map(|pair| format!("{}={}", pair.key, text(pair.value.as_ref())))
        .collect();
    pairs.sort();
    pairs.join(", ")
}

fn text(value: Option<&AnyValue>) -> String {
    let mut text = String::new();
    _ = match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(value)) => write!(text, "{value}"),
        Some(any_value::Value::BoolValue(value)) => write!(text, "{value}"),
        Some(any_value::Value::IntValue(value)) => write!(text, "{value}"),
        Some(any_value::Value::DoubleValue(value)) => write!(text, "{value}"),
        // The catalogue has no others.
        _ => Ok(()),
    };
    text
}
