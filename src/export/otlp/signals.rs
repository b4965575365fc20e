//! The exporters of the agent's own spans and logs.
//!
//! Over HTTP, these are the exporters of `opentelemetry-otlp`. Its exporters for gRPC accept only a
//! plain channel, on which an answer with malformed details would end the process (see `details`).

use std::fmt;
use std::future::Future;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use opentelemetry_otlp::{LogExporter as HttpLogs, SpanExporter as HttpSpans};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;

use super::answer::{self, LARGEST_ANSWER};
use super::details::{self, Readable};
use super::transport::channel;
use crate::cause::innermost;
use crate::export::Error;
use crate::rotation::Rotating;
use crate::settings::{Compression, Otlp};

/// A batch is sent at most this many times again.
const RETRIES: usize = 3;

/// Exports spans.
#[derive(Debug)]
pub enum Spans {
    /// Over HTTP.
    Http(HttpSpans),
    /// Over gRPC.
    Grpc(Grpc<TraceServiceClient<Readable>>),
}

/// Exports logs.
#[derive(Debug)]
pub enum Logs {
    /// Over HTTP.
    Http(HttpLogs),
    /// Over gRPC.
    Grpc(Grpc<LogsServiceClient<Readable>>),
}

/// A connection over gRPC.
pub struct Grpc<C> {
    client: C,
    metadata: Rotating,
    timeout: Duration,
    port: Option<u16>,
    resource: ResourceAttributesWithSchema,
}

impl<C> fmt::Debug for Grpc<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grpc").finish_non_exhaustive()
    }
}

fn readable(otlp: &Otlp) -> Result<Readable, Error> {
    let channel = channel(otlp).map_err(|error| Error::Otlp(innermost(&error)))?;
    Ok(details::readable(channel))
}

impl Spans {
    pub(super) fn over_grpc(otlp: &Otlp) -> Result<Self, Error> {
        let mut client = TraceServiceClient::new(readable(otlp)?)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(LARGEST_ANSWER);
        if otlp.compression == Compression::Gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        Ok(Spans::Grpc(Grpc::new(client, otlp)))
    }
}

impl Logs {
    pub(super) fn over_grpc(otlp: &Otlp) -> Result<Self, Error> {
        let mut client = LogsServiceClient::new(readable(otlp)?)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(LARGEST_ANSWER);
        if otlp.compression == Compression::Gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        Ok(Logs::Grpc(Grpc::new(client, otlp)))
    }
}

impl<C: Clone> Grpc<C> {
    fn new(client: C, otlp: &Otlp) -> Self {
        Grpc {
            client,
            metadata: super::rotating(otlp),
            timeout: otlp.timeout,
            port: otlp.endpoint.port(),
            resource: ResourceAttributesWithSchema::default(),
        }
    }

    /// Sends a message by `export`, with retries, within the timeout.
    async fn send<M: Clone, F>(
        &self,
        message: M,
        export: impl Fn(C, tonic::Request<M>) -> F,
    ) -> OTelSdkResult
    where
        F: Future<Output = Result<(), Status>>,
    {
        self.metadata.refresh().await;
        let attempt = || {
            let mut request = tonic::Request::new(message.clone());
            let metadata = self.metadata.current().map.clone();
            *request.metadata_mut() = MetadataMap::from_headers(metadata);
            request.set_timeout(self.timeout);
            export(self.client.clone(), request)
        };
        let backoff = ExponentialBuilder::default().with_max_times(RETRIES);
        let sent = attempt
            .retry(backoff.with_jitter())
            .when(|status: &Status| answer::is_transient(status.code()));
        match tokio::time::timeout(self.timeout, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                let failure = answer::status(&status, self.port).to_string();
                let secrets = &self.metadata.current().secrets;
                Err(OTelSdkError::InternalFailure(secrets.hidden(&failure)))
            }
            Err(_) => Err(OTelSdkError::Timeout(self.timeout)),
        }
    }
}

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let grpc = match self {
            Spans::Http(http) => return http.export(batch).await,
            Spans::Grpc(grpc) => grpc,
        };
        let message = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &grpc.resource),
        };
        let export = |mut client: TraceServiceClient<Readable>, request| async move {
            client.export(request).await.map(drop)
        };
        grpc.send(message, export).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        match self {
            Spans::Http(http) => http.shutdown_with_timeout(timeout),
            Spans::Grpc(_) => Ok(()),
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        match self {
            Spans::Http(http) => http.set_resource(resource),
            Spans::Grpc(grpc) => grpc.resource = resource.into(),
        }
    }
}

impl LogExporter for Logs {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let grpc = match self {
            Logs::Http(http) => return http.export(batch).await,
            Logs::Grpc(grpc) => grpc,
        };
        let message = ExportLogsServiceRequest {
            resource_logs: group_logs_by_resource_and_scope(&batch, &grpc.resource),
        };
        let export = |mut client: LogsServiceClient<Readable>, request| async move {
            client.export(request).await.map(drop)
        };
        grpc.send(message, export).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        match self {
            Logs::Http(http) => http.shutdown_with_timeout(timeout),
            Logs::Grpc(_) => Ok(()),
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        match self {
            Logs::Http(http) => http.set_resource(resource),
            Logs::Grpc(grpc) => grpc.resource = resource.into(),
        }
    }
}
