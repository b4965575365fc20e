//! Runs a single cycle and prints its metrics.

use std::fmt::Write as _;
use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, number_data_point};

use crate::cycles;
use crate::docgen;
use crate::export::{self, Exporters};
use crate::http::RequestMetrics;
use crate::metrics::Options;
use crate::metrics::agent::SERVED_DURATION;
use crate::settings::{self, MetricsExporters, Settings};
use crate::workspaces::Workspaces;
use crate::{stdio, telemetry};

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table with the columns metric, attributes and value.
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

/// Why the metrics cannot be printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting refers to something that does not exist.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// The metrics cannot be collected.
    #[error(transparent)]
    Export(#[from] export::Error),
    /// The cycle cannot be started.
    #[error(transparent)]
    Cycles(#[from] cycles::Error),
    /// The metrics cannot be written.
    #[error("stdout: {0}")]
    Write(#[from] io::Error),
    /// The metrics cannot be encoded as JSON.
    #[error("OTLP JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Runs one cycle and prints its metrics to stdout; `false` if Prefect could not be read.
///
/// # Errors
///
/// If the cycle cannot be started, or its metrics cannot be written.
pub async fn run(settings: Settings, format: Format) -> Result<bool, Error> {
    let settings = alone(settings);
    let logs = telemetry::start(&settings)?;
    let options = Arc::new(Options::new(&settings)?);
    let (exporters, collector) = Exporters::collecting(&settings, &options)?;
    let exporters = Arc::new(exporters);
    let served = exporters.recorder(&SERVED_DURATION);
    let requests = RequestMetrics::new(served, options.common().to_vec());
    let mut workspaces =
        Workspaces::new(&settings, options, Arc::clone(&exporters), requests).await?;
    let target = match settings.workspaces.len() {
        0 => settings.prefect.api_url.to_string(),
        count => format!("{count} workspaces"),
    };
    let reports = with_progress(&format!("reading {target}"), workspaces.cycle()).await;
    workspaces.publisher.publish(&reports).await;
    let text = match format {
        Format::Prometheus => {
            let page = exporters.page().map(|page| page.scrape());
            page.transpose()?.map(|text| text.to_vec())
        }
        Format::Table => Some(table(&collector.collect()?).into_bytes()),
        Format::OtlpJson => {
            let mut json = serde_json::to_vec_pretty(&collector.collect()?)?;
            json.push(b'\n');
            Some(json)
        }
    };
    stdio::print(&text.unwrap_or_default())?;
    logs.shutdown(Duration::ZERO).await;
    Ok(reports.iter().all(|report| report.state.snapshot.up))
}

/// The settings of an agent that exports nothing, stores nothing, and logs only failures.
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

/// Shows the progress on stderr, if it is a terminal.
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
                show("\r\u{1b}[K");
                return done;
            }
            _ = ticks.tick() => {
                show(&format!("\r{what}: {:.1} s", began.elapsed().as_secs_f64()));
            }
        }
    }
}

/// Writes to the terminal, which may have been closed.
fn show(progress: &str) {
    _ = stdio::Log.write_all(progress.as_bytes());
}

/// The metrics as a table: first those of Prefect, then those of the agent itself.
fn table(request: &ExportMetricsServiceRequest) -> String {
    let scopes = request.resource_metrics.iter();
    let scopes = scopes.flat_map(|resource| &resource.scope_metrics);
    let metrics = scopes.flat_map(|scope| &scope.metrics);
    let mut rows: Vec<_> = metrics.flat_map(rows).collect();
    rows.sort_by_cached_key(|row| {
        let of_prefect =
            |name: &String| name.starts_with("prefect.") && !name.starts_with("prefect.agent.");
        (!row.first().is_some_and(of_prefect), row.clone())
    });
    let titles = ["METRIC", "ATTRIBUTES", "VALUE"]
        .map(str::to_owned)
        .to_vec();
    rows.insert(0, titles);
    docgen::columns(&rows)
}

/// A row for each point of a metric.
fn rows(metric: &Metric) -> Vec<Vec<String>> {
    let row = |attributes: &[KeyValue], value: String| {
        vec![metric.name.clone(), pairs(attributes), value]
    };
    let numbers = |points: &[NumberDataPoint]| {
        let number = |point: &NumberDataPoint| number(point, &metric.unit);
        let rows = points
            .iter()
            .map(|point| row(&point.attributes, number(point)));
        rows.collect()
    };
    let summary =
        |attributes: &[KeyValue], count, sum| row(attributes, measured(count, sum, &metric.unit));
    match &metric.data {
        Some(Data::Gauge(gauge)) => numbers(&gauge.data_points),
        Some(Data::Sum(sum)) => numbers(&sum.data_points),
        Some(Data::Histogram(histogram)) => {
            let points = histogram.data_points.iter();
            let rows = points.map(|point| summary(&point.attributes, point.count, point.sum));
            rows.collect()
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            let points = histogram.data_points.iter();
            let rows = points.map(|point| summary(&point.attributes, point.count, point.sum));
            rows.collect()
        }
        // The SDK has no summaries.
        Some(Data::Summary(_)) | None => Vec::new(),
    }
}

/// A number with its unit. A Unix time is shown as a date.
fn number(point: &NumberDataPoint, unit: &str) -> String {
    let value = match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        None => return String::new(),
    };
    let date = (unit == "s" && value > 1e9)
        .then(|| Timestamp::from_second(value as i64).ok())
        .flatten();
    match date {
        Some(date) => date.to_string(),
        None => with_unit(value, unit),
    }
}

/// At most three decimals. Units such as `{run}` are omitted, because the metric's name has them.
fn with_unit(value: f64, unit: &str) -> String {
    let rounded = (value * 1e3).round() / 1e3;
    match unit.starts_with('{') || unit == "1" || unit.is_empty() {
        true => rounded.to_string(),
        false => format!("{rounded} {unit}"),
    }
}

/// The summary of a histogram: the number of values, and their mean.
fn measured(count: u64, sum: Option<f64>, unit: &str) -> String {
    let values = if count == 1 { "value" } else { "values" };
    match sum {
        Some(sum) if count > 0 => {
            let mean = with_unit(sum / count as f64, unit);
            format!("{count} {values}, mean {mean}")
        }
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
        // No metric has attributes of other types.
        _ => Ok(()),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_times_are_dates() {
        let number = |value, unit| {
            let value = Some(number_data_point::Value::AsDouble(value));
            number(
                &NumberDataPoint {
                    value,
                    ..NumberDataPoint::default()
                },
                unit,
            )
        };
        assert_eq!(number(3.0, "{run}"), "3");
        assert_eq!(number(0.001_221_886, "s"), "0.001 s");
        assert_eq!(number(1_795_308_186.97, "s"), "2026-11-22T00:43:06Z");
        assert_eq!(measured(2, Some(3.0), "s"), "2 values, mean 1.5 s");
    }
}
