//! Asks a receiver whether it takes OTLP, with a message that has nothing in it.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tonic::metadata::MetadataMap;

use super::answer::{self, Accepted, Failure, Then};
use super::details;
use super::transport::{self, Transport};
use crate::cause::innermost;
use crate::settings::{Otlp, Protocol, Signal};

/// Why a receiver does not take OTLP.
#[derive(Debug)]
pub struct Refusal {
    /// What went wrong.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<Cow<'static, str>>,
}

/// Sends an empty message of `signal` once, and says what answered.
///
/// # Errors
///
/// When there is no answer within `patience`, or one that does not accept it.
pub async fn probe(otlp: &Otlp, signal: Signal, patience: Duration) -> Result<String, Refusal> {
    let patience = patience.min(otlp.timeout);
    let otlp = Otlp {
        timeout: patience,
        ..otlp.clone()
    };
    let sent = match (otlp.protocol, signal) {
        // An empty message is the same for every signal, and so is its answer.
        (Protocol::HttpProtobuf, _) | (Protocol::Grpc, Signal::Metrics) => {
            through_transport(&otlp, patience).await
        }
        (Protocol::Grpc, Signal::Traces | Signal::Logs) => over_grpc(&otlp, signal).await,
    };
    let accepted = sent.map_err(|failure| Refusal {
        hint: lacking(signal, &failure.cause).or(failure.hint),
        reason: failure.cause,
    })?;
    let mut answer = match otlp.protocol {
        Protocol::HttpProtobuf => "HTTP 200".to_owned(),
        Protocol::Grpc => "gRPC OK".to_owned(),
    };
    if let Some(server) = accepted.server {
        answer += &format!(" of {server}");
    }
    if !accepted.message.is_empty() {
        answer += &format!(": {}", accepted.message);
    }
    Ok(answer)
}

/// What to do about a receiver of metrics that takes nothing else, as a collector without another
/// pipeline.
fn lacking(signal: Signal, cause: &str) -> Option<Cow<'static, str>> {
    let is_lacking = ["HTTP 404", "gRPC Unimplemented"];
    let is_lacking = is_lacking.iter().any(|start| cause.starts_with(start));
    let (what, setting) = match signal {
        Signal::Metrics => return None,
        Signal::Traces => ("traces", "OTEL_TRACES_EXPORTER"),
        Signal::Logs => ("logs", "OTEL_LOGS_EXPORTER"),
    };
    is_lacking.then(|| {
        Cow::Owned(format!(
            "add a pipeline for {what} to the collector, or set {setting}=none"
        ))
    })
}

async fn through_transport(otlp: &Otlp, patience: Duration) -> Result<Accepted, Failure> {
    let transport = Transport::new(otlp).map_err(|error| unusable(&error))?;
    let empty = ExportMetricsServiceRequest::default();
    let message = transport.prepare(&empty).await?;
    transport.send(&message, patience).await
}

async fn over_grpc(otlp: &Otlp, signal: Signal) -> Result<Accepted, Failure> {
    let channel = transport::channel(otlp).map_err(|error| unusable(&error))?;
    let channel = details::readable(channel);
    let sent = async {
        match signal {
            Signal::Logs => {
                let request = request(otlp, ExportLogsServiceRequest::default());
                let answer = LogsServiceClient::new(channel).export(request).await;
                answer.map(drop)
            }
            _ => {
                let request = request(otlp, ExportTraceServiceRequest::default());
                let answer = TraceServiceClient::new(channel).export(request).await;
                answer.map(drop)
            }
        }
    };
    let answer = match tokio::time::timeout(otlp.timeout, sent).await {
        Ok(answer) => answer,
        Err(_) => return Err(transport::too_late(otlp.timeout)),
    };
    match answer {
        Ok(()) => Ok(Accepted::default()),
        Err(status) => {
            let mut failure = answer::status(&status, otlp.endpoint.port());
            let secrets = super::headers(&otlp.headers).secrets;
            failure.cause = secrets.hidden(&failure.cause);
            Err(failure)
        }
    }
}

fn request<T>(otlp: &Otlp, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(super::headers(&otlp.headers).map);
    request.set_timeout(otlp.timeout);
    request
}

fn unusable(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure {
        cause: innermost(error),
        hint: None,
        then: Then::Stop,
    }
}
