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
use reqwest::{Client, Response, StatusCode, Url};
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, TimeoutExpired};

use super::answer::{self, Accepted, Failure, LARGEST_ANSWER, Refusal, Then};
use super::details::{self, Readable};
use crate::cause::innermost;
use crate::export::Error;
use crate::proxy;
use crate::rotation::{Headers, Rotating};
use crate::settings::{Compression, Otlp, Protocol};

const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Sends messages to one receiver.
pub(super) enum Transport {
    Http(Http),
    Grpc(Grpc),
}

pub(super) struct Http {
    client: Client,
    url: Url,
    /// Those of the protocol. Configured ones take precedence.
    protocol: HeaderMap,
    headers: Rotating,
    gzip: bool,
}

pub(super) struct Grpc {
    client: MetricsServiceClient<Readable>,
    metadata: Rotating,
    port: Option<u16>,
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
                let mut protocol = HeaderMap::from_iter([
                    (USER_AGENT, HeaderValue::from_static(AGENT)),
                    (
                        CONTENT_TYPE,
                        HeaderValue::from_static("application/x-protobuf"),
                    ),
                ]);
                if gzip {
                    protocol.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                }
                Transport::Http(Http {
                    client: super::http_client(otlp)?,
                    url: otlp.endpoint.clone(),
                    protocol,
                    headers: super::rotating(otlp),
                    gzip,
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
                    metadata: super::rotating(otlp),
                    port: otlp.endpoint.port(),
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
                    grpc.send(request, patience).await
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

fn cannot_compress(error: &dyn std::fmt::Display) -> Failure {
    Failure {
        cause: format!("cannot compress the message: {error}"),
        hint: None,
        then: Then::Next,
    }
}

impl Http {
    /// Sends a message, and again if the receiver refuses a secret that has been replaced since.
    async fn send(&self, body: Bytes, patience: Duration) -> Result<Accepted, Failure> {
        let no_answer = |error: reqwest::Error| self.no_answer(&error, patience);
        self.headers.refresh().await;
        let mut used = self.headers.current();
        let mut response = self.post(&used, body.clone()).await.map_err(no_answer)?;
        if response.status() == StatusCode::UNAUTHORIZED && self.headers.renew(&used).await {
            used = self.headers.current();
            response = self.post(&used, body).await.map_err(no_answer)?;
        }
        let secrets = &used.secrets;
        let (status, headers) = (response.status(), response.headers().clone());
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let content_type = header(CONTENT_TYPE).unwrap_or_default();
        let mut body = read(response).await.map_err(no_answer)?;
        secrets.hide(&mut body);
        let server = header(SERVER).map(|server| secrets.hidden(server));
        if status.is_success() {
            let accepted = answer::accepted(content_type, &body)?;
            return Ok(Accepted { server, ..accepted });
        }
        let location = header(LOCATION).filter(|_| status.is_redirection());
        let location = location.map(|location| secrets.hidden(location));
        Err(answer::refused(&Refusal {
            status: status.as_u16(),
            retry_after: header(RETRY_AFTER),
            location: location.as_deref(),
            server: server.as_deref(),
            content_type,
            body: &body,
        }))
    }

    async fn post(&self, headers: &Headers, body: Bytes) -> Result<Response, reqwest::Error> {
        let request = self.client.post(self.url.clone());
        let request = request.headers(self.protocol.clone());
        request.headers(headers.map.clone()).body(body).send().await
    }

    fn no_answer(&self, error: &reqwest::Error, patience: Duration) -> Failure {
        if error.is_timeout() && !error.is_connect() {
            return too_late(patience);
        }
        // A proxy that cannot be reached says nothing about the receiver.
        if error.is_connect()
            && let Some(proxy) = proxy::of(&self.url)
        {
            let cause = innermost(error);
            return Failure {
                cause: format!("cannot connect through the proxy {proxy}: {cause}"),
                hint: Some(Cow::Borrowed(proxy::HINT)),
                then: Then::Retry,
            };
        }
        answer::transport(error, Protocol::HttpProtobuf, self.url.port())
    }
}

/// Reads an answer up to [`LARGEST_ANSWER`]. A longer one is cut off.
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
        message: &ExportMetricsServiceRequest,
        patience: Duration,
    ) -> Result<Accepted, Failure> {
        self.metadata.refresh().await;
        let mut used = self.metadata.current();
        let mut sent = self.export(&used, message.clone(), patience).await;
        let is_refused = |status: &Status| status.code() == Code::Unauthenticated;
        if sent.as_ref().is_err_and(is_refused) && self.metadata.renew(&used).await {
            used = self.metadata.current();
            sent = self.export(&used, message.clone(), patience).await;
        }
        let mut answer = sent.map_err(|status| match is_timeout(&status) {
            // tonic has the same timeout, and may be the first to report it.
            true => too_late(patience),
            false => answer::status(&status, self.port),
        });
        let (Ok(Accepted { message: text, .. }) | Err(Failure { cause: text, .. })) = &mut answer;
        *text = used.secrets.hidden(text);
        answer
    }

    async fn export(
        &self,
        headers: &Headers,
        message: ExportMetricsServiceRequest,
        patience: Duration,
    ) -> Result<Accepted, Status> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(headers.map.clone());
        request.set_timeout(patience);
        let answer = self.client.clone().export(request).await?;
        Ok(Accepted::from(answer.into_inner()))
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
