//! The agent's own logs (on stderr and, if enabled, over OTLP) and traces.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::logs::log_processor_with_async_runtime::BatchLogProcessor;
use opentelemetry_sdk::runtime::Tokio;
use opentelemetry_sdk::trace::SdkTracerProvider;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt};

use crate::export::console::Console;
use crate::export::{Error, otlp, resource};
use crate::secrets::scrubbed;
use crate::settings::{Log, LogFormat, Settings};
use crate::stdio;

const OWN: &str = env!("CARGO_CRATE_NAME");

/// The providers of traces and logs. They must be shut down so that no span is lost.
#[must_use]
pub struct Telemetry {
    tracer_provider: Option<SdkTracerProvider>,
    logger_provider: Option<SdkLoggerProvider>,
}

/// Starts logs and traces. Must be called once per process, in a tokio runtime.
///
/// # Errors
///
/// If an exporter cannot be built.
pub fn start(settings: &Settings) -> Result<Telemetry, Error> {
    let tracer_provider = tracer_provider(settings)?;
    let logger_provider = logger_provider(settings)?;
    let traces = tracer_provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(OWN))
            // Only the agent's own spans: exporting those of the exporter would create new ones.
            .with_filter(Targets::new().with_target(OWN, LevelFilter::DEBUG))
    });
    let pushed_logs = logger_provider.as_ref().map(|provider| {
        OpenTelemetryTracingBridge::new(provider)
            .with_filter(Targets::new().with_target(OWN, settings.log.level))
    });
    tracing_subscriber::registry()
        .with(logs(settings.log))
        .with(traces)
        .with(pushed_logs)
        .init();
    for warning in &settings.warnings {
        // Also pushed, where no writer masks secrets.
        tracing::warn!("{}", scrubbed(warning));
    }
    Ok(Telemetry {
        tracer_provider,
        logger_provider,
    })
}

fn tracer_provider(settings: &Settings) -> Result<Option<SdkTracerProvider>, Error> {
    let otel = &settings.otel;
    if otel.otlp_traces.is_none() && !otel.console_traces {
        return Ok(None);
    }
    let mut provider = SdkTracerProvider::builder().with_resource(resource(settings));
    if let Some(otlp) = &otel.otlp_traces {
        let processor = BatchSpanProcessor::builder(otlp::traces(otlp)?, Tokio).build();
        provider = provider.with_span_processor(processor);
    }
    if otel.console_traces {
        let processor = BatchSpanProcessor::builder(Console::default(), Tokio).build();
        provider = provider.with_span_processor(processor);
    }
    Ok(Some(provider.build()))
}

fn logger_provider(settings: &Settings) -> Result<Option<SdkLoggerProvider>, Error> {
    let otel = &settings.otel;
    if otel.otlp_logs.is_none() && !otel.console_logs {
        return Ok(None);
    }
    let mut provider = SdkLoggerProvider::builder().with_resource(resource(settings));
    if let Some(otlp) = &otel.otlp_logs {
        let processor = BatchLogProcessor::builder(otlp::logs(otlp)?, Tokio).build();
        provider = provider.with_log_processor(processor);
    }
    if otel.console_logs {
        let processor = BatchLogProcessor::builder(Console::default(), Tokio).build();
        provider = provider.with_log_processor(processor);
    }
    Ok(Some(provider.build()))
}

fn logs<S: Subscriber + for<'a> LookupSpan<'a>>(log: Log) -> Box<dyn Layer<S> + Send + Sync> {
    // The SDK logs at every push what the agent also logs, so it is only enabled for debugging.
    let sdk = if log.level >= LevelFilter::DEBUG {
        LevelFilter::WARN
    } else {
        LevelFilter::OFF
    };
    let targets = Targets::new()
        .with_default(log.level.min(LevelFilter::WARN))
        .with_target("opentelemetry", sdk)
        // It logs each failed handshake as an error; the request's own error has the reason.
        .with_target("rustls_platform_verifier", sdk)
        .with_target(OWN, log.level);
    match log.format {
        LogFormat::Text => fmt::layer()
            .with_writer(|| stdio::Log)
            .with_ansi(has_colors(&std::io::stderr()))
            .with_filter(targets)
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .with_writer(|| stdio::Log)
            .with_filter(targets)
            .boxed(),
    }
}

/// Whether to write colors to `stream`. <https://no-color.org>
pub(crate) fn has_colors(stream: &impl std::io::IsTerminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !unwanted
}

impl Telemetry {
    /// Sends the last spans and logs, within `patience`.
    pub async fn shutdown(self, patience: std::time::Duration) {
        // `shutdown` blocks until the tasks of the providers, which use this runtime, are done.
        let end = tokio::task::spawn_blocking(move || {
            if let Some(provider) = self.tracer_provider {
                _ = provider.shutdown();
            }
            if let Some(provider) = self.logger_provider {
                _ = provider.shutdown();
            }
        });
        _ = tokio::time::timeout(patience, end).await;
    }
}
