//! The Prometheus bridge: the text of `/metrics`, rendered once a cycle.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{Encoder as _, Registry, TextEncoder};

use super::Error;

/// The content type of the text format.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text of `/metrics` as rendered last.
#[derive(Debug, Clone, Default)]
pub struct Page(Arc<RwLock<Bytes>>);

impl Page {
    /// The text.
    pub fn text(&self) -> Bytes {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, text: Vec<u8>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Bytes::from(text);
    }
}

pub(super) struct Bridge {
    registry: Registry,
    page: Page,
}

impl Bridge {
    pub(super) fn new() -> Result<(Self, PrometheusExporter), Error> {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // There is one scope: its labels would be on every series and tell nothing.
            .scope_info_enabled(false)
            .build()
            .map_err(|error| Error::Prometheus(error.to_string()))?;
        Ok((
            Bridge {
                registry,
                page: Page::default(),
            },
            reader,
        ))
    }

    pub(super) fn page(&self) -> Page {
        self.page.clone()
    }

    pub(super) fn render(&self) {
        let mut text = Vec::with_capacity(self.page.text().len());
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => self.page.set(text),
            Err(error) => {
                tracing::error!(%error, "the page of /metrics cannot be rendered; it stays as it was")
            }
        }
    }
}
