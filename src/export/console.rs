//! `console`: what would be pushed, as OTLP JSON on stdout, one line per message.

use std::io::{self, Write as _};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use serde::Serialize;
use tokio::sync::Notify;

use super::collected::{Collected, Exporter, NotAccepted};
use super::otlp;
use crate::blocking::Blocking;

/// A message that nobody reads within this time has failed. Others fail immediately until it has
/// been read.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exports any signal to stdout.
#[derive(Debug)]
pub struct Console {
    /// The resource of spans and logs; metrics bring their own.
    resource: ResourceAttributesWithSchema,
    stdout: Blocking<()>,
}

impl Default for Console {
    fn default() -> Self {
        Console {
            resource: ResourceAttributesWithSchema::default(),
            stdout: Blocking::new("stdout", ()),
        }
    }
}

impl Console {
    /// Prints a message.
    ///
    /// # Errors
    ///
    /// If stdout is closed or full, or nobody reads it.
    async fn print(&self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let write = move |(): &mut ()| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&line).and_then(|()| stdout.flush())
        };
        self.stdout.run(PATIENCE, write).await.flatten()
    }

    async fn print_batch(&self, batch: &impl Serialize) -> OTelSdkResult {
        let printed = self.print(batch).await;
        printed.map_err(|error| OTelSdkError::InternalFailure(format!("stdout: {error}")))
    }
}

impl Exporter for Console {
    async fn export(&self, collected: &Collected, _: &Notify) -> Result<(), NotAccepted> {
        let parts: Vec<_> = collected.parts().collect();
        let printed = self.print(&otlp::merged(&parts)).await;
        printed.map_err(|error| NotAccepted {
            reason: error.to_string(),
            is_answered: false,
        })
    }

    fn shutdown(&self) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

impl SpanExporter for Console {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let batch = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        self.print_batch(&batch).await
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

impl LogExporter for Console {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let batch = ExportLogsServiceRequest {
            resource_logs: group_logs_by_resource_and_scope(&batch, &self.resource),
        };
        self.print_batch(&batch).await
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}
