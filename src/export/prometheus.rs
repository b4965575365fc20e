//! The Prometheus bridge: the text of `/metrics`, rendered whenever metrics are published.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use jiff::Timestamp;
use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{Encoder as _, Registry, TextEncoder};

use super::histograms::Outlet;
use super::reader;
use super::shown::Shown;
use super::{Delivered, Error};
use crate::core::clock::before;

/// The content type of the text format.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text of `/metrics` as last rendered.
#[derive(Debug, Clone, Default)]
pub struct Page {
    rendered: Arc<RwLock<Rendered>>,
    shown: Shown,
}

#[derive(Debug, Clone, Default)]
struct Rendered {
    text: Bytes,
    /// The number of the state that it shows.
    number: u64,
}

impl Page {
    /// Returns the text for a scrape. Its state then counts as delivered.
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
    histograms: Arc<Outlet>,
    page: Page,
}

impl Bridge {
    pub(super) fn new(histograms: Arc<Outlet>) -> Result<(Self, PrometheusExporter), Error> {
        let registry = Registry::new();
        let reader = reader::bridge(&registry, true)?;
        Ok((
            Bridge {
                registry,
                histograms,
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

    /// When it was last scraped.
    pub(super) fn delivered(&self) -> Delivered {
        let scraped = self.page.shown.since();
        Delivered {
            name: "prometheus",
            target: "/metrics".to_owned(),
            pushes: None,
            last_success: scraped.map(|since| before(Timestamp::now(), since)),
            last_error: None,
            failing_since: None,
        }
    }

    /// Renders the current values of the instruments, which are those of state `number`.
    pub(super) fn render(&self, number: u64) {
        let mut text = Vec::with_capacity(self.page.len());
        let mut families = self.registry.gather();
        families.extend(self.histograms.gather());
        families.sort_by(|one, other| one.name().cmp(other.name()));
        match TextEncoder::new().encode(&families, &mut text) {
            Ok(()) => self.page.set(text, number),
            Err(error) => {
                tracing::error!(%error, "cannot render /metrics; the previous text is served")
            }
        }
    }
}
