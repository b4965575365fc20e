//! The Prometheus bridge: the text of `/metrics`, rendered once a cycle.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{Encoder as _, Registry, TextEncoder};

use super::Error;
use super::shown::Shown;

/// The content type of the text format.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text of `/metrics` as rendered last.
#[derive(Debug, Clone, Default)]
pub struct Page {
    rendered: Arc<RwLock<Rendered>>,
    shown: Shown,
}

#[derive(Debug, Clone, Default)]
struct Rendered {
    text: Bytes,
    /// The state that it shows.
    number: u64,
}

impl Page {
    /// The text, for whoever scrapes it.
    pub fn scrape(&self) -> Bytes {
        let rendered = self
            .rendered
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        self.shown.note(rendered.number);
        rendered.text
    }

    fn len(&self) -> usize {
        let rendered = self.rendered.read();
        let rendered = rendered.unwrap_or_else(PoisonError::into_inner);
        rendered.text.len()
    }

    fn set(&self, text: Vec<u8>, number: u64) {
        let text = Bytes::from(text);
        let mut rendered = self
            .rendered
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *rendered = Rendered { text, number };
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

    /// What has been scraped.
    pub(super) fn shown(&self) -> &Shown {
        &self.page.shown
    }

    /// Renders what the instruments show now, which is state `number`.
    pub(super) fn render(&self, number: u64) {
        let mut text = Vec::with_capacity(self.page.len());
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => self.page.set(text, number),
            Err(error) => {
                tracing::error!(%error, "the page of /metrics cannot be rendered; it stays as it was")
            }
        }
    }
}
