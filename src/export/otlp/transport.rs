//! The transports: HTTP with `reqwest`, gRPC with the generated client.

use std::borrow::Cow;
use std::error::Error as _;
use std::io::Write as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use prost::Message as _;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, SERVER,
    USER_AGENT,
};
use reqwest::{Client, Response, Url};
use secrecy::ExposeSecret as _;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, TimeoutExpired};

use super::answer::{self, Accepted, Failure, Refusal, Then};
use super::details::{self, Readable};
use crate::cause::innermost;
use crate::export::Error;
use crate::secrets::Secrets;
use crate::settings::{Compression, Otlp, Protocol};

/// The maximum size of an answer, as the specification recommends.
/// <https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Sends messages to one receiver.
pub(super) enum Transport {
    Http(Http),
    Grpc(Grpc),
}

pub(super) struct Http {
    client: Client,
    url: Url,
    headers: HeaderMap,
    gzip: bool,
    secrets: Secrets,
}

pub(super) struct Grpc {
    client: MetricsServiceClient<Readable>,
    metadata: MetadataMap,
    port: Option<u16>,
    secrets: Secrets,
}

/// A message that is ready to be sent, for the first attempt and for retries.
pub(super) enum Prepared<'a> {
    Body(Bytes),
    Request(&'a ExportMetricsServiceRequest),
}

impl Transport {
    /// A transport according to the settings. It connects with the first message. Must be called
    /// within a tokio runtime.
    pub(super) fn new(otlp: &Otlp) -> Result<Self, Error> {
        let gzip = otlp.compression == Compression::Gzip;
        Ok(match otlp.protocol {
            Protocol::HttpProtobuf => {
                let mut headers = HeaderMap::from_iter([
                    (USER_AGENT, HeaderValue::from_static(AGENT)),
                    (
                        CONTENT_TYPE,
                        HeaderValue::from_static("application/x-protobuf"),
                    ),
                ]);
                if gzip {
                    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                }
                // Configured headers take precedence.
                headers.extend(super::headers(otlp));
                Transport::Http(Http {
                    client: super::http_client(otlp)?,
                    url: otlp.endpoint.clone(),
                    headers,
                    gzip,
                    secrets: secrets_of(otlp),
                })
            }
            Protocol::Grpc => {
                let channel = channel(otlp).map_err(|error| Error::Otlp(innermost(&error)))?;
                let mut client = MetricsServiceClient::new(details::readable(channel))
                    .accept_compressed(CompressionEncoding::Gzip)
                    .max_decoding_message_size(LARGEST_ANSWER);
                if gzip {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                Transport::Grpc(Grpc {
                    client,
                    metadata: MetadataMap::from_headers(super::headers(otlp)),
                    port: otlp.endpoint.port(),
                    secrets: secrets_of(otlp),
                })
            }
        })
    }

    /// Encodes and compresses a message once for all attempts, if the transport allows it.
    pub(super) async fn prepare<'a>(
        &self,
        request: &'a ExportMetricsServiceRequest,
    ) -> Result<Prepared<'a>, Failure> {
        let Transport::Http(http) = self else {
            return Ok(Prepared::Request(request));
        };
        let body = request.encode_to_vec();
        if !http.gzip {
            return Ok(Prepared::Body(body.into()));
        }
        // Compressing megabytes would block the runtime's threads.
        let compressed = tokio::task::spawn_blocking(move || {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&body)?;
            encoder.finish()
        });
        match compressed.await {
            Ok(Ok(body)) => Ok(Prepared::Body(body.into())),
            Ok(Err(error)) => Err(cannot_compress(&error)),
            Err(error) => Err(cannot_compress(&error)),
        }
    }

    /// Sends a message once. If no answer arrives within `patience`, that is a failure.
    pub(super) async fn send(
        &self,
        message: &Prepared<'_>,
        patience: Duration,
    ) -> Result<Accepted, Failure> {
        let sent = async {
            match (self, message) {
                (Transport::Http(http), Prepared::Body(body)) => {
                    http.send(body.clone(), patience).await
                }
                (Transport::Grpc(grpc), Prepared::Request(request)) => {
                    grpc.send((*request).clone(), patience).await
                }
                // The message was prepared by another transport.
                _ => Err(Failure {
                    cause: "the message was prepared for another protocol".to_owned(),
                    hint: None,
                    then: Then::Stop,
                }),
            }
        };
        let answer = tokio::time::timeout(patience, sent).await;
        answer.unwrap_or_else(|_| Err(too_late(patience)))
    }
}

pub(super) fn too_late(patience: Duration) -> Failure {
    let milliseconds = patience.as_millis();
    Failure {
        cause: format!("no answer within {milliseconds} ms"),
        hint: Some(Cow::Borrowed("OTEL_EXPORTER_OTLP_TIMEOUT sets the timeout")),
        then: Then::Retry,
    }
}

/// The secrets that are sent to a receiver.
pub(super) fn secrets_of(otlp: &Otlp) -> Secrets {
    let values = otlp.headers.iter();
    Secrets::of(values.map(|(_, value)| value.expose_secret()))
}

fn cannot_compress(error: &dyn std::fmt::Display) -> Failure {
    Failure {
        cause: format!("cannot compress the message: {error}"),
        hint: None,
        then: Then::Next,
    }
}

impl Http {
    async fn send(&self, body: Bytes, patience: Duration) -> Result<Accepted, Failure> {
        let no_answer = |error: reqwest::Error| match error.is_timeout() && !error.is_connect() {
            true => too_late(patience),
            false => answer::transport(&error, Protocol::HttpProtobuf, self.url.port()),
        };
        let request = self.client.post(self.url.clone());
        let request = request.headers(self.headers.clone()).body(body);
        let response = request.send().await.map_err(no_answer)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let content_type = header(CONTENT_TYPE).unwrap_or_default();
        let mut body = read(response).await.map_err(no_answer)?;
        self.secrets.hide(&mut body);
        let server = header(SERVER).map(|server| self.secrets.hidden(server));
        if status.is_success() {
            let accepted = answer::accepted(content_type, &body)?;
            return Ok(Accepted { server, ..accepted });
        }
        let location = header(LOCATION).filter(|_| status.is_redirection());
        let location = location.map(|location| self.secrets.hidden(location));
        Err(answer::refused(&Refusal {
            status: status.as_u16(),
            retry_after: header(RETRY_AFTER),
            location: location.as_deref(),
            server: server.as_deref(),
            content_type,
            body: &body,
        }))
    }
}

/// Reads an answer up to the limit. A longer one is cut off, and fails to decode.
async fn read(mut response: Response) -> Result<BytesMut, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        let room = LARGEST_ANSWER.saturating_sub(body.len());
        let Some(beginning) = chunk.get(..room) else {
            body.extend_from_slice(&chunk);
            continue;
        };
        body.extend_from_slice(beginning);
        break;
    }
    Ok(body)
}

impl Grpc {
    async fn send(
        &self,
        message: ExportMetricsServiceRequest,
        patience: Duration,
    ) -> Result<Accepted, Failure> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(patience);
        let mut answer = match self.client.clone().export(request).await {
            Ok(response) => Ok(Accepted::from(response.into_inner())),
            // tonic has the same timeout, and may be the first to report it.
            Err(status) if is_timeout(&status) => Err(too_late(patience)),
            Err(status) => Err(answer::status(&status, self.port)),
        };
        let (Ok(Accepted { message: text, .. }) | Err(Failure { cause: text, .. })) = &mut answer;
        *text = self.secrets.hidden(text);
        answer
    }
}

fn is_timeout(status: &Status) -> bool {
    let mut causes = std::iter::successors(status.source(), |cause| (*cause).source());
    causes.any(|cause| cause.is::<TimeoutExpired>())
}

pub(super) fn channel(otlp: &Otlp) -> Result<Channel, tonic::transport::Error> {
    let mut endpoint = Endpoint::from_shared(otlp.endpoint.to_string())?.user_agent(AGENT)?;
    if let Some(tls) = super::grpc_tls(otlp) {
        endpoint = endpoint.tls_config(tls)?;
    }
    // A receiver that cannot be connected to fails within one push.
    Ok(endpoint.connect_timeout(otlp.timeout).connect_lazy())
}
