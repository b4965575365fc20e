//! The Prometheus bridge: the text of `/metrics`, rendered whenever metrics are published.

use std::io::Write as _;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use prometheus::{Encoder as _, TextEncoder};
use tokio::task::spawn_blocking;

use super::Delivered;
use super::outlet::Outlets;
use super::shown::Shown;
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

/// A rendered text.
#[derive(Debug, Clone, Default)]
pub struct Rendered {
    text: Bytes,
    /// The text in gzip, once it has been asked for; `None` if it cannot be compressed.
    packed: Arc<OnceLock<Option<Bytes>>>,
    /// The number of the state that it shows.
    number: u64,
}

impl Page {
    /// Returns the text for a scrape. Its state then counts as delivered.
    pub fn scrape(&self) -> Bytes {
        let rendered = self.current();
        self.delivered(&rendered);
        rendered.text
    }

    /// What was rendered last.
    pub fn current(&self) -> Rendered {
        let rendered = self.rendered.read();
        rendered.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that a scrape is answered with this text.
    pub fn delivered(&self, rendered: &Rendered) {
        self.shown.note(rendered.number);
    }

    fn len(&self) -> usize {
        self.current().text.len()
    }

    fn set(&self, text: Vec<u8>, number: u64) {
        let new = Rendered {
            text: Bytes::from(text),
            packed: Arc::default(),
            number,
        };
        let mut rendered = self
            .rendered
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *rendered = new;
    }
}

impl Rendered {
    /// The text.
    pub fn text(&self) -> Bytes {
        self.text.clone()
    }

    /// The text in gzip. It is compressed only once, and not on the threads that run the cycles,
    /// so that scrapes do not slow them down.
    pub async fn gzip(&self) -> Option<Bytes> {
        if let Some(packed) = self.packed.get() {
            return packed.clone();
        }
        let (text, packed) = (self.text.clone(), Arc::clone(&self.packed));
        // Other scrapes that arrive in the meantime wait for the first one.
        let packing = spawn_blocking(move || packed.get_or_init(|| gzip(&text)).clone());
        packing.await.ok().flatten()
    }
}

fn gzip(text: &[u8]) -> Option<Bytes> {
    // Text of this kind is hardly smaller at higher levels, which take much longer.
    let packed = Vec::with_capacity(text.len() / 8);
    let mut encoder = GzEncoder::new(packed, Compression::new(3));
    encoder.write_all(text).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

pub(super) struct Bridge {
    outlets: Outlets,
    page: Page,
}

impl Bridge {
    pub(super) fn new(outlets: Outlets) -> Self {
        Bridge {
            outlets,
            page: Page::default(),
        }
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
        let mut families = self.outlets.gather();
        families.sort_by(|one, other| one.name().cmp(other.name()));
        match TextEncoder::new().encode(&families, &mut text) {
            Ok(()) => self.page.set(text, number),
            Err(error) => {
                tracing::error!(%error, "cannot render /metrics; the previous text is served")
            }
        }
    }
}
