//! OTLP exporters, configured by the standard settings.
//!
//! Metrics are exported by [`Delivery`]; traces and logs by `opentelemetry-otlp`, or, over gRPC, by
//! [`Spans`] and [`Logs`].

mod answer;
mod attributes;
mod delivery;
mod details;
mod first_push;
mod ledger;
mod message;
mod point;
mod probe;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod round;
mod saved;
mod series;
mod signals;
mod transport;
mod value;

use std::collections::HashMap;

use opentelemetry_otlp::{
    Compression, LogExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret as _;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::Error;
use crate::rotation::{Headers, Rotating};
use crate::settings::{self, Otlp, OtlpHeaders};
pub use delivery::{Delivery, DeliveryConfig, PointCounts, PointsOf};
pub(super) use first_push::{first_push, merged};
pub use probe::{Refusal, probe};
pub use saved::DeliveredFile;
pub use signals::{Logs, Spans};

/// The exporter for the agent's own spans. Must be called within a tokio runtime.
///
/// # Errors
///
/// If the settings contradict each other.
pub fn traces(otlp: &Otlp) -> Result<Spans, Error> {
    if otlp.protocol == settings::Protocol::Grpc {
        return Spans::over_grpc(otlp);
    }
    let exporter = http(SpanExporter::builder().with_http(), otlp)?.build();
    exporter
        .map(Spans::Http)
        .map_err(|error| Error::Otlp(error.to_string()))
}

/// The exporter for the agent's own logs. Must be called within a tokio runtime.
///
/// # Errors
///
/// If the settings contradict each other.
pub fn logs(otlp: &Otlp) -> Result<Logs, Error> {
    if otlp.protocol == settings::Protocol::Grpc {
        return Logs::over_grpc(otlp);
    }
    let exporter = http(LogExporter::builder().with_http(), otlp)?.build();
    exporter
        .map(Logs::Http)
        .map_err(|error| Error::Otlp(error.to_string()))
}

fn http<B: WithExportConfig + WithHttpConfig>(builder: B, otlp: &Otlp) -> Result<B, Error> {
    let headers: HashMap<_, _> = otlp
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.expose_secret().to_owned()))
        .collect();
    let builder = builder
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(otlp.endpoint.as_str())
        .with_timeout(otlp.timeout)
        .with_http_client(http_client(otlp)?)
        .with_headers(headers);
    Ok(match otlp.compression {
        settings::Compression::Gzip => builder.with_compression(Compression::Gzip),
        settings::Compression::None => builder,
    })
}

fn http_client(otlp: &Otlp) -> Result<reqwest::Client, Error> {
    let unusable =
        |setting: &str, error: reqwest::Error| Error::Otlp(format!("{setting}: {error}"));
    let mut client = reqwest::Client::builder()
        .timeout(otlp.timeout)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(pem) = &otlp.certificate {
        let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
            .map_err(|error| unusable("OTEL_EXPORTER_OTLP_CERTIFICATE", error))?;
        client = client.tls_certs_only(certificates);
    }
    if let Some(own) = &otlp.own_certificate {
        let identity = settings::identity(own)
            .map_err(|error| unusable("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", error))?;
        client = client.identity(identity);
    }
    client
        .build()
        .map_err(|error| unusable("OTEL_EXPORTER_OTLP_CERTIFICATE", error))
}

/// The headers (for gRPC, the metadata) from the settings, which are read again if they are in a
/// file.
fn rotating(otlp: &Otlp) -> Rotating {
    let reload = otlp.reload.as_ref();
    let reload = reload.map(|reload| reload.map(|read| headers(&read)));
    Rotating::new(headers(&otlp.headers), reload)
}

/// Headers from the settings.
fn headers(all: &OtlpHeaders) -> Headers {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        // Names and values were validated with the settings.
        if let (Ok(name), Ok(mut value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value.expose_secret()),
        ) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    Headers::new(headers, None)
}

/// The TLS configuration, if the endpoint is `https://`.
fn grpc_tls(otlp: &Otlp) -> Option<ClientTlsConfig> {
    if otlp.endpoint.scheme() != "https" {
        return None;
    }
    let mut tls = match &otlp.certificate {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    if let Some((certificate, key)) = &otlp.own_certificate {
        tls = tls.identity(Identity::from_pem(certificate, key.expose_secret()));
    }
    Some(tls)
}
